"""Compare sinkhorn and sinkhorn_divergence with OTT, POT and geomloss in float64: ``python -m benchmarks.ot_oracles``.

Values and gradients by points, weights and epsilon, with marginals held and priced. OTT and POT converge;
geomloss stops after annealing, and is asked for balanced divergences only, as a check of how its parameters convert.
Prints a table, writes it to benchmarks/results/sinkhorn-oracles.json (``--out``), from where ``python -m
benchmarks.publish benchmarks/results/sinkhorn-oracles.json`` brings it to docs/sinkhorn_results.md, and ends with 1
where an error is above what is allowed. Wants ott-jax, jax, POT and geomloss beside torch.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mi_estimators as mi
from benchmarks.files import write_json
from benchmarks.provenance import ROOT, provenance

N, M, D = 40, 30, 3
EPSILONS = (0.5, 2.0)
RHOS = (None, 1.0, 5.0)
LARGEST = {"OTT": 1e-8, "POT": 1e-8, "geomloss": 1e-4}


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points and weights, the same for every oracle and every version of torch."""
    k = torch.arange(N * D, dtype=torch.float64)
    x, y = (1.7 * k).sin().reshape(N, D), (2.3 * k[: M * D]).cos().reshape(M, D) + 0.3
    return x, y, (0.9 * k[:N]).sin().softmax(0), (1.1 * k[:M]).cos().softmax(0)


def ours(epsilon: float, rho: float | None, *, divergence: bool = False) -> dict[str, Tensor]:
    x, y, a, b = (t.requires_grad_() for t in problem())
    e = torch.tensor(epsilon, dtype=torch.float64, requires_grad=True)
    solver = mi.sinkhorn_divergence if divergence else mi.sinkhorn
    result = solver(x, y, a, b, epsilon=e, rho=rho, tol=1e-13)
    gradients = torch.autograd.grad(result.value, (x, y, a, b, e))
    return dict(zip(("value", "x", "y", "a", "b", "epsilon"), (result.value.detach(), *gradients), strict=True))


def ott(epsilon: float, rho: float | None) -> dict[str, Tensor]:
    """Values and gradients: its own balanced, and of the primal objective of its plan, which it differentiates.

    Its unbalanced problem has the entropy relative to the counting measure, and is ours with other costs.
    """
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    from ott.geometry import geometry, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import implicit_differentiation, sinkhorn

    jnp = jax.numpy
    arrays = tuple(jnp.asarray(t.numpy()) for t in problem())
    solver = sinkhorn.Sinkhorn(
        threshold=1e-14,
        max_iterations=20000,
        implicit_diff=implicit_differentiation.ImplicitDiff(),
    )

    def kl(p, q):  # type: ignore[no-untyped-def]
        return (p * jnp.log(p / q) - p + q).sum()

    def balanced(x, y, a, b, epsilon):  # type: ignore[no-untyped-def]
        linear = linear_problem.LinearProblem(pointcloud.PointCloud(x, y, epsilon=epsilon), a, b)
        return solver(linear).reg_ot_cost

    def unbalanced(x, y, a, b):  # type: ignore[no-untyped-def]
        cost = ((x[:, None] - y) ** 2).sum(2)
        moved = geometry.Geometry(cost - epsilon * (jnp.log(a)[:, None] + jnp.log(b)), epsilon=epsilon)
        tau = rho / (rho + epsilon)
        plan = solver(linear_problem.LinearProblem(moved, a, b, tau_a=tau, tau_b=tau)).matrix
        spread = epsilon * kl(plan, a[:, None] * b)
        return (plan * cost).sum() + spread + rho * (kl(plan.sum(1), a) + kl(plan.sum(0), b))

    if rho is None:
        found, gradients = jax.value_and_grad(balanced, argnums=range(5))(*arrays, epsilon)
    else:
        found, gradients = jax.value_and_grad(unbalanced, argnums=range(4))(*arrays)
    parts = [torch.from_numpy(np.array(part)) for part in (found, *gradients)]
    return dict(zip(("value", "x", "y", "a", "b", "epsilon"), parts, strict=False))


