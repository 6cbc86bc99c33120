"""Optimizers of the training loop against written-out formulas, schedules, clipping and accumulated gradients."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mi_estimators.image_sets import load
from mi_estimators.ssl import METHODS, Method, Preset, TrainConfig, checkpoint, loop, resume, train
from mi_estimators.ssl.config import method_options
from mi_estimators.ssl.lars import LARS
from mi_estimators.ssl.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, rate_factor
from mi_estimators.ssl.trainer import Trainer

for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard"):
    pytest.importorskip(module)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_lars_is_the_papers_formula():
    rates, momentum, decay, trust = (0.3, 0.1, 0.7), 0.9, 0.2, 0.01
    weight = nn.Parameter(torch.randn(3, 5, dtype=torch.float64))
    bias = nn.Parameter(torch.randn(5, dtype=torch.float64))
    groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0, "adapt": False}]
    optimizer = LARS(groups, lr=1.0, momentum=momentum, trust=trust)
    w, b = weight.detach().clone(), bias.detach().clone()
    v, u = torch.zeros_like(w), torch.zeros_like(b)
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        weight.grad, bias.grad = torch.randn_like(w), torch.randn_like(b)
        size, slope = math.sqrt(float((w**2).sum())), math.sqrt(float((weight.grad**2).sum()))
        local = trust * size / (slope + decay * size)
        v = momentum * v + rate * local * (weight.grad + decay * w)
        u = momentum * u + rate * bias.grad
        w, b = w - v, b - u
        optimizer.step()
        torch.testing.assert_close(weight.detach(), w, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(bias.detach(), b, rtol=1e-13, atol=1e-14)


def test_lars_leaves_what_has_no_gradient_and_takes_zeros():
    still, zero = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.zeros(2, 2))
    flat = nn.Parameter(torch.ones(2, 2))
    before = still.detach().clone()
    optimizer = LARS([still, zero, flat], lr=0.5)
    zero.grad, flat.grad = torch.ones(2, 2), torch.zeros(2, 2)
    assert optimizer.step(lambda: 3.0) == 3.0
    assert torch.equal(still, before)
    assert torch.equal(zero, torch.full((2, 2), -0.5))
    assert torch.equal(flat, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0.0}, "lr: want a finite value > 0"),
        ({"trust": float("inf")}, "trust: want a finite value > 0"),
        ({"momentum": -0.1}, "momentum: want a finite value >= 0"),
        ({"weight_decay": float("nan")}, "weight_decay: want a finite value >= 0"),
    ],
)
def test_lars_names_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        LARS([nn.Parameter(torch.ones(2))], **{"lr": 1.0, **settings})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_norms_do_not_decay(name):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    nn.init.ones_(network[0].bias)
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    optimizer = make_optimizer(name, network.parameters(), lr=0.1, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in network.named_parameters():
        # LARS scales a step by the size of the gradient, so that of zeros stays where it is decay alone.
        moved = not torch.equal(value, before[key])
        assert moved == (key == "0.weight"), key


def test_schedules():
    assert [rate_factor("constant", step, 8, 4) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    found = [rate_factor("cosine", step, 10, 2) for step in range(10)]
    expected = [0.5, 1.0, *((1 + math.cos(math.pi * step / 8)) / 2 for step in range(8))]
    assert found == pytest.approx(expected)
    for schedule in SCHEDULES:
        assert rate_factor(schedule, 0, 1) == 1.0


class Pulled(Method):
    """A loss that is a mean over images: each view's encoding is pulled to the other's and away from 0."""

    presets = {"mnist": Preset("halves", steps=4, batch_size=32, lr=1e-3)}  # noqa: RUF012 - as a method of the table has it

    def __init__(self, setting: Any) -> None:
        super().__init__()
        self.encoder = setting.make_encoder(0)

    def step(self, views: Any, index: Tensor | None) -> dict[str, Tensor]:
        z1, z2 = self.embed(views)
        return {"loss": ((z1 - z2) ** 2).mean() + (1 / (0.1 + (z1**2).mean(dim=1))).mean()}

    def embed(self, views: Any) -> Any:
        return self.encoder(views[0]), self.encoder(views[1])

    def represent(self, view: Tensor) -> Tensor:
        return self.encoder(view)


def trainer(method: str, **fields: Any) -> Trainer:
    settings: dict[str, Any] = {"steps": 4, "batch_size": 96, "lr": 1.0, "optimizer": "sgd", "sgd_momentum": 0.0}
    config = TrainConfig(method, out="none", accelerator="cpu", **{**settings, **fields})
    return Trainer(config.resolved(), load("digits"))


def moved(made: Trainer) -> Tensor:
    """What the first step changes in all weights."""
    before = nn.utils.parameters_to_vector(made.method.parameters()).detach().clone()
    made.step(0)
    return nn.utils.parameters_to_vector(made.method.parameters()).detach() - before


def test_accumulated_gradients_are_those_of_the_batch_where_the_loss_is_a_sum_over_images(monkeypatch):
    monkeypatch.setitem(METHODS, "pulled", Pulled)
    whole = moved(trainer("pulled"))
    for parts in (2, 3):
        difference = moved(trainer("pulled", accumulate=parts)) - whole
        assert difference.abs().max() <= 1e-5 * whole.abs().max()
    assert whole.abs().max() > 1e-3


def test_accumulated_terms_are_means_and_k_is_that_of_a_part(monkeypatch):
    monkeypatch.setitem(METHODS, "pulled", Pulled)
    assert trainer("pulled", accumulate=3).step(0)["loss"] == pytest.approx(trainer("pulled").step(0)["loss"], rel=1e-5)
    assert trainer("pulled", accumulate=3).candidates == 32


def test_a_bank_takes_in_every_part_of_a_batch():
    made = trainer("instdisc", accumulate=3, lr=1e-3)
    before = made.method.bank.entries.clone()
    made.step(0)
    changed = (made.method.bank.entries != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == sorted(made.batches[0].tolist())


def test_the_gradient_is_clipped_to_its_norm(monkeypatch):
    monkeypatch.setitem(METHODS, "pulled", Pulled)
    free = moved(trainer("pulled"))
    limit = float(free.norm()) / 4
    clipped = moved(trainer("pulled", clip=limit))
    torch.testing.assert_close(clipped, free / 4, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved(trainer("pulled", clip=1e6)), free, rtol=0, atol=0)


class Cut(Exception):
    """As if the process ended here."""


def cut(done: int, total: int, row: Any) -> None:
    if done == 7:
        raise Cut


@pytest.mark.filterwarnings("ignore:.*nothing is learnt")
@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "sgd", "schedule": "cosine", "warmup": 5, "lr": 0.1, "weight_decay": 1e-3, "clip": 0.5},
        {"optimizer": "lars", "schedule": "cosine", "lr": 1.0, "weight_decay": 1e-3, "accumulate": 2},
    ],
    ids=lambda fields: fields["optimizer"],
)
def test_a_resumed_run_repeats_the_whole_one_with_each_optimizer(tmp_path, monkeypatch, fields):
    for probe in ("probe_pixels", "probe_method"):
        monkeypatch.setattr(loop, probe, lambda *arguments: 0.5)

    def config(name: str) -> TrainConfig:
        common: dict[str, Any] = {"steps": 12, "batch_size": 64, "eval_every": 12, "checkpoint_every": 5}
        return TrainConfig("mi-max", out=str(tmp_path / name), accelerator="cpu", **common, **fields)

    whole = train(config("whole"))
    with pytest.raises(Cut):
        train(config("part"), progress=cut)
    assert resume(tmp_path / "part")["history"] == whole["history"]
    states = [checkpoint.load(Path(tmp_path / name / "checkpoint.pt")) for name in ("whole", "part")]
    for key in states[0]["method"]:
        assert torch.equal(states[0]["method"][key], states[1]["method"][key]), key
    first, second = (state["optimizer"]["state"] for state in states)
    assert first.keys() == second.keys()
    for key, held in first.items():
        for name, value in held.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key][name]))


def test_no_setting_of_a_method_has_the_name_of_one_of_every_run():
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    for name, method in METHODS.items():
        assert not fields & set(method_options(method)), name
