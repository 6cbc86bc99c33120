"""The fast critics of a staircase against the critics they stand for, and training them together against one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from mi_estimators import tightness
from mi_estimators.bounds import BOUNDS, Bound
from mi_estimators.critics import Concatenated, Separable
from mi_estimators.synthetic import correlated_gaussian
from mi_estimators.tightness import TightnessConfig
from mi_estimators.tightness.fast_critics import PairCritic, SeparableStack
from mi_estimators.variational import variational


def pairs(n, m, dim_x, dim_y, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim_x, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randn(m, dim_y, generator=generator, dtype=torch.float64).to(dtype)


def gradients(critic, parameters, x, y, weight):
    """Of a sum of scores with other weights behind them, so that a backward which ignores what arrives is caught."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    scores = critic(x, y)
    return scores, torch.autograd.grad((scores.sin() * weight).sum(), [x, y, *parameters])


@pytest.mark.parametrize("hidden", [(7,), (7, 5), (7, 5, 6)])
def test_pair_critic_has_the_scores_and_gradients_of_its_critic(hidden):
    critic = Concatenated(3, 2, hidden=hidden, generator=torch.Generator().manual_seed(1)).double()
    x, y = pairs(6, 9, 3, 2)
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parameters = list(critic.parameters())
    wanted_scores, wanted = gradients(critic, parameters, x, y, weight)
    fast = PairCritic(critic)
    assert {id(p) for p in fast.parameters()} == {id(p) for p in parameters}
    for _ in range(2):
        scores, got = gradients(fast, parameters, x, y, weight)
        assert (scores - wanted_scores).abs().max() <= 1e-13
        for a, b in zip(got, wanted, strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= 1e-12 * (1 + b.abs().max())
    with torch.no_grad():
        assert torch.equal(fast(x, y), critic(x, y))


def test_pair_critic_says_that_there_is_one_backward():
    critic = Concatenated(2, 3, hidden=(5, 4), generator=torch.Generator().manual_seed(0)).double()
    total = PairCritic(critic)(*pairs(6, 4, 2, 3)).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="freed"):
        total.backward()


def test_buffers_of_one_pass_are_not_overwritten_by_the_next():
    critic = Concatenated(2, 2, hidden=(6, 6), generator=torch.Generator().manual_seed(0)).double()
    fast, parameters = PairCritic(critic), list(critic.parameters())
    batches = [pairs(5, 5, 2, 2, seed=seed) for seed in (1, 2)]
    wanted = torch.autograd.grad(sum(critic(x, y).exp().sum() for x, y in batches), parameters)
    got = torch.autograd.grad(sum(fast(x, y).exp().sum() for x, y in batches), parameters)
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-12 * (1 + b.abs().max())


