"""Model bundles: what is opened is what was saved, or an error says why not."""

import json
from dataclasses import replace

import pytest
import torch
from fits import fit_task, model_spec, part

from vaepipe import files, registry
from vaepipe.core import DataSpec, Stream, build, seeded
from vaepipe.errors import BundleError
from vaepipe.training import bundle

PRIORS = ("standard_normal", "mixture", "vamp")


def model_and_card(data, **changes):
    task = fit_task(data, "/nowhere", **changes)
    with seeded(Stream(3)):
        model = build(task.model.latent_shape, DataSpec.from_dict(data.spec), **task.model.parts())
    card = {
        "vaepipe": "0.0.1",
        "model": task.model.to_dict(),
        "objective": task.objective.to_dict(),
        "data": dict(data.spec),
        "dataset": data.dataset.to_dict(),
        "settings": {},
        "fingerprint": "a",
    }
    return model, card


def x(n=6):
    return (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()


@pytest.fixture
def saved(digits, tmp_path):
    model, card = model_and_card(digits)
    bundle.save(tmp_path / "model", model, card, x())
    return tmp_path / "model"


def change_card(path, change):
    card = json.loads((path / bundle.CARD).read_text())
    change(card)
    (path / bundle.CARD).write_text(json.dumps(card))


@pytest.mark.parametrize("prior", PRIORS)
def test_an_opened_bundle_computes_what_the_saved_model_computed(prior, digits, tmp_path):
    model, card = model_and_card(digits, model=model_spec(prior=prior))
    bundle.save(tmp_path / "m", model, card, x())
    found = bundle.load(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(found.model.inference.features(x()), model.inference.features(x()))
        z = torch.ones(2, 2)
        assert torch.equal(found.model.p_z().z.log_prob(z), model.p_z().z.log_prob(z))
    assert not found.model.training
    assert found.data == DataSpec.from_dict(digits.spec)
    assert found.dataset == digits.dataset
    assert found.requirements == [part("priors", prior).requirement]
    assert found.warnings == ()


def test_opening_leaves_the_callers_randomness_alone(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bundle.load(saved)
    assert torch.equal(torch.rand(3), expected)


def test_the_digest_depends_on_card_and_weights(saved, digits, tmp_path):
    model, card = model_and_card(digits)
    bundle.save(tmp_path / "same", model, card, x())
    bundle.save(tmp_path / "other", model, {**card, "fingerprint": "b"}, x())
    first = bundle.load(saved).digest
    assert bundle.load(tmp_path / "same").digest == first
    assert bundle.load(tmp_path / "other").digest != first


def test_weights_that_were_changed_are_noticed(saved, digits):
    model, _ = model_and_card(digits)
    with torch.no_grad():
        next(model.generator.parameters()).mul_(1.01)
    bundle.save_weights(saved / bundle.WEIGHTS, model)
    with pytest.raises(BundleError, match="'log_lik' of the golden examples"):
        bundle.load(saved)


def test_damaged_and_missing_files_are_named(saved):
    (saved / bundle.WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(BundleError, match="missing or damaged"):
        bundle.load(saved)
    (saved / bundle.WEIGHTS).unlink()
    with pytest.raises(BundleError, match="missing or damaged"):
        bundle.load(saved)
    (saved / bundle.CARD).write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        bundle.load(saved)
    with pytest.raises(BundleError, match="not a model bundle"):
        bundle.load(saved.parent)


@pytest.mark.parametrize("key", ["model", "data"])
def test_a_card_that_lacks_something_is_damaged(key, saved):
    change_card(saved, lambda card: card.pop(key))
    with pytest.raises(BundleError, match="damaged"):
        bundle.load(saved)


def test_weights_of_another_architecture_do_not_fit(saved):
    def widen(card):
        card["model"]["encoder"]["options"]["hidden"] = [17]

    change_card(saved, widen)
    with pytest.raises(BundleError, match="do not fit"):
        bundle.load(saved)


def test_a_component_that_is_not_installed_comes_with_the_command_that_installs_it(saved):
    def rename(card):
        card["model"]["prior"] |= {"type": "horseshoe", "distribution": "vaepipe-horseshoe"}

    change_card(saved, rename)
    with pytest.raises(BundleError, match=r"pip install 'vaepipe-horseshoe==[\d.]+'"):
        bundle.load(saved)


def test_a_name_that_another_distribution_took_is_refused(saved):
    change_card(saved, lambda card: card["model"]["prior"].update(distribution="elsewhere"))
    with pytest.raises(BundleError, match="of elsewhere, the installed one of vaepipe"):
        bundle.load(saved)


def test_the_path_in_the_file_is_never_imported(saved):
    change_card(saved, lambda card: card["model"]["prior"].update(target="os:system"))
    assert type(bundle.load(saved).model.prior).__module__ == "vaepipe.priors.normal"


def test_another_version_is_a_warning(saved, monkeypatch):
    original = registry.part

    def newer(group, name, options=None):
        return replace(original(group, name, options), version="99")

    monkeypatch.setattr(registry, "part", newer)
    (warning,) = bundle.load(saved).warnings
    assert warning.endswith("opened with vaepipe==99")


def test_another_format_names_the_version_that_wrote_it(saved):
    change_card(saved, lambda card: card.update(format_version=2))
    with pytest.raises(BundleError, match=r"format version 2.*0\.0\.1"):
        bundle.load(saved)


def test_a_bundle_is_three_files_and_no_pickle(saved):
    names = sorted(path.name for path in saved.iterdir())
    assert names == [bundle.GOLDEN, bundle.CARD, bundle.WEIGHTS]
    header = (saved / bundle.WEIGHTS).read_bytes()[8:9]
    assert header == b"{"
    assert files.read_json(saved / bundle.CARD)["format_version"] == bundle.FORMAT
