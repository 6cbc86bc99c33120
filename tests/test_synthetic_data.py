"""Discrete and mixed variables, images, time series, and the table of names."""

from __future__ import annotations

import itertools
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

import mi_estimators as mi
from mi_estimators import synthetic
from mi_estimators.synthetic import PROFILES, TASKS

PAGE = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text()


# The table


def test_names_look_up_lazily_and_stay_the_same_object():
    table = synthetic.TaskTable({"a-task": lambda: built.append(1) or synthetic.additive_noise(1.0)})
    built: list[int] = []
    assert "a-task" in table
    assert "b" not in table
    assert (list(table), len(table), built) == (["a-task"], 1, [])
    assert table["a-task"] is table["a-task"]
    assert built == [1]
    assert "a-task" in repr(table)


def test_a_wrong_name_suggests_the_nearest():
    for error in (KeyError, ValueError):
        with pytest.raises(error, match=r"got '1v1-norml-0.75' \(did you mean '1v1-normal-0.75'\?\)"):
            TASKS["1v1-norml-0.75"]
    with pytest.raises(KeyError, match=r"got 3$"):
        TASKS[3]
    assert TASKS.get("nothing like any") is None


def test_profiles_name_tasks():
    assert (len(PROFILES["quick"]), len(PROFILES["standard"])) == (6, 25)
    assert PROFILES["full"] == tuple(TASKS)
    for names in PROFILES.values():
        assert len(set(names)) == len(names)
        assert set(names) <= set(TASKS)
    for name in (*PROFILES["quick"], *PROFILES["standard"]):
        assert (TASKS[name].kind_x, TASKS[name].kind_y) == ("continuous", "continuous")


def test_the_page_lists_every_task_with_its_value():
    listed = re.findall(r"^\| `([^`]+)` \| (\d+) \| (\d+) \| ([\d.]+) \|$", PAGE, re.M)
    assert listed == [
        (name, str(task.dim_x), str(task.dim_y), f"{task.mutual_information:.4f}") for name, task in TASKS.items()
    ]


# Discrete and mixed variables


@settings(max_examples=25, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0.01, 1)))
def test_a_table_of_probabilities(weights):
    joint = weights / weights.sum()
    expected = stats.entropy(joint.sum(0)) + stats.entropy(joint.sum(1)) - stats.entropy(joint.ravel())
    task = synthetic.discrete_task("t", joint)
    assert task.mutual_information == pytest.approx(expected, abs=1e-9)
    symbols = [torch.tensor(column, dtype=torch.float64)[:, None] for column in np.indices(joint.shape).reshape(2, -1)]
    pointwise = task.pointwise_mutual_information(*symbols)
    assert float(pointwise @ torch.from_numpy(joint).flatten()) == pytest.approx(expected, abs=1e-9)


def test_samples_of_a_table_have_its_frequencies():
    joint = np.array([[0.1, 0.2, 0.0], [0.05, 0.25, 0.4]])
    x, y = synthetic.discrete_task("t", joint).sample(50_000, 0)
    counts = np.zeros((2, 3))
    np.add.at(counts, (x[:, 0].long().numpy(), y[:, 0].long().numpy()), 1)
    assert counts[0, 2] == 0
    np.testing.assert_allclose(counts / 50_000, joint, atol=0.01)


@pytest.mark.parametrize(("symbols", "error"), [(2, 0.1), (2, 0.0), (2, 0.5), (7, 0.3), (3, 1.0)])
def test_symmetric_channel_in_closed_form(symbols, error):
    noise = stats.entropy([error, 1 - error]) + error * math.log(symbols - 1)
    task = synthetic.symmetric_channel(symbols, error)
    assert task.mutual_information == pytest.approx(math.log(symbols) - noise, abs=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.15, 0.7])
