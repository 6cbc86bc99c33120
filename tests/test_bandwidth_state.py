from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from processes import run_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import mi_estimators as mi
from mi_estimators.entropy import BandwidthState, select_bandwidth
from mi_estimators.entropy.bandwidth import likelihood

DOUBLE = torch.float64
RULES = ("loo", "loo_diagonal", "loo_full", "scott", "isj")


def batch(seed: int, n: int = 60, d: int = 2) -> Tensor:
    x = torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    return x * torch.linspace(1, 2, d, dtype=DOUBLE) * (1 + 0.1 * seed)


def log_of(bandwidth: Tensor) -> Tensor:
    if bandwidth.ndim < 2:
        return bandwidth.log()
    values, vectors = torch.linalg.eigh(bandwidth)
    return (vectors * values.log()) @ vectors.T


@pytest.mark.parametrize("rule", RULES)
def test_without_momentum_it_is_the_rule(rule):
    state = BandwidthState(rule)
    assert state.bandwidth is None
    for seed in range(3):
        x = batch(seed).requires_grad_()
        got = state(x)
        assert not got.requires_grad
        assert got.dtype == DOUBLE
        torch.testing.assert_close(got, torch.as_tensor(select_bandwidth(x, rule), dtype=DOUBLE), rtol=1e-3, atol=1e-4)
    assert state(batch(0).float()).dtype == torch.float32


@pytest.mark.parametrize("rule", RULES)
def test_momentum_averages_logarithms(rule):
    state = BandwidthState(rule, momentum=0.75)
    want = log_of(torch.as_tensor(select_bandwidth(batch(0), rule), dtype=DOUBLE))
    state(batch(0))
    for seed in (1, 2):
        chosen = log_of(torch.as_tensor(select_bandwidth(batch(seed), rule), dtype=DOUBLE))
        want = 0.75 * want + 0.25 * chosen
        torch.testing.assert_close(log_of(state(batch(seed))), want, rtol=1e-3, atol=1e-3)


def test_weights_reach_the_rule():
    weights = torch.linspace(0.1, 1, 60)
    want = select_bandwidth(batch(0), weights=weights)
    assert BandwidthState()(batch(0), weights=weights).item() == pytest.approx(want, rel=1e-6)


def test_a_training_needs_fewer_sweeps_than_a_first_choice(monkeypatch):
    scales: list[int] = []
    moments = likelihood.pairwise_lse_moments

    def counted(*args, **options):
        scales.append(len(options["scales"]))
        return moments(*args, **options)

    monkeypatch.setattr(likelihood, "pairwise_lse_moments", counted)
    x, noise = batch(0, 200), batch(1, 200)
    x[:70] *= 0.2  # far from normal, so that the normal reference is a poor start
    state = BandwidthState()
    warm, cold = [], []
    for step in range(6):
        moved = x + 0.005 * step * noise
        scales.clear()
        state(moved)
        warm.append(len(scales))
        scales.clear()
        select_bandwidth(moved)
        cold.append(len(scales))
    assert warm[0] == cold[0]
    assert all(later < first for later, first in zip(warm[1:], cold[1:], strict=True))


def test_evaluation_mode_returns_what_training_left():
    state = BandwidthState("loo_diagonal", momentum=0.5)
    held = state(batch(0))
    state.eval()
    torch.testing.assert_close(state(batch(5)), held, rtol=1e-6, atol=0)
    torch.testing.assert_close(state(batch(0)), held, rtol=1e-6, atol=0)
    fresh = BandwidthState().eval()  # with nothing held it has to choose
    assert fresh(batch(0)).item() == pytest.approx(select_bandwidth(batch(0)))


@pytest.mark.parametrize("rule", ["loo", "loo_diagonal", "loo_full"])
def test_checkpoints(rule):
    state = BandwidthState(rule, momentum=0.5)
    model = nn.ModuleDict({"bandwidth": state})
    state(batch(0))
    restored = nn.ModuleDict({"bandwidth": BandwidthState(rule, momentum=0.5)})
    restored.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    want = state(batch(1))
    torch.testing.assert_close(restored["bandwidth"](batch(1)), want)
    torch.testing.assert_close(twin["bandwidth"](batch(1)), want)
    restored.load_state_dict(nn.ModuleDict({"bandwidth": BandwidthState(rule)}).state_dict())  # back to nothing held
    assert restored["bandwidth"].bandwidth is None
    with pytest.raises(RuntimeError, match="log_bandwidth"):
        restored.load_state_dict({})


