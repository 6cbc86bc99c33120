import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mi_estimators.densities import DENSITIES, AffineFlow, ConditionalDensity, DiagonalGaussian, GaussianMixture

EVERY = pytest.mark.parametrize("name", list(DENSITIES))


def build(name, dim_x=3, dim_y=2, seed=0, **options):
    options.setdefault("hidden", (8,))
    density = DENSITIES[name](dim_x, dim_y, generator=torch.Generator().manual_seed(seed), **options).double()
    with torch.no_grad():  # fresh networks give nearly constant parameters: make what is to be tested matter
        for parameter in density.parameters():
            parameter *= 1.2
    return density


def batch(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@EVERY
@pytest.mark.parametrize(("dim_x", "dim_y"), [(3, 1), (3, 2), (0, 2), (0, 1)])
def test_integrates_to_one(name, dim_x, dim_y):
    density = build(name, dim_x, dim_y, **({"components": 3} if name == "mixture" else {}))
    # y = sinh t: fine near 0, and out to 200.
    axis = torch.linspace(-6, 6, 2001 if dim_y == 1 else 501, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * dim_y).reshape(-1, dim_y)
    cells = grid.cosh().prod(dim=1) * (axis[1] - axis[0]) ** dim_y
    grid = grid.sinh()
    with torch.no_grad():
        for x in batch(2, dim_x, seed=1) if dim_x else [None]:
            given = None if x is None else x.expand(len(grid), dim_x)
            log_density = density.log_prob(grid, given)
            assert log_density.std() > 0.1
            assert abs((log_density.exp() * cells).sum().item() - 1) <= 1e-3


@EVERY
def test_matrix_holds_the_density_of_every_pair(name):
    density = build(name)
    x, y = batch(4, 3, 1), batch(5, 2, 2)
    matrix = density.log_prob_matrix(y, x)
    assert matrix.shape == (4, 5)
    for i in range(4):
        torch.testing.assert_close(matrix[i], density.log_prob(y, x[i].expand(5, 3)), rtol=1e-12, atol=1e-12)
    assert (matrix[0] - matrix[1]).abs().min() > 1e-6
    torch.testing.assert_close(density.log_prob(y[:4], x), matrix.diagonal(), rtol=1e-12, atol=1e-12)


def test_gaussian_and_mixture_are_those_of_torch():
    x, y = batch(6, 3, 1), batch(6, 2, 2)
    gaussian = build("gaussian")
    assert isinstance(gaussian, DiagonalGaussian)
    mean, raw = gaussian.parameters_of(x).chunk(2, dim=1)
    std = (10 * torch.tanh(raw / 10)).exp()
    torch.testing.assert_close(gaussian.log_prob(y, x), Normal(mean, std).log_prob(y).sum(1))
    mixture = build("mixture", components=3)
    assert isinstance(mixture, GaussianMixture)
    logits, mean, raw = mixture.parameters_of(x).split([3, 6, 6], dim=1)
    parts = Normal(mean.reshape(6, 3, 2), (10 * torch.tanh(raw / 10)).exp().reshape(6, 3, 2))
    expected = MixtureSameFamily(Categorical(logits=logits), Independent(parts, 1)).log_prob(y)
    torch.testing.assert_close(mixture.log_prob(y, x), expected)


@pytest.mark.parametrize("dim_y", [1, 2, 3, 5])
@pytest.mark.parametrize("dim_x", [0, 3])
def test_flow_changes_variables(dim_x, dim_y):
    flow = build("flow", dim_x, dim_y)
    assert isinstance(flow, AffineFlow)
    y, x = batch(3, dim_y, 2), batch(3, dim_x, 1) if dim_x else None
    z, log_det = flow.transform(y, x)
    for i in range(3):
        given = None if x is None else x[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda point, given=given: flow.transform(point[None], given)[0][0], y[i]
        )
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)
        # Every coordinate takes part: none is only shifted and scaled once.
        if dim_y > 1:
            assert (jacobian.abs() > 1e-9).sum() > dim_y
    torch.testing.assert_close(flow.log_prob(y, x), flow.base.log_prob(z, x) + log_det)


