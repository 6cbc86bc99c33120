"""info_nce on a GPU: right, repeatable, in few launches, in a graph, and in little memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mi_estimators as mi

pytestmark = pytest.mark.cuda

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def pairs(n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return tuple(side.to("cuda", dtype).requires_grad_() for side in (x, 0.5 * (x + other)))


def plain(x: Tensor, y: Tensor, scale: Tensor, both: bool, symmetric: bool, groups: Tensor | None) -> Tensor:
    """The mean loss, from a matrix of all scores."""
    x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    own = torch.arange(len(x), device=x.device) if groups is None else groups
    left_out = own[:, None] == own
    losses = []
    for anchors, others in ((x, y), (y, x))[: 2 if both or symmetric else 1]:
        candidates = torch.cat([others, anchors]) if both else others
        negatives = (scale * anchors @ candidates.T).masked_fill(
            left_out.repeat(1, 2) if both else left_out, -torch.inf
        )
        positive = scale * (anchors * others).sum(dim=1)
        losses.append(torch.cat([positive[:, None], negatives], dim=1).logsumexp(dim=1) - positive)
    return torch.stack(losses).mean()


def ours(x: Tensor, y: Tensor, scale: Tensor, both: bool, symmetric: bool, groups: Tensor | None) -> Tensor:
    if both:
        return mi.nt_xent(x, y, temperature=1 / scale, groups=groups)
    return mi.info_nce(x, y, temperature=1 / scale, symmetric=symmetric, groups=groups)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("d", [8, 128])
def test_float32_is_rounded_to_tf32_where_torch_may(both: bool, d: int) -> None:
    x, y = pairs(500, d, torch.float32)
    scale = torch.tensor(5.0, device="cuda")

    def gradients(*points: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(ours(*points, scale, both, True, None), points)

    truth = gradients(*(side.detach().double().requires_grad_() for side in (x, y)))
    exact = gradients(x, y)
    torch.backends.cuda.matmul.allow_tf32 = True
    for rounded, without, want in zip(gradients(x, y), exact, truth, strict=True):
        error = relative_error(rounded, want)
        assert error <= 2**-8
        assert error >= 3 * relative_error(without, want)


def test_a_nan_is_looked_for_on_request() -> None:
    x, y = pairs(50, 8, torch.float32)
    with torch.no_grad():
        x[3, 2] = torch.nan
    assert mi.info_nce(x, y).isnan()
    with mi.value_checks("always"):
        with pytest.raises(ValueError, match="x: want finite values, got 1 NaN"):
            mi.info_nce(x, y)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            loss = mi.info_nce(x, y)
    graph.replay()
    assert loss.isnan()


def relative_error(value: Tensor, truth: Tensor) -> float:
    return ((value.double() - truth).norm() / truth.norm()).item()


def check(n: int, d: int, dtype: torch.dtype, temperature: float, both: bool, symmetric: bool, grouped: bool) -> None:
    groups = torch.arange(n, device="cuda") // 2 if grouped else None

    def evaluate(loss_of: Any, at: torch.dtype) -> list[Tensor]:
        x, y = (side.detach().to(at).requires_grad_() for side in pairs(n, d, dtype))
        wide = torch.float64 if at == torch.float64 else torch.float32
        scale = torch.tensor(1 / temperature, dtype=wide, device="cuda", requires_grad=True)
        loss = loss_of(x, y, scale, both, symmetric, groups)
        return [loss.detach(), *torch.autograd.grad(loss, (x, y, scale))]

    truth = evaluate(plain, torch.float64)
    torchs = evaluate(plain, torch.float32)
    names = ("loss", "dx", "dy", "dscale")
    for name, value, expected, eager in zip(names, evaluate(ours, dtype), truth, torchs, strict=True):
        error = relative_error(value, expected)
        if dtype == torch.float64:
            allowed = 1e-11
        elif dtype == torch.float32:
            allowed = 2 * relative_error(eager, expected) + 1e-6
        else:  # that of points rounded to the type, in scores of this size
            allowed = 8 * max(1.0, 0.1 / temperature) * torch.finfo(dtype).eps
        assert error <= allowed, f"{name}: {error:.3g} > {allowed:.3g}"


def test_the_kernels_are_in_use() -> None:
    """Else every other test here would test the torch reference."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key("mi_estimators::info_nce", "CUDA")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (31, 33), (129, 128), (1000, 300), (513, 768)])
