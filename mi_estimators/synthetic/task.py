"""Tasks: samplers of pairs (x, y) whose mutual information is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mi_estimators import _checks

Sampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""``(n, generator) -> (x [n, dim_x], y [n, dim_y])``, float64 on the CPU."""

LogDensityRatio = Callable[[Tensor, Tensor], Tensor]
"""``(x [n, dim_x], y [n, dim_y]) -> log p(x, y) / (p(x) p(y)) [n]``, float64."""

Kind = Literal["continuous", "discrete", "mixed"]
"""What values a variable takes: a density; atoms only, as whole numbers; atoms beside a density."""


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
        kind_x: ``"continuous"``, ``"discrete"`` (whole numbers, stored as floating-point) or ``"mixed"`` (repeated
            values beside continuous ones).
        kind_y: the same of y.
        standard_error: of ``mutual_information``, in nats, where that is a Monte Carlo mean; 0 where it is exact up to
            rounding or quadrature (better than 1e-6).
        shape_x: shape of one x where its columns are a flattened image, ``(channels, height, width)``; else empty.
        shape_y: the same of y.
        source: where the distribution was published.
    """

    name: str
    dim_x: int
    dim_y: int
    mutual_information: float
    sampler: Sampler
    log_density_ratio: LogDensityRatio | None = None
    kind_x: Kind = "continuous"
    kind_y: Kind = "continuous"
    standard_error: float = 0.0
    shape_x: tuple[int, ...] = ()
    shape_y: tuple[int, ...] = ()
    source: str = ""

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
        _checks.count("n", n)
        if dtype not in _checks.FLOAT_DTYPES:
            raise TypeError(f"dtype: want one of {_checks.FLOAT_DTYPES}, got {dtype}")
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        x, y = self.sampler(n, generator)
        return x.to(device=device, dtype=dtype), y.to(device=device, dtype=dtype)

    def pointwise_mutual_information(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x, y) / (p(x) p(y)) of each pair, in nats; its mean over samples tends to ``mutual_information``.

        Densities are with respect to any product of measures on x and y, so this holds for discrete variables as well.
        Draw in float64: rounding a sample to float32 moves it by more than some tasks' noise is wide.

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
