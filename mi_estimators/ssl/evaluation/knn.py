"""Nearest-neighbour classification of fixed features: no training, no setting that matters much."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ssl.evaluation.features import check_splits

TILE = 1 << 23
"""Similarities held at a time: 32 MiB of float32."""


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    k: int = 200,
    temperature: float = 0.07,
) -> float:
    r"""Accuracy of a weighted vote of the ``k`` nearest training points by cosine similarity.

    Class c gets :math:`\sum_{i \in N_k(x),\, y_i = c} \exp(\cos(x, x_i) / \tau)`; the largest wins, of equal ones the
    lowest. Similarities are taken a tile of test points at a time, on the device of the features.

    Args:
        train_features: what votes.
        train_labels: their classes, from 0 up.
        features: what is classified.
        labels: its classes; one that no training point has counts as an error.
        k: number of neighbours, at most the number of training points, which stands for any larger one.
        temperature: :math:`\tau`.

    Shape:
        - train_features: ``[N, d]``, floating; labels ``[N]``, integers.
        - features: ``[M, d]``, of the same dtype and device; labels ``[M]``.

    Returns:
        The accuracy, in ``[0, 1]``.

    Raises:
        TypeError: a wrong dtype.
        ValueError: wrong shapes or devices, features not finite, labels below 0, ``k < 1`` or ``temperature <= 0``.

    Source: Wu et al. (2018), arXiv 1805.01978, sec. 3.4.
    """
    check_splits(train_features, train_labels, features, labels)
    k = _checks.count("k", k)
    _checks.positive("temperature", temperature)
    of_class = train_labels.long()
    bank = _unit(train_features)
    classes, rows = int(of_class.max()) + 1, max(1, TILE // len(bank))
    right = torch.zeros((), dtype=torch.int64, device=features.device)
    for tile, wanted in zip(features.split(rows), labels.split(rows), strict=True):
        near, index = (_unit(tile) @ bank.T).topk(min(k, len(bank)), dim=1)  # [rows, k], the nearest first
        weights = ((near - near[:, :1]) / temperature).exp()  # relative to the largest: nothing overflows
        votes = weights.new_zeros(len(tile), classes).scatter_add_(1, of_class[index], weights)
        right += (votes.argmax(dim=1) == wanted).sum()
    return int(right) / len(labels)


def _unit(features: Tensor) -> Tensor:
    wide = features if features.dtype == torch.float64 else features.float()
    return F.normalize(wide, dim=1)
