"""The command ``mi-estimators``: ``info``, ``estimate``, ``tightness``, ``train METHOD``, ``sweep``, ``probe RUN``,
``demo``.

``info`` needs the core install alone; the other commands need the extra ``[train]``, and say so. Options of ``train``
and ``tightness`` are read off the configuration classes, so a new method or setting needs no line here.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import inspect
import json
import platform
import sys
import typing
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mi_estimators import _extension
from mi_estimators.commands.estimate import estimate_command
from mi_estimators.commands.options import as_command, flag, parameter, plain
from mi_estimators.commands.probe import probe_command
from mi_estimators.commands.sweep import sweep_command
from mi_estimators.commands.tightness import tightness_group
from mi_estimators.console import print_table, progress_bar

if TYPE_CHECKING:
    import typer

_PACKAGES = (
    "numpy", "scipy", "lightning-fabric", "kornia", "scikit-learn", "tensorboard", "typer", "rich", "matplotlib",
    "pandas", "pyarrow",
)  # fmt: skip
_EXTRA = 'pip install "mi-estimators[train]"'


def main() -> None:
    """Run the command line of this process."""
    if importlib.util.find_spec("typer") and importlib.util.find_spec("rich"):
        build_app()(prog_name="mi-estimators")
    else:
        _main_without_typer(sys.argv[1:])


def _main_without_typer(arguments: list[str]) -> NoReturn:
    """The core install's command line: ``info [--json]``; anything else says what to install."""
    if arguments and arguments[0] == "info" and set(arguments[1:]) <= {"--json"}:
        show_info(as_json="--json" in arguments)
        sys.exit(0)
    print(f"mi-estimators: only `info [--json]` works without typer and rich; for the rest: {_EXTRA}", file=sys.stderr)
    sys.exit(1)


def show_info(*, as_json: bool) -> None:
    """Print versions and what was built, one line each or as one JSON object."""
    facts: dict[str, object] = {**_extension.info(), "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {'-' if value is None or value == '' else value}")


def build_app() -> typer.Typer:
    """The typer application; typer and rich are imported here and not before."""
    import typer

    from mi_estimators.ssl import METHODS

    app = typer.Typer(
        name="mi-estimators",
        help="Mutual-information and entropy estimators for PyTorch.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    as_json = flag("json", "print one JSON object")
    app.command("info")(
        as_command(
            lambda given: show_info(as_json=given["json"]),
            [as_json],
            "Show versions and which compiled kernels are active.",
        )
    )
    app.command("estimate")(estimate_command())
    app.add_typer(tightness_group(), name="tightness")
    group = typer.Typer(
        help="Train a method, with a linear probe before and after. Each has its own options: train METHOD --help",
        no_args_is_help=True,
    )
    for name in METHODS:
        group.command(name)(_train_command(name))
    app.add_typer(group, name="train")
    app.command("sweep")(sweep_command())
    app.command("probe")(probe_command())
    app.command("demo")(_demo_command())
    return app


def _train_command(name: str) -> Callable[..., None]:
    """``train NAME``: the settings of every run, then those of the method."""
    from mi_estimators.ssl import METHODS, TrainConfig
    from mi_estimators.ssl.config import PRESET_FIELDS, method_options

    method = METHODS[name]
    hints = typing.get_type_hints(TrainConfig)
    parameters = []
    for field in dataclasses.fields(TrainConfig):
        if "help" not in field.metadata:
            continue
        shown: str | bool = str(field.default) if field.default not in (None, dataclasses.MISSING) else False
        if field.name in PRESET_FIELDS:
            shown = ", ".join(f"{getattr(preset, field.name)} on {data}" for data, preset in method.presets.items())
        if field.name == "out":
            shown = f"runs/{name}"
        parameters.append(parameter(field.name, plain(hints[field.name]), field.metadata["help"], shown))
    method_hints = typing.get_type_hints(method.__init__, include_extras=True)
    settings = method_options(method)
    for key, setting in settings.items():
        kind, text = typing.get_args(method_hints[key])[:2]
        parameters.append(parameter(key, plain(kind), text, str(setting.default)))
    parameters.append(flag("resume", "continue the run in --out, bit for bit"))
    parameters.append(flag("overwrite", "replace the run in --out"))

    def body(given: dict[str, Any]) -> None:
        resume, overwrite = given.pop("resume"), given.pop("overwrite")
        if resume and overwrite:
            raise ValueError("overwrite: cannot go with --resume")
        chosen = {key: value for key, value in given.items() if value is not None}
        options = {key: chosen.pop(key) for key in list(chosen) if key in settings}
        _train(name, chosen, options, resume=resume, overwrite=overwrite)

    return as_command(body, parameters, inspect.getdoc(method) or "")


def _demo_command() -> Callable[..., None]:
    """``demo``: what ``make demo`` shows."""
    parameters = [
        parameter("out", Path, "folder of plots and results; a demo there is replaced", "runs/demo"),
        parameter("seed", int, "seed of everything random", "0"),
    ]

    def body(given: dict[str, Any]) -> None:
        from mi_estimators.demo import demo

        demo(given["out"] or Path("runs/demo"), seed=given["seed"] or 0)

    return as_command(
        body, parameters, "Bounds against known information, then three trainers on real digits. Takes minutes."
    )


def _train(name: str, chosen: dict[str, Any], options: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    from mi_estimators.ssl import TrainConfig
    from mi_estimators.ssl import resume as resume_run
    from mi_estimators.ssl import train as train_run
    from mi_estimators.ssl.processes import is_first

    out = chosen.pop("out", f"runs/{name}")
    first = is_first()
    with progress_bar(name) if first else nullcontext() as report:
        if resume:
            results = resume_run(out, progress=report, method=name, options=options, **chosen)
        else:
            config = TrainConfig(method=name, out=out, options=options, **chosen)
            results = train_run(config, overwrite=overwrite, progress=report)
    if first:
        show_run(results)


def show_run(results: Mapping[str, Any]) -> None:
    """Print a finished run: probe accuracies, then the held-out bounds in nats."""
    from rich.table import Table

    config, probe, row = results["config"], results["probe"], results["heldout"]
    table = Table(title=f"{config['method']} on {config['data']}, {row['step']} steps", title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, text in (("pixels", "raw pixels"), ("before", "before training"), ("after", "after training")):
        table.add_row(f"probe accuracy, {text}", f"{probe[name]:.4f}")
    table.add_section()
    for name in [name for name in row if name not in ("step", "cap")]:
        what = "mean over training batches" if name == "loss" or name.startswith("train_") else "held-out"
        table.add_row(f"{name} ({what}, nats)", f"{row[name]:.4f}")
    table.add_row("log K, the cap of infonce (nats)", f"{row['cap']:.4f}")
    print_table(table)
    print(Path(config["out"]) / "results.json")
