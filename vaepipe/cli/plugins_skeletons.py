"""What `vaepipe plugins new` writes: a small component of each group that keeps its contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Template


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """The parts of a package that depend on the group."""

    suffix: str
    contract: str
    make: str
    use: str
    code: str


def files(group: str, name: str) -> dict[str, str]:
    """The files of a package for a component `name`, as text.

    Example:
        >>> sorted(files("priors", "cauchy"))
        ['README.md', 'pyproject.toml', 'test_cauchy.py', 'vaepipe_cauchy.py']
    """
    skeleton = GROUPS[group]
    module = f"vaepipe_{name}"
    base = "".join(word.capitalize() for word in name.split("_"))
    words = {
        "group": group,
        "name": name,
        "package": module.replace("_", "-"),
        "module": module,
        "cls": base if base.endswith(skeleton.suffix) else base + skeleton.suffix,
        "base": base,
        "contract": skeleton.contract,
    }
    words["make"] = Template(skeleton.make).substitute(words)
    words["use"] = Template(skeleton.use).substitute(words)
    texts = {
        "README.md": _README,
        "pyproject.toml": _PROJECT,
        f"test_{name}.py": _TEST,
        f"{module}.py": skeleton.code,
    }
    return {path: Template(text).substitute(words) for path, text in texts.items()}


_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$package"
version = "0.1.0"
description = "The component $name of $group, for vaepipe."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["vaepipe"]

[project.entry-points."vaepipe.$group"]
$name = "$module:$cls"

[tool.setuptools]
py-modules = ["$module"]
"""

_README = """\
# $package

The component `$name` of `$group` for vaepipe: what it computes, and where that is written.

```
pip install -e .
```

```yaml
$use
```

| | |
|---|---|
| `$module.py` | the component; its keyword-only parameters are the options in files |
| `pyproject.toml` | the entry point `$name` in the group `vaepipe.$group` |
| `test_$name.py` | the contract that vaepipe ships for $group, asked of this one |

`pytest` and `vaepipe plugins check $group $name` ask the same questions.
"""

_TEST = '''\
"""The contract of $group, asked of `$name`."""

from $module import $cls

from vaepipe.testing import $contract


class Test$base($contract):
    """Every question is a test; add your own beside them."""

$make
'''

_PRIOR = '''\
"""A prior for vaepipe."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Gt
from torch.distributions import Independent, Laplace

from vaepipe.core import Conditional, DataSpec, Prior, PriorDraw


@final
class $cls(Prior):
    """p(z) = prod_d Laplace(z_d; 0, b_d), with learned scales.

        log p(z) = -sum_d |z_d| / b_d + log(2 b_d)

    Args:
        latent_shape: shape of z.
        data: ignored.
        scale: b at the start, for every dimension.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = $cls((2,), DataSpec((4,), SUPPORTS["real"], 100))
        >>> prior(None).z.sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, latent_shape: tuple[int, ...], data: DataSpec, *, scale: Annotated[float, Gt(0)] = 1.0
    ) -> None:
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.full(latent_shape, scale).log())

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        scale = self.log_scale.exp()
        return PriorDraw(Independent(Laplace(torch.zeros_like(scale), scale), scale.ndim))
'''

_FAMILY = '''\
"""A posterior for vaepipe."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Gt
from torch import Tensor
from torch.distributions import Independent, Laplace
from torch.nn.functional import softplus

from vaepipe.core import Cap, Family


@final
class $cls(Family):
    """q(z | x) = prod_d Laplace(z_d; mu_d, b_d), with features (mu, raw b).

        z = mu + b e,   e ~ Laplace(0, 1),   b = softplus(raw) + floor

    Args:
        latent_shape: shape of z.
        floor: the smallest scale, which keeps the density finite.

    Example:
        >>> import torch
        >>> q = $cls((3,))(torch.zeros(5, 2, 3))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(
        self, latent_shape: tuple[int, ...], *, floor: Annotated[float, Gt(0)] = 1e-4
    ) -> None:
        super().__init__()
        self.ndim = len(latent_shape)
        self.floor = floor
        self.feature_shape = (2, *latent_shape)

    def forward(self, h: Tensor) -> Independent:
        """q(z | h) for features `h` `[*batch, 2, *latent]`."""
        loc, raw = h.unbind(-1 - self.ndim)
        return Independent(Laplace(loc, softplus(raw) + self.floor), self.ndim)
'''

_LIKELIHOOD = '''\
"""A likelihood for vaepipe."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Gt
from torch import Tensor
from torch.distributions import Independent, StudentT, constraints

from vaepipe.core import DataSpec, Likelihood


@final
class $cls(Likelihood):
    """p(x | z) = prod_i StudentT(x_i; df, mu_i, s), normaliser included, with a learned s.

    The features are mu. Heavy tails forgive outliers, which a Gaussian would chase.

    Args:
        data: shape of x.
        df: degrees of freedom.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = $cls(DataSpec((2,), SUPPORTS["real"], 1))
        >>> head(torch.zeros(3, 2)).log_prob(torch.zeros(2)).shape
        torch.Size([3])
    """

    support = constraints.real

    def __init__(self, data: DataSpec, *, df: Annotated[float, Gt(2)] = 5.0) -> None:
        super().__init__()
        self.feature_shape = tuple(data.shape)
        self.df = df
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for means `h` `[*batch, *x]`."""
        scale = self.log_scale.exp().expand_as(h)
        return Independent(StudentT(self.df, h, scale), len(self.feature_shape))
'''

