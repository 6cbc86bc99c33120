"""What the loss modules share."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.contrastive.checks import check_settings
from mi_estimators.distributed import average_gradient
from mi_estimators.temperature import LearnableTemperature

_CHECKED = ("temperature", "reduction", "label_smoothing", "decoupled", "hard_negative_beta")


class Loss(nn.Module):
    """A loss whose settings are its public attributes, named as the arguments of its constructor."""

    def extra_repr(self) -> str:
        """The settings that differ from the defaults."""
        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            default = self._default(name, parameter.default)
            value = vars(self).get(name, default)
            if isinstance(value, Tensor) or value != default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)

    def _default(self, name: str, declared: object) -> object:
        """What a setting is by default, where that follows from others."""
        return declared


class ContrastiveLoss(Loss):
    """A contrastive loss: its temperature, its options, and whether it is of this process or of all."""

    temperature: float | Tensor | LearnableTemperature
    normalize: bool
    _options: tuple[str, ...]  # attributes that the function takes too

    def __init__(
        self,
        temperature: float | Tensor,
        *,
        learnable_temperature: bool,
        max_scale: float,
        gather_distributed: bool,
        **options: Any,
    ) -> None:
        super().__init__()
        settings = {"temperature": temperature, "reduction": "mean", **options}
        check_settings(**{name: value for name, value in settings.items() if name in _CHECKED})
        if learnable_temperature:
            if isinstance(temperature, Tensor):
                raise TypeError(f"temperature: want a number to learn from, got {_checks.describe(temperature)}")
            self.temperature = LearnableTemperature(temperature, max_scale=max_scale)
        else:
            self.temperature = temperature
        self.learnable_temperature = learnable_temperature
        self.max_scale = max_scale
        self.gather_distributed = gather_distributed
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def arguments(self, like: Tensor, logit_scale: float | Tensor | None = None) -> dict[str, Any]:
        """Temperature and options, as the function takes them."""
        temperature = self.temperature
        if isinstance(temperature, LearnableTemperature):
            if logit_scale is not None:
                raise ValueError("logit_scale: want none, as the loss learns a temperature of its own, got one")
            temperature = temperature().to(like.device)
            if self.gather_distributed:
                temperature = average_gradient(temperature)
        elif logit_scale is not None:
            temperature = from_scale(logit_scale)
        return {"temperature": temperature, **{name: getattr(self, name) for name in self._options}}

    def keys_are_for_learning(self, queries: Tensor) -> bool:
        """Whether a bank takes in the keys of these queries: evaluation leaves it as it is."""
        return self.training and torch.is_grad_enabled() and queries.requires_grad


def from_scale(logit_scale: float | Tensor) -> float | Tensor:
    """The temperature of a scale, 1 / temperature."""
    _checks.positive("logit_scale", logit_scale)
    if isinstance(logit_scale, Tensor) and logit_scale.numel() != 1:
        raise ValueError(f"logit_scale: want a number or one element, got {_checks.describe(logit_scale)}")
    return 1 / logit_scale
