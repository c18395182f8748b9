"""Stopping rules, without anything that runs."""

import pytest

from vaepipe.compute import policy
from vaepipe.errors import UserError


def stopped(rule, curves):
    """Trials in lockstep; each one's last epoch."""
    last = {}
    for epoch in range(1, 10):
        for trial, slope in enumerate(curves):
            if trial not in last and rule.stops(trial, epoch, slope * epoch):
                last[trial] = epoch
    return last


def test_none_stops_nothing():
    assert stopped(policy.make({"type": "none"}), [1.0, 2.0, 3.0]) == {}


def test_halving_keeps_the_best_of_those_that_reach_a_rung():
    rule = policy.make({"type": "asha", "grace_epochs": 1, "reduction": 3})
    # the best comes first, so that all others are judged against it
    assert stopped(rule, [9.0, 3.0, 2.0, 1.0]) == {1: 1, 2: 1, 3: 1}


def test_halving_leaves_the_grace_epochs_alone():
    rule = policy.make({"type": "asha", "grace_epochs": 4, "reduction": 2})
    assert stopped(rule, [9.0, 3.0]) == {1: 4}


def test_a_rung_is_judged_once_even_if_epochs_were_not_reported():
    rule = policy.Asha(grace=1, reduction=2)
    assert not rule.stops(0, 1, 1.0)
    assert not rule.stops(1, 3, 2.0)  # reaches the rung of 2 epochs, the first to do so
    assert not rule.stops(1, 3, -5.0)
    assert rule.stops(0, 2, 1.0)


@pytest.mark.parametrize("exponent", range(1, 8))
def test_rungs_stand_exactly_at_powers_of_the_reduction(exponent):
    rule = policy.Asha(grace=2, reduction=3)
    epoch = 2 * 3**exponent
    rule.stops(0, epoch, 5.0)
    assert rule.stops(1, epoch, 4.0)
    assert not rule.stops(2, epoch - 1, 4.0)  # still on the rung below


def test_the_median_needs_enough_others():
    rule = policy.make({"type": "median", "grace_epochs": 2})
    assert stopped(rule, [4.0, 3.0, 2.0, 0.0]) == {3: 2}
    assert stopped(policy.make({"type": "median"}), [4.0, 3.0, 0.0]) == {}


def test_the_median_forgives_a_trial_that_once_was_good():
    rule = policy.Median(grace=1, others=2)
    for epoch, value in enumerate([10.0, 0.0], start=1):
        for trial in (0, 1):
            rule.stops(trial, epoch, 5.0)
        assert not rule.stops(2, epoch, value)


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'median'"):
        policy.make({"type": "medain"})
