"""The tables of the studies, for a page: see :mod:`benchmarks.publish`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.report import MET

Document = dict[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header and lines."""


def _bias(line: Document, method: str | None) -> str:
    if method is None:
        return ""
    error = line["standard_error"][method]
    return f"{line['bias'][method]:+.4f}" + ("" if error is None else f" ± {error:.4f}")


def _entropy(line: Document) -> str:
    error = line["entropy_error"]
    return f"{line['entropy']:.4f}" + (f" ± {error:.4f}" if error else "")


def bias(document: Document, distribution: str) -> Table:
    """A line a dimension and size: the best of our ``loo`` family and the best of all other libraries' rules."""
    header = (
        "d", "n", "seeds", "entropy", "ours", "bias", "best of the others", "bias", "ours, its seeds", "no larger"
    )  # fmt: skip
    chosen = [line for line in document["lines"] if line["distribution"] == distribution]
    if not chosen:
        raise ValueError(f"the study has no distribution {distribution!r}")
    lines = [
        (
            str(line["d"]), str(line["n"]), str(line["seeds"]), _entropy(line),
            (line["best"] or "").removeprefix("ours "), _bias(line, line["best"]),
            line["best_peer"] or "none has a rule", _bias(line, line["best_peer"]),
            "" if line["best_there"] is None else f"{line['best_there']:+.4f}",
            MET[line["met"]] if line["best_peer"] else "",
        )
        for line in sorted(chosen, key=lambda line: (line["d"], line["n"]))
    ]  # fmt: skip
    return header, lines


def rules(document: Document, distribution: str) -> Table:
    """The bias of every rule of ours at the largest size: a line a rule, a column a dimension."""
    chosen = [line for line in document["lines"] if line["distribution"] == distribution]
    if not chosen:
        raise ValueError(f"the study has no distribution {distribution!r}")
    n = max(line["n"] for line in chosen)
    of_size = sorted((line for line in chosen if line["n"] == n), key=lambda line: line["d"])
    names = list(dict.fromkeys(name for line in of_size for name in line["bias"] if name.startswith("ours ")))
    header = (f"rule, n = {n}", *(f"d = {line['d']}" for line in of_size))
    return header, [
        (name.removeprefix("ours "), *(_bias(line, name) if name in line["bias"] else "" for line in of_size))
        for name in names
    ]


def accuracy(document: Document, _: str) -> Table:
    """Probe accuracies of the ER study: a line a bandwidth."""
    per_seed = document["accuracy"]
    lines = [
        (name, f"{document['mean'][name]:.4f}", ", ".join(f"{value:.4f}" for value in values))
        for name, values in per_seed.items()
    ]
    baselines = [(text, f"{document['baselines'][name]:.4f}", "")
                 for name, text in (("pixels", "raw pixels"), ("before", "before training"))]  # fmt: skip
    return ("bandwidth", "mean", "each seed"), [*lines, *baselines]


def oracle_errors(document: Document, oracle: str) -> Table:
    """Relative errors against one library: a line a problem, a column for the value and every gradient."""
    names = ("value", "x", "y", "a", "b", "epsilon")
    chosen = [line for line in document["lines"] if line["oracle"] == oracle]
    if not chosen:
        raise ValueError(f"the study has no oracle {oracle!r}")
    allowed = document["allowed"][oracle]
    lines = [
        (
            f"{line['epsilon']:g}", "held" if line["rho"] is None else f"{line['rho']:g}",
            *(f"{line['errors'][name]:.1e}" if name in line["errors"] else "" for name in names),
            MET[all(error <= allowed for error in line["errors"].values())],
        )
        for line in chosen
    ]  # fmt: skip
    return ("epsilon", "rho", *names, f"all <= {allowed:.0e}"), lines


STUDIES: dict[str, dict[str, Callable[[Document, str], Table]]] = {
    "entropy": {"bias": bias, "rules": rules},
    "er": {"accuracy": accuracy},
    "oracles": {"errors": oracle_errors},
}
