"""The Householder-Sylvester posterior."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import normalize

from vaepipe.core import Cap, Family, Shape, positive
from vaepipe_flows.flow import Affine, Flow, Step
from vaepipe_flows.solve import increasing_root

_INSIDE = 1 - 1e-3


@final
class Sylvester(Family):
    """q(z | x) by Sylvester flow in a basis of Householder reflections.

        z_0 = mu + sigma * e,   z_t = z_{t-1} + Q R tanh(S Q^T z_{t-1} + b)
        log |det dz_t/dz_{t-1}| = sum_i log (1 + (1 - tanh^2)_i R_ii S_ii)

    Van den Berg et al. (2018), sections 3 and 4, with as many directions as latent dimensions.
    R and S are upper triangular; their diagonals are 0.999 tanh of features, so R_ii S_ii > -1 and
    every step can be inverted. Q is a product of reflections I - 2 v v^T / |v|^2. All of it comes
    from the features: (mu, raw sigma) and, of each step, the vectors v (plus unit vectors), the
    diagonals, the strict triangles divided by sqrt(d), and b.

    The density of any z is that of the inverse: d roots of increasing functions a step, one after
    the other.

    Args:
        latent_shape: shape of z.
        steps: number of steps T.
        reflections: number of reflections in Q.

    Example:
        >>> head = Sylvester((3,), steps=2, reflections=4)
        >>> q = head(torch.zeros(5, *head.feature_shape))
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7, 5])
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY
    places: Tensor
    units: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        *,
        steps: Annotated[int, Ge(1)] = 4,
        reflections: Annotated[int, Ge(1)] = 8,
    ) -> None:
        super().__init__()
        self.latent_shape, self.d = tuple(latent_shape), math.prod(latent_shape)
        d, triangle = self.d, self.d * (self.d - 1) // 2
        self.steps, self.reflections = steps, reflections
        self.sizes = [reflections * d, d, triangle, d, triangle, d]
        self.feature_shape = (2 * d + steps * sum(self.sizes),)
        self.register_buffer("places", torch.triu_indices(d, d, offset=1), persistent=False)
        units = torch.eye(d)[torch.arange(reflections) % d]
        self.register_buffer("units", units, persistent=False)

    def forward(self, h: Tensor) -> Flow:
        """q(z | h) for features `h` `[*batch, *feature_shape]`."""
        loc, exact = h[..., : self.d], lambda: self._steps(h.double())
        return Flow(self._steps(h), loc, self.latent_shape, exact)

    def _steps(self, h: Tensor) -> list[Step]:
        d = self.d
        loc, raw, rest = h.split([d, d, h.shape[-1] - 2 * d], -1)
        each = rest.unflatten(-1, (self.steps, -1)).unbind(-2)
        return [Affine(loc, positive(raw)), *map(self._step, each)]

    def _step(self, h: Tensor) -> Step:
        v, r_diagonal, r_above, s_diagonal, s_above, b = h.split(self.sizes, -1)
        v = normalize(v.unflatten(-1, (self.reflections, self.d)) + self.units, dim=-1, eps=1e-6)
        r, s = self._upper(r_diagonal, r_above), self._upper(s_diagonal, s_above)
        return Bend(v.unbind(-2), r, s, b)

    def _upper(self, diagonal: Tensor, above: Tensor) -> Tensor:
        """The triangular matrix `[*batch, d, d]`."""
        matrix = torch.diag_embed(_INSIDE * diagonal.tanh())
        rows, columns = self.places
        matrix[..., rows, columns] = above / math.sqrt(self.d)
        return matrix


@final
class Bend(Step):
    """z = u + Q R tanh(S Q^T u + b).

    Args:
        v: unit vectors `[*batch, d]` of the reflections whose product is Q.
        r: upper triangular, `[*batch, d, d]`.
        s: upper triangular, `[*batch, d, d]`, with r_ii s_ii > -1.
        b: `[*batch, d]`.
    """

    def __init__(self, v: tuple[Tensor, ...], r: Tensor, s: Tensor, b: Tensor) -> None:
        self.v, self.r, self.s, self.b = v, r, s, b
        self.diagonal = (r * s).diagonal(dim1=-2, dim2=-1)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z and its log-determinant."""
        y = _reflect(u, self.v)  # Q^T u
        bent = (_times(self.s, y) + self.b).tanh()
        return u + _reflect(_times(self.r, bent), self.v[::-1]), self._log_det(bent)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Solve y + R tanh(S y + b) = Q^T z, then u = Q y."""
        target = _reflect(z, self.v)
        root = _back_substitute(self.r, self.s, self.b, target)
        bent = (_times(self.s, root) + self.b).tanh()
        gap = root + _times(self.r, bent) - target
        y = root - self._newton(gap, bent.detach())
        bent = (_times(self.s, y) + self.b).tanh()
        return _reflect(y, self.v[::-1]), self._log_det(bent)

    def _newton(self, gap: Tensor, bent: Tensor) -> Tensor:
        """(I + R diag(1 - tanh^2) S)^-1 gap, the matrix a constant."""
        jacobian = (self.r.detach() * (1 - bent.square()).unsqueeze(-2)) @ self.s.detach()
        jacobian = jacobian + torch.eye(gap.shape[-1], dtype=gap.dtype, device=gap.device)
        return torch.linalg.solve_triangular(jacobian, gap.unsqueeze(-1), upper=True).squeeze(-1)

    def _log_det(self, bent: Tensor) -> Tensor:
        return torch.log1p((1 - bent.square()) * self.diagonal).sum(-1)


@torch.no_grad()
def _back_substitute(r: Tensor, s: Tensor, b: Tensor, target: Tensor) -> Tensor:
    """y `[*, d]` with y + R tanh(S y + b) = target, from the last coordinate to the first.

    Coordinate i, given those after it, solves an increasing equation in one unknown.
    """
    r64, s64, b64, t64 = (v.double() for v in (r, s, b, target))
    y, bent = torch.zeros_like(t64), torch.zeros_like(t64)
    for i in reversed(range(target.shape[-1])):
        known = t64[..., i] - (r64[..., i, :] * bent).sum(-1)
        shift = (s64[..., i, :] * y).sum(-1) + b64[..., i]
        y[..., i] = _root(known, shift, r64[..., i, i], s64[..., i, i])
        bent[..., i] = (s64[..., i, i] * y[..., i] + shift).tanh()
    return y.to(target.dtype)


def _root(known: Tensor, shift: Tensor, r: Tensor, s: Tensor) -> Tensor:
    """a + r tanh(s a + shift) = known: a is within |r| of `known`."""
    return increasing_root(
        lambda a: a + r * torch.tanh(s * a + shift) - known, known, r.abs().expand_as(known)
    )


def _reflect(z: Tensor, v: tuple[Tensor, ...]) -> Tensor:
    """Reflect z in the hyperplanes normal to each unit vector, the first one first."""
    for normal in v:
        z = z - 2 * normal * (normal * z).sum(-1, keepdim=True)
    return z


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    """M v for `[*batch, d, d]` and `[*lead, *batch, d]`."""
    return torch.einsum("...ij,...j->...i", matrix, v)
