"""Whatever a file says survives reading; whatever is misspelled is told at its line."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaepipe.errors import ConfigError
from vaepipe.pipeline import Pipeline, config, locate

# PyYAML writes 0E0 without quotes, and a file says a number then: names begin with a letter here
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
counts = st.integers(1, 10**6)
rates = st.floats(1e-6, 10, allow_nan=False)
widths = st.lists(counts, min_size=1, max_size=3)

networks = st.fixed_dictionaries({"type": st.just("mlp")}, optional={"hidden": widths})
families = st.sampled_from([{"type": "diagonal_normal"}, {"type": "full_normal"}])
priors = st.one_of(
    st.just({"type": "standard_normal"}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["vamp", "mixture"])}, optional={"components": counts}
    ),
)
likelihoods = st.one_of(
    st.just({"type": "bernoulli"}),
    st.fixed_dictionaries(
        {"type": st.just("gaussian")},
        optional={"scale": st.one_of(rates, st.sampled_from(["learned", "per_dimension"]))},
    ),
)
objectives = st.one_of(
    st.fixed_dictionaries({"type": st.just("elbo")}, optional={"samples": counts, "beta": rates}),
    st.fixed_dictionaries({"type": st.sampled_from(["iwae", "dreg"])}, optional={"k": counts}),
)
optimizers = st.one_of(
    st.fixed_dictionaries({}, optional={"lr": rates, "clip": rates}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["sgd", "rmsprop"])},
        optional={"lr": rates, "momentum": st.floats(0, 1), "warmup_steps": counts},
    ),
)


def train(data):
    model = st.fixed_dictionaries(
        {
            "latent_shape": widths,
            "encoder": networks,
            "family": families,
            "prior": priors,
            "decoder": networks,
            "likelihood": likelihoods,
        }
    )
    return st.fixed_dictionaries(
        {
            "kind": st.just("train"),
            "data": st.just(data),
            "model": model,
            "objective": objectives,
            "epochs": counts,
        },
        optional={
            "optimizer": optimizers,
            "batch_size": counts,
            "workers": st.one_of(st.none(), counts),
            "patience": st.one_of(st.none(), counts),
            "validation": st.fixed_dictionaries({}, optional={"examples": counts, "k": counts}),
        },
    )


def searches(value):
    return st.lists(value, min_size=1, max_size=3).map(lambda values: {"choice": values})


def sweep(over):
    paths = {
        "model.prior": searches(priors),
        "objective": searches(objectives),
        "batch_size": searches(counts),
        "optimizer.lr": st.tuples(rates, rates)
        .filter(lambda ends: ends[0] < ends[1])
        .map(lambda ends: {"log_uniform": list(ends)}),
    }
    return st.fixed_dictionaries(
        {
            "kind": st.just("sweep"),
            "over": st.just(over),
            "trials": counts,
            "space": st.fixed_dictionaries({}, optional=paths).filter(bool),
        },
        optional={
            "search": st.sampled_from([{"type": "random"}, {"type": "optuna"}]),
            "scheduler": st.sampled_from([{"type": "none"}, {"type": "asha", "reduction": 4}]),
            "metric": st.sampled_from(["val/log_evidence", "val/rate"]),
        },
    )


@st.composite
def pipelines(draw):
    """Data of a pipeline: a dataset, a fit, a sweep over it, a longer fit, its scores and codes."""
    data, fit, tune, final, score, codes, page = draw(
        st.lists(names, min_size=7, max_size=7, unique=True)
    )
    beside = draw(st.fixed_dictionaries({}, optional={"epochs": counts, "optimizer": optimizers}))
    stages = {
        data: {
            "kind": "data",
            "dataset": draw(st.sampled_from([{"type": "digits"}, {"type": "mnist"}])),
        },
        fit: draw(train(data)),
        tune: draw(sweep(fit)),
        final: {"kind": "train", "settings": tune, **beside},
        score: {"kind": "evaluate", "model": final, "data": data, "evidence": {"k": draw(counts)}},
        codes: {"kind": "encode", "model": tune, "data": data, "with": ["elbo", "sample:2"]},
        page: {"kind": "report", "of": draw(st.permutations([fit, tune, score]))},
    }
    order = draw(st.permutations(list(stages)))
    return {
        "version": 1,
        "name": draw(names),
        "seed": draw(st.integers(0, 2**32)),
        "compute": {"type": "local"},
        "tracking": {"type": "memory"},
        "stages": {name: stages[name] for name in order},
    }


def parse(text):
    return config.parse(locate.parse(text, "pipeline.yaml"))


def within(said, made):
    """Everything that is said holds in what was made of it."""
    if isinstance(said, dict):
        return all(within(value, made[key]) for key, value in said.items())
    if isinstance(said, list):
        return len(said) == len(made) and all(map(within, said, made))
    return said == made


def keys(node, path=()):
    """Paths of all keys under the fields of stages, but not of a space's."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield (*path, key)
        if key != "space":
            yield from keys(value, (*path, key))


