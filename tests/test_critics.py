import pytest
import torch

from mi_estimators.critics import (
    CRITICS,
    Bilinear,
    Concatenated,
    ConvSeparable,
    FactoredCritic,
    Hybrid,
    InnerProduct,
    Separable,
)

EVERY = pytest.mark.parametrize("name", list(CRITICS))


def batch(n, m, dim_x=5, dim_y=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dim_x, generator=g, dtype=dtype),
        torch.randn(m, dim_y, generator=g, dtype=dtype),
    )


def build(name, dim_x=5, dim_y=5, seed=0):
    options = {"shape_x": (1, 1, dim_x), "shape_y": (1, dim_y, 1), "channels": (8,)} if name == "conv" else {}
    return CRITICS[name](dim_x, dim_y, generator=torch.Generator().manual_seed(seed), **options)


@EVERY
def test_entry_i_j_scores_x_i_against_y_j(name):
    critic = build(name).double()
    x, y = batch(6, 4)
    scores = critic(x, y)
    assert scores.shape == (6, 4)
    one_by_one = torch.stack([torch.cat([critic(x[i : i + 1], y[j : j + 1])[0] for j in range(4)]) for i in range(6)])
    torch.testing.assert_close(scores, one_by_one)
    assert scores.std() > 1e-3


@pytest.mark.parametrize("name", [n for n in CRITICS if n != "inner_product"])
def test_sides_of_different_size(name):
    x, y = batch(3, 3, 7, 2, torch.float32)
    assert build(name, 7, 2)(x, y).shape == (3, 3)


def test_concatenated_is_an_mlp_on_concatenated_pairs():
    critic = Concatenated(3, 2, hidden=(8, 6), generator=torch.Generator().manual_seed(1)).double()
    x, y = batch(4, 5, 3, 2)
    pairs = torch.cat([x[:, None].expand(4, 5, 3), y[None].expand(4, 5, 2)], dim=-1)
    torch.testing.assert_close(critic(x, y), critic.rest(critic.first(pairs)).squeeze(-1))


def test_inner_product_and_bilinear_formulas():
    x, y = batch(4, 3)
    torch.testing.assert_close(InnerProduct(5, 5)(x, y), torch.einsum("id,jd->ij", x, y))
    bilinear = Bilinear(5, 5).double()
    torch.testing.assert_close(bilinear(x, y), torch.einsum("id,de,je->ij", x, bilinear.weight, y))


@pytest.mark.parametrize("name", ["inner_product", "bilinear", "separable", "conv"])
def test_embeddings_factor_the_scores(name):
    critic = build(name).double()
    assert isinstance(critic, FactoredCritic)
    x, y = batch(6, 4)
    u, v = critic.embeddings(x, y)
    assert u.shape[1] == v.shape[1]
    torch.testing.assert_close(u @ v.T, critic(x, y))


