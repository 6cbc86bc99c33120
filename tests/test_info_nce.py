"""The operator info_nce against every score written out in float64: loss, gradients, regimes, threads, dtypes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mi_estimators import _extension
from mi_estimators.ops.info_nce import fused_info_nce, reference

compiled_only = pytest.mark.skipif(not _extension.info()["cpu_kernels"], reason="no compiled CPU kernels")


@dataclass(frozen=True)
class Options:
    candidates: str = "other"
    symmetric: bool = True
    normalize: bool = True
    decoupled: bool = False
    reduction: str = "mean"


def dense(
    x: Tensor, y: Tensor, scale: Tensor, o: Options, weights: Tensor | None = None, groups: Tensor | None = None
) -> Tensor:
    """The loss from all scores at once, in the dtype of the points."""
    if o.normalize:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    n = len(x)
    ids = torch.arange(n) if groups is None else groups
    w = x.new_ones(n) if weights is None else weights.to(x.dtype)
    if o.candidates == "both":
        x, y, ids, w = torch.cat([x, y]), torch.cat([y, x]), ids.repeat(2), w.repeat(2)
        sides = [(scale * x @ x.T, scale * (x * y).sum(1))]
    else:
        scores = scale * x @ y.T
        sides = [(scores, scores.diagonal()), (scores.T, scores.diagonal())][: 2 if o.symmetric else 1]
    total = x.new_zeros(())
    for scores, positive in sides:
        negatives = scores.masked_fill(ids[:, None] == ids, -math.inf)
        if o.decoupled:
            losses = torch.logsumexp(negatives, 1) - positive
        else:
            # Not log(sum over all) - positive: the truth has to keep the digits of a loss near 0.
            losses = torch.logaddexp(torch.logsumexp(negatives, 1) - positive, positive.new_zeros(()))
        total = total + (losses * w).sum() / len(sides)
    return total / w.sum() if o.reduction == "mean" else total


def views(
    n: int, d: int, dtype: torch.dtype = torch.float64, noise: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = x + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def value_and_gradients(
    function: Callable[..., Tensor], x: Tensor, y: Tensor, scale: float, wide: torch.dtype, **more: Any
) -> list[Tensor]:
    """Loss, and the gradients by x, y and the scale."""
    leaves = [x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()]
    leaves.append(torch.tensor(scale, dtype=wide).requires_grad_())
    loss = function(*leaves, **more)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def ours(x: Tensor, y: Tensor, scale: Tensor, o: Options, **more: Tensor | None) -> Tensor:
    return fused_info_nce(x, y, scale=scale, **asdict(o), **more)


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-300))


def compare(x: Tensor, y: Tensor, scale: float, o: Options, tolerance: float, **more: Tensor | None) -> None:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    got = value_and_gradients(ours, x, y, scale, wide, o=o, **more)
    want = value_and_gradients(dense, x.double(), y.double(), scale, torch.float64, o=o, **more)
    for name, g, w in zip(("loss", "dx", "dy", "dscale"), got, want, strict=True):
        assert relative_error(g, w) <= tolerance, name


ALL = [
    Options(candidates, symmetric, normalize, decoupled)
    for candidates in ("other", "both")
    for symmetric in (True, False)
    for normalize in (True, False)
    for decoupled in (False, True)
    if candidates == "other" or symmetric
]
FOUR = [Options(), Options(symmetric=False), Options("both"), Options("both", decoupled=True, normalize=False)]


# ------------------------------------------------------------------------------------------------------------- values


@given(
    n=st.integers(1, 40),
    d=st.integers(2, 40),
    options=st.sampled_from(ALL),
    reduction=st.sampled_from(["mean", "sum"]),
    temperature=st.sampled_from([0.005, 0.05, 0.2, 2.0]),
    weighted=st.booleans(),
    grouped=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=300, deadline=None)
def test_every_option_against_all_scores(n, d, options, reduction, temperature, weighted, grouped, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = views(n, d, seed=seed)
    if not options.normalize:
        x, y = x / d**0.5, y / d**0.5
    weights = 0.1 + torch.rand(n, generator=generator, dtype=torch.float64) if weighted else None
    groups = torch.randint(n // 2 + 1, (n,), generator=generator) if grouped else None
    alone = n == 1 if groups is None else bool((groups == groups[0]).all())
    if options.decoupled and (n == 1 or grouped or alone):
        return  # an anchor without a negative has no decoupled loss
    if n == 1 or alone:  # nothing to tell apart: loss and gradients are 0
        for result in value_and_gradients(ours, x, y, 1 / temperature, torch.float64, o=options, groups=groups):
            assert torch.equal(result, torch.zeros_like(result))
        return
    compare(x, y, 1 / temperature, replace(options, reduction=reduction), 1e-9, weights=weights, groups=groups)


@pytest.mark.parametrize("options", FOUR, ids=str)
@pytest.mark.parametrize("n", [2, 3, 31, 64, 65, 129, 777])
def test_float32_at_odd_sizes(n, options):
    compare(*views(n, 48, torch.float32), 10.0 if options.normalize else 0.1, options, 1e-5)


@pytest.mark.parametrize(
    ("n", "d", "options"),
    [
        (3000, 3, Options()),  # both directions: what does not fit into the memory held is formed again
        (3000, 3, Options(symmetric=False)),  # one direction: strips of rows
        (2100, 3, Options("both")),
    ],
    ids=str,
)
def test_more_scores_than_are_held(n, d, options):
    compare(*views(n, d), 5.0, options, 1e-10)


@pytest.mark.parametrize("options", FOUR, ids=str)
@pytest.mark.parametrize(("scale", "spread"), [(200.0, 1.0), (1e4, 1.0), (1.0, 30.0), (0.0, 1.0), (-3.0, 1.0)], ids=str)
def test_scores_that_need_a_shift(scale, spread, options):
    x, y = views(70, 20)
    got = value_and_gradients(ours, spread * x, spread * y, scale, torch.float64, o=options)
    want = value_and_gradients(dense, spread * x, spread * y, scale, torch.float64, o=options)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-12 * max(1.0, float(w.abs().max())))


def test_rows_of_zeros_have_no_direction():
    x, y = views(20, 5)
    x[3] = 0
    y[7] = 0
    got = value_and_gradients(ours, x, y, 2.0, torch.float64, o=Options())
    want = value_and_gradients(dense, x, y, 2.0, torch.float64, o=Options())
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", FOUR, ids=str)
def test_a_value_that_is_not_finite_shows_in_the_loss(bad, options):
    x, y = views(70, 6, torch.float32)
    for side in (x, y):
        kept = float(side[11, 2])
        side[11, 2] = bad
        assert not math.isfinite(ours(x, y, torch.tensor(2.0), options).item())
        side[11, 2] = kept


def test_losses_near_zero_keep_their_digits():
    x, y = views(256, 128, torch.float32, noise=0.1)
    got = value_and_gradients(ours, x, y, 20.0, torch.float32, o=Options())
    want = value_and_gradients(dense, x.double(), y.double(), 20.0, torch.float64, o=Options())
    assert 0 < float(want[0]) < 1e-4
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) <= 1e-4


@pytest.mark.parametrize("options", FOUR, ids=str)
@pytest.mark.parametrize(("n", "temperature"), [(31, 0.1), (300, 0.1), (300, 0.02), (129, 0.005)])
def test_float32_errors_are_at_most_twice_torchs_own(n, temperature, options):
    """Largest and mean error over several draws, relative to the largest value of each, against a float64 truth."""
    errors: dict[int, list[tuple[Tensor, ...]]] = {}
    for seed in range(4 if n > 200 else 16):
        x, y = views(n, 96, torch.float32, seed=seed)
        if not options.normalize:
            x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        got = value_and_gradients(ours, x, y, 1 / temperature, torch.float32, o=options)
        peer = value_and_gradients(dense, x, y, 1 / temperature, torch.float32, o=options)
        want = value_and_gradients(dense, x.double(), y.double(), 1 / temperature, torch.float64, o=options)
        for k, (g, p, w) in enumerate(zip(got, peer, want, strict=True)):
            # Losses of different draws differ by many orders of magnitude at a low temperature: each counts alike.
            errors.setdefault(k, []).append(tuple(t.abs().flatten() / w.abs().max() for t in (g - w, p - w, w)))
    for k, parts in errors.items():
        own, torchs, size = (torch.cat(part) for part in zip(*parts, strict=True))
        for statistic in (torch.max, torch.mean):
            bar = max(2 * float(statistic(torchs)), 1.2e-7 * float(statistic(size)))
            assert float(statistic(own)) <= bar, (k, statistic.__name__)


# ------------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", FOUR, ids=str)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (65, 31), (300, 64), (1100, 40)])
def test_half_points_lose_digits_in_the_gradients_only(dtype, options, n, d):
    x, y = views(n, d, dtype)
    if not options.normalize:
        x, y = x / d**0.5, y / d**0.5
    got = value_and_gradients(ours, x, y, 10.0, torch.float32, o=options)
    want = value_and_gradients(dense, x.double(), y.double(), 10.0, torch.float64, o=options)
    assert [g.dtype for g in got] == [torch.float32, dtype, dtype, torch.float32]
    assert relative_error(got[0], want[0]) <= 1e-5
    # Two roundings to bfloat16 at most (the weights' and the result's), of terms that cancel radially on the sphere.
    for g, w in zip(got[1:3], want[1:3], strict=True):
        assert relative_error(g, w) <= 2e-2
        assert float((g.double() - w).norm() / w.norm()) <= 1e-2


@pytest.mark.parametrize("options", FOUR[:3], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_bfloat16_with_groups_weights_and_one_sided_gradients(options, normalize):
    o = replace(options, normalize=normalize)
    x, y = (t / 20**0.5 for t in views(203, 20, torch.bfloat16))
    generator = torch.Generator().manual_seed(1)
    more = {"weights": torch.rand(203, generator=generator) + 0.1, "groups": torch.arange(203) // 3}
    got = value_and_gradients(ours, x, y, 5.0, torch.float32, o=o, **more)
    want = value_and_gradients(dense, x.double(), y.double(), 5.0, torch.float64, o=o, **more)
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) <= 2e-2
    for side in (0, 1):
        points = [x.clone(), y.clone()]
        points[side].requires_grad_()
        loss = ours(*points, torch.tensor(5.0), o=o, **more)
        assert torch.equal(torch.autograd.grad(loss, points[side])[0], got[1 + side])


@pytest.mark.parametrize("options", FOUR[:3], ids=str)
def test_bfloat16_with_more_scores_than_are_held(options):
    x, y = views(4300 if options.candidates == "both" else 6000, 3, torch.bfloat16)
    got = value_and_gradients(ours, x, y, 5.0, torch.float32, o=options)
    want = value_and_gradients(ours, x.float(), y.float(), 5.0, torch.float32, o=options)
    for g, w in zip(got, want, strict=True):
        assert float((g.float() - w).norm() / w.norm()) <= 1e-2


@pytest.mark.parametrize("options", [Options(), Options(symmetric=False), Options("both")], ids=str)
def test_bfloat16_errors_are_at_most_twice_torchs_own(options):
    x, y = views(300, 64, torch.bfloat16)
    got = value_and_gradients(ours, x, y, 10.0, torch.float32, o=options)
    peer = value_and_gradients(dense, x, y, 10.0, torch.bfloat16, o=options)
    want = value_and_gradients(dense, x.double(), y.double(), 10.0, torch.float64, o=options)
    for g, p, w in zip(got, peer, want, strict=True):
        assert float((g - w).abs().max()) <= 2 * float((p - w).abs().max())
        assert float((g - w).abs().mean()) <= 2 * float((p - w).abs().mean())


@compiled_only
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "amx"])
def test_every_simd_level(level):
    """Against the reference, at each level up to the machine's: a level that is not there runs the next lower one."""
    code = (
        "import torch; from mi_estimators.ops.info_nce import reference; op = torch.ops.mi_estimators.info_nce\n"
        "torch.manual_seed(0); x, y = torch.randn(2, 201, 37)\n"
        "for dtype, bar in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)):\n"
        "    for c in ('other', 'both'):\n"
        "        a, b = (t.to(dtype).requires_grad_() for t in (x, y)); s = torch.tensor(9.0, dtype=torch.float64)\n"
        "        want = reference(a.detach().double(), b.detach().double(), s, None, None, c, True, True, False, .01,"
        " True, True, False)\n"
        "        s = s.to(torch.float64 if dtype == torch.float64 else torch.float32)\n"
        "        got = op(a, b, s, None, None, c, True, True, False, .01, True, True, False)\n"
        "        for g, w in zip(got[:3], want[:3]):\n"
        "            assert float((g.double() - w).abs().max() / w.abs().max()) <= bar, (dtype, c)\n"
        "print('ok')"
    )
    environment = os.environ | {"MI_ESTIMATORS_SIMD": level}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout == "ok\n", result.stderr


