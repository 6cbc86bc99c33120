from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma

from mi_estimators.entropy import categorical_entropy, discrete_entropy

NDD = [12, 4, 12, 4, 5, 3, 1, 5, 1, 2, 2, 2, 2, 11, 3, 4, 12, 12, 1, 2]
STRIMMER = [4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]  # the example of R's package entropy


def plug_in(counts: list[int]) -> float:
    shares = [count / sum(counts) for count in counts if count]
    return -sum(p * math.log(p) for p in shares)


def chao_shen(counts: list[int]) -> float:
    n, once = sum(counts), counts.count(1)
    coverage = 1 - (once if once < n else n - 1) / n
    shares = [coverage * count / n for count in counts if count]
    return -sum(p * math.log(p) / (1 - (1 - p) ** n) for p in shares)


def nsb(counts: list[int], classes: int) -> float:
    """The ratio of integrals as a sum over steps of xi, the mean entropy under a prior of concentration beta."""
    counts = [count for count in counts if count]
    n = sum(counts)
    ends = np.exp(np.linspace(-60, 60, 120_001))
    beta = np.sqrt(ends[1:] * ends[:-1])
    steps = np.diff(digamma(classes * ends + 1) - digamma(ends + 1))
    log_likelihood = sum(np.log((beta + i) / beta) for count in counts for i in range(1, count))
    log_likelihood = log_likelihood - sum(np.log((classes * beta + i) / beta) for i in range(1, n))
    total = n + classes * beta
    seen = sum((count + beta) / total * digamma(count + beta + 1) for count in counts)
    mean = digamma(total + 1) - seen - (classes - len(counts)) * beta / total * digamma(beta + 1)
    weight = steps * np.exp(log_likelihood - log_likelihood.max())
    return float((weight * mean).sum() / weight.sum())


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(lambda counts: sum(counts) > 0))
def test_corrections_are_their_formulas(counts):
    seen, n = sum(count > 0 for count in counts), sum(counts)
    want = plug_in(counts)
    assert discrete_entropy(counts=counts).item() == pytest.approx(want, abs=1e-12)
    corrected = discrete_entropy(counts=counts, correction="miller_madow").item()
    assert corrected == pytest.approx(want + (seen - 1) / (2 * n), abs=1e-12)
    if n > 1:
        assert discrete_entropy(counts=counts, correction="chao_shen").item() == pytest.approx(chao_shen(counts))
    # Samples give what their counts give, in any order and under any names.
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    np.random.default_rng(0).shuffle(labels)
    for samples in (labels, torch.tensor(labels), np.array(labels), [f"class {k}" for k in labels]):
        assert discrete_entropy(samples).item() == pytest.approx(want, abs=1e-12)


def test_published_values():
    # ndd 1.6, its README.
    got = discrete_entropy(counts=NDD, correction="nsb", num_classes=100).item()
    assert got == pytest.approx(2.840012048914245, abs=1e-8)
    # Chao and Shen's estimator of [50, 2, 1, 1]: C = 52/54, in bits.
    got = discrete_entropy(counts=[50, 2, 1, 1], correction="chao_shen").item() / math.log(2)
    assert got == pytest.approx(0.6805093130489859, abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "classes"),
    [
        (NDD, 100),
        (STRIMMER, 11),
        ([1, 1, 1], 10),
        ([1, 1, 1, 2], 10**6),
        ([5], 3),
        ([0, 40, 3, 1], 50),
        ([30] * 10, 10),
    ],
)
def test_nsb_against_a_sum_over_the_prior(counts, classes):
    got = discrete_entropy(counts=counts, correction="nsb", num_classes=classes).item()
    assert got == pytest.approx(nsb(counts, classes), rel=2e-6)


@pytest.mark.parametrize("classes", [2, 7, 10**9])
def test_nsb_of_one_sample_is_the_mean_of_its_prior(classes):
    # One sample says nothing of the entropy, which is uniform on [0, log K] beforehand.
    got = discrete_entropy(["a"], correction="nsb", num_classes=classes).item()
    assert got == pytest.approx(math.log(classes) / 2, rel=1e-10)


def test_nsb_of_many_samples_is_the_plug_in():
    counts = [3 * 10**8, 2 * 10**8, 10**8]
    got = discrete_entropy(counts=counts, correction="nsb", num_classes=4).item()
    assert got == pytest.approx(plug_in(counts), abs=1e-7)
    assert discrete_entropy(counts=[7], correction="nsb", num_classes=1).item() == 0.0


