"""The command line: what each command prints and writes, exit codes, error messages, and the core install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mi_estimators import cli
from mi_estimators._version import __version__
from mi_estimators.commands.options import clear_errors

for module in ("typer", "rich", "lightning_fabric", "kornia", "sklearn", "tensorboard"):
    pytest.importorskip(module)

TINY = ["--steps", "4", "--batch-size", "32", "--eval-every", "2", "--checkpoint-every", "2", "--accelerator", "cpu"]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Run a command in an empty folder; errors that are not the program's own are raised."""
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    app, runner = cli.build_app(), CliRunner()

    def run(*arguments: str):
        result = runner.invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_info_prints_versions_and_kernels(invoke):
    text = invoke("info").output
    assert __version__ in text
    facts = json.loads(invoke("info", "--json").output)
    assert facts["mi_estimators"] == __version__
    assert {"torch", "cpu_kernels", "cuda_kernels", "python", "numpy", "kornia", "typer"} <= set(facts)


def test_python_m_runs_the_same_command():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "mi_estimators", "info", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mi_estimators"] == __version__


@pytest.fixture
def without_typer(monkeypatch):
    """As if the core were installed alone."""
    find_spec = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "typer" else find_spec(name))


def test_info_needs_the_core_install_alone(without_typer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mi-estimators", "info", "--json"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["mi_estimators"] == __version__


@pytest.mark.parametrize("arguments", [[], ["train", "simclr"], ["--help"], ["info", "--yaml"]])
def test_other_commands_say_what_to_install(without_typer, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["mi-estimators", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert 'pip install "mi-estimators[train]"' in capsys.readouterr().err


def test_a_missing_extra_is_named(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    result = invoke("train", "simclr", *TINY)
    assert result.exit_code == 1
    assert "error: kornia.augmentation is not installed" in result.output
    assert 'pip install "mi-estimators[train]"' in result.output
    assert not list(Path().iterdir())


def test_train_writes_a_run_prints_its_probe_and_resumes(invoke):
    first = invoke("train", "mi-max", "--bound", "nwj", "--out", "run", *TINY)
    assert first.exit_code == 0, first.output
    for words in ("raw pixels", "before training", "after training", "nwj (held-out, nats)", "log K", "results.json"):
        assert words in first.output
    results = json.loads(Path("run/results.json").read_text())
    assert results["config"]["options"] == {"bound": "nwj", "critic": "bilinear", "target": 0.0}
    assert results["config"]["view"] == "augmented-halves"

    refused = invoke("train", "mi-max", "--out", "run", *TINY)
    assert refused.exit_code == 2
    assert "error: --out: run already holds a run" in refused.output

    changed = invoke("train", "mi-max", "--out", "run", "--resume", "--lr", "0.5")
    assert changed.exit_code == 2
    assert "error: --lr: the run in run has 0.001, which cannot become 0.5" in changed.output
    other = invoke("train", "simclr", "--out", "run", "--resume")
    assert "error: method: the run in run has 'mi-max'" in other.output

    longer = invoke("train", "mi-max", "--out", "run", "--resume", "--steps", "6")
    assert longer.exit_code == 0, longer.output
    assert json.loads(Path("run/results.json").read_text())["heldout"]["step"] == 6

    assert invoke("train", "mi-max", "--out", "run", "--overwrite", *TINY).exit_code == 0
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_train_has_the_options_of_its_method_alone(invoke):
    text = invoke("train", "simclr", "--help").output
    assert "--objective" in text
    assert "--temperature" in text
    assert "1500 on digits" in text
    assert "--bound" not in text
    assert "No such option" in invoke("train", "simclr", "--bound", "nwj").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simclr", "--objective", "best"], "error: --objective: want one of ['er', 'native'], got 'best'"),
        (
            ["simclr", "--data", "minst"],
            "want one of cifar-10, cifar-100, digits, fashion-mnist, folder, hf, mnist, npz; got 'minst'",
        ),
        (["simclr", "--data", "mnist"], "error: --data-dir: mnist needs the folder"),
        (["simclr", "--data", "mnist", "--data-dir", "nowhere"], "error: --data-dir: no folder 'nowhere'"),
        (["mi-max", "--batch-size", "9999"], "error: --batch-size: want 2 to 1198"),
        (["mi-max", "--resume"], "error: --out: no checkpoint at"),
        (["mi-max", "--resume", "--overwrite"], "error: --overwrite: cannot go with --resume"),
        (["mi-max", "--steps", "many"], "Invalid value for '--steps'"),
        (["mimax"], "No such command 'mimax'"),
    ],
)
def test_wrong_input_to_train_is_named_and_writes_nothing(invoke, arguments, words):
    result = invoke("train", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not list(Path().iterdir())


def test_a_diverging_run_ends_with_one_line(invoke):
    result = invoke("train", "mi-max", "--lr", "1e30", *TINY)
    assert result.exit_code == 1
    assert "error: step " in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stopped_run_exits_as_the_signal_would(name, code, capsys):
    import typer

    from mi_estimators.ssl import Interrupted

    with pytest.raises(typer.Exit) as stopped, clear_errors():
        raise Interrupted(f"{name}: stopped at step 3 of 9")
    assert stopped.value.exit_code == code
    assert capsys.readouterr().err == f"stopped: {name}: stopped at step 3 of 9\n"


def test_tightness_prints_a_table_and_writes_results(invoke):
    arguments = [
        "--bounds",
        "infonce,nwj",
        "--levels",
        "1,2",
        "--steps-per-level",
        "5",
        "--dim",
        "3",
        "--preset",
        "short",
    ]
    result = invoke("tightness", "staircase", *arguments, "--out", "stairs")
    assert result.exit_code == 0, result.output
    assert "infonce" in result.output
    stored = json.loads(Path("stairs/results.json").read_text())
    assert stored["config"]["levels"] == [1.0, 2.0]
    assert stored["config"]["bounds"] == ["infonce", "nwj"]
    again = invoke("tightness", "staircase", *arguments, "--out", "stairs")
    assert (again.exit_code, "error: --out: stairs already holds results" in again.output) == (2, True)
    assert invoke("tightness", "staircase", *arguments, "--out", "stairs", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bounds", "nope"], "error: --bounds: want one of"),
        (["--levels", "1,two"], "error: --levels: want values separated by commas, could not convert"),
        (["--batch-size", "1"], "error: --batch-size: want at least 2"),
    ],
)
def test_wrong_input_to_tightness_is_named(invoke, arguments, words):
    result = invoke("tightness", "staircase", *arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert not list(Path().iterdir())


@pytest.mark.filterwarnings("ignore:.*nothing is learnt")
def test_the_demo_prints_one_table_and_writes_plots_and_results(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from mi_estimators.demo import RUNS, demo

    tiny = {"steps": 4, "batch_size": 32, "eval_every": 2}
    summary = demo(tmp_path / "demo", changes=tiny, steps_per_level=3)
    assert json.loads((tmp_path / "demo" / "results.json").read_text()) == summary
    assert set(summary["training"]) == set(RUNS)
    assert {row["bound"] for row in summary["tightness"]} >= {"infonce", "nwj"}
    for name in ("training.png", "probes.png", "tightness/staircase.png"):
        assert (tmp_path / "demo" / name).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.count("┌") == 1
    for word in ("infonce", "I = 10", "pixels", "before", "after", "simclr-er", "log K"):
        assert word in printed
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
