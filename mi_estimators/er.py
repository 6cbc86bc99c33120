r"""The entropy-reconstruction (ER) bound on mutual information.

.. math::
    I(Z_1; Z_2) \ge H(Z_2) + \mathbb E \log q(z_2 \mid z_1)

for any conditional density q; the gap is the mean KL divergence of q from the true conditional.
Source: arXiv 2307.10907, section 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.contrastive import check_views
from mi_estimators.contrastive.checks import check_bank, check_pairs
from mi_estimators.entropy.bandwidth import RULES, BandwidthState
from mi_estimators.entropy.bandwidth.pairs import no_narrower_than_pairs
from mi_estimators.entropy.discrete import check_probabilities
from mi_estimators.entropy.kde import NORMALIZERS, REDUCTIONS, check_state, kde_log_density, resolve_bandwidth
from mi_estimators.entropy.kernels import KERNELS
from mi_estimators.entropy.vmf import log_vmf_normalizer, vmf_concentration
from mi_estimators.ops.pairwise_lse import accumulated, without_autocast

SUPPORTS = ("sphere", "euclidean", "discrete")
ENTROPIES = ("second", "first", "both")
KERNEL_OF = {"sphere": "vmf", "euclidean": "gaussian"}

Bandwidth: TypeAlias = float | Tensor | str | Callable[[Tensor], float | Tensor]
QBandwidth: TypeAlias = float | Tensor | str | None
SHARED = "shared"

_AT_CEILING = 0.02  # nats that count as none, as a share of the ceiling


@dataclass(frozen=True)
class ERBound:
    r"""An ER bound and its two terms, in nats; the tensors carry gradients.

    Attributes:
        value: entropy + reconstruction, a lower bound on I(Z1; Z2) up to the error of the entropy estimate.
        entropy: estimate of H(Z2), or as ``entropy_of`` says.
        reconstruction: mean of log q(z2 | z1).
        cap: the largest value that any points can give at these bandwidths, or None where there is none. With the
            self term counted it is log K on the sphere with one concentration for both terms, and the logarithm of the
            ratio of the two densities at their peaks more elsewhere. For the discrete support it is the logarithm of
            the number of classes or of K, whichever is less. Leaving the self term out removes the cap.
        ceiling: log K, with K the points that the entropy is estimated from: the batch, of all processes, and the
            queue; for the discrete support not more than the logarithm of the number of classes. What K pairs can
            certify without assumptions about the densities, whether or not the estimate can exceed it: beyond the
            ceiling it says that K is too small, and no more.
        saturated: whether the estimate sits at the ceiling (a bool without dimensions): the value is at or beyond it
            but for 2 %, or, with the self term counted, the entropy is that far below what K points none of which
            sees another would give.
        q_bandwidth: :math:`\kappa` or :math:`\sigma` of q, as given, chosen or fitted; None for the discrete support.
    """

    value: Tensor
    entropy: Tensor
    reconstruction: Tensor
    cap: float | None
    ceiling: float
    saturated: Tensor
    q_bandwidth: float | Tensor | None = None

    def detach(self) -> ERBound:
        """The same without gradients, as for a log."""
        terms = (self.value.detach(), self.entropy.detach(), self.reconstruction.detach())
        width = self.q_bandwidth.detach() if isinstance(self.q_bandwidth, Tensor) else self.q_bandwidth
        return ERBound(*terms, self.cap, self.ceiling, self.saturated, width)


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch are: all here, or on other processes as well (see :mod:`mi_estimators.joined`).

    Attributes:
        elsewhere: of the rows here, those that are not here, or None.
        joined: of values for the rows here, those of all rows.
    """

    elsewhere: Callable[[Tensor], Tensor | None] = lambda rows: None
    joined: Callable[[Tensor], Tensor] = lambda values: values


HERE = Rows()


