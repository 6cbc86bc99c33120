"""Maps of the variables of a task that keep its mutual information, and tasks put side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_estimators.synthetic.task import Task

Map = Callable[[Tensor], Tensor]
"""``[n, dim] -> [n, dim of the image]``."""


@dataclass(frozen=True)
class Reparametrization:
    """An injective map of vectors, and its inverse on its image.

    Mutual information does not change under it, nor does the pointwise one: the Jacobians cancel.

    Attributes:
        forward: ``[n, dim] -> [n, dim of the image]``.
        inverse: back from there.
        shape: shape of one mapped vector, where it differs from that of the argument; the columns are its elements.
    """

    forward: Map
    inverse: Map
    shape: tuple[int, ...] = ()

    def dim(self, dim: int) -> int:
        """Number of columns of the image of vectors with ``dim`` columns."""
        return math.prod(self.shape) if self.shape else dim


def _signed_power(exponent: float) -> Map:
    return lambda t: t.sign() * t.abs().pow(exponent)


def _solve(left_of_root: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Bisection between ``low`` and ``high``, element by element."""
    # Each step halves the interval: 52 of them bring a width of order 1 below the rounding of float64.
    for _ in range(52):
        middle = (low + high) / 2
        left = left_of_root(middle)
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return (low + high) / 2


def _inverse(function: Map, reach: float) -> Map:
    """Inverse of an increasing function that differs from its argument by less than ``reach``."""
    return lambda value: _solve(lambda t: function(t) < value, value - reach, value + reach)


def _probit(p: Tensor) -> Tensor:
    """Inverse of the normal CDF; finite also where a probability was rounded to 0 or 1."""
    return torch.special.ndtri(p.clamp(torch.finfo(p.dtype).tiny, 1 - torch.finfo(p.dtype).eps / 2))


def _wiggly_x(t: Tensor) -> Tensor:
    return t + 0.4 * torch.sin(t) + 0.2 * torch.sin(1.7 * t + 1) + 0.03 * torch.sin(3.3 * t - 2.5)


def _wiggly_y(t: Tensor) -> Tensor:
    return t - 0.4 * torch.sin(0.4 * t) + 0.17 * torch.sin(1.3 * t + 3.5) + 0.02 * torch.sin(4.3 * t - 2.5)


def bimodal(weight: float, first: float, second: float) -> Reparametrization:
    """The increasing map that takes a standard normal variable to the mixture of two normal ones.

    ``F(t) = weight Phi(t - first) + (1 - weight) Phi(t - second)``; the map is ``F^-1(Phi(.))``.

    Args:
        weight: of the first component, inside (0, 1).
        first: its mean.
        second: mean of the second component.
    """
    if not 0 < weight < 1:
        raise ValueError(f"weight: want a value inside (0, 1), got {weight!r}")

    def tails(t: Tensor) -> tuple[Tensor, Tensor]:
        ndtr = torch.special.ndtr
        lower = weight * ndtr(t - first) + (1 - weight) * ndtr(t - second)
        return lower, weight * ndtr(first - t) + (1 - weight) * ndtr(second - t)

    # Both ways by the smaller tail: the larger one rounds to 1.
    def spread(z: Tensor) -> Tensor:
        smaller, negative = torch.special.ndtr(-z.abs()), z < 0

        def left_of_root(t: Tensor) -> Tensor:
            lower, upper = tails(t)
            return torch.where(negative, lower < smaller, upper > smaller)

        return _solve(left_of_root, z + min(first, second), z + max(first, second))

    def gaussianise(t: Tensor) -> Tensor:
        lower, upper = tails(t)
        return _probit(torch.minimum(lower, upper)) * torch.where(lower < upper, 1.0, -1.0)

    return Reparametrization(spread, gaussianise)


def spiral(axes: tuple[int, int], speed: float) -> Reparametrization:
    """Rotates a vector in the plane of two axes by the angle ``speed |x|^2``, in radians.

    Args:
        axes: the two columns.
        speed: radians per squared length.
    """
    i, j = axes

    def rotate(x: Tensor, speed: float) -> Tensor:
        angle = speed * x.square().sum(dim=1)
        cos, sin = angle.cos(), angle.sin()
        turned = x.clone()
        turned[:, i] = cos * x[:, i] - sin * x[:, j]
        turned[:, j] = sin * x[:, i] + cos * x[:, j]
        return turned

    # A rotation keeps the length, so the way back turns by the same angle.
    return Reparametrization(lambda x: rotate(x, speed), lambda x: rotate(x, -speed))


