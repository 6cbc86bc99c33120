"""Losses of points with labels as modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mi_estimators import _checks, contrastive, joined
from mi_estimators.contrastive.checks import check_ids
from mi_estimators.contrastive.points import inverse, prepared
from mi_estimators.distributed import gather_with_gradient
from mi_estimators.losses.base import ContrastiveLoss
from mi_estimators.ops.pairwise_lse import unchecked_pairwise_lse, without_autocast

_ELEMENTS = 1 << 22  # of rows picked out for pairs at a time, and of the pairs' own numbers: 16 MiB in float32
_NUMBERS = 16  # of a pair: its indices, score and loss


class SupCon(ContrastiveLoss):
    r"""Supervised contrastive loss, see :func:`~mi_estimators.sup_con`.

    Takes the place of pytorch-metric-learning's ``SupConLoss``: ``loss(embeddings, labels)`` with the same values. A
    batch in which no label occurs twice is an error here (on the CPU), and not the loss 0.

    Args:
        temperature: :math:`\tau > 0`.
        learnable_temperature: as for :class:`InfoNCE`.
        max_scale: as for :class:`InfoNCE`.
        gather_distributed: the loss of the points of all processes, computed on each of them.
        normalize: this and the following are options of :func:`~mi_estimators.sup_con`.
        reduction: as there.
        decoupled: as there.

    Shape:
        - Input: :math:`(N, d)`, :math:`(N,)` integers; Output: scalar (or :math:`(N,)` with ``reduction="none"``).

    Raises:
        TypeError, ValueError: bad settings, here; bad inputs, at the call.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        *,
        learnable_temperature: bool = False,
        max_scale: float = 100.0,
        gather_distributed: bool = False,
        normalize: bool = True,
        reduction: str = "mean",
        decoupled: bool = False,
    ) -> None:
        super().__init__(
            temperature,
            learnable_temperature=learnable_temperature,
            max_scale=max_scale,
            gather_distributed=gather_distributed,
            normalize=normalize,
            reduction=reduction,
            decoupled=decoupled,
        )

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of points with labels."""
        function = joined.sup_con if self.gather_distributed else contrastive.sup_con
        return function(embeddings, labels, **self.arguments(embeddings))


class LabelNTXent(ContrastiveLoss):
    r"""NT-Xent of labelled points, one positive at a time: pytorch-metric-learning's ``NTXentLoss``.

    .. math::
        L = -\frac{1}{|P|} \sum_{(i, p) \in P}
            \log \frac{e^{z_i \cdot z_p / \tau}}
                      {e^{z_i \cdot z_p / \tau} + \sum_{k :\, y_k \ne y_i} e^{z_i \cdot z_k / \tau}},
        \qquad P = \{ (i, p) : y_p = y_i,\ p \ne i \}

    Other positives are not in the denominator, as they are in :class:`SupCon`. With two points of each label, as
    ``loss(torch.cat([z1, z2]), torch.arange(K).repeat(2))``, it is :class:`NTXent`. Memory is O(N d): of the
    \|P\| = N (m - 1) pairs, with classes of m points, some are taken at a time, and triples are not formed.

    Args:
        temperature: :math:`\tau > 0`.
        learnable_temperature: as for :class:`InfoNCE`.
        max_scale: as for :class:`InfoNCE`.
        gather_distributed: the loss of the points of all processes, computed on each of them.
        normalize: scale rows to unit length first.

    Shape:
        - Input: :math:`(N, d)`, :math:`(N,)` integers; Output: scalar, 0 if no label occurs twice.

    Raises:
        TypeError, ValueError: ``temperature <= 0`` or NaN, here; bad inputs, at the call.

    Source: the formula of pytorch-metric-learning, after Sohn (2016), eq. 6, and Chen et al. (2020), eq. 1.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        *,
        learnable_temperature: bool = False,
        max_scale: float = 100.0,
        gather_distributed: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__(
            temperature,
            learnable_temperature=learnable_temperature,
            max_scale=max_scale,
            gather_distributed=gather_distributed,
            normalize=normalize,
        )

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of points with labels."""
        _checks.floating("embeddings", embeddings)
        _checks.finite("embeddings", embeddings)
        labels = check_ids("labels", labels, embeddings)
        if self.gather_distributed:
            embeddings, labels = gather_with_gradient(embeddings), gather_with_gradient(labels)
        arguments = self.arguments(embeddings)
        with without_autocast(embeddings):
            points = prepared(embeddings, self.normalize)
            scale = inverse(arguments["temperature"], points)
            negatives = unchecked_pairwise_lse(points, scale=scale, row_groups=labels)
            pairs = _PositivePairs(labels)
            at_once = max(1, _ELEMENTS // (points.shape[1] + _NUMBERS))
            if pairs.count <= at_once:
                total = _sum_of_losses(points, negatives, scale, pairs, 0, pairs.count)
            else:
                parts = [
                    checkpoint(
                        _sum_of_losses,
                        points,
                        negatives,
                        scale,
                        pairs,
                        begin,
                        min(begin + at_once, pairs.count),
                        use_reentrant=False,
                        preserve_rng_state=False,
                    )
                    for begin in range(0, pairs.count, at_once)
                ]
                total = torch.stack(parts).sum()
            return total / max(pairs.count, 1)


class _PositivePairs:
    """The ordered pairs of points of equal labels, numbered class by class; O(N) memory, whatever their number."""

    def __init__(self, labels: Tensor) -> None:
        self._order = labels.argsort(stable=True)  # class by class
        sizes = torch.unique_consecutive(labels[self._order], return_counts=True)[1]
        self._starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # [N], where the class of a place starts
        self._sizes = sizes.repeat_interleave(sizes)
        partners = self._sizes - 1
        self._first = partners.cumsum(0) - partners  # [N], the first pair of a place
        self.count = int(partners.sum())

    def some(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Indices of the two points of the pairs with these numbers."""
        numbers = torch.arange(begin, end, device=self._order.device)
        anchors = torch.searchsorted(self._first, numbers, right=True) - 1
        starts = self._starts[anchors]
        ahead = numbers - self._first[anchors] + 1  # 1 .. size - 1, round the class
        partners = starts + (anchors - starts + ahead) % self._sizes[anchors]
        return self._order[anchors], self._order[partners]


def _sum_of_losses(
    points: Tensor, negatives: Tensor, scale: Tensor, pairs: _PositivePairs, begin: int, end: int
) -> Tensor:
    anchors, partners = pairs.some(begin, end)
    positives = scale * (points[anchors] * points[partners]).sum(dim=1)
    return -F.logsigmoid(positives - negatives[anchors]).sum()