@EVERY
def test_gradcheck(name):
    critic = build(name).double()
    x, y = batch(3, 3)
    assert torch.autograd.gradcheck(critic, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("name", [n for n in CRITICS if n != "inner_product"])
def test_gradients_reach_every_parameter(name):
    critic = build(name)
    critic(*batch(8, 8, dtype=torch.float32)).square().sum().backward()
    for key, parameter in critic.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@EVERY
def test_weights_come_from_the_generator_alone(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = build(name, seed=3), build(name, seed=3), build(name, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first.parameters(), other.parameters(), strict=True):
        assert not torch.equal(a, b)


def test_without_a_generator_the_global_one_is_used():
    torch.manual_seed(5)
    first = Bilinear(4, 4).weight
    torch.manual_seed(5)
    assert torch.equal(Bilinear(4, 4).weight, first)
    assert not torch.equal(Bilinear(4, 4).weight, first)


def test_initial_weights_are_those_of_a_linear_layer_on_the_pair():
    critic = Concatenated(30, 70, hidden=(2000,), generator=torch.Generator().manual_seed(0))
    weight = critic.first.weight
    assert weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_default_sizes():
    count = {name: sum(p.numel() for p in CRITICS[name](100, 100).parameters()) for name in CRITICS if name != "conv"}
    assert count == {
        "inner_product": 0,
        "bilinear": 10_000,
        "separable": 40_400,
        "concatenated": 40_401,
        "hybrid": 2 * (100 * 101 + 101 * 32) + 64 * 65 + 65,
    }


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="dim_y"):
        InnerProduct(3, 4)
    with pytest.raises(ValueError, match="dim_x"):
        Bilinear(0, 4)
    with pytest.raises(TypeError, match="dim_y"):
        Separable(3, 2.5)
    with pytest.raises(ValueError, match="embedding"):
        Separable(3, 3, embedding=0)
    with pytest.raises(ValueError, match="hidden"):
        Concatenated(3, 3, hidden=())
    with pytest.raises(TypeError, match="hidden"):
        Concatenated(3, 3, hidden=64)
    with pytest.raises(ValueError, match="head"):
        Hybrid(3, 3, head=())
    with pytest.raises(ValueError, match=r"shape_x: want \(C, H, W\).*12"):
        ConvSeparable(12, 12, shape_x=(1, 3, 3))
    with pytest.raises(ValueError, match="shape_y"):
        ConvSeparable(9, 12, shape_x=(1, 3, 3))
    with pytest.raises(ValueError, match="channels"):
        ConvSeparable(9, 9, shape_x=(1, 3, 3), channels=())


@EVERY
def test_bad_inputs_are_named(name):
    critic = build(name)
    good, wrong = torch.zeros(4, 5), torch.zeros(4, 6)
    with pytest.raises(ValueError, match=r"x: want 5 columns"):
        critic(wrong, good)
    with pytest.raises(ValueError, match=r"y: want 5 columns"):
        critic(good, wrong)
    with pytest.raises(TypeError, match="x"):
        critic(torch.zeros(4, 5, dtype=torch.int64), good)
    with pytest.raises(ValueError, match="y"):
        critic(good, torch.zeros(5))


@pytest.mark.parametrize("name", CRITICS)
def test_critics_name_bad_inputs(name):
    critic = build(name, 3, 3)
    good = torch.randn(4, 3)
    with pytest.raises(ValueError, match="x: want finite values"):
        critic(torch.full((4, 3), torch.nan), good)
    with pytest.raises(TypeError, match="y: want the dtype of x"):
        critic(good, good.double())
    with pytest.raises(ValueError, match="y: want the device of x"):
        critic(good, good.to("meta"))


def test_hybrid_is_a_concatenated_critic_on_embeddings():
    critic = build("hybrid").double()
    x, y = batch(4, 3)
    torch.testing.assert_close(critic(x, y), critic.head(critic.g(x), critic.h(y)))
    pair = torch.cat([critic.g(x)[1], critic.h(y)[2]])
    torch.testing.assert_close(critic(x, y)[1, 2], critic.head.rest(critic.head.first(pair)).squeeze())


def test_conv_sees_rows_as_images():
    critic = ConvSeparable(2 * 6 * 5, 28, shape_x=(2, 6, 5), shape_y=(1, 7, 4), channels=(4, 3)).double()
    x, y = batch(3, 2, 60, 28)
    u, v = critic.embeddings(x, y)
    images = x.reshape(3, 2, 6, 5)
    torch.testing.assert_close(u, critic.g(images))
    first = torch.nn.functional.conv2d(images, critic.g[0].weight, critic.g[0].bias, stride=2, padding=2)
    assert first.shape == (3, 4, 3, 3)
    torch.testing.assert_close(critic.g[0](images), first)
    assert v.shape == (2, 100)


@pytest.mark.parametrize("name", ["bilinear", "separable", "conv"])
def test_factored_scores_of_a_batch(name):
    critic = build(name).double()
    x, y = batch(4, 4)
    pairs = critic.factored(x, y)
    torch.testing.assert_close(pairs.u @ pairs.v.T, critic(x, y))
    with pytest.raises(ValueError, match="want the shape of u"):
        critic.factored(x, y[:3])
    with pytest.raises(ValueError, match="x: want 5 columns"):
        critic.factored(x[:, :4], y)
