"""What the commands share: options read off configuration classes, and errors as one line on standard error."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any


@contextmanager
def clear_errors(options: Mapping[str, str] = {}) -> Iterator[None]:
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


def option_name(name: str) -> str:
    """How an argument is written on a command line."""
    return "--" + name.replace("_", "-")


def as_command(
    body: Callable[[dict[str, Any]], None], parameters: list[inspect.Parameter], text: str
) -> Callable[..., None]:
    """A function with the given keyword parameters, for typer to read, that calls ``body`` with what was given."""

    def command(**given: Any) -> None:
        with clear_errors({name: option_name(name) for name in given}):
            body(given)

    command.__doc__ = text
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def parameter(name: str, kind: Any, text: str, shown: str | bool) -> inspect.Parameter:
    """An option that is None where it is not given: the configuration class holds the defaults."""
    import typer

    option = typer.Option(option_name(name), help=text, show_default=shown)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def flag(name: str, text: str) -> inspect.Parameter:
    """A switch that is off where it is not given."""
    import typer

    option = typer.Option(option_name(name), help=text)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])


def plain(kind: Any) -> Any:
    """The type a command line can read: of ``X | None`` X."""
    arguments = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    return arguments[0] if arguments and type(None) in typing.get_args(kind) else kind


def attribute_texts(documented: object, section: str = "Attributes:") -> dict[str, str]:
    """The descriptions in a section of a docstring, without cross-reference markup."""
    body = (inspect.getdoc(documented) or "").partition(section)[2].partition("\n\n")[0]
    texts = {name: " ".join(text.split()) for name, text in re.findall(r"(?ms)^    (\w+): (.*?)(?=^    \w|\Z)", body)}
    return {name: re.sub(r"(?::\w+:)?`+~?([^`]*)`+", r"\1", text) for name, text in texts.items()}


def settings_of(configuration: type, *, defaults: bool) -> tuple[list[inspect.Parameter], dict[str, type]]:
    """Options for the fields of a configuration class, and the types of the items of those that are lists."""
    hints = typing.get_type_hints(configuration)
    texts = attribute_texts(configuration)
    parameters, lists = [], {}
    for field in dataclasses.fields(configuration):
        default = field.default if defaults else None
        kind, text = plain(hints[field.name]), texts[field.name]
        if typing.get_origin(kind) is tuple:
            lists[field.name] = typing.get_args(kind)[0]
            kind, text = str, f"{text} Separated by commas."
        text_of_default = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        parameters.append(parameter(field.name, kind, text, False if default is None else text_of_default))
    return parameters, lists


def split_lists(chosen: dict[str, Any], lists: dict[str, type]) -> dict[str, Any]:
    """What was given, with the lists as tuples of their type; options that were not given are left out."""
    chosen = {key: value for key, value in chosen.items() if value is not None}
    for name in lists.keys() & chosen.keys():
        try:
            chosen[name] = tuple(lists[name](item.strip()) for item in chosen[name].split(","))
        except ValueError as error:
            raise ValueError(f"{name}: want values separated by commas, {error}") from error
    return chosen
