"""First and last layer over all pairs: kernels against their formulas in float64, and against torch's own rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mi_estimators import ops
from mi_estimators.ops import pair_layers

OPS = torch.ops.mi_estimators
SIZES = [(1, 1, 1), (3, 5, 7), (70, 3, 33), (2, 130, 64)]


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("n", "m", "h"), SIZES)
def test_formulas_in_float64(n, m, h):
    a, b, w = (numbers(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(((n, h), (m, h), (h,))))
    weight = numbers(n * m, seed=3)
    truth = torch.stack([(w * (a[i] + b[j]).clamp(min=0)).sum() for i in range(n) for j in range(m)])
    out = ops.relu_dot(ops.pair_relu(a, b), w)
    assert (out - truth).abs().max() <= 1e-12 * (1 + truth.abs().max())
    # Not the last operation, so that a backward which ignores what arrives is caught.
    wanted = torch.autograd.grad((truth.sin() * weight).sum(), (a, b, w))
    got = torch.autograd.grad((out.sin() * weight).sum(), (a, b, w))
    for left, right in zip(got, wanted, strict=True):
        assert (left - right).abs().max() <= 1e-12 * (1 + right.abs().max())


def test_gradcheck():
    a, b, w = (numbers(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(((4, 3), (6, 3), (3,))))
    assert torch.autograd.gradcheck(ops.pair_relu, (a, b))
    assert torch.autograd.gradcheck(lambda z, w: ops.relu_dot(z.T, w), (numbers(3, 5, seed=4).requires_grad_(), w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "m", "h"), [*SIZES, (64, 64, 48)])
def test_rounding_is_that_of_torch(dtype, n, m, h):
    """Against the truth of the same stored numbers, no further than twice the torch reference."""
    a, b, w = (numbers(*shape, seed=seed, dtype=torch.float32) for seed, shape in enumerate(((n, h), (m, h), (h,))))
    narrow = dtype == torch.bfloat16
    out = OPS.pair_relu(a, b, narrow)
    assert out.dtype == dtype
    assert torch.equal(out, pair_layers.reference_pair_relu(a, b, narrow))
    z, grad = numbers(n * m, h, seed=4, dtype=dtype), numbers(n * m, seed=5, dtype=torch.float32)
    for operator, reference, arguments in (
        (OPS.relu_dot, pair_layers.reference_relu_dot, (z, w)),
        (OPS.relu_dot_backward, pair_layers.reference_relu_dot_backward, (grad, z, w)),
        (OPS.pair_relu_backward, pair_layers.reference_pair_relu_backward, (numbers(n * m, h, dtype=dtype), z, n)),
    ):
        truths = reference(*(value.double() if isinstance(value, torch.Tensor) else value for value in arguments))
        got, theirs = operator(*arguments), reference(*arguments)
        if isinstance(got, torch.Tensor):
            got, truths, theirs = (got,), (truths,), (theirs,)
        for value, truth, their in zip(got, truths, theirs, strict=True):
            assert (value.dtype, value.shape) == (their.dtype, their.shape)
            floor = torch.finfo(torch.float32).eps * truth.abs().max()
            assert (value - truth).abs().max() <= 2 * (their - truth).abs().max() + floor


def test_extreme_numbers():
    nan, inf = float("nan"), float("inf")
    a = torch.tensor([[nan, inf, -inf, -0.0, 3e38, 1e-40]])
    for narrow in (False, True):
        out = OPS.pair_relu(a, torch.zeros(1, 6), narrow)
        assert out[0, 0].isnan()
        assert out[0, 1:4].tolist() == [inf, 0, 0]
        assert torch.equal(out[0, 1:], pair_layers.reference_pair_relu(a, torch.zeros(1, 6), narrow)[0, 1:])
        grad = torch.arange(1.0, 7).view(1, 6).to(out.dtype)
        assert OPS.pair_relu_backward(grad, out, 1)[0][0, :4].tolist() == [1, 2, 0, 0]  # NaN lets through, as in torch
    largest = torch.tensor([[3.4e38]])  # above the largest bfloat16
    assert OPS.pair_relu(largest, torch.zeros(1, 1), True).item() == inf
    assert torch.equal(OPS.relu_dot(a, torch.ones(6)).isnan(), torch.tensor([True]))


def test_memory_layouts():
    a, b, w = numbers(5, 8).T[::2], numbers(5, 6).T, numbers(10)[::2]
    whole = ops.pair_relu(a.contiguous(), b.contiguous())
    assert torch.equal(ops.pair_relu(a, b), whole)
    spread = torch.stack([whole, whole], 2)[..., 0]
    assert not spread.is_contiguous()
    assert torch.equal(ops.relu_dot(spread, w), ops.relu_dot(whole, w.contiguous()))
    for left, right in zip(
        OPS.relu_dot_backward(numbers(2 * len(spread))[::2], spread, w),
        OPS.relu_dot_backward(numbers(2 * len(spread))[::2].contiguous(), whole, w.contiguous()),
        strict=True,
    ):
        assert torch.equal(left, right)
    for left, right in zip(
        OPS.pair_relu_backward(spread, spread, 4), OPS.pair_relu_backward(whole, whole, 4), strict=True
    ):
        assert torch.equal(left, right)


def test_opcheck():
    a, b, w = numbers(3, 4, dtype=torch.float32), numbers(2, 4, dtype=torch.float32), numbers(4, dtype=torch.float32)
    z = OPS.pair_relu(a, b, True)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(OPS.pair_relu.default, (a, b, False), test_utils=tests)
    torch.library.opcheck(OPS.pair_relu.default, (a, b, True), test_utils=tests)
    torch.library.opcheck(OPS.pair_relu_backward.default, (z, z, 3), test_utils=tests)
    torch.library.opcheck(OPS.relu_dot.default, (z, w), test_utils=tests)
    torch.library.opcheck(OPS.relu_dot_backward.default, (numbers(6, dtype=torch.float32), z, w), test_utils=tests)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ops.pair_relu(numbers(2, 3), numbers(2, 4)), ValueError, "b: want the last dimension of a"),
        (lambda: ops.pair_relu(numbers(2, 3), numbers(2, 3).float()), TypeError, "b: want the dtype of a"),
        (lambda: ops.pair_relu(numbers(2, 3), numbers(2, 3), narrow=True), TypeError, "a: want float32, or float64"),
        (lambda: ops.pair_relu(numbers(0, 3), numbers(2, 3)), ValueError, "a: want at least one element"),
        (lambda: ops.pair_relu(numbers(2, 3).half(), numbers(2, 3).half()), TypeError, "a: want float32, or float64"),
        (lambda: ops.relu_dot(numbers(2, 3), numbers(4)), ValueError, "weight: want 3 numbers"),
        (lambda: ops.relu_dot(numbers(2, 3).bfloat16(), numbers(3)), TypeError, "weight: want torch.float32"),
        (lambda: ops.relu_dot(numbers(2, 3).half(), numbers(3).float()), TypeError, "z: want float64, float32 or"),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_levels_give_the_same(level):
    if level == "avx2" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("no AVX2 here")
    environment = os.environ | {"MI_ESTIMATORS_SIMD": level, "PYTHONPATH": os.pathsep.join(sys.path)}
    names = "formulas or rounding or extreme or layouts"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout
