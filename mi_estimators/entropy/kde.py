"""Kernel density estimates of log-density and entropy, differentiable in both roles of every point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.bandwidth import RULES
from mi_estimators.entropy.vmf import log_vmf_normalizer
from mi_estimators.ops.pairwise_lse import accumulated, unchecked_pairwise_lse, without_autocast

KERNELS = ("gaussian", "vmf")
NORMALIZERS = ("exact", "apple")
REDUCTIONS = ("joe", "plug_in")


def check_bandwidth(bandwidth: float | Tensor | str, kernel: str, name: str = "bandwidth") -> None:
    """Check for a number or one-element tensor > 0, or the name of one of the kernel's rules."""
    if isinstance(bandwidth, str):
        _checks.choice(name, bandwidth, RULES[kernel])
        return
    _checks.positive(name, bandwidth)
    if isinstance(bandwidth, Tensor) and bandwidth.numel() != 1:
        raise ValueError(f"{name}: want a number or a tensor with one element, got {_checks.describe(bandwidth)}")


def resolve_bandwidth(bandwidth: float | Tensor | str, points: Tensor, kernel: str) -> float | Tensor:
    """A checked bandwidth as a number or a scalar tensor: as given, or chosen for the points by the named rule."""
    if isinstance(bandwidth, str):
        return RULES[kernel][bandwidth](points)
    if isinstance(bandwidth, Tensor):
        return bandwidth.to(points.device).reshape(())
    if torch.compiler.is_compiling():
        # A number that changes from call to call is a symbol there, which math.log does not take.
        return torch.full((), bandwidth, dtype=torch.float64, device=points.device)
    return bandwidth


def _apple_log_normalizer(dim: int, kappa: float | Tensor) -> float:
    """The constant of apple/ml-entropy-reconstruction: log(I + 1e-7) in place of log I.

    From about d = 50 on the 1e-7 is all that is left of it, so entropies are off by tens of nats or more; gradients by
    the points are not affected.
    """
    if isinstance(kappa, Tensor):
        raise TypeError("normalizer='apple': want bandwidth as a number, got a tensor (this constant has no gradient)")
    from scipy.special import iv

    order = dim / 2 - 1
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - math.log(iv(order, kappa) + 1e-7)


def _kernel_terms(
    kernel: str, dim: int, bandwidth: float | Tensor, normalizer: str
) -> tuple[str, float | Tensor, float | Tensor]:
    """Score, scale and log-normaliser of a kernel: log k(x, y) = scale * score(x, y) + log-normaliser."""
    if kernel == "vmf":
        constant = log_vmf_normalizer if normalizer == "exact" else _apple_log_normalizer
        return "dot", bandwidth, constant(dim, bandwidth)
    log_h = torch.log(bandwidth) if isinstance(bandwidth, Tensor) else math.log(bandwidth)
    return "sqeuclidean", 0.5 / bandwidth**2, -dim / 2 * math.log(2 * math.pi) - dim * log_h


def kde_log_density(
    query: Tensor,
    support: Tensor | None = None,
    *,
    kernel: str = "gaussian",
    bandwidth: float | Tensor | str = "loo",
    leave_one_out: bool = True,
    normalizer: str = "exact",
) -> Tensor:
    r"""Kernel density estimate of the log-density at the query points.

    .. math::
        \log \hat f(q_i) = \log \frac{1}{M} \sum_j k_h(q_i, x_j)

    with the Gaussian kernel :math:`k_h(q, x) = (2\pi h^2)^{-d/2} e^{-|q-x|^2 / 2h^2}` or, for unit vectors, the von
    Mises-Fisher kernel :math:`k_\kappa(q, x) = C_d(\kappa) e^{\kappa q \cdot x}`, ``bandwidth`` being :math:`\kappa`.
    Gradients flow to query, support and bandwidth. Memory is O((N + M) d).

    Args:
        query: where the density is wanted. With kernel ``"vmf"``, unit vectors.
        support: the samples; ``None`` takes the query points themselves.
        kernel: ``"gaussian"`` or ``"vmf"``.
        bandwidth: a number or one-element tensor > 0, or a rule: ``"loo"`` (leave-one-out maximum likelihood) or
            ``"normal_reference"`` (Gaussian only). A rule's choice is detached; for ``"loo"`` the gradient of the
            leave-one-out entropy is exact all the same, since its derivative by the bandwidth is zero there.
        leave_one_out: with ``support=None``, leave each point out of its own sum (and divide by M - 1).
        normalizer: ``"exact"``, or ``"apple"`` for the constant of the ER paper's code (vmf only, for comparison).

    Shape:
        - query: :math:`(N, d)`, support: :math:`(M, d)`; Output: :math:`(N,)`. Nats. float32 for half inputs.

    Raises:
        TypeError, ValueError: tensors that are not floating-point matrices of one dtype, device and width; NaN or
            infinite values; an unknown kernel or rule; a bandwidth <= 0; one point alone under leave-one-out; a vmf
            kernel in fewer than 2 dimensions, or for rows that are not of length 1.
    """
    _checks.floating("query", query)
    _checks.finite("query", query)
    if support is not None:
        _checks.floating("support", support)
        _checks.alike("support", support, "query", query)
        _checks.finite("support", support)
    return _log_density("query", query, support, kernel, bandwidth, leave_one_out=leave_one_out, normalizer=normalizer)


