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


def test_a_rung_that_is_reached_in_the_warm_up_is_passed_and_compares_nobody():
    """Warm after 15 epochs: the rungs of 4 and 8 are passed, as is 16, for want of grace epochs."""
    rule = policy.Asha(grace=4, reduction=2)
    for epoch in (4, 8, 16):
        assert not rule.stops(0, epoch, -20.0)
        assert not rule.stops(1, epoch, -99.0, warm=max(0, epoch - 15))
        assert not rule.stops(2, epoch, -20.0)  # the values of the second trial are no bar
        assert not rule.stops(1, epoch, -99.0, warm=epoch)  # passed for good
    assert rule.stops(1, 32, -99.0, warm=17) is False  # the first on its rung
    assert rule.stops(3, 32, -99.5, warm=17)  # judged as ever


def test_a_high_value_of_a_warm_up_is_no_bar_for_others():
    rule = policy.Asha(grace=2, reduction=2)
    rule.stops(0, 2, 9.0, warm=0)
    assert not rule.stops(1, 2, 1.0)


def test_the_median_hears_nothing_of_a_warm_up():
    """High values before do not count in its favour; low ones do not lower others' averages."""
    rule = policy.Median(grace=2, others=2)
    for epoch in range(1, 6):
        for trial in (0, 1):
            assert not rule.stops(trial, epoch, 1.0, warm=epoch)
        if epoch < 5:
            assert not rule.stops(2, epoch, 9.0, warm=max(0, epoch - 3))
    assert rule.stops(2, 5, -9.0, warm=2) is False  # of two warm epochs the first said 9
    rule = policy.Median(grace=1, others=2)
    for trial in (0, 1):
        rule.stops(trial, 1, -99.0, warm=0)
        rule.stops(trial, 2, 1.0, warm=1)
    assert rule.stops(2, 2, 0.0)
