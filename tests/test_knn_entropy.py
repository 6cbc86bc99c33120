from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mi_estimators.entropy import knn, knn_entropy, koleo
from mi_estimators.losses import KoLeo

DOUBLE = torch.float64


def dense(x: Tensor, k: int, metric: str) -> Tensor:
    """The estimator on the whole matrix of distances, in float64."""
    n, d = x.shape
    difference = (x[:, None] - x[None]).to(DOUBLE)
    distances = difference.abs().amax(-1) if metric == "max" else difference.square().sum(-1).sqrt()
    radius = distances.masked_fill(torch.eye(n, dtype=torch.bool), math.inf).sort(dim=1).values[:, k - 1]
    ball = 2.0**d if metric == "max" else math.pi ** (d / 2) / math.gamma(d / 2 + 1)
    digamma = torch.special.digamma
    return (
        digamma(torch.tensor(n, dtype=DOUBLE))
        - digamma(torch.tensor(k, dtype=DOUBLE))
        + math.log(ball)
        + d * radius.log().mean()
    )


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40),
    d=st.integers(1, 16),
    k=st.integers(1, 39),
    metric=st.sampled_from(["max", "euclidean"]),
    offset=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_it_is_the_formula(n, d, k, metric, offset, seed):
    k = min(k, n - 1)
    x = torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) + offset
    torch.testing.assert_close(knn_entropy(x, k, metric=metric), dense(x, k, metric), check_dtype=False)
    wide = x.float()
    got = knn_entropy(wide, k, metric=metric)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), dense(wide, k, metric).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ["max", "euclidean"])
@pytest.mark.parametrize("d", [1, 2, 14])
def test_trees_and_blocks_find_the_same_neighbours(metric, d, monkeypatch):
    monkeypatch.setattr(knn, "_BLOCK_ELEMENTS", 1000)  # seven rows at a time
    x = torch.randn(131, 2 * d, dtype=DOUBLE)[:, ::2]
    for k in (1, 3, 130):
        by_tree = torch.from_numpy(knn.neighbours_by_tree(x.numpy(), k, metric=metric)[:, -1])
        assert torch.equal(by_tree, knn._by_blocks(x, x, k, metric))


def test_close_points_far_from_the_origin_are_told_apart():
    # |x|^2 + |y|^2 - 2 x.y in float32 is wrong by more than these distances, but not by those between the clusters.
    x = 1e-3 * torch.randn(40, 20) + 100 * torch.arange(5).repeat_interleave(8)[:, None]
    distances = (x[:, None] - x[None]).double().square().sum(-1).fill_diagonal_(math.inf)
    for k in (1, 3):
        want = distances.argsort(dim=1)[:, k - 1]
        assert torch.equal(knn._by_blocks(x, x, k, "euclidean"), want)


@pytest.mark.parametrize(("d", "truth"), [(1, 1.4216), (2, 2.8289)])
def test_normal_points_have_the_known_value(d, truth):
    x = torch.randn(10_000, d, dtype=DOUBLE)
    exact = d / 2 * math.log(2 * math.pi * math.e)
    for metric in ("max", "euclidean"):
        # The standard error is about 0.01 in one dimension, 0.014 in two.
        assert knn_entropy(x, metric=metric).item() == pytest.approx(exact, abs=0.035)
        assert knn_entropy(x, metric=metric).item() == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("metric", ["max", "euclidean"])
@pytest.mark.parametrize("d", [1, 3, 14])
def test_gradients(metric, d):
    x = torch.randn(9, d, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: knn_entropy(x, 2, metric=metric).sin(), x)
    # H(a X + b) = H(X) + d log a, so the gradient along the points themselves is d.
    (gradient,) = torch.autograd.grad(knn_entropy(x, 2, metric=metric), x)
    assert (gradient * x).sum().item() == pytest.approx(d)
    assert gradient.sum(dim=0).abs().max().item() <= 1e-12 * gradient.abs().max().item() + 1e-12


