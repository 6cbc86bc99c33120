"""Variational bounds on mutual information as pure functions.

Most take ``scores`` of shape ``[K, K]`` with ``scores[i, j] = f(x_i, y_j)`` for a batch of K i.i.d. pairs: the diagonal
holds the scores of the K joint samples, the off-diagonal entries those of K (K - 1) samples of the product of the
marginals. Where the critic factors, :class:`Factored` embeddings take their place, and the matrix is never made. Others
take log-densities of a model of y given x. All values are in nats.

:data:`BOUNDS` lists them with what each is and is not; :mod:`mi_estimators.variational` adds the networks they need.
"""

from mi_estimators.bounds.classifier import js, js_objective, smile
from mi_estimators.bounds.conditional import ba, club, doe, er, l1out
from mi_estimators.bounds.multisample import i_alpha, i_nce, i_nce_loo, i_nce_with_negatives, nwj_with_negatives
from mi_estimators.bounds.pairs import Factored
from mi_estimators.bounds.table import BOUNDS, SCORE_BOUNDS, Bound
from mi_estimators.bounds.unnormalized import dv, flo, mine_step, nwj, tuba

__all__ = [
    "BOUNDS",
    "SCORE_BOUNDS",
    "Bound",
    "Factored",
    "ba",
    "club",
    "doe",
    "dv",
    "er",
    "flo",
    "i_alpha",
    "i_nce",
    "i_nce_loo",
    "i_nce_with_negatives",
    "js",
    "js_objective",
    "l1out",
    "mine_step",
    "nwj",
    "nwj_with_negatives",
    "smile",
    "tuba",
]
