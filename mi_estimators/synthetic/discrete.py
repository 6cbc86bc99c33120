"""Discrete variables, and discrete beside continuous ones. Symbols are whole numbers, stored as floating-point."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.synthetic.maps import concatenate
from mi_estimators.synthetic.task import Task

_GAO = "Gao et al. 2017 (arXiv 1709.06212)"


def discrete_task(name: str, joint: np.ndarray, *, source: str = "") -> Task:
    """x is the row and y the column of an entry of a table, drawn with the probability that stands there.

    ``I = sum_ij p_ij log(p_ij / (p_i. p_.j))``.

    Args:
        name: name of the task.
        joint: probabilities, ``[n_x, n_y]``, >= 0 with sum 1; no row or column is zero.
        source: where the distribution was published.

    Raises:
        ValueError: the table is no joint distribution, or a row or column of it is zero.
    """
    table = torch.as_tensor(np.asarray(joint, dtype=np.float64))
    if table.ndim != 2:
        raise ValueError(f"joint: want a table of two dimensions, got shape {tuple(table.shape)}")
    if not (table >= 0).all() or not abs(float(table.sum()) - 1) <= 1e-9:
        raise ValueError(f"joint: want probabilities >= 0 with sum 1, got sum {float(table.sum()):.6g}")
    rows, columns = table.sum(dim=1, keepdim=True), table.sum(dim=0, keepdim=True)
    if not (rows > 0).all() or not (columns > 0).all():
        raise ValueError("joint: want every row and every column to have a probability above zero")
    ratio = table.log() - rows.log() - columns.log()
    mutual_information = float(torch.special.xlogy(table, table / (rows * columns)).sum())

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        entry = torch.multinomial(table.flatten(), n, replacement=True, generator=generator)[:, None]
        return (entry // table.shape[1]).double(), (entry % table.shape[1]).double()

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        return ratio.to(x.device)[x[:, 0].long(), y[:, 0].long()]

    return Task(
        name, 1, 1, mutual_information, sampler, log_density_ratio, kind_x="discrete", kind_y="discrete", source=source
    )


def symmetric_channel(n_symbols: int, error: float) -> Task:
    """x is uniform on 0, 1, ...; y is x, or with probability ``error`` one of the other symbols, all alike.

    ``I = log m - h(error) - error log(m - 1)`` with m symbols and h the binary entropy. Of two symbols it is the
    binary symmetric channel.

    Args:
        n_symbols: at least 2.
        error: probability inside [0, 1].

    Raises:
        ValueError: an argument is out of range.

    Source:
        Cover and Thomas, Elements of Information Theory, sec. 7.1.4.
    """
    _checks.count("n_symbols", n_symbols, 2)
    if not 0 <= error <= 1:
        raise ValueError(f"error: want a probability, got {error!r}")
    joint = np.full((n_symbols, n_symbols), error / (n_symbols - 1) / n_symbols)
    np.fill_diagonal(joint, (1 - error) / n_symbols)
    source = "Cover and Thomas, Elements of Information Theory, sec. 7.1"
    return discrete_task(f"symmetric_channel-{n_symbols}-{error}", joint, source=source)


def discrete_uniform(*counts: int) -> Task:
    """Each coordinate of x is uniform on 0, ..., m - 1, and that of y given x uniform on (x, x + 2).

    ``I = log m - (m - 1)/m log 2`` for each coordinate.

    Args:
        *counts: number of values m of each coordinate, >= 1.

    Raises:
        ValueError: there is no count, or one is smaller than 1.

    Source:
        Gao et al. 2017 (arXiv 1709.06212); the multivariate form as in Czyż et al. 2023 (arXiv 2310.10240).
    """
    if not counts:
        raise ValueError("counts: want at least one integer, got none")
    for m in counts:
        _checks.count("counts", m)
    tasks = [_discrete_uniform(m) for m in counts]
    return tasks[0] if len(tasks) == 1 else concatenate(f"discrete_uniform-{'-'.join(map(str, counts))}", tasks)


def _discrete_uniform(m: int) -> Task:
    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randint(m, (n, 1), generator=generator).double()
        return x, x + 2 * torch.rand(n, 1, generator=generator, dtype=torch.float64)

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        # p(y | x) = 1/2, and p(y) is that times the share of the values of x whose interval holds y.
        holders = (y < m).double() + (y > 1).double()
        return torch.log(m / holders.clamp(max=m))[:, 0]

    mutual_information = math.log(m) - (m - 1) / m * math.log(2)
    return Task(
        f"discrete_uniform-{m}", 1, 1, mutual_information, sampler, log_density_ratio, kind_x="discrete", source=_GAO
    )


def zero_inflated_poisson(p: float) -> Task:
    r"""x is exponential with mean 1; y is 0 with probability p, else Poisson with mean x.

    ``I = (1 - p) (2 log 2 - gamma - S + 1/4 - (log 2)/2) + Z(p)``, with Euler's gamma, ``S = sum_k 2^-k log k``, and
    what y = 0 tells, ``Z(p) = (p^2 - 1 - 2 p^2 log p) / (4 (1 - p)) - P log P``, ``P = (1 + p)/2``.

    The value that is published with this distribution, ``(1 - p)(2 log 2 - gamma - S)``, is what x and y share when it
    is also known which zeros were put in; for p > 0 it is too large (by 0.026 nats at p = 0.15).

    Args:
        p: probability of a zero that is put in, inside [0, 1).

    Raises:
        ValueError: ``p`` is outside [0, 1).

    Source:
        Gao et al. 2017 (arXiv 1709.06212), for the distribution.
    """
    if not 0 <= p < 1:
        raise ValueError(f"p: want a probability inside [0, 1), got {p!r}")
    k = np.arange(1, 100)  # 2^-100 is below rounding
    shared = 2 * math.log(2) - np.euler_gamma - float(np.sum(np.log(k) * np.exp2(-k)))
    inflation = 0.0 if p == 0 else 2 * p * p * math.log(p)
    zero = (1 + p) / 2
    zeros = (p * p - 1 - inflation) / (4 * (1 - p)) - zero * math.log(zero)
    mutual_information = (1 - p) * (shared + 0.25 - math.log(2) / 2) + zeros

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.empty(n, 1, dtype=torch.float64).exponential_(generator=generator)
        kept = torch.rand(n, 1, generator=generator, dtype=torch.float64) >= p
        return x, kept * torch.poisson(x, generator=generator)

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        # P(y) = (1 - p) 2^-(y + 1) for y > 0: 1 - p cancels.
        counted = torch.xlogy(y, x) - x - torch.lgamma(y + 1) + (y + 1) * math.log(2)
        none = torch.log(p + (1 - p) * torch.exp(-x)) - math.log(zero)
        return torch.where(y == 0, none, counted)[:, 0]

    name = f"zero_inflated_poisson-{p}"
    return Task(name, 1, 1, mutual_information, sampler, log_density_ratio, kind_y="discrete", source=_GAO)


def gaussian_classes(n_classes: int, spacing: float) -> Task:
    """x is a class 0, 1, ..., all alike; y is normal with variance 1 around ``spacing`` times x.

    ``I = h(y) - log(2 pi e) / 2``, with the entropy of the mixture of the classes by quadrature (to 1e-9).

    Args:
        n_classes: number of classes, >= 1.
        spacing: distance of neighbouring means, > 0.

    Raises:
        ValueError: an argument is out of range.
    """
    _checks.count("n_classes", n_classes)
    _checks.positive("spacing", spacing)
    means = spacing * torch.arange(n_classes, dtype=torch.float64)

    def log_conditional(y: Tensor, mean: Tensor) -> Tensor:
        return -(y - mean).square() / 2 - math.log(2 * math.pi) / 2

    def log_marginal(y: Tensor) -> Tensor:
        return log_conditional(y, means.to(y.device)).logsumexp(dim=1) - math.log(n_classes)

    # The trapezoidal rule converges faster than any power for a smooth density that vanishes at both ends.
    step = 1 / 16
    grid = torch.arange(-10, float(means[-1]) + 10, step, dtype=torch.float64)[:, None]
    log_density = log_marginal(grid)
    entropy = -step * float((log_density.exp() * log_density).sum())
    mutual_information = max(0.0, entropy - math.log(2 * math.pi * math.e) / 2)

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randint(n_classes, (n, 1), generator=generator).double()
        return x, spacing * x + torch.randn(n, 1, generator=generator, dtype=torch.float64)

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        return log_conditional(y, spacing * x)[:, 0] - log_marginal(y)

    name = f"gaussian_classes-{n_classes}-{spacing}"
    return Task(name, 1, 1, mutual_information, sampler, log_density_ratio, kind_x="discrete")


def gaussian_and_atoms(correlation: float = 0.9, error: float = 0.1, share: float = 0.5) -> Task:
    """Pairs of two kinds: normal with a correlation, or signs that agree but for an error.

    A sign is +1 or -1, each as likely, and a normal variable is neither almost surely, so x and y both tell the kind:
    ``I = h(share) - (1 - share)/2 log(1 - correlation^2) + share (log 2 - h(error))``, h the binary entropy.

    Args:
        correlation: of the normal pairs, inside (-1, 1).
        error: probability that the signs differ, inside (0, 1).
        share: of the pairs that are signs, inside (0, 1).

    Raises:
        ValueError: an argument is out of range.

    Source:
        After Gao et al. 2017 (arXiv 1709.06212), sec. 5, whose first experiment is of this kind.
    """
    if not -1 < correlation < 1:
        raise ValueError(f"correlation: want a value inside (-1, 1), got {correlation!r}")
    for name, value in (("error", error), ("share", share)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: want a probability inside (0, 1), got {value!r}")
    noise = math.sqrt((1 - correlation) * (1 + correlation))
    mutual_information = (
        _binary_entropy(share) - (1 - share) * math.log(noise) + share * (math.log(2) - _binary_entropy(error))
    )

    def sampler(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        kind, flip, sign = torch.rand(3, n, 1, generator=generator, dtype=torch.float64)
        x, z = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
        y = correlation * x + noise * z
        first = torch.where(sign < 0.5, -1.0, 1.0).double()
        second = torch.where(flip < error, -first, first)
        return torch.where(kind < share, first, x), torch.where(kind < share, second, y)

    def log_density_ratio(x: Tensor, y: Tensor) -> Tensor:
        normal = (y.square() - (y - correlation * x).square() / noise**2) / 2 - math.log(noise) - math.log(1 - share)
        signs = torch.where(x == y, math.log(2 * (1 - error)), math.log(2 * error)) - math.log(share)
        return torch.where(x.abs() == 1, signs, normal)[:, 0]

    name = f"gaussian_and_atoms-{correlation}-{error}"
    return Task(name, 1, 1, mutual_information, sampler, log_density_ratio, kind_x="mixed", kind_y="mixed", source=_GAO)


def _binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log1p(-p)
