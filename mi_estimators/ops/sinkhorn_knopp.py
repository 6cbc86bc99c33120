r"""Sinkhorn-Knopp on a given matrix of scores: balanced assignments of samples to prototypes.

With scores :math:`s_{ij}` of sample i for prototype j, one iteration scales columns and then rows of
:math:`e^{s_{ij} / \epsilon}`,

.. math::
    v_j = \log b_j - \log \sum_i e^{s_{ij} / \epsilon + u_i}, \qquad
    u_i = - \log \sum_j e^{s_{ij} / \epsilon + v_j}, \qquad u = 0 \text{ at first},

and the result is :math:`Q_{ij} = e^{s_{ij} / \epsilon + u_i + v_j}`, whose rows sum to 1 and whose columns sum to about
:math:`b_j` times the number of samples.

The sums over samples are all that samples share. So three operators do the work, cut where several processes, or a
queue of earlier samples, add up their part: ``sinkhorn_knopp_columns`` (the first sum, relative to the largest score
of each prototype), ``sinkhorn_knopp_sweep`` (rows of one iteration and columns of the next, in one read of the scores)
and ``sinkhorn_knopp_codes`` (the last rows, and the result). What passes between them are vectors of one number a
prototype. This file holds schemas, torch references, shape functions and the public function; the compiled library
adds the ``CPU`` and ``CUDA`` kernels.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype, in_functorch

_library = torch.library.Library("mi_estimators", "FRAGMENT")
_library.define("sinkhorn_knopp_columns(Tensor scores, Tensor? mask, float epsilon) -> (Tensor shift, Tensor total)")
_library.define(
    "sinkhorn_knopp_sweep(Tensor scores, Tensor? mask, Tensor shift, Tensor log_weight, float epsilon) -> Tensor total"
)
_library.define(
    "sinkhorn_knopp_codes(Tensor scores, Tensor? mask, Tensor shift, Tensor log_weight, float epsilon, bool hard)"
    " -> (Tensor codes, Tensor bad_rows)"
)


# ------------------------------------------------------------------------------------------------------ reference


def _widened(scores: Tensor, mask: Tensor | None) -> Tensor:
    wide = scores.to(accumulation_dtype(scores.dtype))
    return wide if mask is None else wide.masked_fill(~mask[:, None], -torch.inf)


def reference_columns(scores: Tensor, mask: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """Largest score of each prototype, and the sum of the exponentials relative to it."""
    wide = _widened(scores, mask)
    if wide.shape[0] == 0:
        return wide.new_full((wide.shape[1],), -torch.inf), wide.new_zeros(wide.shape[1], dtype=torch.float64)
    shift = torch.where(wide.isnan(), -torch.inf, wide).amax(0)
    relative = wide - torch.where(shift == -torch.inf, 0, shift)
    return shift, (relative / epsilon).exp().sum(0, dtype=torch.float64)


def _rows(
    scores: Tensor, mask: Tensor | None, shift: Tensor, log_weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Rows that sum to 1, and which of them do not because nothing in them is finite."""
    wide = _widened(scores, mask)
    x = (wide - shift) / epsilon + log_weight.to(wide.dtype)
    empty = (x == -torch.inf).all(1)
    return torch.softmax(x, dim=1), empty


def reference_sweep(scores: Tensor, mask: Tensor | None, shift: Tensor, log_weight: Tensor, epsilon: float) -> Tensor:
    """Sums over the samples of their normalised rows."""
    rows, empty = _rows(scores, mask, shift, log_weight, epsilon)
    return rows.masked_fill(empty[:, None], 0).sum(0, dtype=torch.float64)


def reference_codes(
    scores: Tensor, mask: Tensor | None, shift: Tensor, log_weight: Tensor, epsilon: float, hard: bool
) -> tuple[Tensor, Tensor]:
    """Normalised rows, or their largest entry, and how many rows had no finite score or one that is NaN or +inf."""
    rows, _ = _rows(scores, mask, shift, log_weight, epsilon)
    bad = ~rows.isfinite().all(1)
    if mask is not None:
        bad = bad & mask
    if hard:
        chosen = torch.zeros_like(rows).scatter_(1, rows.argmax(1, keepdim=True), 1)
        rows = torch.where(bad[:, None], torch.nan, chosen)
    return rows if mask is None else rows.masked_fill(~mask[:, None], 0), bad.sum()


