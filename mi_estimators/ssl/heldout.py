"""Bounds on held-out images: what training reached, measured on pairs that it never saw."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from mi_estimators.image_sets import Split
from mi_estimators.ssl import measures
from mi_estimators.ssl.augment import ViewMaker
from mi_estimators.ssl.data import Batches, derived_seed
from mi_estimators.ssl.evaluation import knn_accuracy
from mi_estimators.ssl.method import Method
from mi_estimators.ssl.probe import over_anchors
from mi_estimators.ssl.teacher import Teacher

BATCHES = 16
SPREAD = 1024
"""Pairs whose spread is measured."""
VOTERS, VOTED_ON = 4096, 2048
"""Training and test images of the nearest-neighbour accuracy, at most."""
NO_NATS = ("step", "rankme", "alignment", "uniformity", "teacher_distance", "knn")
"""What a row holds that is not in nats."""


@torch.no_grad()
def evaluate(
    method: Method, train: Split, test: Split, view: ViewMaker, batch_size: int, seed: int
) -> dict[str, float]:
    """Loss, bounds and spread of a method on test pairs, in evaluation mode; bounds in nats.

    Each of 16 batches holds K different test images, so that the candidates of a pair are the other images' views,
    independent of it, as the InfoNCE bound needs. The batches are the same at every call.

    Args:
        method: the method; its mode is restored.
        train: training images, of which the nearest neighbours are.
        test: held-out images.
        view: makes the pairs.
        batch_size: K, lowered to the size of the split.
        seed: seed of the batches and of random views.

    Returns:
        Means over the batches: ``test_loss``; of the method's ER bound (:meth:`Method.er_bound`) the ``entropy`` of
        z2, the ``reconstruction`` of z2 from z1 and their sum ``er_bound``; the method's own ``bounds``. Then ``cap`` =
        log K, which InfoNCE cannot exceed; ``entropy_floor``, the entropy of one point; of up to 1,024 pairs
        :func:`~mi_estimators.ssl.measures.rankme` and ``uniformity`` of z1 and the pairs' ``alignment``;
        ``teacher_distance`` where the method has a teacher of its online networks; and ``knn``, the accuracy of the
        200 nearest neighbours of up to 2,048 test images among up to 4,096 training images, by representation.
    """
    training = method.training
    method.eval()
    batches = Batches(len(test), min(batch_size, len(test)), derived_seed(seed, "held-out"))
    totals: dict[str, float] = {}
    pairs: list[tuple[Tensor, Tensor]] = []
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
                if len(z1) * len(pairs) < SPREAD:
                    pairs.append((z1.float(), z2.float()))
    finally:
        method.train(training)
    return {
        **{name: total / BATCHES for name, total in totals.items()},
        "cap": math.log(batches.batch_size),
        "entropy_floor": method.entropy_floor(pairs[0][1].shape[1]),
        **_spread(method, *(torch.cat(side)[:SPREAD] for side in zip(*pairs, strict=True))),
        "knn": _neighbours(method, train, test, view),
    }


def _spread(method: Method, z1: Tensor, z2: Tensor) -> dict[str, float]:
    values = {
        "rankme": measures.rankme(z1),
        "uniformity": measures.uniformity(z1),
    }
    if z1.shape == z2.shape:
        values["alignment"] = measures.alignment(z1, z2)
    teacher = getattr(method, "teacher", None)
    if isinstance(teacher, Teacher):
        values["teacher_distance"] = measures.teacher_distance(teacher.network, method.online)
    return values


def _neighbours(method: Method, train: Split, test: Split, view: ViewMaker) -> float:
    def some_of(split: Split, most: int) -> tuple[Tensor, Tensor]:
        spread = torch.linspace(0, len(split) - 1, min(most, len(split)), device=split.labels.device).long()
        some = Split(split.images[spread], split.labels[spread], split.scale)
        return over_anchors(method, method.represent, some, view), some.labels

    return knn_accuracy(*some_of(train, VOTERS), *some_of(test, VOTED_ON))


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


def warn_of_collapse(row: dict[str, float], step: int) -> None:
    """Warn where the embeddings of different images are all but one point or one line."""
    above = row["entropy"] - row["entropy_floor"]
    if not above >= 0.1:
        warnings.warn(
            f"step {step}: the entropy of the embeddings, {row['entropy']:.3f} nats, is all but that of one point, "
            f"{row['entropy_floor']:.3f}: different images are given one embedding (collapse); try another lr, or "
            "--objective er",
            stacklevel=2,
        )
    elif not row["rankme"] >= 1.5:
        warnings.warn(
            f"step {step}: the effective rank of the embeddings is {row['rankme']:.2f}: all but one direction is lost "
            "(dimensional collapse); try another lr, or --objective er",
            stacklevel=2,
        )
