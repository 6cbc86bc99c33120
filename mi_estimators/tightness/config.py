"""Settings of the staircase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from mi_estimators import _checks
from mi_estimators.bounds import BOUNDS
from mi_estimators.critics import CRITICS

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
"""What the large products of a concatenated critic are taken in; None is the type of the parameters."""

PRESETS: dict[str, dict[str, Any]] = {
    "published": {},
    "bits": {"levels": tuple(round(bits * math.log(2), 4) for bits in (2, 4, 6, 8, 10))},
    "short": {"hidden": 64, "steps_per_level": 250, "learning_rate": 1e-3, "span": 50, "threads": 1},
}
"""Settings by name. ``published``: that of Poole et al. and of Song and Ermon, 2 to 10 nats. ``bits``: the same with
2 to 10 bits. ``short``: a smaller critic and fewer steps, four bounds within a minute on one core."""


@dataclass(frozen=True)
class TightnessConfig:
    """Settings of a staircase.

    Attributes:
        bounds: names in :data:`mi_estimators.bounds.BOUNDS`.
        critic: name in :data:`mi_estimators.critics.CRITICS`.
        dim: size of x and of y.
        batch_size: pairs per step.
        steps_per_level: training steps at each level.
        levels: true mutual information of each level, in nats, increasing.
        span: span in steps of the exponentially weighted mean that smooths the curves and counts violations.
        cubic: cube every coordinate of y, which leaves the mutual information as it is.
        learning_rate: of Adam.
        hidden: size of each of the critic's hidden layers (separable, concatenated and hybrid critics).
        layers: number of hidden layers.
        embedding: size of the embeddings of a separable critic.
        seed: of data and initial weights. Every bound sees the same batches and starts from the same weights.
        seeds: number of repetitions, with consecutive seeds.
        precision: "float32", or "bfloat16" for the products of a concatenated critic's hidden layers.
        threads: estimators trained at the same time, each on one CPU thread; None takes PyTorch's number of threads.
        device: where to train.
    """

    bounds: tuple[str, ...] = ("infonce", "nwj", "dv", "smile")
    critic: str = "concatenated"
    dim: int = 20
    batch_size: int = 64
    steps_per_level: int = 4000
    levels: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 10.0)
    span: int = 200
    cubic: bool = False
    learning_rate: float = 5e-4
    hidden: int = 256
    layers: int = 2
    embedding: int = 32
    seed: int = 0
    seeds: int = 1
    precision: str = "float32"
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError("bounds: want at least one")
        for bound in self.bounds:
            _checks.choice("bounds", bound, BOUNDS)
        if len(set(self.bounds)) < len(self.bounds):
            raise ValueError(f"bounds: want each once, got {self.bounds}")
        _checks.choice("critic", self.critic, CRITICS)
        if self.critic == "conv":
            raise ValueError("critic: 'conv' scores images, which the variables of a staircase are not")
        _checks.choice("precision", self.precision, PRECISIONS)
        for name in (
            "dim",
            "batch_size",
            "steps_per_level",
            "span",
            "hidden",
            "layers",
            "embedding",
            "seeds",
            "threads",
        ):
            value = getattr(self, name)
            if name == "threads" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: want an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"{name}: want at least 1, got {value}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: want at least 2, since one pair has no negatives; got {self.batch_size}")
        _checks.positive("learning_rate", self.learning_rate)
        if not self.levels:
            raise ValueError("levels: want at least one")
        for level in self.levels:
            _checks.positive("levels", level)
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels: want increasing values, got {self.levels}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TightnessConfig:
        """The settings of :data:`PRESETS`, some of them changed.

        Args:
            name: of the preset.
            **changes: fields to set otherwise.

        Raises:
            ValueError: there is no such preset.
        """
        _checks.choice("preset", name, PRESETS)
        return cls(**{**PRESETS[name], **changes})

    @property
    def cap(self) -> float:
        """log(batch_size): the largest value of InfoNCE, in nats."""
        return math.log(self.batch_size)