def test_corrections_lower_the_error_of_few_samples():
    # 30 samples of 60 classes: the plug-in is bound by log 30, the truth is larger.
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.full(60, 1.0))
    truth = -(p * np.log(p)).sum()
    draws = [rng.choice(60, size=30, p=p) for _ in range(12)]
    error = {
        correction: abs(
            np.mean([discrete_entropy(d, correction=correction, num_classes=60).item() for d in draws]) - truth
        )
        for correction in (None, "miller_madow", "chao_shen", "nsb")
    }
    assert error["miller_madow"] < error[None]
    assert error["chao_shen"] < 0.5 * error[None]
    assert error["nsb"] < 0.3 * error[None]


def test_joint_labels_and_labels_of_any_kind():
    x = torch.randint(4, (200, 2))
    joint = discrete_entropy(x)
    torch.testing.assert_close(joint, discrete_entropy(4 * x[:, 0] + x[:, 1]))
    assert joint.item() <= (discrete_entropy(x[:, 0]) + discrete_entropy(x[:, 1])).item() + 1e-12
    assert discrete_entropy(np.array([1, "a", None, 1], dtype=object)).item() == pytest.approx(1.5 * math.log(2))
    assert discrete_entropy([True, False]).item() == pytest.approx(math.log(2))
    one_hot = torch.nn.functional.one_hot(x[:, 0], 4).double()
    torch.testing.assert_close(discrete_entropy(x[:, 0]), categorical_entropy(one_hot))


@pytest.mark.parametrize("correction", [None, "miller_madow", "chao_shen"])
def test_one_class_has_no_entropy(correction):
    for count in (1, 5):
        assert discrete_entropy(counts=[count, 0], correction=correction).item() == 0.0


def test_chao_shen_where_nothing_repeats():
    assert discrete_entropy(counts=[1] * 6, correction="chao_shen").item() == pytest.approx(chao_shen([1] * 6))
    assert discrete_entropy(counts=[1] * 6, correction="chao_shen").item() > math.log(6)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "samples, counts: want one of them, got neither"),
        ({"samples": [1], "counts": [1]}, ValueError, "got both"),
        ({"samples": torch.randn(4)}, TypeError, "samples: want integers or labels, got float32"),
        ({"samples": []}, ValueError, "samples: want one or two dimensions and at least one sample"),
        ({"samples": torch.zeros(0, dtype=torch.int64)}, ValueError, "samples: want one or two dimensions"),
        ({"counts": [0, 0]}, ValueError, "counts: want finite counts >= 0, at least one"),
        ({"counts": [1, -1, 3]}, ValueError, "counts: want finite counts >= 0"),
        ({"counts": [1.5]}, TypeError, "counts: want whole numbers"),
        ({"counts": [math.nan]}, TypeError, "counts: want whole numbers"),
        ({"counts": [math.inf]}, ValueError, "counts: want finite counts"),
        ({"counts": torch.ones(2, 2)}, ValueError, "counts: want one dimension"),
        ({"counts": [2], "correction": "jackknife"}, ValueError, "correction: want one of"),
        ({"counts": [2], "correction": "nsb"}, ValueError, "num_classes: want the number of classes"),
        ({"counts": [2, 1], "num_classes": 1}, ValueError, "num_classes: want at least the 2 classes seen"),
        ({"counts": [2], "num_classes": 2.5}, TypeError, "num_classes: want an integer"),
    ],
)
def test_bad_input_is_named(arguments, error, text):
    with pytest.raises(error, match=text):
        discrete_entropy(**arguments)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), k=st.integers(1, 12))
def test_categorical_entropy_is_between_zero_and_log_k(seed, n, k):
    p = torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(1)
    assert -1e-12 <= categorical_entropy(p).item() <= math.log(k) + 1e-12
    torch.testing.assert_close(categorical_entropy(p), torch.distributions.Categorical(p.mean(0)).entropy())


def test_rows_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="probabilities: want rows of probabilities"):
        categorical_entropy(torch.ones(3, 4))
    with pytest.raises(ValueError, match="probabilities: want rows of probabilities"):
        categorical_entropy(torch.tensor([[1.5, -0.5]]))


def test_counts_are_any_iterable_and_no_samples_are_named():
    counts = Counter("the cat sat on the mat")
    want = discrete_entropy(counts=list(counts.values()))
    assert discrete_entropy(counts=counts.values()) == want
    assert discrete_entropy(counts=(n for n in counts.values())) == want
    with pytest.raises(ValueError, match=r"samples: want .* at least one sample"):
        discrete_entropy([])
