"""What estimate_mi takes: arrays, tensors, data frames, categories and loaders, and what it says of the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mi_estimators.estimators import compare, estimate_mi
from mi_estimators.estimators.inputs import paired
from mi_estimators.synthetic import TASKS

X, Y = (t.double() for t in TASKS["multinormal-dense-2-2-0.5"].sample(300, seed=0))
VALUE = estimate_mi(X, Y, estimator="gaussian").value


class Single(Dataset):
    """A dataset in torch's sense: one pair an item."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


class Batches(IterableDataset):
    def __iter__(self):
        return iter(list(zip(X.split(70), Y.split(70), strict=True)))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X.numpy(), Y.numpy()),
        (X.tolist(), Y),
        (X.clone().requires_grad_(), Y.numpy()[::-1][::-1]),
        (X.T.contiguous().T, np.asfortranarray(Y.numpy())),
        (DataLoader(TensorDataset(X, Y), batch_size=64), None),
        (TensorDataset(X, Y), None),
        (Single(), None),
        (Batches(), None),
        (DataLoader(Batches(), batch_size=None), None),
        (((a.numpy(), b.tolist()) for a, b in zip(X.split(100), Y.split(100), strict=True)), None),
    ],
)
def test_every_form_of_the_same_pairs_gives_the_same_value(x, y):
    assert estimate_mi(x, y, estimator="gaussian").value == pytest.approx(VALUE, abs=1e-13)


def test_one_dimension_and_half_precision():
    expected = estimate_mi(X[:, :1].bfloat16().float(), Y[:, :1], estimator="gaussian").value
    assert estimate_mi(X[:, 0].bfloat16(), Y[:, 0].numpy(), estimator="gaussian").value == expected


def test_pandas_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": Y[:, 0], "d": Y[:, 1]}, index=np.arange(300)[::-1])
    assert estimate_mi(frame[["a", "b"]], frame[["c", "d"]], estimator="gaussian").value == pytest.approx(VALUE)
    one = estimate_mi(frame["a"], frame["c"].astype("Float64"), estimator="gaussian").value
    assert one == pytest.approx(estimate_mi(X[:, 0], Y[:, 0], estimator="gaussian").value)
    with pytest.raises(ValueError, match="y: want the index of x"):
        estimate_mi(frame["a"], frame["c"].reset_index(drop=True), estimator="gaussian")
    missing = frame["a"].astype("Float64").where(frame["a"] > 0)
    with pytest.raises(ValueError, match=r"x: want finite values, got \d+ NaN"):
        estimate_mi(missing, frame["c"], estimator="gaussian")
    with pytest.raises(TypeError, match="x: column 'b': want floating-point"):
        estimate_mi(frame.assign(b=1)[["a", "b"]], frame["c"], estimator="gaussian")
    with pytest.raises(TypeError, match="x: column 'a': want numbers or categories, got dtype datetime64"):
        estimate_mi(frame.assign(a=pandas.Timestamp(0))["a"], frame["c"], estimator="gaussian")


@pytest.mark.parametrize(
    "labels",
    [
        np.array([7, -3, 7, 2**60, 2**60 + 1]),
        np.array(["u", "a", "u", "x", "y"]),
        np.array(["u", 3, "u", "x", "y"], dtype=object),
        torch.tensor([5, 1, 5, 8, 9], dtype=torch.uint8),
    ],
)
def test_categories_become_numbers_from_zero(labels):
    x, y = paired(labels, torch.tensor([True, False, True, True, False]), "discrete")
    assert x.discrete
    assert y.discrete
    assert sorted(set(x.values[:, 0])) == [0.0, 1.0, 2.0, 3.0]
    codes = x.values[:, 0]
    assert [codes[i] == codes[j] for i in range(5) for j in range(5)] == [
        labels[i] == labels[j] for i in range(5) for j in range(5)
    ]
    assert set(y.values[:, 0]) == {0.0, 1.0}


