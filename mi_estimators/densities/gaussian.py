"""Gaussian densities with diagonal covariance whose parameters are a network's, and their mixtures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mi_estimators import _checks
from mi_estimators.densities.density import LOG_SCALE_LIMIT, ConditionalDensity, Conditioner
from mi_estimators.networks import batches, soft_clip


class GaussianMixture(ConditionalDensity):
    r"""``q(y|x) = sum_c w_c(x) N(y; mu_c(x), diag sigma_c(x)^2)``: a mixture density network.

    The matrix of densities takes memory for N M C dim_y numbers.

    Args:
        dim_x: size of x; 0 for a density of y alone.
        dim_y: size of y.
        components: C.
        hidden: sizes of the hidden ReLU layers of the one network that gives all parameters.
        generator: source of the initial weights; None takes PyTorch's global one.

    Source:
        Bishop 1994, "Mixture density networks", eq. 22 and 23 (there with one width per component).
    """

    def __init__(
        self,
        dim_x: int,
        dim_y: int,
        *,
        components: int = 8,
        hidden: Sequence[int] = (64, 64),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim_x, dim_y)
        self.components = _checks.count("components", components)
        self.logits = self.components if self.components > 1 else 0  # the weight of a single one is 1
        self.parameters_of = Conditioner(dim_x, self.logits + 2 * self.components * dim_y, hidden, generator)

    def _log_density(self, y: Tensor, parameters: Tensor) -> Tensor:
        """``y [..., dim_y]`` and ``parameters [..., all]``, broadcast against each other."""
        c, d = self.components, self.dim_y
        logits, mean, log_std = parameters.split([self.logits, c * d, c * d], dim=-1)
        log_std = soft_clip(log_std, LOG_SCALE_LIMIT).unflatten(-1, (c, d))
        z = (y.unsqueeze(-2) - mean.unflatten(-1, (c, d))) * (-log_std).exp()
        of_component = -(0.5 * z.square() + log_std).sum(dim=-1) - 0.5 * d * math.log(2 * math.pi)
        if not self.logits:
            return of_component.squeeze(-1)
        return (of_component + logits.log_softmax(dim=-1)).logsumexp(dim=-1)

    def log_prob(self, y: Tensor, x: Tensor | None = None) -> Tensor:
        """``log q(y_i | x_i)``: see :meth:`ConditionalDensity.log_prob`."""
        self.check(y, x)
        return self._log_density(y, self.parameters_of(x))

    def log_prob_matrix(self, y: Tensor, x: Tensor) -> Tensor:
        """``log q(y_j | x_i)``: see :meth:`ConditionalDensity.log_prob_matrix`. The network sees each x once."""
        batches(x, y, self.dim_x, self.dim_y)
        return self._log_density(y.unsqueeze(0), self.parameters_of(x).unsqueeze(1))


class DiagonalGaussian(GaussianMixture):
    """``q(y|x) = N(y; mu(x), diag sigma(x)^2)``, mean and logarithm of sigma from one network.

    Args:
        dim_x: size of x; 0 for a density of y alone.
        dim_y: size of y.
        hidden: sizes of the hidden ReLU layers.
        generator: source of the initial weights; None takes PyTorch's global one.

    Source:
        Cheng et al. 2020 (arXiv 2006.12013), sec. 4.1.
    """

    def __init__(
        self,
        dim_x: int,
        dim_y: int,
        *,
        hidden: Sequence[int] = (64, 64),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim_x, dim_y, components=1, hidden=hidden, generator=generator)
