"""The ER bound as a loss module."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mi_estimators import _checks, er, joined
from mi_estimators.distributed import average_gradient
from mi_estimators.er import Bandwidth, ERBound, QBandwidth
from mi_estimators.losses.base import Loss
from mi_estimators.memory_bank import MemoryBank, bank_of_size


def _default_bandwidth(support: str) -> Bandwidth:
    return "loo" if support == "euclidean" else 10.0


class EntropyReconstruction(Loss):
    r"""Negative ER bound, :math:`-(w_r\, \mathbb E \log q(z_2 \mid z_1) + w_h H(Z_2))`.

    The bound, and most options, are those of :func:`~mi_estimators.er_bound`. With ``symmetric`` the mean of both
    directions, so that the entropy of either view is raised. Weights other than 1 give a training loss that is no
    longer the negative of a bound.

    The terms of the last call, detached, are kept in ``last`` for a log. The first time that an estimate sits at its
    ceiling the module warns, once: looked at in each call on the CPU, elsewhere in calls 1, 2, 4, 8 and so on, as a
    look waits for the device.

    Args:
        support: ``"sphere"`` (SimCLR, BYOL), ``"euclidean"`` or ``"discrete"`` (DINO, clustering).
        kernel: of the entropy on the Euclidean support.
        bandwidth: of kernel and reconstruction. ``"loo"`` chooses it for every batch. ``None`` is 10 on the sphere, the
            paper's concentration, and ``"loo"`` in space, where no number suits all scales. A ``BandwidthState``
            becomes part of this module's state.
        reconstruction_bandwidth: of q alone; ``"shared"`` for the number that a rule chose for the entropy.
        learnable_bandwidth: learn the bandwidth of q, from ``reconstruction_bandwidth`` or else ``bandwidth``, which
            has to be a number; its logarithm is the parameter ``log_bandwidth``. That of the entropy is not learned:
            a gradient that raises the estimate there would only make it worse.
        entropy_of: ``"second"``, ``"first"`` (where the second view gets no gradient, as from a teacher) or ``"both"``.
        entropy_weight: :math:`w_h \ge 0`.
        reconstruction_weight: :math:`w_r \ge 0`.
        symmetric: average both directions. The predictor then serves both. With a teacher, whose views are not those
            of the student, call the loss for each direction instead.
        stop_gradient: whether what is predicted gets no gradient from the reconstruction.
        predictor: applied to what predicts: the mean of q is its output.
        queue: number of past points that the entropy is estimated from as well, or that and the width of a row; 0 for
            none. It takes in points after each call, in training mode and where one of the views requires a gradient.
            They lag behind the encoder, the more the longer the queue is.
        gather_distributed: the bound of the points of all processes; gradients averaged by DistributedDataParallel are
            its gradients.
        leave_one_out: leave each point out of its own density. The paper's code does not.
        reduction: this and the following are options of :func:`~mi_estimators.er_bound`.
        normalizer: as there.
        normalize: as there.
        logits: as there.

    Shape:
        - Input: :math:`(K, d)`, :math:`(K, d)`, :math:`K \ge 2`; Output: scalar.

    Raises:
        TypeError, ValueError: bad settings, here; bad inputs, at the call.

    Source: arXiv 2307.10907, eq. 3, and section 4 for what each method maximises.
    """

    last: ERBound | None
    bandwidth: Bandwidth
    log_bandwidth: nn.Parameter
    predictor: nn.Module | None

    def __init__(
        self,
        support: str = "sphere",
        *,
        kernel: str | None = None,
        bandwidth: Bandwidth | None = None,
        reconstruction_bandwidth: QBandwidth = None,
        learnable_bandwidth: bool = False,
        entropy_of: str = "second",
        entropy_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        symmetric: bool = True,
        stop_gradient: bool = False,
        predictor: nn.Module | None = None,
        queue: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        leave_one_out: bool = True,
        reduction: str = "joe",
        normalizer: str = "exact",
        normalize: bool = True,
        logits: bool = False,
    ) -> None:
        super().__init__()
        if bandwidth is None:
            bandwidth = _default_bandwidth(support)
        er.check_settings(
            support=support,
            kernel=kernel,
            bandwidth=bandwidth,
            reconstruction_bandwidth=reconstruction_bandwidth,
            entropy_of=entropy_of,
            reduction=reduction,
            normalizer=normalizer,
            logits=logits,
        )
        for name, weight in (("entropy_weight", entropy_weight), ("reconstruction_weight", reconstruction_weight)):
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise TypeError(f"{name}: want a number, got {_checks.describe(weight)}")
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}: want a finite number >= 0, got {weight!r}")
        if predictor is not None and not isinstance(predictor, nn.Module):
            raise TypeError(f"predictor: want an nn.Module or None, got {_checks.describe(predictor)}")
        self.support = support
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.reconstruction_bandwidth = reconstruction_bandwidth
        self.learnable_bandwidth = learnable_bandwidth
        self.entropy_of = entropy_of
        self.entropy_weight = entropy_weight
        self.reconstruction_weight = reconstruction_weight
        self.symmetric = symmetric
        self.stop_gradient = stop_gradient
        self.predictor = predictor
        self.queue = queue
        self.gather_distributed = gather_distributed
        self.leave_one_out = leave_one_out
        self.reduction = reduction
        self.normalizer = normalizer
        self.normalize = normalize
        self.logits = logits
        if learnable_bandwidth:
            first = bandwidth if reconstruction_bandwidth is None else reconstruction_bandwidth
            if support == "discrete" or not isinstance(first, (int, float)):
                raise TypeError(f"learnable_bandwidth: want a bandwidth that is a number to start from, got {first!r}")
            self.log_bandwidth = nn.Parameter(torch.tensor(math.log(first)))
        held: dict[str, Any] = {"normalize": support == "sphere" and normalize, "start": "empty"}
        held["gather_distributed"] = gather_distributed
        of_first, of_second = (symmetric or entropy_of in (view, "both") for view in ("first", "second"))
        self.past_first = bank_of_size("queue", queue if of_first else 0, **held)
        self.past_second = bank_of_size("queue", queue if of_second else 0, **held)
        self.last = None
        self._calls = 0
        self._warned = False

    def terms(self, z1: Tensor, z2: Tensor) -> ERBound:
        """The bound and its two terms; with ``symmetric``, each the mean over both directions. The queue stays."""
        past1, past2 = self._held(self.past_first, z1), self._held(self.past_second, z2)
        there = self._direction(z1, z2, past1, past2)
        if not self.symmetric:
            return there
        back = self._direction(z2, z1, past2, past1)
        width, other = there.q_bandwidth, back.q_bandwidth
        return ERBound(
            value=(there.value + back.value) / 2,
            entropy=(there.entropy + back.entropy) / 2,
            reconstruction=(there.reconstruction + back.reconstruction) / 2,
            cap=None if there.cap is None or back.cap is None else (there.cap + back.cap) / 2,
            ceiling=there.ceiling,
            saturated=there.saturated | back.saturated,
            q_bandwidth=None if width is None or other is None else (width + other) / 2,
        )

    def _default(self, name: str, declared: object) -> object:
        return _default_bandwidth(self.support) if name == "bandwidth" else declared

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The negative weighted bound of the pairs (z1_i, z2_i)."""
        bound = self.terms(z1, z2)
        self.last = bound.detach()
        self._warn_at_the_ceiling(self.last)
        if self.training and torch.is_grad_enabled() and (z1.requires_grad or z2.requires_grad):
            for bank, z in ((self.past_first, z1), (self.past_second, z2)):
                if bank is not None:
                    bank.update(self._as_held(z))
        return -(self.reconstruction_weight * bound.reconstruction + self.entropy_weight * bound.entropy)

    def _direction(self, z1: Tensor, z2: Tensor, past1: Tensor | None, past2: Tensor | None) -> ERBound:
        reconstruction_bandwidth = self.reconstruction_bandwidth
        if self.learnable_bandwidth:
            learned = self.log_bandwidth.exp()
            reconstruction_bandwidth = average_gradient(learned) if self.gather_distributed else learned
        options: dict[str, Any] = {
            "support": self.support,
            "kernel": self.kernel,
            "bandwidth": self.bandwidth,
            "reconstruction_bandwidth": reconstruction_bandwidth,
            "entropy_of": self.entropy_of,
            "prediction": None if self.predictor is None else self.predictor(z1),
            "stop_gradient": self.stop_gradient,
            "queue": (past1, past2),
            "leave_one_out": self.leave_one_out,
            "reduction": self.reduction,
            "normalizer": self.normalizer,
            "normalize": self.normalize,
            "logits": self.logits,
        }
        return (joined if self.gather_distributed else er).er_bound(z1, z2, **options)

    def _held(self, bank: MemoryBank | None, z: Tensor) -> Tensor | None:
        """The past points of a view, if there are any."""
        held = None if bank is None else bank(self._as_held(z), update=False)
        return None if held is None or len(held) == 0 else held

    def _as_held(self, z: Tensor) -> Tensor:
        return z.detach().softmax(dim=1) if self.logits else z.detach()

    def _warn_at_the_ceiling(self, bound: ERBound) -> None:
        if self._warned or torch.compiler.is_compiling():
            return
        self._calls += 1
        looked_at = _checks.at_hand(bound.saturated) or self._calls & (self._calls - 1) == 0
        if not looked_at or not bool(bound.saturated):
            return
        self._warned = True
        warnings.warn(
            f"the ER estimate {float(bound.value):.2f} (entropy {float(bound.entropy):.2f}, reconstruction "
            f"{float(bound.reconstruction):.2f}) sits at or beyond its ceiling of {bound.ceiling:.2f} nats, log K for "
            "the K points, or classes, that the entropy is estimated from: the value says no more than that. A larger "
            "batch, a queue or gather_distributed raise the ceiling; a wider kernel (smaller kappa, larger h) lets the "
            "estimate move below it. This is said once.",
            stacklevel=5,  # forward, and torch's two frames around it
        )
