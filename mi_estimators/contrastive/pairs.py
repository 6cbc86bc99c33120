r"""InfoNCE and NT-Xent: one loss with different candidates.

An anchor :math:`a_i` with the score :math:`s_i^+` of its positive and the scores :math:`s_{ij}`, :math:`j \in N(i)`, of
its negatives has the loss

.. math::
    \ell_i = -\log \frac{e^{s_i^+}}{e^{s_i^+} + e^{n_i}} = \log (1 + e^{n_i - s_i^+}), \qquad
    n_i = \log \sum_{j \in N(i)} e^{s_{ij}} .

The options choose :math:`N(i)` (``groups``, ``negatives``), change :math:`n_i` (``hard_negative_beta``), take the
positive out of the denominator (``decoupled``), add a term that is linear in the scores (``label_smoothing``), or weigh
the pairs (``weights``). For N pairs and K further negatives all of them need O((N + K) d) memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.contrastive.checks import (
    blame_points,
    check_bank,
    check_ids,
    check_negatives_exist,
    check_pairs,
    check_settings,
    check_weights,
)
from mi_estimators.contrastive.points import Classes, inverse, prepared
from mi_estimators.ops.info_nce import fused_info_nce, negative_lse
from mi_estimators.ops.pairwise_lse import accumulated, unchecked_pairwise_lse, without_autocast


@dataclass(frozen=True)
class _Pairs:
    """Prepared pairs, and what the anchors of one side or of both are told apart from."""

    x: Tensor
    y: Tensor
    scale: Tensor
    candidates: str  # negatives from the "other" side of the batch or from "both"
    symmetric: bool
    groups: Classes | None
    banks: tuple[Tensor | None, Tensor | None]  # further negatives of the anchors of x, and of y
    in_batch: bool

    @property
    def anchors(self) -> tuple[Tensor, ...]:
        return (self.x, self.y) if self.symmetric else (self.x,)

    def positives(self) -> Tensor:
        return self.scale * (self.x * self.y).sum(dim=1)

    def log_sums(self, factor: float = 1.0) -> list[Tensor]:
        """For the anchors of each side, the log of the sum of e^(factor * score) over their negatives."""
        scale = factor * self.scale
        found: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.in_batch:
            found = negative_lse(
                self.x,
                self.y,
                scale=scale,
                candidates=self.candidates,
                symmetric=self.symmetric,
                groups=None if self.groups is None else self.groups.index,
            )
        result = []
        for anchors, bank, lse in zip(self.anchors, self.banks, found, strict=False):
            parts = [] if lse is None else [lse]
            if bank is not None:
                parts.append(unchecked_pairwise_lse(anchors, bank, scale=scale))
            result.append(parts[0] if len(parts) == 1 else torch.logaddexp(*parts))
        return result

    def _over_batch(self, values: Tensor) -> Tensor:
        """For each pair, the sum of the values of the pairs that are its negatives."""
        if not self.in_batch:
            return torch.zeros_like(values)
        return values.sum(dim=0) - (values if self.groups is None else self.groups.sums(values))

    def counts(self) -> list[Tensor]:
        """For the anchors of each side, how many negatives they have."""
        in_batch = self._over_batch(torch.ones_like(self.x[:, 0]))
        if self.candidates == "both":
            in_batch = 2 * in_batch
        return [in_batch if bank is None else in_batch + len(bank) for bank in self.banks[: len(self.anchors)]]

    def smoothing(self) -> list[Tensor]:
        """For the anchors of each side, the positive's score less the mean over all candidates, the positive too."""
        if self.candidates == "both":  # a sum of scores is the score of a sum of points
            pools = [self._over_batch(self.x + self.y)] * 2
        else:
            pools = [self._over_batch(side) for side in (self.y, self.x)[: len(self.anchors)]]
        positives, result = self.positives(), []
        for anchors, pool, bank, count in zip(self.anchors, pools, self.banks, self.counts(), strict=False):
            total = pool if bank is None else pool + bank.sum(dim=0)
            result.append((count * positives - self.scale * (anchors * total).sum(dim=1)) / (count + 1))
        return result

    def hardened(self, beta: float) -> list[Tensor]:
        """The log sums with each negative weighed by e^(beta * score), the weights of an anchor being 1 on average."""
        return [
            torch.where(count > 0, count.log() + above - below, -math.inf)
            for count, above, below in zip(self.counts(), self.log_sums(1 + beta), self.log_sums(beta), strict=True)
        ]

    def losses(self, decoupled: bool, beta: float) -> list[Tensor]:
        """For the anchors of each side, their losses."""
        negatives = self.hardened(beta) if beta else self.log_sums()
        positives = self.positives()
        return [lse - positives if decoupled else -F.logsigmoid(positives - lse) for lse in negatives]

    def reduced(self, sides: list[Tensor], weights: Tensor | None, reduction: str) -> Tensor:
        """Values of the anchors of each side, per view for NT-Xent and per pair (their mean) for InfoNCE, reduced."""
        if self.candidates == "both":
            values = torch.cat(sides)
            weights = None if weights is None else torch.cat([weights, weights])
        else:
            values = sides[0] if len(sides) == 1 else 0.5 * (sides[0] + sides[1])
        if weights is not None:
            weights = weights.to(values.dtype)
            values = values * weights
            if reduction == "mean":
                return values.sum() / weights.sum()
        if reduction == "mean":
            return values.mean()
        return values.sum() if reduction == "sum" else values