# --------------------------------------------------------------------------------------------------- threads, regimes


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that torch hands out uninitialised holds NaN, so that reading it shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 8, 33])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [65, 401, 1100])
def test_any_number_of_threads_is_right_and_repeats_its_bits(n, dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for options in (Options(), Options(symmetric=False), Options("both")):
            x, y = views(n, 20, dtype)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            first = value_and_gradients(ours, x, y, 5.0, wide, o=options)
            again = value_and_gradients(ours, x, y, 5.0, wide, o=options)
            want = value_and_gradients(dense, x.double(), y.double(), 5.0, torch.float64, o=options)
            for a, b, w in zip(first, again, want, strict=True):
                assert torch.equal(a, b)
                assert relative_error(a, w) <= {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    finally:
        torch.set_num_threads(before)


def test_calls_from_several_threads_at_once_do_not_share_memory():
    from concurrent.futures import ThreadPoolExecutor

    problems = [views(n, 16, torch.float32, seed=n) for n in (300, 500, 700, 900)]

    def run(problem: tuple[Tensor, Tensor]) -> list[Tensor]:
        return value_and_gradients(ours, *problem, 5.0, torch.float32, o=Options())

    alone = [run(problem) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for together, single in zip(pool.map(run, problems), alone, strict=True):
                for a, b in zip(together, single, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


# ----------------------------------------------------------------------------------------------------------- autograd


@pytest.mark.parametrize("options", FOUR, ids=str)
def test_first_and_second_derivatives(options):
    x, y = (t.requires_grad_() for t in views(9, 4))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return ours(x, y, scale, options)

    assert torch.autograd.gradcheck(loss, (x, y, scale))
    assert torch.autograd.gradgradcheck(loss, (x, y, scale))


def test_second_derivatives_of_one_tensor_in_both_roles():
    (z, _), scale = views(7, 3), torch.tensor(2.0, dtype=torch.float64)
    z.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda t: ours(t, t.flip(0), scale, Options()) + ours(t, t, scale, Options()), z
    )


def test_gradients_that_nobody_asked_for_are_not_formed_and_change_nothing():
    x, y = views(90, 12)
    everything = value_and_gradients(ours, x, y, 4.0, torch.float64, o=Options())
    for wanted in range(1, 8):
        needs = [bool(wanted & bit) for bit in (1, 2, 4)]
        scale = torch.tensor(4.0, dtype=torch.float64)
        leaves = [t.clone().requires_grad_(need) for t, need in zip((x, y, scale), needs, strict=True)]
        loss = ours(*leaves, Options())
        found = iter(torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad]))
        for need, want in zip(needs, everything[1:], strict=True):
            if need:
                torch.testing.assert_close(next(found), want, rtol=1e-11, atol=1e-14)
        outputs = torch.ops.mi_estimators.info_nce(x, y, scale, None, None, "other", True, True, False, 1.0, *needs)
        assert [output.numel() for output in outputs[1:]] == [
            size if need else 0 for need, size in zip(needs, (x.numel(), y.numel(), 1), strict=True)
        ]


def test_the_gradient_is_that_of_what_comes_after():
    x, y = (t.requires_grad_() for t in views(33, 6))
    scale = torch.tensor(3.0, dtype=torch.float64)
    got = torch.autograd.grad((2 * ours(x * 3, y, scale, Options())).exp(), (x, y))
    want = torch.autograd.grad((2 * dense(x * 3, y, scale, Options())).exp(), (x, y))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-13)