def er_bound(
    z1: Tensor,
    z2: Tensor,
    *,
    support: str = "sphere",
    kernel: str | None = None,
    bandwidth: Bandwidth = "loo",
    reconstruction_bandwidth: QBandwidth = None,
    entropy_of: str = "second",
    prediction: Tensor | None = None,
    stop_gradient: bool = False,
    queue: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    leave_one_out: bool = True,
    reduction: str = "joe",
    normalizer: str = "exact",
    normalize: bool = True,
    logits: bool = False,
    rows: Rows = HERE,
) -> ERBound:
    r"""Entropy-reconstruction bound :math:`I(Z_1; Z_2) \ge H(Z_2) + \mathbb E \log q(z_2 \mid z_1)` of paired points.

    ======================  ==========================================  =============================================
    support                 :math:`H(Z_2)`                              :math:`q(z_2 \mid z_1)`
    ======================  ==========================================  =============================================
    ``"sphere"``            von Mises-Fisher KDE                        :math:`C_d(\kappa) e^{\kappa z_1 \cdot z_2}`
    ``"euclidean"``         Gaussian KDE, or another ``kernel``         :math:`\mathcal N(z_2; z_1, \sigma^2 I)`
    ``"discrete"``          entropy of the mean of the rows of z2       :math:`\prod_k z_{1k}^{z_{2k}}` (categorical)
    ======================  ==========================================  =============================================

    All densities are normalised exactly, so the value is in nats and can be compared with other bounds.

    **Whose entropy.** The sphere's and the Euclidean q is the same function of either point given the other, so that
    :math:`H(Z_1)` in place of :math:`H(Z_2)` gives a bound too, and so does the mean of the two. With a ``prediction``
    or the discrete support :math:`H(Z_1)` is a stand-in for :math:`H(Z_2)`, which is what distillation needs: there
    z2 comes from a teacher that gets no gradient, and the entropies of student and teacher agree as the one follows
    the other.

    Args:
        z1: what predicts: unit vectors, points, or rows of probabilities, by ``support``.
        z2: what is predicted, row i belonging to row i of ``z1``.
        support: ``"sphere"``, ``"euclidean"`` or ``"discrete"``.
        kernel: of the entropy on the Euclidean support, a name in :data:`~mi_estimators.entropy.kernels.KERNELS`;
            ``None`` takes the Gaussian.
        bandwidth: of the entropy's kernel: a number, a tensor, a rule, or a function of the points such as a
            ``BandwidthState`` (see :func:`~mi_estimators.entropy.kde_log_density`). The concentration :math:`\kappa`
            on the sphere. Rules and functions see all points that the entropy is estimated from.
        reconstruction_bandwidth: :math:`\kappa` or :math:`\sigma` of q. ``None`` takes ``bandwidth`` where that is a
            number or a tensor (no matrix) with one element, of q's own kernel (as the paper does), else the
            maximum-likelihood value, which makes the bound tightest. ``"shared"`` gives q the number that
            ``bandwidth`` is or chooses (of two entropies, the geometric mean). A chosen one is widened, for both
            terms, until the pairs are as close as what the kernel takes for neighbours, where the bound is largest:
            narrower ones would raise the bound by drawing all points together.
        entropy_of: ``"second"``, ``"first"`` or ``"both"`` (the mean).
        prediction: the mean of q, a function of z1 such as a predictor's output; ``None`` for z1 itself.
        stop_gradient: whether z2 gets no gradient from the reconstruction. From the entropy it does.
        queue: further points that the entropy is estimated from, such as past embeddings, without a gradient; or a
            pair of them, for the first and the second view. Without it, the points of the batch alone.
        leave_one_out, normalizer: of the entropy estimate, see :func:`~mi_estimators.entropy.kde_entropy`.
        reduction: ``"joe"`` or ``"plug_in"``, as there.
        normalize: with ``"sphere"``, scale rows to unit length first.
        logits: with ``"discrete"``, rows are logits (of the queue: probabilities). Their log-softmax keeps the
            gradient where a probability is too small to be held.
        rows: where the rows of the batch are, if not all here; :func:`mi_estimators.joined.er_bound` sets it.

    Shape:
        - z1, z2, prediction: :math:`(K, d)`, :math:`K \ge 2`, queue: :math:`(Q, d)`; Output: an :class:`ERBound` of
          scalars. Nats.

    Raises:
        TypeError, ValueError: not floating-point matrices of one shape, dtype and device; fewer than two pairs; NaN or
            infinite values; a bandwidth <= 0; rows that are no probabilities, or on the sphere not of length 1 (with
            ``normalize``: zero); an unknown support, kernel, rule or reduction.

    Source: arXiv 2307.10907, eq. 3 and section 3.
    """
    kernel = check_settings(
        support=support,
        kernel=kernel,
        bandwidth=bandwidth,
        reconstruction_bandwidth=reconstruction_bandwidth,
        entropy_of=entropy_of,
        reduction=reduction,
        normalizer=normalizer,
        logits=logits,
    )
    check_views("z1", z1, "z2", z2, minimum=2 if rows is HERE else 1)
    views = {"z1": z1, "z2": z2}
    if prediction is not None:
        check_pairs("z1", z1, "prediction", prediction, minimum=1)
        _checks.finite("prediction", prediction)
        views["prediction"] = prediction
    for name, z in views.items():
        _check_points(name, z, support, normalize, logits)
    of_both = _of_both_views(queue)
    wanted = [name for name, view in (("z1", "first"), ("z2", "second")) if entropy_of in (view, "both")]
    past = {name: entries for name, entries in zip(("z1", "z2"), of_both, strict=True) if entries is not None}
    past = {name: check_bank("queue", entries, z1).detach() for name, entries in past.items() if name in wanted}
    for entries in past.values():
        _check_points("queue", entries, support, normalize, logits=False)
    with without_autocast(z1):
        points = dict(zip(views, accumulated(*views.values()), strict=True))
        past = {name: entries.to(points["z1"].dtype) for name, entries in past.items()}
        if support == "sphere" and normalize:
            points, past = (
                {name: F.normalize(z, dim=1) for name, z in views_of.items()} for views_of in (points, past)
            )
            for name, z in points.items():  # a row of zeros is one still
                _checks.unit_rows(name, z)
        target = points["z2"].detach() if stop_gradient else points["z2"]
        mean_of_q = points.get("prediction", points["z1"])
        entropies_of = [(points[name], past.get(name)) for name in wanted]
        if kernel is None:
            return _discrete(rows, mean_of_q, target, entropies_of, logits, cap=wanted == ["z2"] and not past)
        given = reconstruction_bandwidth
        if given is None and kernel in KERNEL_OF.values() and _is_one_number(bandwidth):
            given = bandwidth  # type: ignore[assignment]
        estimate = _Estimate(kernel, bandwidth, leave_one_out, normalizer, reduction)
        return _continuous(rows, mean_of_q, target, entropies_of, support, given, estimate)


