"""Search spaces: every walk through a space sees the same values; proposers are reproducible."""

import math
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaepipe.core import Stream
from vaepipe.errors import UserError
from vaepipe.pipeline import expressions, metrics, search, space
from vaepipe.pipeline.settings import SweepStage

CONDITIONAL = {
    "model.prior": {
        "choice": [
            {"type": "standard_normal"},
            {"type": "vamp", "components": {"choice": [100, 500]}},
            {"type": "mixture", "components": {"int_uniform": [5, 7]}},
        ]
    },
    "objective": {
        "choice": [{"type": "elbo"}, {"type": "iwae", "k": 5}, {"type": "iwae", "k": 50}]
    },
    "model.encoder.hidden": [{"choice": [32, 64]}, 16],
}
FINITE = 6 * 3 * 2
MIXED = {**CONDITIONAL, "optimizer.lr": {"log_uniform": [1e-4, 1e-2]}}


def numbers(low, high):
    return st.floats(low, high, allow_nan=False)


ranges = st.one_of(
    st.tuples(numbers(-5, 0), numbers(0.5, 5)).map(lambda ends: {"uniform": list(ends)}),
    st.tuples(numbers(1e-6, 0.1), numbers(0.2, 5)).map(lambda ends: {"log_uniform": list(ends)}),
    st.tuples(st.integers(-5, 0), st.integers(1, 5)).map(lambda ends: {"int_uniform": list(ends)}),
    st.tuples(st.sampled_from([0, 0.5]), st.sampled_from([0.1, 0.25])).map(
        lambda pair: {"quantized": [pair[0], 2, pair[1]]}
    ),
)
plain = st.one_of(st.integers(-3, 3), st.sampled_from(["adam", "sgd"]), st.none(), st.booleans())


def nested(inner):
    words = st.sampled_from(["choice", "grid"])
    return st.one_of(
        st.tuples(words, st.lists(inner, min_size=1, max_size=3)).map(
            lambda pair: {pair[0]: pair[1]}
        ),
        st.dictionaries(st.sampled_from(["type", "k", "of"]), inner, max_size=3),
        st.lists(inner, max_size=2),
    )


trees = st.recursive(st.one_of(plain, ranges), nested, max_leaves=6)
spaces = st.dictionaries(st.sampled_from(["a", "b.c", "d"]), trees, min_size=1)


def anyhow(seed, made):
    """Decide at random, and keep what was decided."""
    generator = random.Random(seed)

    def decide(at, expression):
        count = expression.count()
        made[at] = generator.random() if count is None else generator.randrange(count)
        return made[at]

    return decide


def close(one, other):
    """Equal up to rounding, at any depth."""
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    inside, outside = expressions.parts(one), expressions.parts(other)
    if not inside:
        return one == other
    same = zip(inside, outside, strict=True)
    return all(a == b and close(x, y) for (a, x), (b, y) in same)


