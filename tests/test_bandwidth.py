from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import hermite_e
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import ive, lambertw
from scipy.stats import gaussian_kde
from torch import Tensor

import mi_estimators as mi
from mi_estimators.entropy import RULES, log_vmf_normalizer, select_bandwidth
from mi_estimators.entropy.bandwidth import anisotropic, likelihood
from mi_estimators.entropy.bandwidth.plug_in import _quantiles

DOUBLE = torch.float64


def mixture(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated columns of different spread, a third of the points in a narrow group."""
    x = torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    x[: n // 3] = 0.3 * x[: n // 3] - 1
    x = x * torch.linspace(0.5, 3, d, dtype=DOUBLE)
    if d > 1:
        x[:, 1] += x[:, 0]
    return x


def random_weights(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) + 0.05


def sphere(n: int, d: int, pull: float = 2.0, seed: int = 0) -> Tensor:
    x = torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += pull
    return F.normalize(x, dim=1)


def dense_likelihood(x: Tensor, transform: Tensor, weights: Tensor | None = None) -> Tensor:
    """Leave-one-out log-likelihood of a standard Gaussian kernel after x -> x @ transform, up to a constant."""
    w = torch.full((x.shape[0],), 1.0, dtype=DOUBLE) if weights is None else weights
    w = w / w.sum()
    z = x @ transform
    logits = -0.5 * (z[:, None] - z).square().sum(-1) + w.log()
    logits = logits.masked_fill(torch.eye(x.shape[0], dtype=torch.bool), -math.inf)
    density = torch.logsumexp(logits, 1) - torch.log1p(-w) + torch.linalg.slogdet(transform)[1]
    return (w * density).sum()


# ------------------------------------------------------------------------------------------------------------ loo


@pytest.mark.parametrize("d", [1, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
def test_loo_is_the_optimum_of_the_dense_likelihood(d, weighted):
    x = mixture(150, d)
    w = random_weights(150) if weighted else None
    found = select_bandwidth(x, "loo", weights=w)

    def lost(u):
        return -dense_likelihood(x, math.exp(-u) * torch.eye(d, dtype=DOUBLE), w).item()

    truth = minimize_scalar(lost, bracket=(math.log(found) - 0.3, math.log(found) + 0.3), options={"xtol": 1e-9})
    assert abs(math.log(found) - truth.x) <= 1e-5
    half = select_bandwidth(x.bfloat16(), "loo", weights=w)
    assert abs(math.log(half / found)) <= 0.05
    assert abs(math.log(select_bandwidth(x.float(), "loo", weights=w) / found)) <= 1e-4


@pytest.mark.parametrize("rule", ["loo_diagonal", "loo_full"])
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_anisotropic_loo_is_the_optimum_of_the_dense_likelihood(rule, d, weighted):
    x = mixture(120, d)
    w = random_weights(120) if weighted else None
    found = select_bandwidth(x, rule, weights=w)
    covariance = torch.diag(found.square()) if rule == "loo_diagonal" else found
    transform = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.contiguous()

    def free(parameters: np.ndarray) -> Tensor:
        values = torch.tensor(parameters, requires_grad=True)
        return values, (values.diag() if rule == "loo_diagonal" else values.reshape(d, d))

    def lost(parameters):
        values, matrix = free(parameters)
        value = dense_likelihood(x, matrix, w)
        (gradient,) = torch.autograd.grad(value, values)
        return -value.item(), -gradient.numpy()

    start = (transform.diagonal() if rule == "loo_diagonal" else transform.flatten()).numpy().copy()
    scale = np.abs(start).max()
    assert np.abs(lost(start)[1]).max() * scale <= 1e-4  # the derivative is zero
    truth = minimize(lost, 0.997 * start, jac=True, method="BFGS", options={"gtol": 1e-8})
    best = free(truth.x)[1].detach()
    assert lost(start)[0] - truth.fun <= 1e-9
    best_covariance = torch.linalg.inv(best @ best.T)
    assert ((best_covariance - covariance).abs().max() / covariance.abs().max()).item() <= 2e-4
    single = select_bandwidth(x.float(), rule, weights=w)
    assert single.dtype == torch.float32
    assert ((single.double() - found).abs().max() / found.abs().max()).item() <= 2e-3


def test_the_forms_of_loo_are_ordered_by_likelihood():
    x = mixture(200, 4)
    one = 1 / select_bandwidth(x) * torch.eye(4, dtype=DOUBLE)
    columns = torch.diag(1 / select_bandwidth(x, "loo_diagonal"))
    full = torch.linalg.inv(torch.linalg.cholesky(select_bandwidth(x, "loo_full"))).T
    values = [dense_likelihood(x, transform).item() for transform in (one, columns, full)]
    assert values[0] < values[1] < values[2]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(1e-4, 1e4), shift=st.floats(-1, 1))
def test_bandwidths_scale_with_the_points(seed, factor, shift):
    x = mixture(60, 2, seed)
    moved = factor * (x + shift)
    for rule in ("loo", "lscv", "isj", "sj", "median", "loo_diagonal", "abramson", "knn", "normal_reference_diagonal"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got, want = select_bandwidth(moved, rule), select_bandwidth(x, rule)
        assert np.allclose(np.asarray(got), factor * np.asarray(want), rtol=1e-4, atol=0)


def test_the_covariance_follows_a_linear_map_of_the_points():
    x, a = mixture(150, 3), torch.tensor([[2.0, 1, 0], [0, 0.5, 0], [1, 0, 3]], dtype=DOUBLE)
    for rule in ("loo_full", "scott", "silverman"):
        torch.testing.assert_close(
            select_bandwidth(x @ a.T, rule), a @ select_bandwidth(x, rule) @ a.T, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("rule", ["loo", "loo_diagonal", "loo_full", "scott", "lscv", "isj", "sj", "median"])
def test_weights_count_up_to_a_factor_and_zeros_leave_out(rule):
    x, w = mixture(90, 2), random_weights(90)
    kept = select_bandwidth(x[:70], rule, weights=w[:70])
    w[70:] = 0
    for got in (select_bandwidth(x, rule, weights=w), select_bandwidth(x, rule, weights=37 * w.float())):
        assert np.allclose(np.asarray(got), np.asarray(kept), rtol=1e-5)
    equal = select_bandwidth(x, rule, weights=torch.full((90,), 2.0))
    assert np.allclose(np.asarray(equal), np.asarray(select_bandwidth(x, rule)), rtol=3e-2 if rule == "sj" else 1e-5)


@pytest.mark.parametrize("form", ["loo", "loo_diagonal", "loo_full"])
def test_envelope_gradient(form):
    """The gradient with the bandwidth held is the total derivative, in which the bandwidth moves with the points."""
    x = mixture(40, 2)

    def transform_of(points: Tensor) -> Tensor:
        chosen = select_bandwidth(points, form)
        if form == "loo":
            return torch.eye(2, dtype=DOUBLE) / chosen
        if form == "loo_diagonal":
            return torch.diag(1 / chosen)
        return torch.linalg.inv(torch.linalg.cholesky(chosen)).T.contiguous()

    def entropy(points: Tensor, transform: Tensor) -> Tensor:
        lse = mi.pairwise_lse(points @ transform, scale=0.5, score="sqeuclidean", exclude_diagonal=True)
        return -lse.mean() - torch.linalg.slogdet(transform)[1]

    x.requires_grad_()
    (held,) = torch.autograd.grad(entropy(x, transform_of(x)), x)
    direction = torch.randn(x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        step = 1e-4
        ends = [entropy(moved, transform_of(moved)) for moved in (x + step * direction, x - step * direction)]
        fixed = [entropy(moved, transform_of(x)) for moved in (x + 0.3 * direction, x)]
    numeric = (ends[0] - ends[1]) / (2 * step)
    assert abs((held * direction).sum() - numeric).item() <= 1e-5 * (1 + abs(numeric.item()))
    assert (fixed[0] - entropy(x + 0.3 * direction, transform_of(x + 0.3 * direction))).item() > 1e-3  # it does move


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_points(n):
    x = mixture(n, 2)
    assert 0 < select_bandwidth(x) < 100
    assert bool((select_bandwidth(x[:, :1], "loo_diagonal") > 0).all())
    assert select_bandwidth(x, "knn").shape == (n, 1)


def test_high_dimensions_and_tiny_bandwidths_are_finite():
    x = 1e-3 * torch.randn(60, 256, generator=torch.Generator().manual_seed(0))
    for rule in ("loo", "lscv", "median", "normal_reference"):
        assert 1e-4 < select_bandwidth(x, rule) < 1
    assert bool((select_bandwidth(x, "loo_diagonal") > 1e-5).all())


def test_loo_takes_few_sweeps(monkeypatch):
    sweeps = {"moments": 0, "gradients": 0}
    moments, standard = likelihood.pairwise_lse_moments, anisotropic._standard_likelihood

    def counted_moments(*args, **options):
        sweeps["moments"] += 1
        return moments(*args, **options)

    def counted_standard(*args):
        sweeps["gradients"] += 1
        return standard(*args)

    monkeypatch.setattr(likelihood, "pairwise_lse_moments", counted_moments)
    monkeypatch.setattr(anisotropic, "_standard_likelihood", counted_standard)
    x = mixture(200, 3)
    for rule, most in {"loo": 5, "loo_diagonal": 14, "loo_full": 20}.items():
        sweeps.update(moments=0, gradients=0)
        found = select_bandwidth(x, rule)
        cold = sum(sweeps.values())
        assert 0 < cold <= most
        sweeps.update(moments=0, gradients=0)
        again = select_bandwidth(1.01 * x, rule, start=found)
        assert sum(sweeps.values()) < cold
        cold_again = select_bandwidth(1.01 * x, rule)
        assert np.allclose(np.asarray(again), np.asarray(cold_again), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ reference rules


@pytest.mark.parametrize("d", [1, 2, 6])
@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_covariances_are_those_of_scipy(d, rule):
    x, w = mixture(70, d), random_weights(70)
    for weights in (None, w):
        truth = gaussian_kde(x.T.numpy(), rule, None if weights is None else weights.numpy()).covariance
        got = select_bandwidth(x, rule, weights=weights).numpy()
        assert np.abs(got - truth).max() <= 1e-12 * np.abs(truth).max()


def test_normal_references():
    x, w = mixture(80, 3), random_weights(80)
    n = 1 / ((w / w.sum()) ** 2).sum().item()
    covariance = np.cov(x.numpy().T, aweights=w.numpy())
    factor = (4 / (5 * n)) ** (1 / 7)
    assert select_bandwidth(x, "normal_reference", weights=w) == pytest.approx(
        math.sqrt(covariance.trace() / 3) * factor, rel=1e-12
    )
    per_column = select_bandwidth(x, "normal_reference_diagonal", weights=w).numpy()
    assert np.allclose(per_column, np.sqrt(np.diag(covariance)) * factor, rtol=1e-12)


def test_canonical_bandwidths_are_the_published_ones():
    x = mixture(60, 1)
    gaussian = select_bandwidth(x, "normal_reference")
    # Marron & Nolan (1988), table 1: 0.7764 for the Gaussian kernel.
    for kernel, canonical in {
        "tophat": 1.3510,
        "epanechnikov": 1.7188,
        "biweight": 2.0362,
        "triweight": 2.3122,
    }.items():
        got = select_bandwidth(x, "normal_reference", kernel=kernel)
        assert got / gaussian == pytest.approx(canonical / 0.7764, rel=2e-4)
        squared = select_bandwidth(x, "scott", kernel=kernel) / select_bandwidth(x, "scott")
        assert squared.item() == pytest.approx((canonical / 0.7764) ** 2, rel=4e-4)


def test_median():
    x, counts = mixture(41, 3), torch.arange(41) % 3 + 1
    assert select_bandwidth(x, "median") == pytest.approx(torch.pdist(x).median().item(), rel=1e-12)
    rows, columns = torch.triu_indices(41, 41, 1)
    repeated = torch.pdist(x).repeat_interleave(counts[rows] * counts[columns])
    got = select_bandwidth(x, "median", weights=counts.double())
    assert got == pytest.approx(repeated.median().item(), rel=1e-12)
    large = mixture(4000, 1)
    assert select_bandwidth(large, "median") == pytest.approx(torch.pdist(large).median().item(), rel=0.05)


# ---------------------------------------------------------------------------------------------------------------- lscv


def dense_lscv(x: Tensor, h: float, weights: Tensor) -> float:
    w, d = weights / weights.sum(), x.shape[1]
    distances = torch.cdist(x, x).square()

    def kernels(width):
        return torch.exp(-distances / (2 * width**2)) / (2 * math.pi * width**2) ** (d / 2)

    left_out = kernels(h).fill_diagonal_(0)
    return (w @ kernels(math.sqrt(2) * h) @ w - 2 * (w / (1 - w)) @ left_out @ w).item()


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_lscv_is_the_lowest_minimum_of_the_dense_criterion(d, weighted):
    x = mixture(150, d)
    w = random_weights(150) if weighted else torch.ones(150, dtype=DOUBLE)
    found = select_bandwidth(x, "lscv", weights=w if weighted else None)
    truth = minimize_scalar(
        lambda u: dense_lscv(x, math.exp(u), w),
        bounds=(math.log(found) - 0.2, math.log(found) + 0.2),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert abs(math.log(found) - truth.x) <= 1e-4
    reference = select_bandwidth(x, "normal_reference", weights=w)
    grid = [dense_lscv(x, h, w) for h in np.geomspace(reference / 30, 3 * reference, 60)]
    assert truth.fun <= min(grid) + 1e-9 * abs(truth.fun)


def test_lscv_of_rounded_values_warns():
    x = mixture(300, 1).mul(2).round()
    with pytest.warns(RuntimeWarning, match="'lscv'.*duplicate points"):
        assert select_bandwidth(x, "lscv") > 0


# ------------------------------------------------------------------------------------------------------------- plug-in


def derivative_norm(x: np.ndarray, weights: np.ndarray, order: int, t: float) -> float:
    """Squared norm of a derivative of the Gaussian estimate with variance t, by all pairs."""
    width = math.sqrt(2 * t)
    u = (x[:, None] - x) / width
    values = hermite_e.hermeval(u, [0] * (2 * order) + [1]) * np.exp(-(u**2) / 2)
    total = weights @ values @ weights / (math.sqrt(2 * math.pi) * width ** (2 * order + 1))
    return (-1) ** order * float(total)


def dense_isj(x: np.ndarray, weights: np.ndarray) -> float:
    n = 1 / (weights**2).sum()

    def excess(log_h):
        t = math.exp(2 * log_h)
        for order in range(7, 1, -1):
            norm = derivative_norm(x, weights, order, t)
            if order > 2:
                s = order - 1
                odd = math.prod(range(1, 2 * s, 2))
                t = ((1 + 2 ** (-s - 0.5)) / 3 * odd * math.sqrt(2 / math.pi) / (n * norm)) ** (2 / (3 + 2 * s))
        return log_h + 0.2 * math.log(2 * n * math.sqrt(math.pi) * norm)

    middle = math.log(x.std() * n**-0.2)
    return math.exp(brentq(excess, middle - 1.2, middle + 1.0))


def dense_sj(x: np.ndarray) -> float:
    n = x.size
    low, high = np.quantile(x, [0.25, 0.75], method="inverted_cdf")
    scale = min(x.std(ddof=1), (high - low) / 1.349)

    def curvature(g, order):
        return derivative_norm(x, np.full(n, 1 / n), order, g**2 / 2) * n / (n - 1)

    pilot = 1.357 * (curvature(1.24 * scale * n ** (-1 / 7), 2) / curvature(1.23 * scale * n ** (-1 / 9), 3)) ** (1 / 7)

    def excess(h):
        return (1 / (2 * math.sqrt(math.pi) * n * curvature(pilot * h ** (5 / 7), 2))) ** 0.2 - h

    widest = 1.144 * scale * n**-0.2
    return brentq(excess, 0.1 * widest, 2 * widest)  # bw.SJ too goes beyond its first range


@pytest.mark.parametrize("sample", ["normal", "two groups", "skew"])
def test_plug_in_rules_are_those_of_all_pairs(sample):
    rng = np.random.default_rng(0)
    x = {
        "normal": rng.normal(size=250),
        "two groups": np.r_[0.3 * rng.normal(size=90) - 2, rng.normal(size=160)],
        "skew": rng.gamma(4, size=250),
    }[sample]
    points = torch.from_numpy(1e3 + 10 * x)[:, None]
    assert select_bandwidth(points, "isj") == pytest.approx(10 * dense_isj(x, np.full(250, 1 / 250)), rel=2e-3)
    assert select_bandwidth(points, "sj") == pytest.approx(10 * dense_sj(x), rel=2e-3)
    weights = rng.uniform(0.2, 1, size=250)
    got = select_bandwidth(points, "isj", weights=torch.from_numpy(weights))
    assert got == pytest.approx(10 * dense_isj(x, weights / weights.sum()), rel=2e-3)


def test_plug_in_rules_of_several_columns():
    x = mixture(400, 3)
    for rule in ("isj", "sj"):
        got = select_bandwidth(x, rule)
        alone = torch.tensor([select_bandwidth(x[:, k : k + 1], rule) for k in range(3)], dtype=DOUBLE)
        ratio = (4 / (5 * 400)) ** (1 / 7) / (4 / (3 * 400)) ** (1 / 5)
        torch.testing.assert_close(got, ratio * alone, rtol=1e-9, atol=0)


def test_plug_in_rules_resolve_narrow_groups_beside_an_outlier():
    x = torch.randn(2000, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    alone, with_outlier = select_bandwidth(x, "isj"), select_bandwidth(torch.cat([x, torch.full((1, 1), 3e3)]), "isj")
    assert with_outlier == pytest.approx(alone, rel=0.05)


def test_plug_in_rules_without_a_solution_say_so():
    x = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    with pytest.warns(RuntimeWarning, match="'isj': no solution for column 0"):
        assert select_bandwidth(x, "isj") == pytest.approx(select_bandwidth(x, "normal_reference"))


# ----------------------------------------------------------------------------------------------------------- per point


@pytest.mark.parametrize("weighted", [False, True])
def test_abramson_is_the_formula(weighted):
    x = mixture(60, 2)
    w = random_weights(60) if weighted else torch.ones(60, dtype=DOUBLE)
    w[:5] = 0 if weighted else 1
    shares = w / w.sum()
    h = select_bandwidth(x, weights=w)
    density = (torch.exp(-torch.cdist(x, x).square() / (2 * h**2)) * shares).sum(1)
    mean_log = (shares * density.log()).sum()
    got = select_bandwidth(x, "abramson", weights=w if weighted else None)
    kept = shares > 0
    torch.testing.assert_close(got[kept, 0], (h * (density / mean_log.exp()) ** -0.5)[kept], rtol=1e-5, atol=0)
    assert got.shape == (60, 1)


def test_knn_is_the_distance_to_a_neighbour():
    x = mixture(50, 2)
    radii = torch.cdist(x, x).sort(dim=1).values[:, 7:8]
    torch.testing.assert_close(select_bandwidth(x, "knn", kernel="tophat"), radii)
    ratio = select_bandwidth(x, "normal_reference") / select_bandwidth(x, "normal_reference", kernel="tophat")
    torch.testing.assert_close(select_bandwidth(x.float(), "knn"), (ratio * radii).float())
    copies = x[:1].repeat(9, 1)
    with pytest.warns(RuntimeWarning, match="'knn'.*duplicate points"):
        assert bool((select_bandwidth(torch.cat([x, copies]), "knn") > 0).all())


# -------------------------------------------------------------------------------------------------------------- sphere


@pytest.mark.parametrize("d", [2, 3, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_loo_concentration_is_the_optimum_of_the_dense_likelihood(d, weighted):
    x = sphere(150, d)
    w = random_weights(150) if weighted else torch.ones(150, dtype=DOUBLE)
    w = w / w.sum()
    found = select_bandwidth(x, kernel="vmf", weights=w if weighted else None)
    cosines = x @ x.T

    def lost(u):
        logits = (math.exp(u) * cosines + w.log()).fill_diagonal_(-math.inf)
        density = torch.logsumexp(logits, 1) - torch.log1p(-w) + log_vmf_normalizer(d, math.exp(u))
        return -(w * density).sum().item()

    truth = minimize_scalar(lost, bracket=(math.log(found) - 0.3, math.log(found) + 0.3), options={"xtol": 1e-9})
    assert abs(math.log(found) - truth.x) <= 2e-5
    assert abs(math.log(select_bandwidth(x.float(), kernel="vmf", start=2 * found, weights=w) / found)) <= 2e-2


def test_reference_concentration_on_the_sphere_in_three_dimensions_has_a_closed_form():
    x = sphere(200, 3)
    fitted = mi.entropy.vmf_concentration(3, x.mean(0).norm().item())
    k = fitted
    inverse = 8 * math.sinh(k) ** 2 / (k * 200 * ((1 + 4 * k**2) * math.sinh(2 * k) - 2 * k * math.cosh(2 * k)))
    assert select_bandwidth(x, "normal_reference", kernel="vmf") == pytest.approx(inverse ** (-2 / 6), rel=1e-9)
    assert select_bandwidth(x, "median", kernel="vmf") == pytest.approx(torch.pdist(x).median().item() ** -2)


def dense_slope(x: Tensor, kappa: float, weights: Tensor) -> float:
    """Minus the derivative of the log of the sum over all pairs by log kappa."""
    gaps = 0.5 * (x[:, None] - x).square().sum(-1)
    pairs = weights[:, None] * weights * torch.exp(-kappa * gaps)
    return (kappa * (gaps * pairs).sum() / pairs.sum()).item()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_bgh_is_where_the_dense_sum_grows_fastest(weighted, groups):
    x = sphere(90, 6)
    if groups == 3:  # two scales, and a maximum at each
        x = F.normalize(torch.eye(6, dtype=DOUBLE)[:3].repeat(30, 1) + 0.03 * x, dim=1)
    w = random_weights(90) if weighted else torch.ones(90, dtype=DOUBLE)
    found = select_bandwidth(x, "bgh", kernel="vmf", weights=w if weighted else None)
    ends = math.log(found) - 0.3, math.log(found) + 0.3
    truth = minimize_scalar(
        lambda u: -dense_slope(x, math.exp(u), w), bounds=ends, method="bounded", options={"xatol": 1e-7}
    )
    assert abs(math.log(found) - truth.x) <= 3e-4
    assert -truth.fun >= max(dense_slope(x, kappa, w) for kappa in np.geomspace(1e-3, 1e6, 200)) - 1e-9
    assert (
        abs(math.log(select_bandwidth(x.float(), "bgh", kernel="vmf", weights=w if weighted else None) / found)) <= 2e-3
    )


def test_bgh_of_points_at_right_angles_and_opposite_ones_has_a_closed_form():
    for n in (2, 7, 40):
        want = 1 + lambertw((n - 1) / math.e).real
        assert select_bandwidth(torch.eye(n, dtype=DOUBLE), "bgh", kernel="vmf") == pytest.approx(want, rel=5e-4)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=DOUBLE)
    half = (1 + lambertw(1 / math.e).real) / 2
    assert select_bandwidth(opposite, "bgh", kernel="vmf") == pytest.approx(half, rel=5e-4)


def test_bgh_of_a_circle_in_any_space_has_a_closed_form():
    angles = torch.arange(300, dtype=DOUBLE) * (2 * math.pi / 300)
    frame = torch.linalg.qr(torch.randn(20, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)))[0]
    found = select_bandwidth(torch.stack([angles.cos(), angles.sin()], dim=1) @ frame.T, "bgh", kernel="vmf")
    # The mean over the circle is e^-k I_0(k), and the 300 self terms are lost in it.
    truth = minimize_scalar(lambda k: -k * (1 - ive(1, k) / ive(0, k)), bounds=(0.1, 20), method="bounded")
    assert found == pytest.approx(truth.x, rel=1e-3)


def test_concentrations_per_point():
    x = sphere(80, 4)
    kappa = select_bandwidth(x, kernel="vmf")
    density = torch.exp(kappa * x @ x.T).sum(1)
    want = kappa * density / density.log().mean().exp()
    torch.testing.assert_close(select_bandwidth(x, "abramson", kernel="vmf")[:, 0], want)
    nearest = torch.cdist(x, x).sort(dim=1).values[:, 9:10]
    ratio = select_bandwidth(x, "knn", kernel="vmf") * nearest.square()
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-6, atol=0)  # inverse squares of distances


def test_concentrations_at_the_ends_of_the_range():
    with pytest.warns(RuntimeWarning, match="duplicate points"):
        assert select_bandwidth(sphere(20, 3).repeat(4, 1), kernel="vmf") == pytest.approx(1e6)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert select_bandwidth(opposite, kernel="vmf") == pytest.approx(1e-3)
    with pytest.warns(RuntimeWarning, match="'bgh'.*duplicate points"):
        assert select_bandwidth(opposite[:1].repeat(5, 1), "bgh", kernel="vmf") == pytest.approx(1e6)


# ------------------------------------------------------------------------------------------------------ table, errors


@pytest.mark.parametrize(("kernel", "name"), [(k, n) for k in ("gaussian", "vmf") for n in RULES[k]])
def test_every_rule_returns_its_form(kernel, name):
    points = sphere(120, 3) if kernel == "vmf" else mixture(120, 3)
    for x in (points, points.float(), points.T.contiguous().T, points.clone().requires_grad_()):
        got = select_bandwidth(x, name, kernel=kernel)
        form = RULES[kernel][name].form
        if form == "number":
            assert isinstance(got, float)
            assert 0 < got < math.inf
            continue
        shape = {"covariance": (3, 3), "per point": (120, 1)}.get(form, (3,))
        assert got.shape == shape
        assert got.dtype == x.dtype
        assert not got.requires_grad
        assert bool(torch.isfinite(got).all())
        assert bool((got.diagonal() if form == "covariance" else got).gt(0).all())


@pytest.mark.parametrize("rule", ["loo", "isj"])
def test_rules_stand_in_compiled_functions(rule):
    def scaled(x: Tensor) -> Tensor:
        return (x * torch.as_tensor(select_bandwidth(x, rule))).sum()

    x = mixture(60, 2).requires_grad_()
    torch.testing.assert_close(torch.compile(scaled, backend="eager")(x), scaled(x))


@pytest.mark.parametrize(
    ("x", "options", "error", "text"),
    [
        (torch.ones(5, 2), {}, ValueError, "x: want points that differ in every column .* columns 0, 1 of 2"),
        (mixture(9, 3) * torch.tensor([1, 1, 0]), {}, ValueError, "constant column 2 of 3"),
        (torch.ones(1, 2), {}, ValueError, "x: want at least 2 points"),
        (mixture(9, 2), {"weights": torch.eye(9)[0]}, ValueError, "of which 1 of positive weight"),
        (mixture(9, 2), {"weights": torch.zeros(9)}, ValueError, "weights: want at least one value > 0"),
        (mixture(9, 2), {"weights": torch.arange(9.0) - 1}, ValueError, "weights: want finite values >= 0"),
        (mixture(9, 2), {"weights": torch.full((9,), math.nan)}, ValueError, "weights: want finite values >= 0"),
        (mixture(9, 2), {"weights": torch.ones(8)}, ValueError, r"weights: want one value per point \(9\)"),
        (mixture(9, 2), {"weights": torch.ones(9, dtype=torch.int64)}, TypeError, "weights: want a dtype"),
        (mixture(9, 2), {"weights": torch.ones(9), "rule": "knn"}, ValueError, "weights: want None for rule 'knn'"),
        (mixture(9, 2), {"rule": "scot"}, ValueError, "rule: want one of .* got 'scot' .nearest: 'scott'"),
        (mixture(9, 2), {"rule": "LOO-Diagonal"}, ValueError, "nearest: 'loo_diagonal'"),
        (mixture(9, 2), {"rule": None}, ValueError, "rule: want one of"),
        (sphere(9, 2), {"rule": "scott", "kernel": "vmf"}, ValueError, "unit vectors have no covariance"),
        (mixture(9, 2), {"rule": "loo_full", "kernel": "tophat"}, ValueError, "only the Gaussian kernel"),
        (mixture(9, 2), {"kernel": "cubic"}, ValueError, "kernel: want one of"),
        (mixture(9, 2), {"kernel": "vmf"}, ValueError, "x: want rows of length 1"),
        (torch.ones(9, 1), {"kernel": "vmf"}, ValueError, "x: want at least 2 dimensions"),
        (mixture(9, 2)[:, 0], {}, ValueError, "x: want 2 dimensions"),
        (torch.tensor([[1.0], [math.nan]]), {}, ValueError, "x: want finite values"),
        (torch.ones(3, 2, dtype=torch.int32), {}, TypeError, "x: want a dtype"),
        (mixture(9, 2)[:, [0, 0]], {"rule": "scott"}, ValueError, "do not depend on each other linearly"),
        (mixture(3, 4), {"rule": "loo_full"}, ValueError, "more points than columns"),
        (mixture(9, 1).sign() + 0.0, {"rule": "median"}, ValueError, "median distance of 0"),
    ],
)
def test_bad_arguments_are_named(x, options, error, text):
    with pytest.raises(error, match=text):
        select_bandwidth(x, **options)


@pytest.mark.parametrize("rule", ["loo", "loo_diagonal", "loo_full"])
def test_duplicates_are_reported_and_bandwidths_stay_positive(rule):
    x = mixture(20, 2).repeat(2, 1)
    with pytest.warns(RuntimeWarning, match=f"'{rule}'.*duplicate points"):
        got = select_bandwidth(x, rule)
    assert bool((torch.linalg.eigvalsh(got) if rule == "loo_full" else torch.as_tensor(got)).gt(0).all())


def test_a_column_of_few_values_is_named():
    x = torch.cat([mixture(80, 1), mixture(80, 1, seed=3).sign()], dim=1)
    with pytest.warns(RuntimeWarning, match=r"'loo_diagonal'.*columns \[1\]"):
        got = select_bandwidth(x, "loo_diagonal")
    assert got[0] > 0.05
    assert got[1] > 0


@pytest.mark.parametrize("rule", ["loo", "loo_diagonal", "loo_full"])
@pytest.mark.parametrize("d", [3, 16])
def test_duplicates_are_reported_where_distances_come_from_products(rule, d):
    x = torch.randn(80, d).repeat(2, 1)
    with pytest.warns(RuntimeWarning, match=f"'{rule}'.*duplicate points"):
        select_bandwidth(x, rule)
    close = torch.randn(80, d)
    close = torch.cat([close, close + (0.01 if d > 8 else 1e-4) * torch.randn_like(close)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_bandwidth(close, rule)


@pytest.mark.parametrize(
    ("rule", "start", "error"),
    [
        ("loo", -1.0, ValueError),
        ("loo", "wide", TypeError),
        ("loo", torch.ones(3), ValueError),
        ("loo_diagonal", -torch.ones(3), ValueError),
        ("loo_diagonal", torch.ones(2), ValueError),
        ("loo_diagonal", 0.3, ValueError),
        ("loo_full", -torch.eye(3), ValueError),
        ("loo_full", torch.ones(3, 3).triu(), ValueError),
        ("loo_full", torch.ones(3), ValueError),
    ],
)
def test_starts_that_are_no_bandwidths_are_named(rule, start, error):
    with pytest.raises(error, match="start: want"):
        select_bandwidth(mixture(40, 3), rule, start=start)


def test_one_point_with_all_of_the_weight_is_named():
    weights = torch.ones(40)
    weights[0] = 1e30
    with pytest.raises(ValueError, match="weights: want at least two points that count"):
        select_bandwidth(mixture(40, 3), weights=weights)


def test_weighted_quantiles_are_those_of_repeated_values():
    values, counts = np.array([3.0, -1.0, 0.5, 7.0, 2.0]), np.array([2, 5, 1, 3, 4])
    levels = (0.1, 0.25, 0.5, 0.75, 0.95)
    got = _quantiles(values, counts / counts.sum(), levels)
    np.testing.assert_array_equal(got, np.quantile(np.repeat(values, counts), levels, method="inverted_cdf"))


def test_sj_of_an_outlier_beyond_its_grid_says_so():
    x = torch.cat([torch.randn(40, 1), torch.full((1, 1), 1e7)])
    with pytest.warns(RuntimeWarning, match="'sj': no solution for column 0"):
        assert select_bandwidth(x, "sj") == pytest.approx(select_bandwidth(x, "normal_reference"), rel=1e-6)
