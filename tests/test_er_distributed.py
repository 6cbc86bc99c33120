"""The ER bound and KoLeo over two processes are those of one that has the joined batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from processes import run_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mi_estimators.joined import er_bound
from mi_estimators.losses import EntropyReconstruction, KoLeo

DOUBLE = torch.float64
WORLD, PER_RANK = 2, 5

# Keywords of EntropyReconstruction, beside gather_distributed.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"bandwidth": 3.0},
    "paper": {"bandwidth": 3.0, "leave_one_out": False, "reduction": "plug_in"},
    "rule": {"bandwidth": "loo"},
    "shared": {"bandwidth": "loo", "reconstruction_bandwidth": "shared", "queue": (12, 4)},
    "euclidean, rule": {"support": "euclidean", "bandwidth": "loo", "symmetric": False, "entropy_of": "both"},
    "queue": {"bandwidth": 3.0, "queue": (12, 4)},
    "learned": {"bandwidth": 3.0, "learnable_bandwidth": True, "entropy_weight": 0.5},
    "distillation": {"bandwidth": 3.0, "symmetric": False, "entropy_of": "first", "stop_gradient": True},
    "discrete": {"support": "discrete", "logits": True, "queue": (12, 4)},
}


def encoder_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def images(step: int, view: int) -> Tensor:
    """The joined batch, the same in every process; views of an image are close."""
    base, noise = (
        torch.randn(WORLD * PER_RANK, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
        for seed in (step, 10 * step + view + 1)
    )
    return base + 0.3 * noise


def flat_gradient(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def two_steps(encoder: nn.Module, loss: nn.Module, rows: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Values and gradients of two steps; the second sees what the first put in a queue."""
    values = []
    for step in range(2):
        z1, z2 = encoder(torch.cat([rows(images(step, view)) for view in range(2)])).chunk(2)
        value = loss(z1) if isinstance(loss, KoLeo) else loss(z1, z2)
        values.append(value.detach())
        # A rank's KoLeo is its part of the mean; the bound is the whole, of which any function may be taken.
        (value if isinstance(loss, KoLeo) else value.sin()).backward()
    result: dict[str, Any] = {"loss": torch.stack(values), "gradient": flat_gradient(encoder)}
    if list(loss.parameters()):
        result["learned"] = flat_gradient(loss)
    if isinstance(loss, EntropyReconstruction):
        result["ceiling"] = loss.last.ceiling
    return result


def losses_of(rank: int, world: int) -> dict[str, Any]:
    def own(rows: Tensor) -> Tensor:
        return rows[rank * PER_RANK : (rank + 1) * PER_RANK]

    results = {}
    for name, keywords in SETTINGS.items():
        loss = EntropyReconstruction(**keywords, gather_distributed=True).double()
        results[name] = two_steps(DistributedDataParallel(encoder_of(1)), loss, own)
    results["koleo"] = two_steps(DistributedDataParallel(encoder_of(1)), KoLeo(gather_distributed=True), own)
    # A single pair on each rank is enough for the joined batch.
    single = images(0, 0)[rank : rank + 1], images(0, 1)[rank : rank + 1]
    results["single"] = er_bound(*single, bandwidth=3.0).value
    with pytest.raises(ValueError, match="want as many rows on every rank"):
        er_bound(*(images(0, 0)[: 3 + rank],) * 2, bandwidth=3.0)
    return results


@pytest.mark.filterwarnings("ignore:the ER estimate:UserWarning")
def test_two_processes_have_the_bound_of_the_joined_batch(tmp_path):
    ranks = run_ranks(WORLD, tmp_path, {"losses": losses_of})["losses"]
    for name, keywords in SETTINGS.items():
        want = two_steps(encoder_of(1), EntropyReconstruction(**keywords).double(), lambda rows: rows)
        for got in ranks:  # every rank has the whole bound
            torch.testing.assert_close(got[name], want, rtol=1e-5, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}")
    single = er_bound(images(0, 0)[:WORLD], images(0, 1)[:WORLD], bandwidth=3.0).value
    for got in ranks:
        torch.testing.assert_close(got["single"], single)
    # KoLeo's value is of the points of a rank; the mean over ranks is of all.
    want = two_steps(encoder_of(1), KoLeo(), lambda rows: rows)
    torch.testing.assert_close(torch.stack([got["koleo"]["loss"] for got in ranks]).mean(0), want["loss"])
    for got in ranks:
        torch.testing.assert_close(got["koleo"]["gradient"], want["gradient"])
