"""Plugins that are really installed: found by name, checked by signature, told when broken."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vaepipe import cli, options, registry
from vaepipe.core import SUPPORTS, DataSpec
from vaepipe.errors import PluginError, UnknownComponent
from vaepipe.registry import PartSpec

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixture_plugins"


def install(folder, target, *names):
    """Install distributions as a user would, without a network."""
    sources = folder / "sources"
    for name in names:
        shutil.copytree(FIXTURES / name, sources / name)
    pip = "pip install -q --no-deps --no-build-isolation --no-index --disable-pip-version-check"
    places = [str(sources / name) for name in names]
    command = [sys.executable, "-m", *pip.split(), "--target", str(target), *places]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Two places: one holds the good plugin, the other all the bad ones."""
    good, bad = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("bad")
    return (
        install(good, good / "site", "good"),
        install(bad, bad / "site", "duplicate_name", "broken_import", "kwargs"),
    )


@pytest.fixture
def good(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed[0]))


@pytest.fixture
def bad(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed[1]))


def with_prior(prior):
    return f"other: {{kind: train, settings: fit, model: {{prior: {prior}}}}}"


def run(installed, *args):
    """The command line in a process of its own; what it printed, and what it imported."""
    code = (
        f"import sys; from vaepipe import cli; code = cli.call({list(args)!r}); "
        "print(code, *sorted(sys.modules), file=sys.stderr)"
    )
    path = os.pathsep.join([*map(str, installed), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    told, _, modules = done.stderr.rstrip("\n").rpartition("\n")
    return done.stdout, told, modules.split()


class TestGood:
    def test_a_file_uses_it_by_its_name(self, good, read):
        part = read(with_prior("{type: laplace, scale: 2}")).stages["other"].model.prior.spec
        assert part.options == {"scale": 2.0, "learned": False, "tails": "heavy"}
        assert part.requirement == "vaepipe-fixture-good==1.2.0"

    def test_workers_build_it_from_plain_data(self, good):
        part = options.validate(registry.part("priors", "laplace", {"scale": 2}))
        spec = DataSpec((4,), SUPPORTS["boolean"], 10)
        prior = PartSpec.from_dict(json.loads(json.dumps(part.to_dict()))).build((3,), spec)
        draw = prior(None)
        assert draw.z.event_shape == (3,)
        assert draw.z.base_dist.scale.tolist() == pytest.approx([2.0] * 3)

    def test_its_options_are_checked_where_they_stand(self, good, problems):
        found = problems(with_prior("{type: laplace, scale: 0, tials: heavy}"))
        assert found == [
            (20, "stages.other.model.prior.scale", "must be greater than 0, got 0"),
            (
                20,
                "stages.other.model.prior.tials",
                "unknown field 'tials'. Did you mean 'tails'?",
            ),
        ]

    def test_it_is_searched_like_any_other(self, good, read):
        pipeline = read("""
            tune:
              kind: sweep
              over: fit
              trials: 2
              space: {model.prior: {choice: [{type: laplace, scale: {uniform: [1, 2]}}]}}
            """)
        settings = pipeline.train_settings("fit", {"model.prior": {"type": "laplace"}})
        assert settings.model.prior.type == "laplace"
        assert "vaepipe-fixture-good==1.2.0" in pipeline.identity("tune")["components"]

    def test_it_is_offered_where_a_name_is_wrong(self, good):
        with pytest.raises(
            UnknownComponent, match=r"Did you mean 'laplace'\? Installed: .*laplace"
        ):
            registry.find("priors", "laplac")

    def test_without_it_its_name_is_unknown(self, read, problems):
        ((_, path, message),) = problems(with_prior("{type: laplace}"))
        assert path == "stages.other.model.prior"
        assert message.startswith("unknown priors 'laplace'. Installed:")


class TestTwoOfOneName:
    def test_an_error_names_both(self, good, bad):
        with pytest.raises(PluginError) as caught:
            registry.find("priors", "laplace")
        assert str(caught.value) == (
            "priors 'laplace' is claimed by 2 distributions: vaepipe-fixture-duplicate, "
            "vaepipe-fixture-good. Pin one, as in 'vaepipe-fixture-duplicate:laplace', or "
            "uninstall the other."
        )

    @pytest.mark.parametrize("name", ["vaepipe-fixture-duplicate", "vaepipe_fixture_duplicate"])
    def test_a_pin_chooses(self, good, bad, read, name):
        one = read(with_prior(f"{{type: '{name}:laplace', rate: 3}}")).stages["other"].model.prior
        other = read(with_prior("{type: 'vaepipe-fixture-good:laplace', scale: 3}"))
        assert one.spec.options == {"rate": 3.0}
        assert other.stages["other"].model.prior.spec.options["scale"] == 3.0

    def test_a_file_that_uses_neither_is_not_concerned(self, good, bad, read):
        assert read().name == "digits-vae"


BROKEN = [
    ("broken", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
    ("absent", "ModuleNotFoundError: No module named 'vaepipe_fixture_broken_absent'"),
    ("misnamed", "has no attribute 'NoSuchPrior'"),
    ("function", "is not a class"),
]


class TestBroken:
    @pytest.mark.parametrize(("name", "reason"), BROKEN)
    def test_one_that_is_used_is_told_with_its_distribution(self, bad, read, name, reason):
        with pytest.raises(PluginError) as caught:
            read(with_prior(f"{{type: {name}}}"))
        for part in (f"priors '{name}'", "vaepipe-fixture-broken==2.0.1", reason):
            assert part in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("kwargs", "vaepipe_fixture_kwargs:KwargsPrior takes '**kwargs'"),
            ("bare", "vaepipe_fixture_kwargs:BarePrior: option 'scale' has no annotation"),
        ],
    )
    def test_one_that_hides_its_options_is_refused(self, bad, read, name, reason):
        with pytest.raises(PluginError) as caught:
            read(with_prior(f"{{type: {name}}}"))
        assert reason in str(caught.value)

    def test_the_command_exits_4(self, bad, tmp_path, capsys, small):
        small["stages"]["fit"]["model"]["prior"] = {"type": "broken"}
        file = tmp_path / "pipeline.yaml"
        file.write_text(json.dumps(small))
        assert cli.call(["run", str(file), "--workspace", str(tmp_path / "runs")]) == 4
        out, err = capsys.readouterr()
        assert out == ""
        assert "vaepipe-fixture-broken==2.0.1" in err
        assert "Traceback" not in err
        assert not (tmp_path / "runs").exists()

    def test_the_schema_goes_without_their_options(self, bad):
        from vaepipe.pipeline.schema import json_schema

        priors = {
            p["properties"]["type"]["const"]: p for p in json_schema()["$defs"]["priors"]["oneOf"]
        }
        assert "cannot be loaded" in priors["broken"]["description"]
        assert "components" in priors["vamp"]["properties"]


class TestList:
    def test_it_imports_nothing(self, installed):
        out, told, modules = run(installed, "plugins", "list")
        assert told == ""
        assert modules[0] == "0"
        heavy = {"torch", "ray", "mlflow", "pydantic", "yaml", "numpy", "pyarrow", "vaepipe.core"}
        assert not heavy & set(modules)
        assert not [name for name in modules if name.startswith("vaepipe_fixture")]
        assert "broken" in out

    def test_rows_name_distribution_and_version(self, installed):
        out, _, _ = run(installed, "plugins", "list", "priors", "--json")
        rows = json.loads(out)
        assert {"group": "priors", "name": "broken", "distribution": "vaepipe-fixture-broken",
                "version": "2.0.1"} in rows  # fmt: skip
        twice = [row for row in rows if row["name"] == "laplace"]
        assert [row["note"] for row in twice] == [
            f"claimed twice: pin as 'vaepipe-fixture-{name}:laplace'"
            for name in ("good", "duplicate")
        ]

    def test_a_table_has_a_line_for_each(self, capsys):
        assert cli.call(["plugins", "list", "networks"]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert head.split() == ["GROUP", "NAME", "DISTRIBUTION", "VERSION"]
        assert ["networks", "mlp", "vaepipe"] in [row.split()[:3] for row in rows]

    def test_an_unknown_group(self, capsys):
        assert cli.call(["plugins", "list", "prior"]) == 2
        assert "unknown group 'prior'. Did you mean 'priors'?" in capsys.readouterr().err


class TestShow:
    def test_a_page(self, good, capsys):
        assert cli.call(["plugins", "show", "priors", "laplace"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "priors laplace  (vaepipe-fixture-good 1.2.0)"
        assert "p(z) = prod_d Laplace(z_d; 0, b)." in lines
        assert "  scale    a number greater than 0; default 1.0" in lines
        assert "  tails    'heavy' or 'light'; default 'heavy'" in lines
        assert "Needs: nothing" in lines

    def test_json(self, capsys):
        assert cli.call(["plugins", "show", "likelihoods", "bernoulli", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["abilities"] == {"support": "boolean"}
        assert facts["target"] == "vaepipe.likelihoods.bernoulli:BernoulliLikelihood"

    def test_what_a_family_provides(self, capsys):
        assert cli.call(["plugins", "show", "families", "diagonal_normal"]) == 0
        assert "Provides: sample, rsample, density" in capsys.readouterr().out

    def test_a_broken_one_exits_4(self, bad, capsys):
        assert cli.call(["plugins", "show", "priors", "broken"]) == 4
        assert "vaepipe-fixture-broken==2.0.1" in capsys.readouterr().err

    def test_an_unknown_one_exits_2(self, capsys):
        assert cli.call(["plugins", "show", "priors", "vmap"]) == 2
        assert "Did you mean 'vamp'?" in capsys.readouterr().err


def test_what_is_installed_is_what_pyproject_declares():
    """Metadata are written at install time: after adding a component, install again."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group in registry.GROUPS:
        ours = {
            name: point.value
            for name, points in registry.available(group).items()
            for point in points
            if registry.distribution(point)[0] == "vaepipe"
        }
        assert ours == declared.get(f"vaepipe.{group}", {})
