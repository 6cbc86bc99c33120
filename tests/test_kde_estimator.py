from __future__ import annotations

import numpy as np
import pytest
import torch
from densities import DOUBLE, LOG_PROFILES, bandwidths, dense_log_density, points
from scipy import stats

import mi_estimators as mi
from mi_estimators.entropy import KDE, kde_log_density
from mi_estimators.entropy.kernels import KERNELS
from mi_estimators.entropy.sampling import sample_radial, sample_vmf

RADIAL = [name for name, kernel in KERNELS.items() if kernel.radial]
KINDS = {"numpy": lambda x: x.numpy(), "torch": lambda x: x}


def kolmogorov(samples: np.ndarray, log_density, low: float, high: float) -> float:
    """p-value of samples under a density known up to a factor, its distribution function by summation."""
    grid = np.linspace(low, high, 200_001)
    middle = (grid[1:] + grid[:-1]) / 2
    logs = log_density(middle)
    mass = np.concatenate([[0.0], np.exp(logs - logs.max()).cumsum()])
    return stats.kstest(samples, lambda r: np.interp(r, grid, mass / mass[-1])).pvalue


@pytest.mark.parametrize("kernel", RADIAL)
@pytest.mark.parametrize("d", [1, 3, 60])
def test_radial_kernels_are_drawn_exactly(kernel, d):
    drawn = sample_radial(kernel, 4000, d, np.random.default_rng(0))
    radii = np.linalg.norm(drawn, axis=1)
    end = 1.0 if KERNELS[kernel].compact else 4 * d + 40.0

    def log_density(r):
        return (d - 1) * np.log(r) + LOG_PROFILES[kernel](torch.from_numpy(r)).numpy()

    assert kolmogorov(radii, log_density, 0.0, end) > 1e-3
    assert abs((drawn**2).mean() / KERNELS[kernel].variance(d) - 1) <= 0.1
    direction = drawn / radii[:, None]
    assert np.abs(direction.mean(axis=0)).max() <= 0.08
    assert np.abs(direction.T @ direction * d / 4000 - np.eye(d)).max() <= 0.15


@pytest.mark.parametrize("d", [2, 3, 10, 512])
@pytest.mark.parametrize("kappa", [1e-3, 2.0, 60.0, 1e4])
def test_vmf_is_drawn_exactly(d, kappa):
    mean = np.zeros(d)
    mean[:2] = 0.6, -0.8
    drawn = sample_vmf(np.tile(mean, (4000, 1)), np.full(4000, kappa), np.random.default_rng(0))
    assert np.abs(np.linalg.norm(drawn, axis=1) - 1).max() <= 1e-12
    # The angle to the mean has the density e^(kappa cos t) sin(t)^(d - 2).
    angles = 2 * np.arcsin(np.linalg.norm(drawn - mean, axis=1) / 2)
    end = np.pi if kappa < 1e3 else 40 * np.sqrt(d / kappa)

    def log_density(t):
        return kappa * (np.cos(t) - 1) + (d - 2) * np.log(np.sin(t))

    assert kolmogorov(angles, log_density, 0.0, min(end, np.pi)) > 1e-3
    across = drawn - (drawn @ mean)[:, None] * mean
    assert np.abs((across / np.linalg.norm(across, axis=1, keepdims=True)).mean(axis=0)).max() <= 0.08


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_fitted_estimates_score_and_sample_in_every_form(kernel, kind):
    given = KINDS[kind]
    x, q = points(kernel, 12, 3), points(kernel, 5, 3)
    w = torch.rand(12, dtype=DOUBLE)
    for form, h in bandwidths(kernel, 12, 3).items():
        kde = KDE(kernel, given(h)).fit(given(x), sample_weight=given(w))
        logs, drawn = kde.score_samples(given(q)), kde.sample(20_000, random_state=1)
        assert type(logs) is type(drawn) is type(given(x))
        truth = dense_log_density(q, x, kernel, h, w)
        torch.testing.assert_close(torch.as_tensor(logs), truth)
        assert float(kde.score(given(q))) == pytest.approx(truth.sum().item())
        assert float(kde.entropy()) == pytest.approx(
            mi.kde_entropy(x, kernel=kernel, bandwidth=h, weights=w).item(), rel=1e-10
        )
        if kernel == "vmf":
            continue
        # Mean and covariance of a mixture: those of its centres, plus the kernel's covariance.
        drawn, shares = np.asarray(drawn), (w / w.sum()).numpy()
        centre = shares @ x.numpy()
        own = h.numpy() if form == "covariance" else np.diag(np.broadcast_to(
            (shares @ h.numpy() ** 2 if form == "point" else h.numpy() ** 2), 3))  # fmt: skip
        spread = (x.numpy() - centre).T @ np.diag(shares) @ (x.numpy() - centre) + KERNELS[kernel].variance(3) * own
        deviation = np.sqrt(np.diag(spread))
        assert np.abs((drawn.mean(axis=0) - centre) / deviation).max() <= 0.03
        assert np.abs((np.cov(drawn.T) - spread) / np.outer(deviation, deviation)).max() <= 0.06


def test_vmf_samples_follow_the_weights():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    w = torch.tensor([3.0, 1.0, 0.0], dtype=DOUBLE)
    drawn = KDE("vmf", 400.0).fit(x, sample_weight=w).sample(4000, random_state=0)
    assert drawn.dtype == DOUBLE
    assert abs((drawn[:, 0] > 0.7).double().mean().item() - 0.75) <= 0.03
    assert drawn[:, 1].max() < 0.7


