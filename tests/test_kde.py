from __future__ import annotations

import importlib
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from densities import DOUBLE, bandwidths, dense_log_density, points, sphere
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_estimators as mi
from mi_estimators.entropy import RULES, categorical_entropy, kde_log_density
from mi_estimators.entropy.kernels import KERNELS

FORMS = [(kernel, form) for kernel in KERNELS for form in bandwidths(kernel, 2, 2)]


def weights_for(n: int) -> torch.Tensor:
    return 0.2 + torch.rand(n, dtype=DOUBLE)


@pytest.mark.parametrize(("kernel", "form"), FORMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_kernel_and_form_is_the_formula(kernel, form, weighted):
    x, q, d = points(kernel, 23, 4), points(kernel, 9, 4), 4
    h = bandwidths(kernel, 23, d)[form]
    weights = weights_for(23) if weighted else None
    if weighted:
        weights[5] = 0.0
    for query, support, left_out in ((q, x, True), (x, None, True), (x, None, False)):
        options = {"kernel": kernel, "bandwidth": h, "weights": weights, "leave_one_out": left_out}
        got = kde_log_density(query, support, **options)
        truth = dense_log_density(query, support, kernel, h, weights, left_out)
        torch.testing.assert_close(got, truth, rtol=1e-11, atol=1e-11)
        narrow = kde_log_density(
            query.float(), None if support is None else support.float(),
            **(options | {"weights": weights.float() if weighted else None, "bandwidth": h.float()}),
        )  # fmt: skip
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "form"), FORMS)
@pytest.mark.parametrize("self_mode", [False, True])
def test_gradients_of_every_kernel_form_and_role(kernel, form, self_mode):
    x, q, d = points(kernel, 6, 3), points(kernel, 4, 3), 3
    h = bandwidths(kernel, 6, d)[form]
    x, q, h, w = (tensor.requires_grad_() for tensor in (x, q, h, weights_for(6)))
    if self_mode:
        assert torch.autograd.gradcheck(
            lambda x, h, w: kde_log_density(x, kernel=kernel, bandwidth=h, weights=w), (x, h, w)
        )
    else:
        assert torch.autograd.gradcheck(
            lambda q, x, h, w: kde_log_density(q, x, kernel=kernel, bandwidth=h, weights=w), (q, x, h, w)
        )


@pytest.mark.parametrize("d", [1, 2, 5])
def test_entropy_of_a_normal_sample(d):
    x = torch.randn(2000, d, dtype=DOUBLE)
    truth = d / 2 * math.log(2 * math.pi * math.e)
    h = RULES["gaussian"]["loo"](x)
    estimate = mi.kde_entropy(x, bandwidth=h)
    assert estimate.item() == pytest.approx(truth, abs=0.03 + 0.03 * d)
    # The self term makes the same estimate too small.
    assert mi.kde_entropy(x, bandwidth=h, leave_one_out=False) < estimate


def test_entropy_of_the_uniform_sphere():
    assert mi.kde_entropy(sphere(2000, 3), kernel="vmf").item() == pytest.approx(math.log(4 * math.pi), abs=0.01)


def test_fixed_bandwidths_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mi.kde_entropy(torch.randn(50, 3), bandwidth=0.5)


def test_published_values_of_the_er_papers_code():
    # README of apple/ml-entropy-reconstruction: random data, k = d = 1000.
    z = F.normalize(torch.randn(1000, 1000), dim=1)
    options = {"kernel": "vmf", "bandwidth": 10.0, "leave_one_out": False, "normalizer": "apple"}
    assert mi.kde_entropy(z, reduction="plug_in", **options).item() == pytest.approx(-249.3085, abs=2e-3)
    assert mi.kde_entropy(z, **options).item() == pytest.approx(-249.3083, abs=2e-3)
    assert categorical_entropy(torch.full((10, 1000), 1e-3)).item() == pytest.approx(6.9078, abs=1e-4)
    # Exact constants are far from those, by the same amount for any data.
    gap = mi.kde_entropy(z, kernel="vmf", bandwidth=10.0, leave_one_out=False) - mi.kde_entropy(z, **options)
    exact = mi.entropy.log_vmf_normalizer(1000, 10.0)
    apple = 499 * math.log(10) - 500 * math.log(2 * math.pi) - math.log(1e-7)
    assert gap.item() == pytest.approx(apple - exact, rel=1e-5)


