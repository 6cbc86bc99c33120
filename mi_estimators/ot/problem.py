r"""Entropic transport problems and their dual.

.. math::
    \max_{f, g}\; \sum_i a_i \psi_x(f_i) + \sum_j b_j \psi_y(g_j)
        - \varepsilon \sum_{ij} a_i b_j \bigl(e^{(f_i + g_j - C_{ij}) / \varepsilon} - 1\bigr)

with :math:`\psi(f) = f` where a marginal is held, and :math:`\rho (1 - e^{-f/\rho})` where leaving it costs
:math:`\rho\, \mathrm{KL}`. Everything else in this package is a property of this function: a half-step of Sinkhorn's
iteration maximises it in one potential, the marginal error is its gradient, the value its maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mi_estimators.ot.costs import Costs


def log_weights(weights: Tensor) -> Tensor:
    """Logarithms, -inf where a weight is 0.

    Recorded by autograd, a weight of 0 counts as one that is lost in every sum: then the derivative by it is the one
    from above, and not 0.
    """
    absent = weights == 0
    if weights.requires_grad and torch.is_grad_enabled():
        return (weights + absent.to(weights.dtype) * torch.finfo(weights.dtype).tiny ** 0.5).log()
    return weights.masked_fill(absent, 1).log().masked_fill(absent, -math.inf)


def _finite(weights: Tensor, values: Tensor) -> Tensor:
    """Values, 0 for those without weight that are infinite: potentials of points without an allowed pair."""
    return values.masked_fill((weights == 0) & ~values.isfinite(), 0)


def masked_product(weights: Tensor, values: Tensor) -> Tensor:
    """Products, 0 where a weight is, whatever the value."""
    return weights * _finite(weights, values)


@dataclass(frozen=True)
class Problem:
    """Costs, weights, epsilon (a tensor of one element) and the price of leaving each marginal (None: held).

    ``absent``: some weight may be 0, which is known once, so that no iteration has to look.
    """

    costs: Costs
    a: Tensor  # [n]
    b: Tensor  # [m]
    epsilon: Tensor  # []
    rho: tuple[float | None, float | None] = (None, None)
    absent: bool = True

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What the value is differentiated by."""
        return (self.epsilon, self.a, self.b, *self.costs.inputs)

    def of(self, epsilon: Tensor, a: Tensor, b: Tensor, *inputs: Tensor) -> Problem:
        """The same problem with other parameters."""
        return replace(self, costs=self.costs.of(*inputs), a=a, b=b, epsilon=epsilon)

    def detached(self) -> Problem:
        """The same problem without gradients."""
        return self.of(*(t.detach() for t in self.parameters))

    def with_itself(self, side: int) -> Problem:
        """The problem of one side's points with themselves."""
        weights = (self.a, self.b)[side]
        return replace(self, costs=self.costs.with_itself(side), a=weights, b=weights, rho=(self.rho[side],) * 2)

    @property
    def balanced(self) -> bool:
        """Whether both marginals are held. Potentials are then unique up to a constant moved between them."""
        return self.rho == (None, None)

    def row_bias(self, f: Tensor) -> Tensor:
        """What the rows add to the scores -C / epsilon of the plan."""
        return _finite(self.a, f) / self.epsilon + log_weights(self.a)

    def col_bias(self, g: Tensor) -> Tensor:
        """What the columns add to them."""
        return _finite(self.b, g) / self.epsilon + log_weights(self.b)

    def damping(self, side: int) -> Tensor:
        """What part of a balanced half-step is gone: all of it where the marginal is held."""
        rho = self.rho[side]
        return torch.ones_like(self.epsilon) if rho is None else rho / (self.epsilon + rho)

    def half_step(self, side: int, lse: Tensor) -> Tensor:
        """The potential of one side that maximises the dual, from the log-sum-exp over the other."""
        return -self.epsilon * self.damping(side) * lse

    def wanted_share(self, side: int, potential: Tensor) -> Tensor:
        """The marginal that a potential asks for, as a multiple of the weights: psi'."""
        rho = self.rho[side]
        return torch.ones_like(potential) if rho is None else torch.exp(-potential / rho)

    def gain(self, side: int, potential: Tensor) -> Tensor:
        """psi of a potential."""
        rho = self.rho[side]
        return potential if rho is None else -rho * torch.expm1(-potential / rho)

    def row_sums(self, f: Tensor, row_lse: Tensor) -> Tensor:
        """Row sums of the plan; ``row_lse`` is that of ``col_bias(g)``."""
        return masked_product(self.a, torch.exp(f / self.epsilon + row_lse))

    def dual(self, f: Tensor, g: Tensor, plan_mass: Tensor) -> Tensor:
        """The dual function, from the mass of the plan of f and g."""
        gains = masked_product(self.a, self.gain(0, f)).sum() + masked_product(self.b, self.gain(1, g)).sum()
        return gains - self.epsilon * (plan_mass - self.a.sum() * self.b.sum())

    def translated(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Potentials moved by the constant, added to f and taken from g, that maximises the dual.

        It changes no entry of the plan. Where a marginal may be left, that is the slow direction of the iteration
        (Sejourne, Vialard and Peyre 2022, "Faster unbalanced optimal transport: translation invariant Sinkhorn").
        Where both are held the dual does not depend on it, and <a, f> = <b, g> is chosen.
        """
        if self.balanced:
            shift = (masked_product(self.b, g).sum() - masked_product(self.a, f).sum()) / (self.a.sum() + self.b.sum())
            return f + shift, g - shift
        logs = [
            weights.sum().log()
            if rho is None
            else torch.logsumexp(log_weights(weights) - _finite(weights, potential) / rho, 0)
            for weights, potential, rho in ((self.a, f, self.rho[0]), (self.b, g, self.rho[1]))
        ]
        stiffness = sum(1 / rho for rho in self.rho if rho is not None)
        shift = (logs[0] - logs[1]) / stiffness
        return f + shift, g - shift

    def with_absent(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The potentials at convergence, those of points without weight as functions of the others."""
        absent_x, absent_y = (self.a == 0) & f.isfinite(), (self.b == 0) & g.isfinite()
        row_lse = self.costs.row_lse(self.epsilon, self.col_bias(g)).masked_fill(~absent_x, 0)
        col_lse = self.costs.col_lse(self.epsilon, self.row_bias(f)).masked_fill(~absent_y, 0)
        f, g = (
            torch.where(absent_x, self.half_step(0, row_lse), f),
            torch.where(absent_y, self.half_step(1, col_lse), g),
        )
        return f, g

    def row_shares(self, rows: slice, g: Tensor) -> Tensor:
        """Rows of the plan over their sums, which neither underflow nor depend on the rows' weights and potentials.

        NaN in a row without an allowed pair.
        """
        cost = self.costs.block(rows)
        forbidden = cost == math.inf
        logits = self.col_bias(g) - cost.masked_fill(forbidden, 0) / self.epsilon
        return torch.softmax(logits.masked_fill(forbidden, -math.inf), dim=1)

    def plan_block(self, rows: slice, f: Tensor, g: Tensor) -> Tensor:
        """Rows of the plan, by operations that autograd differentiates at any order."""
        cost = self.costs.block(rows)
        forbidden = cost == math.inf
        logits = (f[rows, None] + g - cost.masked_fill(forbidden, 0)) / self.epsilon
        # The potential of a point without weight and without an allowed pair is infinite.
        forbidden = forbidden | f[rows, None].isinf() | g.isinf()
        return self.a[rows, None] * self.b * torch.exp(logits.masked_fill(forbidden, -math.inf))
