"""The training loop: what a run writes, how it learns, stops, resumes bit for bit, and refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_estimators.image_sets import load
from mi_estimators.ssl import METHODS, Interrupted, Method, Preset, TrainConfig, resume, train
from mi_estimators.ssl import checkpoint as checkpoint_module
from mi_estimators.ssl.heldout import warn_at_the_ends, warn_of_collapse
from mi_estimators.ssl.methods.mi_max import MIMax
from mi_estimators.ssl.trainer import Trainer

for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard"):
    pytest.importorskip(module)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {}),
    "simclr-er": ("simclr", {"objective": "er"}),
    "simclr-er-loo": ("simclr", {"objective": "er", "bandwidth": "loo", "projection": 8}),
    "mi-max": ("mi-max", {}),
    "mi-max-nwj": ("mi-max", {"bound": "nwj", "critic": "inner_product"}),
    "mi-max-mine": ("mi-max", {"bound": "mine", "critic": "concatenated"}),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(method: str, out: Path, **fields: Any) -> TrainConfig:
    settings: dict[str, Any] = {"steps": 30, "batch_size": 64, "lr": 1e-3, "eval_every": 15, "checkpoint_every": 10}
    if method == "mi-max":
        settings["view"] = "halves"
    return TrainConfig(method=method, out=str(out), accelerator="cpu", **{**settings, **fields})


@pytest.fixture(scope="module", params=VARIANTS)
def finished(request, tmp_path_factory) -> tuple[str, Path, dict[str, Any]]:
    method, options = VARIANTS[request.param]
    out = tmp_path_factory.mktemp("run") / request.param
    return request.param, out, train(tiny(method, out, steps=60, eval_every=20, options=options))


def test_a_method_learns_without_breaking_the_probe(finished):
    _, _, results = finished
    history, probe = results["history"], results["probe"]
    assert [row["step"] for row in history] == [0, 20, 40, 60]
    assert history[-1]["test_loss"] < history[0]["test_loss"]
    assert history[-1]["loss"] < history[1]["loss"]
    assert history[-1]["infonce"] > history[0]["infonce"]
    assert probe["after"] > probe["before"] - 0.15
    assert 0.5 < probe["after"] <= 1


def test_held_out_bounds_are_consistent(finished):
    name, _, results = finished
    for row in results["history"]:
        assert row["cap"] == pytest.approx(math.log(64))
        assert row["infonce"] <= row["cap"]
        assert row["er_bound"] == pytest.approx(row["entropy"] + row["reconstruction"], abs=1e-4)
        assert row["entropy"] > row["entropy_floor"]
        assert 1 <= row["rankme"] <= 100
        assert 0 <= row["alignment"] <= 4
        assert -8 <= row["uniformity"] <= 0
        assert 0.1 < row["knn"] <= 1
        assert "teacher_distance" not in row
        assert ("nwj" in row) == (name == "mi-max-nwj")
    if name == "mi-max":
        assert results["heldout"]["test_loss"] == pytest.approx(-results["heldout"]["infonce"], abs=1e-5)
    if name == "simclr-er":
        row = results["heldout"]
        assert row["loss"] == pytest.approx(-row["train_entropy"] - row["train_reconstruction"], abs=1e-4)


def test_a_run_leaves_whole_files(finished):
    _, out, results = finished
    assert {path.name for path in out.iterdir()} == {
        "config.json", "checkpoint.pt", "results.json", "metrics.jsonl", "metrics.csv", "tensorboard",
    }  # fmt: skip
    assert json.loads((out / "results.json").read_text()) == results
    assert [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] == results["history"]
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["infonce"]) for row in rows] == [row["infonce"] for row in results["history"]]
    assert rows[0]["loss"] == ""
    assert list((out / "tensorboard").glob("events*"))


def state_of(out: Path) -> dict[str, Any]:
    return checkpoint_module.load(out / "checkpoint.pt")


def assert_same_bits(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same_bits(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same_bits(left, right)
    else:
        assert a == b


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from mi_estimators.ssl import TrainConfig, train

def die(done, total, row):
    if done == 23:
        os.kill(os.getpid(), signal.SIGKILL)

train(TrainConfig(method="simclr", out=sys.argv[1], steps=30, batch_size=64, lr=1e-3, eval_every=15,
                  checkpoint_every=10, accelerator="cpu", options={"objective": "er"}), progress=die)
"""


