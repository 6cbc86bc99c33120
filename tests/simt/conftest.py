"""The libraries of the SIMT tests."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import simt_build

HERE = Path(__file__).resolve().parent


def _library(name: str) -> ctypes.CDLL:
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler (g++, or the one that CXX names) to build the kernels for the CPU with")
    library = simt_build.load(HERE / name)
    library.last_error.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="session")
def detectors() -> ctypes.CDLL:
    return _library("detectors.cpp")


@pytest.fixture(scope="session")
def kernels() -> ctypes.CDLL:
    library = _library("pairwise_lse.cpp")
    library.forward_workspace.restype = ctypes.c_size_t
    library.backward_workspace.restype = ctypes.c_size_t
    library.moments_workspace.restype = ctypes.c_size_t
    library.marginals_workspace.restype = ctypes.c_size_t
    library.iteration_workspace.restype = ctypes.c_size_t
    library.info_nce_workspace.restype = ctypes.c_size_t
    return library


@pytest.fixture(params=[0, 1], ids=["forward", "reverse"])
def schedule(request: pytest.FixtureRequest, detectors: ctypes.CDLL) -> Iterator[int]:
    """The order in which the threads of a block run."""
    detectors.set_schedule(request.param)
    yield request.param
    detectors.set_schedule(0)
