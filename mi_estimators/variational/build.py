"""Variational estimators by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mi_estimators import _checks
from mi_estimators.bounds import BOUNDS
from mi_estimators.critics import CRITICS
from mi_estimators.densities import ConditionalDensity
from mi_estimators.variational.estimator import VariationalEstimator
from mi_estimators.variational.modelled import (
    CONTRASTS,
    BarberAgakov,
    Contrast,
    DifferenceOfEntropies,
    make_density,
)
from mi_estimators.variational.scored import (
    BaselineEstimator,
    Flo,
    Mine,
    ScoredEstimator,
    Smile,
    make_baseline,
)

_SCORED = {"score_clip", "score_penalty"}
_BASELINE = _SCORED | {"baseline_options"}
_CONDITIONAL = {"conditional", "conditional_options"}

OPTIONS: dict[str, set[str]] = {
    **dict.fromkeys(("infonce", "infonce_loo", "nwj", "dv", "js", "tuba"), _SCORED),
    "smile": _SCORED | {"clip"},
    "mine": _SCORED | {"rate"},
    "tuba_learned": _BASELINE,
    "tuba_gaussian": _SCORED,
    "i_alpha": _BASELINE | {"alpha", "baseline"},
    "flo": _SCORED | {"hidden"},
    **dict.fromkeys(("club", "vclub", "l1out", "er"), _CONDITIONAL),
    "ba": _CONDITIONAL | {"entropy"},
    "doe": _CONDITIONAL | {"marginal", "marginal_options"},
}
"""Names that ``bound_options`` may hold, for each bound."""


def variational(
    bound: str,
    dim_x: int,
    dim_y: int,
    *,
    critic: str | nn.Module = "concatenated",
    critic_options: Mapping[str, Any] | None = None,
    bound_options: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> VariationalEstimator:
    """Build a trainable estimator of mutual information.

    What ``bound_options`` may hold:

    ==========================  =====================================================================================
    bounds                      options
    ==========================  =====================================================================================
    all of critic scores        ``score_clip`` (None), ``score_penalty`` (0): as AMDIM keeps scores in bounds
    ``smile``                   ``clip`` (5)
    ``mine``                    ``rate`` (0.01) of the moving average
    ``tuba_learned``            ``baseline_options``: ``hidden`` (64, 64)
    ``i_alpha``                 ``alpha`` (0.01), ``baseline`` (``"learned"``): a name in
                                :data:`~mi_estimators.variational.BASELINES` or a module, ``baseline_options``
    ``flo``                     ``hidden`` (64, 64) of its second network
    ``club``                    ``conditional``: the true density of y given x, a
                                :class:`~mi_estimators.densities.ConditionalDensity`; there is no default
    ``vclub``, ``l1out``        ``conditional`` (``"gaussian"``): a name in
                                :data:`~mi_estimators.densities.DENSITIES` or a density, ``conditional_options``
    ``ba``, ``er``, ``doe``     the same (``"flow"``)
    ``ba``                      ``entropy`` (``"knn"``): that of y as a number, or ``"knn"``, ``"kde"``, ``"gaussian"``
    ``doe``                     ``marginal`` (``"flow"``), ``marginal_options``
    ==========================  =====================================================================================

    Args:
        bound: name in :data:`mi_estimators.bounds.BOUNDS`.
        dim_x: size of x.
        dim_y: size of y.
        critic: name in :data:`mi_estimators.critics.CRITICS`, or a module ``(x [N, dim_x], y [M, dim_y]) -> [N, M]``.
            Bounds of a density have none, and pay no heed to this.
        critic_options: keyword arguments of the critic.
        bound_options: keyword arguments of the bound.
        generator: source of the initial weights, the critic's first; None takes PyTorch's global one.

    Raises:
        TypeError: an option that the bound or the critic does not have, or of the wrong type.
        ValueError: an unknown bound or critic, an option out of range, or none where there is no default.
    """
    _checks.choice("bound", bound, BOUNDS)
    _checks.count("dim_x", dim_x)
    _checks.count("dim_y", dim_y)
    entry, options = BOUNDS[bound], dict(bound_options or {})
    for name in options:
        if name not in OPTIONS[bound]:
            raise TypeError(f"bound_options: {bound!r} has {sorted(OPTIONS[bound])}, got {name!r}")
    for name in entry.requires:
        if name not in options:
            raise ValueError(f"bound_options: {bound!r} wants {name!r}, which has no default")

    def density(name: str, dim_given: int, default: str) -> ConditionalDensity:
        chosen, of_density = options.pop(name, default), options.pop(f"{name}_options", None)
        return make_density(name, chosen, of_density, dim_given, dim_y, generator)

    if bound == "club" and isinstance(options["conditional"], str):
        raise TypeError(
            "conditional: 'club' wants the true density, a ConditionalDensity; 'vclub' trains a model, got "
            f"{options['conditional']!r}"
        )
    if bound in CONTRASTS:
        return Contrast(entry, density("conditional", dim_x, "gaussian"), CONTRASTS[bound])
    if bound in ("ba", "er"):
        if bound == "er":
            options["entropy"] = "kde"
        conditional = density("conditional", dim_x, "flow")
        return BarberAgakov(entry, conditional, **options)
    if bound == "doe":
        conditional = density("conditional", dim_x, "flow")
        return DifferenceOfEntropies(entry, conditional, density("marginal", 0, "flow"))

    if isinstance(critic, str):
        _checks.choice("critic", critic, CRITICS)
        critic = CRITICS[critic](dim_x, dim_y, generator=generator, **(critic_options or {}))
    elif not isinstance(critic, nn.Module):
        raise TypeError(f"critic: want a name or a module, got {_checks.describe(critic)}")
    elif critic_options:
        raise TypeError("critic_options: want none where the critic is a module")
    if bound == "flo":
        return Flo(entry, critic, dim_x + dim_y, generator=generator, **options)
    if bound in ("tuba_learned", "tuba_gaussian", "i_alpha"):
        name = options.pop("baseline", "learned") if bound == "i_alpha" else bound.removeprefix("tuba_")
        baseline = make_baseline(name, options.pop("baseline_options", None), dim_y, generator)
        alpha = options.pop("alpha", 0.01) if bound == "i_alpha" else None
        return BaselineEstimator(entry, critic, baseline, alpha=alpha, **options)
    kinds: dict[str, Callable[..., VariationalEstimator]] = {"smile": Smile, "mine": Mine}
    return kinds.get(bound, ScoredEstimator)(entry, critic, **options)
