"""Tasks: samplers of pairs (x, y) whose mutual information is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_estimators import _checks

Sampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""``(n, generator) -> (x [n, dim_x], y [n, dim_y])``, float64 on the CPU."""

LogDensityRatio = Callable[[Tensor, Tensor], Tensor]
"""``(x [n, dim_x], y [n, dim_y]) -> log p(x, y) / (p(x) p(y)) [n]``, float64."""


@dataclass(frozen=True)
class Task:
    """A joint distribution of (x, y) with known mutual information.

    Attributes:
        name: key in :data:`mi_estimators.synthetic.TASKS`.
        dim_x: size of x.
        dim_y: size of y.
        mutual_information: I(x; y) in nats.
        sampler: draws n pairs in float64 from a generator.
        log_density_ratio: pointwise mutual information in float64, where it is known.
    """

    name: str
    dim_x: int
    dim_y: int
    mutual_information: float
    sampler: Sampler
    log_density_ratio: LogDensityRatio | None = None

    def sample(
        self,
        n: int,
        seed: int | torch.Generator = 0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, Tensor]:
        """Draw n i.i.d. pairs.

        Drawn in float64 on the CPU, then converted: the same seed gives the same pairs on every device, and to rounding
        in every dtype. PyTorch's global random state is not touched.

        Args:
            n: number of pairs, >= 1.
            seed: an integer; or a CPU generator, which is advanced, to draw fresh batches one after another.
            dtype: floating-point dtype of the result.
            device: device of the result.

        Shape:
            - output: x ``[n, dim_x]`` and y ``[n, dim_y]``.

        Raises:
            TypeError: ``n`` is not an integer, or ``dtype`` is not a floating-point one.
            ValueError: ``n`` is smaller than 1.
        """
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"n: want an integer, got {_checks.describe(n)}")
        if n < 1:
            raise ValueError(f"n: want at least 1, got {n}")
        if dtype not in _checks.FLOAT_DTYPES:
            raise TypeError(f"dtype: want one of {_checks.FLOAT_DTYPES}, got {dtype}")
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        x, y = self.sampler(n, generator)
        return x.to(device=device, dtype=dtype), y.to(device=device, dtype=dtype)

    def pointwise_mutual_information(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x, y) / (p(x) p(y)) of each pair, in nats; its mean over samples tends to ``mutual_information``.

        Shape:
            - x: ``[n, dim_x]``; y: ``[n, dim_y]``.
            - output: ``[n]``, float64.

        Raises:
            NotImplementedError: it is not known in closed form for this task.
            TypeError: an argument is not a floating-point tensor.
            ValueError: the shapes are not those of n pairs of this task.
        """
        if self.log_density_ratio is None:
            raise NotImplementedError(f"the pointwise mutual information of {self.name!r} is not known in closed form")
        _checks.floating("x", x)
        _checks.floating("y", y)
        if x.shape[1] != self.dim_x:
            raise ValueError(f"x: want {self.dim_x} columns, got {_checks.describe(x)}")
        if y.shape != (x.shape[0], self.dim_y):
            raise ValueError(f"y: want shape {(x.shape[0], self.dim_y)}, got {_checks.describe(y)}")
        return self.log_density_ratio(x.double(), y.double())


@dataclass(frozen=True)
class Reparametrization:
    """An increasing map of the real line, applied to every coordinate, and its inverse.

    Mutual information does not change under it, nor does the pointwise one: the Jacobians cancel.
    """

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


def _signed_power(exponent: float) -> Callable[[Tensor], Tensor]:
    return lambda t: t.sign() * t.abs().pow(exponent)


IDENTITY = Reparametrization(lambda t: t, lambda t: t)
CUBIC = Reparametrization(_signed_power(3.0), _signed_power(1 / 3))
HALF_CUBE = Reparametrization(_signed_power(1.5), _signed_power(2 / 3))
ASINH = Reparametrization(torch.asinh, torch.sinh)


def reparametrize(task: Task, name: str, *, x: Reparametrization = IDENTITY, y: Reparametrization = IDENTITY) -> Task:
    """The task of ``(x.forward(x), y.forward(y))``, whose mutual information is that of ``task``.

    Args:
        task: the task to start from.
        name: name of the new one.
        x: map applied to every coordinate of x.
        y: map applied to every coordinate of y.
    """

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        a, b = task.sampler(n, generator)
        return x.forward(a), y.forward(b)

    ratio = task.log_density_ratio
    return Task(
        name,
        task.dim_x,
        task.dim_y,
        task.mutual_information,
        sampler,
        None if ratio is None else lambda a, b: ratio(x.inverse(a), y.inverse(b)),
    )