def _swiss_roll(u: Tensor) -> Tensor:
    t = 1.5 * math.pi * (1 + 2 * u[:, 0])
    return torch.stack([t * t.cos(), t * t.sin()], dim=1) / 21


def _unroll(x: Tensor) -> Tensor:
    return (21 * x.norm(dim=1, keepdim=True) / (1.5 * math.pi) - 1) / 2


IDENTITY = Reparametrization(lambda t: t, lambda t: t)
"""Leaves its argument as it is."""

CUBIC = Reparametrization(_signed_power(3.0), _signed_power(1 / 3))
"""``t^3``."""

HALF_CUBE = Reparametrization(_signed_power(1.5), _signed_power(2 / 3))
"""``sign(t) |t|^(3/2)``: longer tails."""

ASINH = Reparametrization(torch.asinh, torch.sinh)
"""``asinh(t)``: shorter tails."""

NORMAL_CDF = Reparametrization(torch.special.ndtr, _probit)
"""Normal distribution function: standard normal coordinates become uniform on (0, 1)."""


LOG = Reparametrization(torch.log, torch.exp)
"""``log(t)``, for positive variables."""

WIGGLY_X = Reparametrization(_wiggly_x, _inverse(_wiggly_x, 0.64))
"""``t + 0.4 sin t + 0.2 sin(1.7 t + 1) + 0.03 sin(3.3 t - 2.5)``."""

WIGGLY_Y = Reparametrization(_wiggly_y, _inverse(_wiggly_y, 0.6))
"""``t - 0.4 sin 0.4 t + 0.17 sin(1.3 t + 3.5) + 0.02 sin(4.3 t - 2.5)``."""

SWISS_ROLL = Reparametrization(_swiss_roll, _unroll, shape=(2,))
"""A number u in (0, 1) becomes ``t (cos t, sin t) / 21`` with ``t = 1.5 pi (1 + 2 u)``."""


def reparametrize(
    task: Task,
    name: str,
    *,
    x: Reparametrization = IDENTITY,
    y: Reparametrization = IDENTITY,
    source: str | None = None,
) -> Task:
    """The task of ``(x.forward(x), y.forward(y))``, whose mutual information is that of ``task``.

    Args:
        task: the task to start from.
        name: name of the new one.
        x: map of x.
        y: map of y.
        source: where the distribution was published; None for that of ``task``.
    """

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        a, b = task.sampler(n, generator)
        return x.forward(a), y.forward(b)

    ratio = task.log_density_ratio
    return dataclasses.replace(
        task,
        name=name,
        dim_x=x.dim(task.dim_x),
        dim_y=y.dim(task.dim_y),
        sampler=sampler,
        log_density_ratio=None if ratio is None else lambda a, b: ratio(x.inverse(a), y.inverse(b)),
        shape_x=x.shape if len(x.shape) > 1 else task.shape_x,
        shape_y=y.shape if len(y.shape) > 1 else task.shape_y,
        source=task.source if source is None else source,
    )


def concatenate(name: str, tasks: Sequence[Task]) -> Task:
    """Independent tasks side by side: columns are joined, and mutual information adds up.

    Args:
        name: name of the new task.
        tasks: at least one.

    Raises:
        ValueError: there is no task.
    """
    if not tasks:
        raise ValueError("tasks: want at least one")
    parts = tuple(tasks)

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        xs, ys = zip(*(task.sampler(n, generator) for task in parts), strict=True)
        return torch.cat(xs, dim=1), torch.cat(ys, dim=1)

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        xs, ys = x.split([task.dim_x for task in parts], dim=1), y.split([task.dim_y for task in parts], dim=1)
        ratios = [task.pointwise_mutual_information(a, b) for task, a, b in zip(parts, xs, ys, strict=True)]
        return torch.stack(ratios).sum(dim=0)

    kinds_x, kinds_y = {task.kind_x for task in parts}, {task.kind_y for task in parts}
    return Task(
        name,
        sum(task.dim_x for task in parts),
        sum(task.dim_y for task in parts),
        math.fsum(task.mutual_information for task in parts),
        sampler,
        log_density_ratio if all(task.log_density_ratio is not None for task in parts) else None,
        kind_x=kinds_x.pop() if len(kinds_x) == 1 else "mixed",
        kind_y=kinds_y.pop() if len(kinds_y) == 1 else "mixed",
        standard_error=math.hypot(*(task.standard_error for task in parts)),
        source=parts[0].source if len({task.source for task in parts}) == 1 else "",
    )
