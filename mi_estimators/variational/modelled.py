"""Bounds of a model of the density of y given x."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.bounds import Bound, ba, club, doe, l1out
from mi_estimators.densities import DENSITIES, ConditionalDensity
from mi_estimators.entropy import gaussian_entropy, kde_entropy, knn_entropy
from mi_estimators.variational.estimator import Step, VariationalEstimator

ENTROPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "knn": knn_entropy,
    "kde": kde_entropy,
    "gaussian": gaussian_entropy,
}
"""Estimates of the entropy of y that Barber-Agakov takes by name."""


class DensityEstimator(VariationalEstimator):
    """A bound of a conditional density, which is trained by maximum likelihood.

    Args:
        bound: the entry of the table.
        conditional: q(y | x).
    """

    def __init__(self, bound: Bound, conditional: ConditionalDensity) -> None:
        super().__init__(bound)
        self.conditional = conditional


class Contrast(DensityEstimator):
    """CLUB or L1Out: the density of each y given its own x against that given every other.

    Args:
        bound: the entry of the table.
        conditional: q(y | x).
        value: the bound, a function of the matrix ``log q(y_j | x_i)``.
    """

    def __init__(self, bound: Bound, conditional: ConditionalDensity, value: Callable[[Tensor], Tensor]) -> None:
        super().__init__(bound, conditional)
        self.value = value

    def forward(self, x: Tensor, y: Tensor) -> Step:
        """Evaluate a batch: see :meth:`VariationalEstimator.forward`."""
        matrix = self.conditional.log_prob_matrix(y, x)
        return Step(self.value(matrix), matrix.diagonal().mean())


class BarberAgakov(DensityEstimator):
    """Barber-Agakov, or with the entropy of a kernel density, ER.

    Args:
        bound: the entry of the table.
        conditional: q(y | x).
        entropy: of y: a number, which makes the value a lower bound, or a name in :data:`ENTROPIES`.
    """

    def __init__(self, bound: Bound, conditional: ConditionalDensity, *, entropy: float | str = "knn") -> None:
        if isinstance(entropy, str):
            _checks.choice("entropy", entropy, ENTROPIES)
        elif isinstance(entropy, bool) or not isinstance(entropy, (int, float)):
            raise TypeError(f"entropy: want a number or a name, got {_checks.describe(entropy)}")
        elif not -math.inf < entropy < math.inf:
            raise ValueError(f"entropy: want a finite number, got {entropy!r}")
        else:
            bound = replace(bound, kind="lower")
        super().__init__(bound, conditional)
        self.entropy = entropy

    def forward(self, x: Tensor, y: Tensor) -> Step:
        """Evaluate a batch: see :meth:`VariationalEstimator.forward`."""
        log_conditional = self.conditional.log_prob(y, x)
        entropy = ENTROPIES[self.entropy](y) if isinstance(self.entropy, str) else self.entropy
        value = ba(log_conditional, entropy)
        return Step(value, value)


class DifferenceOfEntropies(DensityEstimator):
    """DoE: a conditional and a marginal density, each trained by maximum likelihood.

    Args:
        bound: the entry of the table.
        conditional: q(y | x).
        marginal: r(y).
    """

    def __init__(self, bound: Bound, conditional: ConditionalDensity, marginal: ConditionalDensity) -> None:
        super().__init__(bound, conditional)
        self.marginal = marginal

    def forward(self, x: Tensor, y: Tensor) -> Step:
        """Evaluate a batch: see :meth:`VariationalEstimator.forward`."""
        log_marginal, log_conditional = self.marginal.log_prob(y), self.conditional.log_prob(y, x)
        return Step(doe(log_marginal, log_conditional), log_marginal.mean() + log_conditional.mean())


def make_density(
    name: str,
    density: str | ConditionalDensity,
    options: Mapping[str, Any] | None,
    dim_x: int,
    dim_y: int,
    generator: torch.Generator | None,
) -> ConditionalDensity:
    """A density by name, or as it is given, for arguments called ``name`` and ``name_options``."""
    if isinstance(density, str):
        _checks.choice(name, density, DENSITIES)
        return DENSITIES[density](dim_x, dim_y, generator=generator, **(options or {}))
    if not isinstance(density, ConditionalDensity):
        raise TypeError(f"{name}: want a name or a ConditionalDensity, got {_checks.describe(density)}")
    if options:
        raise TypeError(f"{name}_options: want none where {name} is a module")
    if (density.dim_x, density.dim_y) != (dim_x, dim_y):
        raise ValueError(
            f"{name}: want a density of {dim_y} numbers given {dim_x}, got one of {density.dim_y} given {density.dim_x}"
        )
    return density


CONTRASTS: dict[str, Callable[[Tensor], Tensor]] = {"club": club, "vclub": club, "l1out": l1out}
