"""Univariate tasks whose density gives the mutual information in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.synthetic.maps import LOG, concatenate, reparametrize
from mi_estimators.synthetic.task import Task
from mi_estimators.synthetic.variates import gamma


def additive_noise(epsilon: float) -> Task:
    """x uniform on (0, 1), y = x + noise uniform on (-epsilon, epsilon).

    ``I = 1 / (4 epsilon)`` for epsilon above 1/2, else ``epsilon - log(2 epsilon)``.

    Args:
        epsilon: half the width of the noise, > 0.

    Raises:
        ValueError: ``epsilon`` is not a finite number > 0.

    Source:
        Czyż et al. 2023 (arXiv 2306.11078), "uniform, additive noise".
    """
    _checks.positive("epsilon", epsilon)
    mutual_information = 1 / (4 * epsilon) if epsilon > 0.5 else epsilon - math.log(2 * epsilon)

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, noise = torch.rand(2, n, 1, generator=generator, dtype=torch.float64)
        return x, x + epsilon * (2 * noise - 1)

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        # p(y | x) = 1 / 2 epsilon; p(y) = |[y - epsilon, y + epsilon] n [0, 1]| / 2 epsilon.
        return -torch.log((y + epsilon).clamp(max=1) - (y - epsilon).clamp(min=0))[:, 0]

    source = "Czyż et al. 2023 (arXiv 2306.11078), additive noise"
    return Task(f"1v1-additive-{epsilon}", 1, 1, mutual_information, sampler, log_density_ratio, source=source)


def gamma_exponential(shape: float, dim: int = 1, *, log: bool = False) -> Task:
    """x is Gamma(shape) of unit rate, y given x exponential with rate x.

    ``p(x, y) = x^shape e^(-x - x y) / Gamma(shape)``, and
    ``I = psi(shape + 1) - log(shape)`` for each coordinate. The smaller the shape, the higher the mutual information
    and the longer the tails of y, which has no mean from shape 1 down.

    Args:
        shape: of the gamma distribution, >= 0.05.
        dim: number of independent pairs; mutual information adds up over them.
        log: take the logarithm of x and y, which leaves the mutual information and shortens the tails.

    Raises:
        ValueError: ``shape`` is not a finite number >= 0.05, or ``dim`` is smaller than 1.

    Source:
        Kraskov, Stögbauer and Grassberger 2004 (arXiv cond-mat/0305641), after Darbellay and Vajda 2000 (IEEE Trans.
        Inf. Theory 46).
    """
    # Below, 1 / x overflows more often than once in 10^15 draws.
    if not 0.05 <= shape < math.inf:
        raise ValueError(f"shape: want a finite value >= 0.05, got {shape!r}")
    _checks.count("dim", dim)
    mutual_information = float(torch.digamma(torch.tensor(shape + 1, dtype=torch.float64))) - math.log(shape)

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = gamma(shape, n, generator)[:, None]
        return x, torch.empty_like(x).exponential_(generator=generator) / x

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        # p(y) = shape / (1 + y)^(shape + 1)
        return (x.log() - x * y - math.log(shape) + (shape + 1) * torch.log1p(y))[:, 0]

    stem = f"gamma_exponential-{shape}"
    source = "Kraskov et al. 2004 (arXiv cond-mat/0305641), gamma-exponential"
    task = Task(stem, 1, 1, mutual_information, sampler, log_density_ratio, source=source)
    if dim > 1:
        task = concatenate(f"gamma_exponential-{dim}-{shape}", [task] * dim)
    return reparametrize(task, f"log_{task.name}", x=LOG, y=LOG) if log else task
