"""The linear probe of Tschannen et al. (2020): how well a linear classifier reads the label from a representation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mi_estimators._extras import require
from mi_estimators.image_sets import ImageSet, Split
from mi_estimators.ssl.augment import ViewMaker
from mi_estimators.ssl.method import Method


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Test accuracy of multinomial logistic regression on fixed features, with all training labels.

    Features are scaled to ``[0, 1]`` over the training set, then scikit-learn's ``LogisticRegression`` is fitted with
    the paper's settings: solver saga, tolerance 0.1, C 10.

    Args:
        train: features ``[N, d]`` and labels ``[N]``.
        test: the same of the test split.

    Returns:
        The accuracy, in ``[0, 1]``.

    Raises:
        ValueError: a feature is not finite.
    """
    preprocessing = require("sklearn.preprocessing", "train")
    linear_model = require("sklearn.linear_model", "train")
    for name, (features, _) in (("train", train), ("test", test)):
        if not bool(torch.isfinite(features).all()):
            raise ValueError(f"{name}: want finite features, got NaN or infinite values")
    scaler = preprocessing.MinMaxScaler()
    classifier = linear_model.LogisticRegression(solver="saga", tol=0.1, C=10, random_state=0)
    classifier.fit(scaler.fit_transform(train[0].numpy()), train[1].numpy())
    return float(classifier.score(scaler.transform(test[0].numpy()), test[1].numpy()))


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