def test_a_run_killed_midway_and_resumed_repeats_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train(tiny("simclr", whole, options={"objective": "er"}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(killed)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert state_of(killed)["step"] == 20
    assert not (killed / "results.json").exists()
    (killed / ".checkpoint.pt.x.part").write_bytes(b"half")  # as if killed while it wrote

    results = resume(killed)
    assert results["history"] == expected["history"]
    assert results["probe"] == expected["probe"]
    a, b = state_of(whole), state_of(killed)
    for name in ("method", "optimizer", "step", "rows", "probe", "sums"):
        assert_same_bits(a[name], b[name])
    assert (whole / "metrics.csv").read_bytes() == (killed / "metrics.csv").read_bytes()
    assert not list(killed.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_the_step_saves_and_can_be_resumed(tmp_path, number):
    def stop(done: int, total: int, row: Any) -> None:
        if done == 7:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"{number.name}: stopped at step 7 of 12"):
        train(tiny("mi-max", tmp_path / "stopped", steps=12), progress=stop)
    assert signal.getsignal(number) is handler
    assert state_of(tmp_path / "stopped")["step"] == 7
    train(tiny("mi-max", tmp_path / "whole", steps=12))
    resume(tmp_path / "stopped")
    assert_same_bits(state_of(tmp_path / "whole")["method"], state_of(tmp_path / "stopped")["method"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_mixed_precision_trains(tmp_path, variant, precision, dtype):
    """With networks that do compute in the type, which finite results do not show."""
    method, options = VARIANTS[variant]
    seen = set()

    def note(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(module, torch.nn.Linear) and module.training:
            seen.add(output.dtype)

    with torch.nn.modules.module.register_module_forward_hook(note):
        results = train(tiny(method, tmp_path, steps=3, precision=precision, options=options))
    assert all(math.isfinite(value) for value in results["heldout"].values())
    assert seen == {dtype}


@pytest.mark.parametrize("clip", [None, 1.0])
def test_float16_trains_with_a_scaled_loss_and_resumes_bit_for_bit(tmp_path, clip):
    settings = {"precision": "16-mixed", "clip": clip}
    whole = train(tiny("mi-max", tmp_path / "whole", steps=8, **settings))
    assert all(math.isfinite(value) for value in whole["heldout"].values())
    scale = state_of(tmp_path / "whole")["loss_scale"]
    assert scale["scale"] > 1
    train(tiny("mi-max", tmp_path / "parts", steps=4, **settings))
    resume(tmp_path / "parts", steps=8)
    assert state_of(tmp_path / "parts")["loss_scale"] == scale
    assert_same_bits(state_of(tmp_path / "whole")["method"], state_of(tmp_path / "parts")["method"])


def test_views_are_made_in_full_precision(tmp_path, monkeypatch):
    """Rounded to a half type, the coordinates that a picture is warped by would be off by pixels."""
    trainer = Trainer(tiny("simclr", tmp_path, precision="bf16-mixed").resolved(), load("digits", None))
    make, seen = trainer.view, []

    def view(pixels):
        seen.append(torch.is_autocast_enabled("cpu"))
        return make(pixels)

    monkeypatch.setattr(trainer, "view", view)
    trainer.step(0)
    assert seen == [False]


def test_a_step_whose_gradients_overflow_is_skipped(tmp_path):
    """The weights stay, and the loss is scaled by less from then on."""
    trainer = Trainer(tiny("mi-max", tmp_path, precision="16-mixed").resolved(), load("digits", None))
    trainer.loss_scale = trainer.loss_scale | {"scale": 2.0**100}
    before = [parameter.detach().clone() for parameter in trainer.method.parameters()]
    trainer.step(0)
    assert trainer.loss_scale["scale"] == 2.0**99
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.method.parameters(), strict=True))


def test_a_finished_run_can_be_extended(tmp_path):
    train(tiny("mi-max", tmp_path / "short", steps=15))
    extended = resume(tmp_path / "short", steps=30)
    assert extended["history"] == train(tiny("mi-max", tmp_path / "long"))["history"]
    assert json.loads((tmp_path / "short" / "results.json").read_text())["config"]["steps"] == 30


def test_the_seed_decides_and_the_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    results = [train(tiny("mi-max", tmp_path / str(i), steps=5, seed=seed)) for i, seed in enumerate((0, 0, 1))]
    assert torch.equal(torch.get_rng_state(), before)
    assert results[0]["heldout"] == results[1]["heldout"] != results[2]["heldout"]


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("held") / "run"
    train(tiny("mi-max", out, steps=5))
    return out


def test_a_folder_that_holds_a_run_is_refused_and_untouched(held):
    before = {path: path.read_bytes() for path in held.iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match=r"out: .* already holds a run"):
        train(tiny("simclr", held))
    assert {path: path.read_bytes() for path in held.iterdir() if path.is_file()} == before


def test_overwrite_replaces_the_run_and_nothing_else(tmp_path):
    train(tiny("mi-max", tmp_path, steps=2))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "probe.json").write_text("{}")  # of mi-estimators probe: it would be taken for the new run's
    assert train(tiny("mi-max", tmp_path, steps=3), overwrite=True)["heldout"]["step"] == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "probe.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 0.5}, "lr: the run in .* has 0.001, which cannot become 0.5"),
        ({"method": "simclr"}, "method: the run in .* has 'mi-max', which cannot become 'simclr'"),
        ({"options": {"bound": "nwj"}}, "bound: the run in .* has 'infonce', which cannot become 'nwj'"),
        ({"steps": 4}, "steps: the run in .* is already at step 5, got 4"),
        ({"step": 9}, "step: no setting of a run; .*did you mean 'steps'"),
    ],
)
def test_a_resumed_run_keeps_its_settings(held, changes, words):
    with pytest.raises(ValueError, match=words):
        resume(held, **changes)


