from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pairwise import LargestTensor
from torch import Tensor

import mi_estimators as mi
from mi_estimators import _extension

DOUBLE = torch.float64


def views(n: int = 20, d: int = 6, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    z = torch.randn(n, d, dtype=DOUBLE)
    return z, z + noise * torch.randn(n, d, dtype=DOUBLE)


# ------------------------------------------------------------------------------------------------------ references


def anchor_loss(positive: Tensor, negatives: Tensor, smoothing: float, decoupled: bool, beta: float) -> Tensor:
    """The loss of one anchor from its scores, as the papers write it."""
    if not len(negatives):
        return 0 * positive
    if smoothing:
        return F.cross_entropy(
            torch.cat([positive[None], negatives])[None], torch.zeros(1, dtype=torch.long), label_smoothing=smoothing
        )
    reweighted = len(negatives) * F.softmax(beta * negatives, dim=0) * negatives.exp()
    if decoupled:
        return reweighted.sum().log() - positive
    return -(positive.exp() / (positive.exp() + reweighted.sum())).log()


def dense_pairs(
    x: Tensor,
    y: Tensor,
    *,
    both: bool,
    temperature: float | Tensor,
    symmetric: bool = True,
    normalize: bool = True,
    reduction: str = "mean",
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    decoupled: bool = False,
    hard_negative_beta: float = 0.0,
    groups: Tensor | None = None,
    negatives: Any = None,
    in_batch_negatives: bool = True,
) -> Tensor:
    """InfoNCE, or NT-Xent if ``both``, anchor by anchor with every score written out."""
    banks = negatives if isinstance(negatives, tuple) else (negatives, negatives)
    if normalize:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        banks = tuple(None if bank is None else F.normalize(bank, dim=1) for bank in banks)
    ids = list(range(len(x))) if groups is None else groups.tolist()
    sides = []
    for anchors, others, bank in ((x, y, banks[0]), (y, x, banks[1]))[: 2 if symmetric or both else 1]:
        losses = []
        for i, anchor in enumerate(anchors):
            kept = [j for j in range(len(x)) if j != i and ids[j] != ids[i]] if in_batch_negatives else []
            candidates = [others[j] for j in kept] + ([anchors[j] for j in kept] if both else [])
            candidates += [] if bank is None else list(bank)
            scores = [anchor.dot(candidate) / temperature for candidate in candidates]
            negative_scores = torch.stack(scores) if scores else anchor.new_zeros(0)
            positive = anchor.dot(others[i]) / temperature
            losses.append(anchor_loss(positive, negative_scores, label_smoothing, decoupled, hard_negative_beta))
        sides.append(torch.stack(losses))
    values = torch.cat(sides) if both else torch.stack(sides).mean(dim=0)
    w = torch.ones(len(x), dtype=values.dtype) if weights is None else weights
    w = torch.cat([w, w]) if both else w
    return {"none": w * values, "sum": (w * values).sum(), "mean": (w * values).sum() / w.sum()}[reduction]


def dense_info_nce(x: Tensor, y: Tensor, temperature: float | Tensor, symmetric: bool, normalize: bool) -> Tensor:
    """InfoNCE as torch users write it."""
    if normalize:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    logits, target = x @ y.T / temperature, torch.arange(len(x))
    there = F.cross_entropy(logits, target, reduction="none")
    return 0.5 * (there + F.cross_entropy(logits.T, target, reduction="none")) if symmetric else there


def dense_nt_xent(z1: Tensor, z2: Tensor, temperature: float | Tensor, normalize: bool) -> Tensor:
    """NT-Xent as torch users write it."""
    z = torch.cat([z1, z2])
    z = F.normalize(z, dim=1) if normalize else z
    n = len(z1)
    logits = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n), reduction="none")


def dense_sup_con(
    z: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor,
    normalize: bool = True,
    reduction: str = "mean",
    decoupled: bool = False,
) -> Tensor:
    """L_out of Khosla et al., anchor by anchor and positive by positive."""
    z = F.normalize(z, dim=1) if normalize else z
    losses, counted = [], 0
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        left_out = [*positives, i] if decoupled else [i]
        denominator = sum((z[i].dot(z[a]) / temperature).exp() for a in range(len(z)) if a not in left_out)
        terms = [torch.log(denominator) - z[i].dot(z[p]) / temperature for p in positives]
        losses.append(torch.stack(terms).mean() if terms else 0 * z[i].sum())
        counted += bool(positives)
    values = torch.stack(losses)
    return {"none": values, "sum": values.sum(), "mean": values.sum() / counted}[reduction]


