"""What every tracker promises to a pipeline."""

from __future__ import annotations

import pytest

from vaepipe.errors import UserError
from vaepipe.training import bundle


def test_runs_have_ids_of_their_own(tracker):
    parent = tracker.start("tune")
    children = [tracker.start(f"tune-{i}", parent=parent.id) for i in range(3)]
    assert len({parent.id, *(child.id for child in children)}) == 4


def test_a_run_is_continued_under_its_id_and_a_lost_one_is_a_new_run(tracker):
    record = tracker.start("fit")
    record.finish("KILLED")
    assert tracker.start("fit", resume=record.id).id == record.id
    assert tracker.start("fit", resume="0" * 32).id not in {"0" * 32, record.id}


def test_a_bundle_comes_back_as_it_went_in(tracker, model_bundle):
    record = tracker.start("fit")
    uri = record.model(model_bundle)
    assert uri.startswith("models:/m-")
    opened = bundle.load(tracker.fetch(uri))
    assert opened.digest == bundle.load(model_bundle).digest


def test_logging_or_registering_the_same_model_again_makes_nothing_new(tracker, model_bundle):
    record = tracker.start("fit")
    uri = record.model(model_bundle)
    assert record.model(model_bundle) == uri
    name = f"same-{record.id}"
    versions = [
        tracker.register(uri, name, alias, {}) for alias in ("challenger", "champion", None)
    ]
    assert versions == ["1", "1", "1"]


def test_another_model_is_another_version_and_the_alias_moves_to_it(tracker, model_bundle):
    uris = [tracker.start(f"fit-{i}").model(model_bundle) for i in range(2)]
    name = f"moves-{uris[0][-8:]}"
    assert [tracker.register(uri, name, "challenger", {}) for uri in uris] == ["1", "2"]
    assert tracker.fetch(f"models:/{name}@challenger") == tracker.fetch(f"models:/{name}/2")
    assert tracker.promote(name, "1", "challenger") == "2"
    assert tracker.promote(name, "1", "champion") is None
    assert tracker.fetch(f"models:/{name}@challenger") == tracker.fetch(uris[0])


def test_a_model_that_does_not_exist_is_the_users_mistake(tracker):
    for uri in ("models:/nothing/1", "models:/nothing@champion", "models:/m-0000"):
        with pytest.raises(UserError, match=r"no (registered )?(logged )?model"):
            tracker.fetch(uri)
