"""What every component promises, as test classes: write `make`, get the tests.

    class TestStudentT(PriorContract):
        def make(self, latent_shape, data):
            return StudentTPrior(latent_shape, data, df=4.0)

They need no test runner: `questions` and `ask` put them to any object, and `contract_of` makes one
for an installed component.
"""

from vaepipe.testing.contracts.base import Absent as Absent
from vaepipe.testing.contracts.base import Contract as Contract
from vaepipe.testing.contracts.base import Exempted as Exempted
from vaepipe.testing.contracts.base import NotAsked as NotAsked
from vaepipe.testing.contracts.base import ask as ask
from vaepipe.testing.contracts.base import questions as questions
from vaepipe.testing.contracts.dataset import DatasetContract as DatasetContract
from vaepipe.testing.contracts.family import FamilyContract as FamilyContract
from vaepipe.testing.contracts.installed import CONTRACTS as CONTRACTS
from vaepipe.testing.contracts.installed import contract_of as contract_of
from vaepipe.testing.contracts.likelihood import LikelihoodContract as LikelihoodContract
from vaepipe.testing.contracts.network import NetworkContract as NetworkContract
from vaepipe.testing.contracts.objective import ObjectiveContract as ObjectiveContract
from vaepipe.testing.contracts.prior import PriorContract as PriorContract

__all__ = [
    "CONTRACTS",
    "Absent",
    "Contract",
    "DatasetContract",
    "Exempted",
    "FamilyContract",
    "LikelihoodContract",
    "NetworkContract",
    "NotAsked",
    "ObjectiveContract",
    "PriorContract",
    "ask",
    "contract_of",
    "questions",
]
