"""Registers, spills and shared memory of every CUDA kernel, as the compiler reports them: ``make cuda-report``.

Needs nvcc, and no GPU. Exits with 1 if a kernel spills registers, 2 if there is no nvcc.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
ARCHS = ("80", "86", "89", "90", "100", "120")
FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-Wall,-Wextra", "-Werror=all-warnings", "-Xptxas=-v"]


@dataclass
class Kernel:
    name: str
    registers: int
    spills: int  # bytes stored and loaded
    shared: int  # bytes


def find_nvcc() -> str | None:
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    found = [str(Path(home) / "bin" / "nvcc") for home in homes if home and (Path(home) / "bin" / "nvcc").is_file()]
    return shutil.which("nvcc") or (found[0] if found else None)


def readable(mangled: str) -> str:
    """A kernel's name with its template arguments, without namespaces and parameters."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None:
        return mangled
    name = subprocess.run([tool, mangled], capture_output=True, text=True).stdout.strip()
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ").split("(")[0]
    name = name.replace("mi::cuda::", "").removeprefix("mi::")
    return name.replace("__nv_bfloat16", "bf16").replace("__half", "f16")


def compile_for(nvcc: str, source: Path, arch: str) -> tuple[list[Kernel], float]:
    """Compiles one file for one architecture; its kernels, and the seconds that took."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
        command = [nvcc, *FLAGS, target, f"-I{CSRC}", "-c", str(source), "-o", str(Path(folder) / "out.o")]
        start = time.monotonic()
        result = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - start
    log = result.stdout + result.stderr
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{log}")
    kernels = []
    for block in log.split("Compiling entry function '")[1:]:
        spilled = re.findall(r"(\d+) bytes spill", block)
        registers, shared = re.search(r"Used (\d+) registers", block), re.search(r"(\d+) bytes smem", block)
        kernels.append(
            Kernel(
                readable(block.split("'")[0]),
                int(registers[1]) if registers else 0,
                sum(map(int, spilled)),
                int(shared[1]) if shared else 0,
            )
        )
    return sorted(kernels, key=lambda kernel: kernel.name), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=list(ARCHS), help="compute capabilities without the dot")
    arguments = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("cuda-report: no nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda")
        return 2
    spilling = 0
    for source in sorted(CSRC.glob("ops/*/*.cu")):
        for arch in arguments.archs:
            kernels, seconds = compile_for(nvcc, source, arch)
            print(f"\n{source.relative_to(CSRC)}, sm_{arch}, compiled in {seconds:.0f} s")
            print(f"{'kernel':<46} {'registers':>9} {'spills':>7} {'shared':>7}")
            for kernel in kernels:
                print(f"{kernel.name:<46} {kernel.registers:>9} {kernel.spills:>7} {kernel.shared:>7}", flush=True)
                spilling += kernel.spills > 0
    print(f"\n{spilling} kernels spill" if spilling else "\nno kernel spills")
    return int(spilling > 0)


if __name__ == "__main__":
    sys.exit(main())