@pytest.mark.parametrize("d", [128, 256])
def test_constant_of_the_er_papers_code_by_dimension(d):
    # -43.557 and -73.298 there; exactly -126.664 and -344.140. With one point the entropy is the constant minus kappa.
    point = F.normalize(torch.ones(1, d, dtype=DOUBLE), dim=1)
    for normalizer, value in {"apple": {128: -43.557, 256: -73.298}, "exact": {128: -126.664, 256: -344.140}}.items():
        entropy = mi.kde_entropy(point, kernel="vmf", bandwidth=10.0, leave_one_out=False, normalizer=normalizer)
        assert entropy.item() + 10.0 == pytest.approx(value[d], abs=0.01)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-100, 100), factor=st.floats(0.1, 10))
def test_entropy_moves_as_entropies_do(seed, shift, factor):
    x = torch.randn(30, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    entropy = mi.kde_entropy(x, bandwidth=0.5)
    torch.testing.assert_close(mi.kde_entropy(x + shift, bandwidth=0.5), entropy, rtol=1e-9, atol=1e-9)
    scaled = mi.kde_entropy(factor * x, bandwidth=0.5 * factor)
    torch.testing.assert_close(scaled, entropy + 3 * math.log(factor), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"x": torch.ones(3, 2, dtype=torch.int32)}, TypeError, "x: want a dtype"),
        ({"x": torch.tensor([[1.0], [math.nan]])}, ValueError, "x: want finite values"),
        ({"x": torch.ones(1, 2)}, ValueError, "x: want at least 2 points"),
        ({"x": torch.ones(1, 2), "bandwidth": 1.0}, ValueError, "x: want at least 2 points"),
        ({"x": torch.ones(4, 2), "kernel": "vmf"}, ValueError, "x: want rows of length 1"),
        ({"x": torch.ones(4, 2), "bandwidth": "normal_reference"}, ValueError, "points that differ"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth: want a finite value > 0"),
        ({"bandwidth": -1.0}, ValueError, "bandwidth: want a finite value > 0"),
        ({"bandwidth": math.nan}, ValueError, "bandwidth: want a finite value > 0"),
        ({"bandwidth": torch.tensor(-1.0)}, ValueError, "bandwidth: want finite values > 0"),
        ({"bandwidth": torch.ones(3)}, ValueError, r"bandwidth: want a number, \[2\] for one per dimension"),
        ({"bandwidth": "magic"}, ValueError, "bandwidth: want one of"),
        ({"bandwidth": None}, TypeError, "bandwidth: want a number"),
        ({"kernel": "cubic"}, ValueError, "kernel: want one of"),
        ({"reduction": "sum"}, ValueError, "reduction: want one of"),
        ({"normalizer": "apple"}, ValueError, "normalizer: 'apple' belongs to"),
        ({"x": torch.ones(4, 1), "kernel": "vmf"}, ValueError, "want at least 2 dimensions"),
    ],
)
def test_bad_arguments_are_named(arguments, error, text):
    arguments = {"x": torch.randn(5, 2), **arguments}
    with pytest.raises(error, match=text):
        mi.kde_entropy(arguments.pop("x"), **arguments)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reduction", ["joe", "plug_in", "split"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_are_the_formulas(kernel, reduction, weighted):
    x = points(kernel, 21, 2)
    h = bandwidths(kernel, 21, 2)["scalar"].requires_grad_()
    w = weights_for(21) if weighted else torch.ones(21, dtype=DOUBLE)
    w.requires_grad_(weighted)
    x.requires_grad_()
    options = {"kernel": kernel, "bandwidth": h, "weights": w if weighted else None, "reduction": reduction}
    if reduction == "split":
        halves = torch.arange(21) % 3 == 0
        logs = torch.empty(21, dtype=DOUBLE).index_put(
            (halves,), dense_log_density(x[halves], x[~halves], kernel, h, w[~halves])
        )
        logs = logs.index_put((~halves,), dense_log_density(x[~halves], x[halves], kernel, h, w[halves]))
        truth = -(w * logs).sum() / w.sum()
        options["halves"] = halves
    else:
        logs = dense_log_density(x, None, kernel, h, w)
        shares = w if reduction == "joe" else w * logs.exp()
        truth = -(shares * logs).sum() / shares.sum()
    got = mi.kde_entropy(x, **options)
    torch.testing.assert_close(got, truth, rtol=1e-11, atol=1e-11)
    inputs = (x, h, w) if weighted else (x, h)
    for found, wanted in zip(
        torch.autograd.grad(got, inputs), torch.autograd.grad(truth, inputs, materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kernel", ["laplace", "epanechnikov", "cosine"])
def test_bandwidths_per_point_by_blocks_of_rows(kernel, monkeypatch):
    x, h = torch.randn(23, 2, dtype=DOUBLE, requires_grad=True), (1 + torch.rand(23, 1, dtype=DOUBLE)).requires_grad_()
    found = []
    for elements in (1 << 22, 4 * 23):  # all rows, four rows at a time
        monkeypatch.setattr(importlib.import_module("mi_estimators.ops.pairwise_lse"), "_BLOCK_ELEMENTS", elements)
        value = mi.kde_entropy(x, kernel=kernel, bandwidth=h)
        found.append((value, *torch.autograd.grad(value, (x, h))))
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole)


def test_halves_are_drawn_by_the_seed_and_choose_their_own_bandwidth():
    x = torch.randn(31, 2, dtype=DOUBLE)
    split = [mi.kde_entropy(x, reduction="split", seed=seed).item() for seed in (0, 0, 1)]
    assert split[0] == split[1] != split[2]
    seen = []

    def choose(points):
        seen.append(len(points))
        return 0.5

    mi.kde_entropy(x, reduction="split", bandwidth=choose)
    assert sorted(seen) == [15, 16]
    # One bandwidth for each point goes with its point.
    h = 0.3 + torch.rand(31, 1, dtype=DOUBLE)
    halves = torch.arange(31) < 10
    logs = torch.cat([kde_log_density(x[halves], x[~halves], bandwidth=h[~halves]),
                      kde_log_density(x[~halves], x[halves], bandwidth=h[halves])])  # fmt: skip
    got = mi.kde_entropy(x, reduction="split", bandwidth=h, halves=halves)
    torch.testing.assert_close(got, -logs.mean())


@pytest.mark.parametrize("kernel", ["gaussian", "tophat", "epanechnikov", "laplace", "triangular", "cosine"])
@pytest.mark.parametrize("d", [1, 3])
def test_densities_are_scikit_learns(kernel, d):
    neighbors = pytest.importorskip("sklearn.neighbors")
    theirs = {"laplace": "exponential", "triangular": "linear"}.get(kernel, kernel)
    x, q = torch.randn(50, d, dtype=DOUBLE), torch.randn(30, d, dtype=DOUBLE)
    w = weights_for(50)
    fitted = neighbors.KernelDensity(bandwidth=0.9, kernel=theirs, rtol=0, atol=0).fit(x, sample_weight=w)
    got = kde_log_density(q, x, kernel=kernel, bandwidth=0.9, weights=w).numpy()
    truth = fitted.score_samples(q)
    reached = truth > -600  # scikit-learn says -700 and less where no kernel reaches
    assert np.array_equal(reached, got > -math.inf)
    np.testing.assert_allclose(got[reached], truth[reached], rtol=1e-9, atol=1e-9)


def test_covariances_and_weights_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    x = torch.randn(60, 3, dtype=DOUBLE) @ torch.randn(3, 3, dtype=DOUBLE) + 5
    q = torch.randn(10, 3, dtype=DOUBLE) + 5
    w = weights_for(60)
    theirs = stats.gaussian_kde(x.T.numpy(), weights=w.numpy())
    got = kde_log_density(q, x, bandwidth=torch.as_tensor(theirs.covariance), weights=w)
    np.testing.assert_allclose(got, theirs.logpdf(q.T.numpy()), rtol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_counts_are_weights_and_a_scale_is_a_change_of_variables(kernel):
    x, q = points(kernel, 9, 3), points(kernel, 5, 3)
    h = bandwidths(kernel, 9, 3)["scalar"]
    counts = torch.tensor([1, 3, 0, 2, 1, 1, 4, 1, 2])
    repeated = kde_log_density(q, x.repeat_interleave(counts, 0), kernel=kernel, bandwidth=h)
    got = kde_log_density(q, x, kernel=kernel, bandwidth=h, weights=counts.double())
    torch.testing.assert_close(got, repeated)
    torch.testing.assert_close(
        kde_log_density(q, x, kernel=kernel, bandwidth=h, weights=1e-300 * counts.double()), repeated
    )
    if kernel == "vmf":
        return
    same = kde_log_density(q, x, kernel=kernel, bandwidth=h**2 * torch.eye(3, dtype=DOUBLE))
    torch.testing.assert_close(same, kde_log_density(q, x, kernel=kernel, bandwidth=h))
    torch.testing.assert_close(same, kde_log_density(q, x, kernel=kernel, bandwidth=h.expand(3)))
    change = torch.randn(3, 3, dtype=DOUBLE)
    moved = kde_log_density(q @ change.T, x @ change.T, kernel=kernel, bandwidth=h**2 * change @ change.T)
    torch.testing.assert_close(moved, same - torch.linalg.slogdet(change)[1], rtol=1e-8, atol=1e-8)


def test_total_of_the_others_keeps_its_digits():
    # One weight in 1e18 of the rest: the difference of the total and it would be 0.
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=DOUBLE)
    w = torch.tensor([1.0, 1e18, 2.0], dtype=DOUBLE)
    got = kde_log_density(x, bandwidth=1.0, weights=w)
    torch.testing.assert_close(got, dense_log_density(x, None, "gaussian", 1.0, w))
    assert got[1].item() == pytest.approx(-0.5 - math.log(2 * math.pi) / 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_finite_where_the_truth_is(dtype):
    tolerance = 1e-10 if dtype == DOUBLE else 2e-5
    x = torch.randn(40, 256, dtype=DOUBLE).to(dtype)
    x[1] = x[0]
    pair = torch.randn(2, 4, dtype=DOUBLE).to(dtype)
    for sample, h in ((x, 0.05), (x, torch.full((256,), 0.05)), (pair, 1e-4), (pair.expand(2, 4), 3.0), (x[:2], 0.05)):
        truth = dense_log_density(sample.double(), None, "gaussian", h if isinstance(h, float) else h.double())
        got = kde_log_density(sample, bandwidth=h)
        assert bool(((got - truth).abs() <= tolerance * truth.abs().clamp_min(1)).all())
        sample = sample.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(mi.kde_entropy(sample, bandwidth=h), sample)
        assert bool(torch.isfinite(gradient).all())
    for d in (2, 64, 512):
        z = sphere(30, d).to(dtype)
        z[1] = z[0]
        for kappa in (1e-3, 1.0, 1e4):
            truth = dense_log_density(z.double(), None, "vmf", kappa)
            got = kde_log_density(z, kernel="vmf", bandwidth=kappa)
            assert bool(((got - truth).abs() <= tolerance * max(kappa, d, 10.0)).all())


def test_points_far_from_the_origin_keep_their_digits():
    x = torch.randn(50, 3) + torch.tensor([3e3, -2e3, 1e3])  # what float32 holds, is the truth
    for h in (0.7, torch.tensor([0.5, 1.0, 2.0]), torch.diag(torch.tensor([0.3, 1.0, 2.0])), 0.5 + torch.rand(50, 1)):
        wide = h if isinstance(h, float) else h.double()
        truth = dense_log_density(x.double(), None, "gaussian", wide)
        torch.testing.assert_close(kde_log_density(x, bandwidth=h).double(), truth, rtol=1e-4, atol=1e-4)


def test_points_out_of_reach_have_no_density_and_no_gradient():
    x = torch.tensor([[0.0], [0.1], [50.0]], dtype=DOUBLE, requires_grad=True)
    for kernel in (name for name in KERNELS if KERNELS[name].compact):
        logs = kde_log_density(x, kernel=kernel, bandwidth=1.0)
        assert logs[2] == -math.inf
        assert bool(torch.isfinite(logs[:2]).all())
        assert mi.kde_entropy(x, kernel=kernel, bandwidth=1.0) == math.inf
        assert mi.kde_entropy(x, kernel=kernel, bandwidth=1e-3, reduction="plug_in") == math.inf
        plug_in = mi.kde_entropy(x, kernel=kernel, bandwidth=1.0, reduction="plug_in")
        (gradient,) = torch.autograd.grad(plug_in, x)
        assert bool(torch.isfinite(plug_in))
        assert bool(torch.isfinite(gradient).all())
        weights = torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)
        assert mi.kde_entropy(x, kernel=kernel, bandwidth=1.0, weights=weights) < math.inf


def test_a_weight_of_zero_leaves_its_point_out():
    x, q = torch.randn(6, 2, dtype=DOUBLE), torch.randn(3, 2, dtype=DOUBLE)
    raw = weights_for(6).requires_grad_()
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=DOUBLE)
    kept = mask > 0
    (gradient,) = torch.autograd.grad(kde_log_density(q, x, bandwidth=0.7, weights=mask * raw).sum(), raw)
    (alone,) = torch.autograd.grad(kde_log_density(q, x[kept], bandwidth=0.7, weights=raw[kept]).sum(), raw)
    torch.testing.assert_close(gradient, alone)