def renamed(node, path, new):
    step, *rest = path
    return {
        (new if key == step and not rest else key): renamed(value, rest, new)
        if key == step and rest
        else value
        for key, value in node.items()
    }


quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
styles = st.sampled_from([True, False, None])


@quick
@given(pipelines(), styles)
def test_what_a_file_says_holds(data, style):
    pipeline = parse(yaml.safe_dump(data, default_flow_style=style, sort_keys=False))
    made = pipeline.model_dump(mode="json")
    said = {**data, "stages": dict(data["stages"])}
    for name, stage in data["stages"].items():
        if "settings" in stage and "optimizer" in stage:  # a part of what is inherited
            said["stages"][name] = {k: v for k, v in stage.items() if k != "optimizer"}
    assert within(said, made)


@quick
@given(pipelines())
def test_order_and_style_do_not_matter(data):
    block = parse(yaml.safe_dump(data, sort_keys=True))
    flow = parse(json.dumps(data))
    assert {**block.stages} == {**flow.stages}


@quick
@given(pipelines())
def test_reading_what_was_read_changes_nothing(data):
    pipeline = Pipeline.model_validate(data)
    again = Pipeline.model_validate(pipeline.model_dump(mode="json"))
    assert {**again.stages} == {**pipeline.stages}
    for name in pipeline.stages:
        assert again.identity(name) == pipeline.identity(name)


@quick
@given(pipelines(), styles, st.data())
def test_a_misspelled_field_is_told_at_its_line(data, style, choose):
    paths = [
        path
        for path in keys(data)
        if (len(path) > 2 or path[0] == "seed") and path[-1] not in ("kind", "type")
    ]
    path = choose.draw(st.sampled_from(paths))
    text = yaml.safe_dump(
        renamed(data, path, "zzz"), default_flow_style=style, sort_keys=False, width=60
    )
    with pytest.raises(ConfigError) as caught:
        parse(text)
    (problem,) = [p for p in caught.value.problems if p.path.endswith("zzz")]
    assert problem.path == ".".join((*path[:-1], "zzz"))
    assert problem.message.startswith("unknown field 'zzz'")
    assert "zzz" in text.splitlines()[problem.line - 1]


@quick
@given(pipelines(), styles, st.data())
def test_a_number_that_is_none_is_told_at_its_line(data, style, choose):
    fit = next(name for name, stage in data["stages"].items() if "epochs" in stage)
    fields = [f for f in ("epochs", "batch_size") if f in data["stages"][fit]]
    data["stages"][fit][choose.draw(st.sampled_from(fields))] = "zzz"
    text = yaml.safe_dump(data, default_flow_style=style, sort_keys=False, width=60)
    with pytest.raises(ConfigError) as caught:
        parse(text)
    told = {p.line: p.message for p in caught.value.problems}
    (line,) = [n for n, each in enumerate(text.splitlines(), 1) if "zzz" in each]
    assert told[line] == "expected an integer, got 'zzz'"


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_pipeline_or_a_list_of_problems(text):
    try:
        parse(text)
    except ConfigError as error:
        assert error.problems


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["kind", "type", "choice", "space", "of"]), names),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)

WHOLE = """
version: 1
name: digits
seed: 3
compute: {type: local, workers: 1}
tracking: {type: memory}
stages:
  digits: {kind: data, dataset: {type: digits, binarize: none}}
  fit:
    kind: train
    data: digits
    model:
      latent_shape: [8]
      encoder: {type: mlp, hidden: [64]}
      family: {type: diagonal_normal}
      prior: {type: vamp, components: 10}
      decoder: {type: mlp}
      likelihood: {type: gaussian, scale: learned}
    objective: {type: elbo, beta: 0.5}
    optimizer: {type: adam, lr: 0.001, betas: [0.9, 0.99], clip: null}
    validation: {k: 8}
    epochs: 3
  tune:
    kind: sweep
    over: fit
    trials: 3
    metric: val/elbo
    search: {type: optuna, startup: 2}
    scheduler: {type: asha}
    invalid: skip
    space:
      objective: {choice: [{type: elbo}, {type: iwae, k: {int_uniform: [2, 4]}}]}
      optimizer.lr: {uniform: [0.1, 0.2]}
  final: {kind: train, settings: tune, epochs: 4, model: {prior: {type: mixture}}}
  score: {kind: evaluate, model: final, data: digits, splits: [test], evidence: {k: 3}}
  codes: {kind: encode, model: tune, data: digits, with: [elbo], keep: [label]}
  page: {kind: report, of: [tune, score]}
  put: {kind: register, model: final, name: x, alias: y, requires: {score/elbo: {at_least: 3}}}
"""


@quick
@given(ANY, st.data())
def test_any_value_in_any_place_is_told_and_does_no_harm(value, choose):
    data = yaml.safe_load(WHOLE)
    assert parse(WHOLE).name == "digits"
    path = choose.draw(st.sampled_from([*keys(data), ("stages", "tune", "space", "optimizer.lr")]))
    node = data
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    try:
        parse(yaml.safe_dump(data))
    except ConfigError as error:
        assert all("\n" not in problem.message for problem in error.problems)
