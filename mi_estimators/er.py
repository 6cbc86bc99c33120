r"""The entropy-reconstruction (ER) bound on mutual information.

.. math::
    I(Z_1; Z_2) \ge H(Z_2) + \mathbb E \log q(z_2 \mid z_1)

for any conditional density q; the gap is the mean KL divergence of q from the true conditional.
Source: arXiv 2307.10907, section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.contrastive import check_views
from mi_estimators.entropy.discrete import categorical_entropy, check_probabilities
from mi_estimators.entropy.kde import check_bandwidth, named_entropy, resolve_bandwidth
from mi_estimators.entropy.vmf import log_vmf_normalizer, vmf_concentration
from mi_estimators.ops.pairwise_lse import accumulated, without_autocast

SUPPORTS = ("sphere", "euclidean", "discrete")
KERNEL_OF = {"sphere": "vmf", "euclidean": "gaussian"}


@dataclass(frozen=True)
class ERBound:
    """An ER bound and its two terms, in nats; the tensors carry gradients.

    Attributes:
        value: entropy + reconstruction, a lower bound on I(Z1; Z2) up to the error of the entropy estimate.
        entropy: estimate of H(Z2).
        reconstruction: mean of log q(z2 | z1).
        cap: the largest value that any K pairs can give, or None where there is none: log K on the sphere with one
            concentration for both terms and the self term counted, log of the number of classes for the discrete
            support. Leaving the self term out removes that ceiling but adds no information: an estimate far above log K
            says that the batch is too small for it.
    """

    value: Tensor
    entropy: Tensor
    reconstruction: Tensor
    cap: float | None


def _sphere_reconstruction(z1: Tensor, z2: Tensor, kappa: float | Tensor | None) -> Tensor:
    cosine = (z1 * z2).sum(dim=1).mean()
    dim = z1.shape[1]
    if kappa is None:
        kappa = vmf_concentration(dim, float(cosine.detach()))
    return (kappa * cosine + log_vmf_normalizer(dim, kappa)).to(z1.dtype)


def _euclidean_reconstruction(z1: Tensor, z2: Tensor, sigma: float | Tensor | None) -> Tensor:
    dim = z1.shape[1]
    squared = (z1 - z2).square().sum(dim=1).mean()
    variance = (squared.detach() / dim).clamp_min(torch.finfo(z1.dtype).tiny) if sigma is None else sigma**2
    log_variance = torch.log(variance) if isinstance(variance, Tensor) else math.log(variance)
    return (-squared / (2 * variance) - dim / 2 * (math.log(2 * math.pi) + log_variance)).to(z1.dtype)


def _discrete_reconstruction(z1: Tensor, z2: Tensor) -> Tensor:
    # Smallest normal number, not an epsilon: a class that z1 rules out costs what it should, but not NaN.
    return (z2 * torch.log(z1.clamp_min(torch.finfo(z1.dtype).tiny))).sum(dim=1).mean()


def er_bound(
    z1: Tensor,
    z2: Tensor,
    *,
    support: str = "sphere",
    bandwidth: float | Tensor | str = "loo",
    reconstruction_bandwidth: float | Tensor | None = None,
    leave_one_out: bool = True,
    reduction: str = "joe",
    normalizer: str = "exact",
    normalize: bool = True,
) -> ERBound:
    r"""Entropy-reconstruction bound :math:`I(Z_1; Z_2) \ge H(Z_2) + \mathbb E \log q(z_2 \mid z_1)` of paired points.

    ======================  ==========================================  =============================================
    support                 :math:`H(Z_2)`                              :math:`q(z_2 \mid z_1)`
    ======================  ==========================================  =============================================
    ``"sphere"``            von Mises-Fisher KDE                        :math:`C_d(\kappa) e^{\kappa z_1 \cdot z_2}`
    ``"euclidean"``         Gaussian KDE                                :math:`\mathcal N(z_2; z_1, \sigma^2 I)`
    ``"discrete"``          entropy of the mean of the rows of z2       :math:`\prod_k z_{1k}^{z_{2k}}` (categorical)
    ======================  ==========================================  =============================================

    All densities are normalised exactly, so the value is in nats and can be compared with other bounds.

    Args:
        z1: what predicts: unit vectors, points, or rows of probabilities, by ``support``.
        z2: what is predicted, row i belonging to row i of ``z1``.
        support: ``"sphere"``, ``"euclidean"`` or ``"discrete"``.
        bandwidth: of the entropy's kernel: a number, a one-element tensor, or a rule (see
            :func:`~mi_estimators.entropy.kde_log_density`). The concentration :math:`\kappa` on the sphere.
        reconstruction_bandwidth: :math:`\kappa` or :math:`\sigma` of q. ``None`` takes ``bandwidth`` where that is a
            number or tensor (as the paper does), else the maximum-likelihood value, which makes the bound tightest.
        leave_one_out, reduction, normalizer: of the entropy estimate, see :func:`~mi_estimators.entropy.kde_entropy`.
        normalize: with ``"sphere"``, scale rows to unit length first.

    Shape:
        - z1, z2: :math:`(K, d)`, :math:`K \ge 2`; Output: an :class:`ERBound` of scalars. Nats.

    Raises:
        TypeError, ValueError: not floating-point matrices of one shape, dtype and device; fewer than two pairs; NaN or
            infinite values; a bandwidth <= 0; rows that are no probabilities, or on the sphere not of length 1 (with
            ``normalize``: zero); an unknown support.

    Source: arXiv 2307.10907, eq. 3 and section 3.
    """
    _checks.choice("support", support, SUPPORTS)
    check_views("z1", z1, "z2", z2, minimum=2)
    if support == "discrete":
        check_probabilities("z1", z1)
        check_probabilities("z2", z2)
    else:
        check_bandwidth(bandwidth, KERNEL_OF[support])
        if reconstruction_bandwidth is not None:
            _checks.positive("reconstruction_bandwidth", reconstruction_bandwidth)  # a value: no rule by name here
            check_bandwidth(reconstruction_bandwidth, KERNEL_OF[support], "reconstruction_bandwidth")
        elif not isinstance(bandwidth, str):
            reconstruction_bandwidth = bandwidth
    if support == "sphere":
        if z1.shape[1] < 2:
            raise ValueError(f"z1: want at least 2 dimensions on the sphere, got {_checks.describe(z1)}")
        if not normalize:
            _checks.unit_rows("z1", z1)
            _checks.unit_rows("z2", z2)
    with without_autocast(z1):
        z1, z2 = accumulated(z1, z2)
        if support == "discrete":
            entropy, reconstruction = categorical_entropy(z2), _discrete_reconstruction(z1, z2)
            return ERBound(entropy + reconstruction, entropy, reconstruction, math.log(z2.shape[1]))

        if support == "sphere" and normalize:
            z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        entropy = named_entropy("z2", z2, KERNEL_OF[support], bandwidth, leave_one_out, reduction, normalizer)
        shared = reconstruction_bandwidth is bandwidth
        if reconstruction_bandwidth is not None:
            reconstruction_bandwidth = resolve_bandwidth(reconstruction_bandwidth, z2, KERNEL_OF[support])
        term = _sphere_reconstruction if support == "sphere" else _euclidean_reconstruction
        reconstruction = term(z1, z2, reconstruction_bandwidth)
        capped = support == "sphere" and shared and not leave_one_out and reduction == "joe" and normalizer == "exact"
        return ERBound(entropy + reconstruction, entropy, reconstruction, math.log(z2.shape[0]) if capped else None)
