"""Models of the density of y given x, or of y alone, that are trained by maximum likelihood.

They are what CLUB, the leave-one-out bound, Barber-Agakov, DoE and ER need in place of a critic. All densities are
normalised exactly; log-densities are in nats. ``dim_x=0`` makes a marginal density, whose ``x`` is ``None``.
"""

from collections.abc import Callable

from mi_estimators.densities.density import ConditionalDensity
from mi_estimators.densities.flow import AffineFlow
from mi_estimators.densities.gaussian import DiagonalGaussian, GaussianMixture

DENSITIES: dict[str, Callable[..., ConditionalDensity]] = {
    "gaussian": DiagonalGaussian,
    "mixture": GaussianMixture,
    "flow": AffineFlow,
}

__all__ = ["DENSITIES", "AffineFlow", "ConditionalDensity", "DiagonalGaussian", "GaussianMixture"]
