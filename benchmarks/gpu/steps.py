"""The steps of ``make gpu-check``: each in processes of its own, under a time limit, none ending the others."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu.problems import DONE
from benchmarks.provenance import ROOT

WORKER = (sys.executable, "-m", "benchmarks.gpu_check", "--worker")
TOOLS = ("memcheck", "racecheck")
# Seconds. The measurements get what is left of the whole after the tests, less what the sanitizers need.
LIMITS = {"tests": 110.0, "sanitizers": 50.0}

Step = dict[str, Any]


def run_step(name: str, command: Sequence[str], limit: float, **more: Any) -> Step:
    """Run a command under a time limit; its output, and how it ended."""
    print(f"{name}: {' '.join(command[:6])} ... (at most {limit:.0f} s)", flush=True)
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
        output, _ = process.communicate(timeout=limit)
        status = "passed" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the sanitizer's child too
        output, _ = process.communicate()
        status = "stopped"
        output += f"\nstopped after {limit:.0f} s"
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "output": output}


@contextmanager
def beside(commands: Sequence[Sequence[str]], patience: float) -> Iterator[None]:
    """Commands that run meanwhile, whose output does not matter; stopped so many seconds after the end of the block."""
    # Each would else start as many compilers as there are cores.
    few = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "2", "OMP_NUM_THREADS": "2"}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": few}
    others = [subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet) for command in commands]
    try:
        yield
    finally:
        end = time.monotonic() + patience
        for other in others:
            try:
                other.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(other.pid, signal.SIGKILL)
                other.wait()


def run_tests() -> Step:
    """The CUDA tests."""
    # The project's own pytest options name plugins that this machine may lack.
    options = ["-m", "cuda", "-q", "-ra", "-o", "addopts=", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "tests/cuda"]
    step = run_step("tests", command, LIMITS["tests"])
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


def run_sanitizers(seconds: float) -> dict[str, Step]:
    """All tools of compute-sanitizer, beside each other."""
    sanitizer, limit = find_tool("compute-sanitizer"), min(seconds, LIMITS["sanitizers"])
    if sanitizer is None or limit < 10:
        why = "compute-sanitizer is not installed" if sanitizer is None else "out of time"
        return {tool: {"status": "skipped", "summary": why, "seconds": 0.0, "output": ""} for tool in TOOLS}
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        return dict(zip(TOOLS, pool.map(lambda tool: _sanitize(sanitizer, tool, limit), TOOLS), strict=True))


def _sanitize(sanitizer: str, tool: str, limit: float) -> Step:
    # Torch's caching would hide what lies outside of a tensor but inside the allocator's block.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # Torch itself probes the driver with calls that may fail; our own launches check their errors.
    options = ["--tool", tool, *(["--report-api-errors", "no"] if tool == "memcheck" else [])]
    step = run_step(tool, [sanitizer, *options, *WORKER, "small"], limit, env=environment)
    summary = re.search(r"(ERROR|RACECHECK) SUMMARY: (\d+) .*", step["output"])
    if step["status"] == "stopped":
        # A sanitizer slows everything down, torch's own kernels too: not to be done in time is no finding.
        step["status"], step["summary"] = "skipped", f"not done after {limit:.0f} s"
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
