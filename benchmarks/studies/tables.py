"""The tables of the studies, for a page: see :mod:`benchmarks.publish`."""

from __future__ import annotations

import statistics
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


def agreement(document: Document, _: str) -> Table:
    """Ours and another library's value on the same samples."""
    return ("estimate", "library", "ours", "theirs", "met"), [
        (line["what"], line["with"], f"{line['ours']:.6f}", f"{line['theirs']:.6f}", MET[line["met"]])
        for line in document["agreement"]
    ]


def published(document: Document, _: str) -> Table:
    """Published values, each of one draw, beside ours of several."""
    return ("estimate", "truth", "published", "ours, each draw", "met"), [
        (line["what"], f"{line['truth']:.4f}", f"{line['published']:.4f}",
         " ".join(f"{value:.4f}" for value in line["ours"]), MET[line["met"]])
        for line in document["published"]
    ]  # fmt: skip


def examples(document: Document, _: str) -> Table:
    """What single estimators give on single tasks: a line a task, the mean and standard deviation over draws."""
    return ("variables", "pairs", "truth", "estimator", "mean ± std"), [
        (line["variables"], str(line["n"]), f"{line['truth']:.3f}", line["estimator"],
         f"{statistics.fmean(line['values']):.3f}"
         + (f" ± {statistics.stdev(line['values']):.3f}" if len(line["values"]) > 1 else ""))
        for line in document["examples"]
    ]  # fmt: skip


def timing(document: Document, _: str) -> Table:
    """Seconds of KSG by library, and the ratios that must be reached."""
    timed, rows = document["timing"], []
    for name, values in timed["seconds"].items():
        if values:
            bar = (
                (f"{statistics.median(timed['ratios'][name]):.1f}", f">= {timed['must_be'][name]:g}",
                 MET[document["bars"][name]])
                if name in timed["must_be"] else ("", "", "")
            )  # fmt: skip
            rows.append((name, f"{statistics.median(values):.3f}", *bar))
    return (f"library, n = {timed['n']}", "seconds", "time / ours", "must be", "met"), rows


def many_dimensions(document: Document, _: str) -> Table:
    """The Gaussian estimate in many dimensions."""

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    header = (
        "dependence in",
        "seed",
        "truth",
        "estimate",
        "standard error",
        "plug-in",
        "Ledoit-Wolf",
        "OAS",
        "seconds",
    )
    return header, [
        (f"{line['pairs']} of {line['dim']}", str(line["seed"]), f"{line['truth']:g}", number(line["value"], 3),
         number(line["std"], 3), *(number(line[name], 2) for name in ("plug_in", "ledoit_wolf", "oas")),
         number(line["seconds"], 1))
        for line in document["many_dimensions"]
    ]  # fmt: skip


def trainers(document: Document, _: str) -> Table:
    """Probe accuracies of the trainers: a line a method and objective; of the seconds of a run, the shortest seed's."""
    header = (
        "run", "probe after", "above pixels", "above no training", "seeds above both", "entropy", "reconstruction",
        "InfoNCE", "seconds", "met",
    )  # fmt: skip
    lines = []
    for name, row in document["rows"].items():
        runs = [cell for cell in document["cells"] if cell["settings"]["line"] == name]
        above = sum(cell["probe"]["after"] > max(cell["probe"]["pixels"], cell["probe"]["before"]) for cell in runs)
        lines.append(
            (
                f"`{name}`",
                f"{row['mean']:.4f}" + ("" if row["spread"] is None else f" ± {row['spread']:.4f}"),
                *(f"{100 * row['gain'][of]:+.2f}" for of in ("pixels", "before")),
                f"{above} of {len(runs)}",
                *(f"{row[term]:.2f}" for term in ("entropy", "reconstruction", "infonce")),
                f"{min(cell['seconds'] for cell in runs):.0f}",
                MET[row["met"]],
            )
        )
    return header, lines


def robustness(document: Document, _: str) -> Table:
    """The table of ``mi-estimators sweep``."""
    return document["table"]["header"], document["table"]["lines"]


def ends(document: Document, _: str) -> Table:
    """Where the runs of a sweep end: a line a run."""
    header = (
        "run", "K", "m", "accuracy", "above pixels", "above no training", "entropy", "its floor", "RankMe",
        "uniformity", "kNN",
    )  # fmt: skip
    lines = []
    for row in document["rows"]:
        probe, last = row["probe"], row["last"]
        lines.append(
            (
                f"`{row['line']}`", str(row["batch_size"]), "" if row["momentum"] is None else f"{row['momentum']:g}",
                *(("", "", "") if probe is None else (
                    f"{100 * probe['after']:.2f}",
                    *(f"{100 * (probe['after'] - probe[of]):+.2f}" for of in ("pixels", "before")),
                )),
                *(("",) * 5 if last is None else (
                    *(f"{last[name]:.2f}" for name in ("entropy", "entropy_floor")), f"{last['rankme']:.1f}",
                    f"{last['uniformity']:.2f}", f"{100 * last['knn']:.1f}",
                )),
            )
        )  # fmt: skip
    return header, lines


def collapse(document: Document, _: str) -> Table:
    """Where the trainings of the study of collapse end: a line an objective, means over its seeds."""
    header = (
        "run", "collapsed", "told apart", "entropy", "its floor", "of an image", "KL", "InfoNCE", "RankMe", "kNN",
        "kNN before", "probe", "probe before",
    )  # fmt: skip
    lines = [
        (
            row["line"], *(f"{row[name]} of {row['seeds']}" for name in ("collapsed", "told_apart")),
            *(f"{row[name]:.2f}" for name in ("entropy", "entropy_floor", "target_entropy", "divergence", "infonce")),
            f"{row['rankme']:.1f}",
            *(f"{100 * value:.1f}" for value in (
                row["knn"], row["knn_before"], row["probe"]["after"], row["probe"]["before"]
            )),
        )
        for row in document["rows"]
    ]  # fmt: skip
    return header, lines


def halves(document: Document, _: str) -> Table:
    """Probe accuracies on halves of MNIST: a line an encoder, bound, critic and target."""
    header = ("encoder", "bound", "critic", "held at", "probe after", "each seed", "bound, nats", "InfoNCE, nats")
    lines = [
        (
            row["encoder"], row["bound"], row["critic"], f"{row['target']:g}" if row["target"] else "",
            f"{row['accuracy']:.4f}", ", ".join(f"{value:.4f}" for value in row["each"]), f"{row['value']:.2f}",
            f"{row['infonce']:.2f}",
        )
        for row in document["rows"]
    ]  # fmt: skip
    return header, lines


def claims(document: Document, _: str) -> Table:
    """What a study was to show, and whether it did."""
    return ("claim", "met"), [(claim, MET[met]) for claim, met in document["met"].items()]


STUDIES: dict[str, dict[str, Callable[[Document, str], Table]]] = {
    "entropy": {"bias": bias, "rules": rules},
    "er": {"accuracy": accuracy},
    "oracles": {"errors": oracle_errors},
    "trainers": {"probes": trainers},
    "halves": {"probes": halves, "claims": claims},
    "sweep": {"robustness": robustness, "runs": ends},
    "collapse": {"ends": collapse, "claims": claims},
    "nonparametric-mi": {
        "agreement": agreement,
        "published": published,
        "examples": examples,
        "timing": timing,
        "dimensions": many_dimensions,
    },
}
