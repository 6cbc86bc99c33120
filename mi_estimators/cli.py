"""The command ``mi-estimators``: ``info``, ``tightness``, ``train METHOD``, ``demo``.

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
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from mi_estimators import _extension
from mi_estimators.console import print_table, progress_bar

if TYPE_CHECKING:
    import typer

_PACKAGES = (
    "numpy", "scipy", "lightning-fabric", "kornia", "scikit-learn", "tensorboard", "typer", "rich", "matplotlib",
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

    as_json = _flag("json", "print one JSON object")
    app.command("info")(
        _as_command(
            lambda given: show_info(as_json=given["json"]),
            [as_json],
            "Show versions and which compiled kernels are active.",
        )
    )
    app.command("tightness")(_tightness_command())
    group = typer.Typer(
        help="Train a method, with a linear probe before and after. Each has its own options: train METHOD --help",
        no_args_is_help=True,
    )
    for name in METHODS:
        group.command(name)(_train_command(name))
    app.add_typer(group, name="train")
    app.command("demo")(_demo_command())
    return app


@contextmanager
def _clear_errors(options: Mapping[str, str] = {}) -> Iterator[None]:
    """Print an error that the user can act on as one line, argument names as options, and exit with a status for it."""
    import typer

    from mi_estimators.ssl import Interrupted

    def show(category: str, text: str) -> None:
        match = re.match(r"(\w+): ", text)
        if match and match[1] in options:
            text = options[match[1]] + text[len(match[1]) :]
        typer.echo(f"{category}: {text}", err=True)

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        show("warning", str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            yield
        except Interrupted as error:
            show("stopped", str(error))
            raise typer.Exit(143 if "SIGTERM" in str(error) else 130) from error
        except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
            show("error", str(error))
            raise typer.Exit(1 if isinstance(error, (FloatingPointError, ImportError)) else 2) from error


def _option_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def _as_command(
    body: Callable[[dict[str, Any]], None], parameters: list[inspect.Parameter], text: str
) -> Callable[..., None]:
    """A function with the given keyword parameters, for typer to read, that calls ``body`` with what was given."""

    def command(**given: Any) -> None:
        with _clear_errors({name: _option_name(name) for name in given}):
            body(given)

    command.__doc__ = text
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def _parameter(name: str, kind: Any, text: str, shown: str | bool) -> inspect.Parameter:
    """An option that is None where it is not given: the configuration class holds the defaults."""
    import typer

    option = typer.Option(_option_name(name), help=text, show_default=shown)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _flag(name: str, text: str) -> inspect.Parameter:
    """A switch that is off where it is not given."""
    import typer

    option = typer.Option(_option_name(name), help=text)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])


def _plain(kind: Any) -> Any:
    """The type a command line can read: of ``X | None`` X."""
    arguments = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    return arguments[0] if arguments and type(None) in typing.get_args(kind) else kind


def _train_command(name: str) -> Callable[..., None]:
    """``train NAME``: the settings of every run, then those of the method."""
    from mi_estimators.ssl import METHODS, TrainConfig
    from mi_estimators.ssl.loop import PRESET_FIELDS, method_options

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
        parameters.append(_parameter(field.name, _plain(hints[field.name]), field.metadata["help"], shown))
    method_hints = typing.get_type_hints(method.__init__, include_extras=True)
    settings = method_options(method)
    for key, setting in settings.items():
        kind, text = typing.get_args(method_hints[key])[:2]
        parameters.append(_parameter(key, _plain(kind), text, str(setting.default)))
    parameters.append(_flag("resume", "continue the run in --out, bit for bit"))
    parameters.append(_flag("overwrite", "replace the run in --out"))

    def body(given: dict[str, Any]) -> None:
        resume, overwrite = given.pop("resume"), given.pop("overwrite")
        if resume and overwrite:
            raise ValueError("overwrite: cannot go with --resume")
        chosen = {key: value for key, value in given.items() if value is not None}
        options = {key: chosen.pop(key) for key in list(chosen) if key in settings}
        _train(name, chosen, options, resume=resume, overwrite=overwrite)

    return _as_command(body, parameters, inspect.getdoc(method) or "")


def _tightness_command() -> Callable[..., None]:
    """``tightness``: the settings of the staircase, read off its configuration class."""
    from mi_estimators import tightness

    hints = typing.get_type_hints(tightness.TightnessConfig)
    texts = _attribute_texts(tightness.TightnessConfig)
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
        kind = str if field.name in lists else _plain(hints[field.name])
        parameters.append(_parameter(field.name, kind, text, shown))
    parameters.append(_flag("short", "a smaller critic and fewer steps: well under a minute"))
    parameters.append(_parameter("out", Path, "folder of results.json and staircase.png", "runs/tightness"))
    parameters.append(_flag("overwrite", "replace the results in --out"))

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

    return _as_command(body, parameters, "Train bounds on Gaussians whose mutual information is known, and compare.")


def _demo_command() -> Callable[..., None]:
    """``demo``: what ``make demo`` shows."""
    parameters = [
        _parameter("out", Path, "folder of plots and results; a demo there is replaced", "runs/demo"),
        _parameter("seed", int, "seed of everything random", "0"),
    ]

    def body(given: dict[str, Any]) -> None:
        from mi_estimators.demo import demo

        demo(given["out"] or Path("runs/demo"), seed=given["seed"] or 0)

    return _as_command(
        body, parameters, "Bounds against known information, then three trainers on real digits. Takes minutes."
    )


def _attribute_texts(configuration: type) -> dict[str, str]:
    """The descriptions in the ``Attributes:`` section of a configuration class, without cross-reference markup."""
    section = (inspect.getdoc(configuration) or "").partition("Attributes:")[2]
    texts = {
        name: " ".join(text.split()) for name, text in re.findall(r"(?ms)^    (\w+): (.*?)(?=^    \w|\Z)", section)
    }
    return {name: re.sub(r"(?::\w+:)?`+~?([^`]*)`+", r"\1", text) for name, text in texts.items()}


def _train(name: str, chosen: dict[str, Any], options: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    from mi_estimators.ssl import TrainConfig
    from mi_estimators.ssl import resume as resume_run
    from mi_estimators.ssl import train as train_run

    out = chosen.pop("out", f"runs/{name}")
    with progress_bar(name) as report:
        if resume:
            results = resume_run(out, progress=report, method=name, options=options, **chosen)
        else:
            config = TrainConfig(method=name, out=out, options=options, **chosen)
            results = train_run(config, overwrite=overwrite, progress=report)
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
