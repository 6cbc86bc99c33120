"""``mi-estimators tightness``: the benchmark, and the commands beside it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_estimators.commands.options import (
    as_command,
    attribute_texts,
    flag,
    parameter,
    plain,
    settings_of,
    split_lists,
)
from mi_estimators.console import print_table, progress_bar

if TYPE_CHECKING:
    import typer


def tightness_group() -> typer.Typer:
    """``tightness`` and its subcommands."""
    import typer

    group = typer.Typer()
    group.callback(invoke_without_command=True)(_benchmark_command())
    group.command("staircase")(_staircase_command())
    for name in ("consistency", "negatives"):
        group.command(name)(_study_command(name))
    return group


def _benchmark_command() -> Callable[..., None]:
    """``tightness`` itself: the settings of the benchmark, read off its configuration class."""
    import typer

    from mi_estimators import tightness

    own, lists = settings_of(tightness.BenchmarkConfig, defaults=False)  # the profiles hold them
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters.append(parameter("profile", str, f"settings to start from: {', '.join(tightness.PROFILES)}", "quick"))
    parameters.append(
        parameter("out", Path, "folder of cells, tables, plots and report.html", "runs/tightness-PROFILE")
    )
    parameters.append(parameter("jobs", int, "cells at the same time; -1 for as many as there are cores", "1"))
    backends = ", ".join(tightness.BACKENDS)
    parameters.append(parameter("backend", str, f"where they run: {backends}", "loky"))
    parameters += own

    def body(given: dict[str, Any]) -> None:
        if given.pop("context").invoked_subcommand is not None:
            return
        profile, out, jobs, backend = (given.pop(name) for name in ("profile", "out", "jobs", "backend"))
        config = tightness.BenchmarkConfig.profile(profile or "quick", **split_lists(given, lists))
        out = out or Path(f"runs/tightness-{profile or 'quick'}")
        with progress_bar("tightness") as report:
            results = tightness.run_benchmark(
                config, out, jobs=1 if jobs is None else jobs, backend=backend or "loky", progress=report
            )
        paths = tightness.save_report(results, out, environment=tightness.environment())
        print_table(tightness.ranking_as_rich(results))
        print(*paths, sep="\n")

    return as_command(
        body,
        parameters,
        "Estimators and bounds against tasks whose mutual information is known: a leaderboard, violations, plots. A "
        "run that was stopped goes on where it was.",
    )


def _staircase_command() -> Callable[..., None]:
    """``staircase``: the settings of the staircase, read off its configuration class."""
    from mi_estimators import tightness

    parameters, lists = settings_of(tightness.TightnessConfig, defaults=True)
    presets = ", ".join(tightness.PRESETS)
    parameters.append(parameter("preset", str, f"settings to start from: {presets}", "published"))
    parameters.append(parameter("out", Path, "folder of results.json and staircase.png", "runs/staircase"))
    parameters.append(flag("overwrite", "replace the results in --out"))

    def body(given: dict[str, Any]) -> None:
        preset, overwrite, out = (given.pop(name) for name in ("preset", "overwrite", "out"))
        out = out or Path("runs/staircase")
        config = tightness.TightnessConfig.preset(preset or "published", **split_lists(given, lists))
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"out: {out} is not a folder")
        if (out / "results.json").exists() and not overwrite:
            raise FileExistsError(f"out: {out} already holds results; overwrite them or choose another")
        with progress_bar("staircase") as report:
            result = tightness.run(config, progress=report)
        paths = tightness.save(result, out)
        print_table(tightness.table(result))
        print(*paths, sep="\n")

    return as_command(body, parameters, "Train bounds up a staircase of Gaussians whose mutual information is known.")


def _study_command(name: str) -> Callable[..., None]:
    """``consistency`` or ``negatives``: the arguments of the function that runs it."""
    from mi_estimators import tightness

    study = tightness.STUDIES[name]
    hints = typing.get_type_hints(study.run)
    texts = attribute_texts(study.run, section="Args:")
    parameters = []
    for argument in inspect.signature(study.run).parameters.values():
        if argument.name == "progress":
            continue
        listed = isinstance(argument.default, tuple)
        shown = ",".join(argument.default) if listed else str(argument.default)
        text = texts[argument.name] + (" Separated by commas." if listed else "")
        kind = str if listed else plain(hints[argument.name])
        parameters.append(parameter(argument.name, kind, text, False if argument.default is None else shown))
    parameters.append(parameter("out", Path, "file of the results", f"runs/{name}.json"))

    def body(given: dict[str, Any]) -> None:
        out = given.pop("out") or Path(f"runs/{name}.json")
        if out.exists():
            raise FileExistsError(f"out: {out} is there already; choose another")
        with progress_bar(name) as report:
            result = study.run(**split_lists(given, {"bounds": str}), progress=report)
        out.parent.mkdir(parents=True, exist_ok=True)
        tightness.write_json(out, result, indent=1)
        print_table(tightness.study_table(name, result))
        print(out)

    return as_command(body, parameters, study.summary)
