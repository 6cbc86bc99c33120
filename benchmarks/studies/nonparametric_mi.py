"""The estimators without training against infomeasure and benchmark-mi, and the Gaussian one in 1,000 dimensions.

    python -m benchmarks.studies.nonparametric_mi --bmi-python .venv-bmi/bin/python

Runs in the environment of benchmarks/peers.txt; benchmark-mi needs an older JAX, so it has one of its own
(benchmarks/peers-bmi.txt) and is called as a program that reads the samples from a file and times itself. Five parts:

1. Agreement: on the same samples the other libraries' KSG, Kozachenko-Leonenko and Gaussian estimates must be ours.
2. Published values: each is of one draw, so it must lie among ours of several draws, to 0.01; entropies to 0.005.
3. Time of KSG in 5 + 5 dimensions at 10,000 pairs, contenders in turn; ratios are medians over the rounds of the
   quotient within a round.
4. What single estimators give where they are good and where they are not.
5. 1,000 + 1,000 dimensions, 20 nats, 10,000 pairs, the dependence spread over all coordinates or held by ten pairs of
   them: the Gaussian estimate without its bias, the plug-in one, and two with shrinkage.

``python -m benchmarks.publish`` fills the tables of docs/nonparametric.md from the JSON that this writes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.files import write_json
from benchmarks.provenance import ROOT, provenance
from benchmarks.report import print_table
from benchmarks.studies import tables
from mi_estimators.entropy import knn_entropy
from mi_estimators.estimators import estimate_mi, gaussian, ksg
from mi_estimators.synthetic import TASKS, correlated_gaussian
from mi_estimators.synthetic.task import Task

Array = np.ndarray
Pair = tuple[Array, Array]

N = 10_000
SEEDS = 5
PACKAGES = ("infomeasure", "scipy", "numpy")

# Single draws of 10,000 pairs, k = 3, maximum norm.
PUBLISHED_KSG = ((1, 0.413, 0.426), (1, 2.0, 2.019), (5, 2.0, 1.668))
# benchmark-mi 0.1.3: k = 10, Euclidean; canonical correlations.
PUBLISHED_BMI = {
    "1v1-normal-0.75": (0.417, 0.412),
    "multinormal-dense-5-5-0.5": (0.567, 0.593),
    "multinormal-sparse-5-5-2-2.0": (0.741, 1.023),
    "asinh-student-identity-1-1-1": (0.231, 0.000),
}
# Kozachenko-Leonenko, k = 3, maximum norm, of a standard normal sample.
PUBLISHED_KL = ((1, 1.4216), (2, 2.8289))

BARS = {"benchmark-mi": 5.0, "infomeasure": 1.0}
TOLERANCE, TOLERANCE_ENTROPY = 0.01, 0.005
ROUNDING = 1e-9  # of one formula on the same samples
ITERATION = 1e-5  # of benchmark-mi's canonical correlations, which it finds by iteration


def sample(task: Task, n: int, seed: int) -> Pair:
    x, y = task.sample(n, seed=seed, dtype=torch.float64)
    return x.numpy(), y.numpy()


def ours(x: Array, y: Array, k: int = 3, metric: str = "max") -> float:
    return ksg.estimate(x, y, k=k, metric=metric).value


def infomeasure_ksg(x: Array, y: Array, k: int = 3) -> float:
    import infomeasure

    x, y = ((side - side.mean(0)) / side.std(0) for side in (x, y))
    return float(infomeasure.mutual_information(x, y, approach="ksg", k=k, noise_level=0, base="e"))


def bmi(python: Path, x: Array, y: Array, *what: str) -> dict[str, float]:
    """Value and seconds of an estimate as :mod:`benchmarks.studies.bmi_worker` names it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.npz"
        np.savez(path, x=x, y=y)
        command = [str(python), str(Path(__file__).with_name("bmi_worker.py")), str(path), *what]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


# ----------------------------------------------------------------------------------------------------------- the parts


