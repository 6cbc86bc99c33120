"""The ER bound: its options against formulas on whole matrices, its ceilings, and the loss module around it."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mi_estimators as mi
from mi_estimators.losses import EntropyReconstruction

DOUBLE = torch.float64


def views(n: int = 9, d: int = 4) -> tuple[Tensor, Tensor]:
    z1 = torch.randn(n, d, dtype=DOUBLE)
    return z1, z1 + 0.4 * torch.randn(n, d, dtype=DOUBLE)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


# ------------------------------------------------------------------------------------------------- whole matrices


def log_vmf(x: Tensor, mean: Tensor, kappa: Any) -> Tensor:
    """[N, M] by scipy's exponentially scaled Bessel function."""
    from scipy.special import ive

    d, kappa = x.shape[1], torch.as_tensor(kappa, dtype=DOUBLE)
    log_bessel = torch.as_tensor(ive(d / 2 - 1, kappa.detach().numpy())).log() + kappa.detach()
    return kappa * x @ mean.T + (d / 2 - 1) * kappa.log() - d / 2 * math.log(2 * math.pi) - log_bessel


def log_normal(x: Tensor, mean: Tensor, sigma: Any) -> Tensor:
    d, squares = x.shape[1], (x[:, None] - mean[None]).square().sum(-1)
    sigma = torch.as_tensor(sigma, dtype=DOUBLE)
    return -squares / (2 * sigma**2) - d / 2 * math.log(2 * math.pi) - d * sigma.log()


def dense_entropy(log_kernel: Tensor, leave_one_out: bool, reduction: str) -> Tensor:
    """From log k(z_i, s_j), the first columns being the points themselves."""
    n, m = log_kernel.shape
    kernels = log_kernel.exp()
    if leave_one_out:
        kernels = kernels * (1 - torch.eye(n, m, dtype=DOUBLE))
    density = kernels.sum(1) / (m - leave_one_out)
    weights = 1 / n if reduction == "joe" else density / density.sum()
    return -(weights * density.log()).sum()


