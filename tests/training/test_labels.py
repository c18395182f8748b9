"""What a fit must not see, and what its validation must."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from fits import digits as write_digits
from fits import model_spec, part
from runs import curve, epochs, fit, same, weights

from vaepipe.datasets.digits import Digits


@pytest.fixture
def relabelled(tmp_path, monkeypatch):
    """The same digits, whose labels belong to other digits."""
    examples, changed = Digits.examples, []

    def permuted(self, split):
        for batch in examples(self, split):
            place = batch.schema.get_field_index("label")
            labels = batch.column("label").to_numpy()
            other = np.random.default_rng(0).permutation(labels)
            changed.append((labels != other).mean())
            yield batch.set_column(
                place, batch.schema.field(place), pa.array(other, batch.column("label").type)
            )

    monkeypatch.setattr(Digits, "examples", permuted)
    data = write_digits(tmp_path / "relabelled")
    assert min(changed) > 0.5
    return data


def test_labels_change_no_bit_of_a_fit(digits, relabelled, tmp_path):
    """Classes do not exist in a VAE: they only colour plots."""
    one = fit(digits, tmp_path / "one", epochs=2)
    other = fit(relabelled, tmp_path / "other", epochs=2)
    assert curve(one) == curve(other)
    assert same(weights(one), weights(other))


def test_validation_judges_the_posterior_that_the_objective_refines(digits, tmp_path):
    """Without an encoder the model's own q(z | x) is one for all examples; its rate says so."""
    model = replace(model_spec(), encoder=part("networks", "constant"))
    svi = part("objectives", "svi", {"steps": 15})
    task = fit(digits, tmp_path / "svi", epochs=4, model=model, objective=svi)
    first, last = (epochs(task)[i]["metrics"] for i in (0, -1))
    assert last["val/rate"] > 0.5
    assert last["val/active_units"] == 2
    assert last["val/elbo"] > first["val/elbo"]
    assert last["val/log_evidence"] > last["val/elbo"]