def agreement(python: Path | None, n: int) -> list[dict[str, Any]]:
    """Largest difference between ours and another library's value on the same samples."""
    import infomeasure

    lines = []
    for dim in (1, 5):
        x, y = sample(correlated_gaussian(dim, 2.0), n, 0)
        lines.append({"what": f"KSG, {dim}+{dim}, k=3, max", "with": "infomeasure", "ours": ours(x, y),
                      "theirs": infomeasure_ksg(x, y)})  # fmt: skip
    for dim in (1, 2, 5):
        z = sample(correlated_gaussian(dim, 0.0), n, 0)[0]
        theirs = infomeasure.entropy(z, approach="metric", k=3, noise_level=0, minkowski_p=math.inf, base="e")
        lines.append({"what": f"KL entropy, {dim}, k=3, max", "with": "infomeasure",
                      "ours": float(knn_entropy(torch.from_numpy(z))), "theirs": float(theirs)})  # fmt: skip
    if python is not None:
        x, y = sample(TASKS["multinormal-sparse-5-5-2-2.0"], min(n, 2000), 0)
        for metric, name in (("max", "chebyshev"), ("euclidean", "euclidean")):
            theirs = bmi(python, x, y, "ksg", "10", name)["value"]
            lines.append({"what": f"KSG, 5+5, k=10, {metric}", "with": "benchmark-mi",
                          "ours": ours(x, y, 10, metric), "theirs": theirs})  # fmt: skip
        for name in PUBLISHED_BMI:
            x, y = sample(TASKS[name], n, 0)
            lines.append({"what": f"CCA, {name}", "with": "benchmark-mi",
                          "ours": gaussian.estimate(x, y, unbiased=False).value,
                          "theirs": bmi(python, x, y, "cca")["value"]})  # fmt: skip
    for line in lines:
        within = ITERATION if line["what"].startswith("CCA") else ROUNDING
        line["met"] = abs(line["ours"] - line["theirs"]) <= within
    return lines


def published(n: int, seeds: int) -> list[dict[str, Any]]:
    """Values of one draw elsewhere, and ours of several."""
    lines = []

    def add(
        what: str, truth: float, value: float, task: Task, draws: int, estimate: Callable[..., float],
        within: float = TOLERANCE,
    ) -> None:  # fmt: skip
        got = [estimate(*sample(task, n, seed)) for seed in range(draws)]
        met = min(got) - within <= value <= max(got) + within
        lines.append({"what": what, "truth": truth, "published": value, "ours": got, "met": met})

    for dim, truth, value in PUBLISHED_KSG:
        add(f"KSG k=3, {dim}+{dim}", truth, value, correlated_gaussian(dim, truth), seeds, ours)
    for name, (by_ksg, by_cca) in PUBLISHED_BMI.items():
        task, truth = TASKS[name], TASKS[name].mutual_information
        add(f"CCA, {name}", truth, by_cca, task, seeds, lambda x, y: gaussian.estimate(x, y).value)
        # Compares all pairs: two draws suffice.
        add(
            f"KSG k=10, Euclidean, {name}", truth, by_ksg, task, min(seeds, 2), lambda x, y: ours(x, y, 10, "euclidean")
        )
    for dim, value in PUBLISHED_KL:
        truth = dim / 2 * math.log(2 * math.pi * math.e)
        add(f"KL entropy k=3, {dim}", truth, value, correlated_gaussian(dim, 0.0), seeds,
            lambda x, _: float(knn_entropy(torch.from_numpy(x))), TOLERANCE_ENTROPY)  # fmt: skip
    return lines


def timing(python: Path | None, n: int, rounds: int, bmi_rounds: int) -> dict[str, Any]:
    """KSG-1, k = 3, maximum norm, 5 + 5 dimensions, 2 nats, with the threads that torch has; the others have one."""
    x, y = sample(correlated_gaussian(5, 2.0), n, 0)
    ours(x[:500], y[:500]), infomeasure_ksg(x[:500], y[:500])
    seconds: dict[str, list[float]] = {"ours": [], "infomeasure": [], "benchmark-mi": []}
    ratios: dict[str, list[float]] = {name: [] for name in BARS}
    for index in range(rounds):
        for name, call in (("ours", ours), ("infomeasure", infomeasure_ksg)):
            begun = time.perf_counter()
            call(x, y)
            seconds[name].append(time.perf_counter() - begun)
        ratios["infomeasure"].append(seconds["infomeasure"][-1] / seconds["ours"][-1])
        if python is not None and index < bmi_rounds:
            seconds["benchmark-mi"].append(bmi(python, x, y, "ksg", "3", "chebyshev")["seconds"])
            ratios["benchmark-mi"].append(seconds["benchmark-mi"][-1] / seconds["ours"][-1])
    return {"n": n, "seconds": seconds, "ratios": ratios, "must_be": BARS}


