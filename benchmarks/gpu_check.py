"""Checks the CUDA kernels on the GPU of this machine, and measures them: what ``make gpu-check`` runs after the build.

Steps, each in its own process and with its own time limit: the GPU tests, compute-sanitizer (memcheck, racecheck) on a
few small problems, and benchmarks against torch eager and torch.compile. Nothing is downloaded. The outcome goes to
``benchmarks/results/<gpu>.json`` and to a table; the exit status is 0 if every step passed, 1 if one failed, and 2 if
there is no GPU.

How times are taken: CUDA events around one forward and backward pass, with a buffer larger than the L2 cache written
before each; the median is reported. TFLOP/s counts the 8 N M d operations of four products (scores, scores again, and a
gradient for each side), and stands beside what torch's own matrix product reaches at that dtype on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.files import write_json

ROOT = Path(__file__).resolve().parents[1]
WORKER = (sys.executable, "-m", "benchmarks.gpu_check", "--worker")
RESULTS = ROOT / "benchmarks" / "results"
# Seconds for each step. Together they leave more than a minute of the eight for the build.
LIMITS = {"tests": 150, "memcheck": 70, "racecheck": 70, "benchmarks": 120}
DONE = "small problems done"


# ------------------------------------------------------------------------------------------- workers, on the GPU


def small_problems() -> None:
    """Every kernel on a few odd shapes: enough for a sanitizer, which slows kernels down a hundredfold."""
    import torch

    import mi_estimators as mi

    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for score in ("dot", "sqeuclidean"):
            for n, m, d in ((1, 2, 1), (130, 67, 19)):
                x = torch.randn(n, d, device="cuda").to(dtype).requires_grad_()
                y = torch.randn(m, d, device="cuda").to(dtype).requires_grad_()
                acc = torch.float64 if dtype == torch.float64 else torch.float32
                scale = torch.ones((), device="cuda", dtype=acc, requires_grad=True)
                bias = torch.zeros(m, device="cuda", dtype=acc, requires_grad=True)
                row, col = mi.pairwise_lse(x, y, scale=scale, score=score, bias=bias, columns=True)
                (row.sum() + col.sum()).backward()
                if n > 1:
                    mi.pairwise_lse(x, scale=scale, score=score, exclude_diagonal=True).sum().backward()
    torch.cuda.synchronize()
    print(DONE)


def eager_pairwise_lse(x: Any, y: Any, scale: float) -> Any:
    """What a user writes: both log-sum-exps of the matrix of scores."""
    logits = scale * (x @ y.T)
    return logits.logsumexp(1).sum() + logits.logsumexp(0).sum()


def eager_info_nce(x: Any, y: Any, scale: float) -> Any:
    import torch
    import torch.nn.functional as F

    x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    logits = scale * (x @ y.T)
    labels = torch.arange(x.shape[0], device=x.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def our_pairwise_lse(x: Any, y: Any, scale: float) -> Any:
    import mi_estimators as mi

    row, col = mi.pairwise_lse(x, y, scale=scale, columns=True)
    return row.sum() + col.sum()


def our_info_nce(x: Any, y: Any, scale: float) -> Any:
    import mi_estimators as mi

    return mi.info_nce(x, y, temperature=1 / scale)


OPERATIONS = {"pairwise_lse": (our_pairwise_lse, eager_pairwise_lse), "info_nce": (our_info_nce, eager_info_nce)}
# (N = M, d, whether torch.compile takes part: each shape costs it many seconds)
# torch.compile comes last, so that a cold cache of its kernels takes no time from the rest.
CASES = ((1024, 128, False), (4096, 768, False), (16384, 128, False), (4096, 128, True))
COMPILE_SECONDS = 30  # what must be left to start on it


def time_on_gpu(function: Callable[[], object], flush: Any, seconds: float = 0.8) -> list[float]:
    """Milliseconds of single calls, each starting from a cold L2 cache."""
    import torch

    for _ in range(3):
        function()
    torch.cuda.synchronize()
    samples: list[float] = []
    end = time.monotonic() + seconds
    while len(samples) < 5 or (time.monotonic() < end and len(samples) < 50):
        flush.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop))
    return samples


def measure(make: Callable[[], Callable[..., Any]], x: Any, y: Any, flush: Any) -> dict[str, Any]:
    """Time, peak memory and value of the loss that `make` makes, and its gradients; or why there is none."""
    import torch

    try:
        loss = make()

        def step() -> None:
            x.grad = y.grad = None
            loss(x, y, 10.0).backward()

        step()
        torch.cuda.synchronize()
        x.grad = y.grad = None
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        samples = time_on_gpu(step, flush)
        gradient = [x.grad.float().clone(), y.grad.float().clone()]
        value = loss(x, y, 10.0).item()
    except Exception as error:  # out of memory, or a torch.compile that does not work here: a line of the table
        x.grad = y.grad = None
        torch.cuda.empty_cache()
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}
    return {"ms": statistics.median(samples), "samples": samples, "peak_bytes": peak, "value": value, "grad": gradient}


def close(ours: dict[str, Any], reference: dict[str, Any], half: bool) -> bool:
    """Whether value and gradients agree, as far as the reference's own dtype lets them; NaN does not."""
    tolerance = 3e-2 if half else 1e-4
    values = abs(ours["value"] - reference["value"]) <= tolerance * (1e-3 + abs(reference["value"]))
    pairs = zip(ours["grad"], reference["grad"], strict=True)
    return values and all((a - b).norm().item() <= tolerance * (1e-6 + b.norm().item()) for a, b in pairs)


