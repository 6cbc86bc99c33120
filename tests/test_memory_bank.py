from __future__ import annotations

import copy
import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_estimators.memory_bank import MemoryBank

DOUBLE = torch.float64


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 12), max_size=6), seed=st.integers(0, 1000))
def test_entries_are_the_last_keys_in_a_ring(size, batches, seed):
    torch.manual_seed(seed)
    bank = MemoryBank(size, 3, normalize=False).double()
    queue = deque((entry.clone() for entry in bank.entries), maxlen=size)
    for count in batches:
        keys = torch.randn(count, 3, dtype=DOUBLE)
        before = bank(keys)
        assert sorted(before.tolist()) == sorted(torch.stack(list(queue)).tolist())
        queue.extend(keys)
    assert sorted(bank.entries.tolist()) == sorted(torch.stack(list(queue)).tolist())
    oldest_first = bank.entries.roll(-int(bank.position), 0)
    if sum(batches) and max(batches) <= size:
        assert torch.equal(oldest_first, torch.stack(list(queue)))


def test_entries_have_unit_length_from_the_start():
    bank = MemoryBank(6, 5)
    torch.testing.assert_close(bank.entries.norm(dim=1), torch.ones(6))
    bank.update(100 * torch.randn(4, 5))
    torch.testing.assert_close(bank.entries.norm(dim=1), torch.ones(6))
    assert not torch.equal(MemoryBank(6, 5).entries, MemoryBank(6, 5).entries)


def test_keys_get_no_gradient_and_an_update_leaves_the_backward_alone():
    bank = MemoryBank(6, 5)
    queries = torch.randn(3, 5, requires_grad=True)
    keys = torch.randn(3, 5, requires_grad=True)
    negatives = bank(keys)
    assert not negatives.requires_grad
    want = negatives.sum(dim=0).expand(3, 5).clone()
    (queries @ negatives.T).sum().backward()  # the bank has changed in between
    torch.testing.assert_close(queries.grad, want)
    assert keys.grad is None
    torch.testing.assert_close(bank.entries[:3], F.normalize(keys, dim=1))


def test_without_an_update_it_stays():
    bank = MemoryBank(4, 2)
    before = copy.deepcopy(bank.state_dict())
    assert torch.equal(bank(torch.randn(3, 2), update=False), before["entries"])
    assert torch.equal(bank.entries, before["entries"])
    assert bank.position == before["position"]


def test_checkpoints_hold_it():
    bank = MemoryBank(5, 3)
    bank.update(torch.randn(3, 3))
    saved = copy.deepcopy(bank.state_dict())
    assert set(saved) == {"entries", "position"}
    for fresh in (MemoryBank(5, 3), MemoryBank(5)):
        fresh.load_state_dict(saved)
        keys = torch.randn(4, 3)
        fresh.update(keys)
        resumed = copy.deepcopy(bank)
        resumed.update(keys)
        assert torch.equal(fresh.entries, resumed.entries)
        assert fresh.position == resumed.position == 2
    with pytest.raises(RuntimeError, match="size mismatch for entries"):
        MemoryBank(4).load_state_dict(saved)
    nested = torch.nn.Sequential(MemoryBank(5))
    nested.load_state_dict(torch.nn.Sequential(bank).state_dict())
    assert torch.equal(nested[0].entries, bank.entries)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_width_and_dtype_come_from_the_first_keys(dtype):
    bank = MemoryBank(8)
    keys = torch.randn(3, 4).to(dtype)
    assert bank(keys).dtype == dtype
    assert bank.entries.shape == (8, 4)
    assert bank.entries.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(bank.entries[:3], F.normalize(keys.to(bank.entries.dtype), dim=1))


@pytest.mark.cuda
def test_it_follows_its_keys_to_the_gpu():
    bank = MemoryBank(8, 4)
    assert bank(torch.randn(3, 4, device="cuda")).device.type == "cuda"
    assert bank.position.device.type == "cuda"


def test_it_compiles_to_one_graph():
    torch.compiler.reset()
    bank, twin = MemoryBank(7, 3), MemoryBank(7, 3)
    twin.load_state_dict(copy.deepcopy(bank.state_dict()))
    compiled = torch.compile(bank, backend="aot_eager", fullgraph=True)
    for _ in range(4):
        keys = torch.randn(3, 3)
        torch.testing.assert_close(compiled(keys), twin(keys))
    torch.testing.assert_close(bank.entries, twin.entries)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0,), ValueError, "size: want an integer >= 1"),
        ((2.5,), TypeError, "size: want an integer"),
        ((True,), TypeError, "size: want an integer"),
        ((4, 0), ValueError, "dim: want an integer >= 1"),
        ((4, "3"), TypeError, "dim: want an integer"),
    ],
)
def test_bad_settings_are_named(arguments, error, text):
    with pytest.raises(error, match=text):
        MemoryBank(*arguments)


def test_bad_keys_are_named():
    bank = MemoryBank(4, 3)
    with pytest.raises(ValueError, match="keys: want rows of width 3"):
        bank(torch.randn(2, 4))
    with pytest.raises(TypeError, match="keys: want a dtype"):
        bank(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="keys: want finite values"):
        bank.update(torch.full((2, 3), math.nan))
    assert torch.isfinite(bank.entries).all()


def test_a_bank_that_starts_empty_gives_out_what_has_come_in():
    bank = MemoryBank(5, 3, normalize=False, start="empty")
    assert bank(torch.randn(2, 3), update=False).shape == (0, 3)
    keys = torch.randn(12, 3)
    bank.update(keys[:2])
    assert torch.equal(bank(keys[2:4]), keys[:2])
    fresh = MemoryBank(5, start="empty", normalize=False)
    fresh.load_state_dict(copy.deepcopy(bank.state_dict()))
    for each in (bank, fresh):
        assert torch.equal(each(keys[4:6]), keys[:4])
        assert sorted(each(keys[6:]).tolist()) == sorted(keys[1:6].tolist())
        assert sorted(each(keys[:1]).tolist()) == sorted(keys[7:].tolist())
    # A checkpoint of a bank that was emptier.
    bank.load_state_dict(MemoryBank(5, 3, start="empty").state_dict())
    assert bank(keys, update=False).shape == (0, 3)
    with pytest.raises(ValueError, match="start: want one of"):
        MemoryBank(5, start="full")
