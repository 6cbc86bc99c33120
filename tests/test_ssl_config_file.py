"""Settings out of files, and the dry run: what is read, what is refused, and that nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mi_estimators import cli
from mi_estimators.ssl import METHODS, TrainConfig
from mi_estimators.ssl.config_file import read_settings, types_of
from mi_estimators.ssl.dry_run import dry_run

for module in ("typer", "rich", "yaml", "lightning_fabric", "kornia", "sklearn", "tensorboard"):
    pytest.importorskip(module)

FILE = """
method: simclr
batch_size: 32
steps: 2
lr: 1e-3          # a text to YAML 1.1
clip: 3
eval_every: 2
accelerator: cpu
data_dir: null
objective: er
kappa: 5
"""


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(FILE)
    return path


def test_settings_are_of_their_types(written):
    found = read_settings(written, "simclr")
    assert found == {
        "batch_size": 32, "steps": 2, "lr": 1e-3, "clip": 3.0, "eval_every": 2, "accelerator": "cpu",
        "objective": "er", "kappa": 5.0,
    }  # fmt: skip
    assert type(found["kappa"]) is type(found["clip"]) is type(found["lr"]) is float


def test_the_settings_of_a_run_can_be_read_again(tmp_path):
    import dataclasses

    config = TrainConfig("dino", out="there", options={"outputs": 16}).resolved()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(config)))
    found = read_settings(path, "dino")
    options = {name: found.pop(name) for name in config.options}
    assert TrainConfig("dino", options=options, **found) == config


def test_every_setting_has_a_type_that_files_know():
    for method in METHODS:
        assert set(types_of(method).values()) <= {int, float, str, bool}


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("stepps: 3", ValueError, "config: no setting of simclr in .*; got 'stepps' .did you mean 'steps'"),
        ("options: {temprature: 1.0}", ValueError, "did you mean 'temperature'"),
        ("bound: nwj", ValueError, "config: no setting of simclr"),
        ("method: byol", ValueError, "config: .* is of the method 'byol', want 'simclr'"),
        ("steps: many", TypeError, r"steps: want an integer, got 'many' \(str\) in "),
        ("steps: 2.5", TypeError, "steps: want an integer, got 2.5"),
        ("steps: true", TypeError, "steps: want an integer, got True"),
        ("lr: fast", TypeError, "lr: want a number, got 'fast'"),
        ("data: 3", TypeError, "data: want a text, got 3"),
        ("kappa: [1]", TypeError, "kappa: want a number"),
        ("kappa: 1\noptions: {kappa: 2}", ValueError, "gives 'kappa' twice"),
        ("- steps", ValueError, "config: want names and values in"),
        ("", ValueError, "config: want names and values in"),
        ("steps: {", ValueError, "config: .* is not YAML"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, error, words):
    path = tmp_path / "settings.yml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        read_settings(path, "simclr")


def test_wrong_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config: no file"):
        read_settings(tmp_path / "none.yaml", "simclr")
    for name, words in (("settings.toml", "config: want a file .yaml, .yml or .json"), ("a.json", "is not JSON")):
        (tmp_path / name).write_text("steps = 3")
        with pytest.raises(ValueError, match=words):
            read_settings(tmp_path / name, "simclr")


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")
    app, runner = cli.build_app(), CliRunner()
    return lambda *arguments: runner.invoke(app, arguments)


def test_the_command_line_goes_before_the_file(invoke, written):
    done = invoke("train", "simclr", "--config", str(written), "--kappa", "7", "--out", "run")
    assert done.exit_code == 0, done.output
    assert "rankme (held-out)" in done.output
    config = json.loads(Path("run/results.json").read_text())["config"]
    assert (config["options"]["kappa"], config["options"]["objective"]) == (7.0, "er")
    assert (config["batch_size"], config["clip"]) == (32, 3.0)
    refused = invoke("train", "byol", "--config", str(written))
    assert refused.exit_code == 2
    assert "error: --config: " in refused.output


def test_a_dry_run_estimates_and_writes_nothing(invoke, written, monkeypatch):
    state = torch.get_rng_state()
    done = invoke("train", "simclr", "--config", str(written), "--steps", "1000", "--dry-run")
    assert done.exit_code == 0, done.output
    for words in ("trained parameters", "a step", "the run, without probes", "memory"):
        assert words in done.output
    assert not list(Path().iterdir())
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setenv("RANK", "1")  # of torchrun's processes the first one prints
    quiet = invoke("train", "simclr", "--config", str(written), "--dry-run")
    assert (quiet.exit_code, "a step" in quiet.output) == (0, False)
    both = invoke("train", "simclr", "--dry-run", "--resume")
    assert both.exit_code == 2
    assert "error: --dry-run: cannot go with --resume" in both.output


def test_the_estimate_adds_steps_and_evaluations():
    found = dry_run(TrainConfig("mi-max", steps=1000, batch_size=32, eval_every=300, accelerator="cpu"))
    assert found.total_seconds == pytest.approx(1000 * found.step_seconds + 5 * found.evaluation_seconds)
    assert found.step_seconds > 0
    assert found.device == "cpu"
    assert found.parameters == 2 * (32 * 300 + 300 + 300 * 300 + 300 + 300 * 100 + 100) + 100 * 100
    assert 2**24 < found.memory_bytes < 2**40