class TestSpaces:
    @given(spaces, st.integers())
    def test_decisions_are_the_inverse_of_a_walk(self, tree, seed):
        made = {}
        value = space.concrete(tree, anyhow(seed, made))
        back = space.decisions(tree, value)
        assert close(space.concrete(tree, lambda at, _: back[at]), value)
        assert not space.searches(value)

    @given(spaces)
    def test_the_size_is_the_number_of_values(self, tree):
        size = space.size(tree)
        if size is not None and size < 500:
            assert sum(1 for _ in space.grid(tree)) == size

    @given(spaces)
    def test_generated_spaces_are_well_formed(self, tree):
        assert list(expressions.faults(tree)) == []

    @given(spaces)
    def test_the_cover_tries_every_alternative_and_both_ends(self, tree):
        tried = {}
        for value, made in space.cover(tree):
            assert space.concrete(tree, lambda at, _, made=made: made[at]) == value
            for at, decision in made.items():
                tried.setdefault(at, set()).add(decision)
        for value, _ in space.cover(tree):
            for at, expression in walked(tree, value):
                assert tried[at] == set(expression.ends())

    def test_a_conditional_space_counts_what_is_nested(self):
        assert space.size(CONDITIONAL) == FINITE
        values = list(space.grid(CONDITIONAL))
        assert len({str(value) for value in values}) == FINITE
        assert values[1]["model.encoder.hidden"] == [64, 16]

    def test_a_continuum_has_no_size(self):
        assert space.size(MIXED) is None

    def test_combinations_are_of_types(self):
        found = [
            (value["model.prior"]["type"], value["objective"]["type"])
            for value in search.combinations(MIXED)
        ]
        assert len(found) == len(set(found)) == 3 * 2

    def test_combinations_see_a_type_that_is_searched_by_itself(self):
        tree = {"optimizer.type": {"choice": ["adam", "sgd"]}, "batch_size": {"choice": [1, 2]}}
        assert [value["optimizer.type"] for value in search.combinations(tree)] == ["adam", "sgd"]

    def test_a_value_leads_back_to_where_it_was_written(self):
        made = {("model.prior",): 2, ("model.prior", "choice", 2, "components"): 0}
        tree = {"model.prior": CONDITIONAL["model.prior"]}
        at = space.origin(tree, made, ("model.prior", "components"))
        assert at == ("model.prior", "choice", 2, "components")
        assert space.origin(tree, made, ("model.prior", "unknown")) == (*at[:-1], "unknown")

    def test_a_value_of_another_space_has_no_decisions(self):
        assert space.decisions(CONDITIONAL, {"model.prior": {"type": "vamp"}}) is None
        assert space.decisions({"a": {"int_uniform": [1, 3]}}, {"a": 2.5}) is None
        assert space.decisions({"a": {"uniform": [1, 3]}}, {"a": True}) is None


def walked(tree, value):
    made = space.decisions(tree, value)
    found = []
    space.concrete(tree, lambda at, each: found.append((at, each)) or made[at])
    return found


class TestExpressions:
    def test_quantized_numbers_are_decimal_fractions(self):
        steps = expressions.expression({"quantized": [0, 1, 0.1]})
        values = [steps.value(i) for i in range(steps.count())]
        assert values == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

    def test_quantized_stops_before_high(self):
        steps = expressions.expression({"quantized": [1, 10, 4]})
        assert [steps.value(i) for i in range(steps.count())] == [1, 5, 9]

    def test_integers_include_both_ends(self):
        steps = expressions.expression({"int_uniform": [3, 5]})
        assert [steps.value(i) for i in range(steps.count())] == [3, 4, 5]

    def test_a_logarithm_has_its_median_at_the_geometric_mean(self):
        interval = expressions.expression({"log_uniform": [1e-4, 1e-2]})
        assert interval.value(0.5) == pytest.approx(1e-3)
        assert (interval.value(0.0), interval.value(1.0)) == (1e-4, 1e-2)

    def test_options_of_a_component_may_be_called_like_a_search(self):
        component = {"type": "spline", "grid": 8}
        assert list(expressions.faults({"model.family": {"choice": [component]}})) == []


def sweep(tree, **settings):
    return SweepStage.model_validate({"kind": "sweep", "over": "fit", "space": tree, **settings})


def proposals(proposer, count):
    return [proposer.propose(index) for index in range(count)]


class TestRandom:
    def test_a_trial_depends_on_seed_and_index_alone(self):
        one = search.make_proposer(sweep(MIXED, trials=20), Stream(7))
        forwards = proposals(one, 20)
        backwards = [one.propose(index) for index in reversed(range(20))][::-1]
        fewer = proposals(search.make_proposer(sweep(MIXED, trials=5), Stream(7)), 5)
        assert forwards == backwards
        assert fewer == forwards[:5]
        assert proposals(search.make_proposer(sweep(MIXED, trials=20), Stream(8)), 20) != forwards

    def test_it_ends_after_its_trials(self):
        proposer = search.make_proposer(sweep(MIXED, trials=3), Stream(0))
        assert proposer.size == 3
        assert [value is None for value in proposals(proposer, 5)] == [False] * 3 + [True] * 2

    def test_draws_have_the_distribution_that_is_asked_for(self):
        n = 4000
        tree = {"lr": {"log_uniform": [1e-4, 1e-2]}, "k": {"choice": ["a", "b", "c"]}}
        draws = proposals(search.make_proposer(sweep(tree, trials=n), Stream(1)), n)
        u = [(math.log10(each["lr"]) + 4) / 2 for each in draws]
        assert abs(sum(u) / n - 0.5) < 4 * math.sqrt(1 / 12 / n)
        share = sum(each["k"] == "a" for each in draws) / n
        assert abs(share - 1 / 3) < 4 * math.sqrt(2 / 9 / n)

    def test_values_of_a_grid_come_in_turn(self):
        tree = {"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y", "z"]}, "lr": {"uniform": [0, 1]}}
        found = proposals(search.make_proposer(sweep(tree, trials=6), Stream(3)), 6)
        assert sorted((each["a"], each["b"]) for each in found) == sorted(
            (a, b) for a in (1, 2) for b in "xyz"
        )
        assert len({each["lr"] for each in found}) == 6

    def test_a_nested_search_is_drawn_only_where_it_applies(self):
        for each in proposals(search.make_proposer(sweep(CONDITIONAL, trials=40), Stream(3)), 40):
            prior = each["model.prior"]
            assert set(prior) == (
                {"type"} if prior["type"] == "standard_normal" else {"type", "components"}
            )


