"""Bias of leave-one-out entropies against known ones, ours and other libraries', by distribution, dimension and size.

    python -m benchmarks.studies.entropy_table --sizes 1000 3000 10000 --minutes 14

Every cell (distribution, d, n, seed) is a file under runs/entropy-table; the command goes on where it was, and once all
its cells are there writes benchmarks/results/entropy.json and a plot beside it. The environment is that of
benchmarks/peers.txt.

The bias of a cell is the estimate less the mean of -log p at the same points. Its expectation is that of the estimate
less the entropy, since the points are draws from p; but the chance of the draw, by far the larger part of an error in
few dimensions, is in both and drops out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mi_estimators as mi
from benchmarks.files import write_json
from benchmarks.provenance import ROOT, provenance
from benchmarks.studies import cells
from benchmarks.studies.cells import Cell
from benchmarks.studies.distributions import DISTRIBUTIONS, MONTE_CARLO
from benchmarks.studies.entropy_peers import PEERS, agreement, loo_entropy

DIMS = (1, 2, 5, 10, 20, 50)
SIZES = {1000: 5, 3000: 3, 10000: 2}  # and how many seeds
FAMILY = ("loo", "loo_diagonal", "loo_full")
SLOW = ("lscv",)  # beyond 3,000 points for the first seed only
OURS = "ours "
TIE = 1e-4  # nats: what float32 and the tolerance of a bandwidth search leave open
PACKAGES = ("scikit-learn", "scipy", "KDEpy", "statsmodels", "numpy")


def _outcome(entropy: float, bias: float, begun: float) -> dict[str, Any]:
    if not math.isfinite(bias):
        return {"note": f"not finite: {entropy}"}
    return {"entropy": entropy, "bias": bias, "seconds": time.perf_counter() - begun}


def ours(x: np.ndarray, true: float, seed: int, *, sphere: bool) -> dict[str, Any]:
    """Every rule of the table of rules, on float32 points."""
    kernel = "vmf" if sphere else "gaussian"
    points = torch.from_numpy(x).float()
    if sphere:
        points = torch.nn.functional.normalize(points, dim=1)
    methods = {}
    for rule in mi.entropy.RULES[kernel]:
        if rule in SLOW and len(x) > 3000 and seed > 0:
            continue
        begun = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                entropy = float(mi.kde_entropy(points, kernel=kernel, bandwidth=rule))
        except ValueError as error:  # the rule does not apply here
            methods[OURS + rule] = {"note": str(error)}
        else:
            methods[OURS + rule] = _outcome(entropy, entropy - true, begun)
    return methods


def peers(x: np.ndarray, true: float, seed: int) -> dict[str, Any]:
    """Every rule of other libraries that applies; on the circle, of the angle, which has the density of the point."""
    n, d = x.shape
    methods: dict[str, Any] = {}
    for name, peer in PEERS.items():
        if d > peer.max_d or n > peer.max_n or seed >= peer.seeds:
            continue
        begun = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                entropy = loo_entropy(x, peer.choose(x))
        except (ValueError, ImportError, np.linalg.LinAlgError) as error:
            methods[name] = {"note": f"{type(error).__name__}: {error}"[:200]}
        else:
            methods[name] = _outcome(entropy, entropy - true, begun)
    return methods


def compute(distribution: str, d: int, n: int, seed: int) -> Cell:
    """One cell."""
    chosen = DISTRIBUTIONS[distribution]
    generator = np.random.default_rng([seed, n, d, list(DISTRIBUTIONS).index(distribution)])
    x = chosen.sample(n, d, generator)
    true = -float(chosen.log_density(x).mean())
    cell: Cell = {"oracle": true, "methods": ours(x, true, seed, sphere=chosen.sphere)}
    if not chosen.sphere:
        cell["methods"] |= peers(x, true, seed)
        if n <= 1000:
            cell["agreement"] = agreement(x)
    elif d == 2:
        cell["methods"] |= peers(np.arctan2(x[:, 1:], x[:, :1]), true, seed)
    return cell


def wanted(sizes: Sequence[int], dims: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The settings of all cells, by name."""
    return {
        f"{distribution.replace(' ', '-')}-d{d}-n{n}-s{seed}": {
            "distribution": distribution, "d": d, "n": n, "seed": seed
        }
        for n in sizes
        for distribution, chosen in DISTRIBUTIONS.items()
        for d in dims
        if not (chosen.sphere and d < 2)
        for seed in range(SIZES[n])
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- summary


def library_of(method: str) -> str:
    return "ours" if method.startswith(OURS) else method.split()[0]


def summary(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """A line for every distribution, dimension and size: the mean bias of every method over its seeds, and who is best.

    ``met``: no rule of another library has a smaller mean bias, in absolute value, than the best of the ``loo`` family;
    None where no other library has a rule. A rule that can be waited for on some seeds only is compared on those:
    ``best_there`` is the bias of ours on the seeds of the best peer.
    """
    groups: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in found:
        settings = cell["settings"]
        groups.setdefault((settings["distribution"], settings["d"], settings["n"]), []).append(cell)
    lines = []
    for (distribution, d, n), members in groups.items():
        biases: dict[str, dict[int, float]] = {}
        for cell in members:
            for method, outcome in cell["methods"].items():
                if "bias" in outcome:
                    biases.setdefault(method, {})[cell["settings"]["seed"]] = outcome["bias"]
        means = {method: statistics.fmean(values.values()) for method, values in biases.items()}
        errors = {
            method: statistics.stdev(values.values()) / math.sqrt(len(values)) if len(values) > 1 else None
            for method, values in biases.items()
        }
        family = [OURS + rule for rule in FAMILY if OURS + rule in means]
        others = [method for method in means if library_of(method) != "ours"]
        best = min(family, key=lambda method: abs(means[method]), default=None)
        best_peer = min(others, key=lambda method: abs(means[method]), default=None)
        there = {peer: _smallest(family, biases, biases[peer]) for peer in others}
        value, error = DISTRIBUTIONS[distribution].entropy(d)
        lines.append(
            {
                "distribution": distribution, "d": d, "n": n, "seeds": len(members),
                "entropy": value, "entropy_error": error,
                "bias": means, "standard_error": errors, "best": best, "best_peer": best_peer,
                "best_there": None if best is None or best_peer is None else there[best_peer],
                "met": None if best is None or best_peer is None
                else all(abs(value) <= abs(means[peer]) + TIE for peer, value in there.items()),
            }
        )  # fmt: skip
    return lines


def _smallest(family: Sequence[str], biases: dict[str, dict[int, float]], seeds: Iterable[int]) -> float:
    """The mean bias that is smallest in absolute value among a family of rules, over some seeds."""
    over = list(seeds)
    return min((statistics.fmean([biases[rule][seed] for seed in over]) for rule in family), key=abs)


def plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Bias against d: a row a size, a column a distribution; of each library the rule that is best there."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(line["distribution"] for line in lines))
    sizes = sorted({line["n"] for line in lines})
    figure, axes = plt.subplots(
        len(sizes), len(names), figsize=(3.4 * len(names), 2.7 * len(sizes)), squeeze=False, layout="constrained"
    )
    colours = {"ours": "C3", "scikit-learn": "C0", "scipy": "C1", "KDEpy": "C2", "statsmodels": "C4"}
    for row, n in enumerate(sizes):
        for column, name in enumerate(names):
            axis = axes[row, column]
            curves: dict[str, list[tuple[int, float]]] = {}
            for line in lines:
                if (line["distribution"], line["n"]) != (name, n):
                    continue
                for library in colours:
                    rules = [OURS + rule for rule in FAMILY] if library == "ours" else line["bias"]
                    values = [line["bias"][m] for m in rules if m in line["bias"] and library_of(m) == library]
                    if values:
                        curves.setdefault(library, []).append((line["d"], min(values, key=abs)))
            for library, points in curves.items():
                axis.plot(
                    *zip(*sorted(points), strict=True), "o-", color=colours[library], markersize=3,
                    linewidth=2 if library == "ours" else 1, label=f"{library}, loo" if library == "ours" else library,
                    zorder=3 if library == "ours" else 2,
                )  # fmt: skip
            axis.axhline(0, color="0.6", linewidth=0.6)
            axis.set(xscale="log", yscale="symlog")
            axis.set_yscale("symlog", linthresh=0.01)
            axis.set_xticks(DIMS, [str(d) for d in DIMS])
            axis.minorticks_off()
            axis.grid(True, linewidth=0.3)
            if row == 0:
                axis.set_title(name, fontsize=10)
            if row == len(sizes) - 1:
                axis.set_xlabel("d")
            if column == 0:
                axis.set_ylabel(f"n = {n}\nbias, nats")
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.entropy_table", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=tuple(SIZES), help="numbers of points")
    parser.add_argument("--dims", type=int, nargs="+", choices=DIMS, default=DIMS, help="dimensions")
    parser.add_argument("--minutes", type=float, help="begin no cell after that many; the next call goes on")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "entropy-table", help="where the cells are")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "entropy.json")
    arguments = parser.parse_args(argv)
    settings = wanted(arguments.sizes, arguments.dims)
    found = cells.run(arguments.folder, settings, compute, arguments.minutes)
    lines = summary(found)
    judged = [line for line in lines if line["met"] is not None]
    print(f"{len(found)} of {len(settings)} cells; ours no larger in {sum(line['met'] for line in judged)} of "
          f"{len(judged)} lines that another library has a rule for")  # fmt: skip
    for line in judged:
        if not line["met"]:
            best, peer = line["best"], line["best_peer"]
            print(f"  not: {line['distribution']} d={line['d']} n={line['n']}: {best} {line['bias'][best]:+.4f}, "
                  f"{peer} {line['bias'][peer]:+.4f} (ours there {line['best_there']:+.4f})")  # fmt: skip
    if len(found) < len(settings):
        return 0
    document = {
        "study": "entropy",
        **provenance(torch.get_num_threads(), PACKAGES),
        "monte_carlo": MONTE_CARLO,
        "tie": TIE,
        "lines": lines,
        "agreement": [{**cell["settings"], **cell["agreement"]} for cell in found if "agreement" in cell],
    }
    write_json(arguments.out, document)
    plot(lines, arguments.out.with_suffix(".png"))
    print(f"results: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