def test_half_types_and_layouts():
    x = torch.randn(40, 3)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = x.to(dtype)
        for h in (0.6, torch.full((3,), 0.6), 0.36 * torch.eye(3), torch.full((40, 1), 0.6)):
            got = kde_log_density(narrow, bandwidth=h)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, kde_log_density(narrow.float(), bandwidth=0.6), rtol=1e-4, atol=1e-4)
    turned = x.T.contiguous().T
    torch.testing.assert_close(kde_log_density(turned, bandwidth=torch.ones(3)), kde_log_density(x, bandwidth=1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mi.kde_entropy(x, bandwidth=0.36 * torch.eye(3))
    torch.testing.assert_close(got, mi.kde_entropy(x, bandwidth=0.6), rtol=1e-5, atol=1e-5)


SINGULAR = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"bandwidth": torch.zeros(3)}, ValueError, "bandwidth: want finite values > 0"),
        ({"bandwidth": torch.ones(4)}, ValueError, r"want a number, \[3\] for one per dimension"),
        ({"bandwidth": torch.ones(4, 1)}, ValueError, r"or \[5, 1\] for one per support point"),
        ({"bandwidth": torch.ones(5, 2)}, ValueError, "bandwidth: want a number"),
        ({"bandwidth": torch.diag(torch.tensor([1.0, 0.0, 0.0]))}, ValueError, r"got none in dimensions \[1, 2\]"),
        ({"bandwidth": SINGULAR}, ValueError, r"dimensions \[1\] follow linearly"),
        ({"bandwidth": -SINGULAR}, ValueError, "want a positive variance in every dimension"),
        ({"bandwidth": torch.ones(3, 3).triu()}, ValueError, "want a symmetric covariance"),
        ({"bandwidth": torch.full((3, 3), math.nan)}, ValueError, "bandwidth: want finite values"),
        ({"bandwidth": torch.ones(3, 3, dtype=torch.int64)}, TypeError, "bandwidth: want a floating-point tensor"),
        ({"bandwidth": [1.0]}, TypeError, "bandwidth: want a number, a tensor"),
        ({"bandwidth": lambda points: -1.0}, ValueError, "bandwidth: want a finite value > 0"),
        ({"bandwidth": lambda points: "loo"}, TypeError, "bandwidth: want a number"),
        ({"bandwidth": 1e-25}, ValueError, "inverse square .* a smaller one"),
        ({"bandwidth": 1e25}, ValueError, "inverse square .* a larger one"),
        ({"bandwidth": True}, TypeError, "bandwidth: want a number"),
        ({"weights": torch.ones(4)}, ValueError, r"weights: want one per support point \(5\)"),
        ({"weights": torch.ones(5, 1)}, ValueError, "weights: want 1 dimensions"),
        ({"weights": torch.tensor([1.0, 1, 1, 1, -1])}, ValueError, "weights: want values >= 0, got 1 negative"),
        ({"weights": torch.zeros(5)}, ValueError, "weights: want at least 2 positive to leave one out, got 0"),
        (
            {"weights": torch.tensor([1.0, 0, 0, 0, 0])},
            ValueError,
            "weights: want at least 2 positive to leave one out, got 1",
        ),
        ({"weights": torch.tensor([1.0, 1, 1, 1, math.nan])}, ValueError, "weights: want finite values"),
        ({"weights": [1.0] * 5}, TypeError, "weights: want a floating-point torch.Tensor"),
        ({"halves": torch.ones(5, dtype=torch.bool)}, ValueError, "halves: want None unless"),
        ({"halves": torch.ones(5, dtype=torch.bool), "reduction": "split"}, ValueError, "halves: want points on both"),
        ({"halves": torch.ones(4, dtype=torch.bool), "reduction": "split"}, ValueError, "halves: want one value per"),
        ({"halves": torch.ones(5), "reduction": "split"}, TypeError, "halves: want a torch.Tensor of bool"),
        ({"x": torch.randn(3, 3), "bandwidth": "loo", "reduction": "split"}, ValueError, "at least 2 points in each"),
        ({"x": torch.randn(1, 3), "reduction": "split"}, ValueError, "x: want at least 2 points to split"),
    ],
)
def test_bad_bandwidths_weights_and_halves_are_named(arguments, error, text):
    arguments = {"x": torch.randn(5, 3), "bandwidth": 1.0, **arguments}
    with pytest.raises(error, match=text):
        mi.kde_entropy(arguments.pop("x"), **arguments)


