"""What every variational estimator is, and :func:`variational`, which builds them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.bounds import BOUNDS, Bound
from mi_estimators.critics import CRITICS


class Step(NamedTuple):
    """What a variational estimator says of a batch; both are 0-d tensors.

    Attributes:
        value: the bound, in nats.
        objective: what training maximises: its gradient is right for all parameters of the estimator.
    """

    value: Tensor
    objective: Tensor


class VariationalEstimator(nn.Module):
    """A bound on mutual information with the networks it needs.

    Calling it with K i.i.d. pairs gives a :class:`Step`. In evaluation mode (``model.eval()``) a call leaves the
    estimator as it is; in training mode it may update running statistics.

    Attributes:
        bound: the entry of :data:`mi_estimators.bounds.BOUNDS`: name, kind, cap, note, source.
    """

    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor, y: Tensor) -> Step:
        """Evaluate a batch of pairs.

        Shape:
            - x: ``[K, dim_x]``, y: ``[K, dim_y]``, K >= 2.
            - output: two tensors ``[]``, nats.

        Raises:
            TypeError: an argument is not a floating-point tensor.
            ValueError: an argument has the wrong number of columns, or they have different numbers of rows.
        """
        raise NotImplementedError


class ScoreEstimator(VariationalEstimator):
    """A bound that is a function of the critic's scores alone."""

    def __init__(self, bound: Bound, critic: nn.Module) -> None:
        super().__init__(bound)
        self.critic = critic

    def forward(self, x: Tensor, y: Tensor) -> Step:
        """Score every pair, and evaluate the bound on the scores."""
        return Step(*self.bound.value_and_objective(self.critic(x, y)))


def variational(
    bound: str,
    dim_x: int,
    dim_y: int,
    *,
    critic: str | nn.Module = "concatenated",
    critic_options: Mapping[str, Any] | None = None,
    bound_options: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> VariationalEstimator:
    """Build a trainable estimator of mutual information.

    Args:
        bound: name in :data:`mi_estimators.bounds.BOUNDS`.
        dim_x: size of x.
        dim_y: size of y.
        critic: name in :data:`mi_estimators.critics.CRITICS`, or a module ``(x [N, dim_x], y [M, dim_y]) -> [N, M]``.
        critic_options: keyword arguments of the critic.
        bound_options: keyword arguments of the bound.
        generator: source of the initial weights; None takes PyTorch's global one.

    Raises:
        TypeError: an option that the bound or the critic does not have.
        ValueError: an unknown bound or critic, or an option out of range.
    """
    _checks.choice("bound", bound, BOUNDS)
    if bound_options:
        raise TypeError(f"bound_options: {bound!r} takes none, got {sorted(bound_options)}")
    if isinstance(critic, str):
        _checks.choice("critic", critic, CRITICS)
        critic = CRITICS[critic](dim_x, dim_y, generator=generator, **(critic_options or {}))
    return ScoreEstimator(BOUNDS[bound], critic)
