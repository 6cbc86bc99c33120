"""Builds the compiled kernels: mi_estimators._C (CPU) and, where nvcc is found, mi_estimators/_cuda.so.

Metadata is in pyproject.toml. Both libraries use torch's stable ABI: they are built against the headers of any
torch >= 2.11 and load into any later one. Compilation is driven by ninja from a build.ninja written here, in
build/native-*, so a second build recompiles only what changed.

Environment:
    MI_ESTIMATORS_BUILD   "auto" (default): build what can be built, and install without kernels if there is no compiler
                          or compilation fails; "1": a failure is an error; "0": build nothing.
    MI_ESTIMATORS_CUDA    "0": leave the CUDA library out even where nvcc is found.
    TORCH_CUDA_ARCH_LIST  CUDA architectures, e.g. "8.0;9.0+PTX". Default: those of _DEFAULT_ARCHS that nvcc knows.
    CUDA_HOME, CXX, MAX_JOBS  as usual.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
MODE = os.environ.get("MI_ESTIMATORS_BUILD", "auto")
MINIMUM_TORCH = (2, 11)
TORCH_TARGET = "0x020b000000000000"  # the stable ABI of torch 2.11
# Code for 8.0 also runs on 8.6 and 8.9, that for 10.0 on 10.3, that for 12.0 on 12.1.
_DEFAULT_ARCHS = ("80", "90", "100", "120")

COMMON_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", f"-I{CSRC}"]
# Vectors wider than the registers of a SIMD level pass only between functions that are always inlined.
COMMON_FLAGS += ["-Wno-psabi"]
# No -ffast-math: infinities and NaN keep their meaning. These let loops with comparisons vectorise all the same.
KERNEL_FLAGS = ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
SIMD_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
AMX_FLAGS = [*SIMD_FLAGS["avx512"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]


@dataclass
class Torch:
    root: Path
    version: str

    @property
    def includes(self) -> list[str]:
        paths = (self.root / "include", self.root / "include" / "torch" / "csrc" / "api" / "include")
        return [f"-isystem{path}" for path in paths]

    @property
    def definitions(self) -> list[str]:
        # The version is part of every binding's command line, so that another torch means another compilation.
        return [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f'-DMI_TORCH_VERSION="{self.version}"']


def schema_flags() -> list[str]:
    """The schemas of the operators, as mi_estimators/ops defines them: the library says which ones it was built for."""
    found = []
    for path in sorted((ROOT / "mi_estimators" / "ops").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "define":
                found.append(str(ast.literal_eval(node.args[0])))
    text = "; ".join(found)
    return [f'-DMI_SCHEMAS="{text}"']


def find_torch() -> Torch | None:
    """The torch to compile against: importable here, or installed beside the running interpreter.

    An isolated build hides the installed packages from the import system, but the headers of the torch that the
    package will run with are the best ones to build with; they spare a download of torch into the build environment.
    """
    spec = importlib.util.find_spec("torch")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    roots += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    for root in roots:
        version_file = root / "version.py"
        if not (root / "include" / "torch" / "csrc" / "stable" / "library.h").exists() or not version_file.exists():
            continue
        match = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", version_file.read_text())
        if match and (int(match[2]), int(match[3])) >= MINIMUM_TORCH:
            return Torch(root, match[1])
    return None


def find_cxx() -> str | None:
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "c++", "clang++"]:
        if shutil.which(shlex.split(name)[0]):
            return name
    return None


def compiles(cxx: str, flags: list[str]) -> bool:
    """Whether the compiler knows the flags."""
    probe = [*shlex.split(cxx), *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def find_cuda() -> Path | None:
    """The CUDA toolkit that holds nvcc, unless the CUDA library is not wanted."""
    if os.environ.get("MI_ESTIMATORS_CUDA") == "0":
        return None
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").exists():
            return Path(home)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    # The nvcc on the PATH may be a wrapper somewhere else: the compiler itself knows where its toolkit is.
    trace = subprocess.run(
        [nvcc, "-dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    top = re.search(r"^#\$ (?:_HERE_|TOP)=(.+)$", trace, re.MULTILINE)
    home = Path(top[1]).resolve() if top else Path(nvcc).resolve().parent
    return next((folder for folder in (home, home.parent) if (folder / "bin" / "nvcc").exists()), None)


def version_of(command: list[str], pattern: str = r"[0-9][0-9.]+") -> str:
    text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(pattern, text)
    return match[0] if match else "unknown"


def cuda_archs(cuda: Path) -> tuple[list[str], str]:
    """nvcc's -gencode flags, and the list as text: "80,90,120+PTX"."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if wanted:
        archs = [arch.removesuffix("+PTX").replace(".", "") for arch in wanted]
        with_ptx = [arch.removesuffix("+PTX").replace(".", "") for arch in wanted if arch.endswith("+PTX")]
    else:
        known = subprocess.run([str(cuda / "bin" / "nvcc"), "--list-gpu-arch"], capture_output=True, text=True).stdout
        archs = [arch for arch in _DEFAULT_ARCHS if f"compute_{arch}" in known.split()]
        with_ptx = archs[-1:]
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    flags += [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in with_ptx]
    return flags, ",".join(arch + ("+PTX" if arch in with_ptx else "") for arch in archs)


