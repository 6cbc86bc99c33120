"""What every variational estimator is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from mi_estimators.bounds import Bound


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
        bound: the entry of :data:`mi_estimators.bounds.BOUNDS`, its kind and cap as the options make them.
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
