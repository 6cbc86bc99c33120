r"""Bounds that compare each positive with several candidates at once.

**The condition.** The candidates that a positive (x, y) is compared with have to be independent draws of the marginal,
independent of x. In a batch of K independent pairs the other pairs' y's are that. They are not where the pairs of a
batch share anything: frames of one video, patches of one image, views of one class, a latent drawn once per batch.
Then neither :func:`i_nce` nor :func:`~mi_estimators.bounds.nwj` bounds the mutual information, from either side
(Tschannen et al. 2020, arXiv 1907.13625, sec. 4). Where pairs depend on each other, draw the candidates from
other, independent batches, and give them to :func:`i_nce_with_negatives` or :func:`nwj_with_negatives`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.bounds.pairs import Factored, as_pairs, score_matrix
from mi_estimators.bounds.unnormalized import log_baseline_of
from mi_estimators.contrastive import info_nce


def i_nce(scores: Tensor | Factored) -> Tensor:
    r"""InfoNCE lower bound: ``log K + mean_i(s_ii - logsumexp_j s_ij)``.

    Never exceeds ``log K``, whatever the critic. Invariant to adding a function of x to the critic.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        van den Oord et al. 2018 (arXiv 1807.03748), eq. 4; Tschannen et al. 2020 (arXiv 1907.13625), sec. 2.
    """
    if isinstance(scores, Factored):
        loss = info_nce(scores.u, scores.v, temperature=1.0, symmetric=False, normalize=False)
        return math.log(scores.u.shape[0]) - loss
    scores = score_matrix(scores)
    return (scores.diagonal() - scores.logsumexp(dim=1)).mean() + math.log(scores.shape[0])


def i_nce_loo(scores: Tensor | Factored) -> Tensor:
    r"""InfoNCE with leave-one-out negatives: ``mean_i( s_ii - log mean_{j != i} exp(s_ij) )``.

    The positive stays out of its own denominator, and with it go the cap log K and the bound: where the critic is the
    log density ratio, the log of the mean of the negatives is below 0 on average, so that the value lies *above* the
    mutual information; with a poor critic it lies below. Invariant to adding a function of x to the critic.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 2.4; as a loss, Yeh et al. 2022 (arXiv 2110.06848).
    """
    pairs = as_pairs(scores)
    return (pairs.positives() - pairs.negative_lse()).mean() + math.log(pairs.size - 1)


def _log_mixture(log_a: Tensor, log_b: Tensor, alpha: float) -> Tensor:
    """log(alpha a + (1 - alpha) b)."""
    if alpha == 0:
        return log_b.expand_as(log_a)
    if alpha == 1:
        return log_a
    return torch.logaddexp(log_a + math.log(alpha), log_b + math.log1p(-alpha))


def i_alpha(scores: Tensor | Factored, log_baseline: float | Tensor = 0.0, alpha: float = 0.01) -> Tensor:
    r"""The lower bound between TUBA and InfoNCE, :math:`I_\alpha`.

    TUBA with the baseline :math:`a_\alpha(y) = \alpha\, m(y) + (1 - \alpha)\, a(y)`, where m is the mean of
    :math:`e^{f(x, y)}` over K - 1 candidates x: the others for a negative, the positive and K - 2 others for a
    positive, averaged over which one is left out:

    .. math::
        1 + \frac1K \sum_j \Bigl[ s_{jj} - \frac1{K-1} \sum_{k \ne j} \log\bigl( \alpha\, m_{-k}(y_j)
            + (1 - \alpha)\, a_j \bigr) \Bigr]
          - \frac1K \sum_j \frac{m_{-j}(y_j)}{\alpha\, m_{-j}(y_j) + (1 - \alpha)\, a_j} ,
        \qquad m_{-k}(y_j) = \frac1{K-1} \sum_{i \ne k} e^{s_{ij}} .

    alpha = 0 is :func:`~mi_estimators.bounds.tuba`; alpha = 1 is :func:`i_nce` of K - 1 candidates x for each y. In
    between it trades variance against the cap, which is :math:`1 + \log((K - 1) / \alpha)`: the first mean is at most
    the logarithm, and the second, which InfoNCE holds at 1, at least 0.

    Args:
        scores: critic scores, or the embeddings they factor into.
        log_baseline: ``log a``: a number, or one value for each y_j.
        alpha: from 0 to 1.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - log_baseline: ``[]`` or ``[K]``.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where an exponential
          overflows, which takes alpha = 0.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor; ``log_baseline`` is not a number or a tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite; ``log_baseline`` has another
            shape, or is not finite; ``alpha`` is not in [0, 1].

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 2.4.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha: want a number from 0 to 1, got {alpha!r}")
    pairs = as_pairs(scores).transposed  # a row now holds the scores of one y against every x
    positives = pairs.positives()
    log_a = log_baseline_of(log_baseline, pairs, positives).expand(pairs.size)
    log_others = math.log(pairs.size - 1)

    def mean_log_baseline(block: Tensor, positive: Tensor) -> Tensor:
        # Which rows a block holds is known by its positives alone.
        log_a_of_rows = (positive * log_a).sum(dim=1)
        if alpha == 0:
            return log_a_of_rows
        whole = _log_mixture(block.logsumexp(dim=1) - log_others, log_a_of_rows, alpha)
        # Leaving candidate k out takes a share of the mixture away. Only the largest can be more than half of it, and
        # taking that off would cancel: there the mixture of the rest is formed anew.
        largest = block.masked_fill(positive, -math.inf).argmax(dim=1, keepdim=True)
        share = (block - (whole + (log_others - math.log(alpha))).unsqueeze(1)).exp()
        share = share.masked_fill(positive, 0.0).scatter(1, largest, 0.0)
        rest = block.scatter(1, largest, -math.inf).logsumexp(dim=1) - log_others
        total = (pairs.size - 2) * whole + torch.log1p(-share).sum(dim=1) + _log_mixture(rest, log_a_of_rows, alpha)
        return total / (pairs.size - 1)

    log_m = pairs.negative_lse() - log_others
    marginal = (log_m - _log_mixture(log_m, log_a, alpha)).exp()
    return 1 + (positives - pairs.map_rows(mean_log_baseline)).mean() - marginal.mean()


