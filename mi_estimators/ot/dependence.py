"""Dependence of two variables as the transport between their joint distribution and the product of its marginals.

An alternative to mutual information, a KL divergence between the same two distributions. It knows the metric of
the variables, does not blow up where they determine each other, and its estimate needs no bound that saturates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype
from mi_estimators.ot.divergence import DivergenceResult, sinkhorn_divergence


def _paired(x: Tensor, y: Tensor) -> None:
    for name, value in (("x", x), ("y", y)):
        _checks.floating(name, value)
        _checks.finite(name, value)
    _checks.alike("y", y, "x", x, same_width=False)
    if len(x) != len(y):
        raise ValueError(f"y: want as many rows as x ({len(x)}), got {_checks.describe(y)}")


def _standardized(name: str, points: Tensor) -> Tensor:
    """Centred, and divided by the root of the mean squared norm: the mean squared distance of two points is 2."""
    centred = points - points.mean(dim=0)
    size = centred.square().sum(dim=1).mean().sqrt()
    if _checks.concrete(points) and not float(size.detach()) > 0:
        raise ValueError(f"{name}: want points that are not all the same, got {_checks.describe(points)}")
    return centred / size


def _product_sample(x: Tensor, y: Tensor, shifts: int) -> Tensor:
    """Pairs of rows that do not belong together: y moved cyclically, by ``shifts`` different distances."""
    n = len(x)
    moved = [y.roll((k + 1) * n // (shifts + 1), dims=0) for k in range(shifts)]
    return torch.cat([x.repeat(shifts, 1), torch.cat(moved)], dim=1)


def wasserstein_dependency(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float | Tensor = 0.1,
    shifts: int = 1,
    standardize: bool = True,
    **settings: Any,
) -> DivergenceResult:
    r"""Wasserstein dependency measure: the Sinkhorn divergence between joint samples and samples of the product.

    .. math::
        I_\varepsilon(X; Y) = S_\varepsilon(p(x, y),\ p(x) p(y)), \qquad
        C\bigl((x, y), (x', y')\bigr) = |x - x'|^2 + |y - y'|^2

    Samples of the product are the rows of ``x`` with rows of ``y`` some places on: rows must be independent draws, in
    no particular order. 0 in the limit of many samples if and only if X and Y are independent; of finitely many it is
    positive, so compare values at one sample size, or see :func:`independence_test`. Not in nats, but in units of the
    cost. Differentiable in ``x`` and ``y``.

    Args:
        x: samples of X.
        y: samples of Y; row i belongs to row i of ``x``.
        epsilon: of the divergence, in units of the cost.
        shifts: how many samples of the product for each of the joint; more reduce variance.
        standardize: scale each variable, around its mean, so that the mean squared distance of two samples is 2.
            ``epsilon`` is then relative to a mean cost of 4. Without it the scale of x and y is part of the measure,
            which then wants bounded maps (Lipschitz critics or normalised outputs).
        settings: further settings of :func:`~mi_estimators.sinkhorn_divergence`.

    Shape:
        - x: :math:`(N, d_x)`, y: :math:`(N, d_y)`, N > ``shifts``
        - Output: a :class:`~mi_estimators.ot.DivergenceResult`.

    Raises:
        TypeError, ValueError: as :func:`~mi_estimators.sinkhorn_divergence`; numbers of rows that differ; too few
            rows; a variable that is constant.

    Source: Ozair et al. 2019, "Wasserstein dependency measure for representation learning", eq. 3, with the Sinkhorn
    divergence in place of its dual form; paper B (Tschannen et al. 2020), section 4, asks for such measures.
    """
    _paired(x, y)
    _checks.count("shifts", shifts, 1, len(x) - 1, most_is="the number of rows - 1")
    x, y = (points.to(accumulation_dtype(points.dtype)) for points in (x, y))
    if standardize:
        x, y = _standardized("x", x), _standardized("y", y)
    return sinkhorn_divergence(
        torch.cat([x, y], dim=1), _product_sample(x, y, shifts), epsilon=epsilon, **{"max_iter": 2000, **settings}
    )


@dataclass(frozen=True)
class IndependenceTest:
    """A permutation test of independence.

    Attributes:
        statistic: the dependence of the pairs as they were given.
        p_value: the chance, under independence, of a statistic at least as large.
        null: statistics of pairs with permuted ``y``, :math:`(R,)`.
    """

    statistic: float
    p_value: float
    null: Tensor


def independence_test(
    x: Tensor,
    y: Tensor,
    *,
    n_permutations: int = 199,
    seed: int = 0,
    epsilon: float | Tensor = 0.1,
    **settings: Any,
) -> IndependenceTest:
    r"""Permutation test of independence with :func:`wasserstein_dependency` as the statistic.

    .. math:: p = \frac{1 + |\{ r : T_r \ge T \}|}{1 + R}

    Under independence every order of ``y`` is as likely, so :math:`P(p \le \alpha) \le \alpha` at every sample size,
    however the statistic is biased. Each permutation solves three transport problems.

    Args:
        x: samples of X.
        y: samples of Y.
        n_permutations: R, the number of permutations.
        seed: of the permutations.
        epsilon: as for :func:`wasserstein_dependency`.
        settings: further settings of that function and of :func:`~mi_estimators.sinkhorn_divergence`.

    Shape:
        - x: :math:`(N, d_x)`, y: :math:`(N, d_y)`

    Raises:
        TypeError, ValueError: as :func:`wasserstein_dependency`.
    """
    _paired(x, y)
    _checks.count("n_permutations", n_permutations)
    generator = torch.Generator().manual_seed(seed)
    # A statistic is compared with others of its kind, so 1e-3 of the mass is exact enough.
    settings = {"epsilon": epsilon, "tol": 1e-3, **settings}
    with torch.no_grad():
        statistic = float(wasserstein_dependency(x, y, **settings).value)
        null = torch.stack(
            [
                wasserstein_dependency(x, y[torch.randperm(len(y), generator=generator).to(y.device)], **settings).value
                for _ in range(n_permutations)
            ]
        )
    # So counted, a statistic that is NaN (points so large that their distances overflow) is never significant.
    p_value = (1 + int((~(null < statistic)).sum())) / (1 + n_permutations)
    return IndependenceTest(statistic, p_value, null)
