"""When a posterior says nothing, somebody has to say so."""

import pytest

from vaepipe.errors import UserError
from vaepipe.evaluation import collapse
from vaepipe.pipeline.metrics import sweepable


@pytest.mark.parametrize(
    ("rate", "active", "fires"),
    [(0.0, 0, True), (0.099, 3, True), (0.1, 1, False), (5.0, 0, True), (5.0, 2, False)],
)
def test_it_fires_below_a_tenth_of_a_nat_or_without_active_units(rate, active, fires):
    said = collapse({"val/rate": rate, "val/active_units": float(active)})
    assert (said is not None) == fires


def test_it_names_the_remedies():
    said = collapse({"val/rate": 0.01, "val/active_units": 0.0})
    assert said.startswith("posterior collapse: val/rate is 0.01 nats, below 0.1, and no latent")
    for option in ("warmup_epochs", "free_bits", "word_dropout"):
        assert option in said


def test_what_was_not_measured_is_no_sign():
    assert collapse({}) is None
    assert collapse({"val/rate": 3.0}) is None
    assert collapse({"test/rate": 0.0}, "test") is not None
    assert collapse({"test/rate": 0.0}) is None


def test_a_sweep_is_not_decided_by_what_no_validation_reports():
    """Bounds of different objectives cannot be compared; the message names what can."""
    with pytest.raises(UserError, match=r"unknown metric 'train/bound'.*val/log_evidence"):
        sweepable("train/bound")
    for name in ("val/bound", "val/ess"):
        with pytest.raises(UserError, match=f"unknown metric '{name}'"):
            sweepable(name)
