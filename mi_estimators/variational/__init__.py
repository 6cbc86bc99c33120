"""Trainable variational estimators: a bound with the networks it needs, from a batch of pairs to a value.

:func:`variational` builds one by name. A training step is three lines, whatever the bound::

    model = variational("infonce", dim_x=5, dim_y=5)
    value, objective = model(x, y)     # x [K, 5], y [K, 5]: K i.i.d. pairs
    (-objective).backward()
"""

from mi_estimators.variational.baselines import BASELINES
from mi_estimators.variational.build import OPTIONS, variational
from mi_estimators.variational.estimator import Step, VariationalEstimator
from mi_estimators.variational.modelled import ENTROPIES

__all__ = ["BASELINES", "ENTROPIES", "OPTIONS", "Step", "VariationalEstimator", "variational"]
