"""Networks, optimizer and data of a run, and one step of its training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from mi_estimators._extras import require
from mi_estimators.image_sets import ImageSet
from mi_estimators.ssl.augment import VIEWS, ViewMaker
from mi_estimators.ssl.config import FLOAT16, TrainConfig
from mi_estimators.ssl.data import Batches, derived_seed, seed_generators
from mi_estimators.ssl.encoders import Encoder, encoder_builder, shape_of
from mi_estimators.ssl.method import Method, Setting, check_small_crops, check_takes
from mi_estimators.ssl.methods import METHODS
from mi_estimators.ssl.optimizers import make_optimizer, rate_factor
from mi_estimators.ssl.probe import over_anchors
from mi_estimators.ssl.processes import broadcast_state, started, together, with_joined_batch_norm

T = TypeVar("T")


class Trainer:
    """What trains: it is told which step to take, and knows nothing of files, logs and evaluations.

    Args:
        config: settings, resolved.
        data: the image set.

    Raises:
        ValueError: the machine has no such accelerator, or the data do not go with the view or the batch size.
    """

    def __init__(self, config: TrainConfig, data: ImageSet) -> None:
        self.config = config
        self.steps, self.lr = cast(int, config.steps), cast(float, config.lr)
        self.candidates = cast(int, config.batch_size) // config.accumulate
        """K: the pairs that are compared with each other."""
        self.view: ViewMaker = VIEWS[cast(str, config.view)](data.shape)
        if len(data.test) < 2:
            raise ValueError(f"data_dir: want at least 2 test images, got {len(data.test)}")
        self.batches = Batches(len(data.train), cast(int, config.batch_size), config.seed)

        self.fabric = _fabric(config)
        device, self.world, self.rank = self.fabric.device, self.fabric.world_size, self.fabric.global_rank
        if self.candidates % self.world:
            raise ValueError(
                f"batch_size: want shares of one size for {self.world} processes, got {config.batch_size} images in "
                f"{config.accumulate} parts"
            )
        self.data = dataclasses.replace(data, train=data.train.to(device), test=data.test.to(device))
        with torch.random.fork_rng():
            shapes = [shape_of(view) for view in self.view.held_out(data.test.pixels(slice(2)))]
            torch.manual_seed(derived_seed(config.seed, "weights"))
            build = encoder_builder(config.encoder)
            built: dict[int, Encoder] = {}

            def make_encoder(view: int) -> Encoder:
                built[view] = build(shapes[view])
                return built[view]

            setting = Setting(make_encoder, len(data.train))
            make: Callable[..., Method] = METHODS[config.method]
            self.method = make(setting, **config.options)
        check_small_crops(self.view, self.method)
        if shapes[0] != shapes[1] and 1 not in built:
            text = f"view: the first has the shape {shapes[0]}, the second {shapes[1]}, which its encoder cannot take"
            check_takes(built[0], shapes[1], f"{text}; choose a method with an encoder for each, cmc or mi-max")
        if self.world > 1:
            self.method = cast(Method, with_joined_batch_norm(self.method, device))
        self.optimizer = make_optimizer(
            config.optimizer,
            self.method.parameters(),
            lr=self.lr,
            weight_decay=config.weight_decay,
            momentum=config.sgd_momentum,
        )
        self.model, self._stepper = self.fabric.setup(self.method, self.optimizer)
        self.model.mark_forward_method("step")

    def step(self, number: int) -> dict[str, float]:
        """Take one step.

        Args:
            number: of the step, from 0.

        Returns:
            The terms of the batch, in nats.

        Raises:
            FloatingPointError: one of them is not finite; the weights are still those of before.
        """
        self._begin(number)
        with together(self.method) if self.world > 1 else nullcontext():
            return self._step(self.batches[number])

    def _step(self, batch: Tensor) -> dict[str, float]:
        self._stepper.zero_grad()
        shares = batch.view(self.config.accumulate, self.world, -1)[:, self.rank].to(self.fabric.device)
        try:
            terms = [self._backward(index, last=part == len(shares)) for part, index in enumerate(shares, start=1)]
        except ValueError as error:
            # On the CPU the losses look at their inputs, and name the one that is not finite.
            raise FloatingPointError(str(error)) from error
        mean = torch.stack([torch.stack(list(part.values())) for part in terms]).mean(dim=0)
        if self.world > 1:
            mean = self.fabric.all_reduce(mean, reduce_op="mean")
        values = dict(zip(terms[0], mean.tolist(), strict=True))
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            every = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
            raise FloatingPointError(f"{' and '.join(bad)} (terms: {every})")
        if self.config.clip is not None:
            if self.config.precision == FLOAT16:  # Fabric's own clipping refuses fused optimizers
                self.fabric.strategy.precision.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.config.clip)
        self._stepper.step()
        self.method.end_step()
        return values

    @property
    def loss_scale(self) -> dict[str, Any]:
        """State of the scale that the loss has in float16; empty where it has none."""
        return cast(dict[str, Any], self.fabric.strategy.precision.state_dict())

    @loss_scale.setter
    def loss_scale(self, state: dict[str, Any]) -> None:
        self.fabric.strategy.precision.load_state_dict(state)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        return bool(self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum") > 0)

    def of_the_first(self, value: T) -> T:
        """What the first process gives, in all of them."""
        return value if self.world == 1 else self.fabric.broadcast(value)

    def over_images(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function of the method gives for the probed view of all training images."""
        return over_anchors(self.method, function, self.data.train, self.view)

    def _begin(self, number: int) -> None:
        """Set what depends on the number of the step alone: progress, learning rate, seed; and begin an epoch."""
        config = self.config
        self.method.progress = number / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rate_factor(config.schedule, number, self.steps, config.warmup)
        epoch, batch = divmod(number, self.batches.per_epoch)
        if batch == 0:
            seed_generators(derived_seed(config.seed, "begin of epoch", epoch), self.fabric.device)
            if self.rank == 0:
                self.method.begin_epoch(epoch, self.over_images)
            if self.world > 1 and type(self.method).begin_epoch is not Method.begin_epoch:
                broadcast_state(self.method)
        stream = f"views of {self.rank}" if self.rank else "views"
        seed_generators(derived_seed(config.seed, stream, number), self.fabric.device)

    def _backward(self, index: Tensor, *, last: bool) -> dict[str, Tensor]:
        """Add the gradient of a part of the batch, its last or not; gives its terms."""
        with nullcontext() if last or self.world == 1 else self.fabric.no_backward_sync(self.model):
            views = self.view(self.data.train.pixels(index))
            with self.fabric.autocast():  # a marked method is called in the precision's context with DDP only
                terms = self.model.step(views, index)
            self.fabric.backward(terms["loss"] / self.config.accumulate)
        return {name: term.detach().float() for name, term in terms.items()}


