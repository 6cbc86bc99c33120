"""The table of estimators: what each takes and where it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mi_estimators.bounds import BOUNDS
from mi_estimators.estimators import discrete, entropies, gaussian, ksg, latent, lnc, mixed, neural
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
            "exact for Gaussian data, at any dimension that the number of pairs allows; elsewhere sees linear "
            "dependence only",
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
        Estimator(
            "kl3h",
            entropies.kozachenko_leonenko,
            "three nearest-neighbour entropies, linear dependence taken out first: for nearly normal data however "
            "strongly dependent; underestimates in many dimensions",
            "Kozachenko and Leonenko 1987; Kraskov et al. 2004 (arXiv cond-mat/0305641), eq. 20",
        ),
        Estimator(
            "wkl3h",
            entropies.weighted_kozachenko_leonenko,
            "as kl3h, with weighted neighbours that take off the leading terms of its bias, and more variance: curved "
            "dependence in four to eleven columns together, thousands of pairs",
            "Berrett, Samworth and Yuan 2019 (arXiv 1606.00304)",
        ),
        Estimator(
            "lnc",
            lnc.estimate,
            "ksg2 corrected for flat neighbourhoods: where y nearly is a function of x, in one or two dimensions each; "
            "overestimates in more",
            "Gao, Ver Steeg and Galstyan 2015 (arXiv 1411.2003), algorithm 1",
        ),
        Estimator(
            "kde",
            entropies.kde,
            "three leave-one-out kernel density entropies, linear dependence taken out first: low variance for smooth "
            "densities in few dimensions; underestimates in many",
            "Joe 1989; Moon, Rajagopalan and Lall 1995",
        ),
        Estimator(
            "histogram",
            discrete.histogram,
            "information of the bins, a lower bound but for the error of the counts: many pairs of one coordinate each",
            "Moddemeijer 1989; Miller 1955",
            repeats=True,
        ),
        Estimator(
            "latent",
            latent.estimate,
            "ksg between the leading canonical variables, or principal components: high dimensions whose dependence "
            "lies in few directions; misses the rest",
            "Gowri et al. 2024 (arXiv 2409.02732); Hotelling 1936",
            seeded=True,
        ),
        Estimator(
            "discrete",
            discrete.estimate,
            "plug-in with Miller and Madow's correction: categories that are each seen several times",
            "Miller 1955; Roulston 1999",
            kind="discrete",
            repeats=True,
        ),
        Estimator(
            "mixed",
            mixed.ross,
            "one discrete and one continuous variable of a few dimensions; else underestimates like ksg",
            "Ross 2014 (PLoS ONE 9(2) e87357), eq. 2",
            kind="mixed",
        ),
        Estimator(
            "mixture",
            mixed.mixture,
            "variables that have atoms beside a density, or are of either kind; needs no telling which",
            "Gao, Kannan, Oh and Viswanath 2017 (arXiv 1709.06212), algorithm 1",
            kind="mixed",
        ),
    )
}
"""Every estimator, by name."""