def test_resuming_on_other_images_is_refused(held, tmp_path):
    state = {name: value for name, value in state_of(held).items() if name != "format"}
    checkpoint_module.save(tmp_path / "checkpoint.pt", {**state, "data_digest": "of others"})
    with pytest.raises(ValueError, match="data_dir: the digits images there are not those"):
        resume(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"out: .*checkpoint\.pt is not a sound checkpoint"):
        resume(tmp_path)


def test_a_truncated_checkpoint_and_a_foreign_one_are_named(held, tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes((held / "checkpoint.pt").read_bytes()[:-1000])
    with pytest.raises(ValueError, match="not a sound checkpoint"):
        resume(tmp_path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of this package"):
        resume(tmp_path)


def test_a_checkpoint_of_other_networks_is_named(held, tmp_path):
    state = {name: value for name, value in state_of(held).items() if name != "format"}
    changed = {name: value for name, value in state["method"].items() if not name.startswith("bottom")}
    checkpoint_module.save(tmp_path / "checkpoint.pt", {**state, "method": changed})
    with pytest.raises(ValueError, match=r"out: .*checkpoint\.pt is of other networks than its settings make now: .*b"):
        resume(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_there_must_be_a_checkpoint_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match="out: no checkpoint at"):
        resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "simclrr"}, "method: want one of .*; got 'simclrr' .did you mean 'simclr'"),
        ({"data": "digit"}, "data: want one of .*did you mean 'digits'"),
        ({"view": "halfs"}, "view: want one of .*did you mean 'halves'"),
        ({"encoder": "mpl"}, "encoder: want one of convnet, mlp, .*; got 'mpl' .did you mean 'mlp'"),
        ({"options": {"temprature": 1.0}}, "temprature: no setting of simclr; .*did you mean 'temperature'"),
        ({"options": {"objective": "best"}}, "objective: want one of"),
        ({"options": {"bandwidth": "wide"}}, "bandwidth: want one of"),
        ({"options": {"temperature": 0.0}}, "temperature: want a finite value > 0"),
        ({"options": {"kappa": float("nan")}}, "kappa: want a finite value > 0"),
        ({"method": "mi-max", "options": {"bound": "club"}}, "bound: want one of"),
        ({"method": "mi-max", "options": {"critic": "conv"}}, "critic: want one of"),
        ({"batch_size": 5000}, "batch_size: want 2 to 1198"),
        ({"batch_size": 1}, "batch_size: want 2 to 1198"),
        ({"steps": 0}, "steps: want an integer >= 1, got 0"),
        ({"steps": 2.5}, "steps: want an integer >= 1, got 2.5"),
        ({"lr": -1.0}, "lr: want a finite value > 0"),
        ({"precision": "16"}, "precision: want one of"),
        ({"optimizer": "adman"}, "optimizer: want one of adam, adamw, lars, sgd; got 'adman' .did you mean 'adam'"),
        ({"optimizer": "lars", "lr": None}, "lr: want a learning rate for lars; the method's preset is Adam's"),
        ({"schedule": "cosin"}, "schedule: want one of constant, cosine; got 'cosin' .did you mean 'cosine'"),
        ({"warmup": 31}, "warmup: want at most the 30 steps of the run, got 31"),
        ({"sgd_momentum": 1.0}, "sgd_momentum: want a number from 0 to below 1"),
        ({"weight_decay": -1.0}, "weight_decay: want a finite value >= 0"),
        ({"clip": 0.0}, "clip: want a finite value > 0"),
        ({"accumulate": 3}, "accumulate: want parts of one size, got 3 of a batch of 64 images"),
        ({"accelerator": "abacus"}, "accelerator: "),
        ({"data_dir": "x"}, "data_dir: digits comes with"),
        ({"out": ""}, "out: want a folder"),
    ],
)
def test_wrong_settings_are_named_and_write_nothing(tmp_path, fields, words):
    config = tiny("simclr", tmp_path / "run")
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(config, **fields))
    assert not list(tmp_path.iterdir())