def _check_negatives(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    _checks.floating("positives", positives, ndim=1)
    _checks.floating("negatives", negatives)
    _checks.alike("negatives", negatives, "positives", positives, same_width=False)
    if len(negatives) != len(positives):
        raise ValueError(f"negatives: want one row per positive ({len(positives)}), got {_checks.describe(negatives)}")
    _checks.finite("positives", positives)
    _checks.finite("negatives", negatives)
    if positives.dtype in (torch.float16, torch.bfloat16):
        return positives.float(), negatives.float()
    return positives, negatives


def i_nce_with_negatives(positives: Tensor, negatives: Tensor) -> Tensor:
    r"""InfoNCE with candidates of one's own choice: ``log(M + 1) + mean_i( s_i - logsumexp(s_i, n_i1, ..., n_iM) )``.

    A lower bound on the mutual information if the candidates :math:`y'_{i1}, \dots, y'_{iM}` of the positive
    :math:`(x_i, y_i)` are independent draws of the marginal of y, independent of the pair; the rows may depend on each
    other. Never exceeds ``log(M + 1)``.

    Args:
        positives: :math:`s_i = f(x_i, y_i)`.
        negatives: :math:`n_{im} = f(x_i, y'_{im})`.

    Shape:
        - positives: ``[B]``; negatives: ``[B, M]``; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: not floating-point tensors, or dtypes that differ.
        ValueError: other shapes, numbers of rows that differ, values that are not finite.

    Source:
        Tschannen et al. 2020 (arXiv 1907.13625), sec. 2 and 4.
    """
    positives, negatives = _check_negatives(positives, negatives)
    total = torch.logaddexp(positives, negatives.logsumexp(dim=1))
    return (positives - total).mean() + math.log(negatives.shape[1] + 1)


def nwj_with_negatives(positives: Tensor, negatives: Tensor) -> Tensor:
    r"""NWJ with negatives of one's own choice: ``1 + mean_i(s_i - 1) - mean_{i, m} exp(n_im - 1)``.

    A lower bound on the mutual information if each negative is the score of a draw of the product of the marginals;
    the draws may depend on each other.

    Args:
        positives: :math:`s_i = f(x_i, y_i)`.
        negatives: :math:`n_{im} = f(x_i, y'_{im})`.

    Shape:
        - positives: ``[B]``; negatives: ``[B, M]``; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where the mean of the
          exponentials overflows.

    Raises:
        TypeError: not floating-point tensors, or dtypes that differ.
        ValueError: other shapes, numbers of rows that differ, values that are not finite.

    Source:
        Tschannen et al. 2020 (arXiv 1907.13625), sec. 2 and 4.
    """
    positives, negatives = _check_negatives(positives, negatives)
    log_mean = negatives.logsumexp(dim=(0, 1)) - math.log(negatives.numel())
    return positives.mean() - (log_mean - 1).exp()