def test_samples_repeat_by_seed_and_take_every_kind_of_state():
    kde = KDE(bandwidth=0.3).fit(np.arange(6.0).reshape(3, 2))
    for state in (0, np.random.default_rng, np.random.RandomState):
        first, again = (kde.sample(5, random_state=state(3) if callable(state) else state) for _ in range(2))
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(kde.sample(5), kde.sample(5))


def test_what_numpy_reads_is_taken_as_it_is():
    x = np.random.default_rng(0).normal(size=(40, 3))
    truth = KDE(bandwidth=0.5).fit(x).score_samples(x[:7])
    x.setflags(write=False)
    for same in (x, np.asfortranarray(x), np.flip(np.flip(x, 1), 1), x.tolist()):
        np.testing.assert_allclose(KDE(bandwidth=0.5).fit(same).score_samples(same[:7]), truth, rtol=1e-12)
    narrow = KDE(bandwidth=0.5).fit(x.astype(np.float32))
    assert narrow.score_samples(x[:7]).dtype == narrow.sample(2).dtype == np.float32
    np.testing.assert_allclose(narrow.score_samples(x[:7]), truth, rtol=1e-4)
    assert KDE(bandwidth=0.5).fit([[0], [2]]).score_samples([[1]]).dtype == np.float64
    assert isinstance(KDE().fit(x).bandwidth_, float)
    assert KDE(bandwidth=np.ones(3)).fit(x).bandwidth_.shape == (3,)


def test_tensors_keep_their_gradients():
    x, q = (torch.randn(n, 2, dtype=DOUBLE, requires_grad=True) for n in (9, 4))
    h = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    got = torch.autograd.grad(KDE(bandwidth=h).fit(x).score(q), (x, q, h))
    truth = torch.autograd.grad(kde_log_density(q, x, bandwidth=h).sum(), (x, q, h))
    for a, b in zip(got, truth, strict=True):
        torch.testing.assert_close(a, b)


def test_scikit_learn_clones_and_searches():
    sklearn = pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(0).normal(size=(60, 2))
    h = np.array([0.4, 0.6])
    assert clone(KDE("gaussian", 0.3)).get_params() == {"kernel": "gaussian", "bandwidth": 0.3}
    np.testing.assert_array_equal(clone(KDE(bandwidth=h)).bandwidth, h)
    grid = {"bandwidth": [0.1, 0.3, 0.5, 0.9]}
    ours, theirs = (GridSearchCV(model, grid, cv=4).fit(x) for model in (KDE(), KernelDensity()))
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-9)
    assert sklearn.utils.get_tags(KDE()).estimator_type == "density_estimator"
    assert make_pipeline(StandardScaler(), KDE()).fit(x).score(x) < 0
    for name in ("exponential", "linear"):
        ours, theirs = (model.fit(x).score(x) for model in (KDE(name, 2.0), KernelDensity(kernel=name, bandwidth=2.0)))
        assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: KDE().score_samples([[0.0]]), ValueError, "want fit called before"),
        (lambda: KDE("cubic").fit([[0.0], [1.0]]), ValueError, "kernel: want one of"),
        (lambda: KDE(bandwidth="best").fit([[0.0], [1.0]]), ValueError, "bandwidth: want one of"),
        (lambda: KDE(bandwidth=-1.0).fit([[0.0], [1.0]]), ValueError, "bandwidth: want a finite value > 0"),
        (lambda: KDE(bandwidth=np.ones(3)).fit([[0.0], [1.0]]), ValueError, "bandwidth: want a number"),
        (lambda: KDE().fit([[0.0]]), ValueError, "X: want at least 2 points"),
        (lambda: KDE().fit([0.0, 1.0]), ValueError, "X: want 2 dimensions"),
        (lambda: KDE().fit(np.empty((0, 2))), ValueError, "X: want at least one element"),
        (lambda: KDE().fit([[np.nan], [1.0]]), ValueError, "X: want finite values"),
        (lambda: KDE().fit([["a"], ["b"]]), TypeError, "X: want numbers"),
        (lambda: KDE("vmf", 1.0).fit([[3.0, 4.0]]), ValueError, "X: want rows of length 1"),
        (lambda: KDE(bandwidth=1.0).fit([[1.0]], sample_weight=[-1.0]), ValueError, "sample_weight: want values >= 0"),
        (lambda: KDE(bandwidth=1.0).fit([[1.0]], sample_weight=[0.0]), ValueError, "sample_weight: want at least 1"),
        (lambda: KDE(bandwidth=1.0).fit([[1.0]], sample_weight=[1.0, 2.0]), ValueError, "sample_weight: want one per"),
        (lambda: KDE(bandwidth=1.0).fit([[1.0]]).score_samples([[1.0, 2.0]]), ValueError, "X: want the last dimension"),
        (lambda: KDE(bandwidth=1.0).fit([[1.0]]).sample(0), ValueError, "n_samples: want an integer"),
        (lambda: KDE(bandwidth=1.0).fit([[1.0]]).entropy(), ValueError, "X: want at least 2 points"),
        (lambda: KDE(bandwidth=1.0).fit([[1.0]]).entropy(reduction="split"), ValueError, "reduction: want one of"),
        (lambda: KDE().set_params(algorithm="ball_tree"), ValueError, "parameter: want one of"),
    ],
)
def test_bad_arguments_are_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(1)])
def test_numpys_numbers_are_bandwidths(number):
    x = np.random.default_rng(0).normal(size=(20, 2))
    assert mi.entropy.KDE(bandwidth=number).fit(x).entropy() == mi.entropy.KDE(bandwidth=float(number)).fit(x).entropy()
