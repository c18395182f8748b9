"""For the tests of components: contracts that they keep, models whose evidence is known."""

from vaepipe.testing.contracts import CONTRACTS as CONTRACTS
from vaepipe.testing.contracts import Absent as Absent
from vaepipe.testing.contracts import Contract as Contract
from vaepipe.testing.contracts import DatasetContract as DatasetContract
from vaepipe.testing.contracts import Exempted as Exempted
from vaepipe.testing.contracts import FamilyContract as FamilyContract
from vaepipe.testing.contracts import LikelihoodContract as LikelihoodContract
from vaepipe.testing.contracts import NetworkContract as NetworkContract
from vaepipe.testing.contracts import NotAsked as NotAsked
from vaepipe.testing.contracts import ObjectiveContract as ObjectiveContract
from vaepipe.testing.contracts import PriorContract as PriorContract
from vaepipe.testing.contracts import ask as ask
from vaepipe.testing.contracts import contract_of as contract_of
from vaepipe.testing.contracts import questions as questions
from vaepipe.testing.exact import PPCA as PPCA
from vaepipe.testing.exact import Enumeration as Enumeration
from vaepipe.testing.exact import binary_codes as binary_codes
from vaepipe.testing.exact import evidence as evidence
from vaepipe.testing.exact import grid as grid
from vaepipe.testing.report import Answer as Answer
from vaepipe.testing.report import answer as answer
from vaepipe.testing.report import examine as examine
from vaepipe.testing.setting import Setting as Setting
from vaepipe.testing.statistics import assert_mean as assert_mean
from vaepipe.testing.statistics import assert_same_mean as assert_same_mean
from vaepipe.testing.statistics import figures as figures
from vaepipe.testing.statistics import gradients as gradients
from vaepipe.testing.statistics import z_scores as z_scores

__all__ = [
    "CONTRACTS",
    "PPCA",
    "Absent",
    "Answer",
    "Contract",
    "DatasetContract",
    "Enumeration",
    "Exempted",
    "FamilyContract",
    "LikelihoodContract",
    "NetworkContract",
    "NotAsked",
    "ObjectiveContract",
    "PriorContract",
    "Setting",
    "answer",
    "ask",
    "assert_mean",
    "assert_same_mean",
    "binary_codes",
    "contract_of",
    "evidence",
    "examine",
    "figures",
    "gradients",
    "grid",
    "questions",
    "z_scores",
]