@pytest.mark.parametrize("mode", ["one side", "symmetric", "both"])
def test_values_and_gradients(n: int, d: int, dtype: torch.dtype, mode: str) -> None:
    check(n, d, dtype, 0.1, mode == "both", mode == "symmetric", grouped=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_groups_and_temperatures(dtype: torch.dtype, both: bool, temperature: float) -> None:
    check(300, 48, dtype, temperature, both, True, grouped=True)


@pytest.mark.parametrize("both", [False, True])
def test_a_number_for_the_temperature_is_the_same(both: bool) -> None:
    x, y = pairs(300, 48, torch.bfloat16)
    loss = mi.nt_xent if both else mi.info_nce
    tensor = loss(x, y, temperature=torch.tensor(0.25, device="cuda"))
    assert torch.equal(loss(x, y, temperature=0.25), tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("both", [False, True])
def test_same_bits_on_every_run(dtype: torch.dtype, both: bool) -> None:
    x, y = pairs(3000, 70, dtype)
    loss = mi.nt_xent if both else mi.info_nce
    first = torch.autograd.grad(loss(x, y, temperature=0.1), (x, y))
    for _ in range(5):
        again = torch.autograd.grad(loss(x, y, temperature=0.1), (x, y))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("both", [False, True])
def test_captured_in_a_graph(both: bool) -> None:
    """A graph cannot be captured from code that waits for the GPU; a replay sees the points of its time."""
    x, y = pairs(300, 128, torch.bfloat16)
    loss_of = mi.nt_xent if both else mi.info_nce
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.autograd.grad(loss_of(x, y, temperature=0.1), (x, y))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = loss_of(x, y, temperature=0.1)
        gradients = torch.autograd.grad(loss, (x, y))
    with torch.no_grad():
        x.copy_(x.flip(0) + 1)
    graph.replay()
    torch.cuda.synchronize()
    expected = loss_of(x, y, temperature=0.1)
    assert torch.equal(loss, expected)
    for value, wanted in zip(gradients, torch.autograd.grad(expected, (x, y)), strict=True):
        assert torch.equal(value, wanted)


def test_works_on_the_current_stream() -> None:
    x, y = (side.detach() for side in pairs(500, 32, torch.bfloat16))
    expected = mi.info_nce(x, y)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    late = torch.empty_like(x)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # x arrives late: a kernel on another stream would read the empty memory
        late.copy_(x)
        actual = mi.info_nce(late, y)
    stream.synchronize()
    assert torch.equal(actual, expected)


def test_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, y = (side.detach() for side in pairs(100, 40, torch.bfloat16))
    assert torch.equal(mi.info_nce(x.to("cuda:1"), y.to("cuda:1")).cpu(), mi.info_nce(x, y).cpu())


def test_few_launches() -> None:
    """Five of the operator, one for the gradient of 1 that torch begins with, one to scale each gradient."""
    x, y = pairs(1024, 128, torch.bfloat16)
    (mi.info_nce(x, y, temperature=0.1)).backward()
    x.grad = y.grad = None
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        mi.info_nce(x, y, temperature=0.1).backward()
        torch.cuda.synchronize()
    kernels = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not kernels:
        pytest.skip("the profiler may not look at this device")
    assert len(kernels) <= 8, [event.name for event in kernels]


def test_memory_grows_with_the_points_and_not_with_the_pairs() -> None:
    n, d = 16384, 128
    x, y = pairs(n, d, torch.bfloat16)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    mi.info_nce(x, y, temperature=0.1).backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 100e6, f"{extra / 1e6:.0f} MB; the scores alone would be {2e-6 * n * n:.0f} MB"