def _contrastive(
    views: dict[str, Tensor],
    *,
    candidates: str,
    symmetric: bool,
    temperature: float | Tensor,
    normalize: bool,
    reduction: str,
    weights: Tensor | None,
    label_smoothing: float,
    decoupled: bool,
    hard_negative_beta: float,
    groups: Tensor | None,
    banks: dict[str, object],
    in_batch: bool = True,
) -> Tensor:
    """What :func:`info_nce` and :func:`nt_xent` share. Views and banks come under the names that errors give them."""
    check_settings(
        temperature=temperature,
        reduction=reduction,
        label_smoothing=label_smoothing,
        decoupled=decoupled,
        hard_negative_beta=hard_negative_beta,
    )
    (x_name, x), (y_name, y) = views.items()
    check_pairs(x_name, x, y_name, y, minimum=1)
    further = [check_bank(name, bank, x) for name, bank in banks.items()]
    if weights is not None:
        check_weights(weights, x, reduction)
    if groups is not None:
        groups = check_ids("groups", groups, x)
    if decoupled and not banks:
        check_negatives_exist(x_name, x, groups)
    # A row that is normalised and not finite is NaN, and so is the loss: it is looked for only then, as a look at all
    # points beforehand costs more than a small loss. Otherwise an infinity may hide in a score of -inf.
    if not normalize:
        for name, points in views.items():
            _checks.finite(name, points)

    with without_autocast(x):
        if x.dtype != y.dtype:  # autocast hands out mixed dtypes
            x, y = accumulated(x, y)
        fused = reduction != "none" and not hard_negative_beta and not banks
        if not fused or label_smoothing:
            x, y = prepared(x, normalize), prepared(y, normalize)
            ready = [prepared(bank.detach().to(x.dtype), normalize) for bank in further]
            pairs = _Pairs(
                x,
                y,
                inverse(temperature, x),
                candidates,
                symmetric,
                groups=None if groups is None else Classes.of(groups),
                banks=(ready[0], ready[-1]) if ready else (None, None),
                in_batch=in_batch,
            )
            normalize = False
        if fused:
            loss = fused_info_nce(
                x,
                y,
                scale=inverse(temperature, x) if isinstance(temperature, Tensor) else 1 / temperature,
                candidates=candidates,
                symmetric=symmetric,
                normalize=normalize,
                decoupled=decoupled,
                weights=weights,
                groups=groups,
                reduction=reduction,
            )
        else:
            loss = pairs.reduced(pairs.losses(decoupled, hard_negative_beta), weights, reduction)
        if label_smoothing:
            loss = loss + label_smoothing * pairs.reduced(pairs.smoothing(), weights, reduction)

    blame_points(loss, views)
    return loss


