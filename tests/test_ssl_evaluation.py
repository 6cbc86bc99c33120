"""What reads labels from fixed features."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from mi_estimators.ssl.evaluation import knn, knn_accuracy


def blobs(count: int, classes: int = 3, width: int = 5, spread: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    noise = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return torch.eye(classes, width, dtype=torch.float64)[labels] + spread * noise, labels


def voted(train: tuple[Tensor, Tensor], point: Tensor, k: int, temperature: float) -> int:
    """One prediction, by plain Python."""
    cosines = []
    for row, label in zip(train[0].tolist(), train[1].tolist(), strict=True):
        product = sum(a * b for a, b in zip(row, point.tolist(), strict=True))
        cosines.append((product / math.hypot(*row) / math.hypot(*point.tolist()), label))
    votes: dict[int, float] = defaultdict(float)
    for cosine, label in sorted(cosines, reverse=True)[:k]:
        votes[label] += math.exp(cosine / temperature)
    return max(votes, key=lambda label: votes[label])


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (7, 5.0), (200, 0.5)])
def test_knn_is_the_weighted_vote_of_neighbours_however_it_is_tiled(monkeypatch, k, temperature):
    train, (points, labels) = blobs(61), blobs(37, seed=1)
    truth = [voted(train, point, k, temperature) for point in points]
    want = sum(a == b for a, b in zip(truth, labels.tolist(), strict=True)) / 37
    assert 0.3 < want < 1  # a check that could fail
    for tile in (1 << 23, 61 * 5, 1):
        monkeypatch.setattr(knn, "TILE", tile)
        assert knn_accuracy(*train, points, labels, k=k, temperature=temperature) == want
        # Each prediction, not only their number: a set whose labels are the truth is classified without error.
        assert knn_accuracy(*train, points, torch.tensor(truth), k=k, temperature=temperature) == 1.0


def test_knn_survives_any_temperature_scale_and_half_precision():
    train, test = blobs(50, spread=0.05), blobs(20, spread=0.05, seed=1)
    for temperature in (1e-6, 1e6):
        assert knn_accuracy(*train, *test, k=9, temperature=temperature) == 1.0
    halves = (train[0].bfloat16() * 100, train[1].to(torch.uint8), test[0].bfloat16(), test[1].to(torch.int32))
    assert knn_accuracy(*halves, k=9) == 1.0
    unseen = test[1] + 3
    assert knn_accuracy(*train, test[0], unseen) == 0.0


def test_knn_names_what_is_wrong():
    x, y = blobs(10)
    bad = x.clone()
    bad[2, 1] = torch.nan
    for arguments, options, kind, words in [
        ((x, y, x, y), {"k": 0}, ValueError, "k: want an integer >= 1, got 0"),
        ((x, y, x, y), {"k": 2.0}, TypeError, "k: want an integer, got 2.0"),
        ((x, y, x, y), {"temperature": 0.0}, ValueError, "temperature: "),
        ((bad, y, x, y), {}, ValueError, "train_features: want finite"),
        ((x, y, bad, y), {}, ValueError, "features: want finite"),
        ((x, y[:9], x, y), {}, ValueError, "train_labels: want 10 labels"),
        ((x, y, x, -1 - y), {}, ValueError, "labels: want labels from 0 up"),
        ((x, y, x[:, :3], y), {}, ValueError, "features: want the last dimension of train_features"),
        ((x, y, x[:0], y[:0]), {}, ValueError, "features: want at least one element"),
        ((x, y.double(), x, y), {}, TypeError, "train_labels: want an integer dtype"),
        ((x, y, x.float(), y), {}, TypeError, "features: want the dtype of train_features"),
    ]:
        with pytest.raises(kind, match=words):
            knn_accuracy(*arguments, **options)
