"""Kernel density estimates of log-density and entropy, differentiable in both roles of every point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.bandwidth import RULES, BandwidthState
from mi_estimators.entropy.forms import Bandwidth, Sum, kernel_sum
from mi_estimators.entropy.kernels import KERNELS, Kernel
from mi_estimators.ops.pairwise_lse import accumulated, accumulation_dtype, without_autocast

NORMALIZERS = ("exact", "apple")
REDUCTIONS = ("joe", "plug_in", "split")

BandwidthChoice: TypeAlias = float | Tensor | str | Callable[[Tensor], Bandwidth]
"""A bandwidth, or what chooses one for points: a rule's name, or a function."""


def resolve_bandwidth(
    bandwidth: BandwidthChoice, points: Tensor, kernel: str, weights: Tensor | None = None
) -> Bandwidth:
    """The bandwidth for support points: as given, or as the named rule or the function chooses."""
    if isinstance(bandwidth, str):
        return RULES[kernel][bandwidth](points, weights=weights)
    if isinstance(bandwidth, BandwidthState):
        return bandwidth(points, weights=weights)
    if callable(bandwidth) and not isinstance(bandwidth, Tensor):
        return bandwidth(points)
    return bandwidth


def check_state(state: BandwidthState, kernel: str) -> None:
    """Check that a state chooses for the kernel: a Gaussian's width is no concentration."""
    if state.kernel != kernel:
        raise ValueError(f"bandwidth: want a BandwidthState for kernel {kernel!r}, got one for {state.kernel!r}")


def check_choice(bandwidth: BandwidthChoice, kernel: str) -> None:
    """Check what can be checked before a rule has run."""
    if isinstance(bandwidth, str):
        _checks.choice("bandwidth", bandwidth, RULES.get(kernel, ()))
    elif isinstance(bandwidth, BandwidthState):
        check_state(bandwidth, kernel)
    elif not isinstance(bandwidth, (int, float, Tensor)) and not callable(bandwidth):
        raise TypeError(
            "bandwidth: want a number, a tensor, the name of a rule or a function of the points, got "
            f"{_checks.describe(bandwidth)}"
        )


def check_weights(weights: Tensor, count: int, like: Tensor, *, left_out: bool, name: str = "weights") -> None:
    """Check for one weight >= 0 per support point, and enough positive ones for one to be left out."""
    _checks.floating(name, weights, ndim=1)
    if weights.shape[0] != count:
        raise ValueError(f"{name}: want one per support point ({count}), got {_checks.describe(weights)}")
    if weights.device != like.device:
        raise ValueError(f"{name}: want the device of the points ({like.device}), got {_checks.describe(weights)}")
    _checks.finite(name, weights)
    if not _checks.concrete(weights):
        return
    if bool((weights < 0).any()):
        raise ValueError(f"{name}: want values >= 0, got {int((weights < 0).sum())} negative ones")
    if not math.isfinite(float(weights.detach().to(torch.float64).sum())):
        raise ValueError(f"{name}: want a sum that float64 can hold, got an infinite one")
    wanted, found = 2 if left_out else 1, int((weights > 0).sum())
    if found < wanted:
        raise ValueError(f"{name}: want at least {wanted} positive{' to leave one out' * left_out}, got {found}")


def of_sum_one(weights: Tensor) -> Tensor:
    """The weights in float64 over their sum, which is held: beside logarithms near 0 none of a density is rounded."""
    wide = weights.to(torch.float64)
    return wide / wide.detach().sum()


def _log_weights(weights: Tensor) -> Tensor:
    """Logarithms; -inf, without a gradient, where the weight is 0."""
    used = weights > 0
    return torch.where(used, torch.where(used, weights, 1.0).log(), -math.inf)


def log_total_of_others(weights: Tensor) -> Tensor:
    """log of the sum of the weights but for one's own, by sums from both ends: nothing cancels."""
    zero = weights.new_zeros(1)
    before = torch.cat([zero, weights[:-1].cumsum(0)])
    after = torch.cat([zero, weights[1:].flip(0).cumsum(0)]).flip(0)
    return (before + after).log()