@pytest.mark.parametrize(("kernel", "rule"), [("gaussian", "loo"), ("gaussian", "loo_full"), ("vmf", "loo")])
def test_it_is_a_bandwidth(kernel, rule):
    x = batch(0, 40, 3)
    x = F.normalize(x, dim=1) if kernel == "vmf" else x
    got = mi.kde_entropy(x, kernel=kernel, bandwidth=BandwidthState(rule, kernel))
    torch.testing.assert_close(got, mi.kde_entropy(x, kernel=kernel, bandwidth=rule), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rule": "lo"}, "rule: want one of"),
        ({"rule": "knn"}, "rule: want one that does not belong to the points"),
        ({"rule": "scott", "kernel": "vmf"}, "rule: want one of"),
        ({"momentum": 1.0}, "momentum: want a number from 0 to below 1"),
        ({"momentum": -0.1}, "momentum: want"),
        ({"momentum": math.nan}, "momentum: want"),
    ],
)
def test_bad_arguments_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        BandwidthState(**options)


def test_points_of_another_width_are_refused():
    state = BandwidthState("loo_diagonal")
    state(batch(0))
    with pytest.raises(ValueError, match="x: want the 2 columns of the bandwidth held, got 3"):
        state(batch(0, 50, 3))


# ----------------------------------------------------------------------------------------------------------- processes


def averaging(rank: int, world: int) -> dict[str, list[Tensor]]:
    results = {}
    for rule in RULES:
        state = BandwidthState(rule, momentum=0.5)
        results[rule] = [state(batch(rank)), state(batch(rank + 1))]
    return results


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=DOUBLE)
        self.bandwidth = BandwidthState(momentum=0.5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return mi.kde_entropy(z, bandwidth=self.bandwidth)


def training(rank: int, world: int) -> list[Tensor]:
    torch.manual_seed(0)
    model = DistributedDataParallel(Model())
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    held = []
    for step in range(3):
        optimiser.zero_grad()
        (-model(batch(rank + step))).backward()
        optimiser.step()
        held.append(model.module.bandwidth.bandwidth.clone())
    return held


def refused(rank: int, world: int) -> str:
    points = torch.ones(5, 2) if rank else batch(0)
    with pytest.raises(ValueError) as error:
        BandwidthState()(points)
    return str(error.value)


def test_processes_hold_one_bandwidth(tmp_path):
    found = run_ranks(2, tmp_path, {"averaging": averaging, "training": training, "refused": refused})
    for rule in RULES:
        logs = None
        for step in range(2):
            got = [ranks[rule][step] for ranks in found["averaging"]]
            torch.testing.assert_close(got[0], got[1], rtol=0, atol=0)
            alone = [select_bandwidth(batch(rank + step), rule) for rank in range(2)]
            mean = torch.stack([log_of(torch.as_tensor(h, dtype=DOUBLE)) for h in alone]).mean(0)
            logs = mean if logs is None else 0.5 * (logs + mean)
            torch.testing.assert_close(log_of(got[0]), logs, rtol=1e-3, atol=1e-3)
    first, second = found["training"]
    assert [h.item() for h in first] == [h.item() for h in second]
    assert len({h.item() for h in first}) == 3
    assert "want points on every rank" in found["refused"][0]
    assert "constant columns 0, 1" in found["refused"][1]


def test_a_state_for_another_kernel_is_refused():
    z = F.normalize(torch.randn(9, 3), dim=1)
    for call in (
        lambda: mi.kde_entropy(z, kernel="vmf", bandwidth=BandwidthState()),
        lambda: mi.er_bound(z, z, bandwidth=BandwidthState()),
        lambda: mi.losses.EntropyReconstruction(bandwidth=BandwidthState()),
        lambda: mi.entropy.EntropyProfile("vmf", BandwidthState()),
        lambda: mi.entropy.KDE("vmf", BandwidthState()).fit(z),
        lambda: mi.entropy.estimate_kde_entropy(z, kernel="vmf", bandwidth=BandwidthState()),
    ):
        with pytest.raises(ValueError, match="bandwidth: want a BandwidthState for kernel 'vmf', got one for 'gauss"):
            call()
    kde = mi.entropy.KDE("exponential", BandwidthState("loo", "laplace")).fit(z)
    assert math.isfinite(kde.entropy().item())
