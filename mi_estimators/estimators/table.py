"""The table of estimators: what each takes and where it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mi_estimators.bounds import BOUNDS
from mi_estimators.estimators import gaussian, ksg, neural
from mi_estimators.estimators.result import Measurement

Kind = Literal["continuous", "discrete", "mixed"]


@dataclass(frozen=True)
class Estimator:
    """One entry of :data:`ESTIMATORS`.

    Attributes:
        name: key in the table.
        method: ``(x [n, dim_x], y [n, dim_y], *, seed, **options) -> Measurement``, float64 arrays in, nats out.
        note: what it assumes and where it fails.
        source: paper and equation.
        kind: the variables it takes: ``"continuous"`` (floating-point numbers), ``"discrete"`` (integers, categories or
            strings, which arrive at the method as integral float64), or ``"mixed"`` (either, in either variable).
        seeded: whether the value depends on the seed.
        repeats: whether pairs may occur more than once without spoiling the estimate, as they do in a bootstrap sample.
            Neighbours at distance zero and pairs shared between training and test do spoil one.
    """

    name: str
    method: Callable[..., Measurement]
    note: str
    source: str
    kind: Kind = "continuous"
    seeded: bool = False
    repeats: bool = False


ESTIMATORS: dict[str, Estimator] = {
    entry.name: entry
    for entry in (
        *(
            Estimator(bound.name, partial(neural.estimate, bound=bound.name), bound.note, bound.source, seeded=True)
            for bound in BOUNDS.values()
            if not bound.requires  # what only its user knows, such as the true density that CLUB wants
        ),
        Estimator(
            "gaussian",
            gaussian.estimate,
            "exact for Gaussian data; elsewhere sees linear dependence only",
            "Gelfand and Yaglom 1957",
            repeats=True,
        ),
        Estimator(
            "ksg",
            ksg.estimate,
            "low bias in a few dimensions; underestimates when the dimension or the mutual information is large",
            "Kraskov, Stögbauer and Grassberger 2004 (arXiv cond-mat/0305641), eq. 8",
        ),
        Estimator(
            "ksg2",
            partial(ksg.estimate, algorithm=2),
            "as ksg, with a box of its own side in x and in y: mostly less bias, somewhat more variance",
            "Kraskov, Stögbauer and Grassberger 2004 (arXiv cond-mat/0305641), eq. 9",
        ),
    )
}
