"""An independent oracle for pairwise_lse: every score formed one by one in float64, gradients by autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense_scores(x: Tensor, y: Tensor, score: str) -> Tensor:
    if score == "dot":
        return x @ y.T
    return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


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
    logits = scale * dense_scores(x, y, score)
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
    logits = scale * scores
    if exclude_diagonal:
        logits = logits.masked_fill(torch.eye(len(x), len(y), dtype=torch.bool), -math.inf)
    return torch.logsumexp(logits, 1), torch.logsumexp(logits, 0)
