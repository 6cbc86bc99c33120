"""The linear probe of a method's representation, and of the pixels it has to beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mi_estimators.image_sets import ImageSet, Split
from mi_estimators.ssl.augment import ViewMaker
from mi_estimators.ssl.evaluation import linear_probe
from mi_estimators.ssl.method import Method


@torch.no_grad()
def over_anchors(method: Method, function: Callable[[Tensor], Tensor], split: Split, view: ViewMaker) -> Tensor:
    """A function of the method applied to the probed view of every image of a split, the method in evaluation mode."""
    training = method.training
    method.eval()
    try:
        starts = range(0, len(split), 4096)
        return torch.cat([function(view.anchor(split.pixels(slice(start, start + 4096)))).float() for start in starts])
    finally:
        method.train(training)


def probe_pixels(data: ImageSet, view: ViewMaker) -> float:
    """Probe accuracy of the raw pixels of the probed view: the baseline a representation has to beat."""
    return linear_probe(
        *((view.anchor(split.pixels()).flatten(1).cpu(), split.labels.cpu()) for split in (data.train, data.test))
    )


def probe_method(method: Method, data: ImageSet, view: ViewMaker) -> float:
    """Probe accuracy of a method's representation, in evaluation mode."""
    return linear_probe(
        *(
            (over_anchors(method, method.represent, split, view).cpu(), split.labels.cpu())
            for split in (data.train, data.test)
        )
    )
