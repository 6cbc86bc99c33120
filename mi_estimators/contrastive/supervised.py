"""The supervised contrastive loss: several positives for an anchor, by labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.contrastive.checks import blame_points, check_ids, check_negatives_exist, check_settings
from mi_estimators.contrastive.points import Classes, inverse, prepared
from mi_estimators.ops.pairwise_lse import unchecked_pairwise_lse, without_autocast


def sup_con(
    z: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    decoupled: bool = False,
) -> Tensor:
    r"""Supervised contrastive loss: each point has to pick all others of its label, :math:`P(i)`, itself left out.

    .. math::
        \ell_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)}
              \log \frac{e^{z_i \cdot z_p / \tau}}{\sum_{a \ne i} e^{z_i \cdot z_a / \tau}}

    The mean over the positives is outside the logarithm (:math:`L_{out}`). A point without another of its label is a
    negative of the others and contributes nothing itself: its loss is 0, and the mean is over the points that have a
    positive. The N x N similarities are not stored. Two views of each of n images are passed as
    ``sup_con(torch.cat([z1, z2]), torch.cat([labels, labels]))``; with all labels different this is NT-Xent.

    Args:
        z: the points, of all views.
        labels: integers, one for each point.
        temperature: :math:`\tau > 0`, a number or a one-element tensor, which may require a gradient.
        normalize: scale rows to unit length first.
        reduction: ``"mean"`` (over the points with a positive), ``"sum"`` or ``"none"``.
        decoupled: only points of other labels in the denominator.

    Shape:
        - z: :math:`(N, d)`, labels: :math:`(N,)`; Output: scalar, or :math:`(N,)` with ``reduction="none"``. Nats.
          float32 for half inputs.

    Raises:
        TypeError, ValueError: not a floating-point matrix; NaN or infinite values; labels that are not integers, or
            not one for each point; no two points of one label; ``decoupled`` with one label only; ``temperature``
            below 1e-30 or NaN; an unknown reduction. Values of tensors are looked at as
            :func:`~mi_estimators.value_checks` says, by default on the CPU only; where they are not, a batch without
            positives has the loss 0.

    Source: Khosla et al. (2020), arXiv 2004.11362, eq. 2.
    """
    check_settings(temperature=temperature, reduction=reduction)
    _checks.floating("z", z)
    labels = check_ids("labels", labels, z)
    if not normalize:  # normalised, what is not finite reaches the loss
        _checks.finite("z", z)
    if decoupled:
        check_negatives_exist("z", z, labels)
    classes = Classes.of(labels)
    with without_autocast(z):
        scale, points = inverse(temperature, z), prepared(z, normalize)
        positives = classes.sums(torch.ones_like(points[:, 0])) - 1
        if z.shape[0] == 1 or (_checks.concrete(positives) and not bool((positives > 0).any())):
            raise ValueError("labels: want two points of one label at least, got labels that are all different")
        others = classes.sums(points) - points
        attraction = scale * (points * others).sum(dim=1) / positives.clamp(min=1)
        if decoupled:
            losses = unchecked_pairwise_lse(points, scale=scale, row_groups=labels) - attraction
        else:
            # As for InfoNCE one positive, the next of the class, stays out of the log-sum-exp: where it is the only
            # one, a loss near 0 keeps its digits.
            own, partner = torch.arange(len(labels), device=labels.device), classes.successors()
            partners = points.index_select(0, partner)
            lse = unchecked_pairwise_lse(
                points, partners, scale=scale, exclude_diagonal=True, row_groups=own, col_groups=partner
            )
            score = scale * (points * partners).sum(dim=1)
            losses = torch.where(positives > 1, score - attraction, 0) - F.logsigmoid(score - lse)
        losses = torch.where(positives > 0, losses, 0)
        if reduction == "mean":
            loss = losses.sum() / (positives > 0).sum().clamp(min=1)
        else:
            loss = losses.sum() if reduction == "sum" else losses
    blame_points(loss, {"z": z})
    return loss
