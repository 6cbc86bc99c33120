"""How representations are spread: measures of collapse, and of what contrastive losses trade against each other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.ops import pairwise_lse


@torch.no_grad()
def rankme(z: Tensor, eps: float = 1e-7) -> float:
    r"""Effective rank of embeddings: :math:`\exp(-\sum_k p_k \log p_k)`, with :math:`p_k = \sigma_k / \|\sigma\|_1`.

    :math:`\sigma` are the singular values of the matrix, which is not centred: 1 where all rows lie on one line through
    0, and so where they have collapsed to a point; at most min(N, d), where all directions are used alike. The paper
    adds ``eps`` to each :math:`p_k`; so does this.

    Args:
        z: embeddings.
        eps: added to shares.

    Shape:
        - z: ``[N, d]``, floating; computed in float64.

    Returns:
        The effective rank, a number of dimensions. 0 for embeddings that are all 0.

    Raises:
        TypeError: not floating.
        ValueError: not a matrix, or not finite.

    Source: Garrido et al. (2023), arXiv 2210.02885, equation 1.
    """
    _checks.floating("z", z)
    if not bool(torch.isfinite(z).all()):
        raise ValueError("z: want finite embeddings, got NaN or infinite values")
    wide = z.double()
    if not bool(wide.any()):
        return 0.0
    # Of the smaller of both products: exact to 1e-8 of the largest singular value, below what eps lets through.
    product = wide.T @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.T
    singular = torch.linalg.eigvalsh(product).clamp_min(0).sqrt()
    share = singular / singular.sum() + eps
    return math.exp(-float((share * share.log()).sum()))


@torch.no_grad()
def alignment(z1: Tensor, z2: Tensor) -> float:
    r"""How far the two views of an image are apart: :math:`\frac1N \sum_i \|\hat z_{1,i} - \hat z_{2,i}\|^2`.

    :math:`\hat z = z / \|z\|`. From 0, both views alike, to 4; 2 for unrelated ones.

    Shape:
        - z1, z2: ``[N, d]``, floating.

    Raises:
        TypeError: not floating, or of different dtypes.
        ValueError: of different shapes or devices.

    Source: Wang and Isola (2020), arXiv 2005.10242, section 4.1 with :math:`\alpha = 2`.
    """
    _checks.floating("z1", z1)
    _checks.alike("z2", _checks.floating("z2", z2), "z1", z1, same_shape=True)
    distance = F.normalize(z1.double(), dim=1) - F.normalize(z2.double(), dim=1)
    return float(distance.square().sum(dim=1).mean())


@torch.no_grad()
def uniformity(z: Tensor, t: float = 2.0) -> float:
    r"""How evenly embeddings cover the sphere, of the rows :math:`\hat z = z / \|z\|`.

    .. math::
        \log \frac{1}{N(N-1)} \sum_{i \ne j} e^{-t \|\hat z_i - \hat z_j\|^2}

    From 0, all in one point, down to about :math:`-2t` for points spread evenly in many dimensions. Nothing of size
    N x N is stored.

    Args:
        z: embeddings.
        t: width of the kernel.

    Shape:
        - z: ``[N, d]``, floating, N at least 2.

    Raises:
        TypeError: not floating.
        ValueError: not a matrix, fewer than 2 rows, or ``t <= 0``.

    Source: Wang and Isola (2020), arXiv 2005.10242, section 4.1.
    """
    _checks.floating("z", z)
    _checks.positive("t", t)
    if len(z) < 2:
        raise ValueError(f"z: want at least 2 embeddings, got {len(z)}")
    unit = F.normalize(z.float() if z.dtype != torch.float64 else z, dim=1)
    rows = pairwise_lse(unit, scale=t, score="sqeuclidean", exclude_diagonal=True)
    return float(torch.logsumexp(rows.double(), dim=0)) - math.log(len(z) * (len(z) - 1))


@torch.no_grad()
def teacher_distance(teacher: nn.Module, student: nn.Module) -> float:
    r"""Distance of the weights of two networks of one shape, relative: :math:`\|\theta' - \theta\| / \|\theta\|`.

    Of a teacher that follows by :math:`\theta' \leftarrow m \theta' + (1 - m) \theta`: large where it follows
    slowly or the student moves fast. Batch statistics do not count.

    Args:
        teacher: the network whose weights are :math:`\theta'`.
        student: the other.

    Raises:
        ValueError: their parameters differ in number or shape.
    """
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=False))
    shapes = [[tuple(weight.shape) for weight in network.parameters()] for network in (teacher, student)]
    if shapes[0] != shapes[1]:
        raise ValueError("teacher: want parameters of the student's shapes, got others")
    apart = sum(float((slow - fast).double().square().sum()) for slow, fast in pairs)
    size = sum(float(fast.double().square().sum()) for _, fast in pairs)
    return math.sqrt(apart / size) if size else math.sqrt(apart)