_OBJECTIVE = '''\
"""An objective for vaepipe."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    StepContext,
    log_mean_exp,
    log_terms,
)


@final
class $cls(JointObjective):
    """E log (1/k) sum_i w_i,   w_i = p(x, z_i) / q(z_i | x),   z_i ~ q(z | x).

    `bound` is what is reported, `surrogate` what is differentiated: they are two fields because
    they may be two things.

    Args:
        k: draws of z per example.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY
    conformance = {"same_bound_as": {"type": "iwae", "k": 5}}

    def __init__(self, *, k: Annotated[int, Ge(1)] = 5) -> None:
        super().__init__()
        self.k = k

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        q, p = model.inference(x), model.p_z()
        log_lik, rate = log_terms(model, x, q.rsample((self.k,)), p, q)  # [k, batch]
        bound = log_mean_exp(log_lik - rate) - p.global_kl / ctx.num_examples
        terms = {"log_lik": log_lik.detach().mean(0), "rate": rate.detach().mean(0)}
        return Estimate(bound.detach(), -bound.mean(), terms)
'''

_NETWORK = '''\
"""A network for vaepipe."""

from __future__ import annotations

from math import prod
from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor, nn

from vaepipe.core import Network


@final
class $cls(Network):
    """h = W_2 tanh(W_1 v + b_1) + W_3 v + b_3: one hidden layer beside an affine map.

    Args:
        in_shape: event shape of the input, flattened.
        out_shape: event shape of the features.
        hidden: width of the hidden layer.

    Example:
        >>> import torch
        >>> $cls((28, 28), (2, 40))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 80])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        *,
        hidden: Annotated[int, Ge(1)] = 128,
    ) -> None:
        super().__init__()
        self.bent = nn.Sequential(
            nn.Linear(prod(in_shape), hidden),
            nn.Tanh(),
            nn.Linear(hidden, prod(out_shape), bias=False),
        )
        self.straight = nn.Linear(prod(in_shape), prod(out_shape))

    def forward(self, v: Tensor) -> Tensor:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        flat = v.flatten(1)
        return self.bent(flat) + self.straight(flat)
'''

_DATASET = '''\
"""A dataset for vaepipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, final

import numpy as np
import pyarrow as pa
import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core import SUPPORTS, DataSpec, Purpose, stream
from vaepipe.data.schema import record
from vaepipe.datasets.base import Dataset, Uniform


@final
class $cls(Dataset):
    """Points on a noisy circle: x = (cos a, sin a) + 0.1 e.

    Splits: the first 80 % of the rows train, 10 % val, 10 % test.

    Args:
        rows: how many points there are.
        seed: of the points.
    """

    def __init__(
        self, *, rows: Annotated[int, Ge(10)] = 1000, seed: Annotated[int, Ge(0)] = 0
    ) -> None:
        """Nothing is made yet."""
        self._rows, self._seed = rows, seed

    @property
    def spec(self) -> DataSpec:
        """Two real numbers."""
        return DataSpec((2,), SUPPORTS["real"], len(self._ids("train")))

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test."""
        return ("train", "val", "test")

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id` and `x`."""
        own = stream(self._seed, Purpose.PLUGIN, "$cls")
        rng = np.random.default_rng(own.word)
        angle, noise = rng.uniform(0, 2 * np.pi, self._rows), rng.normal(size=(self._rows, 2))
        x = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * noise
        ids = self._ids(split)
        yield record(ids, x[ids].astype(np.float32))

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """The numbers as they are."""
        return x.to(torch.get_default_dtype())

    def describe(self) -> Mapping[str, str]:
        """What a reader of a result must know."""
        return {"rows": str(self._rows), "seed": str(self._seed)}

    def _ids(self, split: str) -> np.ndarray:
        edges = {"train": (0, 8), "val": (8, 9), "test": (9, 10)}[split]
        first, last = (edge * self._rows // 10 for edge in edges)
        return np.arange(first, last)
'''

GROUPS: Mapping[str, _Skeleton] = {
    "datasets": _Skeleton(
        "Dataset",
        "DatasetContract",
        "    def make(self):\n        return $cls()",
        "stages:\n  rows: {kind: data, dataset: {type: $name}}",
        _DATASET,
    ),
    "families": _Skeleton(
        "Family",
        "FamilyContract",
        "    def make(self, latent_shape):\n        return $cls(latent_shape)",
        "model:\n  family: {type: $name}",
        _FAMILY,
    ),
    "likelihoods": _Skeleton(
        "Likelihood",
        "LikelihoodContract",
        "    def make(self, data):\n        return $cls(data)",
        "model:\n  likelihood: {type: $name}",
        _LIKELIHOOD,
    ),
    "networks": _Skeleton(
        "Network",
        "NetworkContract",
        "    def make(self, in_shape, out_shape):\n        return $cls(in_shape, out_shape)",
        "model:\n  encoder: {type: $name}",
        _NETWORK,
    ),
    "objectives": _Skeleton(
        "Objective",
        "ObjectiveContract",
        "    def make(self):\n        return $cls()",
        "objective: {type: $name}",
        _OBJECTIVE,
    ),
    "priors": _Skeleton(
        "Prior",
        "PriorContract",
        "    def make(self, latent_shape, data):\n        return $cls(latent_shape, data)",
        "model:\n  prior: {type: $name}",
        _PRIOR,
    ),
}
"""The groups that have a skeleton."""
