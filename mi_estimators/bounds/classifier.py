"""Critics trained as classifiers of joint against product samples, and what is reported of them."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.bounds.pairs import Factored, as_pairs
from mi_estimators.bounds.unnormalized import tuba


def js_objective(scores: Tensor | Factored) -> Tensor:
    r"""Jensen-Shannon training objective: ``-mean_i softplus(-s_ii) - mean_{i != j} softplus(s_ij)``.

    The log-likelihood of logistic regression between joint and product samples: at its maximum the critic is the log
    density ratio. It is not itself a bound on the mutual information (it lies between ``-2 log 2`` and 0).

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - output: ``[]``; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Nowozin et al. 2016 (arXiv 1606.00709), sec. 2.4; Hjelm et al. 2019 (arXiv 1808.06670), eq. 4.
    """
    pairs = as_pairs(scores)
    rows = pairs.map_rows(lambda block, positive: F.softplus(block).masked_fill(positive, 0.0).sum(dim=1))
    return -F.softplus(-pairs.positives()).mean() - rows.sum() / (pairs.size * (pairs.size - 1))


def js(scores: Tensor | Factored) -> Tensor:
    r"""Lower bound for a critic trained by :func:`js_objective`: ``1 + mean_i s_ii - mean_{i != j} exp(s_ij)``.

    This is :func:`nwj` of ``f + 1``, because the Jensen-Shannon optimum is the log density ratio itself. Feeding f to
    ``nwj`` unchanged, as common code does, loses ``1/e`` nats at the optimum.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where the mean of the
          exponentials overflows.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 2.
    """
    return tuba(scores, 0.0)


def smile(scores: Tensor | Factored, clip: float = 5.0) -> Tensor:
    r"""SMILE value: ``mean_i s_ii - log mean_{i != j} clip(exp(s_ij), e^-clip, e^clip)``.

    Clipping bounds the variance of the partition term and biases it: the value is neither a lower nor an upper bound.
    Train the critic with :func:`js_objective`.

    Args:
        scores: critic scores, or the embeddings they factor into.
        clip: the paper's tau, > 0.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite; ``clip`` is not positive.

    Source:
        Song and Ermon 2020 (arXiv 1910.06222), sec. 4.
    """
    pairs = as_pairs(scores)
    _checks.positive("clip", clip)
    rows = pairs.map_rows(
        lambda block, positive: block.clamp(-clip, clip).masked_fill(positive, -math.inf).logsumexp(dim=1)
    )
    return pairs.positives().mean() - (rows.logsumexp(dim=0) - math.log(pairs.size * (pairs.size - 1)))