def test_pandas_categories():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ["u", "v", "u", "w"], "b": [1, 2, 3, 3], "c": [0.5, 1.5, 2.5, 3.5]})
    frame["a"] = frame["a"].astype("category")
    x, y = paired(frame[["a", "b"]], frame["c"], "mixed")
    assert (x.discrete, y.discrete) == (True, False)
    assert x.values.tolist() == [[0, 1], [1, 2], [0, 3], [2, 3]]  # categories from 0, integers as they are
    assert paired(frame[["a", "b"]], frame["b"], "discrete")[0].values.tolist() == [[0, 0], [1, 1], [0, 2], [2, 2]]
    with pytest.raises(TypeError, match=r"x: want columns of one kind.*'a' category, 'c' float64"):
        paired(frame[["a", "c"]], frame["b"], "mixed")
    with pytest.raises(ValueError, match="x: want no missing values, got 1"):
        paired(frame["a"].where(frame["b"] > 1), frame["b"], "discrete")


def test_categories_from_any_source_reach_the_estimators():
    generator = np.random.default_rng(0)
    label, noise = generator.integers(3, size=500), generator.standard_normal(500)
    names = np.array(["low", "mid", "top"])[label]
    flipped = np.where(generator.random(500) < 0.2, 0, label)
    expected = estimate_mi(label, flipped, estimator="discrete").value
    assert expected > 0.3
    assert estimate_mi(names, torch.as_tensor(flipped), estimator="discrete").value == pytest.approx(expected)
    assert estimate_mi(names, 2.0 * flipped, estimator="discrete").value == pytest.approx(expected)
    mixed = estimate_mi(names, 3.0 * label + noise, estimator="mixed").value
    assert mixed == pytest.approx(estimate_mi(label, 3.0 * label + noise, estimator="mixed").value)
    assert [e.estimator for e in compare(names, flipped)] == ["discrete"]
    assert [e.estimator for e in compare(names, 3.0 * label + noise)] == ["mixed", "mixture"]


def test_whole_numbers_as_floats_stand_for_categories_where_only_categories_do():
    x, y = paired(np.array([0.0, 1.0, 1.0]), np.array([1, 0, 0]), "discrete")
    assert x.discrete
    x, y = paired(np.array([0.0, 1.0, 1.0]), np.array([1, 0, 0]), "mixed")
    assert (x.discrete, y.discrete) == (False, True)


@pytest.mark.parametrize(
    ("x", "y", "kind", "error", "match"),
    [
        (X, None, "continuous", TypeError, "y: want the samples paired with x; alone, x must be a DataLoader.*Tensor"),
        (3.0, None, "continuous", TypeError, "y: want the samples paired with x.*float"),
        ([1.0, 2.0], None, "continuous", TypeError, r"x: want a DataLoader.*batches \(x, y\), got float as batch 0"),
        (iter([(X, Y, Y)]), None, "continuous", TypeError, "got tuple as batch 0"),
        (iter([(X, Y), (X[:, :1], Y)]), None, "continuous", ValueError, "x: want 2 columns as in batch 0, got 1"),
        (iter([(X, Y[:-1])]), None, "continuous", ValueError, r"y: want as many samples as x \(300\), got 299"),
        (iter([(X[None], Y[None])]), None, "continuous", ValueError, "x: want batches of shape"),
        (iter([]), None, "continuous", ValueError, "x: want at least one batch"),
        (DataLoader(TensorDataset(X, Y)), Y, "continuous", TypeError, "x: a DataLoader yields both variables"),
        (X, Y.T, "continuous", ValueError, r"y: want as many samples as x \(300\), got 2"),
        (X.bool(), Y, "continuous", TypeError, "x: want floating-point samples.*torch.bool|x: want floating.*bool"),
        (X.numpy().astype(complex), Y, "continuous", TypeError, "x: want numbers or categories, got dtype complex128"),
        (X, Y, "discrete", TypeError, "x: want categories"),
        (np.array(["a", None, "b"], dtype=object), np.arange(3), "discrete", ValueError, "x: want no missing values"),
        (np.array([1, 1, 1]), np.arange(3), "discrete", ValueError, "x: column 0 is constant"),
        (np.ma.masked_less(X.numpy(), 0), Y, "continuous", ValueError, r"x: want no missing values, got \d+ masked"),
        (X.numpy()[:, :, None], Y, "continuous", ValueError, r"x: want shape \[n\] or \[n, d\], got \(300, 2, 1\)"),
    ],
)
def test_what_is_no_sample_is_named(x, y, kind, error, match):
    with pytest.raises(error, match=match):
        paired(x, y, kind)


def test_a_loader_is_read_once_for_several_estimators():
    found = compare(iter([(X, Y)]), estimators=("gaussian", "ksg"))
    assert found["gaussian"].value == pytest.approx(VALUE)
    assert found["ksg"].n == 300