def test_bad_support_is_named():
    q = torch.randn(5, 3)
    with pytest.raises(ValueError, match="support: want the last dimension of query"):
        kde_log_density(q, torch.randn(4, 2), bandwidth=1.0)
    with pytest.raises(ValueError, match="support: want at least one element"):
        kde_log_density(q, q[:0], bandwidth=1.0)
    with pytest.raises(ValueError, match="support: want at least 2 points"):
        kde_log_density(q, q[:1], bandwidth="loo")
    with pytest.raises(ValueError, match="weights: want at least 1 positive"):
        kde_log_density(q, q[:2], bandwidth=1.0, weights=torch.zeros(2))


RULED = [(kernel, rule) for kernel in RULES for rule in RULES[kernel]]


@pytest.mark.parametrize(("kernel", "rule"), RULED)
def test_every_rule_gives_an_entropy_and_the_gradient_at_its_bandwidth(kernel, rule):
    x = points(kernel, 60, 2).requires_grad_()
    h = RULES[kernel][rule](x)
    by_name, by_value = (mi.kde_entropy(x, kernel=kernel, bandwidth=each) for each in (rule, h))
    assert by_name.item() == by_value.item()
    assert math.isfinite(by_name.item()) or KERNELS[kernel].compact
    gradients = [torch.autograd.grad(each, x)[0] for each in (by_name, by_value)]
    assert bool(torch.isfinite(gradients[0]).all())
    torch.testing.assert_close(*gradients)
    split = mi.kde_entropy(x, kernel=kernel, bandwidth=rule, reduction="split")
    assert split.item() > by_name.item() - 1 or KERNELS[kernel].compact


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "tophat"])  # its likelihood jumps
def test_at_the_likelihoods_optimum_the_bandwidth_needs_no_gradient(kernel):
    # Moving points and weights moves the best bandwidth too; to first order that does not change the entropy.
    x, w = points(kernel, 40, 2), weights_for(40)
    x, w = x.requires_grad_(), w.requires_grad_()
    entropy = mi.kde_entropy(x, kernel=kernel, weights=w)
    gradients = torch.autograd.grad(entropy, (x, w))
    move = torch.randn_like(x)
    if kernel == "vmf":
        move -= (move * x.detach()).sum(1, keepdim=True) * x.detach()
    moves = move, torch.randn_like(w)
    step = 1e-5

    def moved(sign):
        with torch.no_grad():
            there = x + sign * step * moves[0]
            there = F.normalize(there, dim=1) if kernel == "vmf" else there
            return mi.kde_entropy(there, kernel=kernel, weights=w + sign * step * moves[1]).item()

    slope = sum((gradient * direction).sum().item() for gradient, direction in zip(gradients, moves, strict=True))
    if math.isfinite(entropy.item()):
        assert (moved(1) - moved(-1)) / (2 * step) == pytest.approx(slope, rel=1e-2, abs=1e-3)


