from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import Scenario, run_ranks
from torch import Tensor

from mi_estimators.distributed import average_gradient, gather_with_gradient, rank, rows_of_other_ranks, world_size
from mi_estimators.memory_bank import MemoryBank

DOUBLE = torch.float64
WORLDS = (2, 3)
PER_RANK = 5


def joined_rows(world: int, width: int = 4, seed: int = 3) -> Tensor:
    """The joined batch, the same in every process."""
    return torch.randn(world * PER_RANK, width, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def own(rows: Tensor, rank: int) -> Tensor:
    return rows[rank * PER_RANK : (rank + 1) * PER_RANK]


# ----------------------------------------------------------------------------------- scenarios: run in every process


def gathering(rank_: int, world: int) -> dict[str, object]:
    rows = own(joined_rows(world), rank_).clone().requires_grad_()
    gathered = gather_with_gradient(rows)
    # Rank r's loss is r + 1 times a function of all rows, so that the sum over ranks differs from any one of them.
    ((rank_ + 1) * gathered.sin().sum()).backward()
    return {
        "gathered": gathered.detach(),
        "gradient": rows.grad,
        "others": rows_of_other_ranks(rows.detach()),
        "labels": gather_with_gradient(torch.arange(PER_RANK) + 10 * rank_),
        "columns": gather_with_gradient(rows.detach().T.contiguous().T),
        "vector": gather_with_gradient(rows.detach()[:, 0]),
        "place": (rank(), world_size()),
    }


def twice_differentiated(rank_: int, world: int) -> Tensor:
    rows = own(joined_rows(world), rank_).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gather_with_gradient(rows).pow(3).sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), rows)
    return second


def raised(function, *arguments) -> str:
    with pytest.raises(ValueError) as error:
        function(*arguments)
    return str(error.value)


def uneven(rank_: int, world: int) -> dict[str, str]:
    errors = {
        "rows": raised(gather_with_gradient, torch.zeros(3 + rank_, 2)),
        "widths": raised(gather_with_gradient, torch.zeros(3, 2 + rank_)),
        "one is empty": raised(gather_with_gradient, torch.zeros(3 if rank_ else 0, 2)),
        "all are empty": raised(gather_with_gradient, torch.zeros(0, 2)),
    }
    first = dist.new_group([0])  # every rank has to call it
    if rank_:
        errors["not in the group"] = raised(gather_with_gradient, torch.zeros(3, 2), first)
    else:
        assert gather_with_gradient(torch.zeros(3, 2), first).shape == (3, 2)
    return errors


def averaging(rank_: int, world: int) -> Tensor:
    scale = torch.tensor(2.0, requires_grad=True)
    (average_gradient(scale) * (rank_ + 1)).backward()
    return scale.grad


def banks(rank_: int, world: int) -> dict[str, Tensor]:
    keys = own(joined_rows(world), rank_)
    of_all = MemoryBank(world * PER_RANK + 2, 4, gather_distributed=True).double()
    of_own = MemoryBank(PER_RANK + 2, 4).double()
    of_all.update(keys)
    of_own.update(keys)
    return {"all": of_all.entries, "own": of_own.entries}


SCENARIOS: dict[str, Scenario] = {
    "gathering": gathering,
    "twice_differentiated": twice_differentiated,
    "uneven": uneven,
    "averaging": averaging,
    "banks": banks,
}


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world}-ranks")
def ranks(request, tmp_path_factory):
    world = request.param
    return world, run_ranks(world, tmp_path_factory.mktemp(f"ranks{world}"), SCENARIOS)


# ------------------------------------------------------------------------------------------------------------ tests


def test_rows_come_in_rank_order(ranks):
    world, results = ranks
    joined = joined_rows(world)
    for r, got in enumerate(results["gathering"]):
        assert torch.equal(got["gathered"], joined)
        assert torch.equal(got["columns"], joined)
        assert torch.equal(got["vector"], joined[:, 0])
        assert torch.equal(got["others"], torch.cat([own(joined, s) for s in range(world) if s != r]))
        assert got["labels"].tolist() == [10 * s + i for s in range(world) for i in range(PER_RANK)]
        assert got["place"] == (r, world)


def test_a_row_gets_the_gradients_of_all_ranks(ranks):
    world, results = ranks
    for r, got in enumerate(results["gathering"]):
        want = world * (world + 1) / 2 * own(joined_rows(world), r).cos()
        torch.testing.assert_close(got["gradient"], want)


def test_the_gather_is_differentiated_twice(ranks):
    # On every rank f = sum of cubes; its gradient at a row sums P of them, and so does that of the gradient's square.
    world, results = ranks
    for r, got in enumerate(results["twice_differentiated"]):
        rows = own(joined_rows(world), r)
        torch.testing.assert_close(got, 2 * (3 * world * rows.square()) * 6 * rows * world)


def test_sizes_that_differ_are_named_on_every_rank(ranks):
    world, results = ranks
    for r, got in enumerate(results["uneven"]):
        assert f"want as many rows on every rank, got {[3 + s for s in range(world)]}" in got["rows"]
        assert f"rows of one size on every rank, got {[2 + s for s in range(world)]}" in got["widths"]
        assert f"want as many rows on every rank, got {[0] + [3] * (world - 1)}" in got["one is empty"]
        assert "want at least one row" in got["all are empty"]
        assert r == 0 or "group: want a process group that holds this process" in got["not in the group"]


def test_a_parameter_beside_ddp_gets_the_mean_gradient(ranks):
    world, results = ranks
    for got in results["averaging"]:
        assert got.item() == pytest.approx((world + 1) / 2)


def test_a_memory_bank_takes_in_the_keys_of_all_ranks(ranks):
    world, results = ranks
    joined = F.normalize(joined_rows(world), dim=1)
    for r, got in enumerate(results["banks"]):
        torch.testing.assert_close(got["all"][: world * PER_RANK], joined)
        torch.testing.assert_close(got["own"][:PER_RANK], own(joined, r))


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 2)
    assert gather_with_gradient(rows) is rows
    assert average_gradient(rows) is rows
    assert (rank(), world_size()) == (0, 1)
    assert rows_of_other_ranks(rows).shape == (0, 2)
    with pytest.raises(ValueError, match="tensor: want at least one dimension"):
        gather_with_gradient(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"tensor: want a torch\.Tensor"):
        gather_with_gradient([1.0])
