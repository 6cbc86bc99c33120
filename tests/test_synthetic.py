import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from mi_estimators import synthetic
from mi_estimators.synthetic import TASKS, correlated_gaussian, gaussian_mutual_information, gaussian_task

EVERY = pytest.mark.parametrize("name", TASKS)
MAPPED = {name: base for name in TASKS if (base := name.partition("-")[2]) in TASKS}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1v1-normal-0.75", 0.413),
        ("multinormal-dense-5-5-0.5", 0.593),
        ("multinormal-sparse-5-5-2-2.0", 1.022),
        ("half_cube-1v1-normal-0.75", 0.413),
        ("asinh-multinormal-sparse-5-5-2-2.0", 1.022),
    ],
)
def test_published_values(name, expected):
    assert TASKS[name].mutual_information == pytest.approx(expected, abs=5e-4)


@EVERY
def test_shapes_names_and_dtypes(name):
    task = TASKS[name]
    assert TASKS[name] is task
    assert task.name == name
    x, y = task.sample(3, seed=1)
    assert x.shape == (3, task.dim_x)
    assert y.shape == (3, task.dim_y)
    assert x.dtype == y.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert torch.isfinite(y).all()
    again = task.sample(3, seed=1)
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])


@pytest.mark.parametrize("name", [name for name in TASKS if name not in MAPPED])
def test_pointwise_values_average_to_the_mutual_information(name):
    task = TASKS[name]
    n = min(20_000, 400_000 // (task.dim_x + task.dim_y))
    pointwise = task.pointwise_mutual_information(*task.sample(n, seed=3, dtype=torch.float64))
    assert pointwise.shape == (n,)
    error = math.hypot(pointwise.std() / math.sqrt(n), task.standard_error)
    assert abs(pointwise.mean() - task.mutual_information) < 4 * error


@pytest.mark.parametrize(("name", "base"), MAPPED.items())
def test_a_map_keeps_the_mutual_information_of_every_pair(name, base):
    task, plain = TASKS[name], TASKS[base]
    assert task.mutual_information == plain.mutual_information
    expected = plain.pointwise_mutual_information(*plain.sample(200, seed=3, dtype=torch.float64))
    got = task.pointwise_mutual_information(*task.sample(200, seed=3, dtype=torch.float64))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_pointwise_value_against_scipy_densities():
    covariance = np.array([[1.0, 0.2, 0.5], [0.2, 2.0, -0.3], [0.5, -0.3, 1.5]])
    task = gaussian_task("t", covariance, 2)
    x, y = task.sample(50, seed=0, dtype=torch.float64)
    z = np.concatenate([x.numpy(), y.numpy()], axis=1)
    expected = (
        multivariate_normal(cov=covariance).logpdf(z)
        - multivariate_normal(cov=covariance[:2, :2]).logpdf(z[:, :2])
        - multivariate_normal(cov=covariance[2:, 2:]).logpdf(z[:, 2:])
    )
    np.testing.assert_allclose(task.pointwise_mutual_information(x, y).numpy(), expected, atol=1e-12)


def test_samples_have_the_covariance():
    covariance = np.array([[1.0, 0.2, 0.5], [0.2, 2.0, -0.3], [0.5, -0.3, 1.5]])
    x, y = gaussian_task("t", covariance, 1).sample(100_000, seed=0)
    assert x.shape[1] == 1
    np.testing.assert_allclose(np.cov(torch.cat([x, y], dim=1).numpy().T), covariance, atol=0.03)


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize(("dim", "mutual_information"), [(1, 0.5), (20, 2.0), (20, 10.0), (200, 1e-6), (3, 0.0)])
def test_correlated_gaussian_has_the_mutual_information_asked_for(dim, mutual_information, cubic):
    task = correlated_gaussian(dim, mutual_information, cubic=cubic)
    assert task.mutual_information == pytest.approx(mutual_information, rel=1e-6, abs=1e-12)
    assert (task.dim_x, task.dim_y) == (dim, dim)


def test_correlated_gaussian_by_correlation():
    task = correlated_gaussian(3, rho=-0.6)
    assert task.mutual_information == pytest.approx(-1.5 * math.log(1 - 0.36))
    x, y = task.sample(50_000, seed=2)
    correlation = (x * y).mean(dim=0)
    torch.testing.assert_close(correlation, torch.full((3,), -0.6), atol=0.03, rtol=0)


def test_cubic_cubes_y_and_leaves_x():
    plain, cubic = correlated_gaussian(4, 1.0), correlated_gaussian(4, 1.0, cubic=True)
    (x, y), (x3, y3) = plain.sample(100, 5, dtype=torch.float64), cubic.sample(100, 5, dtype=torch.float64)
    assert torch.equal(x, x3)
    torch.testing.assert_close(y3, y**3)
    torch.testing.assert_close(
        cubic.pointwise_mutual_information(x3, y3), plain.pointwise_mutual_information(x, y), atol=1e-9, rtol=1e-9
    )


@pytest.mark.parametrize("name", ["IDENTITY", "CUBIC", "HALF_CUBE", "ASINH"])
def test_reparametrizations_are_increasing_and_invert(name):
    transform = getattr(synthetic, name)
    t = torch.linspace(-4, 4, 101, dtype=torch.float64)
    torch.testing.assert_close(transform.inverse(transform.forward(t)), t)
    assert (transform.forward(t).diff() > 0).all()


def test_seeds():
    task = TASKS["1v1-normal-0.75"]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = task.sample(10, 1), task.sample(10, 1), task.sample(10, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], same[0])
    assert torch.equal(first[1], same[1])
    assert not torch.equal(first[0], other[0])
    generator = torch.Generator().manual_seed(1)
    stream = [task.sample(10, generator)[0] for _ in range(2)]
    assert torch.equal(stream[0], first[0])
    assert not torch.equal(stream[0], stream[1])