def info_nce(
    x: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    symmetric: bool = True,
    normalize: bool = True,
    reduction: str = "mean",
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    decoupled: bool = False,
    hard_negative_beta: float = 0.0,
    groups: Tensor | None = None,
    negatives: Tensor | tuple[Tensor, Tensor] | None = None,
    in_batch_negatives: bool = True,
) -> Tensor:
    r"""InfoNCE loss of paired points: each x_i has to pick its y_i out of the batch.

    .. math::
        \ell_i = -\log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j \in N(i)} e^{s_{ij}}}
              = \log \Bigl( 1 + \sum_{j \in N(i)} e^{s_{ij} - s_{ii}} \Bigr),
        \qquad s_{ij} = x_i \cdot y_j / \tau, \quad N(i) = \{ j \ne i \}

    With ``symmetric``, the mean of that and of the same with the roles of x and y exchanged (CLIP's loss), from one
    pass over the pairs. :math:`\log N - \ell` is a lower bound on the mutual information for :math:`N` independent
    pairs, and never exceeds :math:`\log N`. Memory is O(N d); the N x N similarities are not stored. The positive
    stays out of the log-sum-exp, so that a loss near 0 and its gradient keep their digits. Half types, also under
    autocast, give a float32 loss with float32's error, and gradients in their own precision.

    Args:
        x: first view.
        y: second view, row i belonging to row i of ``x``.
        temperature: :math:`\tau > 0`, a number or a one-element tensor, which may require a gradient.
        symmetric: average both directions.
        normalize: scale rows to unit length first, so that products are cosines.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weights: :math:`w_i \ge 0` of the pairs, constants. The loss of a pair is multiplied by its weight, and the
            mean is :math:`\sum_i w_i \ell_i / \sum_i w_i`. A pair of weight 0 remains a negative of the others.
        label_smoothing: :math:`\epsilon \in [0, 1]`, the part of the target that is spread evenly over all
            candidates, the positive too, as in ``torch.nn.functional.cross_entropy``: adds
            :math:`\epsilon (s_{ii} - \operatorname{mean}_j s_{ij})`. Not with ``decoupled`` or
            ``hard_negative_beta``.
        decoupled: leave the positive out of the denominator: :math:`\log \sum_{j \in N(i)} e^{s_{ij} - s_{ii}}`.
        hard_negative_beta: :math:`\beta \ge 0`; each negative counts with a weight in proportion to
            :math:`e^{\beta s_{ij}}`, which is 1 on average over the negatives of an anchor. Costs a second pass.
        groups: integer ids. Pairs of equal id (of one class, one image) are no negatives of each other; the own
            positive stays.
        negatives: further negatives, such as a queue or memory bank: constants (no gradient is formed for them),
            normalised with the views. With ``symmetric=False`` one matrix for the anchors of ``x``; with ``symmetric``
            two, the first for the anchors of ``x`` (beside ``y``), the second for those of ``y`` (beside ``x``).
        in_batch_negatives: ``False`` leaves only ``negatives`` (MoCo's loss).

    Shape:
        - x, y: :math:`(N, d)`; weights, groups: :math:`(N,)`; negatives: :math:`(K, d)`
        - Output: scalar, or :math:`(N,)` with ``reduction="none"``. Nats. float32 for half inputs.

    Raises:
        TypeError, ValueError: not floating-point matrices of one shape, dtype and device; an empty batch; NaN or
            infinite values; ``temperature`` below 1e-30 or NaN; an unknown reduction; weights that are negative, or
            all 0 for a mean; ``decoupled`` where a pair has no negative; settings that exclude each other. Values of
            tensors are looked at as :func:`~mi_estimators.value_checks` says, by default on the CPU only.

    Source: van den Oord et al. (2018), eq. 4; as a bound, arXiv 1907.13625, eq. 4; ``decoupled``: Yeh et al. (2022),
    arXiv 2110.06848, section 3; ``hard_negative_beta``: Robinson et al. (2021), arXiv 2010.04592, section 3, with
    :math:`\tau^+ = 0`; ``negatives``: He et al. (2020), arXiv 1911.05722, eq. 1.

    Example:
        >>> q, k, queue = torch.randn(8, 16), torch.randn(8, 16), torch.randn(64, 16)
        >>> moco = info_nce(q, k, symmetric=False, negatives=queue, in_batch_negatives=False)
    """
    if not in_batch_negatives and (negatives is None or groups is not None):
        got = "none" if negatives is None else "groups, which concern pairs of the batch"
        raise ValueError(
            f"in_batch_negatives: want True, or negatives from elsewhere and no groups, got False and {got}"
        )
    banks: dict[str, object] = {}
    if symmetric and negatives is not None:
        if not isinstance(negatives, (tuple, list)) or len(negatives) != 2:
            raise ValueError(
                "negatives: want two matrices with symmetric=True, for the anchors of x and of y, or symmetric=False, "
                f"got {_checks.describe(negatives)}"
            )
        banks = {"negatives[0]": negatives[0], "negatives[1]": negatives[1]}
    elif negatives is not None:
        banks = {"negatives": negatives}
    return _contrastive(
        {"x": x, "y": y},
        candidates="other",
        symmetric=symmetric,
        temperature=temperature,
        normalize=normalize,
        reduction=reduction,
        weights=weights,
        label_smoothing=label_smoothing,
        decoupled=decoupled,
        hard_negative_beta=hard_negative_beta,
        groups=groups,
        banks=banks,
        in_batch=in_batch_negatives,
    )


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    decoupled: bool = False,
    hard_negative_beta: float = 0.0,
    groups: Tensor | None = None,
    negatives: Tensor | None = None,
) -> Tensor:
    r"""NT-Xent, the loss of SimCLR: among the 2N views, each has to pick its partner, itself left out.

    .. math::
        \ell_i = -\log \frac{e^{z_i \cdot z_{p(i)} / \tau}}{\sum_{k \ne i} e^{z_i \cdot z_k / \tau}},
        \qquad z = [z_1; z_2]

    The 2N x 2N similarities are not stored. The candidates come in dependent pairs (both views of every other sample)
    and include views of the anchor's own role, so :math:`\log(2N-1) - \ell` is no bound on the mutual information, as
    InfoNCE's is.

    Args:
        z1: first view.
        z2: second view, row i belonging to row i of ``z1``.
        temperature: :math:`\tau > 0`, a number or a one-element tensor.
        normalize: scale rows to unit length first.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weights: of the pairs; both views of a pair have its weight. As for :func:`info_nce`.
        label_smoothing: as for :func:`info_nce`.
        decoupled: as for :func:`info_nce`.
        hard_negative_beta: as for :func:`info_nce`.
        groups: integer ids of the pairs, as for :func:`info_nce`.
        negatives: one matrix of further negatives for all views, as for :func:`info_nce`.

    Shape:
        - z1, z2: :math:`(N, d)`; weights, groups: :math:`(N,)`; negatives: :math:`(K, d)`
        - Output: scalar, or :math:`(2N,)` with ``reduction="none"``, the views of ``z1`` first. Nats. float32 for half
          inputs.

    Raises:
        TypeError, ValueError: as :func:`info_nce`.

    Source: Chen et al. (2020), eq. 1; arXiv 2307.10907, section 4, on what it means for mutual information; for the
    options, see :func:`info_nce`.
    """
    return _contrastive(
        {"z1": z1, "z2": z2},
        candidates="both",
        symmetric=True,
        temperature=temperature,
        normalize=normalize,
        reduction=reduction,
        weights=weights,
        label_smoothing=label_smoothing,
        decoupled=decoupled,
        hard_negative_beta=hard_negative_beta,
        groups=groups,
        banks={} if negatives is None else {"negatives": negatives},
    )