def test_out_cannot_be_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"out: .*file is not a folder"):
        train(tiny("mi-max", tmp_path / "file"))


class Toy(Method):
    """A method that breaks at a chosen step."""

    presets = {"mnist": Preset("halves", steps=4, batch_size=32, lr=1e-3)}  # noqa: RUF012 - as a method of the table has it

    def __init__(self, setting: Any, *, breaks_at: int = 0) -> None:
        super().__init__()
        self.encoder, self.breaks_at, self.calls = setting.make_encoder(0), breaks_at, 0

    def step(self, views: Any, index: Tensor | None) -> dict[str, Tensor]:
        z1, z2 = self.embed(views)
        self.calls += self.training
        penalty = z1.new_tensor(math.nan if self.training and self.calls == self.breaks_at else 0.0)
        return {"loss": -self.scores(z1, z2).diagonal().mean() + penalty, "train_penalty": penalty}

    def embed(self, views: Any) -> Any:
        return self.encoder(views[0]), self.encoder(views[1])

    def represent(self, view: Tensor) -> Tensor:
        return self.encoder(view)


@pytest.mark.filterwarnings("ignore:.*nothing is learnt")
def test_a_method_is_one_class_and_one_line_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Toy)
    results = train(TrainConfig(method="toy", out=str(tmp_path / "toy"), accelerator="cpu"))
    assert results["config"]["steps"] == 4
    assert results["config"]["options"] == {"breaks_at": 0}
    assert results["heldout"]["train_penalty"] == 0


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Toy)
    config = TrainConfig(
        method="toy", out=str(tmp_path / "toy"), checkpoint_every=2, accelerator="cpu", options={"breaks_at": 4}
    )
    with pytest.raises(FloatingPointError, match=r"step 4: loss is nan and train_penalty is nan .*checkpoint\.pt"):
        train(config)
    state = state_of(tmp_path / "toy")
    assert state["step"] == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["method"].values())
    assert not (tmp_path / "toy" / "results.json").exists()


def test_diverging_weights_are_never_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="step "):
        train(tiny("mi-max", tmp_path / "run", lr=1e30))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state_of(tmp_path / "run")["method"].values())


def test_a_held_out_value_that_is_not_finite_stops_the_run_and_is_named(tmp_path, monkeypatch):
    # The loss of the first step is finite, the weights after it are not, and the evaluation is the first to look.
    with pytest.raises(FloatingPointError, match=r"step 1, held-out: .* the last checkpoint is .*checkpoint\.pt"):
        train(tiny("mi-max", tmp_path / "weights", lr=1e30, eval_every=1))
    bounds = MIMax.bounds

    def infinite(self: MIMax, z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
        found = bounds(self, z1, z2)
        return found if not self.steps_taken else {**found, "nwj": found["nwj"] - math.inf}

    monkeypatch.setattr(MIMax, "bounds", infinite)
    monkeypatch.setattr(MIMax, "steps_taken", 0, raising=False)
    monkeypatch.setattr(MIMax, "end_step", lambda self: setattr(self, "steps_taken", 1))
    with pytest.raises(FloatingPointError, match=r"step 15, held-out: nwj is -inf; .*checkpoint\.pt"):
        train(tiny("mi-max", tmp_path / "bound", options={"bound": "nwj"}))
    assert state_of(tmp_path / "bound")["step"] == 10


def test_bounds_at_their_ends_warn(recwarn):
    warn_at_the_ends({"infonce": 2.0, "cap": 4.0}, 10)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="step 10: the held-out InfoNCE bound 3.990 sits at its ceiling log K = 4.000"):
        warn_at_the_ends({"infonce": 3.99, "cap": 4.0}, 10)
    with pytest.warns(UserWarning, match="the loss sits near log K"):
        warn_at_the_ends({"infonce": 0.01, "cap": 4.0}, 10)


def test_collapse_warns(recwarn):
    warn_of_collapse({"entropy": -40.0, "entropy_floor": -46.0, "rankme": 5.0}, 10)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="step 10: the entropy of the embeddings, -45.950 nats, is all but"):
        warn_of_collapse({"entropy": -45.95, "entropy_floor": -46.0, "rankme": 5.0}, 10)
    with pytest.warns(UserWarning, match="effective rank of the embeddings is 1.20"):
        warn_of_collapse({"entropy": -40.0, "entropy_floor": -46.0, "rankme": 1.2}, 10)
