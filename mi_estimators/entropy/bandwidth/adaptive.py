"""A bandwidth for every point: narrow where points are dense, wide in the tails."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.bandwidth.likelihood import loo
from mi_estimators.entropy.bandwidth.reference import canonical_ratio
from mi_estimators.entropy.bandwidth.sample import Sample, sample_of, unweighted, warn_of_duplicates
from mi_estimators.entropy.kernels import KERNELS
from mi_estimators.ops.pairwise_lse import accumulation_dtype, unchecked_pairwise_lse


def abramson(x: Tensor, *, weights: Tensor | None = None, kernel: str = "gaussian") -> Tensor:
    r"""Abramson's square-root law: :math:`h_i = h\, (\tilde f(x_i) / g)^{-1/2}`.

    :math:`\tilde f` is the density estimate with the ``"loo"`` bandwidth h, each point counted in its own (which bounds
    the widest kernel of an outlier), and g the (weighted) geometric mean of its values at the points.

    Shape:
        - x: :math:`(N, d)`, weights: :math:`(N,)`; Output: :math:`(N, 1)`.

    Source: Abramson (1982); Silverman (1986), section 5.3.
    """
    pilot = loo(x, weights=weights, kernel=kernel)
    sample = sample_of(x, weights)
    form = KERNELS[kernel]
    return pilot * pilot_density_power(x, sample, form.score, float(form.scale(pilot)), -0.5)


def pilot_density_power(x: Tensor, sample: Sample, score: str, scale: float, power: float) -> Tensor:
    """The density at every point, over its geometric mean, to a power; [N, 1]."""
    points = x.detach().to(accumulation_dtype(x.dtype))
    support = None if sample.weights is None else sample.x
    lse = unchecked_pairwise_lse(points, support, scale=scale, score=score, bias=sample.bias)
    kept = (
        lse if sample.weights is None else unchecked_pairwise_lse(sample.x, scale=scale, score=score, bias=sample.bias)
    )
    # A point of weight 0 may lie beyond the reach of all compact kernels: it gets the widest of the others'.
    logs = torch.maximum(lse.to(torch.float64), kept.min().to(torch.float64)) - sample.mean(kept)
    return torch.exp(power * logs)[:, None].to(points.dtype)


def knn(x: Tensor, *, weights: Tensor | None = None, kernel: str = "gaussian", neighbours: int | None = None) -> Tensor:
    r"""Nearest-neighbour bandwidths: the distance of every point to its k-th neighbour, :math:`k = \sqrt N` rounded.

    That distance is the radius of a uniform kernel; another kernel's bandwidth is the one that smooths as much, by the
    ratio of canonical bandwidths. By a k-d tree on the CPU: fast in few dimensions.

    Args:
        x: the points.
        weights: None; nearest neighbours do not weigh points.
        kernel: a radial kernel of :data:`~mi_estimators.entropy.kernels.KERNELS`.
        neighbours: k, from 1 to N - 1.

    Shape:
        - x: :math:`(N, d)`; Output: :math:`(N, 1)`.

    Source: Breiman, Meisel & Purcell (1977).
    """
    unweighted("knn", weights, "a nearest neighbour has no weight")
    sample = sample_of(x, None)
    radii = neighbour_distances(sample, neighbours)
    return radii * (canonical_ratio(kernel, sample.dim) / canonical_ratio("tophat", sample.dim))


def neighbour_distances(sample: Sample, neighbours: int | None) -> Tensor:
    """Distances to the k-th neighbours, [N, 1], not below a millionth of their mean."""
    from scipy.spatial import cKDTree

    k = max(1, min(sample.size - 1, round(math.sqrt(sample.size)))) if neighbours is None else neighbours
    _checks.count("neighbours", k, 1, sample.size - 1, most_is="N - 1")
    points = sample.x.double().cpu().numpy()
    distances = cKDTree(points).query(points, k=[k + 1])[0][:, 0]
    floor = 1e-6 * float(distances.mean())
    if not floor > 0:
        raise ValueError(f"x: want points of which some have their neighbour {k} elsewhere, got only coinciding points")
    if bool((distances < floor).any()):
        warn_of_duplicates("knn", f"{floor:.3g} where a point and its {k} nearest coincide")
    return torch.from_numpy(np.maximum(distances, floor))[:, None].to(sample.x)
