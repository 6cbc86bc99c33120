"""``mi-estimators tightness``: the benchmark, and the commands beside it."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_estimators.commands.options import as_command, attribute_texts, flag, parameter, plain
from mi_estimators.console import print_table, progress_bar

if TYPE_CHECKING:
    import typer


def tightness_group() -> typer.Typer:
    """``tightness`` and its subcommands."""
    import typer

    group = typer.Typer(help="Estimators and bounds against tasks whose mutual information is known.")
    group.command("staircase")(_staircase_command())
    return group


def _settings(configuration: type) -> tuple[list[inspect.Parameter], dict[str, type]]:
    """Options for the fields of a configuration class, and the types of the items of those that are lists."""
    hints = typing.get_type_hints(configuration)
    texts = attribute_texts(configuration)
    parameters, lists = [], {}
    for field in dataclasses.fields(configuration):
        shown: str | bool = False if field.default is None else str(field.default)
        kind, text = plain(hints[field.name]), texts[field.name]
        if typing.get_origin(kind) is tuple:
            lists[field.name] = typing.get_args(kind)[0]
            shown = ",".join(str(item) for item in typing.cast(tuple[object, ...], field.default or ())) or False
            kind, text = str, f"{text} Separated by commas."
        parameters.append(parameter(field.name, kind, text, shown))
    return parameters, lists


def _split_lists(chosen: dict[str, Any], lists: dict[str, type]) -> dict[str, Any]:
    """What was given, with the lists as tuples of their type; options that were not given are left out."""
    chosen = {key: value for key, value in chosen.items() if value is not None}
    for name in lists.keys() & chosen.keys():
        try:
            chosen[name] = tuple(lists[name](item.strip()) for item in chosen[name].split(","))
        except ValueError as error:
            raise ValueError(f"{name}: want values separated by commas, {error}") from error
    return chosen


def _staircase_command() -> Callable[..., None]:
    """``staircase``: the settings of the staircase, read off its configuration class."""
    from mi_estimators import tightness

    parameters, lists = _settings(tightness.TightnessConfig)
    presets = ", ".join(tightness.PRESETS)
    parameters.append(parameter("preset", str, f"settings to start from: {presets}", "published"))
    parameters.append(parameter("out", Path, "folder of results.json and staircase.png", "runs/staircase"))
    parameters.append(flag("overwrite", "replace the results in --out"))

    def body(given: dict[str, Any]) -> None:
        preset, overwrite, out = (given.pop(name) for name in ("preset", "overwrite", "out"))
        out = out or Path("runs/staircase")
        config = tightness.TightnessConfig.preset(preset or "published", **_split_lists(given, lists))
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
