"""Checks the CUDA kernels on the GPU of this machine, and measures them: what ``make gpu-check`` runs after the build.

Steps: the GPU tests, the measurements and bars of :mod:`benchmarks.gpu.plan`, and compute-sanitizer (memcheck,
racecheck) on small problems. Nothing is downloaded. The outcome goes to ``benchmarks/results/<gpu>.json`` and to
tables; until the end the measurements so far are in ``<gpu>.unfinished.json``. The exit status is 0 if every step
passed, 1 if one failed, and 2 if there is no GPU. A bar that is not met is reported and fails no step.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import write_json

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("tests", "benchmarks", "sanitizers")
COMPILE_S = 30.0  # waited after the tests for what is compiled ahead of the measurements
WHOLE_S = 330.0  # of all steps; of eight minutes it leaves two and a half for the build


def output_of(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine(commit: str) -> dict[str, Any]:
    """GPU, versions, commit. ``commit``: of a copy of the tree that git knows nothing of."""
    import torch

    from benchmarks.gpu.peers import PACKAGES
    from benchmarks.gpu.steps import find_tool
    from benchmarks.provenance import provenance

    properties = torch.cuda.get_device_properties(0)
    nvcc = re.search(r"release ([0-9.]+)", output_of([find_tool("nvcc") or "nvcc", "--version"]))
    about = provenance(torch.get_num_threads(), PACKAGES)
    return {
        **about,
        "commit": about["commit"] or commit,
        "gpu": {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "driver": output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).split("\n")[0],
        },
        "versions": {**about["versions"], "cuda": torch.version.cuda, "nvcc": nvcc[1] if nvcc else None},
    }


def run_benchmarks(path: Path, seconds: float, only: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The step, and what it measured: rows, and the bars with what became of them."""
    from benchmarks import bars
    from benchmarks.gpu import plan, report
    from benchmarks.gpu.progress import Progress
    from benchmarks.gpu.steps import WORKER
    from benchmarks.gpu.supervisor import supervise
    from benchmarks.harness import OURS

    print(f"benchmarks: {len(chosen(only))} cases (at most {seconds:.0f} s)", flush=True)
    start = time.monotonic()
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    ended, output = supervise([*WORKER, "benchmarks", "--out", str(path), "--only", only], path, seconds)
    progress = Progress.load(path)
    rows = plan.with_memory_of_eager(progress.measured())
    outcomes = bars.evaluate(plan.BARS, rows, rows[0].threads if rows else 0, ())
    report.print_kernels(progress.kernels)
    report.print_rows(rows)
    report.print_rates(progress.rates)
    report.print_bars(outcomes, partial=bool(only))
    wrong = [
        f"{row.entry} n={row.params['n']} d={row.params['d']}: {row.note}"
        for row in rows
        if row.contender.startswith(OURS) and row.median_s is None and not row.note.startswith("not run")
    ]
    step = {
        "status": "passed" if ended and not wrong else "failed",
        "seconds": round(time.monotonic() - start, 1),
        "output": output,
        "summary": "; ".join([f"{len(progress.done)} of {len(chosen(only))} cases", *wrong]),
    }
    return step, {
        "rows": [row.as_dict() for row in rows],
        "bars": [outcome.as_dict() for outcome in outcomes],
        "matmul_tflops": progress.rates,
        "kernels": progress.kernels,
        "seconds": progress.seconds,
        "excluded": progress.excluded,
    }


def chosen(only: str) -> list[Any]:
    from benchmarks.gpu.plan import PLAN

    return [item for item in PLAN if re.search(only, item.key)]


def check(arguments: argparse.Namespace) -> int:
    try:
        import torch
    except ImportError:
        print(
            f"gpu-check: {sys.executable} has no torch; name a Python that has one with CUDA: make gpu-check PYTHON=..."
        )
        return 2
    if not torch.cuda.is_available():
        print(f"gpu-check: no NVIDIA GPU that torch {torch.__version__} can use on this machine")
        return 2
    from benchmarks.gpu import report
    from benchmarks.gpu.steps import LIMITS, WORKER, beside, run_sanitizers, run_tests
    from benchmarks.gpu.worker import compiles_itself

    end = time.monotonic() + arguments.seconds
    document: dict[str, Any] = {**machine(arguments.commit), "steps": {}, "benchmarks": {}}
    name = re.sub(r"[^a-z0-9]+", "-", document["gpu"]["name"].lower()).strip("-")
    partial = bool(arguments.only) or set(arguments.steps) != set(STEPS)
    folder = ROOT / ("runs/benchmarks" if partial else "benchmarks/results")
    path: Path = (arguments.out or folder / f"{name}.json").absolute()
    unfinished = path.with_suffix(".unfinished.json")
    steps: dict[str, dict[str, Any]] = {}

    def record(name: str, step: dict[str, Any]) -> None:
        # After every step, so that a machine that is taken away leaves what was found.
        steps[name] = step
        document["steps"][name] = {key: value for key, value in step.items() if key != "output"}
        write_json(path, document)
        if step["status"] == "failed":
            print(f"\n---- {name} failed; the end of its output:\n" + step["output"][-4000:])

    if "tests" in arguments.steps:
        # What takes long to compile for the measurements is compiled meanwhile, into caches on disk.
        ahead = [item.key for item in chosen(arguments.only) if any(map(compiles_itself, item.contenders))]
        commands = [[*WORKER, "compile", "--only", f"^{re.escape(key)}$"] for key in ahead]
        with beside(commands if "benchmarks" in arguments.steps else [], COMPILE_S):
            record("tests", run_tests())
    if "benchmarks" in arguments.steps:
        later = LIMITS["sanitizers"] if "sanitizers" in arguments.steps else 0
        step, document["benchmarks"] = run_benchmarks(unfinished, end - time.monotonic() - later, arguments.only)
        record("benchmarks", step)
        unfinished.unlink(missing_ok=True)
    if "sanitizers" in arguments.steps:
        for tool, step in run_sanitizers(end - time.monotonic()).items():
            record(tool, step)
    report.print_steps(steps)
    kernels = document["mi_estimators"]["cuda_kernels"]
    if not kernels:
        print("the CUDA library is not loaded: what was measured is the torch reference")
    print(f"\nwritten to {path}")
    return int(not kernels or any(step["status"] == "failed" for step in steps.values()))


def work(arguments: argparse.Namespace) -> int:
    """A process of a step: what may crash or hang."""
    from benchmarks.gpu import device, problems, worker

    if arguments.worker == "small":
        problems.small_problems()
        return 0
    torch_device = device.named("cuda")
    if arguments.worker == "compile":
        return worker.compile_all(torch_device, chosen(arguments.only))
    status = worker.work(arguments.out, torch_device, chosen(arguments.only), arguments.until)
    sys.stdout.flush()
    # A lost device would crash the interpreter's end, and the status with it.
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="which steps (default: all)")
    parser.add_argument("--only", metavar="REGEX", default="", help="of the benchmarks, only cases that match")
    parser.add_argument("--seconds", type=float, default=WHOLE_S, help="for all steps (default: %(default)g)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--commit", default="", help="what to record where git does not know it")
    # The steps call this file again, each in a process that can be stopped.
    parser.add_argument("--worker", choices=("small", "compile", "benchmarks"), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    return check(arguments) if arguments.worker is None else work(arguments)


if __name__ == "__main__":
    sys.exit(main())
