"""One's own data: folders of pictures, saved datasets and paired arrays, sound and damaged."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mi_estimators.image_sets import load
from mi_estimators.ssl import TrainConfig, train
from mi_estimators.ssl.augment import VIEWS

Image = pytest.importorskip("PIL.Image")


def picture(number: int, *, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Any:
    channels = len(mode) if mode in ("RGB", "RGBA") else 1
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(), mode="RGBA" if channels == 4 else "RGB" if channels == 3 else "L")


def write_classes(folder: Path, counts: dict[str, int], **options: Any) -> dict[str, list[np.ndarray]]:
    held: dict[str, list[np.ndarray]] = {}
    for kind, count in counts.items():
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            one = picture(1000 * ord(kind[0]) + i, **options)
            one.save(folder / kind / f"{i:02}.png")
            held.setdefault(kind, []).append(np.asarray(one))
    return held


def test_a_folder_of_pictures_with_splits_or_without(tmp_path):
    held = write_classes(tmp_path / "one" / "train", {"cat": 3, "ant": 2})
    tests = write_classes(tmp_path / "one" / "val", {"cat": 2})
    (tmp_path / "one" / "train" / "ant" / "notes.txt").write_text("no picture")
    data = load("folder", tmp_path / "one")
    assert data.shape == (3, 4, 6)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]  # by name: ant, cat
    for image, array in zip(data.train.images, held["ant"] + held["cat"], strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), array)
    assert data.test.labels.tolist() == [1, 1]
    np.testing.assert_array_equal(data.test.images[1].permute(1, 2, 0), tests["cat"][1])
    assert data.test.pixels().max() <= 1

    write_classes(tmp_path / "two", {"a": 10, "b": 4}, mode="L")
    data = load("folder", tmp_path / "two")
    assert data.shape == (1, 4, 6)
    assert (torch.bincount(data.train.labels).tolist(), data.test.labels.tolist()) == ([8, 4], [0, 0])
    assert data.digest == load("folder", tmp_path / "two").digest
    picture(0).save(tmp_path / "two" / "b" / "00.png")  # one coloured picture makes all of them so
    assert load("folder", tmp_path / "two").shape == (3, 4, 6)


def test_a_wrong_folder_of_pictures_is_named(tmp_path):
    with pytest.raises(ValueError, match="data_dir: folder needs a folder of pictures"):
        load("folder")
    with pytest.raises(FileNotFoundError, match="data_dir: no folder"):
        load("folder", tmp_path / "none")
    with pytest.raises(ValueError, match="has no sub-folders, want one a class"):
        load("folder", tmp_path)
    write_classes(tmp_path, {"a": 5, "b": 5})
    load("folder", tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match=r"data_dir: .*c holds no pictures"):
        load("folder", tmp_path)
    picture(1, size=(6, 5)).save(tmp_path / "c" / "x.png")
    with pytest.raises(ValueError, match=r"x\.png has 6 x 5 pixels, others 6 x 4; bring all to one size"):
        load("folder", tmp_path)
    whole = (tmp_path / "a" / "00.png").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:8], b"", b"text"):
        (tmp_path / "c" / "x.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"data_dir: .*x\.png is not a sound picture"):
            load("folder", tmp_path)
    write_classes(tmp_path / "s" / "train", {"a": 2})
    write_classes(tmp_path / "s" / "test", {"b": 2})
    with pytest.raises(ValueError, match=r"has the class 'b', which .* has not"):
        load("folder", tmp_path / "s")
    write_classes(tmp_path / "few", {"a": 4})
    with pytest.raises(ValueError, match="too few pictures"):
        load("folder", tmp_path / "few")


class Rows:
    """What a dataset of Hugging Face is used for here."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.features: dict[str, Any] = {"image": type("Image", (), {})(), "label": type("ClassLabel", (), {})()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def select(self, indices: list[int]) -> Rows:
        return Rows([self.rows[i] for i in indices])


def test_a_saved_dataset(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"mi-estimators\[vision\]"):
        load("hf", tmp_path)
    rows = Rows([{"image": picture(i, mode="L"), "label": i % 3} for i in range(12)])
    fake: Any = types.ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", fake)
    fake.load_from_disk = lambda path: rows
    data = load("hf", tmp_path)
    assert (len(data.train), data.test.labels.tolist(), data.shape) == (10, [1, 0], (1, 4, 6))
    np.testing.assert_array_equal(data.test.images[0, 0], np.asarray(rows[4]["image"]))
    fake.load_from_disk = lambda path: {"train": rows, "validation": rows.select([1, 2])}
    assert load("hf", tmp_path).test.labels.tolist() == [1, 2]
    fake.load_from_disk = lambda path: {"train": rows}
    with pytest.raises(ValueError, match="has the splits train; want train and test"):
        load("hf", tmp_path)
    del rows.features["image"]
    fake.load_from_disk = lambda path: rows
    rows.select = lambda indices: rows  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="needs a column of images and one of class labels"):
        load("hf", tmp_path)

    def missing(path: str) -> None:
        raise FileNotFoundError("neither a Dataset nor a DatasetDict")

    fake.load_from_disk = missing
    with pytest.raises(ValueError, match=r"data_dir: .* is no sound dataset of save_to_disk: neither"):
        load("hf", tmp_path)


