"""What contracts share: how a question is asked, and the ones that every component answers."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import pickle
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaepipe import options, registry
from vaepipe.core import Stream, seeded
from vaepipe.errors import UserError
from vaepipe.registry import PartSpec
from vaepipe.testing.setting import Setting, words
from vaepipe.testing.statistics import assert_mean

M = TypeVar("M", bound=nn.Module)


class NotAsked(unittest.SkipTest):
    """A question that makes no sense for this component; test runners show it as skipped."""


class Exempted(NotAsked):
    """A promise that the component breaks on purpose, with the reason that it declares."""


class Absent(NotAsked):
    """A question for which this machine lacks something: a GPU, or the files of a dataset."""


class Contract(ABC):
    """Questions are its methods named `test_…`; each stands alone, from the same seed.

    A component, or a test class for it, may set `conformance`: see `Setting`.
    """

    group: ClassVar[str]
    """The group of its components."""
    draws: ClassVar[int] = 20_000
    """Monte-Carlo draws behind a statistical question."""
    conformance: ClassVar[Mapping[str, Any]] = {}
    """What the author of a test class adds to the component's own declaration."""
    part: ClassVar[PartSpec | None] = None
    """The component by name, where it is installed."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Every question looks whether the component is exempt from it."""
        super().__init_subclass__(**kwargs)
        for name in questions(cls):
            question = getattr(cls, name)
            if not hasattr(question, "__wrapped__"):
                setattr(cls, name, _minding_exemptions(name, question))

    @abstractmethod
    def build(self) -> Any:
        """A component, in the setting of this contract."""

    @functools.cached_property
    def component(self) -> type:
        """The class that is asked."""
        return self.part.load() if self.part else type(self.first())

    @functools.cached_property
    def setting(self) -> Setting:
        """What the component and the test class declare."""
        return Setting.of(self.component, type(self))

    @property
    def owners(self) -> set[str]:
        """Distributions whose parts may testify against this one: its own, and vaepipe."""
        return {"vaepipe", *([self.part.distribution] if self.part else [])}

    def first(self) -> Any:
        """Some component, before its own declaration is known."""
        return self.build()

    def setup_method(self) -> None:
        """Seed torch before a question; pytest calls this by itself."""
        torch.manual_seed(0)

    def test_its_options_are_a_schema(self) -> None:
        """Files can set its options: defaults survive JSON, an unknown option is refused."""
        cls = self.component
        model, schema = options.model(cls), options.schema(cls)
        assert schema["type"] == "object"
        given = dict(self.part.options) if self.part else {}
        if set(schema.get("required", ())) - set(given):
            raise NotAsked(f"it has options without a default: {schema['required']}")
        written = model.model_validate(given).model_dump(mode="json", by_alias=True)
        again = model.model_validate(json.loads(json.dumps(written)))
        assert again.model_dump(mode="json", by_alias=True) == written
        assert_refused(lambda: model.model_validate({"no_such_option": 1}), "an unknown option")

    def test_it_says_what_it_is(self) -> None:
        """Its docstring is its help text: a sentence at least."""
        text = inspect.getdoc(self.component) or ""
        assert len(text) > 20, "it has no docstring"

    def test_its_exemptions_name_questions(self) -> None:
        """Every declared exemption names a question of this contract and gives a reason."""
        known = set(map(words, questions(type(self))))
        for question, reason in self.setting.exempt.items():
            assert question in known, f"no question is called '{question}'"
            assert len(reason) > 10, f"exempt from '{question}' without a reason"


def questions(contract: type[Contract]) -> tuple[str, ...]:
    """The names of a contract's questions, in alphabetical order."""
    return tuple(name for name in sorted(dir(contract)) if name.startswith("test_"))


def ask(contract: Contract, question: str) -> None:
    """Put one question; torch's generators are as before afterwards.

    Raises:
        AssertionError: the promise is broken.
        NotAsked: the question makes no sense here, or is exempt (`Exempted`).
    """
    with seeded(Stream(0)):
        contract.setup_method()
        getattr(contract, question)()


def named(contract: Contract) -> PartSpec:
    """The component as files name it.

    Raises:
        NotAsked: it is not installed.
    """
    if contract.part:
        return contract.part
    target = f"{contract.component.__module__}:{contract.component.__qualname__}"
    for name, points in registry.available(contract.group).items():
        if target in {point.value for point in points}:
            return registry.part(contract.group, name, contract.setting.options)
    raise NotAsked("it is not installed under a name; ask with `vaepipe plugins check`")