@EVERY
def test_gradcheck_and_gradients_reach_every_parameter(name):
    density = build(name)
    x, y = batch(4, 3, 1).requires_grad_(), batch(4, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(density.log_prob, (y, x))
    (3 * density.log_prob(y, x).sum()).backward()
    for key, parameter in density.named_parameters():
        assert parameter.grad.abs().sum() > 0, key


@EVERY
def test_maximum_likelihood_finds_a_shifted_and_scaled_sample(name):
    density = DENSITIES[name](0, 1, generator=torch.Generator().manual_seed(0))
    y = 2 + 0.5 * batch(500, 1).float()
    optimizer = torch.optim.Adam(density.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (-density.log_prob(y).mean()).backward()
        optimizer.step()
    fitted = -0.5 * math.log(2 * math.pi * math.e * y.var(correction=0).item())
    assert fitted - 0.01 <= density.log_prob(y).mean().item() <= fitted + 0.05


def test_two_modes_need_more_than_one_gaussian():
    y = torch.cat([batch(200, 1, 1), 8 + batch(200, 1, 2)]).float()
    reached = {}
    for name, make in DENSITIES.items():
        density = make(0, 1, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(density.parameters(), lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            (-density.log_prob(y).mean()).backward()
            optimizer.step()
        reached[name] = density.log_prob(y).mean().item()
    modes = -math.log(2) - 0.5 * math.log(2 * math.pi * math.e)
    assert reached["gaussian"] < modes - 0.3
    assert reached["mixture"] > modes - 0.1
    assert reached["flow"] > modes - 0.1


@EVERY
def test_weights_come_from_the_generator_alone(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = (build(name, dim_y=4, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@EVERY
def test_far_points_stay_finite(name):
    density = build(name).float()
    y = torch.full((2, 2), 1e4, requires_grad=True)
    value = density.log_prob(y, torch.zeros(2, 3))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(y.grad).all()


def test_a_known_channel_is_a_subclass():
    class Channel(ConditionalDensity):
        def log_prob(self, y, x=None):
            return Normal(x, 0.5).log_prob(y).sum(1)

    x, y = batch(3, 2, 1), batch(4, 2, 2)
    expected = Normal(x[:, None], 0.5).log_prob(y[None]).sum(2)
    torch.testing.assert_close(Channel(2, 2).log_prob_matrix(y, x), expected)


@EVERY
def test_bad_arguments_are_named(name):
    density, alone = build(name), build(name, 0)
    x, y = batch(4, 3), batch(4, 2)
    for call, error, match in (
        (lambda: density.log_prob(y), ValueError, "x: want shape"),
        (lambda: alone.log_prob(y, x), ValueError, "x: want None"),
        (lambda: density.log_prob(y, x[:3]), ValueError, "y: want as many rows as x"),
        (lambda: density.log_prob(x, x), ValueError, "y: want 2 columns"),
        (lambda: density.log_prob_matrix(y, y), ValueError, "x: want 3 columns"),
        (lambda: density.log_prob(y.float(), x), TypeError, "y: want the dtype of x"),
        (lambda: density.log_prob(y / 0, x), ValueError, "y: want finite"),
        (lambda: DENSITIES[name](3, 0), ValueError, "dim_y"),
        (lambda: DENSITIES[name](-1, 2), ValueError, "dim_x"),
        (lambda: DENSITIES[name](2.0, 2), TypeError, "dim_x"),
        (lambda: DENSITIES[name](2, 2, hidden=3), TypeError, "hidden"),
        (lambda: DENSITIES[name](2, 2, hidden=(0,)), ValueError, "hidden"),
    ):
        with pytest.raises(error, match=match):
            call()
