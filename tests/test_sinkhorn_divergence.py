"""The Sinkhorn divergence and what is measured with it: axioms, gradients, dense truth, and tests of independence."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import mi_estimators as mi
from mi_estimators.ot import ConvergenceWarning, independence_test, wasserstein_dependency
from tests.transport import dense_cost, dense_sinkhorn, relative_error

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))


def clouds(sizes: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, m, d = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return draw(n, d), draw(m, d) + 0.5, draw(n).softmax(0), draw(m).softmax(0)


def divergence(x: Tensor, y: Tensor, a: Tensor, b: Tensor, **more: object) -> float:
    return float(mi.sinkhorn_divergence(x, y, a, b, **{"epsilon": 0.8, "tol": 1e-11, **more}).value.detach())


# ------------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("rho", [None, 0.7])
@pytest.mark.parametrize("cost", ["sqeuclidean", "cosine"])
def test_divergence_is_that_of_dense_iterations(cost, rho) -> None:
    x, y, a, b = clouds((9, 7, 3), 0)
    x = 0.6 * x  # so that plain iterations converge
    if rho is not None:
        a, b = 1.5 * a, 0.7 * b
    rhos = (rho, rho)
    want = dense_sinkhorn(dense_cost(x, y, cost), a, b, 0.8, rhos)[0]
    for points, weights in ((x, a), (y, b)):
        want = want - dense_sinkhorn(dense_cost(points, points, cost), weights, weights, 0.8, rhos)[0] / 2
    want = want + 0.4 * (a.sum() - b.sum()).square()
    result = mi.sinkhorn_divergence(x, y, a, b, epsilon=0.8, cost=cost, rho=rho, tol=1e-13)
    assert result.converged
    assert result.marginal_error <= 1e-13
    assert relative_error(result.value, want) <= 1e-10


@settings(deadline=None, max_examples=15)
@given(SIZES, st.integers(0, 10**6), st.sampled_from([None, 0.5]))
def test_axioms(sizes, seed, rho) -> None:
    x, y, a, b = clouds(sizes, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            value = divergence(x, y, a, b, rho=rho)
            swapped = divergence(y, x, b, a, rho=rho)
        except ConvergenceWarning:  # far points at a small epsilon: the axioms are those of the solution
            reject()
    assert value >= -1e-9
    assert abs(value - swapped) <= 1e-8
    assert abs(divergence(x, x.clone(), a, a, rho=rho)) <= 1e-8
    order = torch.randperm(len(x))
    assert abs(divergence(x, x[order], a, a[order], rho=rho)) <= 1e-8  # equal as sets
    assert divergence(x, x + 0.3, a, a, rho=rho) >= 1e-4  # and only there


@settings(deadline=None, max_examples=10)
@given(SIZES, st.integers(0, 10**6))
def test_invariance(sizes, seed) -> None:
    x, y, a, b = clouds(sizes, seed)
    value = divergence(x, y, a, b)
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(sizes[2], sizes[2], dtype=torch.float64, generator=generator))
    shift = 10 * torch.randn(sizes[2], dtype=torch.float64, generator=generator)
    assert abs(divergence(x @ rotation + shift, y @ rotation + shift, a, b) - value) <= 1e-8
    # |tx - ty|^2 is t^2 |x - y|^2, with epsilon like it.
    assert abs(divergence(3 * x, 3 * y, a, b, epsilon=9 * 0.8) - 9 * value) <= 1e-7


def test_translation_is_measured_exactly() -> None:
    # Moving one set by t adds |t|^2 to the balanced divergence of centred copies, whatever epsilon.
    x, _, a, _ = clouds((8, 1, 3), 1)
    t = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    for epsilon in (1.0, 10.0):
        assert abs(divergence(x, x + t, a, a, epsilon=epsilon) - float(t.square().sum())) <= 1e-8


def test_limit_of_large_epsilon_is_half_the_energy_distance() -> None:
    x, y, a, b = clouds((8, 6, 2), 2)
    xy, xx, yy = (dense_cost(*pair, "sqeuclidean") for pair in ((x, y), (x, x), (y, y)))
    want = a @ xy @ b - (a @ xx @ a + b @ yy @ b) / 2
    assert abs(divergence(x, y, a, b, epsilon=1e6) - float(want)) <= 1e-5


# --------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("rho", [None, 0.7])
def test_gradients(rho) -> None:
    x, y, a, b = clouds((4, 3, 2), 3)
    inputs = tuple(t.requires_grad_() for t in (x, y, a.log(), b.log(), torch.tensor(0.8, dtype=torch.float64)))

    def function(x, y, a_logits, b_logits, epsilon):
        a, b = a_logits.softmax(0), b_logits.softmax(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = mi.sinkhorn_divergence(
                x, y, a, b * (1 if rho is None else 1.3), epsilon=epsilon, rho=rho, tol=1e-14
            )
        return result.value.square()

    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


def test_gradient_by_points_is_the_difference_of_barycentric_maps() -> None:
    x, y, a, b = clouds((7, 6, 3), 4)
    x.requires_grad_()
    result = mi.sinkhorn_divergence(x, y, a, b, epsilon=0.8, tol=1e-13)
    (gradient,) = torch.autograd.grad(3 * result.value, x)
    want = 6 * a[:, None] * (result.self_x.barycentric_map() - result.cross.barycentric_map())
    assert relative_error(gradient, want.detach()) <= 1e-10


def test_module_moves_points_onto_others() -> None:
    x, y, _, _ = clouds((12, 12, 2), 5)
    x.requires_grad_()
    loss = mi.losses.SinkhornDivergence(0.5, tol=1e-6)
    assert "epsilon=0.5" in repr(loss)
    first = float(loss(x, y).detach())
    for _ in range(20):
        (gradient,) = torch.autograd.grad(loss(x, y), x)
        x = (x - 0.4 * len(x) * gradient).detach().requires_grad_()
    assert float(loss(x, y).detach()) <= 1e-2 * first


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epsilon", 0.0),
        ("cost", "l1"),
        ("rho", -1.0),
        ("rho", (1.0, 2.0)),
        ("tol", -1.0),
        ("max_iter", 0),
        ("scaling", 2),
    ],
)
def test_module_names_bad_settings_where_it_is_made(setting, value) -> None:
    with pytest.raises(ValueError, match=setting):
        mi.losses.SinkhornDivergence(**{"epsilon": 1.0, setting: value})


def test_warns_once_of_the_worst() -> None:
    x, y, a, b = clouds((9, 7, 3), 6)
    with pytest.warns(ConvergenceWarning) as caught:
        result = mi.sinkhorn_divergence(x, y, a, b, epsilon=0.05, max_iter=3, tol=1e-9)
    assert len(caught) == 1
    assert f"{result.marginal_error:.2e}" in str(caught[0].message)
    assert not result.converged


# -------------------------------------------------------------------------------------------------------- dependence


def correlated(n: int, correlation: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(n, 2, generator=generator) for _ in range(2))
    return x, correlation * x + math.sqrt(1 - correlation**2) * noise


def test_dependency_grows_with_dependence_and_is_differentiable() -> None:
    values = [float(wasserstein_dependency(*correlated(200, r)).value) for r in (0.0, 0.5, 0.9, 1.0)]
    assert values == sorted(values)
    assert values[0] <= 0.3 * values[-1]
    x, y = (t.double().requires_grad_() for t in correlated(6, 0.5))
    assert gradcheck(
        lambda x, y: wasserstein_dependency(x, y, shifts=2, epsilon=1.0, tol=1e-13).value, (x, y), fast_mode=True
    )


def test_dependency_ignores_scale_where_it_is_to() -> None:
    x, y = (t.double() for t in correlated(30, 0.7))
    value = wasserstein_dependency(x, y, epsilon=1.0).value
    assert relative_error(wasserstein_dependency(5 * x + 1, 0.1 * y - 7, epsilon=1.0).value, value) <= 1e-8
    raw = wasserstein_dependency(x, y, epsilon=1.0, standardize=False).value
    assert relative_error(wasserstein_dependency(x, 0.1 * y, epsilon=1.0, standardize=False).value, raw) >= 0.1


def test_independence_test() -> None:
    # Not correlated, but dependent: y is the norm of x, up to noise.
    x, noise = correlated(60, 0.0)
    y = x.norm(dim=1, keepdim=True) + 0.1 * noise[:, :1]
    dependent = independence_test(x, y, n_permutations=39, seed=1)
    assert dependent.p_value == 1 / 40
    assert dependent.null.shape == (39,)
    assert torch.equal(independence_test(x, y, n_permutations=3, seed=1).null, dependent.null[:3])
    independent = independence_test(x, noise, n_permutations=39, seed=1)
    assert independent.p_value > 0.05


@pytest.mark.filterwarnings("ignore::mi_estimators.ot.ConvergenceWarning")
def test_a_statistic_that_is_not_a_number_is_not_significant() -> None:
    x, y = correlated(10, 0.9)
    result = independence_test(1e30 * x, 1e30 * y, n_permutations=9, standardize=False)
    assert math.isnan(result.statistic)
    assert result.p_value == 1


def test_bad_input_is_named() -> None:
    x, y, a, b = clouds((6, 5, 3), 7)
    for call, error, message in [
        (lambda: mi.sinkhorn_divergence(x, y, epsilon=-1.0), ValueError, "epsilon"),
        (lambda: mi.sinkhorn_divergence(x, y, epsilon=1.0, cost=torch.ones(6, 5)), TypeError, "cost"),
        (lambda: mi.sinkhorn_divergence(x, None, epsilon=1.0), TypeError, "y"),
        (lambda: mi.sinkhorn_divergence(x, y, epsilon=1.0, rho=(1.0, 2.0)), ValueError, "rho: want one price"),
        (lambda: mi.sinkhorn_divergence(x, y, 2 * a, b, epsilon=1.0), ValueError, "sums 2 and 1"),
        (lambda: wasserstein_dependency(x, y), ValueError, "y: want as many rows"),
        (lambda: wasserstein_dependency(x, x, shifts=6), ValueError, "shifts"),
        (lambda: wasserstein_dependency(x, torch.ones_like(x)), ValueError, "y: want points that are not all"),
        (lambda: independence_test(x, x, n_permutations=0), ValueError, "n_permutations"),
    ]:
        with pytest.raises(error, match=message):
            call()
