"""Variational bounds on mutual information as pure functions of a matrix of critic scores.

Every function takes ``scores`` of shape ``[K, K]`` with ``scores[i, j] = f(x_i, y_j)`` for a batch of K i.i.d. pairs:
the diagonal holds the scores of the K joint samples, the off-diagonal entries those of K (K - 1) samples of the product
of the marginals. All values are in nats.

:data:`BOUNDS` lists them with what each is and is not: adding one takes a function and an entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks


def _score_matrix(scores: Tensor) -> Tensor:
    """Check a score matrix, and widen half-precision ones: a mean of K^2 exponentials does not fit 8 or 11 bits."""
    _checks.floating("scores", scores)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores: want a square matrix with the positives on the diagonal, got {tuple(scores.shape)}")
    if scores.shape[0] < 2:
        raise ValueError("scores: want K >= 2 pairs, since one pair has no negatives; got K = 1")
    _checks.finite("scores", scores)
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _negatives(scores: Tensor, fill: float) -> Tensor:
    """Replace the diagonal, so that a reduction over the whole matrix sees only the negatives."""
    return scores.masked_fill(torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device), fill)


def _log_mean_exp_negatives(scores: Tensor) -> Tensor:
    """log of the mean over i != j of exp(scores[i, j])."""
    k = scores.shape[0]
    return _negatives(scores, -math.inf).logsumexp(dim=(0, 1)) - math.log(k * (k - 1))


def i_nce(scores: Tensor) -> Tensor:
    r"""InfoNCE lower bound: ``log K + mean_i(s_ii - logsumexp_j s_ij)``.

    Never exceeds ``log K``, whatever the critic. Invariant to adding a function of x to the critic.

    Shape:
        - scores: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        van den Oord et al. 2018 (arXiv 1807.03748), eq. 4; Tschannen et al. 2020 (arXiv 1907.13625), sec. 2.
    """
    scores = _score_matrix(scores)
    return (scores.diagonal() - scores.logsumexp(dim=1)).mean() + math.log(scores.shape[0])


def tuba(scores: Tensor, log_baseline: float | Tensor = 0.0) -> Tensor:
    r"""TUBA lower bound: ``1 + mean_i(s_ii - log a_i) - mean_{i != j} exp(s_ij - log a_j)``, with a baseline a(y) > 0.

    Tight for the critic ``f = log p(x|y)/p(x) + log a(y)``. A baseline of 1 reads the critic as a log density ratio; a
    baseline of e gives :func:`nwj`.

    Args:
        scores: critic scores.
        log_baseline: ``log a``: a number, or one value for each y_j.

    Shape:
        - scores: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - log_baseline: ``[]`` or ``[K]``.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where the mean of the
          exponentials overflows.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite; ``log_baseline`` has another
            shape.

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 2.2.
    """
    scores = _score_matrix(scores)
    if isinstance(log_baseline, Tensor) and log_baseline.shape not in ((), scores.shape[:1]):
        raise ValueError(
            f"log_baseline: want a number or shape ({scores.shape[0]},), got {_checks.describe(log_baseline)}"
        )
    shifted = scores - log_baseline
    return 1 + shifted.diagonal().mean() - _log_mean_exp_negatives(shifted).exp()


def nwj(scores: Tensor) -> Tensor:
    r"""Nguyen-Wainwright-Jordan lower bound: ``1 + mean_i(s_ii - 1) - mean_{i != j} exp(s_ij - 1)``.

    Unbiased for its critic, tight for ``f = 1 + log p(x, y)/(p(x) p(y))``; its variance grows like ``e^I``.

    Shape:
        - scores: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where the mean of the
          exponentials overflows.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Nguyen, Wainwright and Jordan 2010; Tschannen et al. 2020 (arXiv 1907.13625), sec. 2.
    """
    return tuba(scores, 1.0)


def dv(scores: Tensor) -> Tensor:
    r"""Donsker-Varadhan value: ``mean_i s_ii - log mean_{i != j} exp(s_ij)``.

    Invariant to adding a constant to the critic, and never below :func:`nwj` on the same scores. With exact
    expectations it is a lower bound; the log of a batch mean is biased downwards, so its batch average lies above that
    bound and can exceed the mutual information.

    Shape:
        - scores: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Donsker and Varadhan 1983; Belghazi et al. 2018 (arXiv 1801.04062), theorem 1.
    """
    scores = _score_matrix(scores)
    return scores.diagonal().mean() - _log_mean_exp_negatives(scores)


def js_objective(scores: Tensor) -> Tensor:
    r"""Jensen-Shannon training objective: ``-mean_i softplus(-s_ii) - mean_{i != j} softplus(s_ij)``.

    The log-likelihood of logistic regression between joint and product samples: at its maximum the critic is the log
    density ratio. It is not itself a bound on the mutual information (it lies between ``-2 log 2`` and 0).

    Shape:
        - scores: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Nowozin et al. 2016 (arXiv 1606.00709), sec. 2.4; Hjelm et al. 2019 (arXiv 1808.06670), eq. 4.
    """
    scores = _score_matrix(scores)
    k = scores.shape[0]
    negatives = _negatives(F.softplus(scores), 0.0).sum() / (k * (k - 1))
    return -F.softplus(-scores.diagonal()).mean() - negatives


def js(scores: Tensor) -> Tensor:
    r"""Lower bound for a critic trained by :func:`js_objective`: ``1 + mean_i s_ii - mean_{i != j} exp(s_ij)``.

    This is :func:`nwj` of ``f + 1``, because the Jensen-Shannon optimum is the log density ratio itself. Feeding f to
    ``nwj`` unchanged, as common code does, loses ``1/e`` nats at the optimum.

    Shape:
        - scores: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype. ``-inf`` where the mean of the
          exponentials overflows.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite.

    Source:
        Poole et al. 2019 (arXiv 1905.06922), sec. 2.
    """
    return tuba(scores, 0.0)


def smile(scores: Tensor, clip: float = 5.0) -> Tensor:
    r"""SMILE value: ``mean_i s_ii - log mean_{i != j} clip(exp(s_ij), e^-clip, e^clip)``.

    Clipping bounds the variance of the partition term and biases it: the value is neither a lower nor an upper bound.
    Train the critic with :func:`js_objective`.

    Args:
        scores: critic scores.
        clip: the paper's tau, > 0.

    Shape:
        - scores: ``[K, K]``, K >= 2; float64, float32, bfloat16 or float16.
        - output: ``[]``, nats; float32 for half-precision scores, else their dtype.

    Raises:
        TypeError: ``scores`` is not a floating-point tensor.
        ValueError: ``scores`` is not square, holds fewer than two pairs, or is not finite; ``clip`` is not positive.

    Source:
        Song and Ermon 2020 (arXiv 1910.06222), sec. 4.
    """
    scores = _score_matrix(scores)
    _checks.positive("clip", clip)
    return scores.diagonal().mean() - _log_mean_exp_negatives(scores.clamp(-clip, clip))


@dataclass(frozen=True)
class Bound:
    """One entry of :data:`BOUNDS`.

    Attributes:
        name: key in the table.
        value: the reported value, a function of the scores, in nats.
        kind: what the expectation of ``value`` over i.i.d. batches is, for every critic: a ``"lower"`` or ``"upper"``
            bound on the mutual information, or ``"neither"``.
        note: bias and variance.
        source: paper and equation.
        objective: what training maximises, where it is not ``value``.
        cap: the largest value that K pairs can give, where there is one.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    kind: Literal["lower", "upper", "neither"]
    note: str
    source: str
    objective: Callable[[Tensor], Tensor] | None = None
    cap: Callable[[int], float] | None = None

    def value_and_objective(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The reported value and what to maximise, sharing the work where they are the same."""
        value = self.value(scores)
        return value, value if self.objective is None else self.objective(scores)


BOUNDS: dict[str, Bound] = {
    bound.name: bound
    for bound in (
        Bound(
            "infonce",
            i_nce,
            "lower",
            "low variance; biased downwards without limit once the mutual information nears log K",
            "van den Oord et al. 2018 (arXiv 1807.03748), eq. 4",
            cap=math.log,
        ),
        Bound(
            "nwj",
            nwj,
            "lower",
            "unbiased for its critic; variance grows like e^I",
            "Nguyen, Wainwright and Jordan 2010; Tschannen et al. 2020 (arXiv 1907.13625), sec. 2",
        ),
        Bound(
            "dv",
            dv,
            "neither",
            "biased upwards by the log of a batch mean; variance grows like e^I",
            "Donsker and Varadhan 1983; Belghazi et al. 2018 (arXiv 1801.04062), theorem 1",
        ),
        Bound(
            "js",
            js,
            "lower",
            "stable training; the reported value has the variance of NWJ",
            "Poole et al. 2019 (arXiv 1905.06922), sec. 2",
            objective=js_objective,
        ),
        Bound(
            "tuba",
            tuba,
            "lower",
            "constant baseline a = 1: NWJ with its critic shifted by one; variance grows like e^I",
            "Poole et al. 2019 (arXiv 1905.06922), sec. 2.2",
        ),
        Bound(
            "smile",
            smile,
            "neither",
            "clip 5: variance bounded by the clip, biased upwards once scores pass it",
            "Song and Ermon 2020 (arXiv 1910.06222), sec. 4",
            objective=js_objective,
        ),
    )
}
