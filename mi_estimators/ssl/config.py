"""The settings of a training run: their types, defaults and checks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mi_estimators import _checks
from mi_estimators.image_sets import DATASETS, key_of
from mi_estimators.ssl.augment import VIEWS
from mi_estimators.ssl.encoders import ENCODERS, encoder_builder
from mi_estimators.ssl.method import Method, Preset, check_not_negative
from mi_estimators.ssl.methods import METHODS
from mi_estimators.ssl.optimizers import NEEDS_LR, OPTIMIZERS, SCHEDULES

FLOAT16 = "16-mixed"
PRECISIONS = ("32-true", "bf16-mixed", FLOAT16)


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. ``None`` for view, steps, batch_size or lr takes the method's preset for the image set.

    Attributes:
        method: a key of :data:`METHODS`.
        out: the run's folder.
        data: a key of :data:`mi_estimators.image_sets.DATASETS`, with or without its hyphen.
        data_dir: folder of the data files, where the set needs one.
        view: a key of :data:`mi_estimators.ssl.augment.VIEWS`: how an image becomes a pair.
        encoder: a name of :func:`mi_estimators.ssl.encoders.encoder_builder`.
        steps: optimizer steps.
        batch_size: images an optimizer step: K pairs, and the held-out bounds' K, where ``accumulate`` is 1.
        lr: learning rate; the presets are Adam's, and serve ``"adam"`` and ``"adamw"`` alone.
        optimizer: a key of :data:`mi_estimators.ssl.optimizers.OPTIMIZERS`.
        weight_decay: of weight matrices and kernels; biases and norms have none.
        sgd_momentum: of ``"sgd"`` and ``"lars"``.
        schedule: a key of :data:`mi_estimators.ssl.optimizers.SCHEDULES`: the learning rate over training.
        warmup: first steps, in which the learning rate rises linearly.
        clip: largest norm of the gradient of all parameters; None leaves it as it is.
        accumulate: parts of a batch that go through the networks one after the other, before one step of the
            optimizer. The loss is the mean of theirs: that of the whole batch where it is a sum over images; where
            images are compared, K is that of a part. Batch norm sees a part, too.
        seed: seed of weights, order of images, views and held-out batches.
        eval_every: steps between held-out evaluations.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes after which one is written, whatever the step.
        accelerator: Lightning Fabric's: ``"auto"``, ``"cpu"``, ``"cuda"`` ...
        devices: processes that share each batch, which torchrun starts; None takes as many as it has started.
        precision: Lightning Fabric's ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"`` (float16, with a loss so scaled
            that gradients stay in range; a step whose gradients do not is skipped).
        options: the method's own settings, by name.
    """

    method: str
    out: str = _option("", "folder of the run")
    data: str = _option("digits", f"image set: {', '.join(DATASETS)}")
    data_dir: str | None = _option(None, "folder of the official files, packed or plain")
    view: str | None = _option(None, f"how an image becomes a pair: {', '.join(VIEWS)}")
    encoder: str = _option("mlp", f"{', '.join(ENCODERS)}, vit/PATCH, package.module:Name or timm:NAME")
    steps: int | None = _option(None, "optimizer steps")
    batch_size: int | None = _option(None, "images a step, K: InfoNCE cannot exceed log K")
    lr: float | None = _option(None, "learning rate; the presets are Adam's")
    optimizer: str = _option("adam", f"optimizer: {', '.join(OPTIMIZERS)}")
    weight_decay: float = _option(0.0, "weight decay; biases and norms have none")
    sgd_momentum: float = _option(0.9, "momentum of sgd and lars")
    schedule: str = _option("constant", f"learning rate over training: {', '.join(SCHEDULES)}")
    warmup: int = _option(0, "first steps, in which the learning rate rises linearly")
    clip: float | None = _option(None, "largest norm of the gradient")
    accumulate: int = _option(1, "parts of a batch that go through the networks one by one; K is a part's")
    seed: int = _option(0, "seed of everything random")
    eval_every: int = _option(250, "steps between held-out evaluations")
    checkpoint_every: int = _option(250, "steps between checkpoints")
    checkpoint_minutes: float = _option(10.0, "minutes after which a checkpoint is written, whatever the step")
    accelerator: str = _option("auto", "device: auto, cpu, cuda, mps")
    devices: int | None = _option(None, "processes that share each batch, as torchrun started them")
    precision: str = _option("32-true", f"arithmetic of training: {', '.join(PRECISIONS)}")
    options: Mapping[str, Any] = field(default_factory=dict)

    def resolved(self) -> TrainConfig:
        """The same settings, checked, with the presets filled in.

        Raises:
            ValueError: an unknown name, with the nearest that is known, or a number out of range.
        """
        if self.method not in METHODS:
            raise ValueError(f"method: {_checks.unknown(self.method, METHODS)}")
        data = key_of(self.data)
        for name, table in _TABLES.items():
            value = data if name == "data" else getattr(self, name)
            if value not in table and not (name == "view" and value is None):
                raise ValueError(f"{name}: {_checks.unknown(value, table)}")
        encoder_builder(self.encoder)  # says what is wrong with the name
        if not self.out:
            raise ValueError("out: want a folder for the run, got none")
        accepted = method_options(METHODS[self.method])
        for name in self.options:
            if name not in accepted:
                raise ValueError(f"{name}: no setting of {self.method}; {_checks.unknown(name, accepted)}")
        preset = preset_of(METHODS[self.method], data)
        chosen = {
            name: getattr(preset, name) if getattr(self, name) is None else getattr(self, name)
            for name in PRESET_FIELDS
        }
        if self.optimizer in NEEDS_LR and self.lr is None:
            raise ValueError(f"lr: want a learning rate for {self.optimizer}; the method's preset is Adam's")
        options = {name: parameter.default for name, parameter in accepted.items()} | dict(self.options)
        config = dataclasses.replace(self, data=data, **chosen, options=options)
        config._check_numbers()
        return config

    def _check_numbers(self) -> None:
        for name, least in _INTEGERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: want an integer >= {least}, got {_checks.describe(value)}")
        if self.devices is not None and (isinstance(self.devices, bool) or not isinstance(self.devices, int)):
            raise ValueError(f"devices: want an integer >= 1, got {_checks.describe(self.devices)}")
        _checks.positive("checkpoint_minutes", self.checkpoint_minutes)
        _checks.positive("lr", cast(float, self.lr))
        check_not_negative("weight_decay", self.weight_decay)
        check_not_negative("sgd_momentum", self.sgd_momentum)
        if self.sgd_momentum >= 1:
            raise ValueError(f"sgd_momentum: want a number from 0 to below 1, got {self.sgd_momentum!r}")
        if self.clip is not None:
            _checks.positive("clip", self.clip)
        if self.warmup > cast(int, self.steps):
            raise ValueError(f"warmup: want at most the {self.steps} steps of the run, got {self.warmup}")
        if cast(int, self.batch_size) % self.accumulate:
            raise ValueError(
                f"accumulate: want parts of one size, got {self.accumulate} of a batch of {self.batch_size} images"
            )


PRESET_FIELDS = tuple(field.name for field in dataclasses.fields(Preset))
_TABLES: dict[str, Mapping[str, object] | Sequence[str]] = {
    "data": DATASETS, "view": VIEWS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES,
    "precision": PRECISIONS,
}  # fmt: skip
_INTEGERS = {"steps": 1, "batch_size": 1, "eval_every": 1, "checkpoint_every": 1, "warmup": 0, "accumulate": 1}

# What a resumed run may change: nothing that the weights depend on, but how far to go and where things are.
CHANGEABLE = (
    "steps",
    "eval_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "data_dir",
    "out",
    "accelerator",
    "devices",
)


def preset_of(method: type[Method], data: str) -> Preset:
    """A method's defaults for an image set."""
    return method.presets.get(key_of(data), method.presets["mnist"])


def method_options(method: type[Method]) -> dict[str, inspect.Parameter]:
    """A method's own settings: the keyword-only parameters of its constructor."""
    parameters = inspect.signature(method).parameters
    return {name: value for name, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY}
