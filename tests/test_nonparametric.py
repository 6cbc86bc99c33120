"""Non-parametric estimates of mutual information, against sums over all pairs written out here and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import digamma

from mi_estimators.estimators import estimate_mi, ksg, neighbours
from mi_estimators.synthetic import correlated_gaussian


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
    for find in (neighbours._nearest_by_tree, neighbours._nearest_by_boxes, neighbours.nearest):
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
    got = ksg.estimate(x, y, k=k, algorithm=algorithm, metric=metric, standardize=False)
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
    options = {"metric": "euclidean", "standardize": False}
    value = ksg.estimate(x, y, **options).value
    assert abs(ksg.estimate(x @ rotation(3), y @ rotation(3, 1), **options).value - value) <= 1e-9
    assert abs(ksg.estimate(x @ rotation(3), y, standardize=False).value - value) > 1e-3  # the maximum norm does


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
        ({"k": 0}, ValueError, "k: want between 1 and n - 1 = 99, got 0"),
        ({"k": 100}, ValueError, "k: want between"),
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
