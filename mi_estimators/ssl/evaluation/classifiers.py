"""Classifiers of fixed features: the accuracy each reaches says what can be read from them, and how easily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators._extras import require
from mi_estimators.ssl.evaluation.features import check_splits
from mi_estimators.ssl.evaluation.knn import knn_accuracy

BATCH, WEIGHT_DECAY, HIDDEN = 256, 1e-6, 256


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Test accuracy of multinomial logistic regression on fixed features, with all training labels.

    The protocol of Tschannen et al. (2020): features are scaled to ``[0, 1]`` over the training set, then
    scikit-learn's ``LogisticRegression`` is fitted with the paper's settings: solver saga, tolerance 0.1, C 10.

    Args:
        train: features ``[N, d]`` and labels ``[N]``.
        test: the same of the test split.

    Returns:
        The accuracy, in ``[0, 1]``; with one training class, that of always answering with it.

    Raises:
        ValueError: a feature is not finite.
    """
    preprocessing = require("sklearn.preprocessing", "train")
    linear_model = require("sklearn.linear_model", "train")
    for name, (features, _) in (("train", train), ("test", test)):
        if not bool(torch.isfinite(features).all()):
            raise ValueError(f"{name}: want finite features, got NaN or infinite values")
    if len(train[1].unique()) == 1:  # nothing to fit, as in a set without labels
        return float((test[1] == train[1][0]).double().mean())
    scaler = preprocessing.MinMaxScaler()
    classifier = linear_model.LogisticRegression(solver="saga", tol=0.1, C=10, random_state=0)
    classifier.fit(scaler.fit_transform(train[0].numpy()), train[1].numpy())
    return float(classifier.score(scaler.transform(test[0].numpy()), test[1].numpy()))


def sgd_probe(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    hidden: int = 0,
    epochs: int = 100,
    lr: float = 0.1,
    seed: int = 0,
) -> float:
    """Accuracy of a softmax classifier trained by stochastic gradient descent on fixed features, on their device.

    Features are standardised over the training set. Batches of 256, Nesterov momentum 0.9, weight decay 1e-6, and a
    learning rate that falls to 0 along a cosine.

    Args:
        train_features: what it is trained on.
        train_labels: their classes, from 0 up.
        features: what it is tested on.
        labels: their classes.
        hidden: units of one hidden layer with ReLU; 0 for a linear classifier.
        epochs: passes over the training features.
        lr: learning rate at the start.
        seed: seed of the weights and of the batches.

    Shape:
        - train_features: ``[N, d]``, floating; labels ``[N]``, integers.
        - features: ``[M, d]``, of the same dtype and device; labels ``[M]``.

    Returns:
        The accuracy, in ``[0, 1]``.

    Raises:
        TypeError: a wrong dtype.
        ValueError: wrong shapes or devices, features not finite, labels below 0, or a setting out of range.
    """
    check_splits(train_features, train_labels, features, labels)
    hidden, epochs = _checks.count("hidden", hidden, 0), _checks.count("epochs", epochs)
    _checks.positive("lr", lr)
    x, test = _standardised(train_features, features)
    y = train_labels.long()
    width, classes = x.shape[1], int(y.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head: nn.Module = nn.Linear(width, classes)
        if hidden:
            head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    head.to(x)
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.SGD(head.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(epochs):
            for index in torch.randperm(len(x), generator=generator).to(x.device).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(head(x[index]), y[index]).backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        return float((head(test).argmax(dim=1) == labels).double().mean())


def mlp_probe(
    train_features: Tensor, train_labels: Tensor, features: Tensor, labels: Tensor, *, seed: int = 0
) -> float:
    """:func:`sgd_probe` with a hidden layer of 256 units: what a classifier reads that need not be linear.

    Shape:
        As of :func:`sgd_probe`.

    Raises:
        TypeError: as :func:`sgd_probe`.
        ValueError: as :func:`sgd_probe`.
    """
    return sgd_probe(train_features, train_labels, features, labels, hidden=HIDDEN, seed=seed)


def k_shot(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 10,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Accuracy of logistic regression on k labelled points a class, over several draws of them.

    Features are standardised over the whole training set, whose other labels are not used.

    Args:
        train_features: what the points are drawn from.
        train_labels: their classes, from 0 up.
        features: what is classified.
        labels: their classes.
        shots: the k.
        draws: how often the points are drawn for each k.
        seed: seed of the draws.

    Shape:
        As of :func:`sgd_probe`.

    Returns:
        For each k, as text: the ``mean`` and ``std`` (over draws) of the accuracy, and that of all ``draws``.

    Raises:
        TypeError: a wrong dtype.
        ValueError: as :func:`sgd_probe`, or a class has fewer than k points.
    """
    check_splits(train_features, train_labels, features, labels)
    draws = _checks.count("draws", draws)
    linear_model = require("sklearn.linear_model", "train")
    x, test = (part.cpu().numpy() for part in _standardised(train_features, features))
    y, wanted = (part.cpu().numpy() for part in (train_labels, labels))
    of_class = {int(name): np.flatnonzero(y == name) for name in np.unique(y)}
    if len(of_class) < 2:
        raise ValueError("train_labels: want at least two classes, got one")
    found: dict[str, dict[str, Any]] = {}
    for k in shots:
        k = _checks.count("shots", k)
        for name, places in of_class.items():
            if len(places) < k:
                raise ValueError(f"shots: want at most the {len(places)} training points of class {name}, got {k}")
        accuracies = []
        for draw in range(draws):
            generator = np.random.default_rng([seed, k, draw])
            index = np.concatenate([generator.choice(places, k, replace=False) for places in of_class.values()])
            classifier = linear_model.LogisticRegression(max_iter=1000).fit(x[index], y[index])
            accuracies.append(float(classifier.score(test, wanted)))
        found[str(k)] = {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies)), "draws": accuracies}
    return found


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or wider, each column with mean 0 and deviation 1 over the training set; constant ones as 0."""
    wide = torch.float64 if train.dtype == torch.float64 else torch.float32
    train, test = train.to(wide), test.to(wide)
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation, 0)
    return (train - mean) * scale, (test - mean) * scale


def _linear(x: Tensor, y: Tensor, test: Tensor, labels: Tensor, seed: int) -> float:
    return linear_probe((x.cpu(), y.cpu()), (test.cpu(), labels.cpu()))


PROBES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, int], Any]] = {
    "linear": _linear,
    "knn": lambda x, y, test, labels, seed: knn_accuracy(x, y, test, labels),
    "mlp": lambda x, y, test, labels, seed: mlp_probe(x, y, test, labels, seed=seed),
    "kshot": lambda x, y, test, labels, seed: k_shot(x, y, test, labels, seed=seed),
    "sgd": lambda x, y, test, labels, seed: sgd_probe(x, y, test, labels, seed=seed),
}
"""Train features and labels, test features and labels, and a seed in; an accuracy, or accuracies by name, out."""