def test_repeated_points():
    x = torch.randn(20, 2)
    x[:5] = x[0]
    with pytest.raises(ValueError, match=r"x: want continuous data, got 5 points repeated more than k = 3 times"):
        knn_entropy(x)
    with pytest.raises(ValueError, match="got 5 points"):
        knn_entropy(F.pad(x, (0, 20)))  # by blocks
    assert math.isfinite(knn_entropy(x, 5).item())
    x.requires_grad_()
    value = knn_entropy(x, min_distance=0.1)
    (gradient,) = torch.autograd.grad(value, x)
    assert math.isfinite(value.item())
    assert torch.isfinite(gradient).all()
    # Noise as wide as the step of a rounding restores a density.
    rounded = (10 * torch.randn(5000, 1, dtype=DOUBLE)).round() / 10
    noise = 0.1 * (torch.rand(5000, 1, dtype=DOUBLE) - 0.5)
    assert knn_entropy(rounded + noise).item() == pytest.approx(1.4189, abs=0.05)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: knn_entropy(x, 0), ValueError, "k: want an integer from 1 to N - 1 = 9"),
        (lambda x: knn_entropy(x, 10), ValueError, "k: want an integer from 1 to N - 1 = 9"),
        (lambda x: knn_entropy(x, 2.0), TypeError, "k: want an integer"),
        (lambda x: knn_entropy(x, metric="cosine"), ValueError, "metric: want one of"),
        (lambda x: knn_entropy(x[:1]), ValueError, "x: want at least 2 points"),
        (lambda x: knn_entropy(x * math.nan), ValueError, "x: want finite values"),
        (lambda x: knn_entropy(x[0]), ValueError, "x: want 2 dimensions"),
        (lambda x: knn_entropy(x, min_distance=-1.0), ValueError, "min_distance: want"),
        (lambda x: knn_entropy(x.long()), TypeError, "x: want a dtype"),
        (lambda x: koleo(x[:1]), ValueError, "x: want at least 2 points"),
        (lambda x: koleo(x, eps=0.0), ValueError, "eps: want"),
        (lambda x: koleo(x, others=x[:, :1]), ValueError, "others: want the last dimension"),
        (lambda x: KoLeo(eps=-1.0), ValueError, "eps: want"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.randn(10, 3))


# ------------------------------------------------------------------------------------------------------------- KoLeo


def dense_koleo(x: Tensor, eps: float = 1e-8) -> Tensor:
    distances = (x[:, None] - x[None]).square().sum(-1).add(torch.eye(len(x), dtype=x.dtype) * 100).sqrt()
    return -(distances.amin(dim=1) + eps).log().mean()


@pytest.mark.parametrize("normalize", [True, False])
def test_koleo_is_the_formula(normalize):
    x = torch.randn(17, 6, dtype=DOUBLE, requires_grad=True)
    points = F.normalize(x, dim=1) if normalize else x
    got, want = KoLeo(normalize=normalize)(x), dense_koleo(points)
    torch.testing.assert_close(got, want)
    for ours, theirs in zip(torch.autograd.grad(got.sin(), x), torch.autograd.grad(want.sin(), x), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(lambda x: koleo(x, normalize=normalize), x)


def test_koleo_is_minus_the_entropy_of_one_neighbour():
    x = torch.randn(50, 4, dtype=DOUBLE)
    constant = (
        torch.special.digamma(torch.tensor(50.0, dtype=DOUBLE)) + 0.5772156649 + math.log(math.pi**2 / 2)
    ).item()
    entropy = knn_entropy(x, 1, metric="euclidean").item()
    assert -4 * koleo(x, normalize=False, eps=1e-300).item() + constant == pytest.approx(entropy, rel=1e-6)


def test_koleo_of_points_that_coincide():
    x = torch.randn(6, 3)
    x[1] = x[0]
    x.requires_grad_()
    value = koleo(x)
    (gradient,) = torch.autograd.grad(value, x)
    assert math.isfinite(value.item())
    assert torch.isfinite(gradient).all()
    assert value.item() > -math.log(1e-8) / 6  # at least, as two of six are at distance 0


def test_koleo_among_further_points():
    x = torch.randn(12, 4, dtype=DOUBLE, requires_grad=True)
    parts = koleo(x[:5], others=x[5:]), koleo(x[5:], others=x[:5])
    torch.testing.assert_close((5 * parts[0] + 7 * parts[1]) / 12, koleo(x))
    ours, theirs = (torch.autograd.grad(v, x)[0] for v in ((5 * parts[0] + 7 * parts[1]) / 12, koleo(x)))
    torch.testing.assert_close(ours, theirs)
    assert math.isfinite(koleo(x[:1], others=x[1:]).item())


def test_half_types_and_autocast():
    x = torch.randn(20, 8)
    assert koleo(x.bfloat16()).dtype == torch.float32
    assert knn_entropy(x.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert koleo(x).item() == koleo(x).item() == pytest.approx(dense_koleo(F.normalize(x.double(), dim=1)).item())