def test_backward_twice_gives_the_same():
    x, y = (t.requires_grad_() for t in views(33, 6))
    loss = ours(x, y, torch.tensor(3.0, dtype=torch.float64), Options())
    loss.backward(retain_graph=True)
    assert x.grad is not None
    once = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * once)


@pytest.mark.parametrize("candidates", ["other", "both"])
def test_opcheck(candidates):
    x, y = (t.requires_grad_() for t in views(9, 4))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    weights, groups = torch.rand(9, dtype=torch.float64), torch.arange(9) // 2
    for w, g in ((None, None), (weights, groups)):
        arguments = (x, y, scale, w, g, candidates, True, True, False, 0.1, True, True, True, w is None)
        torch.library.opcheck(torch.ops.mi_estimators.info_nce, arguments)


@pytest.mark.parametrize("options", FOUR, ids=str)
def test_compiled_and_transformed(options):
    x, y = (t.requires_grad_() for t in views(33, 6))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    want = torch.autograd.grad(ours(x, y, scale, options), (x, y, scale))

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return ours(x, y, scale, options)

    graph = torch.compile(loss, fullgraph=True, backend="aot_eager")
    transformed = torch.func.grad(loss, argnums=(0, 1, 2))(x, y, scale)
    for found in (torch.autograd.grad(graph(x, y, scale), (x, y, scale)), transformed):
        for g, w in zip(found, want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", FOUR, ids=str)
def test_the_reference_gives_what_the_kernel_gives(options, dtype):
    x, y = views(50, 8, dtype)
    scale = torch.tensor(6.0, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    weights, groups = torch.rand(50).to(scale.dtype), torch.arange(50) // 3
    arguments = (x, y, scale, weights, groups, *asdict(options).values())
    arguments = (*arguments[:-1], 0.02, True, True, True)  # a factor in place of the reduction
    for got, want in zip(torch.ops.mi_estimators.info_nce(*arguments), reference(*arguments), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert relative_error(got, want) <= (1e-11 if dtype == torch.float64 else 2e-2)


@compiled_only
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: torch.zeros(0, 3)}, "non-empty"),
        ({1: torch.zeros(5, 3)}, "shape of x"),
        ({1: torch.zeros(4, 3, dtype=torch.float64)}, "one dtype"),
        ({2: torch.zeros(2)}, "scale"),
        ({3: torch.zeros(3)}, "weights"),
        ({4: torch.zeros(4)}, "groups"),
        ({5: "all"}, "candidates"),
    ],
)
def test_a_direct_call_of_the_operator_is_checked(change, text):
    arguments: dict[int, Any] = dict(
        enumerate((torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(()), None, None, "other"))
    )
    arguments |= change
    with pytest.raises(RuntimeError, match=text):
        torch.ops.mi_estimators.info_nce(*arguments.values(), True, True, False, 1.0, False, False, False)
