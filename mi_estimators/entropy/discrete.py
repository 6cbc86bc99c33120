"""Entropy of categorical variables."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.ops.pairwise_lse import accumulated


def check_probabilities(name: str, value: Tensor) -> None:
    """Check for rows that are probability vectors, to the rounding of their dtype."""
    _checks.floating(name, value)
    _checks.finite(name, value)
    if not _checks.concrete(value):
        return
    slack = 16 * torch.finfo(value.dtype).eps
    sums = value.detach().to(torch.float64).sum(dim=1)
    if bool((value < -slack).any()) or bool(((sums - 1).abs() > slack * value.shape[1] ** 0.5).any()):
        raise ValueError(f"{name}: want rows of probabilities that sum to 1, got rows that do not")


def categorical_entropy(probabilities: Tensor) -> Tensor:
    r"""Entropy of the mixture of a batch of categorical distributions, :math:`-\sum_k m_k \log m_k`.

    :math:`m` is the mean of the rows; :math:`0 \log 0 = 0`, exactly and with a zero gradient.

    Shape:
        - probabilities: :math:`(N, K)`, rows sum to 1; Output: scalar. Nats, at most :math:`\log K`. float32 for half
          inputs.

    Raises:
        TypeError, ValueError: not a floating-point matrix of probabilities.

    Source: the entropy term of the discrete ER bound, arXiv 2307.10907, section 3.
    """
    check_probabilities("probabilities", probabilities)
    (probabilities,) = accumulated(probabilities)
    return torch.special.entr(probabilities.mean(dim=0)).sum()
