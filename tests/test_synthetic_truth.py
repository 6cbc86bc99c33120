"""The mutual information of tasks, against quadrature, independent formulas and benchmark-mi's own values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

import mi_estimators as mi
from mi_estimators import synthetic
from mi_estimators.synthetic import TASKS

# benchmark-mi 0.1.3 with jax 0.4.30: every task of its list, and its task.mutual_information.
BENCHMARK_MI = {
    "1v1-normal-0.75": 0.41333928659223396,
    "normal_cdf-1v1-normal-0.75": 0.41333928659223396,
    "1v1-additive-0.1": 1.7094379663467407,
    "1v1-additive-0.75": 0.3333333333333333,
    "1v1-bimodal-0.75": 0.41333928659223396,
    "wiggly-1v1-normal-0.75": 0.41333928659223396,
    "half_cube-1v1-normal-0.75": 0.41333928659223396,
    "student-identity-1-1-1": 0.22417142752923613,
    "asinh-student-identity-1-1-1": 0.22417142752923613,
    "swissroll_x-normal_cdf-1v1-normal-0.75": 0.41333928659223396,
    "multinormal-dense-2-2-0.5": 0.2938933324510593,
    "multinormal-dense-3-3-0.5": 0.41333928659223407,
    "multinormal-dense-5-5-0.5": 0.5928118328288701,
    "multinormal-dense-25-25-0.5": 1.2921837216593204,
    "multinormal-dense-50-50-0.5": 1.6242653743036897,
    "multinormal-sparse-2-2-2-2.0": 1.0216512475319819,
    "multinormal-sparse-3-3-2-2.0": 1.0216512475319819,
    "multinormal-sparse-5-5-2-2.0": 1.021651247531981,
    "multinormal-sparse-25-25-2-2.0": 1.0216512475319774,
    "student-identity-2-2-1": 0.43194562200144127,
    "student-identity-2-2-2": 0.1931471805599454,
    "student-identity-3-3-2": 0.29092192268276484,
    "student-identity-3-3-3": 0.17871185309236282,
    "student-identity-5-5-2": 0.44815067691532917,
    "student-identity-5-5-3": 0.29854362265275824,
    "normal_cdf-multinormal-sparse-3-3-2-2.0": 1.0216512475319819,
    "normal_cdf-multinormal-sparse-5-5-2-2.0": 1.021651247531981,
    "normal_cdf-multinormal-sparse-25-25-2-2.0": 1.0216512475319774,
    "half_cube-multinormal-sparse-3-3-2-2.0": 1.0216512475319819,
    "half_cube-multinormal-sparse-5-5-2-2.0": 1.021651247531981,
    "half_cube-multinormal-sparse-25-25-2-2.0": 1.0216512475319774,
    "spiral-multinormal-sparse-3-3-2-2.0": 1.0216512475319819,
    "spiral-multinormal-sparse-5-5-2-2.0": 1.021651247531981,
    "spiral-multinormal-sparse-25-25-2-2.0": 1.0216512475319774,
    "spiral-normal_cdf-multinormal-sparse-3-3-2-2.0": 1.0216512475319819,
    "spiral-normal_cdf-multinormal-sparse-5-5-2-2.0": 1.021651247531981,
    "spiral-normal_cdf-multinormal-sparse-25-25-2-2.0": 1.0216512475319774,
    "asinh-student-identity-2-2-1": 0.43194562200144127,
    "asinh-student-identity-3-3-2": 0.29092192268276484,
    "asinh-student-identity-5-5-2": 0.44815067691532917,
}

# The same package's mixtures and dense or sparse Student-t, with the standard error of its Monte Carlo values.
BENCHMARK_MI_MORE = {
    "1v1-X-0.9": (0.40876397490501404, 0.0023678073),
    "1v1-AI": (0.7775421142578125, 0.0027458079),
    "2v1-galaxy-0.5-3.0": (0.49330103397369385, 0.003),
    "2v1-waves-12-5.0-3.0": (1.3079789876937866, 0.003),
    "3v1-concentric_gaussians-5": (0.4563290774822235, 0.002105044),
    "5v1-concentric_gaussians-5": (0.6260703206062317, 0.0022561844),
    "25v1-concentric_gaussians-5": (1.190227746963501, 0.0019997293),
    "mult-sparse-w-inliers-5-5-2-2.0-0.2": (0.6334941387176514, 0.0036514201),
}


def test_every_task_of_benchmark_mi_is_here_with_its_value():
    assert len(BENCHMARK_MI) == 40
    for name, value in BENCHMARK_MI.items():
        # jax computes the additive one in float32.
        assert TASKS[name].mutual_information == pytest.approx(value, rel=1e-6 if "additive" in name else 1e-11)
    for name, (value, error) in BENCHMARK_MI_MORE.items():
        assert abs(TASKS[name].mutual_information - value) <= 3 * error
    assert synthetic.dense_student(2, 2, 3).mutual_information == pytest.approx(0.40471895621705034, rel=1e-11)
    assert synthetic.sparse_student(3, 3, 2).mutual_information == pytest.approx(1.3125731702147467, rel=1e-11)


def trapezoid(density, x, y):
    """I of a joint density on a grid, its marginals taken from it: exact to rounding for smooth ones that vanish."""
    p = density(x[:, None], y[None, :]) * (x[1] - x[0]) * (y[1] - y[0])
    assert p.sum() == pytest.approx(1, abs=1e-9)
    return special.xlogy(p, p).sum() - special.xlogy(p.sum(1), p.sum(1)).sum() - special.xlogy(p.sum(0), p.sum(0)).sum()


def mixture(weights, means, covariances):
    components = [stats.multivariate_normal(m, c) for m, c in zip(means, covariances, strict=True)]

    def density(x, y):
        z = np.stack(np.broadcast_arrays(x, y), axis=-1)
        return sum(w * component.pdf(z) for w, component in zip(weights, components, strict=True))

    return density


def test_mixtures_of_two_variables_by_quadrature():
    grid = np.linspace(-9, 9, 400)
    crossed = mixture([0.5] * 2, np.zeros((2, 2)), [[[1, r], [r, 1]] for r in (0.9, -0.9)])
    assert TASKS["1v1-X-0.9"].mutual_information == pytest.approx(trapezoid(crossed, grid, grid), abs=1e-7)

    slant = 0.95 * math.sqrt(0.008)
    drawn = mixture(
        [1 / 6] * 6,
        [[1, 0], [1, 1], [1, -1], [-0.8, -0.2], [-1.2, 0], [-0.4, 0]],
        [np.diag(d) for d in ((0.01, 0.2), (0.05, 0.001), (0.05, 0.001), (0.03, 0.001))]
        + [[[0.04, s], [s, 0.2]] for s in (slant, -slant)],
    )
    got = trapezoid(drawn, np.linspace(-3, 3, 500), np.linspace(-4, 4, 700))
    assert TASKS["1v1-AI"].mutual_information == pytest.approx(got, abs=1e-7)


def test_mixtures_of_three_variables_by_what_two_of_them_hold():
    # The two balls differ along one direction of x, so only that one tells anything.
    along = 1.5 * math.sqrt(2)
    balls = mixture([0.5] * 2, [[-along, -1.5], [along, 1.5]], [np.eye(2)] * 2)
    grid = np.linspace(-10, 10, 200)
    assert TASKS["2v1-galaxy-0.5-3.0"].mutual_information == pytest.approx(trapezoid(balls, grid, grid), abs=1e-7)
    # The second coordinate of an unbent stripe is the same for all of them.
    stripes = mixture([1 / 12] * 12, [[1.5 * k, 1.5 * (k % 4)] for k in range(12)], [np.eye(2) / 10] * 12)
    got = trapezoid(stripes, np.linspace(-3, 20, 400), np.linspace(-3, 8, 200))
    assert TASKS["2v1-waves-12-5.0-3.0"].mutual_information == pytest.approx(got, abs=1e-7)


@pytest.mark.parametrize(("dim", "components"), [(3, 3), (3, 5), (5, 5), (25, 5), (3, 10), (5, 10)])
def test_concentric_gaussians_by_their_radius(dim, components):
    # y tells the component, and the length of x is all that x tells of it.
    scales = np.arange(1, components + 1)
    r = np.linspace(1e-6, components * (math.sqrt(dim) + 9), 4000)
    p = stats.chi(dim).pdf(r / scales[:, None]) / scales[:, None] * (r[1] - r[0]) / components
    assert p.sum() == pytest.approx(1, abs=1e-9)
    expected = special.xlogy(p, p).sum() - special.xlogy(p.sum(0), p.sum(0)).sum() + math.log(components)
    task = TASKS[f"{dim}v1-concentric_gaussians-{components}"]
    assert task.mutual_information == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_inliers_by_two_integrals(fraction):
    # Sums and differences of the two correlated pairs are independent, and their squared lengths exponential.
    rho = 0.8
    r = np.linspace(0, 8, 1001)
    weight = 2 * r * np.exp(-(r**2))

    def mean(var_sum, var_difference):
        exponent = rho * (var_sum * r[:, None] ** 2 / (1 + rho) - var_difference * r[None, :] ** 2 / (1 - rho))
        value = np.log((1 - fraction) * np.exp(exponent) / (1 - rho**2) + fraction)
        return integrate.simpson(integrate.simpson(value * weight, x=r, axis=1) * weight, x=r)

    expected = (1 - fraction) * mean(1 + rho, 1 - rho) + fraction * mean(1, 1)
    for dim in (5, 25):
        got = TASKS[f"mult-sparse-w-inliers-{dim}-{dim}-2-2.0-{fraction}"].mutual_information
        assert got == pytest.approx(expected, abs=1e-7)


def test_a_recorded_mean_stands_up_to_other_draws():
    task = TASKS["mixture-5-5-3"]
    values = task.pointwise_mutual_information(*task.sample(100_000, seed=9, dtype=torch.float64))
    assert 0 < task.standard_error <= 5e-4
    error = math.hypot(values.std() / math.sqrt(len(values)), task.standard_error)
    assert abs(values.mean() - task.mutual_information) <= 4 * error


def test_a_mixture_of_ones_own_gets_a_mean_with_a_standard_error():
    rho = 0.6
    task = synthetic.gaussian_mixture("own", [1.0], np.zeros((1, 2)), np.array([[[1, rho], [rho, 1]]]), 1)
    assert 0 < task.standard_error <= 2e-3
    assert abs(task.mutual_information + math.log(1 - rho**2) / 2) <= 4 * task.standard_error


def student_information(df, rho):
    """I of a bivariate Student-t in polar coordinates of the whitened plane."""
    joint, single = stats.multivariate_t([0, 0], [[1, rho], [rho, 1]], df=df), stats.t(df)
    nodes, weights = np.polynomial.legendre.leggauss(150)
    u, angle = (nodes + 1) / 2, np.arange(2000) * 2 * math.pi / 2000
    radius = (u / (1 - u))[:, None]
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    z = z @ np.linalg.cholesky(np.array([[1, rho], [rho, 1]])).T
    p = joint.logpdf(z)
    jacobian = radius / (1 - u[:, None]) ** 2 * math.sqrt(1 - rho**2)
    integrand = np.exp(p) * jacobian * (p - single.logpdf(z[..., 0]) - single.logpdf(z[..., 1]))
    return (weights / 2) @ integrand.mean(axis=1) * 2 * math.pi


def test_student_by_quadrature():
    dispersion = np.array([[1.0, 0.4], [0.4, 1.0]])
    task = synthetic.student_task("t", dispersion, 1, 3.0)
    assert task.mutual_information == pytest.approx(student_information(3.0, 0.4), abs=1e-6)
    # Neither the scale of a variable nor its location enters; many degrees of freedom make it a Gaussian.
    scaled = np.diag([3.0, 0.1]) @ dispersion @ np.diag([3.0, 0.1])
    assert synthetic.student_mutual_information(scaled, 1, 3.0) == pytest.approx(task.mutual_information, abs=1e-12)
    gaussian = synthetic.gaussian_mutual_information(dispersion, 1)
    assert synthetic.student_mutual_information(dispersion, 1, 1e6) == pytest.approx(gaussian, abs=1e-5)


def test_student_samples_follow_their_distribution():
    x, y = synthetic.sparse_student(2, 3, 5, 1).sample(20_000, 4, dtype=torch.float64)
    for column in (x[:, 0], x[:, 1], y[:, 2]):
        assert stats.kstest(column.numpy(), stats.t(5).cdf).pvalue > 1e-4
    # A Student-t vector has an F-distributed squared length over its dimension.
    assert stats.kstest((y[:, 1:].square().sum(dim=1) / 2).numpy(), stats.f(2, 5).cdf).pvalue > 1e-4


@settings(max_examples=25, deadline=None)
@given(epsilon=st.floats(0.02, 5))
def test_additive_noise_by_entropies(epsilon):
    # y = x + noise is a trapezoid: h(y) = half its slopes' width and the log of its height.
    wide, narrow = max(1.0, 2 * epsilon), min(1.0, 2 * epsilon)
    expected = math.log(wide) + narrow / (2 * wide) - math.log(2 * epsilon)
    task = synthetic.additive_noise(epsilon)
    assert task.mutual_information == pytest.approx(expected, abs=1e-12)
    pointwise = task.pointwise_mutual_information(*task.sample(100, 0, dtype=torch.float64))
    assert (pointwise >= math.log(1 / narrow) - 1e-9).all()


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_gamma_exponential_by_quadrature(shape):
    # Of the logarithms, whose density is smooth and vanishes: p(u, v) = e^((a + 1) u + v - e^u - e^(u + v)) / Gamma(a).
    u, v = np.linspace(-32 / shape - 4, 5, 1500), np.linspace(-35, 32 / shape + 8, 1500)

    def density(u, v):
        return np.exp((shape + 1) * u + v - np.exp(u) - np.exp(u + v) - special.gammaln(shape))

    task = synthetic.gamma_exponential(shape)
    assert task.mutual_information == pytest.approx(trapezoid(density, u, v), abs=1e-6)
    three = synthetic.gamma_exponential(shape, 3, log=True)
    assert three.mutual_information == pytest.approx(3 * task.mutual_information)
    assert (three.dim_x, three.dim_y) == (3, 3)


def test_gamma_exponential_at_its_smallest_shape():
    task = synthetic.gamma_exponential(0.05)
    x, y = task.sample(20_000, 0, dtype=torch.float64)
    assert torch.isfinite(y).all()
    assert stats.kstest(x[:, 0].numpy(), stats.gamma(0.05).cdf).pvalue > 1e-4
    values = task.pointwise_mutual_information(x, y)
    assert abs(values.mean() - task.mutual_information) <= 4 * values.std() / math.sqrt(20_000)


@settings(max_examples=20, deadline=None)
@given(dim=st.integers(1, 1000), nats=st.floats(1e-6, 30), seed=st.integers(0, 2**20))
def test_high_dimensions_and_high_information(dim, nats, seed):
    if nats / dim > 15:  # the correlation would round to 1
        return
    task = synthetic.correlated_gaussian(dim, nats)
    assert task.mutual_information == pytest.approx(nats, rel=1e-12)
    x, y = task.sample(64, seed, dtype=torch.float64)
    noise = math.exp(-nats / dim)
    # Pairs are what the covariance says, also where 1 - rho^2 has few digits left: y - rho x is noise of its own.
    residual = (y - math.sqrt(-math.expm1(-2 * nats / dim)) * x) / noise
    assert abs(residual.square().mean() - 1) <= 6 * math.sqrt(2 / residual.numel())
    pointwise = task.pointwise_mutual_information(x, y)
    spread = math.sqrt(dim * -math.expm1(-2 * nats / dim))  # of the pointwise value, in closed form
    assert abs(pointwise.mean() - nats) <= 6 * spread / 8


def test_pairwise_gaussians_are_those_of_the_dense_covariance():
    covariance = np.eye(5)
    covariance[0, 2] = covariance[2, 0] = covariance[1, 3] = covariance[3, 1] = 0.8
    pairs, dense = synthetic.sparse_gaussian(2, 3, 2, 2.0), synthetic.gaussian_task("t", covariance, 2)
    assert pairs.mutual_information == pytest.approx(dense.mutual_information, rel=1e-12)
    for a, b in zip(pairs.sample(50, 1, dtype=torch.float64), dense.sample(50, 1, dtype=torch.float64), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    x, y = dense.sample(50, 1, dtype=torch.float64)
    torch.testing.assert_close(pairs.pointwise_mutual_information(x, y), dense.pointwise_mutual_information(x, y))


def test_bimodal_margins_follow_their_mixtures():
    x, y = TASKS["1v1-bimodal-0.75"].sample(5000, 0, dtype=torch.float64)
    cdf = stats.norm.cdf
    assert stats.kstest(x[:, 0].numpy(), lambda t: 0.3 * cdf(t) + 0.7 * cdf(t - 5)).pvalue > 1e-4
    assert stats.kstest(y[:, 0].numpy(), lambda t: 0.5 * cdf(t + 1) + 0.5 * cdf(t - 3)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("NORMAL_CDF", 3),
        ("WIGGLY_X", 2),
        ("WIGGLY_Y", 2),
        ("SWISS_ROLL", 1),
        ("bimodal", 2),
        ("spiral", 4),
    ],
)
def test_maps_invert(name, dim):
    made = {"bimodal": lambda: synthetic.bimodal(0.2, 4.0, -1.0), "spiral": lambda: synthetic.spiral((1, 3), 2.0)}
    map_ = made[name]() if name in made else getattr(synthetic, name)
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(400, dim, generator=generator, dtype=torch.float64).mul(2).clamp(-6, 6)
    if name == "SWISS_ROLL":
        t = torch.special.ndtr(t)
    image = map_.forward(t)
    assert image.shape == (400, map_.dim(dim))
    torch.testing.assert_close(map_.inverse(image), t, atol=1e-6, rtol=0)
    if name.startswith(("WIGGLY", "NORMAL", "bimodal")):
        line = torch.linspace(-6, 6, 501, dtype=torch.float64)[:, None]
        assert (map_.forward(line).diff(dim=0) > 0).all()


def test_the_spiral_turns_by_the_squared_length():
    turned = synthetic.spiral((0, 1), math.pi / 8).forward(torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(turned, torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64))


def test_probabilities_that_rounded_to_one_stay_finite():
    task = TASKS["normal_cdf-1v1-normal-0.75"]
    x = torch.tensor([[1.0], [0.0], [0.5]])
    assert torch.isfinite(task.pointwise_mutual_information(x, x.flip(0))).all()


def test_tasks_side_by_side():
    parts = [synthetic.additive_noise(0.3), synthetic.sparse_gaussian(2, 3, 1, 1.0), synthetic.mixed_orientations(2, 2)]
    task = synthetic.concatenate("all", parts)
    assert (task.dim_x, task.dim_y, task.name) == (5, 6, "all")
    assert task.mutual_information == pytest.approx(sum(part.mutual_information for part in parts))
    assert task.standard_error == parts[2].standard_error > 0
    x, y = task.sample(100, 2, dtype=torch.float64)
    alone = parts[1].pointwise_mutual_information(x[:, 1:3], y[:, 1:4])
    others = [parts[0].pointwise_mutual_information(x[:, :1], y[:, :1])]
    others.append(parts[2].pointwise_mutual_information(x[:, 3:], y[:, 4:]))
    torch.testing.assert_close(task.pointwise_mutual_information(x, y), alone + sum(others))
    assert synthetic.concatenate("two", [TASKS["symmetric_channel-2-0.1"], parts[0]]).kind_x == "mixed"
    with pytest.raises(ValueError, match="tasks: want at least one"):
        synthetic.concatenate("none", [])


@pytest.mark.parametrize("name", ["1v1-bimodal-0.75", "1v1-additive-0.75", "log_gamma_exponential-0.3", "1v1-X-0.9"])
def test_ksg_finds_what_a_task_of_two_variables_holds(name):
    task = TASKS[name]
    x, y = task.sample(3000, 0, dtype=torch.float64)
    assert mi.estimate_mi(x, y, estimator="ksg").value == pytest.approx(task.mutual_information, abs=0.07)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: synthetic.additive_noise(0.0), ValueError, "epsilon"),
        (lambda: synthetic.gamma_exponential(0.01), ValueError, "shape"),
        (lambda: synthetic.gamma_exponential(math.nan), ValueError, "shape"),
        (lambda: synthetic.gamma_exponential(1.0, 0), ValueError, "dim"),
        (lambda: synthetic.identity_student(1, 1, 0.0), ValueError, "df"),
        (lambda: synthetic.student_task("t", np.array([[1.0, 2.0], [2.0, 1.0]]), 1, 3.0), ValueError, "definite"),
        (lambda: synthetic.bimodal(1.0, 0.0, 1.0), ValueError, "weight"),
        (
            lambda: synthetic.gaussian_mixture("t", [0.5, 0.6], np.zeros((2, 2)), np.zeros((2, 2, 2)), 1),
            ValueError,
            "weights",
        ),
        (lambda: synthetic.gaussian_mixture("t", [1.0], np.zeros((2, 2)), np.zeros((1, 2, 2)), 1), ValueError, "means"),
        (
            lambda: synthetic.gaussian_mixture("t", [1.0], np.zeros((1, 2)), np.zeros((1, 3, 3)), 1),
            ValueError,
            "covariances: want shape",
        ),
        (
            lambda: synthetic.gaussian_mixture("t", [1.0], np.zeros((1, 2)), np.zeros((1, 2, 2)), 1),
            ValueError,
            "positive definite",
        ),
        (lambda: synthetic.gaussian_mixture("t", [1.0], np.zeros((1, 2)), np.eye(2)[None], 2), ValueError, "dim_x"),
        (lambda: synthetic.sparse_with_inliers(2, 2, inlier_fraction=1.0), ValueError, "inlier_fraction"),
        (lambda: synthetic.mixed_orientations(2, 3), ValueError, "n_components"),
        (lambda: synthetic.correlated_gaussian(1, 40.0), ValueError, "mutual_information"),
    ],
)
def test_bad_parameters_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
