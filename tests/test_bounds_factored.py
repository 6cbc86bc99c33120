"""Bounds of embeddings: equal to those of the score matrix, gradients too, and nothing of its size is made."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mi_estimators import bounds
from mi_estimators.bounds import SCORE_BOUNDS, Factored, pairs

K, E = 7, 3


def embeddings(k=K, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(k, E, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2))


def per_pair(k=K):
    return torch.linspace(-1, 1.5, k, dtype=torch.float64, requires_grad=True)


FUNCTIONS = {name: (bound.value, ()) for name, bound in SCORE_BOUNDS.items()} | {
    "js_objective": (bounds.js_objective, ()),
    "tuba per y": (bounds.tuba, (per_pair(),)),
    "i_alpha": (lambda s, a: bounds.i_alpha(s, a, alpha=0.3), (per_pair(),)),
    "i_alpha 1": (lambda s: bounds.i_alpha(s, alpha=1.0), ()),
    "flo": (bounds.flo, (per_pair(),)),
    "mine": (
        lambda s: bounds.mine_step(s, s.new_tensor(0.3) if hasattr(s, "new_tensor") else s.u.new_tensor(0.3))[1],
        (),
    ),
    "smile 1": (lambda s: bounds.smile(s, clip=1.0), ()),
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)


@EVERY
@pytest.mark.parametrize("block", [1, 20, 1 << 20])  # one row at a time, two or three, all
def test_equal_to_the_matrix_with_gradients(name, block, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK_ELEMENTS", block)
    function, extra = FUNCTIONS[name]
    u, v = embeddings()
    inputs = (u, v, *extra)
    dense, factored = function(u @ v.T, *extra), function(Factored(u, v), *extra)
    torch.testing.assert_close(factored, dense, rtol=1e-10, atol=1e-10)
    weight = 1.7  # not the last layer
    wanted = torch.autograd.grad(weight * dense.exp(), inputs)
    found = torch.autograd.grad(weight * factored.exp(), inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@EVERY
def test_half_precision_is_reduced_in_float32(name):
    function, extra = FUNCTIONS[name]
    extra = tuple(e.detach().float() for e in extra)
    u, v = (t.detach() for t in embeddings(dtype=torch.bfloat16))
    value = function(Factored(u, v), *extra)
    assert value.dtype == torch.float32
    expected = function(u.double() @ v.double().T, *(e.double() for e in extra))
    assert abs(value.item() - expected.item()) <= 1e-5 * max(1, abs(expected.item()))


@EVERY
def test_non_contiguous_and_large_embeddings(name):
    function, extra = FUNCTIONS[name]
    u, v = (t.detach() for t in embeddings())
    apart = Factored(u.T.contiguous().T, torch.cat([v, v], dim=1)[:, :E])
    torch.testing.assert_close(function(apart, *extra), function(u @ v.T, *extra), rtol=1e-10, atol=1e-10)
    pushed = torch.eye(K, dtype=torch.float64) * 100  # scores of 1e4 on the diagonal, 0 elsewhere
    value = function(Factored(pushed, pushed), *extra)
    assert torch.isfinite(value)
    torch.testing.assert_close(value, function(pushed @ pushed.T, *extra), rtol=1e-10, atol=1e-10)


class Largest(TorchDispatchMode):
    """Largest number of elements that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@EVERY
def test_nothing_is_of_the_size_of_the_matrix(name, monkeypatch):
    k = 400
    monkeypatch.setattr(pairs, "_BLOCK_ELEMENTS", 10 * k)
    function, extra = FUNCTIONS[name]
    u, v = embeddings(k)
    extra = tuple(per_pair(k) for _ in extra)
    with Largest() as matrix:
        function(u @ v.T, *extra).backward()
    assert matrix.elements >= k * k  # the check sees what it is to see
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(Factored(u, v), *extra).backward()
    assert largest.elements <= 10 * k
    assert 0 < sum(saved.values()) <= 10 * k * E


def test_infonce_stays_under_its_cap():
    u = 50 * torch.eye(8)
    value = bounds.i_nce(Factored(u, u)).item()
    assert math.log(8) - 1e-6 <= value <= math.log(8) + 1e-6


@pytest.mark.parametrize(
    ("u", "v", "error", "match"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 2), ValueError, "v: want the shape of u"),
        (torch.zeros(3, 2), torch.zeros(3, 2).double(), TypeError, "v: want the dtype"),
        (torch.zeros(1, 2), torch.zeros(1, 2), ValueError, "u: want K >= 2"),
        (torch.zeros(3), torch.zeros(3, 2), ValueError, "u: want 2 dim"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2), TypeError, "u"),
        (torch.zeros(3, 2), torch.full((3, 2), math.nan), ValueError, "v: want finite"),
    ],
)
def test_bad_embeddings_are_named(u, v, error, match):
    with pytest.raises(error, match=match):
        Factored(u, v)
