"""A file becomes a pipeline: what stands in it, what is inherited, what depends on what."""

import subprocess
import sys
from pathlib import Path

import pytest

from vaepipe.compute.base import ModelSpec
from vaepipe.errors import ConfigError, UserError
from vaepipe.pipeline import Pipeline
from vaepipe.pipeline.settings import KINDS, SweepStage, TrainStage

TUNE = """
tune:
  kind: sweep
  over: fit
  trials: 3
  space:
    model.prior: {choice: [{type: standard_normal}, {type: vamp, components: 10}]}
    optimizer.lr: {log_uniform: [1.0e-4, 1.0e-2]}
"""
FINAL = TUNE + "final: {kind: train, settings: tune, epochs: 40, workers: 2}\n"
WINNER = {"model.prior": {"type": "vamp", "components": 20}, "optimizer.lr": 0.5, "epochs": 7}


class TestExample:
    """The file of the documentation."""

    def test_it_has_no_problems(self, read, example):
        pipeline = read(example, whole=True)
        assert list(pipeline.stages) == [
            "digits", "fit", "tune", "final", "score", "codes", "page", "publish",
        ]  # fmt: skip
        assert (pipeline.name, pipeline.seed) == ("mnist-sweep", 7)
        assert pipeline.compute.part("computes").options["workers"] == 1
        assert pipeline.tracking.type == "mlflow"

    def test_every_kind_of_stage_is_in_it(self, read, example):
        kinds = {stage.kind for stage in read(example, whole=True).stages.values()}
        assert kinds == set(KINDS)

    def test_a_family_that_is_not_installed_is_told_with_its_line(self, problems, example):
        found = problems(
            example.replace("type: full_normal", "type: orthogonal_flow_xyz"), whole=True
        )
        ((line, path, message),) = found
        assert line == 1 + example.splitlines().index(
            "      model.family: {choice: [{type: diagonal_normal}, {type: full_normal}]}"
        )
        assert path == "stages.tune.space.model.family.choice.1"
        assert message.startswith("unknown families 'orthogonal_flow_xyz'.")
        assert "install the plugin that provides it" in message

    def test_reading_it_loads_neither_ray_nor_mlflow_nor_optuna(self, example, tmp_path):
        file = tmp_path / "example.yaml"
        file.write_text(example)
        code = (
            "import sys; from pathlib import Path; from vaepipe.pipeline import read; "
            f"read(Path({str(file)!r})); "
            "print([m for m in ('ray', 'mlflow', 'optuna') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("[]\n", "")


class TestPipeline:
    def test_it_is_frozen(self, read):
        with pytest.raises(ValueError, match="frozen"):
            read().seed = 3

    def test_what_is_not_said_has_defaults(self, read):
        fit = read().stages["fit"]
        assert (fit.batch_size, fit.workers, fit.patience) == (128, None, None)
        assert (fit.optimizer.type, fit.optimizer.lr) == ("adam", 1e-3)
        assert fit.validation.model_dump() == {"examples": 2000, "k": 16, "every": 1}
        assert fit.objective.part("objectives").options["samples"] == 1

    def test_the_path_is_the_files(self, read, tmp_path):
        assert read().path == tmp_path / "pipeline.yaml"

    def test_a_dotted_path_has_a_line(self, read):
        pipeline = read(TUNE)
        lines = pipeline.path.read_text().splitlines()
        for path, text in [
            ("stages.fit", "  fit:"),
            ("stages.fit.model.prior", "      prior: {type: standard_normal}"),
            ("stages.tune.space", "    space:"),
            (
                "stages.tune.space.optimizer.lr",
                "      optimizer.lr: {log_uniform: [1.0e-4, 1.0e-2]}",
            ),
        ]:
            assert lines[pipeline.line(path) - 1] == text

    def test_the_model_is_plain_data_for_workers(self, read):
        spec = read().stages["fit"].model.spec()
        assert spec.latent_shape == (8,)
        assert spec.encoder.options["hidden"] == [64]
        assert ModelSpec.from_dict(spec.to_dict()) == spec

    def test_a_component_knows_its_group(self, read):
        with pytest.raises(LookupError, match="one of the datasets, not of the priors"):
            read().stages["digits"].dataset.part("priors")

    def test_a_pipeline_can_be_made_without_a_file(self, small):
        assert Pipeline.model_validate(small).train_settings("fit").epochs == 3

    def test_numbers_may_be_written_with_an_exponent(self, read):
        assert read("other: {kind: train, settings: fit, optimizer: {lr: 1e-4}}").stages[
            "other"
        ].optimizer.lr == pytest.approx(1e-4)


class TestReferences:
    def test_they_come_in_the_order_of_the_fields(self, read, example):
        pipeline = read(example, whole=True)
        assert pipeline.references("digits") == ()
        assert pipeline.references("fit") == ("digits",)
        assert pipeline.references("tune") == ("fit",)
        assert pipeline.references("final") == ("tune", "digits")
        assert pipeline.references("page") == ("tune", "final", "score", "codes")

    def test_a_requirement_is_a_reference(self, read):
        pipeline = read("""
            score: {kind: evaluate, model: fit, data: digits}
            publish:
              kind: register
              model: fit
              name: digits
              requires: {score/log_evidence: {at_least: -50}, score/test/rate: {at_most: 30}}
            """)
        assert pipeline.references("publish") == ("fit", "score")

    def test_sweeps_on_the_way(self, read):
        pipeline = read(
            FINAL + "tune2: {kind: sweep, over: final, trials: 2, space: {epochs: {choice: [1]}}}\n"
            "last: {kind: train, settings: tune2}\n"
        )
        assert pipeline.sweeps("fit") == ()
        assert pipeline.sweeps("tune") == ()
        assert pipeline.sweeps("final") == ("tune",)
        assert pipeline.sweeps("last") == ("tune2", "tune")


class TestInheritedSettings:
    def test_what_stands_beside_goes_over_them(self, read):
        final = read(FINAL).stages["final"]
        assert isinstance(final, TrainStage)
        assert (final.epochs, final.workers, final.data) == (40, 2, "digits")
        assert final.model == read(FINAL).stages["fit"].model

    def test_a_winner_goes_under_what_stands_beside(self, read):
        final = read(FINAL).train_settings("final", winners={"tune": WINNER})
        assert final.model.prior.part("priors").options["components"] == 20
        assert (final.optimizer.lr, final.epochs) == (0.5, 40)

    def test_overrides_go_over_everything(self, read):
        settings = read(FINAL).train_settings("final", {"epochs": 2}, {"tune": WINNER})
        assert (settings.epochs, settings.optimizer.lr) == (2, 0.5)

    def test_a_chain_of_sweeps(self, read):
        pipeline = read(
            FINAL
            + "tune2: {kind: sweep, over: final, trials: 2, space: {batch_size: {choice: [7]}}}\n"
            "last: {kind: train, settings: tune2, optimizer: {clip: 1.0}}\n"
        )
        last = pipeline.train_settings("last", winners={"tune": WINNER, "tune2": {"batch_size": 7}})
        assert (last.batch_size, last.epochs, last.optimizer.lr) == (7, 40, 0.5)
        assert last.optimizer.clip == 1.0

    def test_a_sweep_has_the_settings_of_its_target(self, read):
        pipeline = read(TUNE)
        assert pipeline.train_settings("tune") == pipeline.train_settings("fit")

    def test_fields_are_merged_but_components_replaced(self, read):
        stage = read("""
            base:
              kind: train
              settings: fit
              optimizer: {type: sgd, momentum: 0.9}
              model: {prior: {type: vamp, components: 10}}
            lower: {kind: train, settings: base, optimizer: {lr: 0.5}}
            other:
              kind: train
              settings: base
              optimizer: {type: adam}
              model: {prior: {type: mixture}}
            """).stages
        assert stage["lower"].optimizer.model_dump()["momentum"] == 0.9
        assert stage["lower"].optimizer.lr == 0.5
        assert stage["other"].optimizer.type == "adam"
        assert "components" in stage["other"].model.prior.part("priors").options

    def test_an_override_that_does_not_fit(self, read):
        with pytest.raises(ConfigError) as caught:
            read().train_settings("fit", {"model.prior.componnts": 3, "epochs": 0})
        first, second = caught.value.problems
        assert first.path == "stages.fit.model.prior.componnts"
        assert first.line == 8
        assert (second.path, second.message) == ("stages.fit.epochs", "must be at least 1, got 0")

    def test_an_override_through_a_number(self, read):
        with pytest.raises(ConfigError, match="'epochs' is 3, which has no fields"):
            read().train_settings("fit", {"epochs.first": 3})

    def test_other_stages_have_no_settings_of_a_fit(self, read):
        with pytest.raises(UserError, match="'digits' is neither a train stage nor a sweep"):
            read().train_settings("digits")


class TestIdentity:
    def test_it_names_versions_of_components(self, read):
        identity = read().identity("fit")
        assert identity["components"] == [read().stages["fit"].objective.spec.requirement]
        assert identity["epochs"] == 3

    def test_of_a_sweep_it_holds_the_fit_and_the_space(self, read):
        identity = read(TUNE).identity("tune")
        assert identity["fit"]["epochs"] == 3
        assert identity["space"]["optimizer.lr"] == {"log_uniform": [1e-4, 1e-2]}

    def test_defaults_written_out_change_nothing(self, read):
        written = read("other: {kind: train, settings: fit, batch_size: 128}").identity("other")
        assert written == read().identity("fit")


class TestSet:
    def test_a_field_is_set_over_the_file(self, read):
        pipeline = read(sets=["stages.fit.epochs=9", "seed=3", "name=other"])
        assert (pipeline.stages["fit"].epochs, pipeline.seed, pipeline.name) == (9, 3, "other")

    def test_a_stage_may_stand_first(self, read):
        assert read(sets=["fit.optimizer.lr=1e-2"]).stages["fit"].optimizer.lr == 0.01

    def test_values_are_yaml(self, read):
        model = (
            read(
                sets=["fit.model.prior={type: vamp, components: 7}", "fit.model.encoder.hidden.0=3"]
            )
            .stages["fit"]
            .model
        )
        assert model.prior.part("priors").options["components"] == 7
        assert model.encoder.part("networks").options["hidden"] == [3]

    def test_a_search_can_be_set_and_added(self, read):
        sets = [
            "tune.space.optimizer.lr={uniform: [0.1, 0.2]}",
            "stages.tune.space.batch_size={choice: [8, 16]}",
            "tune.space.model.prior.choice.1.components=99",
            "tune.space.model.latent_shape={choice: [[2], [4]]}",
        ]
        tune = read(TUNE, sets).stages["tune"]
        assert isinstance(tune, SweepStage)
        assert list(tune.space) == [
            "model.prior", "optimizer.lr", "batch_size", "model.latent_shape",
        ]  # fmt: skip
        assert tune.space["optimizer.lr"] == {"uniform": [0.1, 0.2]}
        assert tune.space["model.prior"]["choice"][1]["components"] == 99

    def test_what_an_alias_shares_elsewhere_stays(self, read):
        model = "{encoder: &e {type: mlp, hidden: [1]}, decoder: *e}"
        text = f"a: {{kind: train, settings: fit, model: {model}}}"
        model = read(text, ["a.model.encoder.hidden=[2]"]).stages["a"].model
        assert model.encoder.part("networks").options["hidden"] == [2]
        assert model.decoder.part("networks").options["hidden"] == [1]

    @pytest.mark.parametrize(
        ("text", "path", "message"),
        [
            ("fit.epochs", "fit.epochs", "expected a.b=value, got 'fit.epochs'"),
            ("=3", "", "expected a.b=value, got '=3'"),
            ("fit..epochs=3", "fit..epochs", "expected a.b=value, got 'fit..epochs=3'"),
            (
                "stages.fti.epochs=3",
                "stages.fti.epochs",
                "unknown stage 'fti'. Did you mean 'fit'?",
            ),
            ("fit.epochs=ten", "stages.fit.epochs", "expected an integer, got 'ten'"),
            ("fit.epcohs=3", "stages.fit.epcohs", "unknown field 'epcohs'. Did you mean 'epochs'?"),
            ("fit.epochs.of=3", "fit.epochs.of", "there is no 'of' in 3"),
            ("fit.epochs=[3", "fit.epochs", "'[3' is not valid YAML; quote text"),
            ("sede=3", "sede", "unknown field 'sede'. Did you mean 'seed'?"),
        ],
    )
    def test_its_mistakes_are_told_as_its_own(self, problems, text, path, message):
        assert problems(sets=[text]) == [(None, path, message)]

    def test_they_come_after_those_of_the_file(self, read):
        with pytest.raises(ConfigError) as caught:
            read("bad: {kind: dta}", ["fit.epochs=0"])
        assert (
            str(caught.value).splitlines()[1]
            == "--set: stages.fit.epochs: must be at least 1, got 0"
        )

    def test_it_can_put_a_mistake_right(self, read):
        text = "bad: {kind: train, settings: fit, epochs: ten}"
        assert read(text, ["bad.epochs=10"]).stages["bad"].epochs == 10

    def test_an_unknown_component_that_is_set(self, problems):
        ((line, path, message),) = problems(sets=["fit.model.prior.type=vmap"])
        assert (line, path) == (None, "stages.fit.model.prior")
        assert "Did you mean 'vamp'?" in message


class TestPaths:
    FILE = """
version: 1
name: rows
compute: {type: local}
tracking: {type: memory}
stages:
  rows: {kind: data, dataset: {type: parquet, support: real, path: PATH}}
"""

    @pytest.mark.parametrize("path", ["rows", "./rows/*.parquet", "../rows"])
    def test_they_are_made_absolute(self, read, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        part = read(self.FILE.replace("PATH", path), whole=True).stages["rows"].dataset
        assert part.part("datasets").options["path"] == str(tmp_path / path)

    @pytest.mark.parametrize("path", ["s3://bucket//rows/*.parquet", "file:///rows", "/rows"])
    def test_addresses_stay_as_they_are(self, read, path):
        part = read(self.FILE.replace("PATH", path), whole=True).stages["rows"].dataset
        assert part.part("datasets").options["path"] == path

    def test_the_home_folder(self, read, monkeypatch):
        monkeypatch.setenv("HOME", "/home/somebody")
        part = read(self.FILE.replace("PATH", "~/rows"), whole=True).stages["rows"].dataset
        assert part.part("datasets").options["path"] == "/home/somebody/rows"


def test_the_public_names():
    import vaepipe.pipeline as package

    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
    assert Path(package.__file__).name == "__init__.py"