def test_bfloat16_products_err_no_more_than_autocast():
    critic = Concatenated(20, 20, hidden=(128, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(3)  # scores of order one
    x, y = pairs(32, 32, 20, 20, torch.float32)
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(2))
    parameters = list(critic.parameters())
    got_scores, got = gradients(PairCritic(critic, torch.bfloat16), parameters, x, y, weight)
    assert got_scores.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        their_scores, theirs = gradients(critic, parameters, x, y, weight)
    critic.double()
    truth_scores, truth = gradients(critic, list(critic.parameters()), x.double(), y.double(), weight.double())
    for a, b, true in zip((got_scores, *got), (their_scores, *theirs), (truth_scores, *truth), strict=True):
        assert (a - true).norm() <= 2 * (b - true).norm() + 1e-6 * true.norm()
    # Beyond that the gradients differ by the ReLUs whose sign the rounding turns; scores are continuous.
    assert (got_scores - truth_scores).norm() <= 2**-7 * truth_scores.norm()


def test_separable_stack_has_the_scores_and_gradients_of_its_critics():
    generator = torch.Generator().manual_seed(0)
    critics = [Separable(3, 2, hidden=(7, 5), embedding=4, generator=generator).double() for _ in range(3)]
    stack = SeparableStack(critics)
    batches = [pairs(6, 6, 3, 2, seed=seed) for seed in range(3)]
    x, y = (torch.stack([batch[side] for batch in batches]) for side in (0, 1))
    weight = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    scores = stack.scores(x, y)
    stack.backward(scores, weight)
    for index, critic in enumerate(critics):
        own = critic(*batches[index])
        assert (scores[index] - own).abs().max() <= 1e-13
        wanted = torch.cat([g.flatten() for g in torch.autograd.grad((own * weight[index]).sum(), critic.parameters())])
        assert (stack.gradients[index] - wanted).abs().max() <= 1e-12 * (1 + wanted.abs().max())


def one_by_one(config, bound, seed):
    """The staircase of one bound in plain torch."""
    options = {"hidden": (config.hidden, config.hidden)}
    if config.critic == "separable":
        options["embedding"] = config.embedding
    model = variational(
        bound,
        config.dim,
        config.dim,
        critic=config.critic,
        critic_options=options,
        generator=torch.Generator().manual_seed(seed),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    data = torch.Generator().manual_seed(seed + 1)
    values = []
    for level in config.levels:
        task = correlated_gaussian(config.dim, level)
        for _ in range(config.steps_per_level):
            value, objective = model(*task.sample(config.batch_size, data))
            optimizer.zero_grad()
            (-objective).backward()
            optimizer.step()
            values.append(value.item())
    return values


@pytest.mark.parametrize("critic", ["separable", "concatenated"])
def test_training_together_is_training_one_by_one(critic):
    config = TightnessConfig(
        bounds=("infonce", "nwj", "js"), critic=critic, dim=3, batch_size=16, steps_per_level=10, levels=(0.5, 1.0),
        hidden=12, embedding=5, seed=3, seeds=2, learning_rate=2e-3, threads=2,
    )  # fmt: skip
    result = tightness.run(config)
    assert [(curve["bound"], curve["seed"]) for curve in result["curves"]] == list(
        itertools.product(config.bounds, (3, 4))
    )
    for curve in result["curves"]:
        wanted = one_by_one(config, curve["bound"], curve["seed"])
        assert max(abs(a - b) for a, b in zip(curve["values"], wanted, strict=True)) <= 2e-5
    assert wanted[-1] > wanted[0] + 0.01  # something was learned, so that the comparison says something


def test_values_do_not_depend_on_the_number_of_threads():
    settings = {"dim": 2, "batch_size": 8, "steps_per_level": 5, "levels": (1.0,), "hidden": 6, "bounds": ("nwj", "js")}
    for critic in ("separable", "concatenated"):
        one, two = (
            tightness.run(TightnessConfig(**settings, critic=critic, threads=threads))["curves"] for threads in (1, 2)
        )
        for a, b in zip(one, two, strict=True):
            assert a["values"] == pytest.approx(b["values"], abs=1e-6)


@pytest.mark.parametrize("critic", ["separable", "concatenated"])
def test_a_critic_that_diverges_leaves_the_others_alone(monkeypatch, critic):
    # From its third batch on this bound's gradient is so large that the first step blows the critic up.
    calls = itertools.count()

    def blow_up(scores):
        return (scores * (1e38 if next(calls) >= 2 else 1.0)).exp().mean().log() * 1e3 + scores.sum() * 1e20

    monkeypatch.setitem(BOUNDS, "wild", Bound("wild", blow_up, "neither", "test", "test"))
    settings = {"dim": 2, "batch_size": 8, "steps_per_level": 8, "levels": (1.0,), "hidden": 6, "critic": critic}
    together = tightness.run(TightnessConfig(**settings, bounds=("infonce", "wild"), threads=1, learning_rate=1e18))
    wild = next(row for row in together["levels"] if row["bound"] == "wild")
    assert wild["non_finite"] > 0
    quiet = tightness.run(TightnessConfig(**settings, bounds=("infonce", "wild"), threads=1))
    alone = tightness.run(TightnessConfig(**settings, bounds=("infonce",), threads=1))
    assert quiet["curves"][0]["values"] == pytest.approx(alone["curves"][0]["values"], abs=1e-6)
    assert all(value is not None and math.isfinite(value) for value in quiet["curves"][0]["values"])


@pytest.mark.parametrize("critic", ["separable", "concatenated"])
def test_where_every_critic_diverges_the_run_ends_as_planned(critic):
    settings = {"dim": 2, "batch_size": 8, "steps_per_level": 4, "levels": (1.0, 2.0), "hidden": 6, "threads": 1}
    result = tightness.run(TightnessConfig(**settings, bounds=("dv", "nwj"), critic=critic, learning_rate=1e30))
    assert [(row["steps"], row["non_finite"]) for row in result["levels"]] == 2 * [(4, 3), (4, 4)]


def test_an_interrupt_ends_the_training_of_all():
    class Stop(Exception):
        pass

    def progress(done, total):
        if done == 5:
            raise Stop

    config = TightnessConfig(dim=2, batch_size=8, steps_per_level=10_000, levels=(1.0,), hidden=4, threads=2)
    with pytest.raises(Stop):
        tightness.run(config, progress=progress)