# ------------------------------------------------------------------------------------------------------------ checks


def check_settings(
    *,
    support: str,
    kernel: str | None,
    bandwidth: Bandwidth,
    reconstruction_bandwidth: QBandwidth,
    entropy_of: str,
    reduction: str,
    normalizer: str,
    logits: bool,
) -> str | None:
    """Check what does not depend on a batch; returns the name of the entropy's kernel, None for the discrete one."""
    _checks.choice("support", support, SUPPORTS)
    _checks.choice("entropy_of", entropy_of, ENTROPIES)
    _checks.choice("reduction", reduction, [name for name in REDUCTIONS if name != "split"])
    _checks.choice("normalizer", normalizer, NORMALIZERS)
    if normalizer == "apple" and support != "sphere":
        raise ValueError(f"normalizer: 'apple' belongs to support 'sphere', got support {support!r}")
    if logits and support != "discrete":
        raise ValueError(f"logits: want support 'discrete' with logits, got {support!r}")
    if support == "discrete":
        if kernel is not None:
            raise ValueError(f"kernel: want None with support 'discrete', which has no density, got {kernel!r}")
        return None
    kernel = KERNEL_OF[support] if kernel is None else kernel
    _checks.choice("kernel", kernel, ["vmf"] if support == "sphere" else [name for name in KERNELS if name != "vmf"])
    if isinstance(bandwidth, str):
        _checks.choice("bandwidth", bandwidth, RULES.get(kernel, ()))
    elif isinstance(bandwidth, BandwidthState):
        check_state(bandwidth, kernel)
    elif isinstance(bandwidth, Tensor) and bandwidth.numel() > 1:
        _checks.finite("bandwidth", bandwidth)
    elif isinstance(bandwidth, Tensor) or not callable(bandwidth):
        _checks.positive("bandwidth", bandwidth)
    name = "reconstruction_bandwidth"
    if isinstance(reconstruction_bandwidth, str):
        _checks.choice(name, reconstruction_bandwidth, (SHARED,))
        if kernel not in KERNEL_OF.values():
            raise ValueError(
                f"{name}: want a number or None with kernel {kernel!r}, which is not that of q, got 'shared'"
            )
        if isinstance(bandwidth, str) and RULES[kernel][bandwidth].form != "number":
            raise ValueError(
                f"{name}: want a number or None with rule {bandwidth!r}, which gives several, got 'shared'"
            )
    elif reconstruction_bandwidth is not None:
        _checks.positive(name, reconstruction_bandwidth)
        if isinstance(reconstruction_bandwidth, Tensor) and reconstruction_bandwidth.numel() != 1:
            described = _checks.describe(reconstruction_bandwidth)
            raise ValueError(f"{name}: want a number or a tensor with one element, got {described}")
    return kernel


