from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mi_estimators._parallel import single_threaded


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For what is small: a second thread costs more than it gains, and tests run beside each other."""
    with single_threaded():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU and a torch with CUDA"))
