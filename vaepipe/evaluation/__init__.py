"""What a fitted model is worth, in nats, whatever it was trained on."""

from vaepipe.evaluation.aggregate import Surgery as Surgery
from vaepipe.evaluation.aggregate import surgery as surgery
from vaepipe.evaluation.annealing import Annealing as Annealing
from vaepipe.evaluation.annealing import ais as ais
from vaepipe.evaluation.annealing import bdmc as bdmc
from vaepipe.evaluation.collapse import Diagnosis as Diagnosis
from vaepipe.evaluation.collapse import collapse as collapse
from vaepipe.evaluation.collapse import diagnose as diagnose
from vaepipe.evaluation.evidence import Scores as Scores
from vaepipe.evaluation.evidence import joined as joined
from vaepipe.evaluation.evidence import score as score
from vaepipe.evaluation.gaps import Gaps as Gaps
from vaepipe.evaluation.gaps import gaps as gaps
from vaepipe.evaluation.validation import estimate_evidence as estimate_evidence
from vaepipe.evaluation.validation import examine as examine
from vaepipe.evaluation.validation import validate as validate
from vaepipe.evaluation.weights import Weights as Weights
from vaepipe.evaluation.weights import summarise_weights as summarise_weights

__all__ = [
    "Annealing",
    "Diagnosis",
    "Gaps",
    "Scores",
    "Surgery",
    "Weights",
    "ais",
    "bdmc",
    "collapse",
    "diagnose",
    "estimate_evidence",
    "examine",
    "gaps",
    "joined",
    "score",
    "summarise_weights",
    "surgery",
    "validate",
]