_library.impl("sinkhorn_knopp_columns", reference_columns, "CompositeExplicitAutograd")
_library.impl("sinkhorn_knopp_sweep", reference_sweep, "CompositeExplicitAutograd")
_library.impl("sinkhorn_knopp_codes", reference_codes, "CompositeExplicitAutograd")


@torch.library.register_fake("mi_estimators::sinkhorn_knopp_columns", lib=_library)
def _fake_columns(scores: Tensor, mask: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    shape = scores.shape[1:]
    return scores.new_empty(shape, dtype=accumulation_dtype(scores.dtype)), scores.new_empty(shape, dtype=torch.float64)


@torch.library.register_fake("mi_estimators::sinkhorn_knopp_sweep", lib=_library)
def _fake_sweep(scores: Tensor, mask: Tensor | None, shift: Tensor, log_weight: Tensor, epsilon: float) -> Tensor:
    return scores.new_empty(scores.shape[1:], dtype=torch.float64)


@torch.library.register_fake("mi_estimators::sinkhorn_knopp_codes", lib=_library)
def _fake_codes(
    scores: Tensor, mask: Tensor | None, shift: Tensor, log_weight: Tensor, epsilon: float, hard: bool
) -> tuple[Tensor, Tensor]:
    codes = torch.empty(scores.shape, dtype=accumulation_dtype(scores.dtype), device=scores.device)
    return codes, scores.new_empty((), dtype=torch.int64)


# ------------------------------------------------------------------------------------------------ public function


def _check(
    scores: Tensor,
    epsilon: float,
    n_iter: int,
    queue: Tensor | None,
    mask: Tensor | None,
    marginals: Tensor | None,
    center: Tensor | None,
    group: dist.ProcessGroup | None,
) -> None:
    if group is not None and isinstance(scores, Tensor) and scores.ndim == 2 and scores.shape[0] == 0:
        _checks.floating("scores", scores.new_ones((1, scores.shape[1])))  # this rank has no samples; others do
    else:
        _checks.floating("scores", scores)
    if isinstance(epsilon, Tensor):
        raise TypeError(f"epsilon: want a number, got {_checks.describe(epsilon)}")
    _checks.positive("epsilon", epsilon)
    _checks.count("n_iter", n_iter, 0)
    if queue is not None:
        _checks.floating("queue", queue)
        _checks.alike("queue", queue, "scores", scores)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask: want a torch.bool tensor, got {_checks.describe(mask)}")
        if mask.shape != scores.shape[:1] or mask.device != scores.device:
            raise ValueError(
                f"mask: want one value per sample ({scores.shape[0]}) on {scores.device}, got {_checks.describe(mask)}"
            )
    for name, vector in (("marginals", marginals), ("center", center)):
        if vector is None:
            continue
        _checks.floating(name, vector, ndim=1)
        if vector.shape[0] != scores.shape[1] or vector.device != scores.device:
            raise ValueError(
                f"{name}: want one value per prototype ({scores.shape[1]}) on {scores.device}, "
                f"got {_checks.describe(vector)}"
            )
        _checks.finite(name, vector)
    if marginals is not None:
        if n_iter == 0:
            raise ValueError("marginals: want None where n_iter is 0, since no column is scaled then")
        if _checks.concrete(marginals) and not (bool((marginals >= 0).all()) and bool((marginals > 0).any())):
            raise ValueError("marginals: want values >= 0 and one > 0, got " + _checks.describe(marginals))
    if group is not None and dist.get_world_size(group) < 1:
        raise ValueError("group: want a process group that holds this process, got one that does not")


_PROBLEMS = {
    1: "scores: want a finite score in every column (or a marginal of 0 for it), got one without, or no samples at all",
    2: "scores: want finite values or -inf, got NaN or +inf",
}


def _agree(problem: int, scores: Tensor, group: dist.ProcessGroup) -> int:
    """The problem of any rank, on every rank, before their numbers are added up."""
    k = scores.shape[1]
    seen = torch.tensor([problem, k, -k])
    dist.all_reduce(seen, op=dist.ReduceOp.MAX, group=group)
    problem, most, least = seen.tolist()
    if most != -least:
        raise ValueError(f"scores: want as many columns on every rank, got from {-least} to {most}")
    return int(problem)


@torch.no_grad()
def sinkhorn_knopp(
    scores: Tensor,
    *,
    epsilon: float = 0.05,
    n_iter: int = 3,
    group: dist.ProcessGroup | None = None,
    queue: Tensor | None = None,
    mask: Tensor | None = None,
    marginals: Tensor | None = None,
    center: Tensor | None = None,
    hard: bool = False,
) -> Tensor:
    r"""Assignment of samples to prototypes that uses all prototypes alike: the targets of SwAV and DINOv2.

    .. math::
        Q = \mathrm{diag}(e^u)\, e^{S / \epsilon}\, \mathrm{diag}(e^v)

    after ``n_iter`` times scaling columns (each prototype receives its share of the samples) and then rows (each
    sample sums to 1), from :math:`u = 0`. This is what SwAV's and DINOv2's training scripts compute, in the log domain:
    the same function of the scores, without their overflow at sharp temperatures. The scores are read ``n_iter + 1``
    times, with one exponential an entry each; nothing of their size is allocated but the result.

    **No gradient flows.** Codes are targets, and every trainer that uses them detaches them; the result never requires
    one. :func:`sinkhorn_batch` is differentiable.

    Which convention is which:

    - SwAV: ``sinkhorn_knopp(scores, epsilon=0.05, n_iter=3)`` with scores of normalised features and prototypes. Its
      queue goes into ``queue``, as scores.
    - DINOv2, ``sinkhorn_knopp_teacher``: ``epsilon=teacher_temp`` on the teacher's outputs; of iBOT's masked patches,
      whose number differs between ranks, each rank passes what it has, be it padded (``mask``) or empty.
    - DINO's softmax centering: ``n_iter=0, center=c`` is :math:`\mathrm{softmax}((S - c) / \epsilon)` by rows.

    Args:
        scores: of samples (rows) for prototypes (columns). ``-inf`` rules a pair out.
        epsilon: strength of the entropy, a temperature that divides the scores.
        n_iter: iterations; 0 leaves a softmax by rows.
        group: process group whose ranks each hold some of the samples; all must call, with as many prototypes. A rank
            may hold no samples. ``None``: this process alone. What the ranks exchange is one all-reduce (MAX, then
            SUM) of a number a prototype for the first iteration, and one (SUM) for each further one.
        queue: scores of earlier samples, which take part in the iterations and not in the result.
        mask: which samples count. The others (padding) may hold anything, take no part, and get rows of 0.
        marginals: shares of the prototypes; only their ratios matter. 0 leaves a prototype out. Default: equal shares.
        center: subtracted from the scores for ``n_iter=0``. For ``n_iter >= 1`` it changes nothing, as the first
            scaling of columns takes out whatever is common to a column.
        hard: round, to 1 at the largest entry of a row (the first of equals) and 0 elsewhere.

    Shape:
        - scores: :math:`(B, K)`, queue: :math:`(R, K)`, mask: :math:`(B,)`, marginals and center: :math:`(K,)`
        - Output: :math:`(B, K)`; float32 for float32, bfloat16 and float16 scores, float64 for float64. Rows sum to 1.

    Raises:
        TypeError: not floating-point tensors, dtypes that differ, a mask that is not boolean, a tensor ``epsilon``.
        ValueError: ``epsilon <= 0``, ``n_iter < 0``, no samples, shapes or devices that do not match; on the CPU also
            NaN or ``+inf`` scores, and rows or columns without a finite score. With a group, what concerns columns is
            raised on every rank.
        RuntimeError: inside a ``torch.func`` transform.

    Source:
        Cuturi, *Sinkhorn distances*, 2013, algorithm 1; Caron et al., *Unsupervised learning of visual features by
        contrasting cluster assignments* (SwAV), 2020, equations 3 to 5; Oquab et al., *DINOv2*, 2023, section 4.

    Example:
        >>> codes = sinkhorn_knopp(torch.randn(64, 10), epsilon=0.5, n_iter=50)
        >>> torch.allclose(codes.sum(1), torch.ones(64)), torch.allclose(codes.sum(0), torch.full((10,), 6.4), 1e-3)
        (True, True)
    """
    if in_functorch():
        raise RuntimeError("sinkhorn_knopp: has no derivative and takes no torch.func transform; call it outside")
    _check(scores, epsilon, n_iter, queue, mask, marginals, center, group)
    ops = torch.ops.mi_estimators
    epsilon = float(epsilon)
    wide = accumulation_dtype(scores.dtype)
    scores = scores.detach()
    parts = [(scores, mask)] if queue is None else [(scores, mask), (queue.detach().to(scores.dtype), None)]
    columns = scores.shape[1]
    log_weight = torch.zeros(columns, dtype=torch.float64, device=scores.device)
    if n_iter == 0:
        shift = torch.zeros(columns, dtype=wide, device=scores.device) if center is None else center.detach().to(wide)
    else:
        shares = torch.ones_like(log_weight) if marginals is None else marginals.detach().double()
        log_marginals = (shares / shares.sum()).log()
        left_out = log_marginals == -torch.inf
        shift, total = _first_totals(parts, epsilon, log_marginals, group)
        scale = sum(part.shape[0] for part, _ in parts)  # any will do, so that rows sum to about 1
        log_weight = log_marginals - total.log() + math.log(max(scale, 1))
        for _ in range(n_iter - 1):
            log_weight = log_weight.masked_fill(left_out, -torch.inf)
            total = sum(ops.sinkhorn_knopp_sweep(*part, shift, log_weight, epsilon) for part in parts)
            if group is not None:
                dist.all_reduce(total, group=group)
            log_weight = log_weight + log_marginals - total.log() + total.sum().log()
        log_weight = log_weight.masked_fill(left_out, -torch.inf)
    codes, bad_rows = ops.sinkhorn_knopp_codes(scores, mask, shift, log_weight, epsilon, hard)
    if _checks.concrete(scores) and bad_rows.item():
        raise ValueError(
            f"scores: want a finite score and neither NaN nor +inf in every row, got {bad_rows.item()} rows without"
        )
    return codes


def _first_totals(
    parts: list[tuple[Tensor, Tensor | None]],
    epsilon: float,
    log_marginals: Tensor,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """Largest score of each column over parts and ranks, 0 where there is none, and the sums relative to it."""
    found = [torch.ops.mi_estimators.sinkhorn_knopp_columns(*part, epsilon) for part in parts]
    own = torch.stack([shift for shift, _ in found])
    shift = own.amax(0)
    scores = parts[0][0]
    concrete = _checks.concrete(scores)
    problem = 2 if concrete and any(bool(total.isnan().any()) for _, total in found) else 0
    if group is not None:
        if concrete:
            problem = _agree(problem, scores, group)
        if not problem:
            dist.all_reduce(shift, op=dist.ReduceOp.MAX, group=group)
    if not problem and concrete and bool((shift[log_marginals > -torch.inf] == -torch.inf).any()):
        problem = 1  # the shifts are those of all ranks by now, so every rank finds this
    if problem:
        raise ValueError(_PROBLEMS[problem])
    rescaled = [
        torch.where(top == shift, total, total * ((top.double() - shift.double()) / epsilon).exp())
        for top, (_, total) in zip(own, found, strict=True)
    ]
    total = sum(rescaled[1:], rescaled[0])
    if group is not None:
        dist.all_reduce(total, group=group)
    return torch.where(shift == -torch.inf, 0, shift), total