@dataclass
class Ninja:
    """A build.ninja in the making."""

    folder: Path
    lines: list[str] = field(default_factory=lambda: ["ninja_required_version = 1.5"])

    def rule(self, name: str, command: str, *, depfile: bool = False) -> None:
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
        if depfile:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]

    def build(self, output: str, rule: str, inputs: list[str | Path], **variables: str) -> str:
        names = " ".join(str(name).replace(" ", "$ ") for name in inputs)
        self.lines.append(f"build {output}: {rule} {names}")
        self.lines += [f"  {name} = {value}" for name, value in variables.items()]
        return output

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join(self.lines) + "\n"
        path = self.folder / "build.ninja"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        subprocess.run([*ninja_command(), "-C", str(self.folder), *jobs], check=True)


def ninja_command() -> list[str]:
    if importlib.util.find_spec("ninja"):
        return [sys.executable, "-m", "ninja"]
    return ["ninja"]


def quote(flags: list[str]) -> str:
    return shlex.join(flags).replace("$", "$$")


class NativeBuild(build_ext):
    """Compiles each extension through ninja."""

    def get_ext_filename(self, fullname: str) -> str:
        # _cuda is no Python module: it is loaded with torch.ops.load_library.
        return fullname.replace(".", "/") + ".so" if fullname.endswith("_cuda") else super().get_ext_filename(fullname)

    def run(self) -> None:
        # A library of an earlier build that this one leaves out, or fails to build, must not stay behind in the source
        # tree: it would be loaded, and its operators may have other arguments.
        if self.inplace:
            for name in ("mi_estimators._C", "mi_estimators._cuda"):
                (ROOT / self.get_ext_filename(name)).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        build = {"mi_estimators._C": self.cpu, "mi_estimators._cuda": self.cuda}[ext.name]
        folder = ROOT / "build" / f"native-{sys.implementation.cache_tag}-{platform.machine()}" / ext.name
        try:
            output = build(folder)
        except (subprocess.CalledProcessError, OSError, ImportError) as error:
            if MODE == "1":
                raise
            self.warn(f"{ext.name} was not built and will not be used: {error}")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(output, target)

    def copy_extensions_to_source(self) -> None:
        # One that was not built is not there to copy.
        every = self.extensions
        self.extensions = [ext for ext in every if Path(self.build_lib, self.get_ext_filename(ext.name)).exists()]
        super().copy_extensions_to_source()
        self.extensions = every

    def cpu(self, folder: Path) -> Path:
        import pybind11

        torch, cxx = find_torch(), find_cxx()
        if torch is None or cxx is None:
            raise OSError("torch >= 2.11 or a C++ compiler is missing")
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        cuda = find_cuda()
        facts = {
            "MI_COMPILER": f"{Path(shlex.split(cxx)[0]).name} {version_of(shlex.split(cxx))}",
            "MI_TORCH_TARGET": ".".join(map(str, MINIMUM_TORCH)),
            "MI_NVCC": version_of([str(cuda / "bin" / "nvcc")], r"(?<=release )[0-9.]+") if cuda else "",
            "MI_CUDA_ARCHS": cuda_archs(cuda)[1] if cuda else "",
        }
        definitions = [f'-D{name}="{value}"' for name, value in facts.items()]
        includes = [*torch.includes, f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}"]
        binding = [*torch.definitions, *includes]
        amx = x86 and sys.platform == "linux" and compiles(cxx, AMX_FLAGS)
        if x86:
            binding.append("-DMI_WITH_X86_LEVELS")
        if amx:
            binding.append("-DMI_WITH_AMX")

        ninja = Ninja(folder)
        ninja.rule("cxx", f"{cxx} {quote(COMMON_FLAGS)} $flags -MMD -MF $out.d -c $in -o $out", depfile=True)
        objects = [ninja.build("schemas.o", "cxx", [CSRC / "schemas.cpp"], flags=quote(schema_flags()))]
        for source in sorted([CSRC / "module.cpp", *CSRC.glob("common/cpu/*.cpp"), *CSRC.glob("ops/*/bind_cpu.cpp")]):
            flags = binding + (definitions if source.name == "module.cpp" else [])
            name = "_".join(source.relative_to(CSRC).with_suffix(".o").parts)
            objects.append(ninja.build(name, "cxx", [source], flags=quote(flags)))
        for level, simd in SIMD_FLAGS.items() if x86 else [("baseline", [])]:
            for source in sorted(CSRC.glob("ops/*/cpu.cpp")):
                flags = [*KERNEL_FLAGS, *simd, f"-DMI_SIMD_LEVEL={level}"]
                objects.append(ninja.build(f"{source.parent.name}_{level}.o", "cxx", [source], flags=quote(flags)))
        for source in sorted(CSRC.glob("ops/*/cpu_amx.cpp")) if amx else []:
            flags = [*KERNEL_FLAGS, *AMX_FLAGS, "-DMI_SIMD_LEVEL=amx"]
            objects.append(ninja.build(f"{source.parent.name}_amx.o", "cxx", [source], flags=quote(flags)))
        # torch is imported before the module, so its libraries are found by name; no path is written into the file.
        mac = sys.platform == "darwin"
        link = ["-undefined", "dynamic_lookup"] if mac else [f"-L{torch.root / 'lib'}", "-ltorch_cpu"]
        ninja.rule("link", f"{cxx} -shared $in -o $out {quote(link)}")
        output = ninja.build("_C.so", "link", list(objects))
        ninja.run()
        return folder / output

    def cuda(self, folder: Path) -> Path:
        torch, cxx, cuda = find_torch(), find_cxx(), find_cuda()
        if torch is None or cxx is None or cuda is None:
            raise OSError("torch >= 2.11, a C++ compiler or nvcc is missing")
        archs, _ = cuda_archs(cuda)
        kernel = [
            "-std=c++17",
            "-O3",
            *archs,
            "--threads=0",
            *(["-Werror=all-warnings"] if MODE == "1" else []),
            "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
            f"-I{CSRC}",
        ]
        binding = ["-DUSE_CUDA", *torch.definitions, *torch.includes]
        binding.append(f"-isystem{cuda / 'include'}")
        ninja = Ninja(folder)
        ninja.rule("cxx", f"{cxx} {quote(COMMON_FLAGS)} $flags -MMD -MF $out.d -c $in -o $out", depfile=True)
        ninja.rule(
            "nvcc", f"{cuda / 'bin' / 'nvcc'} -ccbin {cxx} {quote(kernel)} -MMD -MF $out.d -c $in -o $out", depfile=True
        )
        objects: list[str | Path] = []
        objects.append(ninja.build("schemas.o", "cxx", [CSRC / "schemas.cpp"], flags=quote(schema_flags())))
        for source in sorted(CSRC.glob("ops/*/cuda*.cu")):
            objects.append(ninja.build(f"{source.parent.name}_{source.stem}.o", "nvcc", [source]))
        for source in sorted(CSRC.glob("ops/*/bind_cuda.cpp")):
            objects.append(ninja.build(f"{source.parent.name}_binding.o", "cxx", [source], flags=quote(binding)))
        # The library needs libtorch_cuda.so by name, also when it is built beside a torch without CUDA: an empty
        # library of that name stands in for it at link time and is not installed.
        ninja.rule("stub", f"{cxx} -shared -Wl,-soname,libtorch_cuda.so -x c++ /dev/null -o $out")
        stub = ninja.build("libtorch_cuda.so", "stub", [])
        link = [
            "-Wl,--no-as-needed",
            f"-L{torch.root / 'lib'}",
            "-ltorch_cpu",
            "-L.",
            "-l:libtorch_cuda.so",
            f"-L{cuda / 'lib64'}",
            "-lcudart_static",
            "-lrt",
            "-lpthread",
            "-ldl",
        ]
        ninja.rule("link", f"{cxx} -shared $objects -o $out {quote(link)}")
        output = ninja.build("_cuda.so", "link", [*objects, stub], objects=" ".join(map(str, objects)))
        ninja.run()
        return folder / output


