"""Draws from mixtures that carry exact gradients although a choice was made on the way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal


def through_mixture(z: Tensor, logits: Tensor, normals: Normal) -> Tensor:
    """Draws z of a mixture of factorised Normals, with their implicit gradients.

        S_d(z; phi) = sum_k r_k^d Phi((z_d - mu_kd) / sigma_kd),   r_k^d = p(k | z_1 ... z_{d-1})
        dz/dphi = -(dS/dz)^-1 dS/dphi

    S, the chain of conditional distribution functions, makes a uniform vector of z. Holding that
    vector still moves z with the parameters phi: logits, means and scales alike. dS/dz is lower
    triangular. Figurnov, Mohamed and Mnih (2018), section 3; Graves (2016).

    To change a weight is to move mass through the gap between components, where the density is
    smallest and dz/dphi largest: the gradient is unbiased, but from about 8 standard deviations of
    distance on it is made of draws that never come. `stratified` draws have no such gap.

    Args:
        z: draws `[*sample, *batch, d]`, constants.
        logits: of the weights, `[*batch, K]`.
        normals: components, `[*batch, K, d]`.

    Returns:
        The same numbers, which depend on logits, means and scales to first order.
    """
    if not torch.is_grad_enabled():
        return z
    value = z.detach().double().unsqueeze(-2)
    loc, scale = normals.loc.double(), normals.scale.double()
    white = (value - loc) / scale  # [*sample, *batch, K, d]
    log_each = -0.5 * white.square() - scale.log()
    before = log_each.cumsum(-1) - log_each + logits.double().unsqueeze(-1)
    r, cdf = before.softmax(-2), torch.special.ndtr(white)
    s = (r * cdf).sum(-2)
    with torch.no_grad():
        jacobian = _jacobian(r, cdf, log_each, -white / scale)
    moved = torch.linalg.solve_triangular(jacobian, (s - s.detach()).unsqueeze(-1), upper=False)
    return z.detach() - moved.squeeze(-1).to(z.dtype)


def _jacobian(r: Tensor, cdf: Tensor, log_each: Tensor, slope: Tensor) -> Tensor:
    """dS_d/dz_i `[*, d, d]`: the conditional density for i = d, what r^d feels of z_i for i < d.

    dS_d/dz_i = sum_k r_k^d Phi_kd (g_ki - sum_l r_l^d g_li),   g_ki = d log N_ki / dz_i
    """
    density = (r * (log_each.exp() / (2 * torch.pi) ** 0.5)).sum(-2)
    joint = torch.einsum("...kd,...ki->...di", r * cdf, slope)
    apart = (r * cdf).sum(-2).unsqueeze(-1) * torch.einsum("...kd,...ki->...di", r, slope)
    return (joint - apart).tril(-1) + torch.diag_embed(density)