def _apple_log_normalizer(dim: int, kappa: float | Tensor) -> float:
    """The constant of apple/ml-entropy-reconstruction: log(I + 1e-7) in place of log I.

    From about d = 50 on the 1e-7 is all that is left of it, so entropies are off by tens of nats or more; gradients by
    the points are not affected.
    """
    if not isinstance(kappa, (int, float)):
        raise TypeError("normalizer='apple': want bandwidth as a number, got a tensor (this constant has no gradient)")
    from scipy.special import iv

    order = dim / 2 - 1
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - math.log(iv(order, kappa) + 1e-7)


def kde_log_density(
    query: Tensor,
    support: Tensor | None = None,
    *,
    kernel: str = "gaussian",
    bandwidth: BandwidthChoice = "loo",
    weights: Tensor | None = None,
    leave_one_out: bool = True,
    normalizer: str = "exact",
) -> Tensor:
    r"""Kernel density estimate of the log-density at the query points.

    .. math::
        \log \hat f(q_i) = \log \frac{\sum_j w_j\, k_h(q_i, x_j)}{\sum_j w_j}

    with a kernel of :data:`~mi_estimators.entropy.kernels.KERNELS`, normalised exactly: the Gaussian
    :math:`(2\pi h^2)^{-d/2} e^{-|q-x|^2 / 2h^2}`, for unit vectors the von Mises-Fisher kernel
    :math:`C_d(\kappa) e^{\kappa q \cdot x}` with ``bandwidth`` :math:`\kappa`, or one of scikit-learn's. A point that
    no compact kernel reaches has the log-density ``-inf``, and a gradient of 0. Gradients flow to query, support,
    weights, and a bandwidth that is a tensor. Memory is O((N + M) d).

    Args:
        query: where the density is wanted. With kernel ``"vmf"``, unit vectors.
        support: the samples; ``None`` takes the query points themselves.
        kernel: a name in ``KERNELS``: ``"gaussian"``, ``"vmf"``, ``"laplace"``, ``"tophat"``, ``"epanechnikov"``,
            ``"biweight"``, ``"triweight"``, ``"triangular"`` or ``"cosine"``.
        bandwidth: a number or one-element tensor > 0; a tensor [d], one for each dimension; a tensor [d, d], the
            kernel's covariance (for a kernel other than the Gaussian, the matrix in place of :math:`h^2`); a tensor
            [M, 1], one for each support point (for the Gaussian computed in float64 whatever the dtype, as its terms
            cancel; for the other radial kernels by torch operations, which is slower); the name of a rule in
            :data:`~mi_estimators.entropy.RULES`; or a function of the support points that returns one of these. A
            rule's choice is detached; for ``"loo"`` the gradient of the leave-one-out entropy is exact all the same,
            since its derivative by the bandwidth is zero there (not so for ``"tophat"``, whose likelihood jumps).
        weights: of the support points, >= 0; ``None`` for equal ones. A weight of 0 leaves its point out, and gets the
            gradient 0.
        leave_one_out: with ``support=None``, leave each point out of its own sum, and its weight out of the total.
        normalizer: ``"exact"``, or ``"apple"`` for the constant of the ER paper's code (vmf only, for comparison).

    Shape:
        - query: :math:`(N, d)`, support: :math:`(M, d)`, weights: :math:`(M,)`; Output: :math:`(N,)`. Nats. float32
          for half inputs.

    Raises:
        TypeError, ValueError: tensors that are not floating-point matrices of one dtype, device and width; NaN or
            infinite values; an unknown kernel or rule; a bandwidth <= 0, of another shape, or a covariance that is not
            positive definite; negative weights, or none positive; one point alone under leave-one-out; a vmf kernel in
            fewer than 2 dimensions, or for rows that are not of length 1.
    """
    _checks.floating("query", query)
    _checks.finite("query", query)
    if support is not None:
        _checks.floating("support", support)
        _checks.alike("support", support, "query", query)
        _checks.finite("support", support)
    return _log_density(
        "query", query, support, kernel, bandwidth, weights, leave_one_out=leave_one_out, normalizer=normalizer
    )


def check_points(name: str, points: Tensor, kernel: str) -> None:
    """Check for what the kernel asks of points: on the sphere, rows of length 1 in at least 2 dimensions."""
    if KERNELS[kernel].radial:
        return
    if points.shape[1] < 2:
        raise ValueError(f"{name}: want at least 2 dimensions for kernel {kernel!r}, got {_checks.describe(points)}")
    _checks.unit_rows(name, points)


