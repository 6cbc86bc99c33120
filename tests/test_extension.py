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


def stamp(schema: str) -> bytes:
    return b"\x7fELF mi_estimators schemas: " + schema.encode() + b"\0 and so on"


def test_a_library_built_for_other_schemas_is_not_loaded_and_says_to_rebuild(copy_without_library):
    stale = "sinkhorn_knopp_columns(Tensor scores, float epsilon) -> (Tensor shift, Tensor total)"
    (copy_without_library / "mi_estimators" / "_C.so").write_bytes(stamp(stale))
    result = run(PROBE, copy_without_library)
    reason = json.loads(result.stdout)["reason"]
    assert "other arguments of sinkhorn_knopp_columns: build it again" in reason
    assert result.stderr.count("RuntimeWarning") == 1


def test_which_operators_a_library_was_built_for(tmp_path):
    library = tmp_path / "_cuda.so"
    same = "sinkhorn_knopp_columns(Tensor scores, Tensor? mask, float epsilon) -> (Tensor shift, Tensor total)"
    for schemas, changed in (
        (same, []),
        (same.replace("Tensor?", "Tensor"), ["sinkhorn_knopp_columns"]),
        (f"{same}; gone(Tensor x) -> Tensor", ["gone"]),
    ):
        library.write_bytes(stamp(schemas))
        assert _extension._changed_operators(library) == changed
    library.write_bytes(b"of a time before it said so")
    assert _extension._changed_operators(library) == []


def test_a_cuda_library_built_for_other_schemas_warns(monkeypatch, tmp_path):
    library = tmp_path / "_cuda.so"
    library.write_bytes(stamp("gone(Tensor x) -> Tensor"))
    monkeypatch.setattr(_extension, "_CUDA_LIBRARY", library)
    with pytest.warns(RuntimeWarning, match="the CUDA library was built for other arguments of gone: build it again"):
        _extension._load_cuda()
    assert not _extension.info()["cuda_kernels"]


@pytest.mark.skipif(not _extension.info()["cpu_kernels"], reason="no compiled library")
def test_the_library_in_use_says_what_it_was_built_for():
    library = _extension._library()
    assert library is not None
    assert b"mi_estimators schemas: info_nce(Tensor x, " in library.read_bytes()


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


ARM_COMPILER = shutil.which("aarch64-linux-gnu-g++")
KERNELS = sorted((PACKAGE.parent / "csrc" / "ops").glob("*/cpu.cpp"))


@pytest.mark.skipif(ARM_COMPILER is None, reason="no cross compiler (Debian: g++-aarch64-linux-gnu)")
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.parent.name)
def test_kernels_are_for_arm_too(kernel):
    flags = ["-std=c++20", "-fopenmp-simd", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-DMI_SIMD_LEVEL=baseline"]
    command = [ARM_COMPILER, *flags, f"-I{PACKAGE.parent / 'csrc'}", "-fsyntax-only", str(kernel)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_loads_no_optional_dependency_no_scipy_and_no_compiler():
    code = (
        "import sys, torch; before = set(sys.modules); import mi_estimators\n"
        "print(*{'.'.join(m.split('.')[:2]) for m in set(sys.modules) - before})"
    )
    modules = set(run(code).stdout.split())
    new = {name.split(".")[0] for name in modules}
    assert "mi_estimators" in new
    # torch's compiler takes 1.5 s to import: who compiles imports it anyway.
    assert not modules & {"torch._dynamo", "torch._inductor"}
    # SciPy is a dependency, but costs more to import than all the rest: it is imported where it is used.
    assert not new & {"sklearn", "matplotlib", "rich", "typer", "kornia", "lightning_fabric", "pandas", "scipy"}


def test_a_missing_extra_says_which_one():
    from mi_estimators._extras import require

    with pytest.raises(ImportError, match=r'needs the extra \[plots\]: pip install "mi-estimators\[plots\]"'):
        require("a_module_that_is_not_there", "plots")
    with pytest.raises(ImportError, match=r"torch\.not_there is not installed"):
        require("torch.not_there", "plots")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import a_need_that_is_not_there", "ModuleNotFoundError: No module named 'a_need_that_is_not_there'"),
        ("from torch import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms"),
    ],
)
def test_an_extra_that_is_there_but_broken_says_why(text, why, tmp_path, monkeypatch):
    from mi_estimators._extras import require

    (tmp_path / "a_broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=f"^a_broken_module is installed but cannot be imported: {why}"):
        require("a_broken_module", "plots")