class TestGrid:
    def test_it_is_all_of_the_space(self):
        proposer = search.make_proposer(sweep(CONDITIONAL, search={"type": "grid"}), Stream(0))
        assert proposer.size == FINITE
        assert proposals(proposer, FINITE) == list(space.grid(CONDITIONAL))
        assert proposer.propose(FINITE) is None

    def test_trials_may_cut_it_short(self):
        short = sweep(CONDITIONAL, search={"type": "grid"}, trials=5)
        assert search.make_proposer(short, Stream(0)).size == 5
        long = sweep(CONDITIONAL, search={"type": "grid"}, trials=500)
        assert search.make_proposer(long, Stream(0)).size == FINITE


def worth(settings):
    """The best is a vamp prior of 500 components at a learning rate of 1e-3."""
    prior = settings["model.prior"]
    return (prior.get("components", 0) / 500) - abs(math.log10(settings["optimizer.lr"]) + 3)


class TestOptuna:
    TREE = {"model.prior": CONDITIONAL["model.prior"], "optimizer.lr": MIXED["optimizer.lr"]}

    def proposer(self, metric="val/log_evidence", trials=60):
        stage = sweep(self.TREE, trials=trials, metric=metric, search={"type": "optuna"})
        return search.make_proposer(stage, Stream(11))

    def history(self, count, sign=1):
        proposer, found = self.proposer("val/log_evidence" if sign > 0 else "val/rate"), []
        for index in range(count):
            settings = proposer.propose(index)
            found.append((settings, sign * worth(settings)))
            proposer.observe(index, *found[-1])
        return found

    @pytest.mark.parametrize("sign", [1, -1], ids=["max", "min"])
    def test_it_learns_from_what_it_observes(self, sign):
        found = [sign * value for _, value in self.history(60, sign)]
        assert sum(found[30:]) / 30 > sum(found[:10]) / 10 + 0.3

    def test_after_a_restart_it_goes_on_where_it_was(self):
        known = self.history(30)
        again = self.proposer()
        for index, (settings, value) in enumerate(known[:20]):
            again.observe(index, settings, value)
        assert close(again.propose(20), known[20][0])

    def test_a_failed_trial_teaches_nothing(self):
        proposer = self.proposer()
        proposer.observe(0, proposer.propose(0), None)
        proposer.observe(1, proposer.propose(1), math.nan)
        proposer.observe(7, self.history(1)[0][0], None)
        assert proposer.propose(2) is not None

    def test_settings_of_a_space_that_has_changed_are_left_out(self):
        proposer = self.proposer()
        proposer.observe(0, {"model.prior": {"type": "flow"}, "optimizer.lr": 1e-3}, 1.0)
        assert proposer.propose(1) is not None

    def test_it_ends_after_its_trials(self):
        assert self.proposer(trials=2).propose(2) is None

    def test_it_is_loaded_only_where_it_is_used(self):
        code = (
            "import sys; from vaepipe.pipeline import search; "
            "print('optuna' in sys.modules, 'torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "False False\n"


class TestMetrics:
    def test_each_has_a_direction(self):
        assert metrics.direction("val/log_evidence") == "max"
        assert metrics.direction("val/rate") == "min"

    def test_an_unknown_one_is_told_with_the_nearest(self):
        with pytest.raises(UserError, match=r"unknown metric 'val/elb'\. Did you mean 'val/elbo'"):
            metrics.sweepable("val/elb")
