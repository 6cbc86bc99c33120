import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from mi_estimators import bounds
from mi_estimators.bounds import BOUNDS, SCORE_BOUNDS
from mi_estimators.critics import CRITICS
from mi_estimators.densities import ConditionalDensity
from mi_estimators.synthetic import correlated_gaussian
from mi_estimators.variational import BASELINES, ENTROPIES, OPTIONS, variational
from mi_estimators.variational import scored as scored_module

DX, DY, K = 3, 2, 8
EVERY = pytest.mark.parametrize("name", list(BOUNDS))
OF_SCORES = [name for name, options in OPTIONS.items() if "score_clip" in options]


class Channel(ConditionalDensity):
    """y is half of x's first coordinates plus noise."""

    def log_prob(self, y, x=None):
        return Normal(0.5 * x[:, : self.dim_y], 0.7).log_prob(y).sum(1)


def batch(seed=0, k=K, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(k, DX, generator=g, dtype=torch.float64)
    return x.to(dtype), (0.5 * x[:, :DY] + 0.7 * torch.randn(k, DY, generator=g, dtype=torch.float64)).to(dtype)


def build(name, seed=0, critic="separable", **bound_options):
    if name == "club":
        bound_options.setdefault("conditional", Channel(DX, DY))
    return variational(
        name,
        DX,
        DY,
        critic=critic,
        critic_options={"hidden": (8,)} if isinstance(critic, str) else None,
        bound_options=bound_options,
        generator=torch.Generator().manual_seed(seed),
    ).double()


def gradients(model, objective):
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(objective, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


@EVERY
def test_a_step_of_every_bound(name):
    model = build(name)
    value, objective = model(*batch())
    assert value.shape == objective.shape == ()
    assert torch.isfinite(value)
    assert (model.bound.name, model.bound.source) == (name, BOUNDS[name].source)
    for key, gradient in gradients(model, 2 * objective).items() if name != "club" else ():
        if key == "critic.h.2.bias" and name == "infonce":
            continue  # a function of x alone, which InfoNCE ignores; others see it by a hair or not at all
        assert gradient is not None, key
        assert torch.isfinite(gradient).all(), key


@EVERY
def test_training_raises_the_objective_on_fixed_pairs(name):
    model = build(name).float()
    parameters = list(model.parameters())
    x, y = batch(k=32, dtype=torch.float32)
    if not parameters:
        assert name == "club"
        return
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    first = model.eval()(x, y).objective.item()
    model.train()
    for _ in range(30):
        optimizer.zero_grad()
        (-model(x, y).objective).backward()
        optimizer.step()
    assert model.eval()(x, y).objective.item() > first + 1e-3


@pytest.mark.parametrize("name", list(SCORE_BOUNDS))
def test_bounds_of_scores_alone_are_those_functions(name):
    model = build(name)
    x, y = batch()
    value, objective = SCORE_BOUNDS[name].value_and_objective(model.critic(x, y))
    assert model(x, y) == (value, objective)


def test_other_bounds_are_those_functions_of_their_networks():
    x, y = batch()
    for name in ("tuba_learned", "tuba_gaussian", "i_alpha", "flo"):
        model = build(name)
        scores = model.critic(x, y)
        if name == "flo":
            expected = bounds.flo(scores, model.log_partition(torch.cat([x, y], 1)).squeeze(1))
        elif name == "i_alpha":
            expected = bounds.i_alpha(scores, model.baseline(y), 0.01)
        else:
            expected = bounds.tuba(scores, model.baseline(y))
        torch.testing.assert_close(model(x, y).value, expected)
    for name, function in (("club", bounds.club), ("vclub", bounds.club), ("l1out", bounds.l1out)):
        model = build(name)
        matrix = model.conditional.log_prob_matrix(y, x)
        torch.testing.assert_close(model(x, y).value, function(matrix))
        torch.testing.assert_close(model(x, y).objective, matrix.diagonal().mean())
    likelihood = build("ba", entropy=1.5).conditional.log_prob(y, x).mean()
    torch.testing.assert_close(build("ba", entropy=1.5)(x, y).value, 1.5 + likelihood)
    for entropy, estimate in ENTROPIES.items():
        torch.testing.assert_close(build("ba", entropy=entropy)(x, y).value, estimate(y) + likelihood)
    torch.testing.assert_close(build("er")(x, y).value, ENTROPIES["kde"](y) + likelihood)
    model = build("doe")
    conditional, marginal = model.conditional.log_prob(y, x).mean(), model.marginal.log_prob(y).mean()
    torch.testing.assert_close(model(x, y).value, conditional - marginal)
    torch.testing.assert_close(model(x, y).objective, conditional + marginal)


def test_smile_takes_its_clip_and_tuba_its_constant_baseline():
    x, y = batch()
    model = build("smile", clip=0.1)
    assert model(x, y) == (bounds.smile(model.critic(x, y), 0.1), bounds.js_objective(model.critic(x, y)))
    model = build("i_alpha", baseline="constant", alpha=0.4)
    torch.testing.assert_close(model(x, y).value, bounds.i_alpha(model.critic(x, y), 0.0, 0.4))


def test_baselines():
    y = batch()[1]
    gaussian = BASELINES["gaussian"](DY).double()
    torch.testing.assert_close(gaussian(y), 0.5 * (DY - y.square().sum(1)) / (1 + DY), rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        gaussian.mean += torch.tensor([1.0, -2.0])
        gaussian.log_std += torch.tensor([0.3, -0.4])
    expected = Normal(gaussian.mean, gaussian.log_std.exp()).log_prob(y).sum(1)
    difference = gaussian(y) - expected  # a Gaussian density times a constant
    torch.testing.assert_close(difference, difference[:1].expand(K))
    assert BASELINES["constant"](DY)(y).tolist() == [0.0] * K
    wide = torch.randn(20_000, 30, generator=torch.Generator().manual_seed(0))
    assert 1 <= (-BASELINES["gaussian"](30)(wide)).exp().mean().item() <= math.exp(0.5)


# ---------------------------------------------------------------------------------------------------------------- MINE


def test_mine_averages_over_steps_and_only_in_training():
    model = build("mine", rate=0.3)
    average, off = None, ~torch.eye(K, dtype=torch.bool)
    for seed in range(3):
        x, y = batch(seed)
        scores = model.critic(x, y)
        mean = scores.detach().exp()[off].mean()
        average = mean if average is None else 0.7 * average + 0.3 * mean
        surrogate = scores.diagonal().mean() - scores.exp()[off].mean() / average
        value, objective = model(x, y)
        torch.testing.assert_close(value, bounds.dv(scores))
        torch.testing.assert_close(objective, bounds.dv(scores))
        expected = gradients(model, surrogate)
        for key, gradient in gradients(model, objective).items():
            torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-12)
    state = model.log_partition.clone()
    value, objective = model.eval()(x, y)
    assert torch.equal(model.log_partition, state)
    assert value == objective
    expected = gradients(model, bounds.dv(model.critic(x, y)))
    for key, gradient in gradients(model, objective).items():
        torch.testing.assert_close(gradient, expected[key])
    other = build("mine", seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.log_partition, state)


def test_a_stack_of_estimators_keeps_its_running_averages():
    models = [build("mine", seed) for seed in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    pairs = [batch(seed) for seed in range(3)]

    def objective(parameters, buffers, x, y):
        return torch.func.functional_call(models[0], (parameters, buffers), (x, y)).objective

    x, y = (torch.stack(side) for side in zip(*pairs, strict=True))
    found = torch.func.vmap(objective)(parameters, buffers, x, y)
    for index, model in enumerate(models):
        torch.testing.assert_close(found[index], model(*pairs[index]).objective)
        torch.testing.assert_close(buffers["log_partition"][index], model.log_partition)


# --------------------------------------------------------------------------------------------------- factored, options


@pytest.mark.parametrize("name", OF_SCORES)
def test_large_batches_of_a_critic_that_factors_never_make_its_matrix(name, monkeypatch):
    for options in ({}, {"score_penalty": 0.3}):
        dense, streamed = build(name, **options), build(name, **options)
        dense_step = dense(*batch())
        with monkeypatch.context() as patch:
            patch.setattr(scored_module, "FACTORED_FROM", K)
            patch.setattr(type(streamed.critic), "forward", None)  # what makes the matrix
            step = streamed(*batch())
        torch.testing.assert_close(step, dense_step, rtol=1e-10, atol=1e-10)
        expected = gradients(dense, dense_step.objective)
        for key, gradient in gradients(streamed, step.objective).items():
            torch.testing.assert_close(gradient, expected[key], rtol=1e-8, atol=1e-10)


def test_every_critic_serves():
    x, y = batch()
    options = {"conv": {"shape_x": (1, 1, DX), "shape_y": (1, DY, 1)}}
    for critic in CRITICS:
        if critic == "inner_product":
            x, dim_x = x[:, :DY], DY
        else:
            x, dim_x = batch()[0], DX
        model = variational("nwj", dim_x, DY, critic=critic, critic_options=options.get(critic)).double()
        torch.testing.assert_close(model(x, y).value, bounds.nwj(model.critic(x, y)))


def test_scores_are_clipped_and_penalised():
    x, y = batch()
    model = build("infonce", score_clip=0.2, score_penalty=0.5)
    scores = model.critic(x, y)
    value, objective = model(x, y)
    torch.testing.assert_close(value, bounds.i_nce(0.2 * torch.tanh(scores / 0.2)))
    torch.testing.assert_close(objective, value - 0.5 * scores.square().mean())
    assert value <= 0.4  # scores within 0.2 of 0 can differ by no more


def test_the_critic_starts_from_the_same_weights_under_every_bound():
    before = torch.get_rng_state()
    first = build(OF_SCORES[0], seed=5).critic.state_dict()
    for name in OF_SCORES:
        other = build(name, seed=5).critic.state_dict()
        assert all(torch.equal(first[key], other[key]) for key in first)
    for name in BOUNDS:
        one, same = build(name, seed=5).state_dict(), build(name, seed=5).state_dict()
        assert all(torch.equal(one[key], same[key]) or torch.isnan(one[key]).all() for key in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_critic_of_ones_own():
    class TrueRatio(nn.Module):
        def forward(self, x, y):
            conditional = Normal(0.5 * x[:, None, :DY], 0.7).log_prob(y[None]).sum(2)
            return conditional - Normal(0.0, math.sqrt(0.74)).log_prob(y).sum(1)

    model = build("infonce", critic=TrueRatio())
    values = torch.stack([model(*batch(seed, k=64)).value for seed in range(30)])
    truth = 0.5 * DY * math.log(0.74 / 0.49)
    assert truth - 0.15 <= values.mean() <= truth + 3 * values.std() / math.sqrt(30)


def test_kinds_and_caps_follow_the_options():
    assert build("ba").bound.kind == "neither"
    assert build("ba", entropy=1.0).bound.kind == "lower"
    assert build("club").bound.kind == "upper"
    assert build("i_alpha").bound.cap(65) == pytest.approx(1 + math.log(64 / 0.01))
    assert build("i_alpha", alpha=1.0).bound.cap(65) == pytest.approx(math.log(64))
    assert build("i_alpha", alpha=0.0).bound.cap is None
    assert BOUNDS["i_alpha"].cap(65) == build("i_alpha").bound.cap(65)
    assert BOUNDS["club"].requires == ("conditional",)
    assert [name for name, bound in BOUNDS.items() if bound.requires] == ["club"]
    assert set(OPTIONS) == set(BOUNDS)


def test_density_bounds_learn_a_gaussian():
    task = correlated_gaussian(1, 0.5)
    rho = math.sqrt(1 - math.exp(-1.0))
    data = torch.Generator().manual_seed(1)
    for name, expected in (("vclub", rho**2 / (1 - rho**2)), ("ba", 0.5), ("doe", 0.5)):
        options = {f"{part}_options": {"hidden": (16,)} for part in ("conditional", "marginal")[: 1 + (name == "doe")]}
        model = variational(name, 1, 1, bound_options=options, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            (-model(*task.sample(64, data)).objective).backward()
            optimizer.step()
        values = torch.stack([model.eval()(*task.sample(256, data)).value.detach() for _ in range(20)])
        assert abs(values.mean().item() - expected) <= 0.05 + 3 * values.std().item() / math.sqrt(20), name


# ------------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: variational("infonse", 2, 2), ValueError, "bound: .*infonce"),
        (lambda: variational("infonce", 0, 2), ValueError, "dim_x"),
        (lambda: variational("infonce", 2, 2.0), TypeError, "dim_y"),
        (lambda: variational("infonce", 2, 2, critic="deep"), ValueError, "critic"),
        (lambda: variational("infonce", 2, 2, critic=max), TypeError, "critic: want a name or a module"),
        (lambda: variational("infonce", 2, 2, critic=nn.Identity(), critic_options={"a": 1}), TypeError, "critic_opt"),
        (lambda: build("infonce", clip=1.0), TypeError, "bound_options: 'infonce' has .*score_clip.*'clip'"),
        (lambda: build("smile", clip=0.0), ValueError, "clip"),
        (lambda: build("mine", rate=0.0), ValueError, "rate"),
        (lambda: build("infonce", score_clip=-1.0), ValueError, "score_clip"),
        (lambda: build("infonce", score_penalty=-1.0), ValueError, "score_penalty"),
        (lambda: build("infonce", score_penalty="1"), TypeError, "score_penalty"),
        (lambda: build("i_alpha", alpha=2.0), ValueError, "alpha"),
        (lambda: build("i_alpha", baseline="none"), ValueError, "baseline"),
        (lambda: build("i_alpha", baseline=nn.Identity(), baseline_options={"a": 1}), TypeError, "baseline_options"),
        (lambda: build("flo", hidden=3), TypeError, "hidden"),
        (lambda: variational("club", 2, 2), ValueError, "bound_options: 'club' wants 'conditional'"),
        (lambda: build("club", conditional="gaussian"), TypeError, "conditional: 'club' wants the true density"),
        (lambda: build("vclub", conditional="normal"), ValueError, "conditional"),
        (lambda: build("vclub", conditional=nn.Identity()), TypeError, "conditional"),
        (lambda: build("vclub", conditional=Channel(DY, DX)), ValueError, "conditional: want a density of 2"),
        (lambda: build("club", conditional_options={"hidden": (3,)}), TypeError, "conditional_options"),
        (lambda: build("ba", entropy=math.inf), ValueError, "entropy"),
        (lambda: build("ba", entropy="exact"), ValueError, "entropy"),
        (lambda: build("ba", entropy=None), TypeError, "entropy"),
    ],
)
def test_bad_options_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


@EVERY
def test_bad_batches_are_named(name):
    model = build(name)
    x, y = batch()
    with pytest.raises(ValueError, match="x: want 3 columns"):
        model(y, y)
    with pytest.raises(ValueError, match=r"y: want finite"):
        model(x, y / 0)
    with pytest.raises(ValueError, match=r"rows|square|shape"):
        model(x, y[:5])
    with pytest.raises(TypeError, match="y"):
        model(x, y.float())
