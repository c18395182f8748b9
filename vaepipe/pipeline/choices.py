"""Settings whose fields depend on a `type`: optimisers, searches, schedulers."""

from __future__ import annotations

from typing import Annotated, Literal, final

from annotated_types import Ge, Lt

from vaepipe.options import Flag, Integer, Number, Settings
from vaepipe.pipeline.fields import Count, Positive, Whole


class Optimizer(Settings):
    """What optimisers have in common."""

    lr: Positive = 1e-3
    """The learning rate after the warm-up."""
    weight_decay: Annotated[Number, Ge(0)] = 0.0
    schedule: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    """How the learning rate falls over the steps."""
    warmup_steps: Whole = 0
    """Steps over which the learning rate rises to `lr`."""
    clip: Positive | None = None
    """The largest norm of the gradient; null: as it is."""
    normalize: Flag = False
    """Whether the gradient of every tensor is divided by its norm (Tomczak and Welling, 2018)."""


Fraction = Annotated[Number, Ge(0), Lt(1)]


class AdamLike(Optimizer):
    """What Adam and its kin have in common."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8


@final
class Adam(AdamLike):
    """Kingma and Ba (2015)."""

    type: Literal["adam"] = "adam"


@final
class AdamW(AdamLike):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    type: Literal["adamw"] = "adamw"
    weight_decay: Annotated[Number, Ge(0)] = 0.01


@final
class Adamax(AdamLike):
    """Adam with the infinity norm (Kingma and Ba, 2015, section 7.1)."""

    type: Literal["adamax"] = "adamax"


@final
class RMSprop(Optimizer):
    """Gradients over the root of their mean square."""

    type: Literal["rmsprop"] = "rmsprop"
    momentum: Annotated[Number, Ge(0)] = 0.0
    eps: Positive = 1e-8
    centered: Flag = False
    """Whether the variance of the gradients takes the place of their mean square."""


@final
class SGD(Optimizer):
    """Stochastic gradient ascent of the objective, with momentum."""

    type: Literal["sgd"] = "sgd"
    momentum: Annotated[Number, Ge(0)] = 0.0


OPTIMIZERS: dict[str, type[Settings]] = {
    "adam": Adam,
    "adamax": Adamax,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "sgd": SGD,
}


@final
class RandomSearch(Settings):
    """Independent draws; trial i depends on the seed and on i alone."""

    type: Literal["random"] = "random"


@final
class GridSearch(Settings):
    """Every combination, in order."""

    type: Literal["grid"] = "grid"


@final
class OptunaSearch(Settings):
    """Tree-structured Parzen estimators (Bergstra et al., 2011), by Optuna."""

    type: Literal["optuna"] = "optuna"
    startup: Count = 10
    """Trials that are drawn at random before the first estimate."""


@final
class NoScheduler(Settings):
    """Every trial runs to its end."""

    type: Literal["none"] = "none"


@final
class Asha(Settings):
    """Asynchronous successive halving (Li et al., 2020)."""

    type: Literal["asha"] = "asha"
    grace_epochs: Count = 1
    """Epochs before a trial may be stopped."""
    reduction: Annotated[Integer, Ge(2)] = 3
    """One in so many trials goes on at each rung."""


@final
class MedianRule(Settings):
    """Stops what is worse than the median of the others (Golovin et al., 2017)."""

    type: Literal["median"] = "median"
    grace_epochs: Count = 1
    """Epochs before a trial may be stopped."""


SEARCHES: dict[str, type[Settings]] = {
    "random": RandomSearch,
    "grid": GridSearch,
    "optuna": OptunaSearch,
}
SCHEDULERS: dict[str, type[Settings]] = {"none": NoScheduler, "asha": Asha, "median": MedianRule}
