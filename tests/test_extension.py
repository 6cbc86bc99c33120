"""Loading the compiled library: with it, without it, and with one that does not fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mi_estimators
from mi_estimators import _extension

PACKAGE = Path(mi_estimators.__file__).parent
PROBE = (
    "import json, torch, mi_estimators as mi; from mi_estimators import _extension\n"
    "value = mi.info_nce(torch.eye(4), torch.eye(4)).item()\n"
    "print(json.dumps({**_extension.info(), 'value': value}))"
)


def run(code: str, path: Path = PACKAGE.parent, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(path), **environment},
        cwd=path,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def copy_without_library(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "mi_estimators", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def test_info_is_jsonable_and_says_what_is_active():
    info = _extension.info()
    json.dumps(info)
    assert info["cpu_kernels"] or info["reason"]
    if info["cpu_kernels"]:
        assert info["simd_level"] in str(info["simd_levels"]).split(",")
        assert info["torch_stable_abi"] == "2.11"


def test_switched_off_gives_the_same_value_without_a_warning():
    result = run(PROBE, **{_extension.DISABLE_VARIABLE: "1"})
    info = json.loads(result.stdout)
    assert not info["cpu_kernels"]
    assert _extension.DISABLE_VARIABLE in info["reason"]
    assert info["value"] == pytest.approx(json.loads(run(PROBE).stdout)["value"], rel=1e-6)
    assert "Warning" not in result.stderr


def test_an_installation_without_a_compiler_works_in_silence(copy_without_library):
    result = run(PROBE, copy_without_library)
    assert "not built" in json.loads(result.stdout)["reason"]
    assert "Warning" not in result.stderr


def test_a_library_that_does_not_load_warns_once_and_the_reference_runs(copy_without_library):
    name = "_C.so"
    (copy_without_library / "mi_estimators" / name).write_bytes(b"\x7fELF no library at all")
    result = run(PROBE, copy_without_library)
    assert "does not load with torch" in json.loads(result.stdout)["reason"]
    assert result.stderr.count("RuntimeWarning") == 1
    assert "the torch reference is used instead" in result.stderr


def test_a_cuda_library_that_does_not_load_warns_and_the_cpu_kernels_stay(monkeypatch, tmp_path):
    library = tmp_path / "_cuda.so"
    library.write_bytes(b"for another machine")
    monkeypatch.setattr(_extension, "_CUDA_LIBRARY", library)
    with pytest.warns(RuntimeWarning, match="the CUDA library does not load"):
        _extension._load_cuda()
    assert not _extension.info()["cuda_kernels"]


@pytest.mark.parametrize(
    ("gpu", "archs", "runs"),
    [
        (90, "80,90", True),
        (86, "80,90", True),
        (75, "80,90", False),
        (100, "80,90", False),
        (100, "80,90+PTX", True),
        (89, "80,90+PTX", True),
        (120, "", True),
        (90, "90a", True),
        (100, "90a", False),
        (103, "100f", True),
    ],
)
def test_which_gpus_a_library_serves(gpu, archs, runs):
    assert _extension._has_code_for(gpu, archs) == runs


def test_a_cuda_library_for_other_gpus_warns_and_is_not_loaded(monkeypatch):
    monkeypatch.setattr(_extension, "_gpu_capabilities", lambda: [75])
    monkeypatch.setattr(_extension, "_build_info", {"cuda_archs": "80,90+PTX"})
    with pytest.warns(RuntimeWarning, match="built for 80,90.PTX, not for this machine's sm_75"):
        _extension._load_cuda()
    assert not _extension.info()["cuda_kernels"]


def test_importing_loads_no_optional_dependency_and_no_scipy():
    code = (
        "import sys, torch; before = set(sys.modules); import mi_estimators\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    new = set(run(code).stdout.split())
    assert "mi_estimators" in new
    # SciPy is a dependency, but costs more to import than all the rest: it is imported where it is used.
    assert not new & {"sklearn", "matplotlib", "rich", "typer", "kornia", "lightning_fabric", "pandas", "scipy"}


def test_a_missing_extra_says_which_one():
    from mi_estimators._extras import require

    with pytest.raises(ImportError, match=r'needs the extra \[plots\]: pip install "mi-estimators\[plots\]"'):
        require("a_module_that_is_not_there", "plots")