def arrays(count: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    return {
        "x1": rng.integers(0, 256, (count, 2, 3, 4), dtype=np.uint8),
        "x2": (labels[:, None] + 0.1 * rng.standard_normal((count, 5))),
        "labels": labels,
    }


def test_paired_arrays_come_out_as_views_of_their_own_shapes(tmp_path):
    held = arrays()
    np.savez(tmp_path / "pairs.npz", **held)
    data = load("npz", tmp_path / "pairs.npz")
    assert (len(data.train), len(data.test)) == (32, 8)
    view = VIEWS["pairs"](data.shape)
    chosen = [4, 9, 14, 19, 24, 29, 34, 39]
    first, second = view(data.test.pixels())
    assert (first.shape, second.shape) == ((8, 2, 3, 4), (8, 1, 1, 5))
    np.testing.assert_allclose(first, held["x1"][chosen] / 255, rtol=1e-6)
    np.testing.assert_allclose(second.flatten(1), held["x2"][chosen], rtol=1e-5)
    np.testing.assert_array_equal(data.test.labels, held["labels"][chosen])
    assert torch.equal(view.anchor(data.test.pixels()), first)
    tests = {f"{key}_test": array[:12] for key, array in held.items()}
    np.savez_compressed(tmp_path / "split.npz", **held, **tests)
    assert (len(load("npz", tmp_path / "split.npz").train), len(load("npz", tmp_path / "split.npz").test)) == (40, 12)
    for name in ("augment", "halves", "luma-chroma"):
        with pytest.raises(ValueError, match="view: this one is made of images, and the data are paired arrays"):
            VIEWS[name](data.shape)
    with pytest.raises(ValueError, match=r"view: pairs are for paired arrays \(data npz\), got images of shape"):
        VIEWS["pairs"]((1, 8, 8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x2": None}, "has no array 'x2'; it has labels, x1"),
        ({"x2": np.zeros((39, 5))}, "has 40 rows in x1, but 39 in x2"),
        ({"x2": np.full((40, 5), np.nan)}, "x2 in .* holds NaN or infinite"),
        ({"x1": np.zeros(40)}, r"x1 in .*: want numbers of shape \[N, d\].*, got float64 of shape \(40,\)"),
        ({"x1": np.array([["a"]] * 40)}, "x1 in .*: want numbers"),
        ({"labels": np.zeros(39, dtype=int)}, "labels in .*: want 40 integers from 0 up"),
        ({"labels": np.full(40, -1)}, "labels in .*: want 40 integers from 0 up"),
        ({"x1": np.zeros((3, 2)), "x2": np.zeros((3, 2)), "labels": np.zeros(3, dtype=int)}, "want at least 10"),
        ({"x1_test": np.zeros((40, 2)), "x2_test": np.zeros((40, 5))}, r"rows of x1_test .* shape \(2,\), want \(2, 3"),
        ({"x1_test": np.zeros((40, 2))}, "has no array 'x2_test'"),
        ({"x1": np.array([[None]] * 40)}, "is not a sound .npz file of arrays"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, changes, words):
    held = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez(tmp_path / "pairs.npz", **held)
    with pytest.raises(ValueError, match=words) as caught:
        load("npz", tmp_path / "pairs.npz")
    assert str(caught.value).startswith("data_dir: ")


def test_a_damaged_or_missing_file_of_arrays_is_named(tmp_path):
    path = tmp_path / "pairs.npz"
    with pytest.raises(ValueError, match=r"data_dir: npz needs the path of an \.npz file"):
        load("npz")
    with pytest.raises(FileNotFoundError, match="data_dir: no file"):
        load("npz", path)
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:100], b"", whole[:300] + b"\xff" * 50 + whole[350:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a sound \.npz file of arrays"):
            load("npz", path)


def test_training_on_pairs_and_a_batch_larger_than_the_set(tmp_path):
    for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard"):
        pytest.importorskip(module)
    held = arrays(100)
    del held["labels"]  # then all are of one class
    np.savez(tmp_path / "pairs.npz", **held)
    config: dict[str, Any] = {
        "out": str(tmp_path / "run"), "data": "npz", "data_dir": str(tmp_path / "pairs.npz"), "steps": 2,
        "accelerator": "cpu",
    }  # fmt: skip
    with pytest.raises(ValueError, match="batch_size: want 2 to 80, the number of images in the set, got 256"):
        train(TrainConfig("cmc", **config))
    with pytest.raises(ValueError, match=r"view: the first has .*; choose a method with an encoder for each"):
        train(TrainConfig("simclr", batch_size=20, **config))
    assert not (tmp_path / "run").exists()
    results = train(TrainConfig("cmc", batch_size=20, **config))
    assert results["config"]["view"] == "pairs"
    assert results["probe"] == {"pixels": 1.0, "before": 1.0, "after": 1.0}


def test_one_test_image_is_too_few(tmp_path):
    write_classes(tmp_path / "pictures", {"a": 9})
    with pytest.raises(ValueError, match="data_dir: want at least 2 test images, got 1"):
        train(
            TrainConfig(
                "byol", out=str(tmp_path / "run"), data="folder", data_dir=str(tmp_path / "pictures"), batch_size=4,
                accelerator="cpu",
            )
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