def dense_bound(z1: Tensor, z2: Tensor, o: dict[str, Any]) -> tuple[Tensor, Tensor]:
    log_density = log_vmf if o["support"] == "sphere" else log_normal
    prediction = z1 if o.get("prediction") is None else o["prediction"]
    queue = [o["queue"]] if o.get("queue") is not None else []
    if o["support"] == "sphere":
        z1, z2, prediction = (F.normalize(z, dim=1) for z in (z1, z2, prediction))
        queue = [F.normalize(z, dim=1) for z in queue]
    target = z2.detach() if o.get("stop_gradient") else z2
    q = o.get("reconstruction_bandwidth") or o["bandwidth"]
    reconstruction = log_density(target, prediction, q).diagonal().mean()
    entropies = [
        dense_entropy(
            log_density(z, torch.cat([z, *queue]), o["bandwidth"]),
            o.get("leave_one_out", True),
            o.get("reduction", "joe"),
        )
        for z, name in ((z1, "first"), (z2, "second"))
        if o.get("entropy_of", "second") in (name, "both")
    ]
    return sum(entropies) / len(entropies), reconstruction


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two bandwidths": {"reconstruction_bandwidth": 1.3},
    "self term": {"leave_one_out": False},
    "plug-in": {"reduction": "plug_in"},
    "first": {"entropy_of": "first"},
    "both": {"entropy_of": "both", "leave_one_out": False},
    "queue": {"queue": True},
    "queue, self term, plug-in": {"queue": True, "leave_one_out": False, "reduction": "plug_in"},
    "stop": {"stop_gradient": True},
    "prediction": {"prediction": True, "stop_gradient": True, "entropy_of": "first", "queue": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("support", ["sphere", "euclidean"])
def test_it_is_the_formula(support, name):
    options = {"support": support, "bandwidth": 2.5 if support == "sphere" else 0.7} | OPTIONS[name]
    z1, z2 = leaves(*views())
    predictor = nn.Linear(4, 4).double()
    inputs = [z1, z2]
    if "queue" in options:
        options["queue"] = torch.randn(5, 4, dtype=DOUBLE)
    if "prediction" in options:
        options["prediction"] = predictor(z1)
        inputs += predictor.parameters()
    bound = mi.er_bound(z1, z2, **options)
    entropy, reconstruction = dense_bound(z1, z2, options)
    torch.testing.assert_close(bound.entropy, entropy)
    torch.testing.assert_close(bound.reconstruction, reconstruction)
    torch.testing.assert_close(bound.value, entropy + reconstruction)
    assert bound.ceiling == pytest.approx(math.log(14 if "queue" in options else 9))
    ours, theirs = (
        torch.autograd.grad((h + 2 * r).sin(), inputs, allow_unused=True, materialize_grads=True, retain_graph=True)
        for h, r in ((bound.entropy, bound.reconstruction), (entropy, reconstruction))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("entropy_of", ["second", "first", "both"])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("with_queue", [False, True])
def test_discrete_is_the_formula(entropy_of, logits, with_queue):
    raw1, raw2 = leaves(*views(9, 5))
    p1, p2 = raw1.softmax(1), raw2.softmax(1)
    queue = torch.randn(6, 5, dtype=DOUBLE).softmax(1) if with_queue else None
    options: dict[str, Any] = {"support": "discrete", "entropy_of": entropy_of, "queue": queue, "logits": logits}
    bound = mi.er_bound(*((raw1, raw2) if logits else (p1, p2)), stop_gradient=True, **options)
    entropies = []
    for p in {"first": [p1], "second": [p2], "both": [p1, p2]}[entropy_of]:
        mean = (p if queue is None else torch.cat([p, queue])).mean(0)
        entropies.append(-(mean * mean.log()).sum())
    entropy, reconstruction = sum(entropies) / len(entropies), (p2.detach() * p1.log()).sum(1).mean()
    torch.testing.assert_close(bound.entropy, entropy)
    torch.testing.assert_close(bound.reconstruction, reconstruction)
    ours, theirs = (
        torch.autograd.grad(value.sin(), [raw1, raw2], allow_unused=True, materialize_grads=True, retain_graph=True)
        for value in (bound.value, entropy + reconstruction)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_logits_keep_the_gradient_of_impossible_classes():
    student = torch.tensor([[0.0, 500.0], [500.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    bound = mi.er_bound(student, teacher, support="discrete", logits=True)
    assert bound.reconstruction.item() == pytest.approx(-250)
    (gradient,) = torch.autograd.grad(bound.reconstruction, student)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5], [0.0, 0.0]]))


@pytest.mark.parametrize("support", ["sphere", "euclidean"])
def test_bandwidths_of_every_form(support):
    z1, z2 = views(12, 3)
    queue = torch.randn(4, 3, dtype=DOUBLE)
    kernel = {"sphere": "vmf", "euclidean": "gaussian"}[support]
    points = torch.cat([z2, queue])
    if support == "sphere":
        points = F.normalize(points, dim=1)
    seen = []

    def chosen(x: Tensor) -> float:
        seen.append(x)
        return 1.7

    got = mi.er_bound(z1, z2, support=support, bandwidth=chosen, queue=queue)
    torch.testing.assert_close(seen[0], points)  # all that the entropy is estimated from
    assert not seen[0].requires_grad
    want = mi.er_bound(z1, z2, support=support, bandwidth=1.7, queue=queue)
    torch.testing.assert_close(got.entropy, want.entropy)
    # A bandwidth for each point: a sum of kernels, one by one.
    each = torch.linspace(0.5, 2, 16, dtype=DOUBLE)[:, None]
    log_density = log_vmf if support == "sphere" else log_normal
    columns = [log_density(points[:12], points[j : j + 1], each[j]) for j in range(16)]
    for leave_one_out in (True, False):
        bound = mi.er_bound(z1, z2, support=support, bandwidth=each, queue=queue, leave_one_out=leave_one_out)
        torch.testing.assert_close(bound.entropy, dense_entropy(torch.cat(columns, 1), leave_one_out, "joe"))
    rule = mi.er_bound(z1, z2, support=support)
    x = F.normalize(z2, dim=1) if support == "sphere" else z2
    torch.testing.assert_close(rule.entropy, mi.kde_entropy(x, kernel=kernel), rtol=1e-6, atol=1e-6)


def neighbours(z: Tensor, scale: float) -> Tensor:
    """Mean squared distance of what a kernel e^(-scale d^2) takes for neighbours."""
    squares = (z[:, None] - z).square().sum(-1)
    others = (-scale * squares).masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
    return (others.softmax(1) * squares).sum(1).mean()


@pytest.mark.parametrize("support", ["sphere", "euclidean"])
@pytest.mark.parametrize("entropy_of", ["second", "both"])
def test_a_shared_bandwidth_is_that_of_both_terms(support, entropy_of):
    z1, z2 = (F.normalize(z, dim=1) for z in views(12, 4))
    z1, z2 = leaves(z1, F.normalize(z1 + 0.01 * z2, dim=1))  # close pairs: the rule's choice stands
    options: dict[str, Any] = {"support": support, "entropy_of": entropy_of}
    kernel = "vmf" if support == "sphere" else "gaussian"
    widths = [mi.select_bandwidth(z, kernel=kernel) for z in ([z2] if entropy_of == "second" else [z1, z2])]
    bound = mi.er_bound(z1, z2, reconstruction_bandwidth="shared", **options)
    width = math.exp(sum(map(math.log, widths)) / len(widths))
    assert bound.q_bandwidth == pytest.approx(width, rel=1e-9)
    apart = mi.er_bound(z1, z2, bandwidth="loo", reconstruction_bandwidth=width, **options)
    torch.testing.assert_close(bound.value, apart.value)
    for ours, theirs in zip(*(torch.autograd.grad(b.value, [z1, z2]) for b in (bound, apart)), strict=True):
        torch.testing.assert_close(ours, theirs)
    given = mi.er_bound(z1, z2, bandwidth=0.7, reconstruction_bandwidth="shared", leave_one_out=False, **options)
    assert given.value.item() == mi.er_bound(z1, z2, bandwidth=0.7, leave_one_out=False, **options).value.item()
    assert given.cap is not None


@pytest.mark.parametrize("support", ["sphere", "euclidean"])
def test_a_shared_bandwidth_is_no_narrower_than_pairs_allow(support):
    z1, noise = torch.randn(2, 12, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    z1 = F.normalize(z1, dim=1)
    z2 = F.normalize(z1 + 0.6 * noise, dim=1)
    chosen = 100.0 if support == "sphere" else 0.1  # what the nearest of them would want
    bound = mi.er_bound(z1, z2, support=support, bandwidth=lambda z: chosen, reconstruction_bandwidth="shared")
    width = bound.q_bandwidth
    scale = 0.5 * width if support == "sphere" else 0.5 / width**2
    assert scale < (0.5 * chosen if support == "sphere" else 0.5 / chosen**2)
    of_pairs = (z1 - z2).square().sum(1).mean()
    torch.testing.assert_close(neighbours(z2, scale), of_pairs, rtol=1e-6, atol=0)
    # There the bound is largest over the bandwidths that both terms may have: its whole derivative is the partial one.
    free = torch.tensor(width, dtype=DOUBLE, requires_grad=True)
    value = mi.er_bound(z1, z2, support=support, bandwidth=free).value
    (slope,) = torch.autograd.grad(value, free)
    assert abs(slope.item()) * width <= 1e-6
    torch.testing.assert_close(bound.value, value.detach())
    for factor in (0.7, 1.4):
        assert mi.er_bound(z1, z2, support=support, bandwidth=factor * width).value < value


def test_the_whole_gradient_at_a_bandwidth_that_pairs_decide():
    z1, noise = torch.randn(2, 6, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    inputs = leaves(z1, z1 + 0.8 * noise)

    def value(a: Tensor, b: Tensor) -> Tensor:
        return mi.er_bound(a, b, bandwidth=lambda z: 1e3, reconstruction_bandwidth="shared").value

    assert torch.autograd.gradcheck(value, inputs, atol=1e-6)


def test_other_kernels_and_the_width_of_q():
    z1, z2 = views(30, 2)
    bound = mi.er_bound(z1, z2, support="euclidean", kernel="laplace", bandwidth=0.6)
    torch.testing.assert_close(bound.entropy, mi.kde_entropy(z2, kernel="laplace", bandwidth=0.6))
    # q is normal all the same, and of maximum likelihood: a Laplace width is no standard deviation.
    sigma = ((z1 - z2).square().sum() / 60).sqrt()
    torch.testing.assert_close(bound.reconstruction, log_normal(z2, z1, sigma).diagonal().mean())


def test_points_that_no_compact_kernel_reaches():
    z1, z2 = leaves(torch.tensor([[0.0], [0.1], [9.0]]), torch.tensor([[0.0], [0.1], [9.0]]))
    queue = torch.tensor([[0.3], [7.0]])
    bound = mi.er_bound(z1, z2, support="euclidean", kernel="epanechnikov", bandwidth=0.5, queue=queue)
    assert bound.entropy.item() == math.inf
    (gradient,) = torch.autograd.grad(bound.entropy, z2)
    assert torch.isfinite(gradient).all()
    assert gradient[2].item() == 0
    assert gradient[0].item() != 0


@pytest.mark.parametrize("support", ["sphere", "euclidean"])
def test_learned_bandwidths_have_their_gradient(support):
    z1, z2 = leaves(*views(4, 2))
    width = torch.tensor(1.4, dtype=DOUBLE, requires_grad=True)

    def value(z1: Tensor, z2: Tensor, width: Tensor) -> Tensor:
        options = {"support": support, "entropy_of": "first", "queue": torch.ones(1, 2, dtype=DOUBLE)}
        apart = mi.er_bound(z1, z2, bandwidth=1.1, reconstruction_bandwidth=width, **options)
        return apart.value + mi.er_bound(z1, z2, bandwidth=width, leave_one_out=False, **options).value.sin()

    assert torch.autograd.gradcheck(value, (z1, z2, width))


# ------------------------------------------------------------------------------------------------------- ceilings


@settings(max_examples=60, deadline=None)
@given(
    support=st.sampled_from(["sphere", "euclidean"]),
    n=st.integers(2, 9),
    log_width=st.floats(-3, 3),
    log_q=st.one_of(st.none(), st.floats(-3, 3)),
    reduction=st.sampled_from(["joe", "plug_in"]),
    entropy_of=st.sampled_from(["second", "first", "both"]),
    noise=st.sampled_from([0.0, 0.1, 3.0]),
    queue=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_no_points_exceed_the_cap(support, n, log_width, log_q, reduction, entropy_of, noise, queue, seed):
    generator = torch.Generator().manual_seed(seed)
    z1, past = (torch.randn(m, 3, dtype=DOUBLE, generator=generator) for m in (n, queue))
    z2 = z1 + noise * torch.randn(n, 3, dtype=DOUBLE, generator=generator)
    bound = mi.er_bound(
        z1,
        z2,
        support=support,
        bandwidth=math.exp(log_width),
        reconstruction_bandwidth=None if log_q is None else math.exp(log_q),
        entropy_of=entropy_of,
        queue=past if queue else None,
        leave_one_out=False,
        reduction=reduction,
    )
    assert bound.cap is not None
    assert bound.value.item() <= bound.cap + 1e-9
    if log_q is None:
        assert bound.cap == bound.ceiling == math.log(n + queue)


def test_the_cap_is_reached_by_points_that_see_no_others():
    z = 100 * torch.eye(6, dtype=DOUBLE)
    for support, width in (("sphere", 100.0), ("euclidean", 0.5)):
        shared = mi.er_bound(z, z, support=support, bandwidth=width, leave_one_out=False)
        assert shared.value.item() == pytest.approx(shared.cap) == pytest.approx(math.log(6))
        apart = mi.er_bound(
            z, z, support=support, bandwidth=width, reconstruction_bandwidth=2 * width, leave_one_out=False
        )
        assert apart.value.item() == pytest.approx(apart.cap)
        assert apart.cap != apart.ceiling


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 8), classes=st.integers(2, 8), sharp=st.floats(0.1, 20), seed=st.integers(0, 1000))
def test_no_distributions_exceed_the_discrete_cap(n, classes, sharp, seed):
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = (sharp * torch.randn(n, classes, dtype=DOUBLE, generator=generator) for _ in range(2))
    for pair in ((z1, z2), (z2, z2)):
        bound = mi.er_bound(*pair, support="discrete", logits=True)
        assert bound.cap == math.log(min(n, classes))
        assert bound.value.item() <= bound.cap + 1e-12
    other = mi.er_bound(z1, z2, support="discrete", logits=True, entropy_of="first")
    assert other.value.item() <= other.cap == math.log(classes)


def test_estimates_at_the_ceiling_are_called_saturated():
    z = torch.randn(64, 16, dtype=DOUBLE)
    for leave_one_out in (True, False):
        narrow, wide = (mi.er_bound(z, z, bandwidth=k, leave_one_out=leave_one_out) for k in (200.0, 2.0))
        assert narrow.saturated
        assert not wide.saturated
    # Only the entropy sits there: nothing is reconstructed.
    unpaired = mi.er_bound(z, z.roll(1, 0), bandwidth=200.0, leave_one_out=False)
    assert unpaired.value < 0
    assert unpaired.saturated
    one_hot = torch.eye(8, dtype=DOUBLE)
    assert mi.er_bound(one_hot, one_hot, support="discrete").saturated
    assert not mi.er_bound(one_hot, 0.5 * one_hot + 0.0625, support="discrete").saturated


# --------------------------------------------------------------------------------------------------------- module


def test_it_warns_once():
    z = torch.randn(32, 16)
    loss = EntropyReconstruction(bandwidth=200.0)
    with pytest.warns(UserWarning, match=r"sits at or beyond its ceiling of 3\.47 nats") as record:
        loss(z, z)
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(z, z)
        EntropyReconstruction(bandwidth=2.0)(z, z)
    with pytest.warns(UserWarning, match="ceiling"):
        EntropyReconstruction(bandwidth=200.0)(z, z)


def test_the_last_terms_are_kept_for_a_log():
    z1, z2 = leaves(*views())
    loss = EntropyReconstruction(bandwidth=2.0, symmetric=False)
    assert loss.last is None
    value = loss(z1, z2)
    bound = mi.er_bound(z1, z2, bandwidth=2.0)
    torch.testing.assert_close(loss.last.value, -value.detach())
    torch.testing.assert_close(loss.last.entropy, bound.entropy.detach())
    assert not loss.last.reconstruction.requires_grad
    assert "last" not in loss.state_dict()
    copy.deepcopy(loss)


def test_options_reach_the_bound():
    z1, z2 = leaves(*views())
    predictor = nn.Linear(4, 4).double()
    options = {"support": "euclidean", "bandwidth": 0.8, "entropy_of": "first", "stop_gradient": True}
    options |= {"leave_one_out": False, "reduction": "plug_in", "reconstruction_bandwidth": 0.5}
    got = EntropyReconstruction(predictor=predictor, symmetric=False, **options)(z1, z2)
    want = mi.er_bound(z1, z2, prediction=predictor(z1), **options).value
    torch.testing.assert_close(got, -want)
    both = EntropyReconstruction(predictor=predictor, **options)(z1, z2)
    back = mi.er_bound(z2, z1, prediction=predictor(z2), **options).value
    torch.testing.assert_close(both, -(want + back) / 2)
    assert len(list(EntropyReconstruction(predictor=predictor).parameters())) == 2
    logits = EntropyReconstruction("discrete", logits=True, symmetric=False)(z1, z2)
    torch.testing.assert_close(logits, -mi.er_bound(z1.softmax(1), z2.softmax(1), support="discrete").value)
    unit = [F.normalize(z, dim=1) for z in (z1, z2)]
    apple = EntropyReconstruction(normalizer="apple", normalize=False, symmetric=False)(*unit)
    torch.testing.assert_close(apple, -mi.er_bound(z1, z2, bandwidth=10.0, normalizer="apple").value)


def test_a_queue_holds_past_points_without_a_gradient():
    loss = EntropyReconstruction(bandwidth=3.0, symmetric=False, queue=10).double()
    past = torch.zeros(0, 4, dtype=DOUBLE)
    for step in range(5):
        z1, z2 = leaves(*views(4))
        value = loss(z1, z2)
        want = mi.er_bound(z1, z2, bandwidth=3.0, queue=past if step else None)
        torch.testing.assert_close(value, -want.value)
        assert loss.last.ceiling == pytest.approx(math.log(4 + min(4 * step, 10)))
        for a, b in zip(torch.autograd.grad(value, [z1, z2]), torch.autograd.grad(-want.value, [z1, z2]), strict=True):
            torch.testing.assert_close(a, b)
        past = torch.cat([past, F.normalize(z2.detach(), dim=1)])[-10:]
    held = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        loss(z1, z2)
    loss.eval()(z1, z2)
    assert all(torch.equal(a, b) for a, b in zip(loss.state_dict().values(), held.values(), strict=True))
    fresh = EntropyReconstruction(bandwidth=3.0, symmetric=False, queue=10).eval()
    fresh.load_state_dict(held)
    torch.testing.assert_close(fresh(z1, z2), loss(z1, z2), rtol=1e-5, atol=1e-5)  # its buffers are float32


def test_both_directions_have_their_own_queue():
    loss = EntropyReconstruction(bandwidth=3.0, queue=(6, 4)).double()
    first, second = views(5)
    loss(*leaves(first, second))
    z1, z2 = leaves(*views(5))
    there = mi.er_bound(z1, z2, bandwidth=3.0, queue=second).value
    back = mi.er_bound(z2, z1, bandwidth=3.0, queue=first).value
    torch.testing.assert_close(loss(z1, z2), -(there + back) / 2)
    discrete = EntropyReconstruction("discrete", logits=True, entropy_of="first", symmetric=False, queue=8).double()
    discrete(*leaves(first, second))
    torch.testing.assert_close(discrete.past_first.entries[:5], first.softmax(1))
    assert discrete.past_second is None


def test_a_learned_bandwidth_fits_the_pairs():
    loss = EntropyReconstruction("euclidean", bandwidth=1.0, learnable_bandwidth=True, symmetric=False).double()
    assert [name for name, _ in loss.named_parameters()] == ["log_bandwidth"]
    z1 = torch.randn(60, 2, dtype=DOUBLE)
    z2 = z1 + 0.3 * torch.randn(60, 2, dtype=DOUBLE)
    optimizer = torch.optim.LBFGS(loss.parameters(), line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(z1, z2)
        value.backward()
        return value

    optimizer.step(closure)
    sigma = ((z1 - z2).square().sum() / 120).sqrt().item()
    assert loss.log_bandwidth.exp().item() == pytest.approx(sigma, rel=1e-4)
    # The entropy's stays where it was.
    torch.testing.assert_close(loss.last.entropy, mi.kde_entropy(z2, bandwidth=1.0))


def test_a_teacher_gets_no_gradient_and_the_student_spreads():
    z1, z2 = leaves(*views())
    loss = EntropyReconstruction(bandwidth=5.0, entropy_of="first", stop_gradient=True, symmetric=False)
    first, second = torch.autograd.grad(loss(z1, z2), [z1, z2], allow_unused=True)
    assert first.abs().max() > 0
    assert second is None or second.abs().max() == 0


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: mi.er_bound(x, x, entropy_of="z2"), ValueError, "entropy_of: want one of"),
        (lambda x: mi.er_bound(x, x, reduction="split"), ValueError, "reduction: want one of"),
        (lambda x: mi.er_bound(x, x, kernel="laplace"), ValueError, "kernel: want one of"),
        (lambda x: mi.er_bound(x, x, support="euclidean", kernel="vmf"), ValueError, "kernel: want one of"),
        (lambda x: mi.er_bound(x, x, support="discrete", kernel="vmf"), ValueError, "kernel: want None"),
        (lambda x: mi.er_bound(x, x, logits=True), ValueError, "logits: want support 'discrete'"),
        (lambda x: mi.er_bound(x, x, bandwidth="fd"), ValueError, "bandwidth: want one of"),
        (lambda x: mi.er_bound(x, x, reconstruction_bandwidth="loo"), ValueError, "reconstruction_bandwidth: want one"),
        (
            lambda x: mi.er_bound(x, x, bandwidth="knn", reconstruction_bandwidth="shared"),
            ValueError,
            "reconstruction_bandwidth: want .* rule 'knn'",
        ),
        (
            lambda x: mi.er_bound(x, x, bandwidth=lambda z: torch.ones(3, 1), reconstruction_bandwidth="shared"),
            ValueError,
            "reconstruction_bandwidth: want a bandwidth of one number to share",
        ),
        (
            lambda x: mi.er_bound(x, x, support="euclidean", kernel="laplace", reconstruction_bandwidth="shared"),
            ValueError,
            "reconstruction_bandwidth: want .* kernel 'laplace'",
        ),
        (lambda x: mi.er_bound(x, x, bandwidth=[1.0]), TypeError, "bandwidth: want a number or a tensor"),
        (lambda x: mi.er_bound(x, x, prediction=x[:2]), ValueError, "prediction: want the shape of z1"),
        (lambda x: mi.er_bound(x, x, prediction=x * math.nan), ValueError, "prediction: want finite values"),
        (lambda x: mi.er_bound(x, x, queue=x[:, :2]), ValueError, "queue: want the width of the views"),
        (lambda x: mi.er_bound(x, x, queue=(x, x, x)), ValueError, "queue: want a tensor or a pair"),
        (lambda x: mi.er_bound(x, x, queue=x[:0]), ValueError, "queue: want at least one element"),
        (lambda x: EntropyReconstruction(entropy_of="third"), ValueError, "entropy_of: want one of"),
        (lambda x: EntropyReconstruction(queue=-1), ValueError, "queue: want an integer >= 0"),
        (lambda x: EntropyReconstruction(predictor=F.relu), TypeError, r"predictor: want an nn\.Module"),
        (lambda x: EntropyReconstruction(reconstruction_weight=math.nan), ValueError, "reconstruction_weight: want"),
        (lambda x: EntropyReconstruction(bandwidth="loo", learnable_bandwidth=True), TypeError, "learnable_bandwidth"),
        (lambda x: EntropyReconstruction("discrete", learnable_bandwidth=True), TypeError, "learnable_bandwidth"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.randn(6, 3))


def test_a_covariance_of_one_dimension_is_no_width_of_q():
    z1 = torch.randn(20, 1)
    z2 = z1 + 0.3 * torch.randn(20, 1)
    squared = torch.tensor([[0.25]])
    bound = mi.er_bound(z1, z2, support="euclidean", bandwidth=squared)
    torch.testing.assert_close(bound.q_bandwidth.float(), (z1 - z2).square().mean().sqrt())
    torch.testing.assert_close(bound.entropy, mi.kde_entropy(z2, bandwidth=0.5))
    with pytest.raises(ValueError, match="reconstruction_bandwidth: want a bandwidth of one number to share"):
        mi.er_bound(z1, z2, support="euclidean", bandwidth=squared, reconstruction_bandwidth="shared")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"entropy_weight": "1"}, TypeError, "entropy_weight: want a number"),
        ({"reconstruction_weight": None}, TypeError, "reconstruction_weight: want a number"),
        ({"normalizer": "exakt"}, ValueError, "normalizer: want one of"),
        ({"normalizer": "apple", "support": "euclidean"}, ValueError, "normalizer: 'apple' belongs to"),
        ({"normalizer": "apple", "support": "discrete"}, ValueError, "normalizer: 'apple' belongs to"),
    ],
)
def test_settings_are_refused_before_a_batch(settings, error, text):
    with pytest.raises(error, match=text):
        EntropyReconstruction(**settings)


def test_rows_of_zeros_are_named():
    z = torch.randn(6, 3)
    dead = z.clone()
    dead[2] = 0
    for views, name in (((dead, z), "z1"), ((z, dead), "z2")):
        with pytest.raises(ValueError, match=f"{name}: .* got 1 of zeros, which have no direction"):
            mi.er_bound(*views)


@pytest.mark.filterwarnings("ignore:the ER estimate:UserWarning")
def test_the_default_bandwidth_suits_the_scale_of_the_points():
    z1 = torch.randn(200, 3, dtype=torch.float64)
    z2 = z1 + 0.3 * torch.randn_like(z1)
    loss = EntropyReconstruction("euclidean")
    values = [-loss(scale * z1, scale * z2).item() for scale in (0.01, 1.0, 100.0)]
    assert values == pytest.approx([values[1]] * 3, rel=1e-6)
    assert values[1] == pytest.approx(1.5 * math.log(1 + 1 / 0.09), abs=0.5)
    assert EntropyReconstruction().bandwidth == 10.0
