"""Compiles C++ test libraries against the SIMT headers, and keeps them for the next run."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c++17", "-O2", "-march=native", "-DMI_SIMT", "-fPIC", "-shared"]
# longjmp between stacks is what the fibers do; the fortified one takes it for an error.
FLAGS += ["-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def _fingerprint(cxx: str, source: Path) -> str:
    """Names the library after all that can change it."""
    digest = hashlib.sha256(" ".join([cxx, *FLAGS]).encode())
    digest.update(subprocess.run([cxx, "--version"], capture_output=True, check=True).stdout)
    # Of g++, what -march=native is here; another compiler may not tell.
    machine = [cxx, "-march=native", "-Q", "--help=target"]
    digest.update(subprocess.run(machine, capture_output=True, check=False).stdout)
    headers = [*HERE.glob("include/**/*.h"), *(ROOT / "csrc").glob("**/*.h"), *(ROOT / "csrc").glob("**/*.cu*")]
    for path in [source, *sorted(headers)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load(source: Path) -> ctypes.CDLL:
    """Compiles `source` where that has not been done yet, and loads it."""
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("no C++ compiler")
    cache = Path(os.environ.get("MI_SIMT_CACHE", tempfile.gettempdir())) / f"mi-simt-{os.getuid()}"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    library = cache / f"{source.stem}-{_fingerprint(cxx, source)}.so"
    if not library.exists():
        # Test processes may do this at the same time: each writes its own file, and the last rename wins.
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".so", delete=False) as scratch:
            pass
        command = [cxx, *FLAGS, f"-I{HERE / 'include'}", f"-I{ROOT / 'csrc'}", str(source), "-o", scratch.name]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            os.unlink(scratch.name)
            raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
        os.replace(scratch.name, library)
    return ctypes.CDLL(str(library))
