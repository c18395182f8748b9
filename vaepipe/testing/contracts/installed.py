"""The contract of any installed component, by its name."""

from __future__ import annotations

from typing import Any

from vaepipe import registry
from vaepipe.errors import UnknownComponent
from vaepipe.testing.contracts.base import Contract
from vaepipe.testing.contracts.dataset import DatasetContract
from vaepipe.testing.contracts.family import FamilyContract
from vaepipe.testing.contracts.likelihood import LikelihoodContract
from vaepipe.testing.contracts.network import NetworkContract
from vaepipe.testing.contracts.objective import ObjectiveContract
from vaepipe.testing.contracts.prior import PriorContract
from vaepipe.testing.setting import Setting

CONTRACTS: dict[str, type[Contract]] = {
    "datasets": DatasetContract,
    "families": FamilyContract,
    "likelihoods": LikelihoodContract,
    "networks": NetworkContract,
    "objectives": ObjectiveContract,
    "priors": PriorContract,
}
"""Which contract the components of a group keep."""


def contract_of(group: str, name: str, **options: Any) -> Contract:
    """The group's contract, made of the component of this name with these options.

    Options that the component declares for its check (`Setting.options`) stand under them.

    Raises:
        UnknownComponent: nothing has this name, or the group has no contract.

    Example:
        >>> from vaepipe.testing.contracts.base import ask
        >>> ask(contract_of("priors", "standard_normal"), "test_its_mass_is_one")
    """
    if group not in CONTRACTS:
        raise UnknownComponent(f"{group} have no contract. These have: {', '.join(CONTRACTS)}.")
    declared = Setting.of(registry.load(group, name)).options
    part = registry.part(group, name, {**declared, **options})
    inside = {"make": _builder(part), "part": part}
    return type(f"Installed{name.title()}", (CONTRACTS[group],), inside)()


def _builder(part: registry.PartSpec) -> Any:
    return lambda self, *args: part.build(*args)
