"""Training in two processes: the same weights, memories and terms as one process with the joined batch."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mi_estimators.image_sets import load
from mi_estimators.ssl import METHODS, Interrupted, TrainConfig, checkpoint, loop, resume, train
from mi_estimators.ssl.processes import started, with_joined_batch_norm
from mi_estimators.ssl.trainer import Trainer
from tests.processes import run_ranks

for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard"):
    pytest.importorskip(module)

STEPS = 2
VARIANTS: dict[str, dict[str, Any]] = {
    "instdisc": {},
    "instdisc-er": {"objective": "er"},
    "cmc": {},
    "cmc-bank": {"negatives": "bank"},
    "cmc-er": {"objective": "er"},
    "simclr": {},
    "simclr-er": {"objective": "er"},
    "simclr-er-loo": {"objective": "er", "bandwidth": "loo", "projection": 8},
    "moco": {"queue": 96},
    "moco-er": {"objective": "er", "queue": 96},
    "deepcluster": {"clusters": 8, "components": 8},
    "deepcluster-er": {"objective": "er", "clusters": 8, "components": 8},
    "deepcluster-v2": {"clusters": 8},
    "deepcluster-v2-er": {"objective": "er", "clusters": 8},
    "swav": {"prototypes": 16, "queue": 96, "frozen": 0.5},
    "swav-er": {"objective": "er", "prototypes": 16},
    "byol": {},
    "byol-er": {"objective": "er"},
    "simsiam": {},
    "simsiam-er": {"objective": "er"},
    "dino": {"outputs": 32, "frozen": 0.5},
    "dino-sinkhorn": {"centering": "sinkhorn", "outputs": 32},
    "dino-er": {"objective": "er", "outputs": 32},
    "mi-max": {},
    "mi-max-nwj": {"bound": "nwj"},
}
DIGITS = load("digits")


def method_of(variant: str) -> str:
    return max((name for name in METHODS if variant.startswith(name)), key=len)


def trained(variant: str, **fields: Any) -> dict[str, Any]:
    """State and terms after a few steps; views are halves, which are not random."""
    settings: dict[str, Any] = {"steps": STEPS + 1, "batch_size": 64, "lr": 0.02, "optimizer": "sgd", "view": "halves"}
    config = TrainConfig(
        method_of(variant), out="none", accelerator="cpu", options=VARIANTS[variant], **{**settings, **fields}
    )
    made = Trainer(config.resolved(), DIGITS)
    terms = [made.step(number) for number in range(STEPS)]
    return {"state": {name: value.clone() for name, value in made.method.state_dict().items()}, "terms": terms}


def as_torchrun(rank: int, world: int) -> None:
    """As torchrun would have started this process."""
    os.environ.update({
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0",
    })  # fmt: skip


def steps(rank: int, world: int) -> dict[str, Any]:
    as_torchrun(rank, world)
    found = {variant: trained(variant) for variant in VARIANTS}
    found["accumulated"] = trained("byol-er", accumulate=2)
    return found


def convolutional_norm(rank: int, world: int) -> tuple[Any, ...]:
    """Output, gradients and statistics of a network with joined batch norms, of this rank's share of the images."""
    network, images, weights = example()
    network = with_joined_batch_norm(network, torch.device("cpu"))
    own = images.chunk(world)[rank].clone().requires_grad_()
    out = network(own)
    (out * weights.chunk(world)[rank]).sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    for gradient in gradients:
        torch.distributed.all_reduce(gradient)
    return out.detach(), own.grad, gradients, dict(network.named_buffers())


def example() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, momentum=None), nn.ReLU(), nn.BatchNorm2d(3, affine=False)
    )
    images = torch.randn(6, 2, 4, 5)
    return network, images + 3, torch.randn(6, 3, 3, 4)


def whole_run(folder: str, rank: int, world: int) -> dict[str, Any]:
    """A run of all processes: its results in each, and which process wrote."""
    as_torchrun(rank, world)
    written, shown = [], []
    save = checkpoint.save
    checkpoint.save = lambda path, state: (written.append(state["step"]), save(path, state))[1]
    for probe in ("probe_pixels", "probe_method"):
        setattr(loop, probe, lambda *arguments: 0.5)
    config = TrainConfig(
        "simclr", out=f"{folder}/run", steps=4, batch_size=64, eval_every=2, checkpoint_every=2, accelerator="cpu"
    )
    results = train(config, progress=lambda done, total, row: shown.append(done))

    def stop(done: int, total: int, row: Any) -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGTERM)  # this process alone: the others have to hear of it

    try:
        resume(f"{folder}/run", steps=9, progress=stop)
    except Interrupted as error:
        stopped = str(error)
    torch.distributed.barrier()  # until the first one has written
    step = checkpoint.load(Path(folder, "run", "checkpoint.pt"))["step"]
    checkpoint.save = save
    return {"results": results, "written": written, "shown": shown, "stopped": stopped, "step": step}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    scenarios = {"steps": steps, "norm": convolutional_norm, "run": functools.partial(whole_run, str(folder))}
    return run_ranks(2, folder, scenarios), folder


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["state"].keys() == expected["state"].keys()
    for name, value in expected["state"].items():
        scale = max(1.0, float(value.double().abs().max()))
        error = (found["state"][name].double() - value.double()).abs().max() / scale
        assert error <= 1e-5, (name, float(error))
    for ours, theirs in zip(found["terms"], expected["terms"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("variant", [*VARIANTS, "accumulated"])
def test_two_processes_train_as_one_with_the_joined_batch(ranks, variant):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = trained("byol-er", accumulate=2) if variant == "accumulated" else trained(variant)
    torch.set_num_threads(threads)
    for found in ranks[0]["steps"]:
        assert_alike(found[variant], expected)


def test_joined_batch_norm_is_that_of_all_rows(ranks):
    network, images, weights = example()
    images.requires_grad_()
    out = network(images)
    (out * weights).sum().backward()
    for rank, (values, gradient, gradients, buffers) in enumerate(ranks[0]["norm"]):
        torch.testing.assert_close(values, out.detach().chunk(2)[rank], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, images.grad.chunk(2)[rank], rtol=1e-4, atol=1e-5)
        for found, parameter in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-4)
        for name, expected in network.named_buffers():
            torch.testing.assert_close(buffers[name], expected, rtol=1e-5, atol=1e-6)


def test_the_first_process_alone_writes_and_all_stop_together(ranks):
    first, second = ranks[0]["run"]
    assert first["results"] == second["results"]
    assert json.loads((ranks[1] / "run" / "config.json").read_text())["steps"] == 9
    assert first["written"] == [0, 2, 4, 6]
    assert first["shown"] == [1, 2, 3, 4]
    assert second["written"] == second["shown"] == []
    assert "SIGTERM: stopped at step 6 of 9" in first["stopped"]
    assert "stopped at step 6 of 9" in second["stopped"]
    assert first["step"] == second["step"] == 6
    assert [row["step"] for row in first["results"]["history"]] == [0, 2, 4]


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert started(None) == started(1) == (1, 1)
    with pytest.raises(ValueError, match=r"devices: want .* torchrun started, 1, got 4; start `torchrun --nproc-per-n"):
        started(4)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert started(None) == (8, 4)
