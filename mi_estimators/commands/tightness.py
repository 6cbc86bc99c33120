"""``mi-estimators tightness``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mi_estimators.commands.options import as_command, attribute_texts, flag, parameter, plain
from mi_estimators.console import print_table, progress_bar


def tightness_command() -> Callable[..., None]:
    """``tightness``: the settings of the staircase, read off its configuration class."""
    from mi_estimators import tightness

    hints = typing.get_type_hints(tightness.TightnessConfig)
    texts = attribute_texts(tightness.TightnessConfig)
    fields = dataclasses.fields(tightness.TightnessConfig)
    lists = {field.name: typing.get_args(hints[field.name])[0] for field in fields if isinstance(field.default, tuple)}
    parameters = []
    for field in fields:
        shown: str | bool = False if field.default is None else str(field.default)
        text = texts[field.name]
        if field.name in lists:
            shown, text = (
                ",".join(str(item) for item in typing.cast(tuple[object, ...], field.default)),
                f"{text} Separated by commas.",
            )
        kind = str if field.name in lists else plain(hints[field.name])
        parameters.append(parameter(field.name, kind, text, shown))
    parameters.append(flag("short", "a smaller critic and fewer steps: well under a minute"))
    parameters.append(parameter("out", Path, "folder of results.json and staircase.png", "runs/tightness"))
    parameters.append(flag("overwrite", "replace the results in --out"))

    def body(given: dict[str, Any]) -> None:
        short, overwrite, out = given.pop("short"), given.pop("overwrite"), given.pop("out") or Path("runs/tightness")
        chosen = {key: value for key, value in given.items() if value is not None}
        for name in lists.keys() & chosen.keys():
            try:
                chosen[name] = tuple(lists[name](item.strip()) for item in chosen[name].split(","))
            except ValueError as error:
                raise ValueError(f"{name}: want values separated by commas, {error}") from error
        config = (tightness.TightnessConfig.short if short else tightness.TightnessConfig)(**chosen)
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"out: {out} is not a folder")
        if (out / "results.json").exists() and not overwrite:
            raise FileExistsError(f"out: {out} already holds results; overwrite them or choose another")
        with progress_bar("tightness") as report:
            result = tightness.run(config, progress=report)
        paths = tightness.save(result, out)
        print_table(tightness.table(result))
        print(*paths, sep="\n")

    return as_command(body, parameters, "Train bounds on Gaussians whose mutual information is known, and compare.")
