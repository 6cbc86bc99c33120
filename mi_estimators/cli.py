"""The command ``mi-estimators``: ``info``, ``estimate``, ``tightness``, ``train METHOD``, ``sweep``, ``probe RUN``,
``demo``.

``info`` needs the core install alone; the other commands need the extra ``[train]``, and say so. Options of ``train``
and ``tightness`` are read off the configuration classes, so a new method or setting needs no line here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import sys
from typing import TYPE_CHECKING, NoReturn

from mi_estimators import _extension
from mi_estimators.commands.demo import demo_command
from mi_estimators.commands.estimate import estimate_command
from mi_estimators.commands.options import as_command, flag
from mi_estimators.commands.probe import probe_command
from mi_estimators.commands.sweep import sweep_command
from mi_estimators.commands.tightness import tightness_group
from mi_estimators.commands.train import train_group

if TYPE_CHECKING:
    import typer

_PACKAGES = (
    "numpy", "scipy", "lightning-fabric", "kornia", "scikit-learn", "tensorboard", "typer", "rich", "PyYAML",
    "matplotlib", "pandas", "pyarrow",
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
    app.add_typer(train_group(), name="train")
    app.command("sweep")(sweep_command())
    app.command("probe")(probe_command())
    app.command("demo")(demo_command())
    return app