def test_zero_inflated_poisson_by_sums_and_integrals(p):
    def joint(x, k):
        return math.exp(-x) * (p * (k == 0) + (1 - p) * stats.poisson.pmf(k, x))

    k = np.arange(200)
    marginal = (1 - p) * 0.5 ** (k + 1) + p * (k == 0)

    def information(x):
        conditional = (1 - p) * stats.poisson.pmf(k, x) + p * (k == 0)
        return math.exp(-x) * np.sum(np.where(conditional > 0, conditional * np.log(conditional / marginal), 0))

    assert integrate.quad(joint, 0, 60, args=(2,))[0] == pytest.approx(marginal[2], abs=1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = integrate.quad(information, 0, 45, limit=200)[0]
    task = synthetic.zero_inflated_poisson(p)
    assert task.mutual_information == pytest.approx(expected, abs=1e-7)
    # The published value is what x tells to who also sees which zeros were put in.
    published = (1 - p) * 0.301245
    assert task.mutual_information <= published + 1e-6
    assert (task.mutual_information == pytest.approx(published, abs=1e-6)) == (p == 0)


@pytest.mark.parametrize(("classes", "spacing"), [(1, 1.0), (2, 0.5), (3, 2.0), (10, 20.0)])
def test_gaussian_classes_by_adaptive_quadrature(classes, spacing):
    means = spacing * np.arange(classes)

    def density(y):
        return stats.norm.pdf(y - means).mean()

    entropy = sum(
        integrate.quad(lambda y: -density(y) * math.log(density(y)), a, b)[0]
        for a, b in itertools.pairwise([-12, *means, means[-1] + 12])
    )
    task = synthetic.gaussian_classes(classes, spacing)
    assert task.mutual_information == pytest.approx(entropy - math.log(2 * math.pi * math.e) / 2, abs=1e-7)


def test_kinds_mark_what_is_discrete_or_mixed():
    kinds = {name: (TASKS[name].kind_x, TASKS[name].kind_y) for name in TASKS}
    other = {name for name, kind in kinds.items() if kind != ("continuous", "continuous")}
    assert kinds["symmetric_channel-2-0.1"] == ("discrete", "discrete")
    assert kinds["discrete_uniform-5-5-5"] == ("discrete", "continuous")
    assert kinds["zero_inflated_poisson-0.15"] == ("continuous", "discrete")
    assert kinds["gaussian_and_atoms-0.9-0.1"] == ("mixed", "mixed")
    for name in TASKS:
        x, y = TASKS[name].sample(300, 0, dtype=torch.float64)
        for kind, value in zip(kinds[name], (x, y), strict=True):
            repeats = len(value.unique(dim=0)) < 300
            # An edge or a blob can leave a pixel as it is, but no two images are alike.
            assert repeats == (kind != "continuous")
            assert bool((value == value.round()).all()) == (kind == "discrete")
    assert len(other) == 8


def test_the_mixed_task_has_atoms_and_a_density():
    x, y = TASKS["gaussian_and_atoms-0.9-0.1"].sample(20_000, 0, dtype=torch.float64)
    atoms = x.abs() == 1
    assert torch.equal(atoms, y.abs() == 1)
    assert atoms.double().mean() == pytest.approx(0.5, abs=0.02)
    assert (x[atoms] != y[atoms]).double().mean() == pytest.approx(0.1, abs=0.02)
    assert np.corrcoef(x[~atoms], y[~atoms])[0, 1] == pytest.approx(0.9, abs=0.01)


# Images


@pytest.mark.parametrize("name", ["image-blob-16-3nats", "image-rectangle-16-5nats"])
def test_an_image_tells_its_latents(name):
    task = TASKS[name]
    assert task.shape_x == task.shape_y == (1, 16, 16)
    x, y = task.sample(500, 0, dtype=torch.float64)
    assert x.min() >= 0
    assert x.max() <= 1
    pixels = x.unflatten(1, task.shape_x)
    assert (pixels.flatten(1).sum(dim=1) > 3).all()
    # No column of the edge holds much: a figure stands whole on its image.
    assert pixels[:, 0, [0, -1]].max() < 0.7
    latents = synthetic.correlated_gaussian(2 if "blob" in name else 4, task.mutual_information)
    expected = latents.pointwise_mutual_information(*latents.sample(500, 0, dtype=torch.float64))
    torch.testing.assert_close(task.pointwise_mutual_information(x, y), expected, atol=1e-7, rtol=1e-7)


def test_a_rectangle_covers_what_its_edges_say():
    draw = synthetic.images.rectangle(8)
    z = torch.special.ndtri(torch.tensor([[0.25, 0.5, 0.625, 0.75]], dtype=torch.float64))
    image = draw.forward(z).unflatten(1, (8, 8))[0]
    # Top 1.5, left 2, bottom 4 + 2.25, right 4 + 2.5.
    assert float(image.sum()) == pytest.approx((6.25 - 1.5) * (6.5 - 2), abs=1e-12)
    torch.testing.assert_close(image[4], torch.tensor([0, 0, 1, 1, 1, 1, 0.5, 0], dtype=torch.float64))
    torch.testing.assert_close(image[:, 4], torch.tensor([0, 0.5, 1, 1, 1, 1, 0.25, 0], dtype=torch.float64))


def test_class_images_keep_what_the_classes_hold():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    images = torch.randint(0, 200, (60, 1, 4, 5), generator=generator).float() + labels[:, None, None, None] * 1000
    task = synthetic.class_images("t", images, labels, 0.2, classes=(2, 1), n_sources=3)
    assert task.mutual_information == pytest.approx(3 * (math.log(2) - stats.entropy([0.2, 0.8])))
    assert task.shape_x == (3, 4, 5)
    x, y = task.sample(20_000, 0)
    seen = [(v.unflatten(1, task.shape_x)[:, :, 0, 0] // 1000).int() for v in (x, y)]
    assert set(seen[0].unique().tolist()) == {1, 2}
    assert (seen[0] != seen[1]).double().mean() == pytest.approx(0.2, abs=0.01)
    assert (seen[0] == 1).double().mean() == pytest.approx(0.5, abs=0.01)
    assert len(x[:, :20].unique(dim=0)) == 40  # every image of the two classes is drawn
    with pytest.raises(NotImplementedError, match="pointwise"):
        task.pointwise_mutual_information(x, y)


def test_digits_by_name():
    pytest.importorskip("sklearn")
    task = synthetic.load_task("digits-channel-2-0.1")
    assert (task.dim_x, task.shape_y) == (128, (2, 8, 8))
    assert task.mutual_information == pytest.approx(2 * (math.log(2) - stats.entropy([0.1, 0.9])))
    x, _ = task.sample(10, 0)
    assert x.min() >= 0
    assert x.max() == 1
    assert synthetic.load_task("1v1-normal-0.75") is TASKS["1v1-normal-0.75"]


def test_images_of_a_folder_by_name(tmp_path):
    labels = np.arange(12, dtype=np.uint8) % 3
    images = np.arange(12 * 6, dtype=np.uint8).reshape(12, 2, 3)
    for split in ("train", "t10k"):
        header = struct.pack(">4I", 0x803, *images.shape)
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 12) + labels.tobytes())
    task = synthetic.load_task("mnist-channel-1-0.25", tmp_path)
    assert (task.name, task.shape_x) == ("mnist-channel-1-0.25", (1, 2, 3))
    x, _ = task.sample(500, 0, dtype=torch.float64)
    pictures = {tuple(row) for row in (x * 255).round().int().tolist()}
    assert pictures == {tuple(image) for image in images[labels < 2].reshape(-1, 6).tolist()}


# Time series


def test_coupled_series_in_closed_form():
    a, b, c = 0.5, -0.3, 0.8
    series = synthetic.coupled_autoregression((a, b), c)
    var_x = 1 / (1 - a * a)
    cov = a * c * var_x / (1 - a * b)
    var_y = (1 + c * c * var_x + 2 * b * c * cov) / (1 - b * b)
    np.testing.assert_allclose(series.autocovariance(0), [[var_x, cov], [cov, var_y]], rtol=1e-12)
    np.testing.assert_allclose(series.autocovariance(-1), series.autocovariance(1).T)
    # Who knows y alone predicts the next with the variance of noise and of what y does not tell of x.
    expected = math.log(1 + c * c * (var_x - cov * cov / var_y)) / 2
    assert series.transfer_entropy([0], [1]) == pytest.approx(expected, rel=1e-12)
    assert series.transfer_entropy([1], [0]) == pytest.approx(0, abs=1e-12)
    joint, own = series.transfer_tasks("s-*", [0], [1], history=2)
    assert (joint.name, own.name, joint.dim_x, own.dim_x, own.dim_y) == ("s-joint", "s-own", 4, 2, 1)
    difference = joint.mutual_information - own.mutual_information
    assert difference == pytest.approx(series.transfer_entropy([0], [1], 2), rel=1e-9)


def test_a_driver_with_a_delay_shows_from_its_lag_on():
    lags = np.zeros((3, 2, 2))
    lags[2, 1, 0] = 1.5  # y_t = 1.5 x_(t-3) + noise, of a white x
    series = synthetic.VectorAutoregression(lags)
    assert series.transfer_entropy([0], [1], history=2) == pytest.approx(0, abs=1e-12)
    assert series.transfer_entropy([0], [1], history=3) == pytest.approx(math.log(1 + 1.5**2) / 2, rel=1e-12)
    assert series.mutual_information([(0, 0)], [(1, 3)]) == pytest.approx(math.log(1 + 1.5**2) / 2, rel=1e-12)
    assert series.mutual_information([(0, 0)], [(1, 2)]) == pytest.approx(0, abs=1e-12)


def test_a_path_has_the_covariance_and_the_transfer_entropy():
    noise = np.array([[1.0, 0.3], [0.3, 2.0]])
    coefficients = np.array([[[0.4, 0.0], [0.7, 0.2]], [[-0.2, 0.1], [0.0, 0.1]]])
    series = synthetic.VectorAutoregression(coefficients, noise)
    path = series.sample(20_000, seed=1)
    assert torch.equal(path[:5], series.sample(20_000, seed=1)[:5])
    for lag in (0, 1, 2):
        got = path[lag:].T @ path[: len(path) - lag] / (len(path) - lag)
        np.testing.assert_allclose(got.numpy(), series.autocovariance(lag), atol=0.12)
    following, past = synthetic.windows(path, 2)
    assert following.shape == (19_998, 2)
    torch.testing.assert_close(past[:, :, 0], path[1:-1])
    torch.testing.assert_close(past[:, :, 1], path[:-2])
    with_driver = mi.estimate_mi(past.flatten(1), following[:, 1:], estimator="gaussian").value
    alone = mi.estimate_mi(past[:, 1], following[:, 1:], estimator="gaussian").value
    assert with_driver - alone == pytest.approx(series.transfer_entropy([0], [1], 2), abs=0.02)


def test_a_series_starts_in_its_stationary_state():
    series = synthetic.coupled_autoregression((0.9, 0.9), 0.5)
    generator = torch.Generator().manual_seed(0)
    first = torch.cat([series.sample(1, generator) for _ in range(2000)])
    np.testing.assert_allclose(np.cov(first.numpy().T), series.autocovariance(0), rtol=0.2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: synthetic.discrete_task("t", np.ones(3) / 3), ValueError, "joint: want a table"),
        (lambda: synthetic.discrete_task("t", np.full((2, 2), 0.3)), ValueError, "sum 1"),
        (lambda: synthetic.discrete_task("t", np.array([[0.5, 0.5], [0, 0]])), ValueError, "every row"),
        (lambda: synthetic.symmetric_channel(1, 0.1), ValueError, "n_symbols"),
        (lambda: synthetic.symmetric_channel(2, 1.1), ValueError, "error"),
        (lambda: synthetic.discrete_uniform(), ValueError, "counts"),
        (lambda: synthetic.discrete_uniform(3, 0), ValueError, "counts"),
        (lambda: synthetic.zero_inflated_poisson(1.0), ValueError, "p: "),
        (lambda: synthetic.gaussian_classes(0, 1.0), ValueError, "n_classes"),
        (lambda: synthetic.gaussian_classes(2, 0.0), ValueError, "spacing"),
        (lambda: synthetic.gaussian_and_atoms(1.0), ValueError, "correlation"),
        (lambda: synthetic.gaussian_and_atoms(0.5, 0.0), ValueError, "error"),
        (lambda: synthetic.blob_images(5, 1.0), ValueError, "size"),
        (lambda: synthetic.blob_images(16, 1.0, 0.1), ValueError, "width"),
        (lambda: synthetic.rectangle_images(9, 1.0), ValueError, "size: want an even"),
        (lambda: synthetic.load_task("mnist-channel-1-0.1"), ValueError, "data_dir"),
        (lambda: synthetic.load_task("mnist-channel-1-0.1", "/nowhere"), FileNotFoundError, "data_dir"),
        (lambda: synthetic.load_task("mnist-chanel-1-0.1"), KeyError, "want a name in TASKS"),
        (lambda: synthetic.VectorAutoregression(np.eye(2)), ValueError, "root of modulus 1"),
        (lambda: synthetic.VectorAutoregression(np.zeros((2, 3))), ValueError, "coefficients"),
        (lambda: synthetic.VectorAutoregression(np.zeros((2, 2)), np.eye(3)), ValueError, "noise: want shape"),
        (lambda: synthetic.VectorAutoregression(np.zeros((2, 2)), -np.eye(2)), ValueError, "noise: want a sym"),
        (lambda: synthetic.coupled_autoregression().sample(0), ValueError, "n: "),
        (lambda: synthetic.coupled_autoregression().transfer_entropy([0], [0]), ValueError, "source, target"),
        (lambda: synthetic.coupled_autoregression().transfer_entropy([0], [1], 0), ValueError, "history"),
        (lambda: synthetic.coupled_autoregression().covariance([(2, 0)]), ValueError, "components from 0 to 1"),
        (lambda: synthetic.windows(torch.zeros(4, 1), 4), ValueError, "history"),
    ],
)
def test_bad_parameters_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels: want one for each"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels: want images of class 1, got none"),
        ({"images": torch.zeros(4, 1, 2, 2)}, "images: want images that tell their class"),
        ({"images": torch.zeros(4)}, "images: want a tensor"),
        ({"error": -0.1}, "error: want a probability"),
        ({"n_sources": 0}, "n_sources"),
        ({"classes": (1, 1)}, "classes: want two labels"),
    ],
)
def test_images_that_do_not_fit(options, words):
    arguments = {
        "images": torch.arange(16.0).reshape(4, 1, 2, 2),
        "labels": torch.tensor([0, 1, 0, 1]),
        "error": 0.1,
        **options,
    }
    with pytest.raises(ValueError, match=words):
        synthetic.class_images("t", **arguments)