def sum_over_support(
    support: Tensor, kernel: Kernel, bandwidth: BandwidthChoice, weights: Tensor | None, normalizer: str
) -> Sum:
    """The kernel sum of the support points at the bandwidth that is given or chosen, weights in its bias."""
    chosen = resolve_bandwidth(bandwidth, support, kernel.name, weights)
    terms = kernel_sum(chosen, kernel, support)
    if normalizer == "apple":
        terms = replace(terms, constant=_apple_log_normalizer(support.shape[1], chosen))
    if weights is not None:
        log_weights = _log_weights(weights.to(torch.float64))
        terms = replace(terms, bias=log_weights if terms.bias is None else terms.bias + log_weights)
    return terms


def _log_density(
    name: str,
    query: Tensor,
    support: Tensor | None,
    kernel: str,
    bandwidth: BandwidthChoice,
    weights: Tensor | None,
    *,
    leave_one_out: bool,
    normalizer: str,
) -> Tensor:
    """:func:`kde_log_density` of tensors that are checked but for what the kernel asks of them; ``name``: of query."""
    _checks.choice("kernel", kernel, KERNELS)
    _checks.choice("normalizer", normalizer, NORMALIZERS)
    check_choice(bandwidth, kernel)
    if normalizer == "apple" and kernel != "vmf":
        raise ValueError(f"normalizer: 'apple' belongs to kernel 'vmf', got kernel {kernel!r}")
    samples = query if support is None else support
    n = samples.shape[0]
    left_out = leave_one_out and support is None
    if (left_out or isinstance(bandwidth, str)) and n < 2:
        raise ValueError(
            f"{name if support is None else 'support'}: want at least 2 points to leave one out, got "
            f"{_checks.describe(samples)}"
        )
    check_points(name, query, kernel)
    if support is not None:
        check_points("support", support, kernel)
    if weights is not None:
        check_weights(weights, n, samples, left_out=left_out)
    with without_autocast(query):
        points = accumulated(query) if support is None else accumulated(query, support)
        if weights is None:
            log_total: float | Tensor = math.log(n - 1 if left_out else n)
        else:
            weights = of_sum_one(weights)
            log_total = log_total_of_others(weights) if left_out else weights.sum().log()
        terms = sum_over_support(points[-1], KERNELS[kernel], bandwidth, weights, normalizer)
        columns = terms.columns
        if columns is None and support is not None:
            columns = terms.rows(points[1])
        lse = terms.log_sum(terms.rows(points[0]), columns, exclude_diagonal=left_out)
        return (lse - log_total + terms.constant).to(points[0].dtype)


def kde_entropy(
    x: Tensor,
    *,
    kernel: str = "gaussian",
    bandwidth: BandwidthChoice = "loo",
    weights: Tensor | None = None,
    leave_one_out: bool = True,
    reduction: str = "joe",
    halves: Tensor | None = None,
    seed: int = 0,
    normalizer: str = "exact",
) -> Tensor:
    r"""Differential entropy of a sample by kernel density estimation.

    .. math::
        \hat H = -\sum_i w_i \log \hat f(x_i) \Big/ \sum_i w_i

    with the density of :func:`kde_log_density`. Leaving each point out of its own density (the default) removes the
    bias of counting it: without that, :math:`-\log \hat f(x_i) \le \log N - \log k_h(x_i, x_i)` whatever the data.

    Args:
        x: the sample; unit vectors with kernel ``"vmf"``.
        kernel: see :func:`kde_log_density`.
        bandwidth: see :func:`kde_log_density`.
        weights: of the points, in both roles: in the density, and in the mean over points.
        leave_one_out: leave each point out of its own density.
        reduction: ``"joe"`` for the mean above (Joe 1989); ``"plug_in"`` for :math:`-\sum_i p_i \log \hat f(x_i)` with
            :math:`p_i \propto w_i \hat f(x_i)`; ``"split"`` for two halves, each half's points in the density of the
            other, with a bandwidth chosen without them: the mean of two cross-entropies, each of which is on average no
            smaller than the entropy. :func:`~mi_estimators.entropy.estimate_kde_entropy` gives standard errors.
        halves: for ``"split"``, which half each point belongs to; ``None`` draws equal ones.
        seed: of that draw.
        normalizer: ``"exact"``, or ``"apple"`` for the constant of the ER paper's code.

    Shape:
        - x: :math:`(N, d)`, :math:`N \ge 2` under leave-one-out, weights: :math:`(N,)`, halves: :math:`(N,)` of bool;
          Output: scalar. Nats. float32 for half inputs. ``inf`` where a compact kernel leaves a point alone.

    Raises:
        TypeError, ValueError: as :func:`kde_log_density`, or an unknown reduction; halves of which one is empty.

    Source: Joe (1989); as the entropy term of the ER bound, arXiv 2307.10907, section 3.
    """
    _checks.floating("x", x)
    _checks.finite("x", x)
    return named_entropy(
        "x", x, kernel, bandwidth, leave_one_out, reduction, normalizer, weights=weights, halves=halves, seed=seed
    )


