"""Sinkhorn against dense float64 iterations, their autograd, closed forms, and what must hold of any solution."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import mi_estimators as mi
from mi_estimators.ot import ConvergenceWarning
from mi_estimators.ot import costs as costs_module
from tests.transport import dense_cost, dense_sinkhorn, relative_error

RHOS = [(None, None), (1.3, 1.3), (None, 0.5), (2.0, 0.4)]
EPSILON = 0.7


def cloud(n: int = 6, m: int = 5, d: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, dtype=dtype), torch.randn(m, d, dtype=dtype) + 0.3


def random_weights(n: int, m: int, rho: tuple[float | None, float | None]) -> tuple[Tensor, Tensor]:
    """Of sum 1 where both marginals are held, of other sums where not."""
    a, b = (torch.randn(k, dtype=torch.float64).softmax(0) for k in (n, m))
    return (a, b) if rho == (None, None) else (1.4 * a, 0.8 * b)


# ------------------------------------------------------------------------------------------------ values, potentials


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("cost", ["sqeuclidean", "cosine", "matrix"])
@pytest.mark.parametrize("updates", ["alternating", "symmetric"])
def test_value_plan_and_potentials_are_those_of_dense_iterations(cost, rho, updates) -> None:
    x, y = cloud(17, 11, 3)
    a, b = random_weights(17, 11, rho)
    matrix = dense_cost(x, y, cost)
    value, plan, f, g = dense_sinkhorn(matrix, a, b, EPSILON, rho)
    points = (None, None) if cost == "matrix" else (x, y)
    result = mi.sinkhorn(
        *points, a, b, epsilon=EPSILON, cost=matrix if cost == "matrix" else cost, rho=rho, updates=updates, tol=1e-13
    )
    assert result.converged
    assert result.marginal_error <= 1e-13
    assert relative_error(result.value, value) <= 1e-12
    assert relative_error(result.plan(), plan) <= 1e-11
    if rho == (None, None):
        shift = (result.f - f).mean()
        f, g = f + shift, g - shift
        assert abs(float((a * result.f).sum() - (b * result.g).sum())) <= 1e-13
    assert relative_error(result.f, f) <= 1e-11
    assert relative_error(result.g, g) <= 1e-11


@pytest.mark.parametrize(
    "settings",
    [
        {"anderson": 0},
        {"anderson": 3},
        {"anderson": 0, "relaxation": 1.4},
        {"scaling": 0.5},
        {"scaling": 0.8, "anderson": 0},
        {"updates": "symmetric", "anderson": 0, "scaling": 0.5},
        {"check_every": 7},
    ],
)
def test_every_way_to_iterate_ends_at_the_same_plan(settings) -> None:
    x, y = cloud(20, 15, 2)
    a, b = random_weights(20, 15, (None, None))
    want = dense_sinkhorn(dense_cost(x, y, "sqeuclidean"), a, b, 0.2)
    result = mi.sinkhorn(x, y, a, b, epsilon=0.2, tol=1e-12, **settings)
    assert result.converged
    assert relative_error(result.value, want[0]) <= 1e-11
    assert relative_error(result.plan(), want[1]) <= 1e-9


@pytest.mark.parametrize("rho", [None, 0.8])
def test_self_problem_has_one_potential(rho) -> None:
    x = 0.6 * cloud(12)[0]
    a = torch.randn(12, dtype=torch.float64).softmax(0)
    want = dense_sinkhorn(dense_cost(x, x, "sqeuclidean"), a, a, EPSILON, (rho, rho))
    result = mi.sinkhorn(x, None, a, epsilon=EPSILON, rho=rho, tol=1e-13)
    assert torch.equal(result.f, result.g)
    assert relative_error(result.value, want[0]) <= 1e-12
    assert relative_error(result.plan(), want[1]) <= 1e-11


def test_reported_error_is_that_of_the_returned_plan() -> None:
    x, y = cloud(20, 15)
    a, b = random_weights(20, 15, (None, None))
    for settings in ({"anderson": 0}, {"anderson": 5}, {"relaxation": 1.5}, {"updates": "symmetric"}):
        with pytest.warns(ConvergenceWarning) as caught:
            result = mi.sinkhorn(x, y, a, b, epsilon=0.05, max_iter=4, tol=1e-9, **settings)
        plan = result.plan()
        error = (plan.sum(1) - a).abs().sum() + (plan.sum(0) - b).abs().sum()
        assert not result.converged
        assert result.n_iter == 4
        assert abs(result.marginal_error - float(error)) <= 1e-12
        assert len(caught) == 1
        assert f"{result.marginal_error:.2e}" in str(caught[0].message)


@pytest.mark.parametrize("epsilon", [0.1, 1e-3, 1e-8])
def test_error_is_no_less_than_rounding_leaves_unknown(epsilon) -> None:
    # Few points, far apart in units of epsilon: float32 sums come out as rounded as the potentials, and may look exact.
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(3, 2, generator=generator) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = mi.sinkhorn(x, y, epsilon=epsilon, max_iter=50)
        potentials = result.f.double()[:, None] + result.g.double()
        plan = ((potentials - dense_cost(x.double(), y.double(), "sqeuclidean")) / epsilon).exp() / 9
        error = float((plan.sum(1) - 1 / 3).abs().sum() + (plan.sum(0) - 1 / 3).abs().sum())
        assert result.marginal_error >= min(error, 1) / 3
        assert not result.converged or error <= 3e-4


def test_a_number_of_iterations_ends_half_a_step_behind_other_packages() -> None:
    x, y = cloud(20, 15)
    cost = dense_cost(x, y, "sqeuclidean")
    f, g = torch.zeros(20, dtype=torch.float64), torch.zeros(15, dtype=torch.float64)
    for _ in range(3):
        f, last = -0.3 * torch.logsumexp((g - cost) / 0.3 - math.log(15), 1), g
        g = -0.3 * torch.logsumexp((f[:, None] - cost) / 0.3 - math.log(20), 0)
    result = mi.sinkhorn(x, y, epsilon=0.3, tol=0, max_iter=3, anderson=0)
    assert relative_error(result.value, f.mean() + last.mean()) <= 1e-13
    assert float(result.value) <= float(f.mean() + g.mean())


def test_converged_result_does_not_warn_and_restarts_at_once() -> None:
    x, y = cloud(20, 15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = mi.sinkhorn(x, y, epsilon=0.3)
        again = mi.sinkhorn(x, y, epsilon=0.3, init=(first.f, first.g))
        mi.sinkhorn(x, y, epsilon=0.3, tol=0, max_iter=2)  # a number of iterations was asked for, not a tolerance
    assert first.converged
    assert again.n_iter <= 2 < first.n_iter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_dtypes(dtype) -> None:
    x, y = cloud(40, 30, 5, dtype)
    a = torch.full((40,), 1 / 40, dtype=torch.float64)
    b = torch.full((30,), 1 / 30, dtype=torch.float64)
    want = dense_sinkhorn(dense_cost(x.double(), y.double(), "sqeuclidean"), a, b, 1.0)[0]
    result = mi.sinkhorn(x.requires_grad_(), y, epsilon=1.0)
    assert result.value.dtype == result.f.dtype == torch.float32
    assert relative_error(result.value.detach(), want) <= 1e-5
    (gradient,) = torch.autograd.grad(result.value, x)
    assert gradient.dtype == dtype


def test_gaussians_in_the_limit_of_many_points() -> None:
    # Janati et al. 2020, theorem 1, in one dimension and for this epsilon: with C = |x - y|^2 and regularisation
    # epsilon KL(P | a b^T), sigma^2 there is epsilon / 2. Means 0 and 1, standard deviations 1 and 1/2.
    s, t, epsilon = 1.0, 0.5, 0.8
    d = math.sqrt(4 * s**2 * t**2 + epsilon**2 / 4)
    want = 1 + s**2 + t**2 - d + epsilon / 2 * (1 - math.log(epsilon)) + epsilon / 2 * math.log(d + epsilon / 2)
    grid = torch.linspace(-6, 6, 201, dtype=torch.float64)
    a = (-(grid.square()) / 2).softmax(0)
    result = mi.sinkhorn(grid[:, None] * s, grid[:, None] * t + 1, a, a, epsilon=epsilon, tol=1e-12)
    assert abs(float(result.value) - want) <= 1e-6


# Of OTT 0.6.0 in float64, printed by benchmarks/ot_oracles.py: epsilon, rho, value, its derivatives by x[0, 0], y[1, 2]
# and, where marginals are priced, a[3].
OTT_NUMBERS = [
    (0.5, None, 1.61085664399452, 0.0062917087502225, 0.0680666338423007, None),
    (0.5, 1.0, 1.12029972598912, 0.00470891925588495, 0.0225815403670963, 0.771857550440063),
    (0.5, 5.0, 1.45814439285926, 0.00637223566388907, 0.0520451878756791, 0.790435416246385),
    (2.0, None, 2.57759036441006, -0.000650612460365809, 0.0654144270364259, None),
    (2.0, 1.0, 1.86651792511897, -0.00079053417939104, 0.0281343537024641, 1.47677791606068),
]


@pytest.mark.parametrize("case", OTT_NUMBERS)
def test_numbers_of_another_package(case) -> None:
    epsilon, rho, value, by_x, by_y, by_a = case
    k = torch.arange(120, dtype=torch.float64)
    x, y = (1.7 * k).sin().reshape(40, 3), (2.3 * k[:90]).cos().reshape(30, 3) + 0.3
    a, b = (0.9 * k[:40]).sin().softmax(0), (1.1 * k[:30]).cos().softmax(0)
    x, y, a, b = (t.requires_grad_() for t in (x, y, a, b))
    result = mi.sinkhorn(x, y, a, b, epsilon=epsilon, rho=rho, tol=1e-12)
    dx, dy, da = torch.autograd.grad(result.value, (x, y, a))
    pairs = [(result.value, value), (dx[0, 0], by_x), (dy[1, 2], by_y), (da[3], by_a)]
    for got, want in pairs:
        if want is not None:
            assert abs(float(got.detach()) / want - 1) <= 1e-8


def test_limits_in_epsilon() -> None:
    x, y = cloud(8, 8, 2)
    cost = dense_cost(x, y, "sqeuclidean")
    large = mi.sinkhorn(x, y, epsilon=1e6, tol=1e-12)
    assert relative_error(large.value, cost.mean()) <= 1e-5  # the plan is a b^T
    # In one dimension the optimal plan without entropy is the sorted one.
    u, v = torch.arange(9.0, dtype=torch.float64), (torch.arange(9.0, dtype=torch.float64) + 0.3)[torch.randperm(9)]
    small = mi.sinkhorn(u[:, None], v[:, None], epsilon=0.02, scaling=0.7, tol=1e-12)
    assert small.converged
    assert relative_error(small.transport_cost(), torch.tensor(0.09, dtype=torch.float64)) <= 1e-7


# ----------------------------------------------------------------------------------------------------- plan, without it


def test_applying_the_plan(monkeypatch) -> None:
    monkeypatch.setattr(costs_module, "BLOCK_ELEMENTS", 64)  # several blocks of rows
    x, y = cloud(17, 11)
    result = mi.sinkhorn(x, y, epsilon=EPSILON, tol=1e-12)
    plan = result.plan()
    v, w = torch.randn(11, 4, dtype=torch.float64), torch.randn(17, dtype=torch.float64)
    assert relative_error(result.apply(v), plan @ v) <= 1e-13
    assert relative_error(result.apply(w, transpose=True), plan.T @ w) <= 1e-13
    assert relative_error(result.barycentric_map(), plan @ y / plan.sum(1, keepdim=True)) <= 1e-13
    assert relative_error(result.transport_cost(), (plan * dense_cost(x, y, "sqeuclidean")).sum()) <= 1e-13
    with pytest.raises(ValueError, match="vectors"):
        result.apply(w)


def test_barycentric_map_of_rows_almost_without_mass(monkeypatch) -> None:
    monkeypatch.setattr(costs_module, "BLOCK_ELEMENTS", 16)  # several blocks of rows
    x, y = cloud(6, 5)
    a, b = random_weights(6, 5, (None, None))
    a[1] = b[3] = 0
    a, b = a / a.sum(), b / b.sum()
    for rho in (None, 0.1):
        if rho is not None:
            x[2] = 60.0  # its mass in the unbalanced plan underflows
        result = mi.sinkhorn(x, y, a, b, epsilon=1.0, rho=rho, tol=1e-9)
        assert result.converged
        assert float(result.plan()[1 if rho is None else 2].sum()) == 0
        logits = result.g - dense_cost(x, y, "sqeuclidean") + b.log()
        assert relative_error(result.barycentric_map(), logits.softmax(1) @ y) <= 1e-12
    with pytest.raises(ValueError, match="points: want one for each column"):
        result.barycentric_map(x)


# ---------------------------------------------------------------------------------------------------------- gradients


def parameters() -> tuple[Tensor, ...]:
    x, y = cloud(5, 4, 2)
    a, b = torch.randn(5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    return tuple(t.requires_grad_() for t in (x, y, a, b, torch.tensor(EPSILON, dtype=torch.float64)))


def outputs(cost: str, rho, gradient: str, output: str):
    """A function of points, logits of the weights and epsilon, not linear in what Sinkhorn returns."""

    def function(x, y, a_logits, b_logits, epsilon):
        a, b = a_logits.softmax(0), b_logits.softmax(0)
        if rho != (None, None):
            a, b = 1.4 * a, 0.8 * b
        points, of = ((None, None), dense_cost(x, y, "sqeuclidean")) if cost == "matrix" else ((x, y), cost)
        more = {"max_iter": 4, "tol": 0} if gradient == "unrolled" else {"tol": 1e-14}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # rounding may leave 1e-14 out of reach
            result = mi.sinkhorn(*points, a, b, epsilon=epsilon, cost=of, rho=rho, gradient=gradient, **more)
        return getattr(result, output).square()

    return function


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("cost", ["sqeuclidean", "cosine", "matrix"])
def test_gradients_of_the_value(cost, rho) -> None:
    assert gradcheck(outputs(cost, rho, "envelope", "value"), parameters(), fast_mode=True)


@pytest.mark.parametrize("rho", [(None, None), (2.0, 0.4)])
def test_second_derivatives_of_the_value(rho, monkeypatch) -> None:
    monkeypatch.setattr(costs_module, "BLOCK_ELEMENTS", 8)  # two rows a block
    assert gradgradcheck(outputs("sqeuclidean", rho, "envelope", "value"), parameters(), fast_mode=True)


@pytest.mark.parametrize("rho", [(None, None), (None, 0.5)])
@pytest.mark.parametrize("output", ["f", "g"])
def test_implicit_gradients_of_the_potentials(rho, output) -> None:
    assert gradcheck(outputs("sqeuclidean", rho, "implicit", output), parameters(), fast_mode=True)


@pytest.mark.parametrize("updates", ["alternating", "symmetric"])
def test_unrolled_gradients_are_those_of_the_iterations_made(updates) -> None:
    for output in ("value", "g"):
        assert gradcheck(outputs("sqeuclidean", (None, 0.5), "unrolled", output), parameters(), fast_mode=True)
    x, y = (t.requires_grad_() for t in cloud())
    results = [
        mi.sinkhorn(x, y, epsilon=1.0, gradient=how, tol=1e-13, updates=updates) for how in ("envelope", "unrolled")
    ]
    envelope, unrolled = (torch.autograd.grad(r.value, (x, y)) for r in results)
    for one, other in zip(envelope, unrolled, strict=True):
        assert relative_error(one, other) <= 1e-8


def test_plan_is_differentiable_with_implicit_gradients() -> None:
    x, y = (t.requires_grad_() for t in cloud(4, 3, 2))
    v = torch.randn(3, 2, dtype=torch.float64)

    def function(x, y):
        result = mi.sinkhorn(x, y, epsilon=EPSILON, gradient="implicit", tol=1e-13)
        return result.apply(v), result.plan().square(), result.transport_cost()

    assert gradcheck(function, (x, y), fast_mode=True)


@pytest.mark.parametrize("rho", [(None, None), (1.3, 0.6)])
def test_zero_weights_leave_points_out(rho) -> None:
    x, y = cloud(6, 5)
    a, b = random_weights(6, 5, rho)
    a[1] = b[3] = 0
    if rho == (None, None):
        a, b = a / a.sum(), b / b.sum()
    kept_a, kept_b = a > 0, b > 0
    x, y, a, b = (t.requires_grad_() for t in (x, y, a, b))
    result = mi.sinkhorn(x, y, a, b, epsilon=EPSILON, rho=rho, tol=1e-13)
    alone = mi.sinkhorn(x[kept_a], y[kept_b], a[kept_a], b[kept_b], epsilon=EPSILON, rho=rho, tol=1e-13)
    assert relative_error(result.value.detach(), alone.value.detach()) <= 1e-12
    gradients = torch.autograd.grad(result.value, (x, y, a, b))
    wanted = torch.autograd.grad(alone.value, (x, y, a, b))
    for got, want, kept in zip(gradients, wanted, (kept_a, kept_b, kept_a, kept_b), strict=True):
        assert relative_error(got[kept], want[kept]) <= 1e-10
    assert float(gradients[0][1].abs().sum() + gradients[1][3].abs().sum()) == 0
    # The derivative by a weight of 0 is that from above: move a little weight there, from the others.
    step = 1e-5
    for side in (0, 1):
        towards = torch.zeros_like((a, b)[side])
        towards[(1, 3)[side]] = 1
        towards = towards - (a, b)[side].detach() / (a, b)[side].detach().sum()
        moved = [a.detach(), b.detach()]
        values = []
        for h in (step, 2 * step):
            moved[side] = (a, b)[side].detach() + h * towards
            values.append(mi.sinkhorn(x, y, *moved, epsilon=EPSILON, rho=rho, tol=1e-13).value.detach())
        slope = (4 * values[0] - values[1] - 3 * result.value.detach()) / (2 * step)
        assert abs(float(slope - (gradients[2 + side] * towards).sum())) <= 1e-7


@pytest.mark.parametrize("rho", [None, 1.0])
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_derivatives_by_weights_of_zero_are_those_from_above(rho, gradient) -> None:
    x, y = cloud(6, 5)
    a = torch.tensor([0.2, 0, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64, requires_grad=True)

    def outputs(weights: Tensor, gradient: str) -> tuple[Tensor, ...]:
        weights = weights / weights.sum() if rho is None else weights
        result = mi.sinkhorn(x, y, weights, epsilon=2.0, rho=rho, tol=1e-13, gradient=gradient)
        return result.value, result.f[0], result.f[1], result.transport_cost(), result.barycentric_map()[1, 0]

    step = 1e-5 * torch.eye(6, dtype=torch.float64)[1]
    here, near, far = (outputs(a.detach() + k * step, "envelope") for k in range(3))
    for k, output in enumerate(outputs(a, gradient)):
        slope = (4 * near[k] - far[k] - 3 * here[k]) / 2e-5
        assert abs(float(torch.autograd.grad(output, a, retain_graph=True)[0][1] - slope)) <= 1e-7


def test_forbidden_pairs() -> None:
    x, y = cloud(4, 4)
    cost = dense_cost(x, y, "sqeuclidean")
    cost[0, 1] = cost[2, 3] = math.inf
    a = torch.full((4,), 0.25, dtype=torch.float64)
    value, plan, _, _ = dense_sinkhorn(cost, a, a, EPSILON)
    cost.requires_grad_()
    epsilon = torch.tensor(EPSILON, dtype=torch.float64, requires_grad=True)
    result = mi.sinkhorn(cost=cost, epsilon=epsilon, tol=1e-13)
    assert relative_error(result.value.detach(), value) <= 1e-12
    by_cost, by_epsilon = torch.autograd.grad(result.value, (cost, epsilon))
    assert relative_error(by_cost, plan) <= 1e-10  # the gradient by the costs is the plan
    assert math.isfinite(float(by_epsilon))
    assert plan[0, 1] == result.plan()[0, 1] == 0


def test_memory_stays_linear_for_points() -> None:
    # No tensor of all pairs is made, forward or backward: it would be 36 MB.
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor))
            return result

    x, y = (t.requires_grad_() for t in cloud(3000, 3000, 2, torch.float32))
    with Watch():
        result = mi.sinkhorn(x, y, epsilon=1.0, tol=0, max_iter=2)
        result.value.backward()
        result.barycentric_map()
    assert max(sizes) <= 2 * costs_module.BLOCK_ELEMENTS


# ---------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_named() -> None:
    x, y = cloud()
    cost = dense_cost(x, y, "sqeuclidean")
    ones = torch.ones(6, dtype=torch.float64)
    holes = cost.clone()
    holes[2] = math.inf
    nan = cost.clone()
    nan[0, 0] = math.nan
    bad = [
        (lambda: mi.sinkhorn(x, y, epsilon=0.0), "epsilon"),
        (lambda: mi.sinkhorn(x, y, epsilon=-1.0), "epsilon"),
        (lambda: mi.sinkhorn(x, y, epsilon=math.nan), "epsilon"),
        (lambda: mi.sinkhorn(x, y, ones, epsilon=1.0), "sums 6 and 1"),
        (lambda: mi.sinkhorn(x, y, -ones, epsilon=1.0), "a: want finite weights"),
        (lambda: mi.sinkhorn(x, y, 0 * ones, epsilon=1.0), "a: want a weight > 0"),
        (lambda: mi.sinkhorn(x, y, ones[:4], epsilon=1.0), "a: want one weight for each row"),
        (lambda: mi.sinkhorn(x[:0], y, epsilon=1.0), "x: want at least one"),
        (lambda: mi.sinkhorn(x, y[:, :2], epsilon=1.0), "y: want the last dimension"),
        (lambda: mi.sinkhorn(x * math.nan, y, epsilon=1.0), "x: want finite"),
        (lambda: mi.sinkhorn(epsilon=1.0, cost=nan), "1 NaN or -inf"),
        (lambda: mi.sinkhorn(epsilon=1.0, cost=holes), "only infinite ones in row 2"),
        (lambda: mi.sinkhorn(epsilon=1.0, cost=holes.T), "only infinite ones in column 2"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, cost=cost), "x, y: want None with a cost matrix"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, cost="l1"), "cost: want one of"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, rho=0.0), "rho"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, rho=(1.0, 2.0, 3.0)), "rho"),
        (lambda: mi.sinkhorn(x, epsilon=1.0, rho=(1.0, None)), "y: want points"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, tol=math.nan), "tol"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, max_iter=0), "max_iter"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, scaling=1.0), "scaling"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, relaxation=2.5), "relaxation"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, relaxation=1.5, updates="symmetric"), "relaxation"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, init=(ones, ones)), r"init\[1\]"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, init=(math.nan * ones, None)), r"init\[0\]: want potentials, got NaN"),
        (lambda: mi.sinkhorn(x, y, epsilon=1.0, gradient="exact"), "gradient"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
    for call, message in [
        (lambda: mi.sinkhorn(epsilon=1.0), "x: want points"),
        (lambda: mi.sinkhorn(x.long(), y, epsilon=1.0), "x: want a dtype"),
        (lambda: mi.sinkhorn(x, y.float(), epsilon=1.0), "y: want the dtype"),
    ]:
        with pytest.raises(TypeError, match=message):
            call()
