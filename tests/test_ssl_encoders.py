"""Encoders: sizes, invertibility, and those that come from elsewhere."""

from __future__ import annotations

import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mi_estimators.ssl.encoders import (
    ENCODERS,
    Encoder,
    RealNVP,
    SkipMLP,
    bijective,
    encoder_builder,
    log_condition_numbers,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def narrow(monkeypatch):
    """Couplings with small networks."""
    monkeypatch.setattr(bijective, "HIDDEN", 16)


@pytest.fixture
def no_weights(monkeypatch):
    """Networks of which only the sizes matter."""
    for name in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda weight, *_, **__: weight)


SMALL = [(name, shape) for name in ("mlp", "convnet", "vit", "vit/2") for shape in ((1, 8, 8), (1, 14, 28))]


@pytest.mark.parametrize(("name", "shape"), [*((name, (1, 4, 8)) for name in ENCODERS if name != "resnet50"), *SMALL])
def test_encoders_give_their_dimension_and_a_gradient_to_every_weight(narrow, name, shape):
    network = encoder_builder(name)(shape)
    output = network(torch.rand(3, *shape))
    assert output.shape == (3, network.dim)
    output.square().sum().backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None, key
        assert bool(weight.grad.abs().sum() > 0), key


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("mlp", (1, 14, 28), 238_300),
        ("convnet", (1, 14, 28), 219_748),
        ("convnet", (1, 8, 8), 219_748),
        # The CIFAR forms with 10 classes are known to have 11,173,962 and 23,520,842, the ImageNet forms with 1,000
        # classes 11,689,512 and 25,557,032.
        ("resnet18", (3, 32, 32), 11_173_962 - linear(512, 10)),
        ("resnet50", (3, 32, 32), 23_520_842 - linear(2048, 10)),
        ("resnet18", (3, 224, 224), 11_689_512 - linear(512, 1000)),
        ("resnet50", (3, 224, 224), 25_557_032 - linear(2048, 1000)),
        ("realnvp", (1, 14, 28), 30 * (linear(196, 512) + linear(512, 512) + linear(512, 196))),
        ("realnvp-scale", (1, 3, 3), 30 * (linear(4, 512) + linear(512, 512) + linear(512, 10))),
        ("skip-mlp", (1, 14, 28), 5 * linear(392, 392)),
        ("vit/4", (3, 32, 32), 49 * 192 + 65 * 192 - 192 + 6 * (12 * 192**2 + 13 * 192) + 3 * 192),
    ],
)
def test_parameter_counts(no_weights, name, shape, count):
    network = encoder_builder(name)(shape)
    assert sum(weight.numel() for weight in network.parameters()) == count


def test_stems_and_patches_follow_the_size_of_the_image(no_weights):
    for side, after in ((64, 64), (96, 24)):
        network = ENCODERS["resnet18"]((3, side, side)).eval()
        assert network.stem(torch.zeros(1, 3, side, side)).shape[2:] == (after, after)
    sides = {size: ENCODERS["vit"]((3, *size)).patch for size in ((32, 32), (28, 28), (224, 224), (8, 8), (7, 9))}
    assert sides == {(32, 32): 4, (28, 28): 4, (224, 224): 16, (8, 8): 1, (7, 9): 1}


def test_a_resnet_50_takes_small_images():
    network = ENCODERS["resnet50"]((1, 4, 8))
    assert network.dim == 2048
    assert network(torch.rand(2, 1, 4, 8)).shape == (2, 2048)


def test_a_vit_interpolates_its_positions_for_other_sizes():
    network = encoder_builder("vit/2")((1, 8, 8)).eval()
    with torch.no_grad():
        # A field that grows from row to row does so at any size, and stays symmetric about its middle.
        network.positions.copy_(torch.arange(4.0).repeat_interleave(4)[None, :, None].expand(1, 16, 192))
        found = network._positions((6, 3))[0, :, 0].unflatten(0, (6, 3))
        assert torch.allclose(found + found.flip(0), torch.full((6, 3), 3.0), atol=1e-5)
        assert torch.allclose(found, found[:, :1].expand(6, 3), atol=1e-5)
        assert (found[1:] > found[:-1]).all()
        assert network(torch.rand(2, 1, 12, 6)).shape == (2, 192)
    with pytest.raises(ValueError, match="encoder: patches of 2 pixels do not divide images of 7 x 8"):
        network(torch.rand(1, 1, 7, 8))
    with pytest.raises(ValueError, match="encoder: patches of 3 pixels do not divide images of 8 x 8"):
        encoder_builder("vit/3")((1, 8, 8))


def roughened(network: Encoder) -> Encoder:
    """Far from where training starts, so that nothing holds only near the identity."""
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.4 / math.sqrt(weight.shape[-1]))
    return network.double()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 2, 1)])