def _fabric(config: TrainConfig) -> Any:
    """Lightning Fabric, on this process alone or as one of torchrun's."""
    fabric = require("lightning_fabric", "train")
    world, here = started(config.devices)
    options: dict[str, Any] = {"devices": 1}
    if world > 1:
        strategies = require("lightning_fabric.strategies", "train")
        # Buffers are equal on all processes, or shared by those who write them.
        strategy = strategies.DDPStrategy(
            broadcast_buffers=False, find_unused_parameters=METHODS[config.method].skips_parameters
        )
        options = {"devices": here, "num_nodes": world // here, "strategy": strategy}
    if config.precision == FLOAT16:  # by its name, Fabric would take bfloat16 for it on a CPU
        plugins = require("lightning_fabric.plugins.precision", "train")
        on_cpu = config.accelerator == "cpu" or not torch.cuda.is_available()
        options["plugins"] = plugins.MixedPrecision(FLOAT16, device="cpu" if on_cpu else "cuda")
    else:
        options["precision"] = config.precision
    try:
        made = fabric.Fabric(accelerator=config.accelerator, **options)
    except (ValueError, RuntimeError) as error:  # unknown, or not on this machine
        raise ValueError(f"accelerator: cannot use {config.accelerator!r}: {error}") from error
    made.launch()
    return made
