"""The signature is the schema: options of a constructor, read from its annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import pytest
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import ValidationError

from vaepipe import options, registry, wording
from vaepipe.errors import PluginError, UserError
from vaepipe.registry import PartSpec

if TYPE_CHECKING:
    from fractions import Fraction


class Everything:
    """A constructor with one option of every kind."""

    def __init__(
        self,
        latent_shape: Unknown,  # noqa: F821  # not an option: it need not be readable
        *,
        whole: Annotated[int, Ge(1)] = 1,
        number: Annotated[float, Gt(0), Le(1)] = 0.5,
        flag: bool = False,
        word: Literal["relu", "tanh"] = "relu",
        text: str = "",
        path: Path | None = None,
        widths: Sequence[Annotated[int, Ge(1)]] = (8,),
        pair: tuple[float, float] = (0.9, 0.999),
        splits: Mapping[str, float] = {},
        scale: Annotated[float, Gt(0)] | Literal["learned"] = 1.0,
        limit: Optional[int] = None,  # noqa: UP045
        mixed: int | list[int] | None = None,
        anything: Any = None,
        copy: bool = True,
        model_dump: int = 0,
    ) -> None: ...


class Required:
    def __init__(self, *, names: Annotated[list[str], MinLen(2)], k: int) -> None: ...


def check(cls, **given):
    return options.model(cls).model_validate(given).model_dump(mode="json", by_alias=True)


def message(cls, **given):
    with pytest.raises(ValidationError) as caught:
        check(cls, **given)
    (fault,) = wording.faults(caught.value)
    return fault.loc, fault.message


def test_defaults_are_filled_in_as_plain_data():
    made = check(Everything)
    assert list(made)[:2] == ["whole", "number"]
    assert (made["widths"], made["pair"], made["splits"]) == ([8], [0.9, 0.999], {})


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"number": "1e-4"}, 1e-4),
        ({"number": 1}, 1.0),
        ({"scale": "1e-4"}, 1e-4),
        ({"scale": "learned"}, "learned"),
        ({"pair": ["0.5", 1]}, [0.5, 1.0]),
        ({"splits": {"train": 1}}, {"train": 1.0}),
        ({"mixed": [1, 2]}, [1, 2]),
        ({"mixed": 3}, 3),
        ({"anything": {"deep": [1]}}, {"deep": [1]}),
        ({"path": "s3://bucket//x"}, "s3://bucket//x"),
        ({"copy": False}, False),
        ({"model_dump": 3}, 3),
    ],
)
def test_values_become_what_the_annotation_says(given, value):
    (name,) = given
    assert check(Everything, **given)[name] == value


@pytest.mark.parametrize(
    ("given", "loc", "text"),
    [
        ({"whole": "ten"}, ("whole",), "expected an integer, got 'ten'"),
        ({"whole": "10"}, ("whole",), "expected an integer, got '10'"),
        ({"whole": True}, ("whole",), "expected an integer, got true"),
        ({"whole": 1.0}, ("whole",), "expected an integer, got 1.0"),
        ({"whole": None}, ("whole",), "expected an integer, got null"),
        ({"whole": 0}, ("whole",), "must be at least 1, got 0"),
        ({"number": True}, ("number",), "expected a number, got true"),
        ({"number": "fast"}, ("number",), "expected a number, got 'fast'"),
        ({"number": "0"}, ("number",), "must be greater than 0, got 0.0"),
        ({"number": 2}, ("number",), "must be at most 1, got 2"),
        ({"number": float("nan")}, ("number",), "expected a finite number, got NaN"),
        ({"flag": 1}, ("flag",), "expected true or false, got 1"),
        ({"flag": "yes"}, ("flag",), "expected true or false, got 'yes'"),
        (
            {"word": "rely"},
            ("word",),
            "expected 'relu' or 'tanh', got 'rely'. Did you mean 'relu'?",
        ),
        ({"text": 3}, ("text",), "expected text, got 3"),
        ({"path": 3}, ("path",), "expected text, got 3"),
        ({"widths": 8}, ("widths",), "expected a list, got 8"),
        ({"widths": "8"}, ("widths",), "expected a list, got '8'"),
        ({"widths": [8, 0]}, ("widths", 1), "must be at least 1, got 0"),
        ({"pair": [1.0]}, ("pair", 1), "missing; the list is too short"),
        ({"pair": [1.0, 2.0, 3.0]}, ("pair",), "takes at most 2 items, got [1.0, 2.0, 3.0]"),
        ({"splits": [1]}, ("splits",), "expected a mapping, got [1]"),
        ({"splits": {"val": "x"}}, ("splits", "val"), "expected a number, got 'x'"),
        ({"scale": 0}, ("scale",), "must be greater than 0, got 0"),
        (
            {"scale": "lerned"},
            ("scale",),
            "expected a number greater than 0 or 'learned', got 'lerned'. Did you mean 'learned'?",
        ),
        ({"limit": "x"}, ("limit",), "expected an integer, got 'x'"),
        ({"mixed": "x"}, ("mixed",), "expected an integer or a list of integers, got 'x'"),
        ({"mixed": [1, "x"]}, ("mixed", 1), "expected an integer, got 'x'"),
        ({"wohle": 3}, ("wohle",), "unknown field 'wohle'. Did you mean 'whole'?"),
    ],
)
def test_what_is_wrong_is_told(given, loc, text):
    assert message(Everything, **given) == (loc, text)


def test_the_inner_names_of_options_are_no_options():
    assert message(Everything, option_flag=True)[1].startswith(
        "unknown field 'option_flag'. Known:"
    )


def test_long_values_are_not_repeated():
    assert message(Everything, whole=list(range(100)))[1] == "expected an integer, got a long list"
    assert len(message(Everything, whole="x" * 1000)[1]) < 100


def test_required_options():
    assert message(Required, k=3) == (("names",), "missing; expected a list of text")
    assert message(Required, k=3, names=["a"]) == (("names",), 'needs at least 2 items, got ["a"]')


def test_a_component_without_options():
    class Plain:
        pass

    assert check(Plain) == {}
    assert message(Plain, k=3) == (("k",), "unknown field 'k'. Known: none.")


def test_options_in_words():
    words = {each["name"]: each["expects"] for each in options.describe(Everything)}
    assert words["whole"] == "an integer at least 1"
    assert words["number"] == "a number greater than 0 and at most 1"
    assert words["widths"] == "a list of integers, each at least 1"
    assert words["path"] == "a path or null"
    assert words["mixed"] == "an integer, a list of integers or null"
    (names, _) = options.describe(Required)
    assert names == {
        "name": "names",
        "expects": "a list of text",
        "required": True,
        "default": None,
    }


@pytest.mark.parametrize("parameter", ["**kwargs", "*args"])
def test_a_constructor_names_every_option(parameter):
    made = {}
    exec(f"class Loose:\n def __init__(self, {parameter}): ...", made)
    with pytest.raises(PluginError, match=r"names every option as a keyword-only parameter"):
        options.model(made["Loose"])


def test_every_option_has_an_annotation():
    class Bare:
        def __init__(self, *, k=3): ...

    with pytest.raises(PluginError, match="option 'k' has no annotation"):
        options.model(Bare)


def test_an_annotation_must_be_importable():
    class Hidden:
        def __init__(self, *, k: Fraction): ...

    with pytest.raises(PluginError, match="name 'Fraction' is not defined"):
        options.model(Hidden)


def test_an_annotation_must_fit_in_a_file():
    class Wild:
        def __init__(self, *, device: threading.Lock | None = None): ...  # noqa: F821

    Wild.__init__.__annotations__["device"] = type("Device", (), {})
    with pytest.raises(PluginError, match="an annotation that no file can express"):
        options.model(Wild)


def test_type_is_no_name_for_an_option():
    class Taken:
        def __init__(self, *, type: str = "x"): ...  # noqa: A002

    with pytest.raises(PluginError, match="an option cannot be called 'type'"):
        options.model(Taken)


class TestValidate:
    def test_a_part_gets_all_its_options(self):
        part = options.validate(registry.part("priors", "vamp"))
        assert part.options["components"] >= 1
        assert PartSpec.from_dict(part.to_dict()) == part

    def test_it_is_idempotent(self):
        once = options.validate(registry.part("networks", "mlp", {"hidden": (3,)}))
        assert options.validate(once) == once

    def test_every_mistake_is_a_line(self):
        part = registry.part("priors", "vamp", {"components": 0, "componnts": 3})
        with pytest.raises(UserError) as caught:
            options.validate(part)
        assert str(caught.value).splitlines() == [
            "priors 'vamp': components: must be at least 1, got 0",
            "priors 'vamp': componnts: unknown field 'componnts'. Did you mean 'components'?",
        ]


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (group, name)
        for group in registry.GROUPS
        for name, points in registry.available(group).items()
        if len(points) == 1
    ],
)
def test_every_installed_component_has_options_that_a_file_can_hold(group, name):
    cls = registry.load(group, name)
    assert options.schema(cls)["additionalProperties"] is False
    assert all(each["expects"] != "a value" for each in options.describe(cls))