def test_real_nvp_is_a_bijection_with_the_log_det_of_its_jacobian(narrow, scaled, shape):
    network = roughened(RealNVP(shape, scaled=scaled))
    images = torch.rand(3, *shape, dtype=torch.float64)
    z, log_det = network.with_log_det(images)
    assert torch.equal(z, network(images))
    assert (z - images.flatten(1)).abs().max() > 0.1
    for image, found in zip(images, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None])[0], image).flatten(1)
        error = (torch.linalg.slogdet(jacobian).logabsdet - found).abs()
        assert error <= 1e-9
    assert (log_det.abs() > 0.1).all() == scaled
    assert (network.inverse(z) - images).abs().max() <= 1e-9
    single = RealNVP(shape, scaled=scaled)  # as it starts, in float32
    error = (single.inverse(single(images.float())) - images.float()).abs().max()
    assert error <= 1e-5


def test_invertible_encoders_start_near_the_identity(narrow):
    images = torch.rand(4, 1, 3, 4, dtype=torch.float64)
    for network in (RealNVP((1, 3, 4)), RealNVP((1, 3, 4), scaled=True), SkipMLP((1, 3, 4))):
        numbers = log_condition_numbers(network.double(), images)
        assert numbers.shape == (4,)
        assert (numbers.abs() <= 1e-2).all()
        values = network(images).sort(dim=1).values  # up to the order of the coordinates
        assert (values - images.flatten(1).sort(dim=1).values).abs().max() <= 1e-2
    with pytest.raises(ValueError, match=r"couplings need images of at least 2 values, got the shape \(1, 1, 1\)"):
        RealNVP((1, 1, 1))


def test_condition_numbers_are_those_of_the_jacobian():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.diag(torch.tensor([5.0, 2.0, -0.5, 1.0])) @ torch.eye(4).roll(1, 0))
    numbers = log_condition_numbers(network, torch.rand(3, 1, 2, 2, dtype=torch.float64))
    assert numbers.tolist() == pytest.approx([math.log(10)] * 3)


class Wants(nn.Module):
    """A network of somebody else's, which knows nothing of this package."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 7), nn.BatchNorm1d(7))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@pytest.fixture
def elsewhere(monkeypatch):
    module: Any = types.ModuleType("elsewhere")
    module.Wants = Wants
    module.plain = lambda: Wants((1, 4, 8))
    module.ready = Wants((1, 4, 8))
    module.flat = lambda: nn.Flatten(0)
    module.two = lambda a, b: a
    module.text = "text"
    module.number = lambda: 3
    module.inner = types.SimpleNamespace(Own=ENCODERS["mlp"])
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    return module


def test_encoders_by_import_path(elsewhere):
    images = torch.rand(5, 1, 4, 8)
    for name in ("Wants", "plain", "ready"):
        network = encoder_builder(f"elsewhere:{name}")((1, 4, 8))
        assert network.dim == 7
        assert network.training
        assert network(images).shape == (5, 7)
        assert network.network.layers[2].num_batches_tracked == 1  # the first look left no trace
    one, other = (encoder_builder("elsewhere:ready")((1, 4, 8)) for _ in range(2))
    assert one.network.layers[1].weight is not other.network.layers[1].weight
    own = encoder_builder("elsewhere:inner.Own")((1, 4, 8))
    assert type(own) is ENCODERS["mlp"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet81", "encoder: want one of .*; got 'resnet81' .did you mean 'resnet18'"),
        ("vit/0", "encoder: want one of"),
        ("vit/", "encoder: want one of"),
        ("nowhere:Net", "cannot import 'nowhere:Net': No module named 'nowhere'"),
        ("elsewhere:Nothing", "cannot import 'elsewhere:Nothing'"),
        (":Net", "cannot import ':Net'"),
        ("elsewhere:", "cannot import 'elsewhere:'"),
        ("elsewhere:text", "encoder: elsewhere:text is neither a module nor makes one"),
        ("elsewhere:two", "encoder: elsewhere:two needs 2 arguments"),
        ("elsewhere:number", "encoder: elsewhere:number makes a int, want a torch.nn.Module"),
        ("elsewhere:flat", r"must give a row of features an image, \[2, dim\] for two; got \(64,\)"),
        ("elsewhere:ready", r"cannot take images of shape \(3, 4, 4\): "),
    ],
)
def test_wrong_encoders_are_named(elsewhere, name, words):
    shape = (3, 4, 4) if name == "elsewhere:ready" else (1, 4, 8)
    with pytest.raises(ValueError, match=words):
        encoder_builder(name)(shape)


def test_timm_is_named_with_its_extra_or_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm is not installed.*mi-estimators\[vision\]"):
        encoder_builder("timm:resnet10t")
    fake: Any = types.ModuleType("timm")
    asked: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append(options)
        if name == "conv" and "img_size" in options:
            raise TypeError("img_size")
        return Wants((1, 4, 8))

    fake.create_model, fake.is_model = create_model, lambda name: name in ("conv", "vit")
    fake.list_models = lambda pattern: ["vit_tiny"]
    monkeypatch.setitem(sys.modules, "timm", fake)
    for name, calls in (("vit", 1), ("conv", 2)):
        asked.clear()
        assert encoder_builder(f"timm:{name}")((1, 4, 8)).dim == 7
        assert len(asked) == calls
        assert asked[0] == {"pretrained": False, "num_classes": 0, "in_chans": 1, "img_size": (4, 8)}
    with pytest.raises(ValueError, match="timm has no model 'vitt'; it has vit_tiny"):
        encoder_builder("timm:vitt")
