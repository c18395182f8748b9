"""What a fitted model is worth, in nats, whatever it was trained on."""

from vaepipe.evaluation.collapse import collapse as collapse
from vaepipe.evaluation.evidence import Scores as Scores
from vaepipe.evaluation.evidence import score as score
from vaepipe.evaluation.evidence import summarise_weights as summarise_weights
from vaepipe.evaluation.validation import validate as validate

__all__ = ["Scores", "collapse", "score", "summarise_weights", "validate"]
