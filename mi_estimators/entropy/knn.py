r"""Entropy from distances to nearest neighbours: the Kozachenko-Leonenko estimator, and KoLeo, its training form.

Which point is whose neighbour is found without a gradient; the distance to it is then computed again from the two
points, and carries the gradient. That gradient is exact wherever no two neighbours are equally far.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulated, without_autocast

METRICS = ("max", "euclidean")

TREE_DIM = 12  # trees visit nearly every point beyond this many dimensions
_BLOCK_ELEMENTS = 1 << 22  # distances held at a time
_SLACK = 8  # candidates beside the k wanted, as distances from products order close ones wrongly


def neighbours_by_tree(points: np.ndarray, k: int, *, metric: str = "max", workers: int = 1) -> np.ndarray:
    """Of each point the indices ``[n, k]`` of its k nearest others, the nearest first."""
    # Not at the top: SciPy's modules would take most of the time of `import mi_estimators`.
    from scipy.spatial import cKDTree

    order = math.inf if metric == "max" else 2
    indices = cKDTree(points).query(points, k=k + 1, p=order, workers=workers)[1]
    # The point itself is among its neighbours, but not always first where others coincide with it.
    itself = indices == np.arange(len(points))[:, None]
    itself[~itself.any(axis=1), -1] = True
    return indices[~itself].reshape(len(points), k)


def _by_blocks(x: Tensor, others: Tensor, k: int, metric: str) -> Tensor:
    """Row i of ``others`` is ``x_i`` itself; it may have further rows."""
    centre = others.mean(dim=0)
    x, others = x - centre, others - centre
    squares = others.square().sum(dim=1)
    parts = []
    m = len(others)
    rows = max(1, _BLOCK_ELEMENTS // max(m, (k + _SLACK) * x.shape[1]))
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        if metric == "max":
            distances = torch.cdist(block, others, p=math.inf)
        else:
            distances = torch.addmm(squares, block, others.T, alpha=-2)  # squared, less |x_i|^2
        here = torch.arange(len(block), device=x.device)
        distances[here, here + start] = math.inf
        if metric == "max":
            parts.append(distances.topk(k, dim=1, largest=False).indices[:, -1])
            continue
        candidates = distances.topk(min(k + _SLACK, m - 1), dim=1, largest=False).indices
        exact = (block[:, None] - others[candidates]).square().sum(dim=2)
        nearest = exact.topk(k, dim=1, largest=False).indices[:, -1:]
        parts.append(candidates.gather(1, nearest)[:, 0])
    return torch.cat(parts)


@torch.no_grad()
def _kth_neighbour(x: Tensor, k: int, metric: str, workers: int) -> Tensor:
    """For each point the index of its k-th nearest other point."""
    if x.device.type == "cpu" and x.shape[1] <= TREE_DIM:
        points = x.numpy().astype(np.float64)
        return torch.from_numpy(neighbours_by_tree(points, k, metric=metric, workers=workers)[:, -1])
    return _by_blocks(x, x, k, metric)


def _log_unit_ball(dim: int, metric: str) -> float:
    """Logarithm of the volume of all points within distance 1."""
    return dim * math.log(2) if metric == "max" else dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)


def knn_entropy(x: Tensor, k: int = 3, *, metric: str = "max", min_distance: float = 0.0, workers: int = 1) -> Tensor:
    r"""Kozachenko-Leonenko estimate of differential entropy, from distances to the k-th nearest neighbour.

    .. math::
        \hat H = \psi(N) - \psi(k) + \log V_d + \frac dN \sum_i \log \varepsilon_i

    with :math:`\varepsilon_i` the distance from :math:`x_i` to its k-th nearest other point and :math:`V_d` the volume
    of the unit ball of the metric. No bandwidth is to be chosen; a larger ``k`` lowers the variance and raises the
    bias. On the CPU in up to 12 dimensions neighbours come from :class:`scipy.spatial.cKDTree`, elsewhere from
    distances to all points, by blocks of rows: memory is O(N d), and O(N) more a row of a block.

    **Repeated points.** Where more than k points coincide, :math:`\varepsilon = 0`: the data have an atom, and no
    finite differential entropy. That is an error (on a GPU, where a look would wait for the device, the result is
    ``-inf``). Values that were rounded get a density again by uniform noise as wide as the step of the rounding.
    ``min_distance`` only keeps a training term finite; where it acts, the value is no estimate.

    Args:
        x: the sample.
        k: which neighbour, from 1 to N - 1.
        metric: ``"max"`` for :math:`\max_a |x_{ia} - x_{ja}|`, ``"euclidean"``.
        min_distance: smaller distances are taken as this, without a gradient; 0 for none.
        workers: threads of the tree queries; -1 takes all.

    Shape:
        - x: :math:`(N, d)`, :math:`N \ge 2`; Output: scalar. Nats. float32 for half inputs. Differentiable in ``x``.

    Raises:
        TypeError, ValueError: not a finite floating-point matrix of at least two points; ``k`` not an integer from 1
            to N - 1; an unknown metric; a negative ``min_distance``; repeated points, where that is 0.

    Source: Kozachenko and Leonenko (1987); in this form Kraskov et al. (2004), arXiv cond-mat/0305641, eq. 20.
    """
    from scipy.special import digamma

    _checks.floating("x", x)
    _checks.choice("metric", metric, METRICS)
    n, dim = x.shape
    if n < 2:
        raise ValueError(f"x: want at least 2 points, got {_checks.describe(x)}")
    _checks.count("k", k, 1, n - 1, most_is="N - 1")
    if not 0 <= min_distance < math.inf:
        raise ValueError(f"min_distance: want a finite number >= 0, got {min_distance!r}")
    _checks.finite("x", x)
    with without_autocast(x):
        (x,) = accumulated(x)
        difference = x - x[_kth_neighbour(x.detach(), k, metric, workers)]
        if metric == "max":
            distances = difference.abs().amax(dim=1)
        else:
            distances = torch.linalg.vector_norm(difference, dim=1)
        if min_distance > 0:
            distances = distances.clamp_min(min_distance)
        elif _checks.concrete(distances) and not bool((distances > 0).all()):
            raise ValueError(
                f"x: want continuous data, got {int((distances == 0).sum())} points repeated more than k = {k} times; "
                "add noise to rounded values, take a larger k, or give min_distance"
            )
        constant = float(digamma(n) - digamma(k)) + _log_unit_ball(dim, metric)
        return dim * distances.log().mean() + constant


def koleo(x: Tensor, *, normalize: bool = True, eps: float = 1e-8, others: Tensor | None = None) -> Tensor:
    r"""KoLeo regulariser: minus the mean log distance to the nearest neighbour, which spreads points evenly.

    .. math::
        -\frac1N \sum_i \log\bigl(\min_{j \ne i} |x_i - x_j| + \epsilon\bigr)

    Up to a factor d and a constant it is minus :func:`knn_entropy` with k = 1 and the Euclidean metric. Points that
    coincide have the value :math:`-\log \epsilon` and the gradient 0: the distance does not say which way they should
    part.

    Args:
        x: the points.
        normalize: scale rows to unit length first, as DINOv2 does.
        eps: :math:`\epsilon > 0`. DINOv2's is the default.
        others: further points that may be neighbours (such as rows of other processes); they get a gradient too.

    Shape:
        - x: :math:`(N, d)`, others: :math:`(M, d)`, :math:`N + M \ge 2`; Output: scalar. float32 for half inputs.

    Raises:
        TypeError, ValueError: not finite floating-point matrices of one dtype, device and width; a single point;
            ``eps`` not > 0.

    Source: Sablayrolles et al. (2019), arXiv 1806.03198, eq. 4; Oquab et al. (2023), arXiv 2304.07193, section 4.
    """
    _checks.floating("x", x)
    _checks.positive("eps", eps)
    if others is not None:
        _checks.floating("others", others)
        _checks.alike("others", others, "x", x)
        _checks.finite("others", others)
    elif len(x) < 2:
        raise ValueError(f"x: want at least 2 points, got {_checks.describe(x)}")
    _checks.finite("x", x)
    with without_autocast(x):
        parts = accumulated(x) if others is None else accumulated(x, others)
        if normalize:
            parts = tuple(F.normalize(part, dim=1) for part in parts)
        points = parts[0] if others is None else torch.cat(parts)
        with torch.no_grad():
            nearest = _by_blocks(parts[0].detach(), points.detach(), 1, "euclidean")
        distances = torch.linalg.vector_norm(parts[0] - points[nearest], dim=1)
        return -torch.log(distances + eps).mean()
