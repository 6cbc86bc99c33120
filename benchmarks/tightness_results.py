"""The page of the recorded tightness results: ``python -m benchmarks.tightness_results --leaderboard DIR ...``.

Reads the folders and files that ``mi-estimators tightness`` and its subcommands wrote, keeps what is small under
``benchmarks/results/tightness`` (cells as CSV, summaries as JSON, plots under 200 kB) and writes
``docs/tightness_results.md`` from it; what the leaderboard says of kinds of data goes into ``docs/estimators.md``. So
no number of these pages is typed by hand.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.files import write_json, write_text
from benchmarks.provenance import ROOT, provenance
from mi_estimators import tightness
from mi_estimators.console import markdown_table
from mi_estimators.synthetic import TASKS, Task
from mi_estimators.tightness.leaderboard import Line, lines, main_n, ranking
from mi_estimators.tightness.plots import PLOTS

FOLDER = ROOT / "benchmarks" / "results" / "tightness"
PAGE = ROOT / "docs" / "tightness_results.md"
GUIDE = ROOT / "docs" / "estimators.md"
LARGEST = 200_000  # bytes of a plot

# Means over the last thousand of four thousand steps, batch 64, joint critic; the last line with a separable one.
PUBLISHED = {
    "infonce": (1.24, 2.31, 3.08, 3.59, 3.88),
    "nwj": (1.31, 2.62, 3.87, 5.08, 5.69),
    "js": (0.90, 2.20, 3.51, 4.83, 6.08),
    "mine": (1.31, 2.61, 3.83, 5.19, 6.53),
    "smile": (1.29, 2.65, 4.11, 5.72, 7.34),
}
PUBLISHED_SEPARABLE = {"infonce": (1.15, 2.20, 2.96, 3.49, 3.79)}

# benchmark-mi 0.1.3, one draw of 10,000 pairs; KSG with k = 10 and the Euclidean distance.
BMI = ("CCA", "KSG", "MINE", "InfoNCE", "NWJ")
OURS = ("gaussian", "ksg", "mine", "infonce", "nwj")  # of the same kind
PUBLISHED_BMI = {
    "1v1-normal-0.75": (0.412, 0.417, 0.400, 0.397, 0.393),
    "multinormal-dense-5-5-0.5": (0.593, 0.567, 0.595, 0.586, 0.583),
    "multinormal-sparse-5-5-2-2.0": (1.023, 0.741, 0.946, 1.004, 0.983),
    "asinh-student-identity-1-1-1": (0.000, 0.231, 0.178, 0.210, 0.203),
}
MATCHED = 0.01  # nats by which the draw of 10,000 pairs alone moves an estimate

SHOWN = 4  # estimators of a kind of data
NORMAL = ("1v1-normal", "multinormal-", "gaussian-")  # beginnings of names
GUIDE_BLOCK = re.compile(r"(<!-- leaderboard -->\n).*?(<!-- end -->)", re.DOTALL)


def picture(source: Path, name: str, title: str) -> str:
    """A plot of at most :data:`LARGEST` bytes beside the results, and its line of Markdown."""
    target = FOLDER / name
    shutil.copyfile(source, target)
    if target.stat().st_size > LARGEST:
        raise ValueError(f"{source} has {target.stat().st_size} bytes, want at most {LARGEST}")
    return f"![{title}](../benchmarks/results/tightness/{name})\n"


def recorded(path: Path) -> list[Line]:
    """The lines of a benchmark from its ``results.csv``."""
    numbers = {"n": int, "seed": int, "truth": float, "value": float, "margin": float, "cap": float, "seconds": float}
    cells: list[dict[str, Any]] = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cell = {key: numbers.get(key, str)(text) if text else None for key, text in row.items()}
            cells.append(cell | {"truth_error": TASKS[row["task"]].standard_error if row["task"] in TASKS else 0.0})
    return lines(cells)


def beside_benchmark_mi(found: Sequence[Line]) -> list[str]:
    """Published figures of benchmark-mi and ours of the same kind, and the nearest to the truth of all of ours."""
    rows = []
    for task, theirs in PUBLISHED_BMI.items():
        own = {line.variant: line for line in found if (line.task, line.n) == (task, 10_000) and line.mean is not None}
        if not own:
            continue
        truth = next(iter(own.values())).truth
        pairs = [
            f"{value:.3f}, {own[name].mean:.3f}" if name in own else f"{value:.3f}"
            for value, name in zip(theirs, OURS, strict=True)
        ]
        best = min(own.values(), key=lambda line: line.error_size)
        matched = best.error_size <= min(abs(value - truth) for value in theirs) + MATCHED
        nearest = f"{best.variant} {best.mean:.3f}"
        rows.append((f"`{task}`", f"{truth:.3f}", *pairs, nearest, "yes" if matched else "**no**"))
    if not rows:
        return []
    header = ("task", "truth", *(f"{a}, `{b}`" for a, b in zip(BMI, OURS, strict=True)), "nearest of ours", "matched")
    return [
        "### Beside benchmark-mi\n",
        "In each cell first the published figure of benchmark-mi 0.1.3, of one draw of 10,000 pairs, then ours, the "
        "mean over the seeds recorded here, of other draws and other training. *matched*: the nearest to the truth of "
        f"all our estimators is no further from it than the nearest of theirs, to {MATCHED} nats, by which the draw "
        "alone moves both. On one draw its CCA and KSG [agree](nonparametric.md) with ours to 1e-5.\n",
        markdown_table(header, rows),
    ]


def _kind_of_data(task: Task, largest: float) -> tuple[int, bool, bool]:
    """Class of the number of columns, whether the information is above ``largest``, whether not normal."""
    columns = task.dim_x + task.dim_y
    size = 0 if columns <= 3 else 1 if columns <= 10 else 2
    return size, task.mutual_information > largest, not task.name.startswith(NORMAL)


def by_kind_of_data(found: Sequence[Line], block: int) -> list[str]:
    """The estimators that came nearest, for each kind of data: a table of Markdown and what it means.

    Args:
        found: lines of a benchmark.
        block: test pairs that a bound was reported on.
    """
    n, largest = main_n(found), math.log(block)
    groups: dict[tuple[int, bool, bool], list[Line]] = {}
    for line in found:
        if line.n == n and line.task in TASKS:
            groups.setdefault(_kind_of_data(TASKS[line.task], largest), []).append(line)
    rows = []
    for (size, above, curved), own in sorted(groups.items()):
        ranks = sorted(ranking(own, n), key=lambda rank: (-rank.close, rank.median_error))
        columns = ("up to 3 columns", "4 to 10 columns", "more columns")[size]
        kind = f"{columns}, {'not normal' if curved else 'normal'}" + (
            f", above log K = {largest:.2f}" if above else ""
        )
        best = "; ".join(f"`{r.variant}` {r.close}, {r.median_error:.3f}" for r in ranks[:SHOWN] if r.estimates)
        rows.append((kind, str(ranks[0].tasks), best))
    return [
        f"In the [recorded run](tightness_results.md), at n = {n}, these came nearest: on how many of the tasks the "
        "mean over seeds was within 0.05 nats or 10 %, and the median error in nats. Columns are those of x and y "
        "together. Estimators that the run does not hold are not compared.\n",
        markdown_table(("data", "tasks", "nearest"), rows),
    ]


def leaderboard(folder: Path) -> list[str]:
    for name in ("results.csv", "leaderboard.md"):
        shutil.copyfile(folder / name, FOLDER / name)
    found = recorded(FOLDER / "results.csv")
    text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    grid = settings["grid"]
    lines = [
        "#" + text.replace("\n## ", "\n### "),  # every heading one level down
        f"{len(grid['tasks'])} tasks, {grid['seeds']} seeds, at most {grid['max_steps']} training steps of batches of "
        f"{', '.join(map(str, grid['batch_sizes']))}, blocks of {grid['evaluation_batch_size']} test pairs.\n",
        *beside_benchmark_mi(found),
    ]
    guide = "\n".join(by_kind_of_data(found, grid["evaluation_batch_size"]))
    write_text(
        GUIDE, GUIDE_BLOCK.sub(lambda match: f"{match[1]}\n{guide}\n{match[2]}", GUIDE.read_text(encoding="utf-8"))
    )
    for name, (_, title) in PLOTS.items():
        if (folder / f"{name}.png").exists():
            lines += [f"### {title}\n", picture(folder / f"{name}.png", f"{name}.png", title)]
    return lines


def staircase(folder: Path) -> list[str]:
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    config = result["config"]
    name = f"staircase-{config['critic']}"
    summary = tightness.summary(result)
    small = {"config": config, "levels": summary, "environment": result["environment"], "seconds": result["seconds"]}
    write_json(FOLDER / f"{name}.json", small)
    published = PUBLISHED_SEPARABLE if config["critic"] == "separable" else PUBLISHED
    rows = []
    for bound in config["bounds"]:
        own = [line for line in summary if line["bound"] == bound]
        means = ["overflow" if line["mean"] is None else f"{line['mean']:.2f}" for line in own]
        above = f"{sum(line['violations'] for line in own)} / {sum(line['steps'] for line in own)}"
        theirs = ", ".join(f"{value:.2f}" for value in published.get(bound, ()))
        rows.append((bound, own[0]["kind"], *means, above, theirs))
    header = ("bound", "kind", *(f"I = {level:.2f}" for level in config["levels"]), "steps above", "published")
    for dpi in (110, 80, 60, 45):
        tightness.plot(result).savefig(FOLDER / f"{name}.png", dpi=dpi)
        if (FOLDER / f"{name}.png").stat().st_size <= LARGEST:
            break
    return [
        f"## Staircase, {config['critic']} critic\n",
        f"d = {config['dim']}, batches of {config['batch_size']}, {config['steps_per_level']} steps a level, "
        f"{config['precision']}, {config['seeds']} seed(s), {result['seconds']:.0f} s on "
        f"{result['environment']['threads']} threads. Means over the last quarter of a level, in nats; *steps above*: "
        "at which the smoothed value exceeds the truth; *published*: the same means of published runs.\n",
        markdown_table(header, rows),
        f"![Staircase](../benchmarks/results/tightness/{name}.png)\n",
    ]


def study(name: str, path: Path) -> list[str]:
    result = json.loads(path.read_text(encoding="utf-8"))
    shutil.copyfile(path, FOLDER / f"{name}.json")
    chosen = tightness.STUDIES[name]
    settings = ", ".join(
        f"{key} {value}" for key, value in result.items() if not isinstance(value, list) and value is not None
    )
    rows = [chosen.cells(result, row) for row in result["rows"]]
    return [f"## {name.capitalize()}\n", f"{chosen.summary} ({settings})\n", markdown_table(chosen.header, rows)]


def speed(path: Path) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    shutil.copyfile(path, FOLDER / "staircase-speed.json")
    rows = []
    for critic, samples in document["seconds_per_step"].items():
        for name, values in samples.items():
            ratio = statistics.median(v / o for v, o in zip(values, samples["ours"], strict=True))
            rows.append((critic, name, f"{1e3 * statistics.median(values):.1f}", f"{ratio:.2f}"))
    about = f"{document['machine']['cpu']}, {document['threads']} threads, {document['date'][:10]}"
    return [
        "## Speed of the staircase\n",
        f"One step of {len(document['settings']['bounds'])} estimators, in turn in one process; {about}. *products*: "
        "the matrix products of the hidden layers alone.\n",
        markdown_table(("critic", "contender", "ms", "time / ours"), rows),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--leaderboard", type=Path, help="folder of mi-estimators tightness")
    parser.add_argument("--staircase", type=Path, action="append", default=[], help="folder of a staircase; repeatable")
    for name in tightness.STUDIES:
        parser.add_argument(f"--{name}", type=Path, help=f"file of mi-estimators tightness {name}")
    parser.add_argument("--speed", type=Path, help="file of benchmarks.studies.staircase_speed")
    arguments = parser.parse_args(argv)
    FOLDER.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = provenance(torch.get_num_threads())
    parts = [
        "# Tightness: recorded results\n",
        "Written by `python -m benchmarks.tightness_results` from runs of [`mi-estimators tightness`](tightness.md), "
        "which says what is measured and how to read it.\n",
        f"{about['machine']['cpu']}; torch {about['versions']['torch']}. {about['date'][:10]}.\n",
    ]
    if arguments.leaderboard:
        parts += leaderboard(arguments.leaderboard)
    for folder in arguments.staircase:
        parts += staircase(folder)
    for name in tightness.STUDIES:
        if getattr(arguments, name):
            parts += study(name, getattr(arguments, name))
    if arguments.speed:
        parts += speed(arguments.speed)
    write_text(PAGE, "\n".join(parts))
    print(f"wrote {PAGE} and {FOLDER}" + (f", filled {GUIDE}" if arguments.leaderboard else ""))


if __name__ == "__main__":
    main()