class SourceDistribution(sdist):
    """Adds what a build and the tests need beside the package."""

    def make_distribution(self) -> None:
        for folder in ("csrc", "tests", "benchmarks", "docs"):
            files = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
            self.filelist.extend(str(p) for p in files if not {"__pycache__", "_build"} & set(p.parts))
        self.filelist.extend(name for name in ("Makefile", "CHANGELOG.md", "CONTRIBUTING.md") if (ROOT / name).exists())
        super().make_distribution()


def extensions() -> list[Extension]:
    if MODE not in ("auto", "0", "1"):
        raise SystemExit(f"MI_ESTIMATORS_BUILD: want auto, 0 or 1, got {MODE!r}")
    if MODE == "0" or sys.platform == "win32":
        return []
    if find_cxx() is None:
        if MODE == "1":
            raise SystemExit("MI_ESTIMATORS_BUILD=1, but no C++ compiler was found (set CXX)")
        print("no C++ compiler: installing without compiled kernels; everything runs on the torch reference")
        return []
    found = [Extension("mi_estimators._C", [])]
    if find_cuda() is not None:
        found.append(Extension("mi_estimators._cuda", []))
    return found


EXTENSIONS = extensions()
setup(
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": NativeBuild, "sdist": SourceDistribution},
    # Only an isolated build beside no usable torch has to fetch one; any version at or above the target will do.
    setup_requires=["torch>=2.11"] if EXTENSIONS and find_torch() is None else [],
)
