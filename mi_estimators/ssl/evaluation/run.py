"""The representation that a run has reached, evaluated, exported and plotted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mi_estimators import _checks
from mi_estimators._extras import require
from mi_estimators._files import replacing
from mi_estimators.image_sets import load
from mi_estimators.ssl import checkpoint
from mi_estimators.ssl.config import TrainConfig
from mi_estimators.ssl.evaluation.classifiers import PROBES
from mi_estimators.ssl.probe import over_anchors
from mi_estimators.ssl.trainer import Trainer

PLOTTED = 2000
"""Test images at most that a plot shows."""


@dataclass(frozen=True)
class Representation:
    """Features and labels of both splits, and the run they are of.

    Attributes:
        train: ``[N, d]``.
        train_labels: ``[N]``.
        test: ``[M, d]``.
        test_labels: ``[M]``.
        config: the run's settings.
        step: of its checkpoint.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    config: TrainConfig
    step: int


def representation_of(run: Path, *, data_dir: str | None = None, accelerator: str | None = None) -> Representation:
    """The features of all images of a run's data, by the networks in its checkpoint.

    Args:
        run: the run's folder.
        data_dir: folder of its data, if that has moved.
        accelerator: device, if it shall be another.

    Raises:
        FileNotFoundError: there is no checkpoint, or no data.
        ValueError: the checkpoint or the data are damaged, or not of the run.
    """
    path = run / "checkpoint.pt"
    if not path.is_file():
        raise FileNotFoundError(f"RUN: no checkpoint at {path}, so there is no run to probe")
    state = checkpoint.load(path)
    changes = {"out": str(run), "data_dir": data_dir, "accelerator": accelerator}
    given = {name: value for name, value in changes.items() if value is not None}
    settings = {**state["config"], "devices": None, **given}  # one process reads what several may have trained
    config = TrainConfig(**settings).resolved()
    data = load(config.data, config.data_dir)
    if data.digest != state["data_digest"]:
        raise ValueError(f"data_dir: the {config.data} images there are not those the run in {run} was trained on")
    trainer = Trainer(config, data)
    method = trainer.method
    checkpoint.restore(method, state, path)
    train, test = (
        over_anchors(method, method.represent, split, trainer.view) for split in (trainer.data.train, trainer.data.test)
    )
    labels = trainer.data.train.labels, trainer.data.test.labels
    return Representation(train, labels[0], test, labels[1], config, int(state["step"]))


def evaluate_representation(found: Representation, kinds: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """What the probes of :data:`PROBES` named by ``kinds`` say of a representation.

    Returns:
        ``step``, ``method``, ``data``, ``encoder``, ``dim``, and under ``test`` accuracies by kind.

    Raises:
        ValueError: an unknown kind.
    """
    check_kinds(kinds)
    splits = found.train, found.train_labels, found.test, found.test_labels
    config = found.config
    return {
        "method": config.method,
        "data": config.data,
        "encoder": config.encoder,
        "step": found.step,
        "dim": found.train.shape[1],
        "seed": seed,
        "test": {kind: PROBES[kind](*splits, seed) for kind in kinds},
    }


def check_kinds(kinds: Sequence[str]) -> None:
    """Check the names of probes."""
    if not kinds:
        raise ValueError(f"kind: want at least one of {', '.join(PROBES)}")
    for kind in kinds:
        _checks.choice("kind", kind, PROBES)


FORMATS = (".npz", ".safetensors")


def check_export(path: Path) -> None:
    """Check, before anything is computed, that embeddings could be written to a file."""
    if path.suffix not in FORMATS:
        raise ValueError(f"export: want a file {' or '.join(FORMATS)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"export: no folder {path.parent}")
    if path.suffix == ".safetensors":
        require("safetensors.torch", "vision")


def export(found: Representation, path: Path) -> None:
    """Write ``train_features``, ``train_labels``, ``test_features`` and ``test_labels``, atomically.

    Args:
        found: the representation.
        path: a file ``.npz`` or ``.safetensors``.

    Raises:
        ValueError: another suffix.
        FileNotFoundError: its folder is missing.
        ImportError: safetensors is asked for and not installed.
    """
    check_export(path)
    tensors = {
        "train_features": found.train, "train_labels": found.train_labels,
        "test_features": found.test, "test_labels": found.test_labels,
    }  # fmt: skip
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        if path.suffix == ".npz":
            with partial.open("wb") as file:
                arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
                np.savez(file, **arrays)
        else:
            require("safetensors.torch", "vision").save_file(tensors, str(partial))


def _tsne(features: np.ndarray, seed: int) -> np.ndarray:
    manifold = require("sklearn.manifold", "train")
    perplexity = min(30.0, (len(features) - 1) / 3)
    return manifold.TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(features)


def _umap(features: np.ndarray, seed: int) -> np.ndarray:
    return require("umap", "vision").UMAP(random_state=seed, n_jobs=1).fit_transform(features)


MAPS = {"tsne": _tsne, "umap": _umap}
_PACKAGES = {"tsne": ("sklearn.manifold", "train"), "umap": ("umap", "vision")}


def check_map(name: str) -> None:
    """Check, before anything is computed, the name of a map and that its package and matplotlib are installed."""
    _checks.choice("plot", name, MAPS)
    require("matplotlib.figure", "plots")
    require(*_PACKAGES[name])


def plot(found: Representation, name: str, path: Path, *, seed: int = 0) -> None:
    """Map up to 2,000 test images' features to the plane, coloured by class; written atomically as PNG.

    Args:
        found: the representation.
        name: a key of :data:`MAPS`: ``"tsne"`` (scikit-learn) or ``"umap"`` (umap-learn).
        path: the file.
        seed: seed of the map.

    Raises:
        ValueError: an unknown map.
        ImportError: a package is missing.
    """
    check_map(name)
    points = MAPS[name](found.test[:PLOTTED].float().cpu().numpy(), seed)
    labels = found.test_labels[:PLOTTED].cpu().numpy()
    figure = require("matplotlib.figure", "plots").Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.scatter(
        points[:, 0], points[:, 1], c=labels, s=6, cmap="tab10" if labels.max() < 10 else "nipy_spectral"
    )
    if labels.max() < 20:
        axes.legend(*shown.legend_elements(num=None), title="class", fontsize="small")
    axes.set(xticks=[], yticks=[], title=f"{found.config.method} on {found.config.data}, step {found.step}")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
