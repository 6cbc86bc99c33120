"""Bounds on held-out images: what training reached, measured on pairs that it never saw."""

from __future__ import annotations

import math
import warnings

import torch

from mi_estimators.image_sets import Split
from mi_estimators.ssl.augment import ViewMaker
from mi_estimators.ssl.data import Batches, derived_seed
from mi_estimators.ssl.method import Method

BATCHES = 16


@torch.no_grad()
def evaluate(method: Method, test: Split, view: ViewMaker, batch_size: int, seed: int) -> dict[str, float]:
    """Loss and bounds of a method on test pairs, in evaluation mode, in nats.

    Each of 16 batches holds K different test images, so that the candidates of a pair are the other images' views,
    independent of it, as the InfoNCE bound needs. The batches are the same at every call.

    Args:
        method: the method; its mode is restored.
        test: held-out images.
        view: makes the pairs.
        batch_size: K, lowered to the size of the split.
        seed: seed of the batches and of random views.

    Returns:
        Means over the batches: ``test_loss``; of the method's ER bound (:meth:`Method.er_bound`) the ``entropy`` of
        z2, the ``reconstruction`` of z2 from z1 and their sum ``er_bound``; the method's own ``bounds``; and ``cap`` =
        log K, which InfoNCE cannot exceed.
    """
    training = method.training
    method.eval()
    batches = Batches(len(test), min(batch_size, len(test)), derived_seed(seed, "held-out"))
    totals: dict[str, float] = {}
    try:
        with torch.random.fork_rng():
            for index in range(BATCHES):
                torch.manual_seed(derived_seed(seed, "held-out views", index))
                views = view.held_out(test.pixels(batches[index].to(test.images.device)))
                z1, z2 = method.embed(views)
                er = method.er_bound(z1.float(), z2.float())
                values = {
                    "test_loss": method.step(views, None)["loss"],
                    "entropy": er.entropy,
                    "reconstruction": er.reconstruction,
                    "er_bound": er.value,
                    **method.bounds(z1, z2),
                }
                for name, value in values.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
    finally:
        method.train(training)
    return {**{name: total / BATCHES for name, total in totals.items()}, "cap": math.log(batches.batch_size)}


def warn_at_the_ends(row: dict[str, float], step: int) -> None:
    """Warn where the held-out InfoNCE bound says little: at its ceiling log K, or at zero."""
    fraction = row["infonce"] / row["cap"]
    if fraction > 0.98:
        warnings.warn(
            f"step {step}: the held-out InfoNCE bound {row['infonce']:.3f} sits at its ceiling log K = "
            f"{row['cap']:.3f} nats, so the information may be larger; a larger batch_size raises the ceiling",
            stacklevel=2,
        )
    elif fraction < 0.01:
        warnings.warn(
            f"step {step}: the held-out InfoNCE bound is {row['infonce']:.3f} nats, so the loss sits near log K: "
            "nothing is learnt that tells pairs apart; try another lr",
            stacklevel=2,
        )
