"""Image sets: the bundled digits, IDX files sound and damaged, the order of batches."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mi_estimators.image_sets import load
from mi_estimators.image_sets.files import parse_idx
from mi_estimators.ssl.config import TrainConfig
from mi_estimators.ssl.data import Batches, derived_seed, seed_generators

pytest.importorskip("sklearn")

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_set(folder: Path, *, packed: bool = True, n: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, (size, 6, 4)) if "images" in name else rng.integers(0, 10, size)
        for name, size in zip(NAMES, (n, n, n // 2, n // 2), strict=True)
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return arrays


def test_digits_are_the_bundled_set_split_by_position():
    from sklearn.datasets import load_digits

    data, bunch = load("digits"), load_digits()
    assert (len(data.train), len(data.test), data.shape) == (1198, 599, (1, 8, 8))
    np.testing.assert_array_equal(data.test.pixels().squeeze(1).numpy(), bunch.images[2::3] / 16)
    np.testing.assert_array_equal(data.test.labels.numpy(), bunch.target[2::3])
    assert torch.bincount(data.test.labels).min() >= 50
    assert data.digest == load("digits").digest


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_idx_files_are_read_gzipped_or_plain_in_the_folder_or_one_of_the_sets_name(tmp_path, packed, nested):
    arrays = write_set(tmp_path / "mnist" if nested else tmp_path, packed=packed)
    data = load("mnist", tmp_path)
    assert data.shape == (1, 6, 4)
    np.testing.assert_array_equal(data.train.images.squeeze(1).numpy(), arrays[NAMES[0]])
    np.testing.assert_array_equal(data.test.labels.numpy(), arrays[NAMES[3]])
    pixels = data.train.pixels(torch.tensor([3, 1]))
    torch.testing.assert_close(pixels[0, 0], torch.from_numpy(arrays[NAMES[0]][3] / 255).float())


def rewrite(name: str, change: Callable[[bytes], bytes], *, packed: bool = True) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / f"{name}.gz"
        payload = change(gzip.decompress(path.read_bytes()))
        path.write_bytes(gzip.compress(payload) if packed else payload)

    return damage


def cut_gzip(folder: Path) -> None:
    path = folder / f"{NAMES[0]}.gz"
    path.write_bytes(path.read_bytes()[:-20])


def flip_gzip(folder: Path) -> None:
    path = folder / f"{NAMES[0]}.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def announce(*sizes: int) -> bytes:
    return struct.pack(f">{len(sizes) + 1}I", 0x0800 + len(sizes), *sizes)


DAMAGES = {
    "cut gzip": (cut_gzip, "truncated"),
    "flipped gzip": (flip_gzip, "not a sound gzip file"),
    "no gzip": (rewrite(NAMES[0], lambda b: b, packed=False), "not a sound gzip file"),
    "cut data": (rewrite(NAMES[0], lambda b: b[:-7]), "truncated: 473 bytes of data, its header announces 480"),
    "long data": (rewrite(NAMES[2], lambda b: b + b"\0"), "too long: 241 bytes of data"),
    "cut header": (rewrite(NAMES[3], lambda b: b[:6]), "truncated: 6 bytes"),
    "empty": (rewrite(NAMES[3], lambda b: b""), "truncated: 0 bytes"),
    "magic": (rewrite(NAMES[0], lambda b: b"\0\0\x0d\x03" + b[4:]), "magic 0x00000d03, want 0x00000803"),
    "labels for images": (rewrite(NAMES[0], lambda b: idx(np.zeros(20))), "magic 0x00000801, want 0x00000803"),
    "no images": (rewrite(NAMES[0], lambda b: announce(0, 6, 4)), r"empty array of shape \(0, 6, 4\)"),
    "few labels": (rewrite(NAMES[1], lambda b: idx(np.zeros(19))), "holds 20 images, .* 19 labels"),
    "label 10": (rewrite(NAMES[1], lambda b: idx(np.full(20, 10))), "label 10, want 0 to 9"),
    "other size": (rewrite(NAMES[2], lambda b: idx(np.zeros((10, 4, 6)))), r"\(6, 4\), those of .* \(4, 6\)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path, damage):
    write_set(tmp_path)
    do, words = DAMAGES[damage]
    do(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        load("mnist", tmp_path)
    assert str(caught.value).startswith("data_dir: ")
    assert "idx" in str(caught.value)


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path):
    write_set(tmp_path)
    (tmp_path / f"{NAMES[1]}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=rf"data_dir: mnist needs {NAMES[1]} .*{tmp_path}") as caught:
        load("mnist", tmp_path)
    assert str(tmp_path / "mnist") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [
        ("minst", None, "data: want one of .*; got 'minst' .did you mean 'mnist'"),
        ("mnist", None, "data_dir: mnist needs the folder"),
        ("digits", "somewhere", "data_dir: digits comes with scikit-learn"),
    ],
)
def test_wrong_names_and_folders(name, folder, words):
    with pytest.raises(ValueError, match=words):
        load(name, folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir: no folder"):
        load("mnist", tmp_path / "nowhere")


def test_the_files_of_another_set_are_told_apart(tmp_path, monkeypatch):
    import hashlib

    from mi_estimators import image_sets

    arrays = write_set(tmp_path)
    digests = tuple(hashlib.sha256(idx(arrays[name])).hexdigest() for name in NAMES)
    monkeypatch.setitem(image_sets._OFFICIAL, "fashion-mnist", digests)
    load("fashion-mnist", tmp_path)
    with pytest.raises(ValueError, match="is the file of fashion-mnist, not of mnist"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_file_among_official_ones_is_named_and_a_part_is_not(tmp_path, monkeypatch, name):
    import hashlib

    from mi_estimators import image_sets

    arrays = write_set(tmp_path, packed=False)
    whole = [idx(arrays[stem]) for stem in NAMES]
    monkeypatch.setitem(image_sets._OFFICIAL, "mnist", tuple(hashlib.sha256(file).hexdigest() for file in whole))
    monkeypatch.setattr(image_sets, "_LENGTHS", tuple(map(len, whole)))
    load("mnist", tmp_path)
    changed = bytearray((tmp_path / name).read_bytes())
    changed[-1] ^= 1  # no header, length or label out of range shows it
    (tmp_path / name).write_bytes(changed)
    with pytest.raises(ValueError, match=rf"data_dir: .*{name} is damaged or changed: its checksum is not that of mn"):
        load("mnist", tmp_path)
    half = "train" if name.startswith("train") else "t10k"
    for stem in (stem for stem in NAMES if stem.startswith(half)):
        (tmp_path / stem).write_bytes(idx(arrays[stem][:8]))
    assert len(load("mnist", tmp_path).train if half == "train" else load("mnist", tmp_path).test) == 8


def test_parse_idx_gives_a_writable_array():
    array = parse_idx(idx(np.arange(24).reshape(2, 3, 4)), Path("x"), ndim=3)
    assert array.flags.writeable
    assert array.shape == (2, 3, 4)


def test_batches_cover_an_epoch_once_and_depend_on_seed_and_step_alone():
    batches = Batches(10, 3, seed=4)
    epoch = torch.cat([batches[step] for step in range(3)])
    assert len(set(epoch.tolist())) == 9
    fresh = Batches(10, 3, seed=4)
    assert torch.equal(fresh[7], batches[7])
    assert torch.equal(fresh[0], batches[0])
    assert any(not torch.equal(Batches(10, 3, seed=5)[step], batches[step]) for step in range(3))


@pytest.mark.parametrize("size", [0, 1, 11])
def test_a_batch_must_fit_the_set(size):
    with pytest.raises(ValueError, match="batch_size: want 2 to 10"):
        Batches(10, size, seed=0)


def test_derived_seeds_differ_by_use():
    seeds = {derived_seed(s, stream, i) for s in range(5) for stream in ("weights", "views") for i in range(5)}
    assert len(seeds) == 50


@pytest.mark.skipif("MI_ESTIMATORS_DATA" not in os.environ, reason="MI_ESTIMATORS_DATA names no folder of real data")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_official_files(name):
    data = load(name, os.environ["MI_ESTIMATORS_DATA"])
    assert (len(data.train), len(data.test), data.shape) == (60000, 10000, (1, 28, 28))
    assert torch.bincount(data.test.labels).shape == (10,)


def write_cifar(folder: Path, name: str, *, pack: Callable[[bytes], bytes], suffix: str) -> dict[str, list[np.ndarray]]:
    """A small set in the official layout; images and labels by split."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    ten = name == "cifar-10"
    stems = {"train": ["train"], "test": ["test"]}
    if ten:
        stems = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    held: dict[str, list] = {}
    for split, files in stems.items():
        for stem in files:
            images, fine = rng.integers(0, 256, (4, 3, 32, 32)), rng.integers(0, 10 if ten else 100, 4)
            coarse = b"" if ten else b"\x13"
            records = [coarse + bytes([y]) + x.astype(np.uint8).tobytes() for x, y in zip(images, fine, strict=True)]
            (folder / f"{stem}.bin{suffix}").write_bytes(pack(b"".join(records)))
            held.setdefault(split, []).append((images, fine))
    return {split: [np.concatenate(arrays) for arrays in zip(*parts, strict=True)] for split, parts in held.items()}


