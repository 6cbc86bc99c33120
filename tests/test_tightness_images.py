"""The benchmark and the consistency study on pictures of an image set."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mi_estimators import synthetic, tightness
from mi_estimators.tightness import BenchmarkConfig, run_benchmark
from mi_estimators.tightness.cells import cells
from mi_estimators.tightness.consistency import pictures, seen_rows
from mi_estimators.tightness.tasks import IMAGE_TASKS, find_task

SIDE = 9


def stored(folder: Path, images: np.ndarray) -> Path:
    """A folder in MNIST's layout, with the labels 0, 1, 2, 0, 1, ..."""
    folder.mkdir(exist_ok=True)
    for split in ("train", "t10k"):
        header = struct.pack(">4I", 0x803, *images.shape)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(len(images), dtype=np.uint8) % 3
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(images)) + labels.tobytes())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with a dark frame and one pixel that is lit in one of them alone."""
    images = np.zeros((60, SIDE, SIDE), dtype=np.uint8)
    images[:, 1:-1, 1:-1] = np.random.default_rng(0).integers(0, 256, (60, SIDE - 2, SIDE - 2))
    images[0, 0, 0] = 255
    return stored(tmp_path_factory.mktemp("data") / "mnist", images)


def test_pixels_that_hardly_vary_are_left_out_and_nothing_else(folder):
    whole = synthetic.load_task("mnist-channel-2-0.02", folder)
    task = find_task("mnist-channel-2-0.02", str(folder))
    assert task.mutual_information == whole.mutual_information
    assert task.mutual_information == pytest.approx(2 * (math.log(2) + 0.02 * math.log(0.02) + 0.98 * math.log(0.98)))
    assert task.dim_x == task.dim_y == 2 * (SIDE - 2) ** 2
    for left, all_of_it in zip(task.sample(5, 3), whole.sample(5, 3), strict=True):
        assert torch.equal(left, all_of_it.view(5, 2, SIDE, SIDE)[:, :, 1:-1, 1:-1].flatten(1))
    assert find_task("1v1-normal-0.75", str(folder)) is synthetic.TASKS["1v1-normal-0.75"]


def test_pictures_that_need_their_rare_pixels_are_refused(tmp_path):
    images = np.zeros((60, 5, 5), dtype=np.uint8)
    images.reshape(60, 25)[np.arange(60), np.arange(60) % 3] = np.arange(60) + 1  # all differ, each in one of three
    images[0, 4, 4] = images[6, 4, 4] = 9
    images[6].flat[0] = images[0].flat[0]
    images[6, 4, 4] = 7  # the same as the first but for the last pixel
    folder = stored(tmp_path / "data", images)
    with pytest.raises(ValueError, match=r"tasks: pictures of x in '.*' are the same"):
        find_task("mnist-channel-1-0.1", str(folder))


def test_a_profile_with_a_folder_runs_the_tasks_of_its_images(folder, tmp_path):
    profile = BenchmarkConfig.profile("quick", data_dir=str(folder))
    assert profile.tasks == (*tightness.PROFILES["quick"]["tasks"], *IMAGE_TASKS)
    config = BenchmarkConfig.profile(
        "quick", data_dir=str(folder), tasks=(IMAGE_TASKS[0],), estimators=("ksg", "infonce"), n=(80,), seeds=1,
        batch_sizes=(16,), max_steps=3, evaluation_batch_size=8,
    )  # fmt: skip
    found = run_benchmark(config, tmp_path / "out")
    assert [result["task"] for result in found] == ["mnist-channel-1-0.1"] * 2
    for result in found:
        assert result["error"] is None
        assert result["truth"] == find_task("mnist-channel-1-0.1", str(folder)).mutual_information
    assert found == run_benchmark(config, tmp_path / "out")
    assert "data_dir" not in config.of_a_cell  # the folder may move


def test_images_without_their_folder_are_refused_before_anything_is_written(tmp_path):
    settings = {"estimators": ("ksg",), "tasks": ("mnist-channel-1-0.1",)}
    with pytest.raises(ValueError, match="data_dir: mnist needs the folder"):
        BenchmarkConfig(**settings)
    with pytest.raises(FileNotFoundError, match="data_dir: no folder"):
        BenchmarkConfig(**settings, data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="data_dir: mnist needs"):
        BenchmarkConfig(**settings, data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="tasks: want one of"):
        BenchmarkConfig(**{**settings, "tasks": ("mnist-chanel-1-0.1",)}, data_dir=str(tmp_path))


def test_what_is_seen_of_a_picture_are_its_first_rows(folder):
    source = pictures("mnist", folder)
    pool = {tuple(image.flatten().tolist()) for image in source.draw((4000,), torch.Generator().manual_seed(0))[0]}
    assert len(pool) == 60
    x, y = seen_rows(source, 4, 2).sample(7, dtype=torch.float64)
    assert torch.equal(x[:, : SIDE**2], x[:, SIDE**2 :])
    assert torch.equal(y, torch.cat([x[:, : 4 * SIDE], x[:, : 2 * SIDE]], dim=1))
    x, y = seen_rows(source, 4, 4, copies=2).sample(50, dtype=torch.float64)
    first, second = x.chunk(2, dim=1)
    assert torch.equal(y, torch.cat([first[:, : 4 * SIDE], second[:, : 4 * SIDE]], dim=1))
    assert (first != second).any(dim=1).sum() >= 40


def test_consistency_of_pictures(folder, tmp_path):
    tiny = {"bounds": ("infonce", "smile"), "steps": 4, "hidden": 8, "batch_size": 16, "threads": 1}
    run = tightness.STUDIES["consistency"].run
    out = run(**tiny, data_dir=folder)
    json.dumps(out, allow_nan=False)
    assert (out["images"], out["nats_per_row"]) == ("mnist", None)
    assert [row["should_be"] for row in out["rows"]] == [None, None, None, 1.0, 2.0] * 2
    assert all(row["truths"] == [None, None] for row in out["rows"])
    shown = tightness.study_table("consistency", out)
    assert set(shown.columns[3].cells) == {"unknown", "1.00", "2.00"}
    with pytest.raises(ValueError, match="data_dir: Gaussian images"):
        run(**tiny, images="gaussian", data_dir=folder)
    with pytest.raises(ValueError, match="images: want one of"):
        run(**tiny, images="mnits")
    small = stored(tmp_path / "small", np.ones((6, 5, 5), dtype=np.uint8))
    with pytest.raises(ValueError, match="images: want pictures of at least 8 rows"):
        run(**tiny, data_dir=small)


def test_the_commands_take_a_folder(folder, tmp_path, monkeypatch):
    testing = pytest.importorskip("typer.testing")
    pytest.importorskip("lightning_fabric")
    from mi_estimators import cli

    monkeypatch.chdir(tmp_path)
    invoke = testing.CliRunner().invoke
    tiny = ["--bounds", "infonce", "--steps", "2", "--hidden", "4", "--batch-size", "8", "--threads", "1"]
    done = invoke(cli.build_app(), ["tightness", "consistency", *tiny, "--data-dir", str(folder)])
    assert done.exit_code == 0, done.output
    assert json.loads(Path("runs/consistency.json").read_text())["images"] == "mnist"
    small = ["--estimators", "ksg", "--tasks", "mnist-channel-1-0.1", "--n", "40", "--seeds", "1", "--out", "cells"]
    done = invoke(cli.build_app(), ["tightness", *small, "--data-dir", str(folder)])
    assert done.exit_code == 0, done.output
    assert "mnist-channel-1-0.1" in Path("cells/leaderboard.md").read_text()
    done = invoke(cli.build_app(), ["tightness", *small, "--data-dir", "nowhere"])
    assert (done.exit_code, "error: --data-dir: no folder" in done.output) == (2, True)


@pytest.mark.skipif("MI_ESTIMATORS_DATA" not in os.environ, reason="MI_ESTIMATORS_DATA names no folder of real data")
def test_the_classes_of_mnist_are_told_by_the_pixels_that_are_left():
    real = os.environ["MI_ESTIMATORS_DATA"]
    config = BenchmarkConfig(tasks=IMAGE_TASKS, estimators=("ksg",), data_dir=real)
    assert len(cells(config)) == len(IMAGE_TASKS) * config.seeds
    task = find_task(IMAGE_TASKS[0], real)
    assert 200 <= task.dim_x <= 500
    assert task.mutual_information == pytest.approx(0.3681, abs=1e-4)