def test_a_state_sees_the_weights():
    x, w = torch.randn(50, 2, dtype=DOUBLE), torch.rand(50, dtype=DOUBLE)
    state = mi.entropy.BandwidthState("loo")
    got = mi.kde_entropy(x, bandwidth=state, weights=w)
    torch.testing.assert_close(got, mi.kde_entropy(x, bandwidth="loo", weights=w), rtol=1e-5, atol=1e-6)
    assert state.bandwidth.item() == pytest.approx(float(mi.select_bandwidth(x, "loo", weights=w)), rel=1e-3)


@pytest.mark.parametrize("rule", ["scott", "loo_diagonal", "loo", "isj"])
def test_constant_columns_are_named(rule):
    x = torch.cat([torch.randn(60, 1), torch.ones(60, 1), torch.randn(60, 1)], dim=1)
    with pytest.raises(ValueError, match="constant column 1"):
        mi.kde_entropy(x, bandwidth=rule)


@pytest.mark.parametrize("factor", [1e300, 1e-300])
@pytest.mark.parametrize("bandwidth", [0.7, "loo"])
def test_weights_count_up_to_a_factor_of_any_size(factor, bandwidth):
    x, w = torch.randn(30, 2), torch.rand(30, dtype=DOUBLE)
    got = mi.kde_entropy(x, weights=w * factor, bandwidth=bandwidth)
    torch.testing.assert_close(got, mi.kde_entropy(x, weights=w, bandwidth=bandwidth), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="weights: want a sum that float64 can hold"):
        mi.kde_entropy(x, weights=torch.full((30,), 1e308, dtype=DOUBLE), bandwidth=0.7)