def _log_density(
    name: str,
    query: Tensor,
    support: Tensor | None,
    kernel: str,
    bandwidth: float | Tensor | str,
    *,
    leave_one_out: bool,
    normalizer: str,
) -> Tensor:
    """:func:`kde_log_density` of tensors that are checked but for what the kernel asks of them; ``name``: of query."""
    _checks.choice("kernel", kernel, KERNELS)
    _checks.choice("normalizer", normalizer, NORMALIZERS)
    check_bandwidth(bandwidth, kernel)
    if normalizer == "apple" and kernel != "vmf":
        raise ValueError("normalizer: 'apple' belongs to kernel 'vmf', got kernel 'gaussian'")
    n, dim = query.shape if support is None else support.shape
    left_out = leave_one_out and support is None
    if (left_out or isinstance(bandwidth, str)) and n < 2:
        raise ValueError(f"{name}: want at least 2 points to leave one out, got {_checks.describe(query)}")
    if kernel == "vmf":
        if dim < 2:
            raise ValueError(f"{name}: want at least 2 dimensions for kernel 'vmf', got {_checks.describe(query)}")
        _checks.unit_rows(name, query)
        if support is not None:
            _checks.unit_rows("support", support)
    with without_autocast(query):
        points = accumulated(query) if support is None else accumulated(query, support)
        chosen = resolve_bandwidth(bandwidth, points[-1], kernel)
        score, scale, constant = _kernel_terms(kernel, dim, chosen, normalizer)
        lse = unchecked_pairwise_lse(*points, scale=scale, score=score, exclude_diagonal=left_out)
        return lse - math.log(n - 1 if left_out else n) + constant


def kde_entropy(
    x: Tensor,
    *,
    kernel: str = "gaussian",
    bandwidth: float | Tensor | str = "loo",
    leave_one_out: bool = True,
    reduction: str = "joe",
    normalizer: str = "exact",
) -> Tensor:
    r"""Differential entropy of a sample by kernel density estimation.

    .. math::
        \hat H = -\frac{1}{N} \sum_i \log \hat f(x_i)

    with the density of :func:`kde_log_density`. Leaving each point out of its own density (the default) removes the
    bias of counting it: without that, :math:`-\log \hat f(x_i) \le \log N - \log k_h(x_i, x_i)` whatever the data.

    Args:
        x: the sample; unit vectors with kernel ``"vmf"``.
        kernel: ``"gaussian"`` or ``"vmf"``.
        bandwidth: see :func:`kde_log_density`.
        leave_one_out: leave each point out of its own density.
        reduction: ``"joe"`` for the mean above (Joe 1989), ``"plug_in"`` for
            :math:`-\sum_i w_i \log \hat f(x_i)` with :math:`w_i \propto \hat f(x_i)`.
        normalizer: ``"exact"``, or ``"apple"`` for the constant of the ER paper's code.

    Shape:
        - x: :math:`(N, d)`, :math:`N \ge 2` under leave-one-out; Output: scalar. Nats. float32 for half inputs.

    Raises:
        TypeError, ValueError: as :func:`kde_log_density`, or an unknown reduction.

    Source: Joe (1989); as the entropy term of the ER bound, arXiv 2307.10907, section 3.
    """
    _checks.floating("x", x)
    _checks.finite("x", x)
    return named_entropy("x", x, kernel, bandwidth, leave_one_out, reduction, normalizer)


def named_entropy(
    name: str,
    x: Tensor,
    kernel: str,
    bandwidth: float | Tensor | str,
    leave_one_out: bool,
    reduction: str,
    normalizer: str,
) -> Tensor:
    """:func:`kde_entropy` for callers that have checked ``x`` under its ``name`` there."""
    _checks.choice("reduction", reduction, REDUCTIONS)
    log_density = _log_density(name, x, None, kernel, bandwidth, leave_one_out=leave_one_out, normalizer=normalizer)
    if reduction == "joe":
        return -log_density.mean()
    return -(torch.softmax(log_density, dim=0) * log_density).sum()
