"""The table of bandwidth rules, and the choice by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.entropy.bandwidth import sphere
from mi_estimators.entropy.bandwidth.adaptive import abramson, knn
from mi_estimators.entropy.bandwidth.anisotropic import loo_diagonal, loo_full
from mi_estimators.entropy.bandwidth.cross_validation import lscv
from mi_estimators.entropy.bandwidth.likelihood import loo
from mi_estimators.entropy.bandwidth.plug_in import isj, sj
from mi_estimators.entropy.bandwidth.reference import (
    median,
    normal_reference,
    normal_reference_diagonal,
    scott,
    silverman,
)

Form = Literal["number", "per column", "per column if d > 1", "covariance", "per point"]


@dataclass(frozen=True)
class Rule:
    """A function of points [N, d] that returns a detached bandwidth.

    Attributes:
        function: of ``(x, *, weights)``, and of ``start`` if ``warm``.
        form: what it returns: a number, [d], [d, d] (the kernel's covariance) or [N, 1].
        warm: whether a start near the result saves sweeps over the pairs.
    """

    function: Callable[..., float | Tensor]
    form: Form
    warm: bool = False

    def __call__(
        self, x: Tensor, *, weights: Tensor | None = None, start: float | Tensor | None = None
    ) -> float | Tensor:
        """The bandwidth of the points; a start is passed on to the rules that begin from one."""
        options: dict[str, Any] = {"start": start} if self.warm and start is not None else {}
        search = _untraced_search() if torch.compiler.is_compiling() else _search
        return search(self.function, x, weights=weights, **options)


def _search(function: Callable[..., float | Tensor], x: Tensor, **options: Any) -> float | Tensor:
    with torch.no_grad():
        return function(x, **options)


def _untraced_search() -> Callable[..., float | Tensor]:
    """The same as one break of a graph: a search looks at its numbers and calls scipy, which no compiler can trace.

    Made when a graph is traced and not before, because ``torch.compiler.disable`` imports the compiler: 1.5 seconds.
    """
    untraced: Callable[..., float | Tensor] = torch.compiler.disable(_search)
    return untraced


def _rules_of_radial(kernel: str) -> dict[str, Rule]:
    return {
        "loo": Rule(partial(loo, kernel=kernel), "number", warm=True),
        "scott": Rule(partial(scott, kernel=kernel), "covariance"),
        "silverman": Rule(partial(silverman, kernel=kernel), "covariance"),
        "normal_reference": Rule(partial(normal_reference, kernel=kernel), "number"),
        "normal_reference_diagonal": Rule(partial(normal_reference_diagonal, kernel=kernel), "per column"),
        "median": Rule(partial(median, kernel=kernel), "number"),
        "lscv": Rule(partial(lscv, kernel=kernel), "number"),
        "isj": Rule(partial(isj, kernel=kernel), "per column if d > 1"),
        "sj": Rule(partial(sj, kernel=kernel), "per column if d > 1"),
        "abramson": Rule(partial(abramson, kernel=kernel), "per point"),
        "knn": Rule(partial(knn, kernel=kernel), "per point"),
    }


RULES: dict[str, dict[str, Rule]] = {
    "gaussian": {
        **_rules_of_radial("gaussian"),
        "loo_diagonal": Rule(loo_diagonal, "per column", warm=True),
        "loo_full": Rule(loo_full, "covariance", warm=True),
    },
    "vmf": {
        "loo": Rule(sphere.loo, "number", warm=True),
        "normal_reference": Rule(sphere.von_mises_fisher_reference, "number"),
        "median": Rule(sphere.median, "number"),
        "bgh": Rule(sphere.bgh, "number"),
        "abramson": Rule(sphere.abramson, "per point"),
        "knn": Rule(sphere.knn, "per point"),
    },
    "laplace": _rules_of_radial("laplace"),
    "tophat": _rules_of_radial("tophat"),
    "epanechnikov": _rules_of_radial("epanechnikov"),
    "biweight": _rules_of_radial("biweight"),
    "triweight": _rules_of_radial("triweight"),
    "triangular": _rules_of_radial("triangular"),
    "cosine": _rules_of_radial("cosine"),
}
"""Kernel -> rule name -> :class:`Rule`, a function ``rule(x, *, weights=None)`` of the points [N, d]."""


def rule_of(name: object, kernel: str, *, argument: str = "rule") -> Rule:
    """The rule of a name, or an error under the name of the caller's argument that says which there are and why."""
    _checks.choice("kernel", kernel, RULES)
    rules = RULES[kernel]
    if isinstance(name, str) and name in rules:
        return rules[name]
    hint = ""
    if isinstance(name, str) and name in RULES["gaussian"]:
        hint = (
            ": unit vectors have no covariance, and no columns, to scale a kernel on the sphere by"
            if kernel == "vmf"
            else ": only the Gaussian kernel's moments give a fixed point for several bandwidths"
        )
    elif isinstance(name, str):
        nearest = difflib.get_close_matches(name.lower().replace("-", "_").replace(" ", "_"), rules, n=1, cutoff=0.5)
        hint = f" (nearest: {nearest[0]!r})" if nearest else ""
    raise ValueError(f"{argument}: want one of {sorted(rules)} for kernel {kernel!r}, got {name!r}{hint}")


def select_bandwidth(
    x: Tensor,
    rule: str = "loo",
    *,
    kernel: str = "gaussian",
    weights: Tensor | None = None,
    start: float | Tensor | None = None,
) -> float | Tensor:
    """A kernel density bandwidth chosen for a sample by a named rule, without gradient.

    Args:
        x: the points; unit vectors with kernel ``"vmf"``.
        rule: a key of ``RULES[kernel]``: ``"loo"`` (leave-one-out maximum likelihood), ``"loo_diagonal"``,
            ``"loo_full"``, ``"scott"``, ``"silverman"``, ``"normal_reference"``, ``"normal_reference_diagonal"``,
            ``"median"``, ``"lscv"``, ``"isj"``, ``"sj"``, ``"bgh"``, ``"abramson"``, ``"knn"``. The documentation has a
            table of what each optimises and costs.
        kernel: a key of :data:`~mi_estimators.entropy.kernels.KERNELS`.
        weights: of the points, >= 0, of any sum.
        start: for the rules by likelihood, a bandwidth near the result, which saves sweeps; in their form.

    Returns:
        What ``bandwidth`` of :func:`~mi_estimators.kde_entropy` takes: a number, a tensor [d] with one bandwidth per
        column, [d, d] with the kernel's covariance, or [N, 1] with one per point. For the kernels of compact support a
        bandwidth is the radius of the support, for ``"vmf"`` the concentration. float32 for half inputs.

    Shape:
        - x: :math:`(N, d)`, weights: :math:`(N,)`.

    Raises:
        TypeError: points or weights that are no floating-point tensors.
        ValueError: an unknown rule or kernel, or a rule that the kernel does not have; fewer than two points (of
            positive weight); NaN or infinite values; constant columns; weights that are negative, all zero, or given
            to a rule that has no use for them; rows that are not of length 1 (vmf); a start that is no bandwidth of
            the rule's form.

    Warns:
        RuntimeWarning: duplicate points let a criterion improve without bound as kernels narrow; the search stopped
            at a floor.

    Example:
        >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> 0.3 < select_bandwidth(x) < 0.6
        True
    """
    chosen = rule_of(rule, kernel)
    if start is not None:
        _check_start(start, chosen.form, x)
    return chosen(x, weights=weights, start=start)


def _check_start(start: float | Tensor, form: Form, x: Tensor) -> None:
    """Check for a bandwidth of the rule's form."""
    _checks.floating("x", x)
    dim = x.shape[1]
    shapes: dict[str, tuple[int, ...]] = {"per column": (dim,), "covariance": (dim, dim)}
    wanted = shapes.get(form)
    if wanted is None:
        _checks.positive("start", start)
        if isinstance(start, Tensor) and start.numel() != 1:
            raise ValueError(f"start: want a number or a tensor with one element, got {_checks.describe(start)}")
        return
    if not isinstance(start, Tensor) or tuple(start.shape) != wanted:
        raise ValueError(f"start: want a tensor of shape {wanted}, got {_checks.describe(start)}")
    if form == "per column":
        _checks.positive("start", start)
        return
    _checks.finite("start", start)
    symmetric = torch.allclose(start, start.T, rtol=1e-4)
    if not symmetric or not bool((torch.linalg.eigvalsh(start.detach().to(torch.float64)) > 0).all()):
        raise ValueError(f"start: want a symmetric positive definite matrix, got {_checks.describe(start)} that is not")
