"""``mi-estimators estimate``: the mutual information of columns of a file."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mi_estimators import _checks, _extras
from mi_estimators._files import replacing
from mi_estimators.commands.data_files import read_variables
from mi_estimators.commands.options import as_command, flag, parameter
from mi_estimators.console import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from mi_estimators.estimators import MIEstimate


def estimate_command() -> Callable[..., None]:
    """``estimate DATA --x ... --y ...``."""
    import typer

    from mi_estimators.estimators import ESTIMATORS
    from mi_estimators.estimators.resampling import INTERVALS, NULLS

    defaults = _defaults()
    data = Annotated[Path, typer.Argument(help="a file: .npz, .csv, .tsv or .parquet", show_default=False)]
    option = Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="NAME=VALUE of the estimator, such as k=5; ksg.k=5 among several"),
    ]
    columns = "names, ranges first:last and patterns like x*, separated by commas"
    parameters = [
        inspect.Parameter("data", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=data),
        parameter("x", str, f"columns (arrays of an .npz) of the first variable: {columns}", "x"),
        parameter("y", str, f"those of the second: {columns}", "y"),
        parameter("estimator", str, f"one or several, separated by commas: {', '.join(ESTIMATORS)}", "infonce"),
        parameter("base", str, "nats or bits", "nats"),
        parameter("seed", int, "of everything random", "0"),
        parameter("seeds", int, "number of runs with different seeds; the value is their mean", "1"),
        parameter("interval", str, f"how to make the interval: {', '.join(INTERVALS)}, or none", defaults["interval"]),
        parameter("level", float, "confidence level of the interval", str(defaults["level"])),
        parameter("resamples", int, "values behind a resampled interval", str(defaults["n_resamples"])),
        parameter("permutations", int, "values under independence for a p-value", "0"),
        parameter("null", str, f"how to make them: {', '.join(NULLS)}", "held_out where it can be, else permute"),
        inspect.Parameter("option", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option),
        parameter("plot", Path, "write a picture of the estimate here: .png, .pdf or .svg", False),
        flag("json", "print one JSON object"),
    ]
    return as_command(_estimate, parameters, "Estimate the mutual information of columns of a file.")


_NAMES = {"seeds": "n_seeds", "resamples": "n_resamples", "permutations": "n_permutations"}
"""Options whose setting in Python has another name."""


def _defaults() -> dict[str, Any]:
    from mi_estimators.estimators import MIEstimator

    return {name: found.default for name, found in inspect.signature(MIEstimator).parameters.items()}


def _estimate(given: dict[str, Any]) -> None:
    from mi_estimators.estimators import ESTIMATORS, MIEstimator, compare
    from mi_estimators.estimators.comparison import configured

    data, as_json, plot = given.pop("data"), given.pop("json"), given.pop("plot")
    x, y, items = given.pop("x") or "x", given.pop("y") or "y", given.pop("option") or ()
    names = [name.strip() for name in (given.pop("estimator") or "infonce").split(",")]
    settings = {_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    if settings.get("interval") == "none":
        settings["interval"] = None
    for name in names:
        _checks.choice("estimator", name, ESTIMATORS)
    options = _parsed(items, names)
    kinds = {ESTIMATORS[name].kind for name in names}
    if plot is not None:
        _check_plot(plot, names)
    try:
        if len(names) == 1:
            estimator = MIEstimator(names[0], **settings, **options[names[0]])
        else:
            configured(names, options, settings)
    except (TypeError, ValueError) as error:
        raise type(error)(_as_option(str(error), options)) from error
    variables = read_variables(data, {"x": x, "y": y}, kinds.pop() if len(kinds) == 1 else "mixed")
    if len(names) > 1:
        found = compare(variables["x"], variables["y"], names, options=options, **settings)
        if as_json:
            print(json.dumps([_plain(e.as_dict()) for e in found], indent=2))
            return
        print_table(found.table())
        print(*[f"{name}: {reason}" for name, reason in found.failures.items()], *found.remarks(), sep="\n")
        return
    result = estimator.estimate_with_info(variables["x"], variables["y"])
    if plot is not None:
        _write_plot(result, plot)
    if as_json:
        print(json.dumps(_plain(result.as_dict()), indent=2))
        return
    print_table(_table(result))
    if plot is not None:
        print(plot)


def _parsed(items: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``NAME=VALUE`` and ``ESTIMATOR.NAME=VALUE`` by estimator: literals of Python as such, anything else as text."""
    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for item in items:
        left, equals, text = (part.strip() for part in item.partition("="))
        of, dot, name = left.rpartition(".")
        if not equals or not name.isidentifier():
            raise ValueError(f"option: want NAME=VALUE or ESTIMATOR.NAME=VALUE, got {item!r}")
        if dot:
            _checks.choice("option", of, names)
        value: Any = text
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(text)
        for estimator in [of] if dot else names:
            options[estimator][name] = value
    return options


def _as_option(text: str, options: dict[str, dict[str, Any]]) -> str:
    """An error of a setting under the name it has on the command line."""
    name, colon, rest = text.partition(":")
    renamed = {of_python: name for name, of_python in _NAMES.items()}
    if any(name in given for given in options.values()):
        return f"option: {text}"
    return renamed.get(name, name) + colon + rest


def _check_plot(path: Path, names: list[str]) -> None:
    """Say before anything is computed that a picture could not be written."""
    _extras.require("matplotlib.figure", "plots")
    if len(names) > 1:
        raise ValueError(f"plot: shows one estimator, got {len(names)}")
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"plot: want a file .png, .pdf or .svg, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"plot: no folder {path.parent}")


def _write_plot(result: MIEstimate, path: Path) -> None:
    """Whole or not at all."""
    from mi_estimators.estimators import plot

    with replacing(path) as partial:
        plot(result).savefig(partial, format=path.suffix[1:].lower(), dpi=150)


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(result: MIEstimate) -> Table:
    from rich.table import Table

    from mi_estimators.estimators import ESTIMATORS
    from mi_estimators.estimators.resampling import INTERVALS

    table = Table(title=f"Mutual information, {result.estimator}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row(f"value ({result.base})", f"{result.value:.4f}")
    if result.clipped != result.value:
        table.add_row("clipped", f"{result.clipped:.4f}")
    if result.interval is not None and result.interval_method is not None:
        low, high = result.interval
        table.add_row(f"{100 * result.level:g} % interval", f"{low:.4f} to {high:.4f}")
        table.add_row("which covers", INTERVALS[result.interval_method])
    if len(result.seed_values) > 1:
        table.add_row("seeds", ", ".join(f"{value:.4f}" for value in result.seed_values))
    if result.p_value is not None:
        table.add_row("p (independence)", f"{result.p_value:.4g}, from {len(result.null)} permutations")
    if result.cap is not None:
        table.add_row("cap", f"{result.cap:.4f}" + (", reached: read the value as 'at least'" * result.saturated))
    kinds = {"lower": "lower bound", "upper": "upper bound", "neither": "neither a lower nor an upper bound"}
    table.add_row("is", f"{kinds[result.kind]}; {ESTIMATORS[result.estimator].note}")
    table.add_row("pairs", str(result.n))
    if result.curve:
        table.add_row("training steps", str(result.curve[-1][0]))
    table.add_row("seconds", f"{result.seconds:.1f}")
    return table
