"""Few coordinates of x and of y that carry most of their dependence, and the KSG estimate between these."""

from __future__ import annotations

import math

import numpy as np

from mi_estimators import _checks
from mi_estimators.estimators import ksg
from mi_estimators.estimators.entropies import whitened
from mi_estimators.estimators.result import Measurement
from mi_estimators.estimators.scaling import scaled

EMBEDDINGS = ("cca", "pca")

_LEVEL = 0.01  # of the test for a further canonical correlation
_LARGEST = 5  # coordinates on either side that are chosen without being asked for


def significant(rho: np.ndarray, n: int, dim_x: int, dim_y: int) -> int:
    """How many canonical correlations differ from 0 at 1 %: the first for which the rest do not.

    Args:
        rho: all of them, largest first.
        n: pairs that they come from.
        dim_x: size of x.
        dim_y: size of y.

    Source:
        Bartlett 1941; Muirhead 1982, sec. 11.3.6.
    """
    from scipy.special import chdtrc

    for count in range(len(rho)):
        statistic = -(n - (dim_x + dim_y + 3) / 2) * float(np.log1p(-(rho[count:] ** 2)).sum())
        if chdtrc((dim_x - count) * (dim_y - count), statistic) > _LEVEL:
            return count
    return len(rho)


def _canonical(x: np.ndarray, y: np.ndarray, fit: np.ndarray, dim: int | None) -> list[np.ndarray]:
    """The leading canonical variables of both, by directions learned on the rows ``fit``, at all rows."""
    (basis_x, _), (basis_y, _) = whitened("x", x[fit]), whitened("y", y[fit])
    n = len(basis_x)
    left, rho, right = np.linalg.svd(basis_x.T @ basis_y / n)
    if dim is None:
        dim = min(_LARGEST, max(1, significant(rho.clip(0, 1 - 1e-12), n, x.shape[1], y.shape[1])))
    variables = []
    for side, basis, axes in ((x, basis_x, left), (y, basis_y, right.T)):
        known = side[fit] - side[fit].mean(axis=0)
        directions = np.linalg.lstsq(known, basis @ axes[:, :dim], rcond=None)[0]
        variables.append((side - side[fit].mean(axis=0)) @ directions)
    return variables


def _principal(name: str, values: np.ndarray, dim: int) -> np.ndarray:
    """The leading principal components of the standardised columns."""
    columns = scaled(name, values, np.arange(len(values)), "zscore")
    axes = np.linalg.eigh(columns.T @ columns)[1][:, ::-1]
    return columns @ axes[:, :dim]


def estimate(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, embedding: str = "cca", dim: int | None = None, k: int = 3
) -> Measurement:
    r"""KSG estimate between low-dimensional linear embeddings of x and of y, in nats.

    A function of x and one of y share no more information than x and y do, so but for the error of KSG this is a lower
    bound; it is tight where a few directions carry the dependence, which is when KSG on all coordinates fails.

    * ``"cca"``: the leading canonical variables. They are chosen to depend on each other, so directions are learned on
      one half of the pairs and the estimate taken on the other, then the reverse, and the mean of both reported.
    * ``"pca"``: the leading principal components of each variable by itself, without looking at the other one.

    The standard error is that of :func:`mi_estimators.estimators.ksg.estimate`.

    Args:
        x: ``[n, dim_x]`` float64.
        y: ``[n, dim_y]`` float64.
        seed: of the division in halves.
        embedding: ``"cca"`` or ``"pca"``.
        dim: size of either embedding; None for as many canonical correlations as differ from 0 at 1 %, by Bartlett's
            test, but at most 5 and at least 1; with ``"pca"`` for 3, or all where there are fewer.
        k: number of neighbours.

    Raises:
        TypeError: ``dim`` or ``k`` is not an integer.
        ValueError: ``dim`` is more than the columns of x or of y; an unknown embedding; with ``"cca"``, half of the
            pairs are no more than the columns of x and y together, or columns are linearly dependent; those of ksg.

    Source:
        Hotelling 1936; for embedding before KSG, Gowri et al. 2024 (arXiv 2409.02732), who learn the embedding.
    """
    n, most = len(x), min(x.shape[1], y.shape[1])
    _checks.choice("embedding", embedding, EMBEDDINGS)
    if dim is not None:
        _checks.count("dim", dim, 1, most, most_is="the smaller number of columns")
    if embedding == "pca":
        return ksg.estimate(*(_principal(name, side, dim or min(3, most)) for name, side in (("x", x), ("y", y))), k=k)
    if n // 2 <= x.shape[1] + y.shape[1]:  # where correlations of 1 come about by chance
        raise ValueError(
            f"x: want more than twice as many pairs as columns of x and y, {2 * (x.shape[1] + y.shape[1])}, for "
            f"embedding 'cca', got {n}; see 'pca'"
        )
    order = np.random.default_rng(seed).permutation(n)
    halves = order[: n // 2], order[n // 2 :]
    parts = []
    for fit, held_out in (halves, halves[::-1]):
        a, b = _canonical(x, y, fit, dim)
        parts.append(ksg.estimate(a[held_out], b[held_out], k=k))
    variance = sum((part.std or 0.0) ** 2 for part in parts)
    return Measurement(sum(part.value for part in parts) / 2, std=math.sqrt(variance) / 2)
