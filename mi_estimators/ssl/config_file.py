"""Settings of a run out of a file: YAML, or a run's own config.json."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mi_estimators import _checks
from mi_estimators._extras import require
from mi_estimators.ssl.config import TrainConfig, method_options
from mi_estimators.ssl.methods import METHODS

_WANTED = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def types_of(method: str) -> dict[str, type]:
    """Types of the settings of a run and of its method, by name; of ``X | None`` X."""
    hints = typing.get_type_hints(TrainConfig)
    own = typing.get_type_hints(METHODS[method].__init__)
    named = {name: hints[name] for name in hints if name != "options"}
    named |= {name: own[name] for name in method_options(METHODS[method])}
    return {
        name: next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
        for name, hint in named.items()
    }


def read_settings(path: str | Path, method: str) -> dict[str, Any]:
    """The settings that a file gives for a method, each of its type; what is null is left out.

    The method's own settings stand beside the others, or under ``options`` as in ``config.json``.

    Args:
        path: a file whose name ends in .yaml, .yml or .json.
        method: a key of :data:`~mi_estimators.ssl.METHODS`; a file that names one has to name this one.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a YAML file, and PyYAML is not installed.
        TypeError: a value of another type.
        ValueError: the file is no mapping of names, has a name that no setting has (the nearest is suggested), one name
            twice, or another method.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config: no file {str(path)!r}")
    given = dict(_mapping(_parsed(path), path))
    options = given.pop("options", None) or {}
    types = types_of(method)
    for name in _mapping(options, path):
        if name in given:
            raise ValueError(f"config: {path} gives {name!r} twice, once under options")
    settings = {}
    for name, value in {**given, **options}.items():
        if name not in types:
            raise ValueError(f"config: no setting of {method} in {path}; {_checks.unknown(name, types)}")
        if value is not None:
            settings[name] = _typed(name, value, types[name], path)
    named = settings.pop("method", method)
    if named != method:
        raise ValueError(f"config: {path} is of the method {named!r}, want {method!r}")
    return settings


def _parsed(path: Path) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"config: {path} is not JSON: {error}") from error
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"config: want a file .yaml, .yml or .json, got {path.name!r}")
    yaml = require("yaml", "train")
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from error


def _mapping(value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"config: want names and values in {path}, got {_checks.describe(value)}")
    return value


def _typed(name: str, value: Any, kind: type, path: Path) -> Any:
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a text, for it lacks a point
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name}: want {_WANTED[kind]}, got {_checks.describe(value)} in {path}")
    return value
