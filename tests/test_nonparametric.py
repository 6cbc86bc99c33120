"""Non-parametric estimates of mutual information, against sums over all pairs written out here and closed forms."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import digamma

from mi_estimators.entropy import discrete_entropy
from mi_estimators.estimators import discrete, entropies, estimate_mi, gaussian, ksg, latent, lnc, mixed, neighbours
from mi_estimators.synthetic import TASKS, correlated_gaussian


def normal_pairs(n, dim=1, mutual_information=0.5, seed=0):
    """Correlated coordinate by coordinate, float64."""
    x, y = correlated_gaussian(dim, mutual_information).sample(n, seed=seed)
    return x.double().numpy(), y.double().numpy()


def distances(points, order=math.inf):
    """Between all points, and infinite from each to itself, ``[n, n]``."""
    matrix = np.linalg.norm(points[:, None] - points[None], ord=order, axis=-1)
    np.fill_diagonal(matrix, np.inf)
    return matrix


def rotation(dim, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


# ---------------------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("candidates", [64, 2048])
@pytest.mark.parametrize(("n", "dim"), [(2, 1), (65, 2), (301, 9), (700, 13)])
@pytest.mark.parametrize("rounded", [False, True])
def test_neighbours_and_counts_are_those_of_all_pairs(n, dim, rounded, candidates, monkeypatch):
    monkeypatch.setattr(neighbours, "_CANDIDATES", candidates)
    monkeypatch.setattr(neighbours, "_QUERIES", 100)
    points = np.random.default_rng(n).standard_normal((n, dim))
    if rounded:  # ties, repeated points, and sums that round otherwise than differences
        points = points.round(1)
    matrix = distances(points)
    k = min(4, n - 1)
    truth = np.sort(matrix, axis=1)[:, :k]
    for find in (neighbours.neighbours_by_tree, neighbours._nearest_by_boxes, neighbours.nearest):
        found = find(points, k)
        assert found.shape == (n, k)
        assert (found != np.arange(n)[:, None]).all()
        assert all(len(set(row)) == k for row in found.tolist())
        assert (neighbours.distances_to(points, found) == truth).all()
    radius = truth[:, -1]
    for closed, inside in ((False, matrix < radius[:, None]), (True, matrix <= radius[:, None])):
        assert (neighbours.count_within(points, radius, closed=closed) == inside.sum(axis=1)).all()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.floats(-1e9, 1e9)),
    st.floats(0, 1e9),
    st.booleans(),
)
def test_counts_at_any_scale(points, radius, closed):
    matrix = distances(points)
    inside = matrix <= radius if closed else matrix < radius
    counts = neighbours.count_within(points, np.full(len(points), radius), closed=closed)
    assert (counts == inside.sum(axis=1)).all()


def test_bits_are_counted_without_numpy_2(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, size=(3, 5), dtype=np.uint64)
    truth = [[int(word).bit_count() for word in row] for row in words]
    assert (neighbours._popcount(words) == truth).all()
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert (neighbours._popcount(words) == truth).all()


# ----------------------------------------------------------------------------------------------------------------- KSG


def ksg_of_all_pairs(x, y, k, algorithm, order):
    n = len(x)
    dx, dy = distances(x, order), distances(y, order)
    total = 0.0
    for i in range(n):
        nearest = np.argsort(np.maximum(dx[i], dy[i]), kind="stable")[:k]
        reach = [d[i, nearest].max() for d in (dx, dy)]
        if algorithm == 1:
            total += sum(digamma((d[i] < max(reach)).sum() + 1) for d in (dx, dy))
        else:
            total += sum(digamma((d[i] <= r).sum()) for d, r in zip((dx, dy), reach, strict=True))
    return digamma(k) - (1 / k if algorithm == 2 else 0) + digamma(n) - total / n


@pytest.mark.parametrize("metric", ["max", "euclidean"])
@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize(("dim", "k"), [(1, 1), (1, 5), (3, 3), (7, 2)])
def test_ksg_is_the_sum_over_all_pairs(dim, k, algorithm, metric):
    x, y = normal_pairs(203, dim)
    order = math.inf if metric == "max" else 2
    got = ksg.estimate(x, y, k=k, algorithm=algorithm, metric=metric, standardize=None)
    assert abs(got.value - ksg_of_all_pairs(x, y, k, algorithm, order)) <= 1e-12


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("truth", [0.0, 0.413, 2.0])
def test_ksg_on_normal_data(truth, algorithm):
    errors = []
    for seed in range(5):
        task = correlated_gaussian(1, truth)
        x, y = task.sample(4000, seed=seed, dtype=torch.float64)
        chance = float(task.pointwise_mutual_information(x, y).mean()) - truth  # of the draw, not of the estimator
        errors.append(ksg.estimate(x.numpy(), y.numpy(), algorithm=algorithm).value - truth - chance)
    # Over 20 draws of 2,000 pairs the bias is at most 0.012 and the deviation of the mean of five 0.011.
    assert abs(np.mean(errors)) <= 0.035


def test_ksg_does_not_depend_on_units_order_or_increasing_maps():
    x, y = normal_pairs(300, 2)
    value = ksg.estimate(x, y).value
    shuffled = np.random.default_rng(0).permutation(300)
    assert abs(ksg.estimate(1000 * x - 5, y).value - value) <= 1e-9
    assert abs(ksg.estimate(y, x).value - value) <= 1e-12
    assert abs(ksg.estimate(x[shuffled], y[shuffled]).value - value) <= 1e-12
    assert abs(ksg.estimate(x[:, ::-1], y).value - value) <= 1e-12
    x, y = normal_pairs(4000)
    assert abs(ksg.estimate(np.exp(x / 2), np.arctan(y)).value - ksg.estimate(x, y).value) <= 0.01


def test_euclidean_ksg_does_not_depend_on_rotations():
    x, y = normal_pairs(300, 3)
    options = {"metric": "euclidean", "standardize": None}
    value = ksg.estimate(x, y, **options).value
    assert abs(ksg.estimate(x @ rotation(3), y @ rotation(3, 1), **options).value - value) <= 1e-9
    assert abs(ksg.estimate(x @ rotation(3), y, standardize=None).value - value) > 1e-3  # the maximum norm does


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("metric", ["max", "euclidean"])
def test_ksg_rejects_repeated_pairs(algorithm, metric):
    x, y = normal_pairs(50, 2)
    x, y = (np.concatenate([side, side[:1], side[:1]]) for side in (x, y))
    options = {"algorithm": algorithm, "metric": metric}
    with pytest.raises(ValueError, match=r"got 3 pairs repeated more than k = 2"):
        ksg.estimate(x, y, k=2, **options)
    assert math.isfinite(ksg.estimate(x, y, k=3, **options).value)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"k": 0}, ValueError, "k: want an integer from 1 to n - 1 = 99, got 0"),
        ({"k": 100}, ValueError, "k: want an integer from"),
        ({"k": 3.0}, TypeError, "k: want an integer"),
        ({"k": True}, TypeError, "k: want an integer"),
        ({"algorithm": 3}, ValueError, "algorithm: want 1 or 2, got 3"),
        ({"metric": "manhattan"}, ValueError, "metric: want one of"),
    ],
)
def test_ksg_rejects_options(options, error, match):
    x, y = normal_pairs(100)
    with pytest.raises(error, match=match):
        estimate_mi(x, y, estimator="ksg", **options)


def test_ksg_of_ranks_does_not_depend_on_increasing_maps():
    x, y = normal_pairs(300, 2)
    value = ksg.estimate(x, y, standardize="rank").value
    assert abs(ksg.estimate(np.exp(3 * x), y**3, standardize="rank").value - value) <= 1e-9
    assert abs(ksg.estimate(np.exp(3 * x), y**3).value - value) > 1e-3


# ----------------------------------------------------------------------------------------------------- three entropies


@pytest.mark.parametrize("k", [1, 4])
def test_kl3h_is_a_sum_of_entropies(k):
    x, y = normal_pairs(300, 2)
    x, y = (side / side.std(axis=0) for side in (x, y))
    expected = 0.0
    for sign, points in ((1, x), (1, y), (-1, np.concatenate([x, y], axis=1))):
        radius = np.sort(distances(points), axis=1)[:, k - 1]
        expected += sign * (digamma(300) - digamma(k) + points.shape[1] * np.log(2 * radius).mean())
    assert abs(entropies.kozachenko_leonenko(x, y, k=k, whiten=False).value - expected) <= 1e-12


@pytest.mark.parametrize(("dim", "k"), [(1, 4), (3, 20), (4, 5), (8, 20), (11, 44), (11, 3)])
def test_neighbour_weights_take_off_the_leading_terms(dim, k):
    weights = entropies.neighbour_weights(k, dim)
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    for order in range(1, dim // 4 + 1):
        terms = [math.gamma(j + 2 * order / dim) / math.gamma(j) for j in range(1, k + 1)]
        assert abs(weights @ terms) <= 1e-9 * np.abs(weights * terms).sum()
    places = {i * k // dim for i in range(1, dim + 1)}
    assert {*(np.flatnonzero(weights) + 1).tolist()} <= places
    if dim < 4:  # nothing to take off
        assert np.unique(weights[weights != 0]) == pytest.approx([1 / len(places)])


def test_wkl3h_is_a_sum_of_weighted_entropies():
    x, y = normal_pairs(200, 4)
    x, y = (side / side.std(axis=0) for side in (x, y))
    expected, k = 0.0, 10
    for sign, points in ((1, x), (1, y), (-1, np.concatenate([x, y], axis=1))):
        dim, weights = points.shape[1], entropies.neighbour_weights(k, points.shape[1])
        radius = np.sort(distances(points), axis=1)[:, :k]
        each = digamma(200) - digamma(np.arange(1, k + 1)) + dim * np.log(2 * radius).mean(axis=0)
        expected += sign * float(weights @ each)
    assert abs(entropies.weighted_kozachenko_leonenko(x, y, k=k, whiten=False).value - expected) <= 1e-9


def test_wkl3h_is_nearer_than_kl3h_where_dependence_is_curved():
    task = TASKS["spiral-multinormal-sparse-5-5-2-2.0"]
    x, y = task.sample(2000, seed=0)
    plain, weighted = (estimate_mi(x, y, estimator=name) for name in ("kl3h", "wkl3h"))
    assert task.mutual_information - plain.value > 0.4
    assert abs(weighted.value - task.mutual_information) <= 3 * weighted.std < 0.4


def test_wkl3h_rejects():
    x, y = normal_pairs(100, 6)
    with pytest.raises(ValueError, match="x, y: want at most 11 columns together, got 12"):
        estimate_mi(x, y, estimator="wkl3h")
    with pytest.raises(ValueError, match="k: want an integer from 3 to n - 1 = 99, got 2"):
        estimate_mi(x[:, :4], y[:, :4], estimator="wkl3h", k=2)
    with pytest.raises(ValueError, match="repeated"):
        estimate_mi(x[:, :1].round(), y[:, :1].round(), estimator="wkl3h")
    assert math.isfinite(estimate_mi(x[:12, :1], y[:12, :1], estimator="wkl3h").value)


def test_kde_is_a_sum_of_entropies():
    x, y = normal_pairs(100)
    x, y = (side / side.std(axis=0) for side in (x, y))
    h, expected = 0.4, 0.0
    for sign, points in ((1, x), (1, y), (-1, np.concatenate([x, y], axis=1))):
        kernel = np.exp(-(distances(points, 2) ** 2) / (2 * h * h)) / (2 * math.pi * h * h) ** (points.shape[1] / 2)
        expected -= sign * np.log(kernel.sum(axis=1) / 99).mean()
    assert abs(entropies.kde(x, y, bandwidth=h, whiten=False).value - expected) <= 1e-9


@pytest.mark.parametrize("estimate", [entropies.kozachenko_leonenko, entropies.kde])
def test_entropies_after_whitening(estimate):
    """Linear dependence, however strong, is measured to what the chance of the draw leaves."""
    for truth in (0.5, 8.0, 20.0):
        task = correlated_gaussian(2, truth)
        x, y = task.sample(1500, seed=1, dtype=torch.float64)
        chance = float(task.pointwise_mutual_information(x, y).mean()) - truth
        assert abs(estimate(x.numpy(), y.numpy()).value - truth - chance) <= 0.12
    x, y = x.numpy(), y.numpy()
    value = estimate(x, y).value
    assert abs(estimate(x * 1e-4 + 1e3, y @ np.diag([1e6, -3.0])).value - value) <= 1e-5
    assert estimate(x, y, whiten=False).value < 10  # what neighbours alone can see of 20


def test_whitened_coordinates():
    points = np.random.default_rng(0).standard_normal((50, 3)) @ np.array([[1.0, 2, 3], [0, 1e3, 1], [0, 0, 0.01]]) + 7
    coordinates, log_det = entropies.whitened("x", points)
    assert np.abs(coordinates.T @ coordinates / 50 - np.eye(3)).max() <= 1e-10
    assert abs(log_det - np.linalg.slogdet(np.cov(points.T, bias=True))[1] / 2) <= 1e-9


@pytest.mark.parametrize("name", ["kl3h", "wkl3h", "kde"])
def test_entropies_reject_dependent_columns(name):
    x, y = normal_pairs(60, 2)
    with pytest.raises(ValueError, match="x, y: want linearly independent columns"):
        estimate_mi(x, x @ rotation(2), estimator=name)
    with pytest.raises(ValueError, match="x: want linearly independent columns"):
        estimate_mi(np.concatenate([x, x[:, :1]], axis=1), y, estimator=name)
    with pytest.raises(ValueError, match="x, y: want more pairs than its 4 columns, got 4"):
        estimate_mi(x[:4], y[:4], estimator=name)


@pytest.mark.parametrize(
    "estimate",
    [
        ksg.estimate,
        lnc.estimate,
        entropies.kozachenko_leonenko,
        functools.partial(entropies.kde, whiten=False),
        functools.partial(latent.estimate, embedding="pca"),
        mixed.mixture,
    ],
)
def test_constant_columns_are_named(estimate):
    x, y = normal_pairs(60, 2)
    y[:, 1] = 5.0
    with pytest.raises(ValueError, match=r"y: column 1 is constant"):
        estimate(x, y)


# ----------------------------------------------------------------------------------------------------------------- LNC


def test_lnc_where_ksg_cannot_follow():
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(2000, 1))
    width = 1e-5
    y = np.sin(3 * x) + generator.uniform(-width / 2, width / 2, size=x.shape)
    # H(y) = log(3) + mean of log |cos(3x)| for a narrow width, H(y | x) = log(width); y is not one-to-one in x.
    grid = np.linspace(0, 1, 400_001)[1:-1]
    density, edges = np.histogram(np.sin(3 * grid), bins=2000, density=True)
    share = density[density > 0]
    truth = -(share * np.log(share)).sum() * (edges[1] - edges[0]) - math.log(width)
    assert abs(lnc.estimate(x, y).value - truth) <= 0.5
    assert ksg.estimate(x, y, algorithm=2).value < truth - 3


def test_lnc_formula():
    x, y = normal_pairs(150, 1, 6.0)
    k, alpha = 5, 0.4
    joint = np.concatenate([x / x.std(), y / y.std()], axis=1)
    mean = lnc.even_boxes(k, 1, 1)[0]
    total, corrected = 0.0, 0
    for i, point in enumerate(joint):
        others = np.argsort(np.delete(np.abs(joint - point).max(axis=1), i), kind="stable")[:k]
        offsets = np.delete(joint, i, axis=0)[others] - point
        axes = np.linalg.svd(offsets)[2]
        ratio = np.abs(offsets @ axes.T).max(axis=0).prod() / np.abs(offsets).max(axis=0).prod()
        if ratio < alpha:
            total += mean - math.log(ratio)
            corrected += 1
    assert 0 < corrected < 150
    expected = ksg.estimate(x, y, k=k, algorithm=2).value + total / 150
    assert abs(lnc.estimate(x, y, k=k, alpha=alpha).value - expected) <= 1e-9


def test_lnc_leaves_evenly_filled_boxes_alone():
    generator = np.random.default_rng(0)
    x, y = generator.uniform(size=(2, 2000, 1))
    gain = lnc.estimate(x, y).value - ksg.estimate(x, y, k=5, algorithm=2).value
    assert 0 <= gain <= 0.02


def test_lnc_rejects():
    x, y = normal_pairs(60)
    with pytest.raises(ValueError, match="k: want more than the number of coordinates"):
        lnc.estimate(x, y, k=2)
    with pytest.raises(ValueError, match="alpha: want a number between 0 and 1, got nan"):
        lnc.estimate(x, y, alpha=math.nan)
    with pytest.raises(ValueError, match="locally"):
        lnc.estimate(x, 2 * x)


# ------------------------------------------------------------------------------------------------------------ Gaussian


@pytest.mark.parametrize("shrinkage", [0.3, "ledoit_wolf", "oas"])
def test_gaussian_with_shrinkage_is_that_of_the_shrunk_matrix(shrinkage):
    covariance = pytest.importorskip("sklearn.covariance")
    x, y = normal_pairs(30, 12)
    joint = np.concatenate([x, y], axis=1)
    joint = (joint - joint.mean(axis=0)) / joint.std(axis=0)
    if shrinkage == 0.3:
        matrix = 0.7 * joint.T @ joint / 30 + 0.3 * np.eye(24)
    else:
        matrix = getattr(covariance, {"oas": "oas", "ledoit_wolf": "ledoit_wolf"}[shrinkage])(joint)[0]
    log_det = [np.linalg.slogdet(part)[1] for part in (matrix[:12, :12], matrix[12:, 12:], matrix)]
    expected = (log_det[0] + log_det[1] - log_det[2]) / 2
    assert abs(gaussian.estimate(x, y, shrinkage=shrinkage).value - expected) <= 1e-9
    few = gaussian.estimate(x[:10], y[:10], shrinkage="oas")  # fewer pairs than columns
    assert math.isfinite(few.value)
    assert few.value >= 0


def test_gaussian_standard_error_in_many_dimensions():
    generator = torch.Generator().manual_seed(0)
    for dim, n, truth in ((20, 200, 0.0), (20, 200, 3.0)):
        task = correlated_gaussian(dim, truth)
        draws = [task.sample(n, generator, dtype=torch.float64) for _ in range(200)]
        measured = [gaussian.estimate(x.numpy(), y.numpy()) for x, y in draws]
        values = np.array([m.value for m in measured])
        assert abs(values.mean() - truth) <= 4 * values.std() / math.sqrt(200)
        assert abs(np.mean([m.std for m in measured]) / values.std() - 1) <= 0.2


def test_gaussian_rejects():
    x, y = normal_pairs(10, 6)
    with pytest.raises(ValueError, match="or shrinkage, got 10 pairs"):
        gaussian.estimate(x, y)
    for value, error in (
        ("ridge", ValueError),
        (0.0, ValueError),
        (1.5, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="shrinkage"):
            gaussian.estimate(x, y, shrinkage=value)
    with pytest.raises(ValueError, match="singular"):
        gaussian.estimate(np.repeat(x, 2, axis=1), y, shrinkage=1e-20)


# --------------------------------------------------------------------------------------------------- discrete and bins


def exact_information(table):
    """Of a table of joint probabilities."""
    table = np.asarray(table, dtype=np.float64)
    independent = np.outer(table.sum(axis=1), table.sum(axis=0))
    seen = table > 0
    return float((table[seen] * np.log(table[seen] / independent[seen])).sum())


def pairs_of_counts(table):
    rows, columns = np.indices(np.shape(table)).reshape(2, -1)
    return np.repeat(np.stack([rows, columns], axis=1), np.ravel(table), axis=0).astype(np.float64)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(2, 5)), elements=st.integers(0, 9)))
def test_discrete_plug_in_is_the_exact_sum(table):
    if table.sum() == 0:
        return
    pairs = pairs_of_counts(table)
    plug_in = exact_information(table / table.sum())
    got = discrete.estimate(pairs[:, :1], pairs[:, 1:], correction=None).value
    assert abs(got - plug_in) <= 1e-12
    rows, columns, cells = ((table.sum(axis=1) > 0).sum(), (table.sum(axis=0) > 0).sum(), (table > 0).sum())
    corrected = discrete.estimate(pairs[:, :1], pairs[:, 1:]).value
    assert abs(corrected - plug_in - (rows + columns - cells - 1) / (2 * table.sum())) <= 1e-12


def test_discrete_bias_and_standard_error():
    table = np.array([[0.3, 0.1, 0.05], [0.05, 0.1, 0.4]])
    truth = exact_information(table)
    generator = np.random.default_rng(0)
    draws = [pairs_of_counts(generator.multinomial(50, table.ravel()).reshape(2, 3)) for _ in range(400)]
    plug_in = [discrete.estimate(d[:, :1], d[:, 1:], correction=None) for d in draws]
    corrected = [discrete.estimate(d[:, :1], d[:, 1:]).value for d in draws]
    spread = np.std([m.value for m in plug_in])
    assert np.mean([m.value for m in plug_in]) - truth > 3 * spread / math.sqrt(400)  # by theory 2 / 2n = 0.02
    assert abs(np.mean(corrected) - truth) <= 3 * spread / math.sqrt(400)
    assert abs(np.mean([m.std for m in plug_in]) / spread - 1) <= 0.2


@pytest.mark.parametrize("correction", ["chao_shen", "nsb"])
def test_discrete_corrections_are_those_of_entropies(correction):
    table = np.array([[5, 1, 0], [2, 3, 4]])
    pairs = pairs_of_counts(table)
    parts = [(table.sum(axis=1), 2), (table.sum(axis=0), 3), (table.ravel(), 6)]
    entropies_of = [
        float(discrete_entropy(counts=counts, correction=correction, num_classes=classes)) for counts, classes in parts
    ]
    got = discrete.estimate(pairs[:, :1], pairs[:, 1:], correction=correction).value
    assert abs(got - (entropies_of[0] + entropies_of[1] - entropies_of[2])) <= 1e-12


def test_discrete_rows_are_joint_categories():
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 3, (400, 2)), generator.integers(0, 2, (400, 1))
    y[:, 0] ^= x[:, 0] == x[:, 1]  # depends on both columns
    value = estimate_mi(x, y, estimator="discrete").value
    assert abs(value - estimate_mi((3 * x[:, 0] + x[:, 1]) * 7, -y, estimator="discrete").value) <= 1e-12
    names = np.array(["no", "yes"])[y[:, 0]]
    assert abs(value - estimate_mi(x, names, estimator="discrete").value) <= 1e-12


def test_histogram_counts_cells():
    x, y = normal_pairs(500, 1, 0.4)
    table = np.histogram2d(x[:, 0], y[:, 0], bins=(7, 4))[0]
    expected = exact_information(table / 500)
    options = {"spacing": "equal", "correction": None}
    assert abs(discrete.histogram(x, y, bins=(7, 4), **options).value - expected) <= 1e-12
    quantiles = [np.quantile(side, np.linspace(0, 1, 6)) for side in (x[:, 0], y[:, 0])]
    expected = exact_information(np.histogram2d(x[:, 0], y[:, 0], bins=quantiles)[0] / 500)
    assert abs(discrete.histogram(x, y, bins=5, correction=None).value - expected) <= 1e-12
    mapped = discrete.histogram(np.exp(3 * x), y**3)
    assert abs(mapped.value - discrete.histogram(x, y).value) <= 1e-12


def test_histogram_refuses_more_cells_than_pairs():
    x = torch.randn(100, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    assert math.isfinite(discrete.histogram(x[:, :3], x[:, 3:6]).value)
    with pytest.raises(ValueError, match=r"x, y: want at most log2\(n\) = 6\.6 columns .*, got 7: "):
        discrete.histogram(x[:, :3], x[:, 3:])


def test_histogram_on_normal_data():
    task = correlated_gaussian(1, 0.4)
    x, y = task.sample(20_000, seed=0, dtype=torch.float64)
    chance = float(task.pointwise_mutual_information(x, y).mean()) - 0.4
    assert abs(discrete.histogram(x.numpy(), y.numpy()).value - 0.4 - chance) <= 0.015


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bins": 1}, ValueError, "bins: want an integer >= 2"),
        ({"bins": (3, 3, 3)}, ValueError, "or 2 of them"),
        ({"bins": 3.5}, TypeError, "bins: want integers"),
        ({"spacing": "even"}, ValueError, "spacing: want one of"),
        ({"correction": "jackknife"}, ValueError, "correction: want one of"),
    ],
)
def test_histogram_rejects(options, error, match):
    with pytest.raises(error, match=match):
        estimate_mi(*normal_pairs(50), estimator="histogram", **options)


# --------------------------------------------------------------------------------------------------------------- mixed


def class_pairs(n, dim=1, seed=0):
    """One of three classes, and normal points about its centre."""
    generator = np.random.default_rng(seed)
    y = generator.choice(3, size=n, p=[0.5, 0.3, 0.2])
    return generator.standard_normal((n, dim)) + 1.5 * y[:, None], y[:, None].astype(np.float64)


def class_information():
    """By quadrature: the entropy of the mixture less that of one normal."""
    grid = np.linspace(-10, 14, 200_001)
    density = sum(p * np.exp(-((grid - 1.5 * c) ** 2) / 2) for c, p in enumerate((0.5, 0.3, 0.2))) / math.sqrt(
        2 * math.pi
    )
    return -(density * np.log(density)).sum() * (grid[1] - grid[0]) - 0.5 * math.log(2 * math.pi * math.e)


@pytest.mark.parametrize(("dim", "k"), [(1, 1), (1, 3), (3, 4)])
def test_ross_is_the_sum_over_all_pairs(dim, k):
    x, y = class_pairs(151, dim)
    y[:3, 0] = [7, 8, 8]  # a class seen once, and one with fewer others than k
    kept = y[:, 0] != 7
    scaled = (x / x.std(axis=0))[kept]
    matrix, same = distances(scaled), y[kept] == y[kept].T
    n, total = kept.sum(), 0.0
    for i in range(n):
        near = min(k, same[i].sum() - 1)
        radius = np.sort(matrix[i][same[i]])[near - 1]
        total += digamma(near) - digamma(same[i].sum()) - digamma((matrix[i] <= radius).sum())
    expected = digamma(n) + total / n
    assert abs(mixed.ross(x, y, k=k).value - expected) <= 1e-12
    assert abs(mixed.ross(y, x, k=k, discrete_x=True, discrete_y=False).value - expected) <= 1e-12


def test_ross_agrees_with_scikit_learn():
    selection = pytest.importorskip("sklearn.feature_selection")
    x, y = class_pairs(300)
    # It adds noise of 1e-10 of the scale, which decides nothing here, and clips at 0.
    expected = selection.mutual_info_classif(x, y[:, 0].astype(int), n_neighbors=3, random_state=0)[0]
    assert abs(mixed.ross(x, y, k=3).value - expected) <= 1e-9
    expected = selection.mutual_info_regression(x[:, :1], x[:, 0] ** 2 + y[:, 0], n_neighbors=3, random_state=0)[0]
    assert abs(ksg.estimate(x, x**2 + y, k=3).value - expected) <= 1e-9


@pytest.mark.parametrize("estimate", [mixed.ross, mixed.mixture])
def test_mixed_estimates_between_a_class_and_a_number(estimate):
    values = [estimate(*class_pairs(1500, seed=seed)).value for seed in range(4)]
    assert abs(np.mean(values) - class_information()) <= 0.04


def test_mixture_is_the_sum_over_all_pairs():
    x, y = normal_pairs(120, 1, 1.0)
    x[::2] = (2 * x[::2]).round()  # atoms, and pairs repeated more than k times
    y[::2] = (2 * y[::2]).round()
    # As it scales them, since distances between atoms are equal but for rounding.
    a, b = (distances((side - side.mean(axis=0)) / side.std(axis=0)) for side in (x, y))
    joint, k, total, atoms = np.maximum(a, b), 2, 0.0, 0
    for i in range(120):
        radius = np.sort(joint[i])[k - 1]
        if radius == 0:
            terms = [(side[i] == 0).sum() + 1 for side in (joint, a, b)]
            atoms += 1
        else:
            terms = [k, (a[i] < radius).sum() + 1, (b[i] < radius).sum() + 1]
        total += digamma(terms[0]) - digamma(terms[1]) - digamma(terms[2])
    assert 0 < atoms < 120
    assert abs(mixed.mixture(x, y, k=k).value - (total / 120 + digamma(120))) <= 1e-12


def test_mixture_of_continuous_variables_is_ksg():
    x, y = normal_pairs(200, 2)
    assert abs(mixed.mixture(x, y).value - ksg.estimate(x, y).value) <= 1e-12


def test_mixture_of_categories_is_nearly_the_plug_in_estimate():
    table = np.array([[300, 100, 50], [50, 100, 400]])
    pairs = pairs_of_counts(table)
    value = mixed.mixture(pairs[:, :1], pairs[:, 1:]).value
    assert abs(value - exact_information(table / 1000)) <= 0.005


def test_mixed_through_the_public_function():
    x, y = class_pairs(400)
    value = mixed.ross(x, y).value
    names = np.array(["a", "b", "c"])[y[:, 0].astype(int)]
    assert abs(estimate_mi(x, names, estimator="mixed").value - value) <= 1e-12
    assert abs(estimate_mi(names, x, estimator="mixed").value - value) <= 1e-12
    with pytest.raises(ValueError, match="got two continuous ones: see 'ksg'"):
        estimate_mi(x, y, estimator="mixed")
    with pytest.raises(ValueError, match="got two discrete ones: see 'discrete'"):
        estimate_mi(names, names, estimator="mixed")
    with pytest.raises(ValueError, match="y: want categories seen more than once"):
        estimate_mi(x[:50], np.arange(50), estimator="mixed")
    with pytest.raises(ValueError, match="values repeated more than k = 3 times within a category"):
        estimate_mi(x.round(), names, estimator="mixed")


# -------------------------------------------------------------------------------------------------------------- latent


def hidden_pairs(n=1600, dim=15, seed=0):
    """Two pairs of coordinates that depend on each other, 0.8 nats each, among independent ones, rotated."""
    x, y = normal_pairs(n, 2, 1.6, seed)
    generator = np.random.default_rng(seed)
    x, y = (np.concatenate([side, generator.standard_normal((n, dim - 2))], axis=1) for side in (x, y))
    return x @ rotation(dim), y @ rotation(dim, 1)


def test_latent_finds_the_directions():
    x, y = hidden_pairs()
    value = latent.estimate(x, y).value
    # Directions in 15 dimensions from 800 pairs are off by 1 - rho^2 = 15 / 800 or so, which takes about 0.1.
    assert 1.35 < value < 1.65
    assert ksg.estimate(x, y).value < 0.8
    assert abs(latent.estimate(x * 100 + 3, y).value - value) <= 1e-6
    assert 0.6 < latent.estimate(x, y, dim=1).value < 0.9


def test_latent_counts_correlations():
    pairs = [hidden_pairs(500, 6, seed) for seed in range(40)]
    counts = [latent.significant(gaussian.canonical_correlations(x, y), 500, 6, 6) for x, y in pairs]
    assert min(counts) == 2
    assert np.mean(np.array(counts) > 2) <= 0.1  # 0.01 by its level
    independent = np.random.default_rng(0).standard_normal((300, 2, 200, 4))
    counts = [latent.significant(gaussian.canonical_correlations(x, y), 200, 4, 4) for x, y in independent]
    assert np.mean(np.array(counts) > 0) <= 0.03


def test_latent_does_not_reward_chance():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 300, 40))
    assert abs(latent.estimate(x, y, dim=3).value) <= 0.15
    assert abs(latent.estimate(x, y, embedding="pca").value) <= 0.15


def test_latent_principal_components():
    x, y = normal_pairs(300, 1, 1.0)
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((2, 300, 1))
    wide = [  # four noisy copies, and one column of something else
        np.concatenate([side + 0.01 * generator.standard_normal((300, 4)), other], axis=1)
        for side, other in zip((x, y), noise, strict=True)
    ]
    assert abs(latent.estimate(*wide, embedding="pca", dim=1).value - ksg.estimate(x, y).value) <= 0.1


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dim": 0}, ValueError, "dim: want an integer from 1 to the smaller number of columns = 15"),
        ({"dim": 16}, ValueError, "dim: want an integer from"),
        ({"dim": 2.0}, TypeError, "dim: want an integer"),
        ({"embedding": "umap"}, ValueError, "embedding: want one of"),
    ],
)
def test_latent_rejects(options, error, match):
    x, y = hidden_pairs(100)
    with pytest.raises(error, match=match):
        estimate_mi(x, y, estimator="latent", **options)
    with pytest.raises(ValueError, match="want more than twice as many pairs as columns of x and y, 60"):
        estimate_mi(x[:60], y[:60], estimator="latent")
