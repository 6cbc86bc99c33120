"""Views, the probe and held-out bounds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mi_estimators.image_sets import Split, load
from mi_estimators.ssl import METHODS, Setting
from mi_estimators.ssl.augment import VIEWS, Halves, TwoAugmentations
from mi_estimators.ssl.encoders import MLP, encoder_builder
from mi_estimators.ssl.heldout import evaluate
from mi_estimators.ssl.method import check_small_crops
from mi_estimators.ssl.probe import linear_probe, probe_method, probe_pixels

for module in ("kornia", "sklearn"):
    pytest.importorskip(module)

SHAPES = ((5, 1, 8, 8), (3, 1, 28, 28), (3, 3, 32, 32))
OF_IMAGES = [name for name in VIEWS if name != "pairs"]
OF_HALVES = Setting(lambda view: MLP((1, 4, 8)), size=1198)


@pytest.mark.parametrize(
    ("view", "shape"),
    [(v, s) for v in OF_IMAGES for s in SHAPES if v != "luma-chroma" or s[1] == 3],
)
def test_views_keep_pairs_together_and_repeat_for_a_seed(view, shape):
    images = torch.rand(shape)
    maker = VIEWS[view](shape[1:])
    torch.manual_seed(3)
    first, second, *_ = maker(images)
    torch.manual_seed(3)
    again, *_ = maker(images)
    n, channels, height, width = shape
    whole = dict.fromkeys(("augment", "multi-crop", "multi-crop-8"), shape)
    of_view = {**whole, "luma-chroma": (n, 1, height, width)}.get(view, (n, channels, height // 2, width))
    assert first.shape == maker.anchor(images).shape == of_view
    assert second.shape == ((n, 2, height, width) if view == "luma-chroma" else of_view)
    assert torch.equal(first, again)
    assert bool(torch.isfinite(first).all())


def test_luma_and_chroma_are_those_of_jpeg():
    images = torch.rand(4, 3, 6, 6)
    luma, chroma = VIEWS["luma-chroma"]((3, 6, 6)).held_out(images)
    red, green, blue = images.unbind(1)
    want = 0.299 * red + 0.587 * green + 0.114 * blue
    assert torch.allclose(luma[:, 0], want, atol=1e-3)
    assert torch.allclose(chroma[:, 0], 0.564 * (blue - want) + 0.5, atol=5e-3)
    assert torch.allclose(chroma[:, 1], 0.713 * (red - want) + 0.5, atol=5e-3)
    with pytest.raises(ValueError, match="data: luma and chroma need images of 3 channels, got 1"):
        VIEWS["luma-chroma"]((1, 6, 6))
    with pytest.raises(ValueError, match="data: augmentations are for images of 1 or 3 channels, got 2"):
        VIEWS["augment"]((2, 6, 6))


def test_augmentations_differ_between_views_and_images_but_resemble_the_image():
    images = load("digits").test.pixels(slice(0, 200))
    torch.manual_seed(0)
    first, second = TwoAugmentations((1, 8, 8))(images)
    assert not torch.equal(first, second)
    same = torch.tril(torch.ones(10, 10)).reshape(1, 1, 10, 10).expand(6, 1, 10, 10)
    changed, _ = TwoAugmentations((1, 8, 8))(same)
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 6
    near = torch.nn.functional.cosine_similarity(first.flatten(1), images.flatten(1)).mean()
    far = torch.nn.functional.cosine_similarity(first.flatten(1), images.flatten(1).roll(1, 0)).mean()
    assert near > far + 0.15


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 10)])
def test_multi_crop_makes_small_views_of_less_than_half_the_image(shape):
    channels, height, width = shape
    torch.manual_seed(0)
    maker = VIEWS["multi-crop"](shape)
    ramp = torch.linspace(0, 1, width).expand(64, *shape)
    views = maker(ramp)
    assert [view.shape for view in views] == 2 * [(64, *shape)] + 4 * [(64, channels, height // 2, width // 2)]
    assert len(VIEWS["multi-crop-8"](shape)(ramp)) == 10
    assert [view.shape for view in maker.held_out(ramp)] == 2 * [(64, *shape)]
    assert torch.equal(maker.anchor(ramp), ramp)
    # A crop that shows a part of the ramp spans a part of its values.
    large, small = maker.large[0](ramp).flatten(1), maker.small[0](ramp).flatten(1)
    spans = [float((crops.amax(1) - crops.amin(1)).median()) for crops in (large, small)]
    assert spans[0] > spans[1] + 0.2
    for name, encoder, words in [
        ("simclr", "convnet", "view: small crops are for the methods that predict from them, dino and swav"),
        ("dino", "mlp", r"encoder: it does not take small crops of shape \(.*\); choose another, e.g. convnet"),
        ("swav", "realnvp", "encoder: it does not take small crops"),
    ]:
        made = encoder_builder(encoder)((channels, 12, 8))
        with pytest.raises(ValueError, match=words):
            check_small_crops(maker, METHODS[name](Setting(lambda view, made=made: made, 99)))
    check_small_crops(maker, METHODS["dino"](Setting(lambda view: encoder_builder("convnet")(shape), 99)))


def test_halves_are_top_and_bottom():
    images = torch.arange(2 * 6 * 3.0).reshape(2, 1, 6, 3)
    top, bottom = Halves((1, 8, 8))(images)
    assert torch.equal(torch.cat([top, bottom], dim=2), images)
    assert torch.equal(Halves((1, 8, 8)).anchor(images), top)
    augmented = VIEWS["augmented-halves"]((1, 8, 8))
    images = torch.rand(4, 1, 8, 8)
    assert not torch.equal(augmented(images)[0], images[:, :, :4])
    assert torch.equal(torch.cat(augmented.held_out(images), dim=2), images)
    with pytest.raises(ValueError, match="data: halves need images of even height, got 7 x 3"):
        Halves((1, 7, 3))


def test_the_probe_reads_what_is_linear_and_nothing_from_noise():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    signal = torch.nn.functional.one_hot(labels, 3) + 0.1 * torch.randn(600, 3, generator=generator)
    noise = torch.randn(600, 3, generator=generator)
    split = [slice(0, 400), slice(400, 600)]
    assert linear_probe(*((signal[part], labels[part]) for part in split)) > 0.95
    assert linear_probe(*((noise[part], labels[part]) for part in split)) < 0.5


def test_the_probe_refuses_features_that_are_not_finite():
    features = torch.rand(20, 2)
    features[3, 1] = torch.nan
    labels = torch.arange(20) % 2
    with pytest.raises(ValueError, match="test: want finite features"):
        linear_probe((torch.rand(20, 2), labels), (features, labels))


def test_pixel_baselines_on_the_digits():
    data = load("digits")
    assert probe_pixels(data, TwoAugmentations((1, 8, 8))) == pytest.approx(0.953, abs=0.02)
    assert probe_pixels(data, Halves((1, 8, 8))) == pytest.approx(0.833, abs=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_probe_and_held_out_bounds_leave_a_method_and_the_generator_as_they_were(name):
    torch.manual_seed(0)
    data = load("digits")
    view = Halves((1, 8, 8))
    method = METHODS[name](OF_HALVES)
    weights = {key: value.clone() for key, value in method.state_dict().items()}
    state = torch.get_rng_state()
    row = evaluate(method, data.train, data.test, view, 64, seed=0)
    assert row == evaluate(method, data.train, data.test, view, 64, seed=0)
    if name != "deepcluster-v2":  # without a first epoch its centres, and so its scores, are all alike
        assert row["infonce"] != evaluate(method, data.train, data.test, view, 64, seed=1)["infonce"]
    probe_method(method, data, view)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.training
    assert all(torch.equal(value, weights[key]) for key, value in method.state_dict().items())


def test_held_out_bounds_use_what_the_test_split_has():
    data = load("digits")
    small = Split(data.test.images[:40], data.test.labels[:40], data.test.scale)
    row = evaluate(METHODS["mi-max"](OF_HALVES), data.train, small, Halves((1, 8, 8)), 128, seed=0)
    assert row["cap"] == pytest.approx(float(torch.tensor(40.0).log()))


def test_importing_the_trainers_imports_no_optional_package():
    code = (
        "import sys, mi_estimators; assert 'mi_estimators.ssl' not in sys.modules; mi_estimators.ssl.METHODS; "
        "print(*sorted({'kornia', 'lightning_fabric', 'sklearn', 'rich', 'typer', 'tensorboard', 'matplotlib'} "
        "& set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
