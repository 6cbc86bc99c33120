"""Bounds of critic scores, with the networks that some of them need beside the critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.bounds import Bound, Factored, dv, flo, i_alpha, js_objective, mine_step, smile, tuba
from mi_estimators.critics import FactoredCritic
from mi_estimators.networks import mlp, sizes, soft_clip
from mi_estimators.variational.baselines import BASELINES
from mi_estimators.variational.estimator import Step, VariationalEstimator

FACTORED_FROM = 1024
"""Batch size from which a critic that factors is evaluated without the matrix of scores. Measured on one CPU core with
a separable critic of 256-256-32: from here a step of a bound of log-sum-exps takes 0.4 to 0.7 of the time, and one of
the others about the same; below 512 the matrix is faster."""


class ScoredEstimator(VariationalEstimator):
    r"""A bound that is a function of the scores of a critic.

    Args:
        bound: the entry of the table.
        critic: scores every pair.
        score_clip: c, where scores enter the bound as :math:`c \tanh(s / c)`; None leaves them as they are. Such scores
            no longer factor, so the matrix of them is made.
        score_penalty: weight of the mean square of the scores, before that, that is taken off the objective.

    Source of the two options:
        Bachman, Hjelm and Buchwalter 2019 (arXiv 1906.00910), sec. 3.
    """

    def __init__(
        self, bound: Bound, critic: nn.Module, *, score_clip: float | None = None, score_penalty: float = 0.0
    ) -> None:
        super().__init__(bound)
        if score_clip is not None:
            _checks.positive("score_clip", score_clip)
        if isinstance(score_penalty, bool) or not isinstance(score_penalty, (int, float)):
            raise TypeError(f"score_penalty: want a number, got {_checks.describe(score_penalty)}")
        if not 0 <= score_penalty < math.inf:
            raise ValueError(f"score_penalty: want a finite number >= 0, got {score_penalty!r}")
        self.critic = critic
        self.score_clip = score_clip
        self.score_penalty = score_penalty

    def forward(self, x: Tensor, y: Tensor) -> Step:
        """Score every pair, and evaluate the bound: see :meth:`VariationalEstimator.forward`."""
        scores: Tensor | Factored
        if isinstance(self.critic, FactoredCritic) and self.score_clip is None and len(x) >= FACTORED_FROM:
            scores = self.critic.factored(x, y)
        else:
            scores = self.critic(x, y)
        if len(x) != len(y):
            raise ValueError(f"y: want as many rows as x ({len(x)}), got {_checks.describe(y)}")
        clipped = scores
        if self.score_clip is not None and isinstance(scores, Tensor):
            clipped = soft_clip(scores, self.score_clip)
        value, objective = self.evaluate(clipped, x, y)
        if self.score_penalty:
            objective = objective - self.score_penalty * _mean_square(scores)
        return Step(value, objective)

    def evaluate(self, scores: Tensor | Factored, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Value and objective of the scores of a batch."""
        return self.bound.value_and_objective(scores)


def _mean_square(scores: Tensor | Factored) -> Tensor:
    if isinstance(scores, Tensor):
        return scores.square().mean()
    # sum_ij (u_i . v_j)^2 = <U^T U, V^T V>
    return ((scores.u.T @ scores.u) * (scores.v.T @ scores.v)).sum() / len(scores.u) ** 2


class Smile(ScoredEstimator):
    """SMILE with a clip of choice: see :func:`mi_estimators.bounds.smile`."""

    def __init__(self, bound: Bound, critic: nn.Module, *, clip: float = 5.0, **options: Any) -> None:
        super().__init__(bound, critic, **options)
        _checks.positive("clip", clip)
        self.clip = clip

    def evaluate(self, scores: Tensor | Factored, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Value and objective of the scores of a batch."""
        return smile(scores, self.clip), js_objective(scores)


class Mine(ScoredEstimator):
    """MINE: see :func:`mi_estimators.bounds.mine_step`. In evaluation mode the objective is the value, DV.

    Args:
        bound: the entry of the table.
        critic: scores every pair.
        rate: weight of a batch in the moving average of the partition function.
        **options: of :class:`ScoredEstimator`.
    """

    log_partition: Tensor

    def __init__(self, bound: Bound, critic: nn.Module, *, rate: float = 0.01, **options: Any) -> None:
        super().__init__(bound, critic, **options)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f"rate: want a number in (0, 1], got {rate!r}")
        self.rate = rate
        # NaN until the first batch: a tensor, so that a state stacked over several models works too.
        self.register_buffer("log_partition", torch.tensor(math.nan))

    def evaluate(self, scores: Tensor | Factored, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Value and objective of the scores of a batch."""
        if not self.training:
            value = dv(scores)
            return value, value
        value, objective, log_partition = mine_step(scores, self.log_partition, self.rate)
        self.log_partition.copy_(log_partition)
        return value, objective


class BaselineEstimator(ScoredEstimator):
    """TUBA, or with an alpha I_alpha, with a baseline a(y).

    Args:
        bound: the entry of the table.
        critic: scores every pair.
        baseline: module from ``y [K, dim_y]`` to ``log a [K]``.
        alpha: of :func:`mi_estimators.bounds.i_alpha`; None for TUBA.
        **options: of :class:`ScoredEstimator`.
    """

    def __init__(
        self, bound: Bound, critic: nn.Module, baseline: nn.Module, *, alpha: float | None = None, **options: Any
    ) -> None:
        if alpha is not None:
            if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
                raise ValueError(f"alpha: want a number from 0 to 1, got {alpha!r}")
            bound = replace(bound, cap=None if alpha == 0 else _interpolated_cap(alpha))
        super().__init__(bound, critic, **options)
        self.baseline = baseline
        self.alpha = alpha

    def evaluate(self, scores: Tensor | Factored, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Value and objective of the scores of a batch."""
        log_baseline = self.baseline(y)
        value = tuba(scores, log_baseline) if self.alpha is None else i_alpha(scores, log_baseline, self.alpha)
        return value, value


def _interpolated_cap(alpha: float) -> Callable[[int], float]:
    return lambda k: math.log((k - 1) / alpha) + (alpha < 1)


class Flo(ScoredEstimator):
    """FLO: see :func:`mi_estimators.bounds.flo`; its second network is an MLP on each pair ``[x_i, y_i]``.

    Args:
        bound: the entry of the table.
        critic: scores every pair.
        dim: size of x and y together.
        hidden: sizes of the hidden ReLU layers of the second network.
        generator: source of its initial weights; None takes PyTorch's global one.
        **options: of :class:`ScoredEstimator`.
    """

    def __init__(
        self,
        bound: Bound,
        critic: nn.Module,
        dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(bound, critic, **options)
        self.log_partition = mlp([dim, *sizes("hidden", hidden), 1], generator)

    def evaluate(self, scores: Tensor | Factored, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Value and objective of the scores of a batch."""
        value = flo(scores, self.log_partition(torch.cat([x, y], dim=1)).squeeze(1))
        return value, value


def make_baseline(
    baseline: str | nn.Module, options: Mapping[str, Any] | None, dim_y: int, generator: torch.Generator | None
) -> nn.Module:
    """A baseline by name, or as it is given."""
    if isinstance(baseline, nn.Module):
        if options:
            raise TypeError("baseline_options: want none where the baseline is a module")
        return baseline
    _checks.choice("baseline", baseline, BASELINES)
    return BASELINES[baseline](dim_y, generator=generator, **(options or {}))