def named_entropy(
    name: str,
    x: Tensor,
    kernel: str,
    bandwidth: BandwidthChoice,
    leave_one_out: bool,
    reduction: str,
    normalizer: str,
    *,
    weights: Tensor | None = None,
    halves: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """:func:`kde_entropy` for callers that have checked ``x`` under its ``name`` there."""
    _checks.choice("reduction", reduction, REDUCTIONS)
    if reduction == "split":
        if weights is not None:
            check_weights(weights, x.shape[0], x, left_out=False)
        log_density = x.new_zeros(x.shape[0], dtype=accumulation_dtype(x.dtype))
        for inside, outside in split_halves(name, x, halves, seed):
            if isinstance(bandwidth, str) and len(inside) < 2:
                raise ValueError(f"{name}: want at least 2 points in each half for a rule, got {len(inside)} in one")
            log_density = log_density.index_put(
                (outside,),
                _log_density(
                    name,
                    x[outside],
                    x[inside],
                    kernel,
                    rows_of(bandwidth, inside, x.shape[0]),
                    None if weights is None else weights[inside],
                    leave_one_out=False,
                    normalizer=normalizer,
                ),
            )
        return _mean_surprise(log_density, weights)
    if halves is not None:
        raise ValueError(f"halves: want None unless reduction is 'split', got them for {reduction!r}")
    log_density = _log_density(
        name, x, None, kernel, bandwidth, weights, leave_one_out=leave_one_out, normalizer=normalizer
    )
    if reduction == "joe":
        return _mean_surprise(log_density, weights)
    return _plug_in(log_density, weights)


def split_halves(name: str, x: Tensor, halves: Tensor | None, seed: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Indices (support, query) of both directions of a split, at random from the seed or as given."""
    n = x.shape[0]
    if halves is None:
        if n < 2:
            raise ValueError(f"{name}: want at least 2 points to split, got {_checks.describe(x)}")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(x.device)
        first, second = order[: n // 2], order[n // 2 :]
    else:
        if not isinstance(halves, Tensor) or halves.dtype != torch.bool:
            raise TypeError(f"halves: want a torch.Tensor of bool, got {_checks.describe(halves)}")
        if halves.shape != (n,):
            raise ValueError(f"halves: want one value per point ({n}), got {_checks.describe(halves)}")
        halves = halves.to(x.device)
        first, second = halves.nonzero().flatten(), (~halves).nonzero().flatten()
        if not (len(first) and len(second)):
            raise ValueError("halves: want points on both sides, got all on one")
    return (first, second), (second, first)


def rows_of(bandwidth: BandwidthChoice, index: Tensor, count: int) -> BandwidthChoice:
    """The bandwidth of some of the support points: its rows, where it has one for each point."""
    if isinstance(bandwidth, Tensor) and bandwidth.ndim == 2 and bandwidth.shape == (count, 1) and count > 1:
        return bandwidth[index.to(bandwidth.device)]
    return bandwidth


def _mean_surprise(log_density: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return -log_density.mean()
    shares = of_sum_one(weights)
    # A point of weight 0 counts as nothing even where its density is 0.
    mean = (shares * torch.where(shares > 0, log_density, 0.0)).sum() / shares.sum()
    return -mean.to(log_density.dtype)


def _plug_in(log_density: Tensor, weights: Tensor | None) -> Tensor:
    shares = log_density if weights is None else log_density + _log_weights(weights).to(log_density.dtype)
    alive = shares > -math.inf
    # Softmax over the points of positive density: where f is 0, f log f is 0 and has no gradient.
    none = ~alive.any()
    shares = torch.softmax(torch.where(none, torch.zeros_like(shares), shares), dim=0)
    entropy = -(shares * torch.where(alive, log_density, 0.0)).sum()
    return torch.where(none, math.inf, entropy)
