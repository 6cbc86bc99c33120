"""Encoders that come from elsewhere: any module by its import path, and timm's by name."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mi_estimators._extras import require
from mi_estimators.ssl.augment import Shape
from mi_estimators.ssl.encoders.base import Encoder


class External(Encoder):
    """A network from elsewhere, of which a first pass shows how many features it gives.

    Args:
        network: maps ``[N, C, H, W]`` to ``[N, dim]``.
        shape: of an image.
        name: of the network, for errors.

    Raises:
        ValueError: it cannot take such images, or gives something else.
    """

    def __init__(self, network: nn.Module, shape: Shape, name: str) -> None:
        super().__init__()
        self.network = network
        training = network.training
        network.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng():
                found = network(torch.zeros(2, *shape))
        except Exception as error:
            raise ValueError(f"encoder: {name} cannot take images of shape {shape}: {error}") from error
        finally:
            network.train(training)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2 or not found.is_floating_point():
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"encoder: {name} must give a row of features an image, [2, dim] for two; got {got}")
        self.dim = found.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return self.network(images)


def by_import_path(name: str) -> Callable[[Shape], Encoder]:
    """The builder of the encoders at ``"package.module:Name"``: a module, or what makes one.

    A class or function with one required argument is given the image shape (channels, height, width); one with none,
    nothing; a module itself is copied for each view.

    Raises:
        ValueError: there is nothing of that name, or it can build no module.
    """
    path, _, attribute = name.partition(":")
    try:
        found = functools.reduce(getattr, attribute.split("."), importlib.import_module(path))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"encoder: cannot import {name!r}: {error}") from error
    if isinstance(found, nn.Module):
        return lambda shape: External(copy.deepcopy(found), shape, name)
    if not callable(found):
        raise ValueError(f"encoder: {name} is neither a module nor makes one, but {found!r}")
    required = _required_arguments(found)
    if required > 1:
        raise ValueError(f"encoder: {name} needs {required} arguments, want one (the image shape) or none")

    def build(shape: Shape) -> Encoder:
        network = found(*(shape,) * required)
        if not isinstance(network, nn.Module):
            raise ValueError(f"encoder: {name} makes a {type(network).__name__}, want a torch.nn.Module")
        return network if isinstance(network, Encoder) else External(network, shape, name)

    return build


def _required_arguments(function: Callable[..., object]) -> int:
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)


def of_timm(name: str) -> Callable[[Shape], Encoder]:
    """The builder of an architecture of timm, without its classifier and with weights of its own.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such model.
    """
    timm = require("timm", "vision")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ValueError(f"encoder: timm has no model {name!r}" + f"; it has {near}" * bool(near))

    def build(shape: Shape) -> Encoder:
        make = functools.partial(timm.create_model, name, pretrained=False, num_classes=0, in_chans=shape[0])
        try:
            network = make(img_size=shape[1:])
        except TypeError:  # convolutional ones take any size, and no such argument
            network = make()
        return External(network, shape, f"timm:{name}")

    return build
