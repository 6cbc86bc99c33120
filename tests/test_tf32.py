"""Whether float32 may be multiplied as TF32 on CUDA: torch's settings, and what the operators are told of them."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import mi_estimators as mi
from mi_estimators.ops import pairwise_lse
from mi_estimators.ops.info_nce import CANDIDATES, reference
from mi_estimators.ops.pairwise_lse import tf32_is_allowed

OPERATORS = {"pairwise_lse": 9, "pairwise_lse_backward": 16, "info_nce": 13}  # and where allow_tf32 stands

OPTIONS = ("other", True, True, False, 0.1, True, False, False)  # of info_nce, between its tensors and that


def allow(value: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = value


def backend(value: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = value


def everything(value: str) -> None:
    """Of all backends that have none of their own."""
    backend("none")
    torch.backends.fp32_precision = value


Setting = tuple[Callable[[], None], Callable[[], None]]
SETTINGS: dict[str, Setting] = {
    "allow_tf32": (lambda: allow(True), lambda: allow(False)),
    "high": (lambda: torch.set_float32_matmul_precision("high"), lambda: torch.set_float32_matmul_precision("highest")),
    "medium": (
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: torch.set_float32_matmul_precision("highest"),
    ),
    "of the backend": (lambda: backend("tf32"), lambda: backend("ieee")),
    "of all backends": (lambda: everything("tf32"), lambda: everything("ieee")),
}


def reset() -> None:
    everything("ieee")
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    reset()
    yield
    reset()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32


class Told(TorchDispatchMode):
    """What the operators get for allow_tf32, in the order of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("mi_estimators::")
        if name in OPERATORS:
            place = OPERATORS[name]
            self.calls.append((name, args[place] if len(args) > place else False))
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SETTINGS)
def test_the_answer_follows_every_setting(name: str) -> None:
    on, off = SETTINGS[name]
    assert not tf32_is_allowed()
    for _ in range(2):
        on()
        assert tf32_is_allowed()
        off()
        assert not tf32_is_allowed()


def test_the_answer_follows_whichever_came_last() -> None:
    for (on, _), (_, off) in itertools.permutations(list(SETTINGS.values())[:4], 2):
        on()
        assert tf32_is_allowed()
        off()
        assert not tf32_is_allowed()


def test_only_float32_on_cuda_is_rounded() -> None:
    fake = FakeTensorMode()

    def told(device: str, dtype: torch.dtype) -> bool:
        with fake, Told() as told:
            pairwise_lse(torch.empty(5, 3, device=device, dtype=dtype))
        ((_, allowed),) = told.calls
        return allowed

    cases = list(itertools.product(("cpu", "cuda"), (torch.float64, torch.float32, torch.bfloat16, torch.float16)))
    assert not any(told(*case) for case in cases)
    torch.set_float32_matmul_precision("high")
    assert [case for case in cases if told(*case)] == [("cuda", torch.float32)]


def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pairwise_lse", "info_nce"):
        loaded = importlib.import_module(f"mi_estimators.ops.{module}")
        monkeypatch.setattr(loaded, "allows_tf32", lambda x: tf32_is_allowed())


@pytest.mark.parametrize("allowed", [False, True])
def test_the_backward_multiplies_as_the_forward_did(monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    """Whatever the setting has become. The CPU's kernel, which has no such products, takes no notice."""
    as_on_cuda(monkeypatch)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(pairwise_lse(x).sum(), x)
    with Told() as told:
        backend("tf32" if allowed else "ieee")
        row = pairwise_lse(x)
        backend("ieee" if allowed else "tf32")
        (actual,) = torch.autograd.grad(row.sum(), x)
        transformed = torch.func.grad(lambda x: pairwise_lse(x).sum())(x.detach())
    first, other = [("pairwise_lse", allowed), ("pairwise_lse_backward", allowed)], not allowed
    assert told.calls == [*first, ("pairwise_lse", other), ("pairwise_lse_backward", other)]
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(transformed, expected)


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_loss_is_told_at_its_call(monkeypatch: pytest.MonkeyPatch, allowed: bool, requires_grad: bool) -> None:
    as_on_cuda(monkeypatch)
    x, y = torch.randn(6, 3, requires_grad=requires_grad), torch.randn(6, 3)
    backend("tf32" if allowed else "ieee")
    with Told() as told:
        mi.info_nce(x, y)
    assert told.calls == [("info_nce", allowed)]
    if not requires_grad:
        return
    with Told() as told:  # without the Python layer that a compiled function does not have
        loss, *_ = torch.ops.mi_estimators.info_nce(x, y, torch.ones(()), None, None, *OPTIONS, allowed)
        (gradient,) = torch.autograd.grad(loss, x)
    assert told.calls == [("info_nce", allowed)]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_the_reference_of_the_loss_passes_it_on(candidates: str) -> None:
    x, y, scale = torch.randn(6, 3), torch.randn(6, 3), torch.tensor(2.0)
    for allowed in (True, False):
        with Told() as told:
            reference(x, y, scale, None, None, candidates, *OPTIONS[1:], allowed)
        assert told.calls == [("pairwise_lse", allowed), ("pairwise_lse_backward", allowed)]


def test_a_compiled_function_follows_the_setting() -> None:
    """In one graph, which is compiled anew, or found again, when the setting has changed."""
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, backend=count)
    def answer(x: torch.Tensor) -> torch.Tensor:
        return x + int(tf32_is_allowed())

    for on, off in SETTINGS.values():
        on()
        assert answer(torch.zeros(())).item() == 1
        off()
        assert answer(torch.zeros(())).item() == 0
    assert len(graphs) == 2