def test_dtype_changes_rounding_only():
    task = TASKS["multinormal-dense-5-5-0.5"]
    exact, single = task.sample(10, 1, dtype=torch.float64)[0], task.sample(10, 1)[0]
    assert exact.dtype == torch.float64
    assert torch.equal(exact.float(), single)


def test_task_is_frozen_and_pointwise_may_be_unknown():
    task = dataclasses.replace(TASKS["1v1-normal-0.75"], log_density_ratio=None)
    with pytest.raises(NotImplementedError, match="1v1-normal"):
        task.pointwise_mutual_information(*task.sample(3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.dim_x = 3


def test_bad_arguments_are_named():
    task = TASKS["multinormal-dense-5-5-0.5"]
    x, y = task.sample(4)
    with pytest.raises(ValueError, match="n: "):
        task.sample(0)
    with pytest.raises(TypeError, match="n: "):
        task.sample(2.0)
    with pytest.raises(TypeError, match="dtype"):
        task.sample(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="x: want 5 columns"):
        task.pointwise_mutual_information(x[:, :3], y)
    with pytest.raises(ValueError, match="y: want shape"):
        task.pointwise_mutual_information(x, y[:3])
    with pytest.raises(ValueError, match="mutual_information"):
        correlated_gaussian(3, -1.0)
    with pytest.raises(ValueError, match="rho"):
        correlated_gaussian(3, rho=1.0)
    with pytest.raises(ValueError, match="rho"):
        correlated_gaussian(1, 50.0)  # 1 - e^-100 rounds to 1
    with pytest.raises(ValueError, match="dim"):
        correlated_gaussian(0, 1.0)
    for arguments in ({}, {"mutual_information": 1.0, "rho": 0.5}):
        with pytest.raises(TypeError, match="exactly one"):
            correlated_gaussian(3, **arguments)
    with pytest.raises(ValueError, match="positive definite"):
        synthetic.dense_gaussian(2, 2, -0.5)
    with pytest.raises(ValueError, match="n_interacting"):
        synthetic.sparse_gaussian(2, 3, 3, 1.0)
    with pytest.raises(ValueError, match="symmetric"):
        gaussian_mutual_information(np.array([[1.0, 0.5], [0.4, 1.0]]), 1)
    with pytest.raises(ValueError, match="dim_x"):
        gaussian_mutual_information(np.eye(3), 3)
