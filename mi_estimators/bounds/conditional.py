r"""Bounds made of log-densities of y given x: of a known channel, or of a model of it.

Where a whole matrix is wanted, ``log_conditional[i, j]`` is :math:`\log q(y_j \mid x_i)`, so that its diagonal holds
the pairs, as that of a matrix of scores does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.bounds.multisample import i_nce_loo
from mi_estimators.bounds.pairs import score_matrix
from mi_estimators.entropy.kde import BandwidthChoice, kde_entropy


def club(log_conditional: Tensor) -> Tensor:
    r"""CLUB: ``mean_i log q(y_i|x_i) - mean_{i != j} log q(y_j|x_i)``.

    With the true conditional density, an upper bound on the mutual information. The gap is
    :math:`\mathrm{KL}(p(x) p(y) \,\|\, p(x, y))`, which can be far larger than the mutual information itself. With a
    model (vCLUB) the expectation is an upper bound if and only if
    :math:`\mathrm{KL}(p(x, y) \,\|\, q(y \mid x) p(x)) \le \mathrm{KL}(p(x) p(y) \,\|\, q(y \mid x) p(x))`.

    Shape:
        - log_conditional: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision densities, else their dtype.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not square, fewer than two pairs, or values that are not finite.

    Source:
        Cheng et al. 2020 (arXiv 2006.12013), sec. 3; without the pairs i = j in the second mean, which bias it by 1/K.
    """
    logs = score_matrix(log_conditional, "log_conditional")
    k = logs.shape[0]
    negatives = logs.masked_fill(torch.eye(k, dtype=torch.bool, device=logs.device), 0.0)
    return logs.diagonal().mean() - negatives.sum() / (k * (k - 1))


def l1out(log_conditional: Tensor) -> Tensor:
    r"""Leave-one-out upper bound: ``mean_j( log q(y_j|x_j) - log mean_{i != j} q(y_j|x_i) )``.

    The marginal density of y is replaced by the mean of the conditional ones, the pair's own left out. With the true
    conditional density its expectation is an upper bound on the mutual information, by Jensen's inequality; with a
    model q it is neither.

    Shape:
        - log_conditional: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision densities, else their dtype.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not square, fewer than two pairs, or values that are not finite.

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 2.4.
    """
    return i_nce_loo(score_matrix(log_conditional, "log_conditional").T)


def _log_densities(name: str, value: Tensor) -> Tensor:
    _checks.floating(name, value, ndim=1)
    _checks.finite(name, value)
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def ba(log_conditional: Tensor, entropy: float | Tensor) -> Tensor:
    r"""Barber-Agakov lower bound: ``H(Y) + mean_i log q(y_i|x_i)``.

    The gap is the mean KL divergence of q from the true conditional density. A lower bound where ``entropy`` is exact
    or too small; with an estimate it is as biased as that. Unbiased for its q, with the variance of one log-density.

    Args:
        log_conditional: :math:`\log q(y_i \mid x_i)` of each pair.
        entropy: the differential entropy of y, in nats.

    Shape:
        - log_conditional: ``[K]``; entropy: ``[]``; output: ``[]``, nats.

    Raises:
        TypeError: not a floating-point tensor; ``entropy`` is neither a number nor a tensor.
        ValueError: another shape, or values that are not finite.

    Source:
        Barber and Agakov 2003; Poole et al. 2019 (arXiv 1905.06922), sec. 2.1.
    """
    logs = _log_densities("log_conditional", log_conditional)
    if isinstance(entropy, Tensor):
        if entropy.shape != ():
            raise ValueError(f"entropy: want no dimensions, got {_checks.describe(entropy)}")
    elif isinstance(entropy, bool) or not isinstance(entropy, (int, float)):
        raise TypeError(f"entropy: want a number or a tensor, got {_checks.describe(entropy)}")
    elif not -math.inf < entropy < math.inf:
        raise ValueError(f"entropy: want a finite number, got {entropy!r}")
    return entropy + logs.mean()


def doe(log_marginal: Tensor, log_conditional: Tensor) -> Tensor:
    r"""Difference of entropies: ``mean_i log q(y_i|x_i) - mean_i log r(y_i)``.

    Each term is a cross-entropy, an upper bound on one of the two entropies in :math:`I = H(Y) - H(Y \mid X)`; their
    difference is neither bound, and right where both models are. Not held by the limits on the confidence of lower
    bounds that the paper proves.

    Args:
        log_marginal: :math:`\log r(y_i)`.
        log_conditional: :math:`\log q(y_i \mid x_i)`.

    Shape:
        - both: ``[K]``; output: ``[]``, nats.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that differ, or values that are not finite.

    Source:
        McAllester and Stratos 2020 (arXiv 1811.04251), sec. 5.
    """
    marginal, conditional = (
        _log_densities("log_marginal", log_marginal),
        _log_densities("log_conditional", log_conditional),
    )
    _checks.alike("log_conditional", conditional, "log_marginal", marginal, same_shape=True)
    return conditional.mean() - marginal.mean()


def er(log_conditional: Tensor, y: Tensor, *, kernel: str = "gaussian", bandwidth: BandwidthChoice = "loo") -> Tensor:
    r"""Entropy-reconstruction bound: :func:`ba` with the entropy of the batch by a kernel density.

    A lower bound up to the error of that entropy, which leave-one-out makes too large rather than too small on average.
    :func:`mi_estimators.er_bound` is its form for representations, with densities that need no network.

    Args:
        log_conditional: :math:`\log q(y_i \mid x_i)` of each pair.
        y: the sample whose entropy is estimated.
        kernel: of the density, see :func:`~mi_estimators.kde_entropy`.
        bandwidth: as there.

    Shape:
        - log_conditional: ``[K]``; y: ``[K, d]``, K >= 2; output: ``[]``, nats.

    Raises:
        TypeError, ValueError: as :func:`ba` and :func:`~mi_estimators.kde_entropy`; numbers of rows that differ.

    Source:
        Rodríguez Gálvez et al. 2023 (arXiv 2307.10907), sec. 2.
    """
    logs = _log_densities("log_conditional", log_conditional)
    if y.shape[0] != logs.shape[0]:
        raise ValueError(f"y: want one row per density ({logs.shape[0]}), got {_checks.describe(y)}")
    return ba(logs, kde_entropy(y, kernel=kernel, bandwidth=bandwidth))
