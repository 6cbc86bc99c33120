from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from mi_estimators.entropy import histogram_entropy

DOUBLE = torch.float64


def dense(x: np.ndarray, bins: list[int]) -> tuple[float, int]:
    """The estimate from NumPy's histogram, and the number of cells that are occupied."""
    counts, edges = np.histogramdd(x, bins)
    shares = counts[counts > 0] / len(x)
    widths = [edge[1] - edge[0] for edge in edges]
    return -(shares * np.log(shares)).sum() + np.log(widths).sum(), len(shares)


def knuth(x: np.ndarray, largest: int) -> int:
    def log_posterior(m: int) -> float:
        counts = np.histogram(x, m)[0]
        n = len(x)
        terms = gammaln(counts + 0.5).sum() - m * gammaln(0.5) + gammaln(m / 2) - gammaln(n + m / 2)
        return n * math.log(m) + terms

    return max(range(1, largest), key=log_posterior)


@pytest.mark.parametrize("rule", ["fd", "scott"])
def test_rules_are_those_of_numpy(rule):
    x = torch.randn(777, dtype=DOUBLE)
    bins = len(np.histogram_bin_edges(x.numpy(), rule)) - 1
    want, occupied = dense(x.numpy()[:, None], [bins])
    assert histogram_entropy(x, bins=rule).item() == pytest.approx(want, rel=1e-12)
    corrected = histogram_entropy(x[:, None], bins=rule, correction="miller_madow").item()
    assert corrected == pytest.approx(want + (occupied - 1) / (2 * 777), rel=1e-12)


@pytest.mark.parametrize("kind", ["normal", "uniform", "two peaks"])
def test_knuth_bins_maximise_the_posterior(kind):
    x = {
        "normal": torch.randn(500, dtype=DOUBLE),
        "uniform": torch.rand(500, dtype=DOUBLE),
        "two peaks": torch.randn(500, dtype=DOUBLE) * 0.1 + torch.arange(500) % 2,
    }[kind].numpy()
    want, _ = dense(x[:, None], [knuth(x, 60)])
    assert histogram_entropy(torch.from_numpy(x), bins="knuth").item() == pytest.approx(want, rel=1e-12)


def test_several_dimensions():
    x = torch.randn(2000, 3, dtype=DOUBLE)[:, ::2] * torch.tensor([1.0, 4.0])
    assert histogram_entropy(x, bins=[7, 9]).item() == pytest.approx(dense(x.numpy(), [7, 9])[0], rel=1e-12)
    widths = 2 * (np.subtract(*np.percentile(x.numpy(), [75, 25], axis=0))) * 2000 ** (-1 / 4)
    bins = [math.ceil(extent / width) for extent, width in zip(np.ptp(x.numpy(), axis=0), widths, strict=True)]
    assert histogram_entropy(x).item() == pytest.approx(dense(x.numpy(), bins)[0], rel=1e-12)
    # The grid of a fine histogram is not stored.
    fine = histogram_entropy(x, bins=10**7).item()
    assert fine == pytest.approx(math.log(2000) + np.log(np.ptp(x.numpy(), axis=0) / 1e7).sum(), rel=1e-12)


@pytest.mark.parametrize("rule", ["fd", "scott", "knuth"])
def test_known_entropies(rule):
    normal = 0.5 * math.log(2 * math.pi * math.e)
    x = torch.randn(10_000, dtype=DOUBLE)
    assert histogram_entropy(x, bins=rule, correction="miller_madow").item() == pytest.approx(normal, abs=0.02)
    assert histogram_entropy(3 * x - 7, bins=rule).item() == pytest.approx(
        histogram_entropy(x, bins=rule).item() + math.log(3), abs=2e-3
    )
    pair = torch.randn(10_000, 2)
    got = histogram_entropy(pair, bins=rule, correction="miller_madow")
    assert got.dtype == DOUBLE
    assert got.item() == pytest.approx(2 * normal, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"x": torch.ones(5)}, ValueError, r"x: want values that differ, got equal ones in dimensions \[0\]"),
        ({"x": torch.randn(1)}, ValueError, "x: want at least 2 points"),
        ({"x": torch.tensor([1.0, math.nan])}, ValueError, "x: want finite values"),
        ({"x": torch.arange(5)}, TypeError, "x: want a dtype"),
        ({"bins": "sturges"}, ValueError, "bins: want one of"),
        ({"bins": 0}, ValueError, "bins: want a rule"),
        ({"bins": [3, 3]}, ValueError, "bins: want a rule"),
        ({"bins": 2.5}, ValueError, "bins: want a rule"),
        ({"bins": 2**63}, ValueError, "bins: want fewer cells"),
        ({"correction": "nsb"}, ValueError, "correction: want one of"),
        ({"x": torch.tensor([0.0] * 9 + [1.0])}, ValueError, "x: want an interquartile range above 0"),
    ],
)
def test_bad_input_is_named(arguments, error, text):
    with pytest.raises(error, match=text):
        histogram_entropy(**({"x": torch.randn(9)} | arguments))


def test_numpys_integers_are_bins():
    x = torch.randn(50, 2)
    for bins in (np.int64(6), np.array([6, 6]), [np.int32(6), 6]):
        assert histogram_entropy(x, bins=bins) == histogram_entropy(x, bins=6)
    with pytest.raises(ValueError, match="bins: want a rule"):
        histogram_entropy(x, bins=None)
