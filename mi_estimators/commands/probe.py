"""``mi-estimators probe RUN``: what can be read from the representation a run has reached."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from mi_estimators import _checks
from mi_estimators._files import write_json
from mi_estimators.commands.options import as_command, parameter
from mi_estimators.console import print_table, rich_table


def probe_command() -> Callable[..., None]:
    """The command, for typer."""
    import typer

    from mi_estimators.ssl.evaluation import PROBES

    folder = typer.Argument(help="folder of a run, whose checkpoint is read", show_default=False)
    parameters = [
        inspect.Parameter("run", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path, folder]),
        parameter("kind", str, f"probes, separated by commas: {', '.join(PROBES)}", "linear,knn"),
        parameter("data_dir", str, "folder of the data, if it has moved", False),
        parameter("accelerator", str, "device, if it shall be another: auto, cpu, cuda, mps", False),
        parameter("seed", int, "seed of draws, weights and plots", "0"),
        parameter("result", Path, "file of the result", "RUN/probe.json"),
        parameter("export", Path, "also write features and labels to this .npz or .safetensors", False),
        parameter("plot", str, "also draw test features in the plane: tsne or umap, to RUN/NAME.png", False),
    ]
    return as_command(_probe, parameters, "Read labels from the representation a run has reached, by several probes.")


def _probe(given: dict[str, Any]) -> None:
    from mi_estimators.ssl.evaluation import run as of_run

    folder, plot, exported, seed = given["run"], given["plot"], given["export"], given["seed"] or 0
    kinds = [kind.strip() for kind in ("linear,knn" if given["kind"] is None else given["kind"]).split(",")]
    result = given["result"] or folder / "probe.json"
    _checks.count("seed", seed, 0)
    of_run.check_kinds(kinds)  # what is wrong shows before anything is computed
    if exported is not None:
        of_run.check_export(exported)
    if plot is not None:
        of_run.check_map(plot)
    if not result.parent.is_dir() and given["result"] is not None:
        raise FileNotFoundError(f"result: no folder {result.parent}")
    found = of_run.representation_of(folder, data_dir=given["data_dir"], accelerator=given["accelerator"])
    values = of_run.evaluate_representation(found, kinds, seed=seed)
    write_json(result, values, indent=2)
    paths = [result]
    if exported is not None:
        of_run.export(found, exported)
        paths.append(exported)
    if plot is not None:
        paths.append(folder / f"{plot}.png")
        of_run.plot(found, plot, paths[-1], seed=seed)
    print_table(rich_table(f"{values['method']} on {values['data']}, step {values['step']}", *_rows(values["test"])))
    print(*paths, sep="\n")


def _rows(test: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for kind, value in test.items():
        if isinstance(value, float):
            rows.append([kind, f"{value:.4f}"])
        else:
            rows += [[f"{kind}, k = {k}", f"{one['mean']:.4f} ± {one['std']:.4f}"] for k, one in value.items()]
    return ["probe", "test accuracy"], rows
