"""CLIP's loss with open_clip's arguments, as a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_estimators import contrastive, joined
from mi_estimators.distributed import gather_with_gradient, rank, rows_of_other_ranks, world_size
from mi_estimators.losses.base import Loss, from_scale


class ClipLoss(Loss):
    r"""CLIP's loss with the arguments of open_clip's ``ClipLoss``: symmetric :func:`~mi_estimators.info_nce`.

    Features are taken as they come (open_clip's models normalise them), and the scale is given at the call. In several
    processes, ``local_loss`` and ``gather_with_grad`` mean what they mean there:

    ============  ==================  ==========================  ====================================================
    local_loss    gather_with_grad    value on a rank             gradients averaged by DistributedDataParallel
    ============  ==================  ==========================  ====================================================
    True          True                mean of the rank's anchors  of the joined batch; N times P N pairs a direction
    False         True                of the joined batch         of the joined batch; P N times P N pairs a rank
    False         False               of the joined batch         of the features: **divided by P**, of the scale whole
    True          False               mean of the rank's anchors  those through candidates are **missing**
    ============  ==================  ==========================  ====================================================

    The first line is the one to choose; :class:`InfoNCE` with ``gather_distributed=True`` has no other.

    Args:
        local_loss: only the anchors of this rank, against all candidates.
        gather_with_grad: gradients flow through the gathered rows to the ranks they came from.
        cache_labels: accepted and without effect: there are no label tensors here.
        rank: this process, which has to be its rank in ``torch.distributed``; only looked at where ``world_size > 1``.
        world_size: 1 for the loss of this process alone, otherwise the number of processes of ``torch.distributed``.
        use_horovod: accepted if false.

    Shape:
        - Input: :math:`(K, d)`, :math:`(K, d)`, scalar; Output: scalar.

    Raises:
        ValueError: ``use_horovod``; ``rank`` or ``world_size`` that are not those of ``torch.distributed``, at the
            call; bad inputs, at the call.

    Source: Radford et al. (2021), arXiv 2103.00020, figure 3.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        if use_horovod:
            raise ValueError("use_horovod: want False, as rows are gathered by torch.distributed, got True")
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.use_horovod = use_horovod

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss of the pairs (image_i, text_i).

        Args:
            image_features: rows of the images.
            text_features: rows of their texts.
            logit_scale: 1 / temperature, which may require a gradient.
            logit_bias: accepted and without effect: the same for every logit, it cancels.
            output_dict: return ``{"contrastive_loss": loss}``.
        """
        loss = self._loss(image_features, text_features, {"temperature": from_scale(logit_scale), "normalize": False})
        return {"contrastive_loss": loss} if output_dict else loss

    def _loss(self, image: Tensor, text: Tensor, arguments: dict[str, Any]) -> Tensor:
        if self.world_size == 1:
            return contrastive.info_nce(image, text, **arguments)
        if (self.rank, self.world_size) != (rank(), world_size()):
            raise ValueError(
                f"rank, world_size: want those of torch.distributed, {rank()} and {world_size()}, "
                f"got {self.rank} and {self.world_size}"
            )
        if self.gather_with_grad and self.local_loss:
            return joined.info_nce(image, text, **arguments)
        if self.gather_with_grad:
            return contrastive.info_nce(gather_with_gradient(image), gather_with_gradient(text), **arguments)
        if self.local_loss:
            there = _against_constants(image, text, arguments)
            return 0.5 * (there + _against_constants(text, image, arguments))
        return contrastive.info_nce(_gathered_around(image), _gathered_around(text), **arguments)


def _against_constants(anchors: Tensor, candidates: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Loss of this rank's anchors against candidates of all ranks that get no gradient."""
    candidates = candidates.detach()
    others = rows_of_other_ranks(candidates)
    return contrastive.info_nce(anchors, candidates, symmetric=False, negatives=others, **arguments)


def _gathered_around(rows: Tensor) -> Tensor:
    """Rows of all ranks, of which those of this rank alone get a gradient."""
    gathered, start = gather_with_gradient(rows.detach()), rank() * len(rows)
    return torch.cat([gathered[:start], rows, gathered[start + len(rows) :]])
