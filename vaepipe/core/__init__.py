"""The vocabulary of the mathematics: distributions, conditionals, models, objectives.

Needs torch and nothing else. A component imports its names from here.
"""

from vaepipe.core.assemble import build as build
from vaepipe.core.assemble import check as check
from vaepipe.core.batch import WholeBatch as WholeBatch
from vaepipe.core.conditional import Conditional as Conditional
from vaepipe.core.conditional import Family as Family
from vaepipe.core.conditional import Head as Head
from vaepipe.core.conditional import Likelihood as Likelihood
from vaepipe.core.conditional import Network as Network
from vaepipe.core.divergence import has_closed_form as has_closed_form
from vaepipe.core.divergence import rate as rate
from vaepipe.core.divergence import rate_per_dimension as rate_per_dimension
from vaepipe.core.draws import OwnDraws as OwnDraws
from vaepipe.core.draws import join_draws as join_draws
from vaepipe.core.gradients import frozen as frozen
from vaepipe.core.gradients import log_mean_exp as log_mean_exp
from vaepipe.core.gradients import scale_gradient as scale_gradient
from vaepipe.core.implicit import through_mixture as through_mixture
from vaepipe.core.mixture import Mixture as Mixture
from vaepipe.core.mixture import log_prob_each as log_prob_each
from vaepipe.core.model import DRAWS_AT_ONCE as DRAWS_AT_ONCE
from vaepipe.core.model import MOMENT_DRAWS as MOMENT_DRAWS
from vaepipe.core.model import LatentModel as LatentModel
from vaepipe.core.model import centre as centre
from vaepipe.core.noise import by_row as by_row
from vaepipe.core.noise import replayed as replayed
from vaepipe.core.noise import row_uniform as row_uniform
from vaepipe.core.noise import seeded as seeded
from vaepipe.core.objective import Estimate as Estimate
from vaepipe.core.objective import JointObjective as JointObjective
from vaepipe.core.objective import Objective as Objective
from vaepipe.core.objective import Phase as Phase
from vaepipe.core.objective import StepContext as StepContext
from vaepipe.core.objective import log_terms as log_terms
from vaepipe.core.objective import log_weights as log_weights
from vaepipe.core.perceptron import ACTIVATIONS as ACTIVATIONS
from vaepipe.core.perceptron import Activation as Activation
from vaepipe.core.perceptron import Perceptron as Perceptron
from vaepipe.core.prior import Prior as Prior
from vaepipe.core.prior import PriorDraw as PriorDraw
from vaepipe.core.refine import refine as refine
from vaepipe.core.rehearsal import Assembly as Assembly
from vaepipe.core.rehearsal import examples as examples
from vaepipe.core.rehearsal import rehearse as rehearse
from vaepipe.core.relaxed import BinaryConcrete as BinaryConcrete
from vaepipe.core.relaxed import Concrete as Concrete
from vaepipe.core.relaxed import LogSimplex as LogSimplex
from vaepipe.core.scales import positive as positive
from vaepipe.core.scales import raw_of as raw_of
from vaepipe.core.spec import SUPPORTS as SUPPORTS
from vaepipe.core.spec import Cap as Cap
from vaepipe.core.spec import DataSpec as DataSpec
from vaepipe.core.spec import Moments as Moments
from vaepipe.core.spec import Part as Part
from vaepipe.core.spec import Shape as Shape
from vaepipe.core.spec import categories as categories
from vaepipe.core.spec import provided as provided
from vaepipe.core.spec import within as within
from vaepipe.core.strata import log_over_strata as log_over_strata
from vaepipe.core.strata import over_strata as over_strata
from vaepipe.core.strata import strata_weights as strata_weights
from vaepipe.core.strata import stratified as stratified
from vaepipe.core.streams import Purpose as Purpose
from vaepipe.core.streams import Stream as Stream
from vaepipe.core.streams import row_seed as row_seed
from vaepipe.core.streams import stream as stream
from vaepipe.core.structured import Chain as Chain
from vaepipe.core.structured import ConditionalNormal as ConditionalNormal
from vaepipe.core.structured import layer_sizes as layer_sizes
from vaepipe.core.structured import normal as normal
from vaepipe.core.units import LogUnits as LogUnits
from vaepipe.core.units import Units as Units
from vaepipe.core.units import count_units as count_units
from vaepipe.core.units import units_of as units_of

__all__ = [
    "ACTIVATIONS",
    "DRAWS_AT_ONCE",
    "MOMENT_DRAWS",
    "SUPPORTS",
    "Activation",
    "Assembly",
    "BinaryConcrete",
    "Cap",
    "Chain",
    "Concrete",
    "Conditional",
    "ConditionalNormal",
    "DataSpec",
    "Estimate",
    "Family",
    "Head",
    "JointObjective",
    "LatentModel",
    "Likelihood",
    "LogSimplex",
    "LogUnits",
    "Mixture",
    "Moments",
    "Network",
    "Objective",
    "OwnDraws",
    "Part",
    "Perceptron",
    "Phase",
    "Prior",
    "PriorDraw",
    "Purpose",
    "Shape",
    "StepContext",
    "Stream",
    "Units",
    "WholeBatch",
    "build",
    "by_row",
    "categories",
    "centre",
    "check",
    "count_units",
    "examples",
    "frozen",
    "has_closed_form",
    "join_draws",
    "layer_sizes",
    "log_mean_exp",
    "log_over_strata",
    "log_prob_each",
    "log_terms",
    "log_weights",
    "normal",
    "over_strata",
    "positive",
    "provided",
    "rate",
    "rate_per_dimension",
    "raw_of",
    "refine",
    "rehearse",
    "replayed",
    "row_seed",
    "row_uniform",
    "scale_gradient",
    "seeded",
    "strata_weights",
    "stratified",
    "stream",
    "through_mixture",
    "units_of",
    "within",
]