@pytest.mark.parametrize(
    ("name", "inner", "pack", "suffix"),
    [
        ("cifar-10", "", bytes, ""),
        ("cifar-10", "cifar-10", lzma.compress, ".xz"),
        ("cifar-100", "cifar-100-binary", gzip.compress, ".gz"),
    ],
)
def test_cifar_is_read_from_its_binary_version(tmp_path, name, inner, pack, suffix):
    arrays = write_cifar(tmp_path / inner, name, pack=pack, suffix=suffix)
    data = load(name, tmp_path)
    assert data.shape == (3, 32, 32)
    for split, (images, labels) in arrays.items():
        np.testing.assert_array_equal(getattr(data, split).images.numpy(), images)
        np.testing.assert_array_equal(getattr(data, split).labels.numpy(), labels)


def test_damaged_cifar_files_are_named(tmp_path):
    write_cifar(tmp_path, "cifar-10", pack=lzma.compress, suffix=".xz")
    third = tmp_path / "data_batch_3.bin.xz"
    whole = third.read_bytes()
    third.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin\.xz is truncated"):
        load("cifar-10", tmp_path)
    third.write_bytes(b"not packed at all")
    with pytest.raises(ValueError, match=r"data_batch_3\.bin\.xz is not a sound xz file"):
        load("cifar-10", tmp_path)
    third.write_bytes(lzma.compress(lzma.decompress(whole)[:-1]))
    with pytest.raises(ValueError, match=r"12291 bytes, want a multiple of 3073"):
        load("cifar-10", tmp_path)
    third.write_bytes(lzma.compress(b"\x0c" + lzma.decompress(whole)[1:]))
    with pytest.raises(ValueError, match="holds the label 12, want 0 to 9"):
        load("cifar-10", tmp_path)
    third.unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-10 needs data_batch_3\.bin \(plain, \.gz or \.xz\)"):
        load("cifar-10", tmp_path)


def test_seeding_draws_as_torchs_own():
    torch.manual_seed(123)
    expected = torch.rand(5)
    seed_generators(123, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize(("given", "key"), [("cifar10", "cifar-10"), ("FashionMNIST", "fashion-mnist")])
def test_names_without_their_hyphen(given, key, tmp_path):
    assert TrainConfig("simclr", out="x", data=given, data_dir=str(tmp_path)).resolved().data == key
    with pytest.raises(FileNotFoundError, match=f"{key} needs"):
        load(given, tmp_path)
