"""Functions run in several processes with gloo, for tests of what happens between ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Scenario = Callable[[int, int], Any]  # rank, world size -> something torch.save can write

_COLLECTIVE_SECONDS = 120
_PROCESS_SECONDS = 400


def _run_rank(rank: int, world: int, folder: str, scenarios: dict[str, Scenario]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    timeout = timedelta(seconds=_COLLECTIVE_SECONDS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timeout)
    results = {}
    for name, scenario in scenarios.items():
        torch.manual_seed(0)
        results[name] = scenario(rank, world)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run_ranks(world: int, folder: Path, scenarios: dict[str, Scenario]) -> dict[str, list[Any]]:
    """What each scenario returns on each rank. All run in one set of processes: starting them costs seconds."""
    context = mp.spawn(_run_rank, (world, str(folder), scenarios), nprocs=world, join=False)
    deadline = time.monotonic() + _PROCESS_SECONDS
    try:
        while not context.join(timeout=5):  # raises what a rank raised
            if time.monotonic() > deadline:
                raise TimeoutError(f"ranks did not finish within {_PROCESS_SECONDS} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    ranks = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    return {name: [results[name] for results in ranks] for name in scenarios}