def _check_points(name: str, z: Tensor, support: str, normalize: bool, logits: bool) -> None:
    if support == "discrete":
        if not logits:
            check_probabilities(name, z)
    elif support == "sphere":
        if z.shape[1] < 2:
            raise ValueError(f"{name}: want at least 2 dimensions on the sphere, got {_checks.describe(z)}")
        if not normalize:
            _checks.unit_rows(name, z)


def _of_both_views(queue: Tensor | tuple[Tensor | None, Tensor | None] | None) -> tuple[Tensor | None, Tensor | None]:
    if isinstance(queue, tuple):
        if len(queue) != 2:
            raise ValueError(f"queue: want a tensor or a pair of them, got {len(queue)}")
        return queue
    return queue, queue


# ------------------------------------------------------------------------------------------------------------- terms


def _discrete(
    rows: Rows,
    mean_of_q: Tensor,
    target: Tensor,
    entropies_of: list[tuple[Tensor, Tensor | None]],
    logits: bool,
    cap: bool,
) -> ERBound:
    if logits:
        likelihood = (target.softmax(dim=1) * mean_of_q.log_softmax(dim=1)).sum(dim=1)
    else:
        # Smallest normal number, not an epsilon: a class that z1 rules out costs what it should, but not NaN.
        likelihood = (target * torch.log(mean_of_q.clamp_min(torch.finfo(target.dtype).tiny))).sum(dim=1)
    reconstruction = rows.joined(likelihood).mean()
    entropies = []
    for z, past in entropies_of:
        probabilities = z.softmax(dim=1) if logits else z
        parts = rows.joined(probabilities.mean(dim=0, keepdim=True))  # one row a process
        mean, count = parts.mean(dim=0), len(parts) * len(z)
        if past is not None:
            mean, count = (count * mean + past.sum(dim=0)) / (count + len(past)), count + len(past)
        entropies.append(torch.special.entr(mean).sum())
    entropy = torch.stack(entropies).mean()
    value, classes = entropy + reconstruction, target.shape[1]
    ceiling = math.log(min(count, classes))
    # H(mean of the rows) less their mean entropy is at most log K, and the reconstruction is at most minus the latter.
    highest = ceiling if cap else math.log(classes)
    return ERBound(value, entropy, reconstruction, highest, ceiling, value.detach() >= (1 - _AT_CEILING) * ceiling)


