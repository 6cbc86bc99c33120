"""Entropy of categorical variables: of distributions, differentiable, and of samples, corrected for their number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulated

CORRECTIONS = ("miller_madow", "chao_shen", "nsb")

_PANEL_DROPS = (1.0, 4.0, 12.0, 40.0)  # where an integral is cut, in nats below the integrand's maximum
_PANEL_NODES = 40


def check_probabilities(name: str, value: Tensor) -> None:
    """Check for rows that are probability vectors, to the rounding of their dtype."""
    _checks.floating(name, value)
    _checks.finite(name, value)
    if not _checks.concrete(value):
        return
    slack = 16 * torch.finfo(value.dtype).eps
    sums = value.detach().to(torch.float64).sum(dim=1)
    if bool((value < -slack).any()) or bool(((sums - 1).abs() > slack * value.shape[1] ** 0.5).any()):
        raise ValueError(f"{name}: want rows of probabilities that sum to 1, got rows that do not")


def categorical_entropy(probabilities: Tensor) -> Tensor:
    r"""Entropy of the mixture of a batch of categorical distributions, :math:`-\sum_k m_k \log m_k`.

    :math:`m` is the mean of the rows; :math:`0 \log 0 = 0`, exactly and with a zero gradient.

    Shape:
        - probabilities: :math:`(N, K)`, rows sum to 1; Output: scalar. Nats, at most :math:`\log K`. float32 for half
          inputs.

    Raises:
        TypeError, ValueError: not a floating-point matrix of probabilities.

    Source: the entropy term of the discrete ER bound, arXiv 2307.10907, section 3.
    """
    check_probabilities("probabilities", probabilities)
    (probabilities,) = accumulated(probabilities)
    return torch.special.entr(probabilities.mean(dim=0)).sum()


# ------------------------------------------------------------------------------------------------- from samples


def _counts_of_samples(samples: object) -> np.ndarray:
    """How often each distinct sample occurs; of a matrix, each distinct row."""
    array = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"samples: want one or two dimensions and at least one sample, got shape {array.shape}")
    if array.dtype.kind not in "iubUSO":
        raise TypeError(
            f"samples: want integers or labels, got {array.dtype}; for continuous data see histogram_entropy"
        )
    if array.dtype.kind == "O":  # labels of mixed kinds need not have an order
        rows = array.tolist() if array.ndim == 1 else [tuple(row) for row in array.tolist()]
        seen: dict[Any, int] = {}
        for row in rows:
            seen[row] = seen.get(row, 0) + 1
        return np.array(list(seen.values()))
    return np.unique(array, return_counts=True, axis=0)[1]


def _checked_counts(counts: object) -> np.ndarray:
    if isinstance(counts, Iterable) and not isinstance(counts, (Tensor, np.ndarray)):
        counts = list(counts)  # NumPy takes a view of a dictionary's values for one object
    array = counts.detach().cpu().numpy() if isinstance(counts, Tensor) else np.asarray(counts)
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool((array == np.floor(array)).all()))
    if not whole:
        raise TypeError(f"counts: want whole numbers, got {array.dtype} values that are not")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"counts: want one dimension and at least one count, got shape {array.shape}")
    if not (array >= 0).all() or not 0 < array.sum() < math.inf:
        raise ValueError("counts: want finite counts >= 0, at least one of them above 0, got others")
    return array


def discrete_entropy(
    samples: Tensor | np.ndarray | Sequence[Any] | None = None,
    *,
    counts: Tensor | np.ndarray | Iterable[int] | None = None,
    correction: str | None = None,
    num_classes: int | None = None,
) -> Tensor:
    r"""Entropy of a categorical variable from samples of it, or from the counts of its classes.

    With :math:`n_k` samples of class k out of n, :math:`\hat p_k = n_k / n`, and m classes seen:

    ==================  =============================================================================================
    correction          estimate
    ==================  =============================================================================================
    ``None``            plug-in, :math:`-\sum_k \hat p_k \log \hat p_k`: too small by about (m - 1) / 2n on average
    ``"miller_madow"``  plug-in :math:`+ (m - 1) / 2n`
    ``"chao_shen"``     :math:`-\sum_k \tilde p_k \log \tilde p_k / (1 - (1 - \tilde p_k)^n)`,
                        :math:`\tilde p = (1 - f_1 / n) \hat p` with :math:`f_1` the classes seen once: allows for
                        classes not seen, of unknown number
    ``"nsb"``           posterior mean under a mixture of symmetric Dirichlet priors on ``num_classes`` classes that
                        makes the entropy itself nearly uniform beforehand: for fewer samples than classes
    ==================  =============================================================================================

    If every sample is of a class of its own, Chao and Shen's coverage would be 0; as is usual, one such class is then
    taken to have been seen twice.

    Args:
        samples: labels: integers of a tensor or array, or a sequence of integers, strings or other hashable values.
            Rows of a matrix are joint labels.
        counts: in place of samples, how often each class was seen.
        correction: ``None``, ``"miller_madow"``, ``"chao_shen"`` or ``"nsb"``.
        num_classes: the number K of classes that there are, seen or not. Wanted by ``"nsb"``, used by nothing else.

    Shape:
        - samples: :math:`(N,)` or :math:`(N, d)`; counts: :math:`(K,)`; Output: scalar, float64, on the CPU. Nats.
          Not differentiable; see :func:`categorical_entropy` for probabilities.

    Raises:
        TypeError: samples that are neither integers nor labels; counts that are not whole numbers.
        ValueError: both or neither of ``samples`` and ``counts``; none at all; negative counts; an unknown
            correction; ``num_classes`` missing for ``"nsb"``, or less than the classes seen.

    Source: Miller (1955); Chao and Shen (2003), eq. 6; Nemenman, Shafee and Bialek (2002), arXiv physics/0108025,
    eqs. 8 and 9.
    """
    if (samples is None) == (counts is None):
        raise ValueError(f"samples, counts: want one of them, got {'neither' if samples is None else 'both'}")
    if correction is not None:
        _checks.choice("correction", correction, CORRECTIONS)
    n_k = _checked_counts(counts) if samples is None else _counts_of_samples(samples)
    n_k = n_k[n_k > 0].astype(np.float64)
    if num_classes is not None:
        _checks.count("num_classes", num_classes)
        if num_classes < len(n_k):
            raise ValueError(f"num_classes: want at least the {len(n_k)} classes seen, got {num_classes}")
    n = n_k.sum()
    if correction == "nsb":
        if num_classes is None:
            raise ValueError("num_classes: want the number of classes for correction 'nsb', got None")
        return torch.tensor(_nsb(n_k, num_classes), dtype=torch.float64)
    if correction == "chao_shen":
        once = (n_k == 1).sum()
        shares = (1 - (once if once < n else once - 1) / n) * n_k / n
        # expm1 and log1p: the chance to be seen at all keeps its digits for rare classes; certain ones give 1.
        with np.errstate(divide="ignore"):
            seen = -np.expm1(n * np.log1p(-shares))
        return torch.tensor(0.0 - (shares * np.log(shares) / seen).sum(), dtype=torch.float64)
    entropy = plug_in(n_k)
    if correction == "miller_madow":
        entropy += miller_madow(n_k)
    return torch.tensor(entropy, dtype=torch.float64)


def plug_in(n_k: np.ndarray) -> float:
    """The entropy of the shares of positive counts."""
    n = n_k.sum()
    return float(math.log(n) - (n_k * np.log(n_k)).sum() / n)


def miller_madow(n_k: np.ndarray) -> float:
    """What Miller and Madow add to the plug-in entropy of positive counts."""
    return float((len(n_k) - 1) / (2 * n_k.sum()))


def _log_rising_excess(x: np.ndarray, n: Any) -> np.ndarray:
    """log of Gamma(x + n) / (Gamma(x) x^n), also where x is so large that the logarithms of the two agree."""
    from scipy.special import gammaln

    def series(z: np.ndarray) -> np.ndarray:
        return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * z**2)) / z**2) / z**2) / z

    large = np.maximum(x, 30.0)
    stirling = (large + n - 0.5) * np.log1p(n / large) - n + series(large + n) - series(large)
    return np.where(x < 30.0, gammaln(x + n) - gammaln(x) - n * np.log(x), stirling)


def _nsb(n_k: np.ndarray, num_classes: int) -> float:
    r"""Posterior mean of the entropy under Nemenman, Shafee and Bialek's prior.

    The prior is a mixture over :math:`\beta` of symmetric Dirichlet distributions, weighted such that the mean entropy
    :math:`\xi(\beta) = \psi(K\beta + 1) - \psi(\beta + 1)` is uniform on :math:`[0, \log K]`. Integrals over
    :math:`u = \log \beta` are taken by Gauss and Legendre's rule between the places where the integrand has fallen by
    given amounts below its maximum, so that a narrow posterior and the exponential tails of a flat one are both met.
    """
    from scipy.optimize import brentq, minimize_scalar
    from scipy.special import digamma, polygamma

    if num_classes == 1:
        return 0.0
    values, repeats = np.unique(n_k, return_counts=True)  # classes of one count contribute alike
    n, unseen = n_k.sum(), num_classes - len(n_k)

    def log_weight(u: Any) -> Any:
        """Log of likelihood times prior density, by u."""
        beta = np.exp(np.asarray(u, dtype=np.float64))[..., None]
        likelihood = (repeats * _log_rising_excess(beta, values)).sum(-1, keepdims=True)
        likelihood = likelihood - _log_rising_excess(num_classes * beta, n)  # and a constant
        share = 1 / num_classes
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            slope = np.where(  # d xi / d beta; its two parts cancel where beta is large
                beta < 1e3,
                num_classes * polygamma(1, num_classes * beta + 1) - polygamma(1, beta + 1),
                (1 - share) / (2 * beta**2) - (1 - share**2) / (6 * beta**3) + (1 - share**4) / (30 * beta**5),
            )
        return (likelihood + np.log(slope) + np.log(beta))[..., 0]

    def mean_entropy(u: np.ndarray) -> np.ndarray:
        beta = np.exp(u)[:, None]
        total = n + num_classes * beta
        seen = (repeats * (values + beta) * digamma(values + beta + 1)).sum(axis=1)
        return digamma(total[:, 0] + 1) - (seen + unseen * beta[:, 0] * digamma(beta[:, 0] + 1)) / total[:, 0]

    grid = np.linspace(-30.0, 20.0, 201)
    heights = log_weight(grid)
    best = int(heights.argmax())
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    peak = minimize_scalar(lambda u: -float(log_weight(u)), bounds=around, method="bounded", options={"xatol": 1e-10}).x
    top = float(log_weight(peak))

    edges = [peak]
    for side in (-1.0, 1.0):
        for drop in _PANEL_DROPS:

            def fallen(u: float, drop: float = drop) -> float:
                return float(log_weight(u)) - top + drop

            end, reach = peak, 1e-3
            while abs(end) < 200 and fallen(end) > 0:
                end, reach = peak + side * reach, 2 * reach
            edges.append(brentq(fallen, peak, end) if fallen(end) < 0 else end)
    edges.sort()
    nodes, node_weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    above, below = 0.0, 0.0
    for left, right in itertools.pairwise(edges):
        u = (left + right) / 2 + (right - left) / 2 * nodes
        weights = (right - left) / 2 * node_weights * np.exp(log_weight(u) - top)
        above += float((weights * mean_entropy(u)).sum())
        below += float(weights.sum())
    return above / below
