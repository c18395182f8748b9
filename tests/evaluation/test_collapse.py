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


def test_a_code_book_is_judged_by_its_codes_and_gets_advice_that_it_can_follow():
    """Its rate is n log K, whatever the codes say; KL warm-up changes nothing."""
    idle = {"val/rate": 49.9, "val/active_units": 0.0}
    book = {**idle, "train/code_perplexity": 1.0, "train/code_share": 1 / 512}
    said = collapse(book)
    assert said.startswith("code book collapse: train/code_perplexity is 1, 0.2% of what a batch")
    assert "restart" in said and "warmup_epochs" not in said
    part = {**idle, "train/code_perplexity": 40.0, "train/code_share": 40 / 512}
    assert "is 40, 7.8%" in collapse(part)
    assert collapse({**part, "train/code_share": 0.4, "train/code_perplexity": 205.0}) is None
    assert "warmup_epochs" not in collapse(idle) and "code book" in collapse(idle)


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