def assert_refused(attempt: Callable[[], object], what: str) -> None:
    """`attempt` raises a ValueError (every error that users can mend is one), and nothing else."""
    try:
        attempt()
    except ValueError as error:
        assert str(error).strip(), f"{what} is refused without a word"
        return
    raise AssertionError(f"{what} is accepted")


def accepts(make: Callable[[], object], what: str) -> bool:
    """Does it build, rather than refuse with an error for users?

    Raises:
        AssertionError: it fails in another way.
    """
    try:
        make()
    except UserError as error:
        assert len(str(error)) > 20, f"{what} is refused without a reason"
        return False
    except Exception as error:
        raise AssertionError(
            f"{what}: {type(error).__name__}: {error}; expected a CompatibilityError that says "
            "what would fit"
        ) from error
    return True


def assert_same_after_state_dict(
    make: Callable[[], nn.Module], read: Callable[..., Tensor]
) -> None:
    """A second module that loads the first one's state gives the same numbers; so does a pickle."""
    first, second = shaken(make()), make()
    second.load_state_dict(first.state_dict())
    expected = read(first)
    for name, twin in {
        "state dict": second,
        "deep copy": copy.deepcopy(first),
        "pickle": pickle.loads(pickle.dumps(first)),
    }.items():
        assert torch.equal(read(twin), expected), f"{name}: other numbers after a round trip"


def shaken(module: M, size: float = 0.1) -> M:
    """The module with every parameter moved a little, so that it is no longer at its start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def assert_all_trained(module: nn.Module, value: Tensor) -> None:
    """Every parameter that asks for a gradient gets a finite one from `value`."""
    if value.requires_grad:
        value.sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def assert_every_feature_counts(value: Tensor, h: Tensor, what: str) -> None:
    """`value` depends on each of the features `h` `[batch, *feature]`, somewhere in the batch."""
    assert value.requires_grad, f"{what}: no gradient reaches the features"
    (gradient,) = torch.autograd.grad(value, h, allow_unused=True, retain_graph=True)
    assert gradient is not None, f"{what}: no gradient reaches the features"
    assert gradient.isfinite().all(), f"{what}: the gradient of the features is not finite"
    idle = int((gradient == 0).all(0).sum())
    assert not idle, f"{what}: {idle} of {h[0].numel()} features get no gradient"


def scalar_heads(h: Tensor, n: int) -> Tensor:
    """`n` copies of features `h` as independent leaves, so that gradients come one per draw."""
    return h.expand(n, *h.shape).clone().requires_grad_()


def assert_score_is_centred(draws: Callable[[Any], Distribution], h: Tensor, n: int) -> None:
    """E[d log p(x) / dh] = 0 for x ~ p: the sampler and the density are of one distribution."""
    leaves = scalar_heads(h, n)
    d = draws(leaves)
    d.log_prob(d.sample()).sum().backward()
    assert leaves.grad is not None, "log_prob gives the features no gradient"
    assert_mean(leaves.grad, 0.0, "the mean score")


def assert_seeded(draw: Callable[[], Tensor]) -> None:
    """The same seed of torch gives the same numbers, another seed others; no other generator."""
    with seeded(Stream(1)):
        one = draw()
    with seeded(Stream(1)):
        two = draw()
    assert torch.equal(one, two), "the same seed gives other numbers"


def batches(event: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes with no, one, two leading dimensions."""
    return [(*lead, *event) for lead in ((), (5,), (4, 5))]


def devices() -> list[str]:
    """Where else this machine can compute.

    Raises:
        Absent: nowhere.
    """
    if not torch.cuda.is_available():
        raise Absent("there is no GPU here")
    return ["cuda"]


def _minding_exemptions(name: str, question: Callable[..., None]) -> Callable[..., None]:
    """A question whose breach is expected where the component says so, and only there."""

    @functools.wraps(question)
    def put(self: Contract) -> None:
        reason = self.setting.exempt.get(words(name))
        if reason is None or name == "test_its_exemptions_name_questions":
            return question(self)
        try:
            question(self)
        except NotAsked:
            raise
        except Exception as error:
            raise Exempted(reason) from error
        raise AssertionError(f"it passes, so its exemption is out of date: {reason}")

    return put
