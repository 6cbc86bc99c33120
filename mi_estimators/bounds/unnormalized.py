r"""Bounds that hold the critic's partition function down by an average over negatives.

All follow from the Barber-Agakov bound with the density :math:`q(x \mid y) = p(x)\, e^{f(x, y)} / Z(y)`,

.. math::
    I \ge \mathbb E_p f - \mathbb E_y \log Z(y), \qquad Z(y) = \mathbb E_{p(x)} e^{f(x, y)} ,

and differ in how they bound or estimate the logarithm. See arXiv 1905.06922, section 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.bounds.pairs import Factored, Pairs, as_pairs, per_pair


def log_baseline_of(value: float | Tensor, pairs: Pairs, like: Tensor) -> Tensor:
    """Check a baseline: a number, or one value for each y."""
    if isinstance(value, Tensor):
        if value.shape not in ((), (pairs.size,)):
            raise ValueError(f"log_baseline: want a number or shape ({pairs.size},), got {_checks.describe(value)}")
        _checks.finite("log_baseline", value)
        return value.to(like)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"log_baseline: want a number or a tensor, got {_checks.describe(value)}")
    if not -math.inf < value < math.inf:
        raise ValueError(f"log_baseline: want a finite number, got {value!r}")
    return like.new_tensor(value)


def tuba(scores: Tensor | Factored, log_baseline: float | Tensor = 0.0) -> Tensor:
    r"""TUBA lower bound: ``1 + mean_i(s_ii - log a_i) - mean_{i != j} exp(s_ij - log a_j)``, with a baseline a(y) > 0.

    Tight for the critic ``f = log p(x|y)/p(x) + log a(y)``. A baseline of 1 reads the critic as a log density ratio; a
    baseline of e gives :func:`nwj`.

    Args:
        scores: critic scores, or the embeddings they factor into.
        log_baseline: ``log a``: a number, or one value for each y_j.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - log_baseline: ``[]`` or ``[K]``.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where the mean of the
          exponentials overflows.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor; ``log_baseline`` is not a number or a tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite; ``log_baseline`` has another
            shape, or is not finite.

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 2.2.
    """
    pairs = as_pairs(scores)
    positives = pairs.positives()
    log_a = log_baseline_of(log_baseline, pairs, positives)
    if log_a.ndim == 0:
        return 1 + positives.mean() - log_a - (pairs.log_mean_exp_negatives() - log_a).exp()
    return 1 + (positives - log_a).mean() - pairs.log_mean_exp_negatives(-log_a).exp()


def nwj(scores: Tensor | Factored) -> Tensor:
    r"""Nguyen-Wainwright-Jordan lower bound: ``1 + mean_i(s_ii - 1) - mean_{i != j} exp(s_ij - 1)``.

    Unbiased for its critic, tight for ``f = 1 + log p(x, y)/(p(x) p(y))``; its variance grows like ``e^I``.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where the mean of the
          exponentials overflows.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Nguyen, Wainwright and Jordan 2010; Tschannen et al. 2020 (arXiv 1907.13625), sec. 2.
    """
    return tuba(scores, 1.0)


def dv(scores: Tensor | Factored) -> Tensor:
    r"""Donsker-Varadhan value: ``mean_i s_ii - log mean_{i != j} exp(s_ij)``.

    Invariant to adding a constant to the critic, and never below :func:`nwj` on the same scores. With exact
    expectations it is a lower bound; the log of a batch mean is biased downwards, so its batch average lies above that
    bound and can exceed the mutual information.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Donsker and Varadhan 1983; Belghazi et al. 2018 (arXiv 1801.04062), theorem 1.
    """
    pairs = as_pairs(scores)
    return pairs.positives().mean() - pairs.log_mean_exp_negatives()


def mine_step(
    scores: Tensor | Factored, log_partition: Tensor | None = None, rate: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One step of MINE: the :func:`dv` value, an objective with the bias-corrected gradient, and the new average.

    The gradient of DV's second term is :math:`\mathbb E_q[e^f \nabla f] / \mathbb E_q e^f`, and a ratio of batch means
    is biased. MINE divides by a moving average of the denominator over batches instead,
    :math:`m \leftarrow (1 - r)\, m + r\, \overline{e^s}^{\,q}`, this batch's included. The average is kept as its
    logarithm, so no score overflows it.

    Args:
        scores: critic scores, or the embeddings they factor into.
        log_partition: log m from the last step; None or NaN at the first, which then takes this batch's own mean.
        rate: r, the weight of this batch.

    Returns:
        ``(value, objective, log_partition)``: value is DV; objective has the same number, and the corrected gradient;
        the last is to be given to the next step, and carries no gradient.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - log_partition and outputs: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor; ``log_partition`` is not a tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite; ``log_partition`` has more
            than one element; ``rate`` is not in (0, 1].

    Source:
        Belghazi et al. 2018 (arXiv 1801.04062), sec. 3.2, eq. 12.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise ValueError(f"rate: want a number in (0, 1], got {rate!r}")
    pairs = as_pairs(scores)
    positives, batch = pairs.positives().mean(), pairs.log_mean_exp_negatives()
    now = batch.detach()
    if log_partition is not None:
        if not isinstance(log_partition, Tensor):
            raise TypeError(f"log_partition: want a tensor or None, got {_checks.describe(log_partition)}")
        if log_partition.shape != ():
            raise ValueError(f"log_partition: want no dimensions, got {_checks.describe(log_partition)}")
        if rate < 1:
            mixed = torch.logaddexp(log_partition.to(now) + math.log1p(-rate), now + math.log(rate))
            now = torch.where(log_partition.isnan(), now, mixed)
    value = positives - batch
    weight = (batch - now).exp()
    return value.detach(), positives - batch.detach() - (weight - weight.detach()), now


def flo(scores: Tensor | Factored, log_partition: Tensor) -> Tensor:
    r"""FLO lower bound: ``1 - mean_i( t_i + exp(-t_i) mean_{j != i} exp(s_ij - s_ii) )``.

    :math:`t_i = t(x_i, y_i)` comes from a second network. By :math:`-\log z \ge 1 - t - e^{-t} z` it stands in for the
    logarithm of the partition function, relative to the positive: tight for the log density ratio plus any function of
    x as critic, and :math:`t(x, y) = \log \mathbb E_{y'} e^{f(x, y') - f(x, y)}`. A mean of plain expectations, so the
    batch value has no bias. Invariant to adding a function of x to the critic.

    Args:
        scores: critic scores, or the embeddings they factor into.
        log_partition: t for each pair.

    Shape:
        - scores: ``[K, K]``, K >= 2, or :class:`Factored`; float64, float32, bfloat16 or float16.
        - log_partition: ``[K]``.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where an exponential
          overflows.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor, or ``log_partition`` not a tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite; ``log_partition`` has
            another shape.

    Source:
        Guo et al. 2022 (arXiv 2107.01131), sec. 3.
    """
    pairs = as_pairs(scores)
    positives = pairs.positives()
    t = per_pair("log_partition", log_partition, pairs, positives)
    log_ratio = pairs.negative_lse() - math.log(pairs.size - 1) - positives
    return 1 - (t + (log_ratio - t).exp()).mean()
