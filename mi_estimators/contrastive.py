"""Contrastive losses: InfoNCE and NT-Xent on the pairwise log-sum-exp, without the matrix of similarities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulated, unchecked_pairwise_lse, without_autocast

REDUCTIONS = ("mean", "sum", "none")


def check_views(first_name: str, first: Tensor, second_name: str, second: Tensor, minimum: int) -> None:
    """Check for two batches of paired points: same shape, dtype and device, finite, at least ``minimum`` pairs."""
    _checks.floating(first_name, first)
    _checks.floating(second_name, second)
    _checks.alike(second_name, second, first_name, first, same_shape=True)
    if first.shape[0] < minimum:
        raise ValueError(f"{first_name}: want at least {minimum} pairs, got {_checks.describe(first)}")
    _checks.finite(first_name, first)
    _checks.finite(second_name, second)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return losses.mean()
    return losses.sum() if reduction == "sum" else losses


def check_temperature(temperature: float | Tensor) -> None:
    """Check for a finite number > 0, or a tensor with one such element."""
    _checks.positive("temperature", temperature)
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise ValueError(f"temperature: want a number or one element, got {_checks.describe(temperature)}")


def _inverse(temperature: float | Tensor, like: Tensor) -> Tensor:
    """The scale 1 / temperature, as one tensor for positives and log-sum-exp alike."""
    if isinstance(temperature, Tensor):
        return 1 / temperature.to(device=like.device, dtype=like.dtype).reshape(())
    return torch.full((), 1 / temperature, dtype=like.dtype, device=like.device)


def _sides(x: Tensor, y: Tensor, normalize: bool) -> tuple[Tensor, ...]:
    """Both sides in the accumulation dtype, of unit length if asked.

    Half types are widened before anything else: the gradients of a positive and of its log-sum-exp nearly cancel, and
    would lose all their digits if each were rounded to half first.
    """
    sides = accumulated(x, y)
    return tuple(F.normalize(side, dim=1) for side in sides) if normalize else sides


def info_nce(
    x: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    symmetric: bool = True,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""InfoNCE loss of paired points: each x_i has to pick its y_i out of the batch.

    .. math::
        \ell_i = -\log \frac{e^{x_i \cdot y_i / \tau}}{\sum_{j} e^{x_i \cdot y_j / \tau}}

    With ``symmetric``, the mean of that and of the same with the roles of x and y exchanged (CLIP's loss), from one
    pass over the pairs. :math:`\log K - \ell` is a lower bound on the mutual information for :math:`K` independent
    pairs, and never exceeds :math:`\log K`. Memory is O(K d); the K x K similarities are not stored. Half types,
    also under autocast, are widened to float32 first.

    Args:
        x: first view.
        y: second view, row i belonging to row i of ``x``.
        temperature: :math:`\tau > 0`, a number or a one-element tensor, which may require a gradient.
        symmetric: average both directions.
        normalize: scale rows to unit length first, so that products are cosines.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        - x, y: :math:`(K, d)`; Output: scalar, or :math:`(K,)` with ``reduction="none"``. Nats. float32 for half
          inputs.

    Raises:
        TypeError, ValueError: not floating-point matrices of one shape, dtype and device; an empty batch; NaN or
            infinite values; ``temperature <= 0`` or NaN; an unknown reduction.

    Source: van den Oord et al. (2018), eq. 4; as a bound, arXiv 1907.13625, eq. 4.
    """
    _checks.choice("reduction", reduction, REDUCTIONS)
    check_views("x", x, "y", y, minimum=1)
    check_temperature(temperature)
    with without_autocast(x):
        x, y = _sides(x, y, normalize)
        scale = _inverse(temperature, x)
        positives = scale * (x * y).sum(dim=1)
        lse = unchecked_pairwise_lse(x, y, scale=scale, columns=symmetric)
        return _reduce((0.5 * (lse[0] + lse[1]) if symmetric else lse) - positives, reduction)


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""NT-Xent, the loss of SimCLR: among the 2K views, each has to pick its partner, itself left out.

    .. math::
        \ell_i = -\log \frac{e^{z_i \cdot z_{p(i)} / \tau}}{\sum_{k \ne i} e^{z_i \cdot z_k / \tau}},
        \qquad z = [z_1; z_2]

    The 2K x 2K similarities are not stored. The candidates come in dependent pairs (both views of every other sample)
    and include views of the anchor's own role, so :math:`\log(2K-1) - \ell` is no bound on the mutual information, as
    InfoNCE's is.

    Args:
        z1: first view.
        z2: second view, row i belonging to row i of ``z1``.
        temperature: :math:`\tau > 0`, a number or a one-element tensor.
        normalize: scale rows to unit length first.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        - z1, z2: :math:`(K, d)`; Output: scalar, or :math:`(2K,)` with ``reduction="none"``. Nats.

    Raises:
        TypeError, ValueError: as :func:`info_nce`.

    Source: Chen et al. (2020), eq. 1; arXiv 2307.10907, section 4, on what it means for mutual information.
    """
    _checks.choice("reduction", reduction, REDUCTIONS)
    check_views("z1", z1, "z2", z2, minimum=1)
    check_temperature(temperature)
    with without_autocast(z1):
        z1, z2 = _sides(z1, z2, normalize)
        scale = _inverse(temperature, z1)
        positives = scale * (z1 * z2).sum(dim=1)
        lse = unchecked_pairwise_lse(torch.cat([z1, z2]), scale=scale, exclude_diagonal=True)
        return _reduce(lse - torch.cat([positives, positives]), reduction)