def _continuous(
    rows: Rows,
    mean_of_q: Tensor,
    target: Tensor,
    entropies_of: list[tuple[Tensor, Tensor | None]],
    support: str,
    q_bandwidth: QBandwidth,
    estimate: _Estimate,
) -> ERBound:
    # All that q needs to know of a pair: its cosine, or its squared distance.
    on_sphere = support == "sphere"
    closeness = (mean_of_q * target).sum(dim=1) if on_sphere else (mean_of_q - target).square().sum(dim=1)
    columns, highest, counts, chosen = [closeness], [], [], []
    mean_square = None
    if isinstance(q_bandwidth, str) and not _is_one_number(estimate.bandwidth):
        mean_closeness = float(rows.joined(closeness.detach()[:, None]).mean())
        mean_square = 2 - 2 * mean_closeness if on_sphere else mean_closeness
    for z, past in entropies_of:
        others = [part for part in (rows.elsewhere(z), past) if part is not None]
        log_density, highest_entropy, count, bandwidth = estimate.log_density(z, others, mean_square)
        columns.append(log_density)
        highest.append(highest_entropy)
        counts.append(count)
        chosen.append(bandwidth)
    same_peaks = q_bandwidth is estimate.bandwidth
    if isinstance(q_bandwidth, str):
        q_bandwidth, same_peaks = _shared(chosen), len(chosen) == 1
    closeness, *log_densities = rows.joined(torch.stack(columns, dim=1)).unbind(dim=1)
    density = _on_sphere if on_sphere else _in_space
    reconstruction, log_peak, q_bandwidth = density(closeness.mean(), target.shape[1], q_bandwidth)
    entropy = torch.stack([estimate.reduced(log_density) for log_density in log_densities]).mean()
    value, ceiling, cap = entropy + reconstruction, math.log(max(counts)), None
    saturated = value.detach() >= (1 - _AT_CEILING) * ceiling
    limits = [limit for limit in highest if limit is not None]
    if len(limits) == len(highest):
        limit = torch.stack(limits).mean()
        saturated = saturated | (entropy.detach() >= limit - _AT_CEILING * ceiling)
        if same_peaks and estimate.normalizer == "exact":
            cap = ceiling  # the peaks cancel
        elif _checks.at_hand(value):
            cap = float(limit + log_peak)
    return ERBound(value, entropy, reconstruction, cap, ceiling, saturated, q_bandwidth)


@dataclass(frozen=True)
class _Estimate:
    """How an entropy is estimated."""

    kernel: str
    bandwidth: Bandwidth
    leave_one_out: bool
    normalizer: str
    reduction: str

    def log_density(
        self, z: Tensor, others: list[Tensor], of_pairs: float | None
    ) -> tuple[Tensor, Tensor | None, int, float | Tensor]:
        """Log-density at each point among all, the largest entropy it allows if any, number of all, and bandwidth.

        The kernel is no narrower than pairs at the mean squared distance ``of_pairs`` allow, if that is given.

        The density of a union of sets of points is the mean of theirs. So each is asked for alone, and the set that
        holds the query points itself can leave each of them out, and visit each pair of them once.
        """
        common: dict[str, Any] = {"kernel": self.kernel, "normalizer": self.normalizer}
        n, count = len(z), len(z) + sum(map(len, others))
        everything = torch.cat([z, *others]).detach() if others else z.detach()
        bandwidth = resolve_bandwidth(self.bandwidth, everything, self.kernel)
        if of_pairs is not None:
            bandwidth = no_narrower_than_pairs(everything, of_pairs, self.kernel, float(_one_number(bandwidth)))
        parts = [bandwidth] * (1 + len(others))
        if isinstance(bandwidth, Tensor) and bandwidth.shape == (count, 1):  # one for each point
            parts = list(bandwidth.split([n, *map(len, others)]))
        sums = []
        for points, part in zip([None, *others], parts, strict=True):
            size = (n - 1 if self.leave_one_out else n) if points is None else len(points)
            if size:
                alone = kde_log_density(z, points, bandwidth=part, leave_one_out=self.leave_one_out, **common)
                sums.append(alone + math.log(size))
        log_density = functools.reduce(_log_of_sum, sums) - math.log(count - 1 if self.leave_one_out else count)
        if self.leave_one_out:
            return log_density, None, count, bandwidth
        # A density that counts the point itself is at least a K-th of the kernel's peak there.
        at = z[:1].detach()
        peak = kde_log_density(at, at, bandwidth=_least_peaked(parts[0], self.kernel), **common)[0]
        return log_density, math.log(count) - peak.detach(), count, bandwidth

    def reduced(self, log_density: Tensor) -> Tensor:
        """The entropy of a sample whose log-densities these are."""
        weights = torch.softmax(log_density, dim=0) if self.reduction == "plug_in" else 1 / len(log_density)
        return -(weights * log_density).sum()


