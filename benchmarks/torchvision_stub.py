"""Lets torchvision be imported beside a torch it was not compiled for.

lightly and open_clip import torchvision for things that no loss needs. torchvision's wheels on PyPI are compiled for
torch with CUDA; beside a CPU torch their compiled library does not load. torchvision goes on without it until its
registrations of fake kernels, which look up two operators that this library would have defined, and the import ends
in "operator torchvision::nms does not exist". So these two are given their schemas here, and nothing else: the import
goes through, and a call of one of them is an error, as it should be.
"""

from __future__ import annotations

import torch

SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))

_library: torch.library.Library | None = None  # the definitions go when it goes


def ensure_torchvision() -> None:
    """Import torchvision, with its operators declared if its own library did not; once is enough.

    Raises:
        ImportError: torchvision is not installed.
    """
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if _library is not None or "torchvision::nms" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            _library.define(schema)
        import torchvision  # noqa: F401