def benchmarks(out: Path, seconds: float) -> int:
    import torch

    deadline = time.monotonic() + seconds
    torch.backends.cuda.matmul.allow_tf32 = False
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    report: dict[str, Any] = {"matmul_tflops": {}, "cases": []}
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for name, dtype in dtypes.items():
        a, b = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
        milliseconds = statistics.median(time_on_gpu(lambda a=a, b=b: a @ b, flush))
        report["matmul_tflops"][name] = 2 * 8192**3 / milliseconds * 1e-9
        del a, b
    failed = 0
    for n, d, with_compile in CASES:
        for name, dtype in dtypes.items():
            for operation, (ours, eager) in OPERATIONS.items():
                generator = torch.Generator(device="cuda").manual_seed(0)
                x, y = (torch.randn(n, d, device="cuda", generator=generator).to(dtype) / d**0.5 for _ in range(2))
                x, y = x.requires_grad_(), y.requires_grad_()
                contenders = {"ours": lambda ours=ours: ours, "eager": lambda eager=eager: eager}
                if with_compile:
                    contenders["compile"] = lambda eager=eager: torch.compile(eager)
                case: dict[str, Any] = {"operation": operation, "n": n, "m": n, "d": d, "dtype": name, "results": {}}
                for contender, make in contenders.items():
                    late = time.monotonic() > deadline - (COMPILE_SECONDS if contender == "compile" else 0)
                    case["results"][contender] = {"error": "out of time"} if late else measure(make, x, y, flush)
                mine, reference = case["results"]["ours"], case["results"]["eager"]
                if "ms" in mine:
                    mine["tflops"] = 8 * n * n * d / mine["ms"] * 1e-9
                    mine["agrees"] = close(mine, reference, dtype != torch.float32) if "ms" in reference else None
                failed += mine.get("agrees") is False or "error" in mine
                for result in case["results"].values():
                    result.pop("grad", None)
                report["cases"].append(case)
                # Whatever happens later, what was measured is kept.
                write_json(out, report)
    return min(failed, 1)


# --------------------------------------------------------------------------------------------------------- steps


def run_step(name: str, command: list[str], **more: Any) -> dict[str, Any]:
    """Runs a command under the step's time limit; its output, and how it ended."""
    print(f"{name}: {' '.join(command[:6])} ... (at most {LIMITS[name]} s)", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        **more,
    )
    try:
        output, _ = process.communicate(timeout=LIMITS[name])
        status = "passed" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the sanitizer's child too
        output, _ = process.communicate()
        status = "stopped"
        output += f"\nstopped after {LIMITS[name]} s"
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "output": output}