def _log_of_sum(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b); where both terms are 0, as far from all points of compact kernels, -inf with the gradient 0."""
    nothing = (a == -math.inf) & (b == -math.inf)
    return torch.logaddexp(a.masked_fill(nothing, 0), b.masked_fill(nothing, 0)).masked_fill(nothing, -math.inf)


def _least_peaked(bandwidth: float | Tensor, kernel: str) -> float | Tensor:
    """Of bandwidths for each point, the one whose kernel has the lowest peak."""
    if isinstance(bandwidth, Tensor) and bandwidth.ndim == 2 and bandwidth.shape[1] == 1:
        return bandwidth.min() if kernel == "vmf" else bandwidth.max()
    return bandwidth


def _shared(chosen: list[float | Tensor]) -> float | Tensor:
    """The bandwidth of q that the entropies share with it: theirs, or of two the geometric mean."""
    first, *rest = [_one_number(bandwidth) for bandwidth in chosen]
    return (first * rest[0]) ** 0.5 if rest else first


def _one_number(bandwidth: float | Tensor) -> float | Tensor:
    if not _is_one_number(bandwidth):
        described = _checks.describe(bandwidth)
        raise ValueError(f"reconstruction_bandwidth: want a bandwidth of one number to share, got {described}")
    return bandwidth


def _is_one_number(bandwidth: Bandwidth) -> bool:
    if isinstance(bandwidth, Tensor):
        return bandwidth.numel() == 1 and bandwidth.ndim < 2  # a matrix is a covariance: a square
    return isinstance(bandwidth, (int, float))


def _parameter(value: float | Tensor, like: Tensor) -> float | Tensor:
    if isinstance(value, Tensor):
        return value.to(like.device).reshape(())
    if torch.compiler.is_compiling():
        # A number that changes from call to call is a symbol there, which math.log does not take.
        return torch.full((), value, dtype=torch.float64, device=like.device)
    return value


def _on_sphere(cosine: Tensor, dim: int, kappa: float | Tensor | None) -> tuple[Tensor, float | Tensor, float | Tensor]:
    """Mean log-density of von Mises-Fisher, its largest value, and its concentration."""
    kappa = vmf_concentration(dim, float(cosine.detach())) if kappa is None else _parameter(kappa, cosine)
    constant = log_vmf_normalizer(dim, kappa)
    peak = kappa + constant
    return (kappa * cosine + constant).to(cosine.dtype), peak.detach() if isinstance(peak, Tensor) else peak, kappa


def _in_space(squared: Tensor, dim: int, sigma: float | Tensor | None) -> tuple[Tensor, float | Tensor, float | Tensor]:
    """Mean log-density of the isotropic normal, its largest value, and its standard deviation."""
    if sigma is None:
        variance: float | Tensor = (squared.detach() / dim).clamp_min(torch.finfo(squared.dtype).tiny)
    else:
        variance = _parameter(sigma, squared) ** 2
    log_variance = torch.log(variance) if isinstance(variance, Tensor) else math.log(variance)
    peak = -dim / 2 * (math.log(2 * math.pi) + log_variance)
    log_density = (peak - squared / (2 * variance)).to(squared.dtype)
    return log_density, peak.detach() if isinstance(peak, Tensor) else peak, variance**0.5
