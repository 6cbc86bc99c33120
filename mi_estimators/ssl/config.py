"""The settings of a training run: their types, defaults and checks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mi_estimators import _checks
from mi_estimators.image_sets import DATASETS
from mi_estimators.ssl.augment import VIEWS
from mi_estimators.ssl.backbones import ENCODERS
from mi_estimators.ssl.method import Method, Preset
from mi_estimators.ssl.methods import METHODS

PRECISIONS = ("32-true", "bf16-mixed")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. ``None`` for view, steps, batch_size or lr takes the method's preset for the image set.

    Attributes:
        method: a key of :data:`METHODS`.
        out: the run's folder.
        data: a key of :data:`mi_estimators.image_sets.DATASETS`.
        data_dir: folder of the data files, where the set needs one.
        view: a key of :data:`mi_estimators.ssl.augment.VIEWS`: how an image becomes a pair.
        encoder: a key of :data:`mi_estimators.ssl.backbones.ENCODERS`.
        steps: optimizer steps.
        batch_size: images a step: K pairs, and the held-out bounds' K.
        lr: Adam's learning rate.
        seed: seed of weights, order of images, views and held-out batches.
        eval_every: steps between held-out evaluations.
        checkpoint_every: steps between checkpoints.
        accelerator: Lightning Fabric's: ``"auto"``, ``"cpu"``, ``"cuda"`` ...
        precision: Lightning Fabric's ``"32-true"`` or ``"bf16-mixed"``.
        options: the method's own settings, by name.
    """

    method: str
    out: str = _option("", "folder of the run")
    data: str = _option("digits", f"image set: {', '.join(DATASETS)}")
    data_dir: str | None = _option(None, "folder of the official files, packed or plain")
    view: str | None = _option(None, f"how an image becomes a pair: {', '.join(VIEWS)}")
    encoder: str = _option("mlp", f"encoder: {', '.join(ENCODERS)}")
    steps: int | None = _option(None, "optimizer steps")
    batch_size: int | None = _option(None, "images a step, K: InfoNCE cannot exceed log K")
    lr: float | None = _option(None, "learning rate of Adam")
    seed: int = _option(0, "seed of everything random")
    eval_every: int = _option(250, "steps between held-out evaluations")
    checkpoint_every: int = _option(250, "steps between checkpoints")
    accelerator: str = _option("auto", "device: auto, cpu, cuda, mps")
    precision: str = _option("32-true", f"arithmetic of training: {', '.join(PRECISIONS)}")
    options: Mapping[str, Any] = field(default_factory=dict)

    def resolved(self) -> TrainConfig:
        """The same settings, checked, with the presets filled in.

        Raises:
            ValueError: an unknown name, with the nearest that is known, or a number out of range.
        """
        if self.method not in METHODS:
            raise ValueError(f"method: {_checks.unknown(self.method, METHODS)}")
        for name, table in _TABLES.items():
            value = getattr(self, name)
            if value not in table and not (name == "view" and value is None):
                raise ValueError(f"{name}: {_checks.unknown(value, table)}")
        if not self.out:
            raise ValueError("out: want a folder for the run, got none")
        accepted = method_options(METHODS[self.method])
        for name in self.options:
            if name not in accepted:
                raise ValueError(f"{name}: no setting of {self.method}; {_checks.unknown(name, accepted)}")
        preset = preset_of(METHODS[self.method], self.data)
        chosen = {
            name: getattr(preset, name) if getattr(self, name) is None else getattr(self, name)
            for name in PRESET_FIELDS
        }
        options = {name: parameter.default for name, parameter in accepted.items()} | dict(self.options)
        config = dataclasses.replace(self, **chosen, options=options)
        for name in ("steps", "batch_size", "eval_every", "checkpoint_every"):
            value = getattr(config, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: want an integer >= 1, got {_checks.describe(value)}")
        _checks.positive("lr", chosen["lr"])
        _checks.choice("precision", config.precision, PRECISIONS)
        return config


PRESET_FIELDS = tuple(field.name for field in dataclasses.fields(Preset))
_TABLES: dict[str, Mapping[str, object]] = {"data": DATASETS, "view": VIEWS, "encoder": ENCODERS}

# What a resumed run may change: nothing that the weights depend on, but how far to go and where things are.
CHANGEABLE = ("steps", "eval_every", "checkpoint_every", "data_dir", "out", "accelerator")


def preset_of(method: type[Method], data: str) -> Preset:
    """A method's defaults for an image set."""
    return method.presets.get(data, method.presets["mnist"])


def method_options(method: type[Method]) -> dict[str, inspect.Parameter]:
    """A method's own settings: the keyword-only parameters of its constructor."""
    parameters = inspect.signature(method).parameters
    return {name: value for name, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY}
