"""What reads labels from fixed features."""

from __future__ import annotations

import json
import math
import sys
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mi_estimators.image_sets import load
from mi_estimators.ssl import TrainConfig, train
from mi_estimators.ssl.evaluation import PROBES, k_shot, knn, knn_accuracy, mlp_probe, sgd_probe


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


def ring(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes that no plane parts: inside and outside a circle."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return points * torch.tensor([1.0, 100.0]) + 30, (points.norm(dim=1) > 1.2).long()


def test_an_mlp_reads_what_no_linear_probe_does_at_any_scale_of_the_columns():
    train, test = ring(400, 0), ring(200, 1)
    assert sgd_probe(*train, *test, epochs=20) < 0.75
    assert mlp_probe(*train, *test) > 0.93
    assert mlp_probe(*train, *test, seed=3) == mlp_probe(*train, *test, seed=3)


def test_sgd_finds_a_separating_plane_and_leaves_the_generator_alone():
    train, test = blobs(300, spread=0.1), blobs(100, spread=0.1, seed=1)
    constant = [torch.cat([x, torch.full((len(x), 1), 7.0, dtype=x.dtype)], dim=1) for x in (train[0], test[0])]
    state = torch.get_rng_state()
    assert sgd_probe(constant[0], train[1], constant[1], test[1], epochs=10) == 1.0
    assert torch.equal(torch.get_rng_state(), state)
    for options, kind, words in [
        ({"epochs": 0}, ValueError, "epochs: want an integer >= 1"),
        ({"hidden": -1}, ValueError, "hidden: want an integer >= 0"),
        ({"lr": math.nan}, ValueError, "lr: "),
    ]:
        with pytest.raises(kind, match=words):
            sgd_probe(*train, *test, **options)


def test_k_shot_draws_k_points_a_class_and_says_how_much_the_draw_matters():
    pytest.importorskip("sklearn")
    train, test = blobs(200, spread=0.3), blobs(100, spread=0.3, seed=1)
    found = k_shot(*train, *test, shots=(1, 20), draws=6)
    assert list(found) == ["1", "20"]
    for one in found.values():
        assert len(set(one["draws"])) > 1
        assert one["mean"] == pytest.approx(np.mean(one["draws"]))
        assert one["std"] == pytest.approx(np.std(one["draws"]))
    assert found["20"]["mean"] > found["1"]["mean"]
    assert found == k_shot(*train, *test, shots=(1, 20), draws=6)
    # Labels that are not drawn take no part: with all of a class of 20, each draw is the same.
    few = torch.cat([torch.nonzero(train[1] == c)[:20, 0] for c in range(3)])
    whole = k_shot(train[0][few], train[1][few], *test, shots=(20,), draws=3)["20"]
    assert len(set(whole["draws"])) == 1
    with pytest.raises(ValueError, match="shots: want at most the 20 training points of class 0, got 21"):
        k_shot(train[0][few], train[1][few], *test, shots=(21,))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard", "typer", "rich", "matplotlib"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(TrainConfig("mi-max", out=str(folder), steps=3, batch_size=64, accelerator="cpu"))
    return folder


@pytest.fixture
def invoke(monkeypatch):
    from typer.testing import CliRunner

    from mi_estimators import cli

    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: CliRunner().invoke(cli.build_app(), ["probe", *map(str, arguments)])


def test_probe_reads_a_run_and_writes_results_embeddings_and_a_plot(run, invoke, tmp_path, monkeypatch):
    saved: dict[str, Any] = {}
    fake: Any = types.ModuleType("safetensors.torch")
    fake.save_file = lambda tensors, path: (saved.update(tensors), Path(path).write_bytes(b"whole"))
    monkeypatch.setitem(sys.modules, "safetensors", types.ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", fake)
    monkeypatch.setattr("mi_estimators.ssl.evaluation.run.PLOTTED", 60)
    done = invoke(run, "--kind", "linear, knn,kshot", "--export", tmp_path / "e.npz", "--plot", "tsne")
    assert done.exit_code == 0, done.output
    result = json.loads((run / "probe.json").read_text())
    assert (result["method"], result["step"], result["dim"]) == ("mi-max", 3, 100)
    assert result["test"]["linear"] == json.loads((run / "results.json").read_text())["probe"]["after"]
    assert list(result["test"]["kshot"]) == ["1", "5", "10"]
    assert "kshot, k = 10" in done.output
    assert (run / "tsne.png").read_bytes()[:4] == b"\x89PNG"
    held = np.load(tmp_path / "e.npz")
    data = load("digits")
    np.testing.assert_array_equal(held["test_labels"], data.test.labels)
    assert held["train_features"].shape == (1198, 100)
    splits = [torch.from_numpy(held[f"{s}_{what}"]) for s in ("train", "test") for what in ("features", "labels")]
    assert knn_accuracy(*splits) == result["test"]["knn"]
    done = invoke(run, "--kind", "knn", "--export", tmp_path / "e.safetensors", "--result", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert torch.equal(saved["test_features"], splits[2])
    assert json.loads((tmp_path / "r.json").read_text())["test"] == {"knn": result["test"]["knn"]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npz", "e.safetensors", "r.json"]


def test_probe_says_what_is_wrong_and_writes_nothing(run, invoke, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    before = sorted(run.iterdir())
    for arguments, code, words in [
        ((tmp_path / "none",), 2, "error: RUN: no checkpoint at"),
        ((run, "--kind", "lineal"), 2, "error: --kind: want one of"),
        ((run, "--kind", "kshot", "--seed", "-1"), 2, "error: --seed: want an integer >= 0, got -1"),
        ((run, "--kind", ""), 2, "error: --kind: want one of"),
        ((run, "--export", tmp_path / "e.csv"), 2, "error: --export: want a file .npz or .safetensors, got 'e.csv'"),
        ((run, "--export", tmp_path / "no" / "e.npz"), 2, "error: --export: no folder"),
        ((run, "--plot", "pca"), 2, "error: --plot: want one of"),
        ((run, "--plot", "umap"), 1, "error: umap is not installed"),
        ((run, "--result", tmp_path / "no" / "r.json"), 2, "error: --result: no folder"),
        ((run, "--data-dir", "elsewhere"), 2, "error: --data-dir: digits comes with scikit-learn"),
    ]:
        done = invoke(*arguments)
        assert done.exit_code == code, (arguments, done.output)
        assert words in done.output
    assert sorted(run.iterdir()) == before
    assert set(PROBES) == {"linear", "knn", "mlp", "kshot", "sgd"}
