"""Checks of the arguments of the functions of this package, and the problem they make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulation_dtype
from mi_estimators.ot.costs import COSTS, Costs, MatrixCosts, PointCosts
from mi_estimators.ot.iteration import UPDATES, Settings
from mi_estimators.ot.problem import Problem

Rho = float | None | Sequence[float | None]

# In float32 an error of about (cost / epsilon) * 1e-7 cannot be helped: potentials are rounded.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
ANDERSON = 8
BALANCE = {torch.float64: 1e-8, torch.float32: 1e-5}  # by how much, relatively, the sums of held marginals may differ
CHECK_EVERY = {"cpu": 1}
CHECK_EVERY_ON_DEVICES = 10


def _unit(points: Tensor) -> Tensor:
    return F.normalize(points.to(accumulation_dtype(points.dtype)), dim=1)


def points(x: Tensor, y: Tensor | None, cost: str) -> PointCosts:
    """Costs of points, after a look at them."""
    _checks.choice("cost", cost, COSTS)
    _checks.floating("x", x)
    _checks.finite("x", x)
    if y is not None:
        _checks.floating("y", y)
        _checks.alike("y", y, "x", x)
        _checks.finite("y", y)
    if cost == "cosine":
        x, y = _unit(x), None if y is None else _unit(y)
    return PointCosts(x, y, cosine=cost == "cosine")


def matrix(cost: Tensor) -> MatrixCosts:
    """Costs given one by one, after a look at them."""
    _checks.floating("cost", cost)
    with torch.no_grad():
        bad = int((cost.isnan() | (cost == -math.inf)).sum())
    if bad:
        raise ValueError(f"cost: want numbers or +inf, got {bad} NaN or -inf in {_checks.describe(cost)}")
    return MatrixCosts(cost)


def weights(name: str, given: Tensor | None, size: int, counted: str, like: Tensor) -> Tensor:
    """Weights of one side in the dtype of sums; none means equal ones that sum to 1."""
    dtype = accumulation_dtype(like.dtype)
    if given is None:
        return torch.full((size,), 1 / size, dtype=dtype, device=like.device)
    _checks.floating(name, given, ndim=1)
    if given.shape[0] != size:
        raise ValueError(f"{name}: want one weight for each {counted} ({size}), got {_checks.describe(given)}")
    if given.device != like.device:
        raise ValueError(f"{name}: want the device of the {counted}s ({like.device}), got {_checks.describe(given)}")
    with torch.no_grad():
        bad = int((~(given >= 0) | given.isinf()).sum())
        total = float(given.sum())
    if bad:
        raise ValueError(f"{name}: want finite weights >= 0, got {bad} that are not, in {_checks.describe(given)}")
    if total == 0:
        raise ValueError(f"{name}: want a weight > 0 somewhere, got zeros only in {_checks.describe(given)}")
    return given.to(dtype)


def prices(rho: Rho) -> tuple[float | None, float | None]:
    """The price of leaving each marginal; None or infinity holds it."""
    pair = tuple(rho) if isinstance(rho, Sequence) else (rho, rho)
    if len(pair) != 2:
        raise ValueError(f"rho: want a number, None, or a pair of them, got {rho!r}")
    for value in pair:
        if value is None or value == math.inf:
            continue
        if isinstance(value, Tensor):
            raise TypeError(f"rho: want numbers, got {_checks.describe(value)}")
        _checks.positive("rho", value)
    held = [None if value is None or value == math.inf else float(value) for value in pair]
    return held[0], held[1]


def one_price(rho: Rho) -> None:
    """The sides of a divergence have one price: with two it would not be 0 between equal sets."""
    first, second = prices(rho)
    if first != second:
        raise ValueError(f"rho: want one price for both sides, got {rho!r}")


def check_sums(a: Tensor, b: Tensor) -> None:
    """Held marginals have the same mass."""
    sums = float(a.detach().sum()), float(b.detach().sum())
    if not abs(sums[0] - sums[1]) <= BALANCE[a.dtype] * max(sums):
        raise ValueError(
            f"a, b: want weights of equal sums where both marginals are held (rho=None), got sums {sums[0]:.8g} and "
            f"{sums[1]:.8g}; normalise them, or let the masses differ with rho"
        )


def check_reachable(costs: MatrixCosts, a: Tensor, b: Tensor) -> None:
    """Every point with a weight has an allowed pair with one of the other side."""
    allowed = (costs.matrix.detach() < math.inf) & (a.detach() > 0)[:, None] & (b.detach() > 0)
    for name, alone in (("row", ~allowed.any(1) & (a.detach() > 0)), ("column", ~allowed.any(0) & (b.detach() > 0))):
        if bool(alone.any()):
            which = alone.nonzero().flatten().tolist()
            raise ValueError(
                f"cost: want a finite cost in every {name} that has a weight, got only infinite ones in {name} "
                f"{which[0]}" + (f" and {len(which) - 1} others" if len(which) > 1 else "")
            )


def problem(
    x: Tensor | None,
    y: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    *,
    epsilon: float | Tensor,
    cost: str | Tensor,
    rho: Rho,
) -> Problem:
    """The problem that the arguments describe."""
    _checks.positive("epsilon", epsilon)
    if isinstance(epsilon, Tensor) and epsilon.numel() != 1:
        raise ValueError(f"epsilon: want a number or a tensor with one element, got {_checks.describe(epsilon)}")
    price = prices(rho)
    costs: Costs
    if isinstance(cost, Tensor):
        if x is not None or y is not None:
            raise ValueError("x, y: want None with a cost matrix, which takes their place, got points")
        costs, like = matrix(cost), cost
    else:
        if x is None:
            raise TypeError("x: want points, or a cost matrix as cost, got neither")
        costs, like = points(x, y, cost), x
        if y is None and (b is not None or price[0] != price[1]):
            raise ValueError("y: want points where the sides differ in weights or rho, got None: x with itself")
    n, m = costs.shape
    row_weights = weights("a", a, n, "row", like)
    alone = isinstance(costs, PointCosts) and costs.y is None
    col_weights = row_weights if alone else weights("b", b, m, "column", like)
    if price == (None, None) and not alone:
        check_sums(row_weights, col_weights)
    if isinstance(costs, MatrixCosts):
        check_reachable(costs, row_weights, col_weights)
    if not isinstance(epsilon, Tensor):
        epsilon = torch.tensor(epsilon, dtype=row_weights.dtype, device=like.device)
    absent = any(
        given is not None and bool((weights == 0).any()) for given, weights in ((a, row_weights), (b, col_weights))
    )
    return Problem(costs, row_weights, col_weights, epsilon.to(row_weights).reshape(()), price, absent)


def check_stop(tol: float | None, max_iter: int, scaling: float | None) -> None:
    """When an iteration stops, and how it anneals."""
    if tol is not None and not 0 <= tol < math.inf:
        raise ValueError(f"tol: want a finite number >= 0, got {tol!r}")
    _checks.count("max_iter", max_iter)
    if scaling is not None and not 0 < scaling < 1:
        raise ValueError(f"scaling: want a number between 0 and 1, or None, got {scaling!r}")


def settings(
    of: Problem,
    *,
    tol: float | None,
    max_iter: int,
    updates: str,
    scaling: float | None,
    relaxation: float,
    anderson: int | None,
    check_every: int | None,
    gradient: str = "envelope",
) -> Settings:
    """How to iterate, with what depends on dtype and device filled in."""
    tol = TOLERANCE[of.a.dtype] if tol is None else tol
    check_stop(tol, max_iter, scaling)
    if anderson is None:
        anderson = ANDERSON if relaxation == 1 and gradient != "unrolled" else 0
    if check_every is None:
        # Without a tolerance there is nothing to look at before the end.
        check_every = max_iter if tol == 0 else CHECK_EVERY.get(of.a.device.type, CHECK_EVERY_ON_DEVICES)
    for name, value, least in (("anderson", anderson, 0), ("check_every", check_every, 1)):
        _checks.count(name, value, least)
    _checks.choice("updates", updates, UPDATES)
    if not 0 < relaxation < 2:
        raise ValueError(f"relaxation: want a number between 0 and 2, got {relaxation!r}")
    if relaxation != 1 and (updates != "alternating" or anderson):
        raise ValueError(
            f"relaxation: want 1 except with alternating updates and anderson=0, got {relaxation!r} with {updates!r} "
            f"and anderson={anderson}"
        )
    if isinstance(of.costs, PointCosts) and of.costs.y is None:
        updates = "one-sided"
    return Settings(tol, max_iter, updates, scaling, float(relaxation), anderson, check_every)


def start(init: tuple[Tensor | None, Tensor | None] | None, of: Problem) -> tuple[Tensor | None, Tensor | None]:
    """The potentials to start from, in the dtype of sums."""
    if init is None:
        return None, None
    if not isinstance(init, Sequence) or len(init) != 2:
        raise TypeError(f"init: want a pair of potentials (f, g), got {_checks.describe(init)}")
    found: list[Tensor | None] = []
    for name, potential, like in zip(("init[0]", "init[1]"), init, (of.a, of.b), strict=True):
        if potential is not None:
            _checks.floating(name, potential, ndim=1)
            if potential.shape != like.shape:
                raise ValueError(f"{name}: want {like.shape[0]} values, got {_checks.describe(potential)}")
            if _checks.concrete(potential) and bool(potential.isnan().any()):
                raise ValueError(f"{name}: want potentials, got NaN in {_checks.describe(potential)}")
            potential = potential.detach().to(like)
        found.append(potential)
    return found[0], found[1]
