"""An independent oracle for pairwise_lse, each score one by one in float64, gradients by autograd; sizes of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def dense_scores(x: Tensor, y: Tensor, score: str) -> Tensor:
    if score == "dot":
        return x @ y.T
    return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


# Scores with a compact support: the power of the distance that is scaled, and the kernel as a function of the product.
COMPACT = {
    "tophat": (2, lambda t: 1 - 0 * t),
    "epanechnikov": (2, lambda t: 1 - t),
    "biweight": (2, lambda t: (1 - t) ** 2),
    "triweight": (2, lambda t: (1 - t) ** 3),
    "triangular": (1, lambda t: 1 - t),
    "cosine": (1, lambda t: torch.cos(math.pi / 2 * t)),
}


def profile_logits(square: Tensor, scale: Tensor | float, score: str) -> Tensor:
    """The scores that are functions of r other than -scale r^2, from r^2; derivatives at a kink are 0."""
    apart = square > 0
    r = torch.where(apart, square, 1).sqrt() * apart
    if score == "euclidean":
        return -scale * r
    power, kernel = COMPACT[score]
    t = scale * (r if power == 1 else square)
    inside = t < 1
    return kernel(torch.where(inside, t, 0)).log().masked_fill(~inside, -math.inf)


def logsumexp(logits: Tensor, dim: int) -> Tensor:
    """Torch's own, but for its gradient where no logit is finite: 0 instead of NaN."""
    alive = (logits > -math.inf).any(dim, keepdim=True)
    return torch.where(alive, logits, 0).logsumexp(dim).masked_fill(~alive.squeeze(dim), -math.inf)


def dense_lse(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor | float,
    bias: Tensor | None = None,
    score: str = "dot",
    exclude_diagonal: bool = False,
    row_groups: Tensor | None = None,
    col_groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Row and column log-sum-exp of the full matrix of scores."""
    y = x if y is None else y
    if score in ("dot", "sqeuclidean"):
        logits = scale * dense_scores(x, y, score)
    else:
        logits = profile_logits((x[:, None] - y).square().sum(2), scale, score)
    if bias is not None:
        logits = logits + bias
    if exclude_diagonal:
        eye = torch.arange(len(x))[:, None] == torch.arange(len(y))
        logits = logits.masked_fill(eye, -math.inf)
    if row_groups is not None:
        other = row_groups if col_groups is None else col_groups
        logits = logits.masked_fill(row_groups[:, None] == other, -math.inf)
    return logsumexp(logits, 1), logsumexp(logits, 0)


def as_torch_users_write_it(
    x: Tensor, y: Tensor | None, scale: Tensor | float, score: str, exclude_diagonal: bool
) -> tuple[Tensor, Tensor]:
    """The same by torch's own operations at the dtype of the inputs: what the kernels' error is measured against."""
    y = x if y is None else y
    if score == "dot":
        scores = x @ y.T
    elif x.dtype in (torch.float32, torch.float64):
        scores = -torch.cdist(x, y).square()
    else:  # cdist knows no half types
        scores = -(x[:, None] - y).square().sum(2)
    logits = scale * scores if score in ("dot", "sqeuclidean") else profile_logits(-scores, scale, score)
    if exclude_diagonal:
        logits = logits.masked_fill(torch.eye(len(x), len(y), dtype=torch.bool), -math.inf)
    return torch.logsumexp(logits, 1), torch.logsumexp(logits, 0)


class LargestTensor(TorchDispatchMode):
    """The most elements that any result of an operation has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result
