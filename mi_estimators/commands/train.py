"""``mi-estimators train METHOD``: a run, its resumption, or an estimate of what it would take."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_estimators.commands.options import as_command, flag, parameter, plain
from mi_estimators.console import print_table, progress_bar

if TYPE_CHECKING:
    import typer

    from mi_estimators.ssl.dry_run import Estimate


def train_group() -> typer.Typer:
    """``train`` and a command for each method."""
    import typer

    from mi_estimators.ssl import METHODS

    group = typer.Typer(
        help="Train a method, with a linear probe before and after. Each has its own options: train METHOD --help",
        no_args_is_help=True,
    )
    for name in METHODS:
        group.command(name)(_train_command(name))
    return group


def _train_command(name: str) -> Callable[..., None]:
    """``train NAME``: the settings of every run, then those of the method."""
    from mi_estimators.ssl import METHODS, TrainConfig
    from mi_estimators.ssl.config import PRESET_FIELDS, method_options

    method = METHODS[name]
    hints = typing.get_type_hints(TrainConfig)
    parameters = [
        parameter("config", Path, "YAML file of settings, or a run's config.json; options go before it", False)
    ]
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
    parameters.append(flag("dry_run", "train a few steps, write nothing, and estimate time and memory of the run"))

    def body(given: dict[str, Any]) -> None:
        chosen = _with_file(given, name)
        flags = {key: chosen.pop(key) for key in ("resume", "overwrite", "dry_run")}
        if sum(flags.values()) > 1:
            one, other = [key for key, value in flags.items() if value][:2]
            raise ValueError(f"{other}: cannot go with --{one.replace('_', '-')}")
        options = {key: chosen.pop(key) for key in list(chosen) if key in settings}
        _train(name, chosen, options, **flags)

    return as_command(body, parameters, inspect.getdoc(method) or "")


def _with_file(given: dict[str, Any], name: str) -> dict[str, Any]:
    """What was given on the command line, and below it what --config gives."""
    from mi_estimators.ssl.config_file import read_settings

    path = given.pop("config")
    chosen = {key: value for key, value in given.items() if value is not None}
    return chosen if path is None else {**read_settings(path, name), **chosen}


def _train(
    name: str, chosen: dict[str, Any], options: dict[str, Any], *, resume: bool, overwrite: bool, dry_run: bool
) -> None:
    from mi_estimators.ssl import TrainConfig
    from mi_estimators.ssl import resume as resume_run
    from mi_estimators.ssl import train as train_run
    from mi_estimators.ssl.dry_run import dry_run as estimate_run
    from mi_estimators.ssl.processes import is_first

    out = chosen.pop("out", f"runs/{name}")
    first = is_first()
    if dry_run:
        estimate = estimate_run(TrainConfig(method=name, out=out, options=options, **chosen))
        if first:
            show_estimate(estimate, name)
        return
    with progress_bar(name) if first else nullcontext() as report:
        if resume:
            results = resume_run(out, progress=report, method=name, options=options, **chosen)
        else:
            config = TrainConfig(method=name, out=out, options=options, **chosen)
            results = train_run(config, overwrite=overwrite, progress=report)
    if first:
        show_run(results)


def show_estimate(estimate: Estimate, name: str) -> None:
    """Print what a run would take."""
    from rich.table import Table

    minutes, seconds = divmod(round(estimate.total_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    table = Table(title=f"{name}, estimated from a few steps", title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for text, value in (
        ("device", estimate.device),
        ("trained parameters", f"{estimate.parameters:,}"),
        ("a step", f"{1000 * estimate.step_seconds:.1f} ms"),
        ("an evaluation", f"{estimate.evaluation_seconds:.2f} s"),
        ("the run, without probes", f"{hours} h {minutes:02} min {seconds:02} s"),
        ("memory", f"{estimate.memory_bytes / 2**20:,.0f} MiB"),
    ):
        table.add_row(text, value)
    print_table(table)


def show_run(results: Mapping[str, Any]) -> None:
    """Print a finished run: probe accuracies, then the held-out bounds in nats and how embeddings are spread."""
    from rich.table import Table

    from mi_estimators.ssl.heldout import NO_NATS

    config, probe, row = results["config"], results["probe"], results["heldout"]
    table = Table(title=f"{config['method']} on {config['data']}, {row['step']} steps", title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, text in (("pixels", "raw pixels"), ("before", "before training"), ("after", "after training")):
        table.add_row(f"probe accuracy, {text}", f"{probe[name]:.4f}")
    table.add_section()
    for name in [name for name in row if name not in (*NO_NATS, "cap")]:
        what = "mean over training batches" if name == "loss" or name.startswith("train_") else "held-out"
        table.add_row(f"{name} ({what}, nats)", f"{row[name]:.4f}")
    table.add_row("log K, the cap of infonce (nats)", f"{row['cap']:.4f}")
    table.add_section()
    for name in [name for name in row if name in NO_NATS and name != "step"]:
        table.add_row(f"{name} (held-out)", f"{row[name]:.4f}")
    print_table(table)
    print(Path(config["out"]) / "results.json")