def assert_same(
    ours: Callable[..., Tensor], truth: Callable[..., Tensor], leaves: list[Tensor], rtol: float = 1e-9
) -> None:
    """Values and gradients by every leaf, the loss not being the last layer."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    got, want = ours(*leaves), truth(*leaves)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-12)
    weight = torch.randn(got.shape, dtype=got.dtype)
    ours_grads = torch.autograd.grad((got * weight).sum(), leaves)
    true_grads = torch.autograd.grad((want * weight).sum(), leaves, materialize_grads=True)
    for a, b in zip(ours_grads, true_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-11)


# ------------------------------------------------------------------------------------------- InfoNCE and NT-Xent


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_info_nce_is_cross_entropy_over_the_batch(symmetric, normalize, reduction):
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda losses: losses}[reduction]
    assert_same(
        lambda x, y, t: mi.info_nce(x, y, temperature=t, symmetric=symmetric, normalize=normalize, reduction=reduction),
        lambda x, y, t: reduce(dense_info_nce(x, y, t, symmetric, normalize)),
        [*views(), torch.tensor(0.3, dtype=DOUBLE)],
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nt_xent_is_cross_entropy_without_the_diagonal(normalize, reduction):
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda losses: losses}[reduction]
    assert_same(
        lambda x, y, t: mi.nt_xent(x, y, temperature=t, normalize=normalize, reduction=reduction),
        lambda x, y, t: reduce(dense_nt_xent(x, y, t, normalize)),
        [*views(), torch.tensor(0.3, dtype=DOUBLE)],
    )


SPECIFICATIONS = st.fixed_dictionaries(
    {
        "n": st.sampled_from([1, 2, 3, 17]),
        "d": st.sampled_from([1, 2, 5]),
        "seed": st.integers(0, 10_000),
        "temperature": st.sampled_from([0.2, 1.0]),
        "candidates": st.sampled_from(["other", "other, symmetric", "both"]),
        "normalize": st.booleans(),
        "reduction": st.sampled_from(["mean", "sum", "none"]),
        "groups": st.booleans(),
        "weights": st.booleans(),
        "negatives": st.sampled_from(["batch", "further", "further alone"]),
        "kind": st.sampled_from(["plain", "smoothed", "all smoothed", "decoupled", "hard", "harder", "decoupled hard"]),
    }
)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "all smoothed": {"label_smoothing": 1.0},
    "decoupled": {"decoupled": True},
    "hard": {"hard_negative_beta": 0.5},
    "harder": {"hard_negative_beta": 2.0},
    "decoupled hard": {"decoupled": True, "hard_negative_beta": 0.7},
}


@settings(max_examples=300, deadline=None)
@given(spec=SPECIFICATIONS)
def test_every_combination_of_options_against_all_scores_written_out(spec):
    n, d, both = spec["n"], spec["d"], spec["candidates"] == "both"
    generator = torch.Generator().manual_seed(spec["seed"])

    def points(rows: int) -> Tensor:  # no tiny norms, by which normalising divides the gradient and its rounding
        directions = F.normalize(torch.randn(rows, d, generator=generator, dtype=DOUBLE), dim=1)
        return directions * (0.5 + 2 * torch.rand(rows, 1, generator=generator, dtype=DOUBLE))

    options = {"normalize": spec["normalize"], "reduction": spec["reduction"], **KINDS[spec["kind"]]}
    if not both:
        options["symmetric"] = spec["candidates"] == "other, symmetric"
    if spec["weights"]:
        options["weights"] = torch.rand(n, generator=generator, dtype=DOUBLE) + 0.1
        options["weights"][1:] *= torch.rand(n - 1, generator=generator) > 0.3  # some of them 0
    banks = points(4), points(1)
    if spec["negatives"] != "batch":
        options["negatives"] = banks if options.get("symmetric") else banks[0]
    if spec["negatives"] == "further alone" and not both:
        options["in_batch_negatives"] = False
    elif spec["groups"]:
        options["groups"] = torch.randint(-2, 3, (n,), generator=generator)
    alone = n == 1 or ("groups" in options and len(options["groups"].unique()) == 1)
    assume(not (options.get("decoupled") and alone and "negatives" not in options))
    function = mi.nt_xent if both else mi.info_nce
    assert_same(
        lambda x, y, t: function(x, y, temperature=t, **options),
        lambda x, y, t: dense_pairs(x, y, both=both, temperature=t, **options),
        [points(n), points(n), torch.tensor(spec["temperature"], dtype=DOUBLE)],
        rtol=1e-8,
    )


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "info_nce": mi.info_nce,
    "nt_xent": mi.nt_xent,
    "sup_con": lambda x, y, **options: mi.sup_con(torch.cat([x, y]), torch.arange(2 * len(x)) % 3, **options),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "none": {"reduction": "none"},
    "decoupled": {"decoupled": True},
    "smoothed": {"label_smoothing": 0.1},
    "hard": {"hard_negative_beta": 0.5},
    "weights": {"weights": torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0], dtype=DOUBLE)},
    "groups": {"groups": torch.tensor([5, 1, 5, -3, 1, 0])},
    "groups smoothed": {"groups": torch.tensor([5, 1, 5, -3, 1, 0]), "label_smoothing": 0.2},
    "groups hard": {"groups": torch.tensor([5, 1, 5, -3, 1, 0]), "hard_negative_beta": 1.0},
    "negatives": {"negatives": torch.randn(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))},
}
SUPERVISED = ("plain", "none", "decoupled")  # the options that sup_con has
EVERYTHING = [(f, o) for f in FUNCTIONS for o in OPTIONS if f != "sup_con" or o in SUPERVISED]


def call(function: str, options: dict[str, Any]) -> Callable[[Tensor, Tensor, float | Tensor], Tensor]:
    if function == "info_nce" and "negatives" in options:
        options = {**options, "symmetric": False}
    return lambda x, y, temperature: FUNCTIONS[function](x, y, temperature=temperature, **options)


@pytest.mark.parametrize(("function", "option"), EVERYTHING)
def test_gradcheck(function, option):
    loss = call(function, OPTIONS[option])
    inputs = [*(t.requires_grad_() for t in views(6, 3)), torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize(("function", "option"), EVERYTHING)
def test_func_grad(function, option):
    loss = call(function, OPTIONS[option])
    x, y = views(6, 3)
    got = torch.func.grad(lambda x: loss(x, y, 0.4).square().sum())(x)
    x.requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(loss(x, y, 0.4).square().sum(), x)[0])


@pytest.mark.parametrize(
    ("function", "option", "backend"),
    [
        *((*case, "eager") for case in EVERYTHING),
        ("info_nce", "plain", "inductor"),
        ("info_nce", "groups smoothed", "aot_eager"),
        ("nt_xent", "groups hard", "aot_eager"),
        ("nt_xent", "plain", "inductor"),
        ("sup_con", "plain", "inductor"),
    ],
)
def test_compiles_to_one_graph(function, option, backend):
    # The first temperature is compiled in, later ones make it a symbol: each has to be right.
    torch.compiler.reset()
    loss = call(function, OPTIONS[option])
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    x, y = (t.requires_grad_() for t in views(6, 3))
    for temperature in (0.5, 0.3, 0.7):
        got, want = compiled(x, y, temperature), loss(x, y, temperature)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got.sum(), [x, y]), torch.autograd.grad(want.sum(), [x, y]))


@pytest.mark.parametrize("function", ["info_nce", "nt_xent"])
def test_a_number_that_changes_does_not_change_the_loss_of_the_compiled_function(function):
    torch.compiler.reset()
    x, y = views(6, 3)

    def loss(x: Tensor, y: Tensor, smoothing: float, beta: float) -> Tensor:
        return FUNCTIONS[function](x, y, label_smoothing=smoothing, hard_negative_beta=beta)

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for smoothing, beta in ((0.1, 0.0), (0.2, 0.0), (0.3, 0.0), (0.0, 0.0), (0.0, 0.5), (0.0, 1.5), (0.0, 1.0)):
        torch.testing.assert_close(compiled(x, y, smoothing, beta), loss(x, y, smoothing, beta))


@pytest.mark.skipif(not _extension.info()["cpu_kernels"], reason="the torch reference holds blocks of scores")
@pytest.mark.parametrize(("function", "option"), EVERYTHING)
def test_nothing_is_of_the_size_of_the_matrix_of_scores(function, option):
    n, d = 600, 3
    options = {
        name: value.repeat(100) if isinstance(value, Tensor) and value.ndim == 1 else value
        for name, value in OPTIONS[option].items()
    }
    x, y = (t.requires_grad_() for t in views(n, d))
    with LargestTensor() as largest:
        call(function, options)(x, y, 0.1).sum().backward()
    assert n * d <= largest.elements <= 4 * n * d  # a loss that saw every point, and no 600 x 600


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), temperature=st.floats(0.005, 5))
def test_info_nce_bound_never_exceeds_log_k(seed, n, temperature):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=DOUBLE)
    loss = mi.info_nce(x, x + 0.01 * torch.randn(n, 4, generator=generator, dtype=DOUBLE), temperature=temperature)
    assert math.log(n) - loss.item() <= math.log(n)
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_temperature_in_every_dtype(dtype):
    x = F.normalize(torch.randn(64, 768), dim=1).to(dtype).requires_grad_()
    loss = mi.info_nce(x, x.detach().clone(), temperature=0.005, normalize=False)
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert torch.isfinite(x.grad).all()


def test_temperature_learns():
    log_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    x, y = (t.float() for t in views(32, 8, noise=0.1))
    before = mi.info_nce(x, y, temperature=1 / log_scale.exp())
    before.backward()
    with torch.no_grad():
        log_scale -= 0.05 * log_scale.grad.sign()
    assert mi.info_nce(x, y, temperature=1 / log_scale.exp()) < before


# ----------------------------------------------------------------------------------------------------- precision


def relative_error(got: Tensor, truth: Tensor) -> float:
    return ((got.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("noise", "temperature"), [(0.5, 0.1), (0.3, 0.07), (0.3, 0.05)])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_losses_are_as_exact_as_their_inputs(dtype, noise, temperature, autocast):
    x, y = (t.float() for t in views(256, 128, noise))
    if not autocast:  # the inputs themselves are half
        x, y = x.to(dtype), y.to(dtype)
    leaves = [x.requires_grad_(), y.requires_grad_()]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    truth = dense_info_nce(*wide, temperature, True, True).mean()
    true_gradient = torch.autograd.grad(truth, wide)[0]
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        ours = mi.info_nce(x, y, temperature=temperature)
        torchs = dense_info_nce(x, y, temperature, True, True).mean()
    assert abs(ours.item() - truth.item()) <= 1e-4 * truth.item()
    ours_error = relative_error(torch.autograd.grad(ours, leaves)[0], true_gradient)
    assert ours_error <= 2 * relative_error(torch.autograd.grad(torchs, leaves)[0], true_gradient)


@pytest.mark.parametrize(
    "function",
    [
        mi.info_nce,
        mi.nt_xent,
        lambda x, y, **options: mi.info_nce(x, y, reduction="none", **options),
        lambda x, y, **options: mi.info_nce(x, y, groups=torch.arange(256) // 2, **options),
        lambda x, y, **options: mi.info_nce(x, y, symmetric=False, negatives=y.flip(1), **options),
        lambda x, y, **options: mi.nt_xent(x, y, hard_negative_beta=0.1, **options),
        lambda x, y, **options: mi.sup_con(torch.cat([x, y]), torch.arange(256).repeat(2), **options),
    ],
    ids=["info_nce", "nt_xent", "none", "groups", "negatives", "hard", "sup_con"],
)
def test_losses_near_zero_keep_their_digits(function):
    x, y = views(256, 128, 0.3)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y, temperature=0.05).mean()

    narrow = [t.float().requires_grad_() for t in (x, y)]
    wide = [t.detach().double().requires_grad_() for t in narrow]
    ours, truth = loss(*narrow), loss(*wide)
    assert 0 < truth.item() <= 2e-5
    assert abs(ours.item() - truth.item()) <= 2e-5 * truth.item()
    for got, want in zip(torch.autograd.grad(ours, narrow), torch.autograd.grad(truth, wide), strict=True):
        assert relative_error(got, want) <= 2e-5


def test_autocast_hands_out_mixed_dtypes():
    x, y = (t.float() for t in views(32, 8))
    labels = torch.arange(32) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for function in (mi.info_nce, mi.nt_xent):
            for options in ({}, {"label_smoothing": 0.1}, {"reduction": "none"}):
                torch.testing.assert_close(
                    function(x.bfloat16(), y, **options), function(x.bfloat16().float(), y, **options)
                )
        torch.testing.assert_close(mi.sup_con(x, labels), mi.sup_con(x.double(), labels).float())


def test_rows_of_zeros_and_of_large_numbers_in_half():
    x = torch.zeros(4, 8, dtype=torch.float16)
    x[1:] = 3e4
    assert math.isfinite(mi.info_nce(x, x.clone()).item())


# ---------------------------------------------------------------------------------------------------- identities


def test_one_negative_is_a_smooth_triplet_loss():
    anchor, positive, negative = torch.randn(3, 7, 5, dtype=DOUBLE)
    for i in range(7):
        loss = mi.info_nce(
            anchor[i : i + 1],
            positive[i : i + 1],
            temperature=1.0,
            symmetric=False,
            normalize=False,
            negatives=negative[i : i + 1],
        )
        torch.testing.assert_close(loss, F.softplus(anchor[i].dot(negative[i]) - anchor[i].dot(positive[i])))


def test_n_pair_loss():
    # Sohn (2016): mean over i of log(1 + sum_{j != i} exp(f_i . f_j+ - f_i . f_i+)).
    f, f_plus = views(9, 4)
    scores = f @ f_plus.T
    gaps = (scores - scores.diagonal()[:, None]).exp()
    want = torch.log1p(gaps.sum(1) - gaps.diagonal()).mean()
    torch.testing.assert_close(mi.info_nce(f, f_plus, temperature=1.0, symmetric=False, normalize=False), want)


def test_moco_is_cross_entropy_of_the_positive_against_the_queue():
    q, k = (F.normalize(t, dim=1).requires_grad_() for t in views(8, 4))
    queue = F.normalize(torch.randn(30, 4, dtype=DOUBLE), dim=1).requires_grad_()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.07
    want = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    got = mi.info_nce(q, k, temperature=0.07, symmetric=False, negatives=queue, in_batch_negatives=False)
    torch.testing.assert_close(got, want)
    got.backward()
    assert queue.grad is None
    assert q.grad is not None


def test_nt_xent_with_supervised_names():
    z1, z2 = views(10, 4)
    got = mi.sup_con(torch.cat([z1, z2]), torch.arange(10).repeat(2), temperature=0.3, reduction="none")
    torch.testing.assert_close(got, mi.nt_xent(z1, z2, temperature=0.3, reduction="none"))


def test_no_hardness_is_the_plain_loss_in_the_limit():
    x, y = views()
    for function in (mi.info_nce, mi.nt_xent):
        torch.testing.assert_close(function(x, y, hard_negative_beta=1e-9), function(x, y), rtol=1e-7, atol=0)


def test_harder_negatives_cost_more():
    x, y = views()
    for function in (mi.info_nce, mi.nt_xent):
        values = [function(x, y, hard_negative_beta=beta).item() for beta in (0.0, 0.5, 1.0, 4.0)]
        assert values == sorted(values)
        assert values[0] < values[-1]


def test_weights_are_numbers_of_copies_in_the_mean():
    x, y = views(5, 3)
    losses = mi.info_nce(x, y, reduction="none")
    weights = torch.tensor([2, 0, 1, 1, 3])
    torch.testing.assert_close(mi.info_nce(x, y, weights=weights.double()), losses.repeat_interleave(weights).mean())


def test_groups_of_one_are_no_groups():
    x, y = views(7, 3)
    ids = torch.tensor([4, -9, 2**40, 0, 1, 3, 12])
    for function in (mi.info_nce, mi.nt_xent):
        torch.testing.assert_close(function(x, y, groups=ids), function(x, y))


def test_a_batch_of_one_group_costs_nothing():
    x, y = (t.requires_grad_() for t in views(6, 3))
    for function in (mi.info_nce, mi.nt_xent):
        for options in ({}, {"hard_negative_beta": 1.0}, {"label_smoothing": 0.1}, {"reduction": "none"}):
            loss = function(x, y, groups=torch.zeros(6, dtype=torch.int32), **options).sum()
            assert loss.item() == pytest.approx(0, abs=1e-12)
            for gradient in torch.autograd.grad(loss, [x, y]):
                assert gradient.abs().max().item() <= 1e-12


def test_views_that_are_not_contiguous():
    x, y = views(12, 8)
    for function in (mi.info_nce, mi.nt_xent):
        for options in ({}, {"reduction": "none"}, {"label_smoothing": 0.1}):
            torch.testing.assert_close(
                function(x[::2, ::2], y.T.contiguous().T[::2, ::2], **options),
                function(x[::2, ::2].contiguous(), y[::2, ::2].contiguous(), **options),
            )


# ---------------------------------------------------------------------------------------------------- supervised


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.sampled_from([2, 3, 17]),
    labels=st.integers(1, 6),
    normalize=st.booleans(),
    decoupled=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    temperature=st.sampled_from([0.2, 1.0]),
)
def test_sup_con_against_all_scores_written_out(seed, n, labels, normalize, decoupled, reduction, temperature):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-3, labels - 3, (n,), generator=generator)
    sizes = ids.unique(return_counts=True)[1]
    options = {"normalize": normalize, "decoupled": decoupled and len(sizes) > 1, "reduction": reduction}
    z = torch.randn(n, 4, generator=generator, dtype=DOUBLE)
    if sizes.max() == 1:
        with pytest.raises(ValueError, match="labels: want two points of one label"):
            mi.sup_con(z, ids, **options)
        return
    assert_same(
        lambda z, t: mi.sup_con(z, ids, temperature=t, **options),
        lambda z, t: dense_sup_con(z, ids, temperature=t, **options),
        [z, torch.tensor(temperature, dtype=DOUBLE)],
        rtol=1e-8,
    )


def test_sup_con_of_many_points_follows_the_dense_loss():
    z, labels = torch.randn(300, 16), torch.randint(0, 20, (300,))
    want = dense_sup_con(z.double(), labels, temperature=0.1)
    assert mi.sup_con(z, labels, temperature=0.1).item() == pytest.approx(want.item(), rel=1e-5)


def test_a_point_alone_with_its_label_is_a_negative_only():
    z, labels = torch.randn(6, 3, dtype=DOUBLE, requires_grad=True), torch.tensor([1, 1, 2, 2, 2, 7])
    losses = mi.sup_con(z, labels, reduction="none")
    assert losses[5].item() == 0
    torch.testing.assert_close(mi.sup_con(z, labels), losses[:5].mean())
    assert torch.autograd.grad(losses.sum(), z)[0][5].abs().max() > 0


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("function", [mi.info_nce, mi.nt_xent], ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"normalize": False}, {"weights": torch.zeros(3)}])
@pytest.mark.parametrize(
    ("replace", "error", "text"),
    [
        ({1: torch.ones(4, 2)}, ValueError, r"(y|z2): want the shape of (x|z1)"),
        ({1: torch.ones(3, 2).double()}, TypeError, r"(y|z2): want the dtype of"),
        ({1: torch.ones(3, 2, device="meta")}, ValueError, r"(y|z2): want the device of"),
        ({0: torch.ones(3, 2, dtype=torch.int64)}, TypeError, r"(x|z1): want a dtype"),
        ({0: torch.ones(0, 2), 1: torch.ones(0, 2)}, ValueError, r"(x|z1): want at least one element"),
        ({0: torch.tensor([[1, 1], [math.nan, 1], [1, 1]])}, ValueError, r"(x|z1): want finite values, got 1 NaN"),
        ({1: torch.tensor([[1, 1], [1, -math.inf], [1, 1]])}, ValueError, r"(y|z2): want finite values, got 1 NaN"),
        ({0: [1.0, 2.0]}, TypeError, r"(x|z1): want a floating-point torch.Tensor"),
    ],
)
def test_bad_views_are_named(function, options, replace, error, text):
    arguments = [torch.randn(3, 2), torch.randn(3, 2)]
    for i, value in replace.items():
        arguments[i] = value
    if "weights" in options:
        options = {"weights": options["weights"], "reduction": "sum"}  # of weight 0, so it would hide
    with pytest.raises(error, match=text):
        function(*arguments, **options)


def test_an_infinity_that_the_loss_does_not_show_is_named():
    x, y = torch.tensor([[math.inf], [1.0]]), torch.tensor([[1.0], [-1.0]])
    with pytest.raises(ValueError, match="x: want finite values, got 1 NaN"):
        mi.info_nce(x, y, normalize=False, symmetric=False)


def test_an_infinite_loss_of_finite_points_is_no_error():
    x = torch.full((2, 1), 1e30) * torch.tensor([[1.0], [-1.0]])
    assert not math.isfinite(mi.info_nce(x, -x, normalize=False, symmetric=False).item())


@pytest.mark.parametrize("function", [mi.info_nce, mi.nt_xent], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"reduction": "median"}, ValueError, "reduction: want one of"),
        ({"temperature": 0.0}, ValueError, "temperature: want"),
        ({"temperature": -0.1}, ValueError, "temperature: want"),
        ({"temperature": math.nan}, ValueError, "temperature: want"),
        ({"temperature": math.inf}, ValueError, "temperature: want"),
        ({"temperature": torch.tensor(math.nan)}, ValueError, "temperature: want"),
        ({"temperature": 1e-40}, ValueError, "temperature: want at least 1e-30"),
        ({"temperature": torch.tensor(1e-40)}, ValueError, "temperature: want at least 1e-30"),
        ({"temperature": torch.ones(3)}, ValueError, "temperature: want a number or one element"),
        ({"temperature": "low"}, TypeError, "temperature: want a number"),
        ({"label_smoothing": 1.1}, ValueError, "label_smoothing: want a number from 0 to 1"),
        ({"label_smoothing": math.nan}, ValueError, "label_smoothing: want a number from 0 to 1"),
        ({"label_smoothing": True}, TypeError, "label_smoothing: want a number"),
        ({"label_smoothing": 0.1, "decoupled": True}, ValueError, "label_smoothing: want 0 with decoupled"),
        ({"label_smoothing": 0.1, "hard_negative_beta": 1.0}, ValueError, "want 0 with hard_negative_beta"),
        ({"hard_negative_beta": -1.0}, ValueError, "hard_negative_beta: want a finite number >= 0"),
        ({"hard_negative_beta": math.inf}, ValueError, "hard_negative_beta: want a finite number >= 0"),
        ({"hard_negative_beta": torch.ones(())}, TypeError, "hard_negative_beta: want a number"),
        ({"weights": [1, 1, 1]}, TypeError, "weights: want a floating-point torch.Tensor"),
        ({"weights": torch.ones(3, dtype=torch.int64)}, TypeError, "weights: want a dtype"),
        ({"weights": torch.ones(2)}, ValueError, "weights: want one for each of 3 pairs"),
        ({"weights": torch.ones(3, 1)}, ValueError, "weights: want 1 dimensions"),
        ({"weights": torch.ones(3, device="meta")}, ValueError, "weights: want the device"),
        ({"weights": torch.tensor([1, -1, 1.0])}, ValueError, "weights: want finite values >= 0"),
        ({"weights": torch.tensor([1, math.nan, 1.0])}, ValueError, "weights: want finite values >= 0"),
        ({"weights": torch.tensor([1, math.inf, 1.0])}, ValueError, "weights: want finite values >= 0"),
        ({"weights": torch.zeros(3)}, ValueError, "weights: want at least one above 0"),
        ({"weights": torch.ones(3, requires_grad=True)}, ValueError, "weights: want constants"),
        ({"groups": torch.ones(3)}, TypeError, "groups: want an integer dtype"),
        ({"groups": [0, 1, 2]}, TypeError, "groups: want a torch.Tensor of integers"),
        ({"groups": torch.arange(4)}, ValueError, "groups: want one id for each of 3 rows"),
        ({"groups": torch.arange(3, device="meta")}, ValueError, "groups: want the device"),
        ({"groups": torch.ones(3, dtype=torch.long), "decoupled": True}, ValueError, "decoupled: want a negative"),
    ],
)
def test_bad_settings_are_named(function, options, error, text):
    with pytest.raises(error, match=text):
        function(torch.randn(3, 2), torch.randn(3, 2), **options)


@pytest.mark.parametrize(
    ("negatives", "error", "text"),
    [
        (torch.randn(4, 3), ValueError, "negatives: want the width of the views"),
        (torch.randn(4), ValueError, "negatives: want 2 dimensions"),
        (torch.randn(0, 2), ValueError, "negatives: want at least one element"),
        (torch.randn(4, 2, device="meta"), ValueError, "negatives: want the device of the views"),
        (torch.ones(4, 2, dtype=torch.long), TypeError, "negatives: want a dtype"),
        (torch.full((4, 2), math.nan), ValueError, "negatives: want finite values"),
        ([[1.0, 2.0]], TypeError, "negatives: want a floating-point torch.Tensor"),
    ],
)
def test_bad_negatives_are_named(negatives, error, text):
    x, y = torch.randn(3, 2), torch.randn(3, 2)
    with pytest.raises(error, match=text):
        mi.info_nce(x, y, symmetric=False, negatives=negatives)
    with pytest.raises(error, match=text):
        mi.nt_xent(x, y, negatives=negatives)
    with pytest.raises(error, match=text.replace("negatives", r"negatives\[1\]", 1)):
        mi.info_nce(x, y, negatives=(torch.randn(4, 2), negatives))


def test_negatives_that_do_not_fit_the_other_settings():
    x, y, bank = torch.randn(3, 2), torch.randn(3, 2), torch.randn(4, 2)
    with pytest.raises(ValueError, match="negatives: want two matrices with symmetric=True"):
        mi.info_nce(x, y, negatives=bank)
    with pytest.raises(ValueError, match="in_batch_negatives: want True"):
        mi.info_nce(x, y, in_batch_negatives=False)
    with pytest.raises(ValueError, match="in_batch_negatives: want True"):
        mi.info_nce(
            x, y, symmetric=False, negatives=bank, in_batch_negatives=False, groups=torch.zeros(3, dtype=torch.long)
        )
    for function in (mi.info_nce, mi.nt_xent):
        with pytest.raises(ValueError, match="decoupled: want a negative for every anchor, got a single row"):
            function(x[:1], y[:1], decoupled=True)


@pytest.mark.parametrize(
    ("z", "labels", "options", "error", "text"),
    [
        (torch.randn(3), torch.zeros(3).long(), {}, ValueError, "z: want 2 dimensions"),
        (torch.randn(3, 2), torch.zeros(3), {}, TypeError, "labels: want an integer dtype"),
        (torch.randn(3, 2), torch.zeros(4).long(), {}, ValueError, "labels: want one id for each of 3 rows"),
        (torch.randn(3, 2), torch.arange(3), {}, ValueError, "labels: want two points of one label"),
        (torch.randn(1, 2), torch.arange(1), {}, ValueError, "labels: want two points of one label"),
        (torch.randn(3, 2), torch.zeros(3).long(), {"decoupled": True}, ValueError, "decoupled: want a negative"),
        (torch.full((3, 2), math.nan), torch.zeros(3).long(), {}, ValueError, "z: want finite values"),
        (torch.full((3, 2), math.inf), torch.zeros(3).long(), {"normalize": False}, ValueError, "z: want finite"),
        (torch.randn(3, 2), torch.zeros(3).long(), {"temperature": 0.0}, ValueError, "temperature: want"),
        (torch.randn(3, 2), torch.zeros(3).long(), {"reduction": "x"}, ValueError, "reduction: want one of"),
    ],
)
def test_bad_arguments_of_sup_con_are_named(z, labels, options, error, text):
    with pytest.raises(error, match=text):
        mi.sup_con(z, labels, **options)
