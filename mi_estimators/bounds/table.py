"""The table of bounds: what each is and is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mi_estimators.bounds.classifier import js, js_objective, smile
from mi_estimators.bounds.multisample import i_nce, i_nce_loo
from mi_estimators.bounds.pairs import Factored
from mi_estimators.bounds.unnormalized import dv, nwj, tuba

Kind = Literal["lower", "upper", "neither"]


@dataclass(frozen=True)
class Bound:
    """One entry of :data:`BOUNDS`.

    Attributes:
        name: key in the table.
        value: the reported value in nats, where it is a function of the scores alone; else None, and
            :func:`mi_estimators.variational.variational` builds what it needs besides.
        kind: what the expectation of the value over i.i.d. batches is, for every critic or model: a ``"lower"`` or
            ``"upper"`` bound on the mutual information, or ``"neither"``.
        note: bias and variance.
        source: paper and section.
        objective: what training maximises, a function of the scores, where it is not ``value``.
        cap: the largest value that K pairs can give, where there is one.
        requires: options that :func:`mi_estimators.variational.variational` has no default for.
    """

    name: str
    value: Callable[[Tensor | Factored], Tensor] | None
    kind: Kind
    note: str
    source: str
    objective: Callable[[Tensor | Factored], Tensor] | None = None
    cap: Callable[[int], float] | None = None
    requires: tuple[str, ...] = ()

    def value_and_objective(self, scores: Tensor | Factored) -> tuple[Tensor, Tensor]:
        """The reported value and what to maximise, sharing the work where they are the same.

        Raises:
            TypeError: the bound needs more than scores.
        """
        if self.value is None:
            raise TypeError(f"{self.name}: needs more than scores; build it with mi_estimators.variational.variational")
        value = self.value(scores)
        return value, value if self.objective is None else self.objective(scores)


_TUBA = "Poole et al. 2019 (arXiv 1905.06922), sec. 2.2"
_CLUB = "Cheng et al. 2020 (arXiv 2006.12013), sec. 3"

BOUNDS: dict[str, Bound] = {
    bound.name: bound
    for bound in (
        Bound(
            name="infonce",
            value=i_nce,
            kind="lower",
            note="low variance; biased downwards without limit once the mutual information nears log K",
            source="van den Oord et al. 2018 (arXiv 1807.03748), eq. 4",
            cap=math.log,
        ),
        Bound(
            name="infonce_loo",
            value=i_nce_loo,
            kind="neither",
            note="no cap; biased upwards near the optimal critic, downwards far from it; variance grows like e^I / K",
            source="Poole et al. 2019 (arXiv 1905.06922), sec. 2.4; Yeh et al. 2022 (arXiv 2110.06848)",
        ),
        Bound(
            name="nwj",
            value=nwj,
            kind="lower",
            note="unbiased for its critic; variance grows like e^I",
            source="Nguyen, Wainwright and Jordan 2010; Tschannen et al. 2020 (arXiv 1907.13625), sec. 2",
        ),
        Bound(
            name="dv",
            value=dv,
            kind="neither",
            note="biased upwards by the log of a batch mean; variance grows like e^I",
            source="Donsker and Varadhan 1983; Belghazi et al. 2018 (arXiv 1801.04062), theorem 1",
        ),
        Bound(
            name="mine",
            value=None,
            kind="neither",
            note="DV, trained with a gradient that a moving average frees of its bias; the value is as biased as DV",
            source="Belghazi et al. 2018 (arXiv 1801.04062), sec. 3.2",
        ),
        Bound(
            name="js",
            value=js,
            kind="lower",
            note="stable training; the reported value has the variance of NWJ",
            source="Poole et al. 2019 (arXiv 1905.06922), sec. 2",
            objective=js_objective,
        ),
        Bound(
            name="tuba",
            value=tuba,
            kind="lower",
            note="constant baseline a = 1: NWJ with its critic shifted by one; variance grows like e^I",
            source=_TUBA,
        ),
        Bound(
            name="tuba_learned",
            value=None,
            kind="lower",
            note="baseline a(y) a network: unbiased for its critic and baseline; variance grows like e^I",
            source=_TUBA,
        ),
        Bound(
            name="tuba_gaussian",
            value=None,
            kind="lower",
            note="baseline a(y) a Gaussian density times a constant; unbiased; variance grows like e^I",
            source=_TUBA,
        ),
        Bound(
            name="i_alpha",
            value=None,
            kind="lower",
            note="alpha 0.01: capped at 1 + log((K - 1) / alpha); variance grows with 1 / alpha until it is TUBA's",
            source="Poole et al. 2019 (arXiv 1905.06922), sec. 2.4",
            cap=lambda k: 1 + math.log((k - 1) / 0.01),
        ),
        Bound(
            name="smile",
            value=smile,
            kind="neither",
            note="clip 5: variance bounded by the clip, biased upwards once scores pass it",
            source="Song and Ermon 2020 (arXiv 1910.06222), sec. 4",
            objective=js_objective,
        ),
        Bound(
            name="flo",
            value=None,
            kind="lower",
            note="unbiased for its two networks; variance grows like e^I, damped by the second network",
            source="Guo et al. 2022 (arXiv 2107.01131), sec. 3",
        ),
        Bound(
            name="club",
            value=None,
            kind="upper",
            note="needs the true conditional density; loose: far above the mutual information where that is large",
            source=_CLUB,
            requires=("conditional",),
        ),
        Bound(
            name="vclub",
            value=None,
            kind="neither",
            note="CLUB with a model of the conditional density: an upper bound only where the model is good; as loose",
            source=_CLUB,
        ),
        Bound(
            name="l1out",
            value=None,
            kind="neither",
            note="an upper bound with the true conditional density; with a model, low where that fits badly; tight in "
            "large batches",
            source="Poole et al. 2019 (arXiv 1905.06922), sec. 2.4",
        ),
        Bound(
            name="ba",
            value=None,
            kind="neither",
            note="a lower bound where the entropy of y is given; with an estimate, biased as that; low variance",
            source="Barber and Agakov 2003; Poole et al. 2019 (arXiv 1905.06922), sec. 2.1",
        ),
        Bound(
            name="doe",
            value=None,
            kind="neither",
            note="difference of two cross-entropies: the biases of its two models cancel in part; low variance",
            source="McAllester and Stratos 2020 (arXiv 1811.04251), sec. 5",
        ),
        Bound(
            name="er",
            value=None,
            kind="neither",
            note="a lower bound up to the error of a kernel density's entropy, which grows with the dimension of y",
            source="Rodríguez Gálvez et al. 2023 (arXiv 2307.10907), sec. 2",
        ),
    )
}
"""All bounds, by name. :func:`mi_estimators.variational.variational` builds each with the networks it needs."""

SCORE_BOUNDS: dict[str, Bound] = {name: bound for name, bound in BOUNDS.items() if bound.value is not None}
"""Those of :data:`BOUNDS` that are functions of critic scores alone."""
