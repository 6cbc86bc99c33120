"""One alternating Sinkhorn iteration in one sweep, against dense float64 half-steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mi_estimators as mi
from mi_estimators import _extension
from mi_estimators.ops import sinkhorn_iteration
from mi_estimators.ops.sinkhorn_iteration import reference
from mi_estimators.ot import costs as costs_module
from tests.transport import dense_cost, dense_sinkhorn, relative_error

Sums = tuple[Tensor, Tensor, Tensor]
SIZES = [(7, 5, 3), (64, 64, 64), (130, 257, 2), (301, 129, 40), (97, 1100, 5)]
ONE = torch.tensor(1.0, dtype=torch.float64)


def problem(n: int, m: int, d: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Points and weights, of which some are 0."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, d, generator=generator, dtype=dtype) / d**0.5 for k in (n, m))
    a, b = (torch.rand(k, generator=generator, dtype=dtype) + 0.1 for k in (n, m))
    a[n // 2] = b[0] = b[-1] = 0
    return {"x": x + 3, "y": y + 3.2, "a": a / a.sum(), "b": b / b.sum()}


def dense_scores(given: dict[str, Tensor], score: str = "sqeuclidean") -> Tensor:
    x, y = given["x"].double(), given["y"].double()
    return x @ y.T if score == "dot" else -(x[:, None] - y).square().sum(-1)


def dense(
    given: dict[str, Tensor], logits: Tensor, phi: Tensor, psi: Tensor, damping: float = 1.0, relaxation: float = 1.0
) -> Sums:
    """By the formulas, with every pair in float64."""
    a, b, phi, psi = given["a"].double(), given["b"].double(), phi.double(), psi.double()
    row_lse = (logits + psi + b.log()).logsumexp(1)
    new_phi = (1 - relaxation) * phi - relaxation * damping * row_lse
    return row_lse, new_phi, (logits + (new_phi + a.log())[:, None]).logsumexp(0)


def tolerance(given: dict[str, Tensor], scale: float, score: str) -> float:
    """What some roundings of the largest logits come to; squares are those of points moved to their mean."""
    x, y = given["x"].double(), given["y"].double()
    if score == "sqeuclidean":
        x, y = x - y.mean(0), y - y.mean(0)
    size = scale * float(x.square().sum(1).max() + y.square().sum(1).max())
    return 6 * torch.finfo(given["x"].dtype).eps * (4 + size)


@pytest.mark.parametrize("known", [False, True], ids=["", "products"])
@pytest.mark.parametrize("score", ["sqeuclidean", "dot"])
@pytest.mark.parametrize(("n", "m", "d"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_dense_half_steps(n: int, m: int, d: int, score: str, known: bool, dtype: torch.dtype) -> None:
    given = problem(n, m, d, dtype)
    if known and score == "sqeuclidean":  # as handed in by a caller that has moved the points
        centre = given["y"].mean(0)
        given |= {"x": given["x"] - centre, "y": given["y"] - centre}
    products = given["x"] @ given["y"].T if known else None
    scores = dense_scores(given, score)
    for scale in (0.3, 5.0, 40.0):  # at the last, float32 sums of the first step are out of reach
        phi, psi = torch.zeros(n, dtype=dtype), torch.zeros(m, dtype=dtype)
        for damping, relaxation in ((1.0, 1.0), (0.7, 1.0), (1.0, 1.5), (1.0, 1.0)):
            found = sinkhorn_iteration(
                **given,
                scale=torch.tensor(scale, dtype=dtype),
                phi=phi,
                psi=psi,
                damping=torch.tensor(damping, dtype=dtype),
                products=products,
                relaxation=relaxation,
                score=score,
            )
            truth = dense(given, scale * scores, phi, psi, damping, relaxation)
            for value, expected in zip(found, truth, strict=True):
                assert value.dtype == dtype
                size = float(phi.abs().max() + psi.abs().max() + expected.abs().max())
                limit = tolerance(given, scale, score) + 6 * torch.finfo(dtype).eps * size
                assert float((value.double() - expected).abs().max()) <= limit
            phi, psi = found[1], -found[2]


def test_float32_is_no_further_from_the_truth_than_torch() -> None:
    given = problem(200, 300, 33, torch.float32)
    scale, one, scores = torch.tensor(20.0), torch.ones(()), dense_scores(given)
    phi, psi = torch.zeros(200), torch.zeros(300)
    for _ in range(4):
        found = sinkhorn_iteration(**given, scale=scale, phi=phi, psi=psi, damping=one)
        operands = (given["x"], given["y"], scale, given["a"], given["b"], phi, psi, one, None, 1.0, "sqeuclidean")
        own = reference(*operands)
        truth = dense(given, 20.0 * scores, phi, psi)
        for value, peer, expected in zip(found, own, truth, strict=True):
            error, torch_error = (float((t.double() - expected).abs().max()) for t in (value, peer))
            assert error <= 2 * torch_error
        phi, psi = found[1], -found[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_few_sums_out_of_reach_are_computed_again(dtype: torch.dtype) -> None:
    given = problem(160, 200, 4, dtype)
    far = 60.0 if dtype == torch.float32 else 900.0
    given["x"][[3, 90]] += far**0.5
    given["y"][[5]] -= far**0.5
    scale, scores = torch.tensor(3.0, dtype=dtype), dense_scores(given)
    phi, psi = torch.zeros(160, dtype=dtype), torch.zeros(200, dtype=dtype)
    for _ in range(2):
        found = sinkhorn_iteration(**given, scale=scale, phi=phi, psi=psi, damping=ONE.to(dtype))
        truth = dense(given, 3.0 * scores, phi, psi)
        size = max(float(expected.abs().max()) for expected in truth)  # what is rounded in the sums
        for value, expected in zip(found, truth, strict=True):
            assert float((value.double() - expected).abs().max()) <= 6 * torch.finfo(dtype).eps * (1 + size)
        phi, psi = found[1], -found[2]


def test_halves_and_strides() -> None:
    given = problem(70, 90, 12, torch.bfloat16)
    given |= {name: given[name].float() for name in "ab"}
    vectors = {"phi": torch.zeros(140)[::2], "psi": torch.zeros(2, 90).T[:, 0], "damping": torch.ones(())}
    found = sinkhorn_iteration(**given, scale=torch.tensor(2.0), **vectors)
    wide = {name: tensor.float() for name, tensor in given.items()}
    wide |= {name: wide[name].T.contiguous().T for name in "xy"}
    again = sinkhorn_iteration(**wide, scale=torch.tensor(2.0), **vectors)
    for one, other in zip(found, again, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_potentials_that_are_not_finite_travel_on() -> None:
    given = problem(80, 80, 3, torch.float64)
    psi = torch.zeros(80, dtype=torch.float64)
    psi[7] = torch.nan
    found = sinkhorn_iteration(**given, scale=ONE, phi=torch.full_like(psi, torch.inf), psi=psi, damping=ONE)
    assert bool(found[0].isnan().all())
    found = sinkhorn_iteration(
        **given, scale=ONE, phi=torch.full_like(psi, torch.inf), psi=psi.nan_to_num(), damping=ONE
    )  # a whole step does not read the old potential
    assert all(bool(value.isfinite().all()) for value in found)


@pytest.mark.skipif(not _extension.info()["cpu_kernels"], reason="the reference checks nothing")
@pytest.mark.parametrize("wrong", ["a", "b", "phi", "psi", "damping", "products"])
def test_a_direct_call_with_a_wrong_size_is_refused(wrong: str) -> None:
    given = problem(9, 8, 3, torch.float64)
    vectors = {"phi": torch.zeros(9), "psi": torch.zeros(8), "damping": torch.ones(1), "products": torch.zeros(9, 8)}
    given |= {name: tensor.double() for name, tensor in vectors.items()}
    with pytest.raises(RuntimeError, match=wrong):
        sinkhorn_iteration(**given | {wrong: torch.zeros(4, dtype=torch.float64)}, scale=ONE)
    with pytest.raises(RuntimeError, match=wrong):
        sinkhorn_iteration(**given | {wrong: given[wrong].float()}, scale=ONE)


def test_opcheck() -> None:
    given = problem(6, 4, 3, torch.float64)
    arguments = (
        given["x"],
        given["y"],
        ONE,
        given["a"],
        given["b"],
        torch.zeros(6),
        torch.zeros(4),
        ONE,
        None,
        1.2,
        "dot",
    )
    arguments = tuple(t.double() if isinstance(t, Tensor) else t for t in arguments)
    torch.library.opcheck(torch.ops.mi_estimators.sinkhorn_iteration.default, arguments)


@pytest.mark.parametrize("cost", ["sqeuclidean", "cosine"])
def test_kept_products_change_nothing_but_time(monkeypatch: pytest.MonkeyPatch, cost: str) -> None:
    given = problem(90, 80, 20, torch.float64)
    want = dense_sinkhorn(dense_cost(given["x"], given["y"], cost), given["a"], given["b"], 0.3)
    for kept in (0, 1 << 20):
        monkeypatch.setattr(costs_module, "KEPT_BYTES", {"cpu": kept})
        result = mi.sinkhorn(**given, epsilon=0.3, cost=cost, tol=1e-12)
        assert relative_error(result.value, want[0]) <= 1e-11
        assert relative_error(result.plan(), want[1]) <= 1e-9