def examples(n: int, seeds: int) -> list[dict[str, Any]]:
    """Estimates by name where they are good and where they are not."""
    lines = []
    for variables, task, names in (
        ("normal, 1 + 1", correlated_gaussian(1, 2.0), ("ksg", "histogram")),
        ("normal, 1 + 1", TASKS["1v1-normal-0.75"], ("histogram",)),
        ("normal, 1 + 1", correlated_gaussian(1, 14.0), ("lnc", "ksg2")),
        ("normal, 2 + 2", correlated_gaussian(2, 20.0), ("lnc", "ksg2")),
        ("normal, 2 + 2", correlated_gaussian(2, 6.0), ("kl3h", "kde", "ksg")),
        ("normal, 5 + 5", TASKS["multinormal-dense-5-5-0.5"], ("kl3h", "wkl3h", "kde", "ksg", "lnc")),
        ("spiral, 5 + 5", TASKS["spiral-multinormal-sparse-5-5-2-2.0"], ("kl3h", "wkl3h", "ksg")),
    ):
        for name in names:
            values = [estimate_mi(*sample(task, n, seed), estimator=name, seed=seed).value for seed in range(seeds)]
            lines.append({"variables": variables, "n": n, "truth": task.mutual_information, "estimator": name,
                          "values": values})  # fmt: skip
    return lines


def many_dimensions(n: int, dim: int, truth: float, seeds: int) -> list[dict[str, Any]]:
    """The Gaussian estimate, with the dependence in all coordinates and in ten of them; the others once each."""
    lines = []
    for pairs in (dim, min(10, dim)):
        task = correlated_gaussian(pairs, truth)
        for seed in range(seeds):
            noise = np.random.default_rng(seed).standard_normal((2, n, dim - pairs))
            x, y = (np.hstack([side, other]) for side, other in zip(sample(task, n, seed), noise, strict=True))
            begun = time.perf_counter()
            measured = gaussian.estimate(x, y)
            line = {"pairs": pairs, "dim": dim, "seed": seed, "truth": truth, "value": measured.value,
                    "std": measured.std, "seconds": time.perf_counter() - begun}  # fmt: skip
            others = {"plug_in": {"unbiased": False}, "ledoit_wolf": {"shrinkage": "ledoit_wolf"},
                      "oas": {"shrinkage": "oas"}}  # fmt: skip
            lines.append(line | {
                name: gaussian.estimate(x, y, **options).value if seed == 0 else None
                for name, options in others.items()
            })  # fmt: skip
    return lines


TITLES = {
    "agreement": ("On the same samples", (0, 1)),
    "published": ("Published values of one draw", (0, 3)),
    "examples": ("Single estimators", (0, 3)),
    "timing": ("KSG, 5+5 dimensions", (0,)),
    "dimensions": ("Gaussian, many dimensions", (0,)),
}
"""Of the tables of this study, with the columns to align to the left."""


def report(document: dict[str, Any]) -> None:
    for name, make in tables.STUDIES["nonparametric-mi"].items():
        title, left = TITLES[name]
        print_table(title, *make(document, ""), left=left)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.nonparametric_mi", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--bmi-python", type=Path, help="Python of the environment of benchmarks/peers-bmi.txt")
    parser.add_argument("--n", type=int, default=N, help="pairs of a sample")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    parser.add_argument("--bmi-rounds", type=int, default=3, help="of them with benchmark-mi")
    parser.add_argument("--dim", type=int, default=1000, help="of the Gaussian in many dimensions")
    parser.add_argument("--examples-n", type=int, default=3000, help="pairs of a sample of the examples")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "nonparametric-mi.json")
    arguments = parser.parse_args(argv)
    if arguments.bmi_python is not None and not arguments.bmi_python.exists():
        parser.error(f"--bmi-python: no file {arguments.bmi_python}")
    torch.set_num_threads(arguments.threads)
    python, n = arguments.bmi_python, arguments.n
    timed = timing(python, n, arguments.rounds, arguments.bmi_rounds)
    document = {
        "study": "nonparametric-mi",
        "examples": examples(arguments.examples_n, min(3, arguments.seeds)),
        **provenance(arguments.threads, PACKAGES),
        "agreement": agreement(python, n),
        "published": published(n, arguments.seeds),
        "timing": timed,
        "bars": {name: statistics.median(timed["ratios"][name]) >= bar if timed["ratios"][name] else None
                 for name, bar in BARS.items()},
        "many_dimensions": many_dimensions(n, arguments.dim, 20.0, 3),
    }  # fmt: skip
    report(document)
    write_json(arguments.out, document)
    print(f"results: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