def pot(epsilon: float, rho: float | None) -> dict[str, Tensor]:
    """Values and gradients by autodiff through the iterations; unbalanced, of the primal objective of its plan."""
    import ot

    x, y, a, b = (t.requires_grad_() for t in problem())
    e = torch.tensor(epsilon, dtype=torch.float64, requires_grad=True)
    cost = (x[:, None] - y).square().sum(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rho is None:
            value = ot.solve(cost, a, b, reg=e, reg_type="KL", max_iter=3000, tol=1e-15).value
        else:
            plan = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, e, rho, reg_type="kl", numItermax=3000, stopThr=1e-15)
            left = sum(kl(marginal, weights) for marginal, weights in ((plan.sum(1), a), (plan.sum(0), b)))
            value = (plan * cost).sum() + e * kl(plan, a[:, None] * b) + rho * left
    gradients = torch.autograd.grad(value, (x, y, a, b, e))
    return dict(zip(("value", "x", "y", "a", "b", "epsilon"), (value.detach(), *gradients), strict=True))


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log() - p + q).sum()


def geomloss(epsilon: float, rho: float | None) -> dict[str, Tensor]:
    """Balanced divergences. Its cost has a factor 1/2, and epsilon is blur^2; it stops when it has annealed."""
    from geomloss import SamplesLoss

    if rho is not None:
        return {}
    x, y, a, b = problem()
    loss = SamplesLoss("sinkhorn", p=2, blur=(epsilon / 2) ** 0.5, scaling=0.99, backend="tensorized")
    return {"value": 2 * loss(a, x, b, y)}


def centred(gradients: dict[str, Tensor], rho: float | None) -> dict[str, Tensor]:
    """With both marginals held, gradients by weights without the constant that they are defined up to."""
    if rho is not None:
        return gradients
    return {k: v - v.mean() if k in ("a", "b") else v for k, v in gradients.items()}


def compare(name: str, oracle: Callable[..., dict[str, Tensor]], *, divergence: bool = False) -> list[dict[str, Any]]:
    """A line for each problem: the errors relative to the largest element. Printed, too."""
    lines: list[dict[str, Any]] = []
    for epsilon in EPSILONS:
        for rho in RHOS:
            try:
                theirs = centred(oracle(epsilon, rho), rho)
            except ImportError as error:
                print(f"{name}: {error}")
                return lines
            if not theirs:
                continue
            own = centred(ours(epsilon, rho, divergence=divergence), rho)
            errors = {k: float((own[k] - v).abs().max() / v.abs().max()) for k, v in theirs.items()}
            lines.append({"oracle": name, "epsilon": epsilon, "rho": rho, "errors": errors})
            if name == "OTT":
                numbers = (theirs["value"], theirs["x"][0, 0], theirs["y"][1, 2], theirs["a"][3])
                print("  ", epsilon, rho, *(f"{float(number):.15g}" for number in numbers), sep=", ")
            print(f"{name:9} epsilon={epsilon:<4} rho={rho!s:<5}", "  ".join(f"{k} {e:.1e}" for k, e in errors.items()))
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The whole table; 1 where an error is above the largest allowed, or an oracle is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ot_oracles", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "sinkhorn-oracles.json")
    out = parser.parse_args(argv).out
    about = provenance(torch.get_num_threads(), ("ott-jax", "jax", "POT", "geomloss"))
    lines = compare("OTT", ott) + compare("POT", pot) + compare("geomloss", geomloss, divergence=True)
    document = {**about, "study": "oracles", "lines": lines, "allowed": LARGEST}
    write_json(out, document)
    met = True
    for name, allowed in LARGEST.items():
        errors = [error for line in lines if line["oracle"] == name for error in line["errors"].values()]
        met &= bool(errors) and all(error <= allowed for error in errors)
        print(f"{name}: largest relative error {max(errors, default=float('nan')):.1e}, at most {allowed:.0e} allowed")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
