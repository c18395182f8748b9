"""Abstract or final; installed or not a component; public names written down."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
import torch

from vaepipe import core, registry
from vaepipe.core import Family, Likelihood, Network, Objective, Prior
from vaepipe.core.conditional import Head
from vaepipe.core.objective import JointObjective

INTERFACES = {
    "networks": Network,
    "families": Family,
    "likelihoods": Likelihood,
    "priors": Prior,
    "objectives": Objective,
}
MATHEMATICS = ("core", "families", "priors", "likelihoods", "objectives", "networks", "testing")


def modules(*packages):
    for package in packages:
        root = importlib.import_module(f"vaepipe.{package}")
        yield root
        for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            yield importlib.import_module(found.name)


def components(group):
    """Final classes that the package defines for a group."""
    return {
        f"{cls.__module__}:{cls.__qualname__}"
        for module in modules(group)
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, INTERFACES[group])
        and cls.__module__ == module.__name__
        and not inspect.isabstract(cls)
    }


@pytest.mark.parametrize("interface", [*INTERFACES.values(), Head, JointObjective])
def test_an_interface_cannot_be_instantiated(interface):
    with pytest.raises(TypeError, match="abstract"):
        interface()


@pytest.mark.parametrize("group", INTERFACES)
def test_components_and_entry_points_are_the_same_set(group):
    """If this fails after a change of pyproject.toml: install the package again."""
    points = [p for found in registry.available(group).values() for p in found]
    ours = {p.value for p in points if registry.distribution(p)[0] == "vaepipe"}
    assert ours == components(group)


@pytest.mark.parametrize("group", INTERFACES)
def test_components_are_final(group):
    for target in components(group):
        module, _, name = target.partition(":")
        assert getattr(getattr(importlib.import_module(module), name), "__final__", False), target


@pytest.mark.parametrize("group", INTERFACES)
def test_installed_components_implement_the_interface_of_their_group(group):
    for name in registry.available(group):
        assert issubclass(registry.load(group, name), INTERFACES[group])


@pytest.mark.parametrize("module", [core, importlib.import_module("vaepipe.testing")])
def test_public_names_are_written_down_sorted_and_complete(module):
    public = {
        n for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)
    }
    assert set(module.__all__) == public
    order = sorted(module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert list(module.__all__) == order


EXAMPLES = [
    test
    for module in modules(*MATHEMATICS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module)
    if test.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_examples_in_docstrings_run(example):
    """In single precision, as a reader would run them."""
    torch.set_default_dtype(torch.float32)
    report = []
    doctest.DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)


def test_names_and_errors_cost_no_torch():
    """What a command line needs before it knows what to do."""
    code = "import sys, vaepipe.registry, vaepipe.errors; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