def run_tests() -> dict[str, Any]:
    # The project's own pytest options name plugins that this machine may lack.
    options = ["-m", "cuda", "-q", "-ra", "-o", "addopts=", "-p", "no:cacheprovider"]
    step = run_step("tests", [sys.executable, "-m", "pytest", *options, "tests/cuda"])
    counts = [line for line in step["output"].splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    step["summary"] = counts[-1].strip("= ") if counts else "no test ran"
    if step["status"] == "stopped" or " passed" not in step["summary"]:
        step["status"] = "failed"
    return step


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit, on the PATH or in the places where toolkits are installed."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    places = [Path(home) / sub for home in homes if home for sub in ("bin", "compute-sanitizer")]
    found = [str(place / name) for place in places if (place / name).is_file()]
    return shutil.which(name) or (found[0] if found else None)


def run_sanitizer(tool: str) -> dict[str, Any]:
    sanitizer = find_tool("compute-sanitizer")
    if sanitizer is None:
        return {"status": "skipped", "summary": "compute-sanitizer is not installed", "seconds": 0.0, "output": ""}
    # Torch's caching would hide what lies outside of a tensor but inside the allocator's block.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # Torch itself probes the driver with calls that may fail; our own launches check their errors.
    options = ["--tool", tool, *(["--report-api-errors", "no"] if tool == "memcheck" else [])]
    step = run_step(tool, [sanitizer, *options, *WORKER, "small"], env=environment)
    summary = re.search(r"(ERROR|RACECHECK) SUMMARY: (\d+) .*", step["output"])
    if step["status"] == "stopped":
        # A sanitizer slows everything down, torch's own kernels too: not to be done in time is no finding.
        step["status"], step["summary"] = "skipped", f"not done after {LIMITS[tool]} s"
    elif DONE not in step["output"] or summary is None:
        lines = [line for line in step["output"].splitlines() if line.startswith("=========")] or [
            line for line in step["output"].splitlines() if line.strip()
        ]
        unsupported = re.search(r"not supported|unsupported|[Uu]nable to|permission", step["output"])
        step["summary"] = lines[-1].strip("= ") if lines else "no output"
        step["status"] = "skipped" if unsupported and summary is None else "failed"
    else:
        step["summary"] = summary[0]
        step["status"] = "passed" if summary[2] == "0" and step["status"] == "passed" else "failed"
    return step


def run_benchmarks() -> tuple[dict[str, Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "benchmarks.json"
        # The worker stops by itself before its time is up.
        seconds = LIMITS["benchmarks"] * 0.7
        step = run_step("benchmarks", [*WORKER, "benchmarks", "--out", str(out), "--seconds", str(seconds)])
        report = json.loads(out.read_text()) if out.exists() else {}
    if step["status"] == "stopped":
        step["status"] = "failed"
    cases = report.get("cases", [])
    wrong = sum(case["results"]["ours"].get("agrees") is False for case in cases)
    step["summary"] = f"{len(cases)} cases, {wrong} wrong"
    return step, report


# ------------------------------------------------------------------------------------------------------- report


def output_of(command: list[str]) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    nvcc = re.search(r"release ([0-9.]+)", output_of([find_tool("nvcc") or "nvcc", "--version"]))
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "gpu_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "driver": output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).split("\n")[0],
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "nvcc": nvcc[1] if nvcc else "",
        "commit": output_of(["git", "rev-parse", "HEAD"]),
        "uncommitted_changes": bool(output_of(["git", "status", "--porcelain", "--untracked-files=no"])),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    if "ms" not in result:
        return result["error"].split(":")[0]
    return f"{result['ms']:.3f} ms {result['peak_bytes'] / 1e6:.0f} MB"


def print_table(steps: dict[str, dict[str, Any]], report: dict[str, Any]) -> None:
    print()
    for name, step in steps.items():
        print(f"{name:<12} {step['status']:<8} {step['seconds']:>6.1f} s  {step['summary']}")
    if report:
        head = " ".join(f"{name:<22}" for name in ("ours", "eager", "compile"))
        print(f"\n{'operation':<13} {'dtype':<9} {'N':>6} {'d':>4}  {head} TFLOP/s (matmul)")
    for case in report.get("cases", []):
        results = case["results"]
        cells = [cell(results.get(name)) for name in ("ours", "eager", "compile")]
        speed = f"{results['ours'].get('tflops', float('nan')):.1f} ({report['matmul_tflops'][case['dtype']]:.1f})"
        wrong = "  WRONG" if results["ours"].get("agrees") is False else ""
        line = f"{case['operation']:<13} {case['dtype']:<9} {case['n']:>6} {case['d']:>4}  "
        print(line + " ".join(f"{text:<22}" for text in cells) + f" {speed}{wrong}")


def check() -> int:
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
    report: dict[str, Any] = {"machine": machine(), "steps": {}, "benchmarks": {}}
    path = RESULTS / (re.sub(r"[^a-z0-9]+", "-", report["machine"]["gpu"].lower()).strip("-") + ".json")
    steps: dict[str, dict[str, Any]] = {}

    def record(name: str, step: dict[str, Any]) -> None:
        # After every step, so that a machine that is taken away leaves what was found.
        steps[name] = step
        report["steps"][name] = {key: value for key, value in step.items() if key != "output"}
        write_json(path, report)
        if step["status"] == "failed":
            print(f"\n---- {name} failed; the end of its output:\n" + step["output"][-4000:])

    record("tests", run_tests())
    step, report["benchmarks"] = run_benchmarks()
    record("benchmarks", step)
    for tool in ("memcheck", "racecheck"):
        record(tool, run_sanitizer(tool))
    print_table(steps, report["benchmarks"])
    print(f"\nwritten to {path.relative_to(ROOT)}")
    return int(any(step["status"] == "failed" for step in steps.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    # The steps call this file again, each in a process that can be stopped.
    parser.add_argument("--worker", choices=("small", "benchmarks"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker == "small":
        small_problems()
        return 0
    if arguments.worker == "benchmarks":
        return benchmarks(arguments.out, arguments.seconds)
    return check()


if __name__ == "__main__":
    sys.exit(main())
