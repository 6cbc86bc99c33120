from __future__ import annotations

import math

import pytest
import torch

import mi_estimators as mi
from mi_estimators.temperature import LearnableTemperature


def test_it_starts_as_clip_does():
    temperature = LearnableTemperature()
    assert temperature().item() == pytest.approx(0.07)
    assert temperature.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert [(name, tuple(value.shape)) for name, value in temperature.state_dict().items()] == [("logit_scale", ())]


def test_its_gradient_is_that_of_the_logarithm():
    temperature = LearnableTemperature(0.2).double()
    (temperature() ** 2).backward()
    # d tau^2 / d s with tau = e^-s
    assert temperature.logit_scale.grad.item() == pytest.approx(-2 * temperature().item() ** 2)


def test_the_scale_stops_at_its_limit_and_comes_back():
    # The steps of CLIP's training code: clamp the parameter after every step of the optimiser.
    def pull(s: torch.Tensor, target: float) -> torch.Tensor:
        return (s - target).square()

    ours, clips = LearnableTemperature(0.02).double(), torch.tensor(math.log(50.0), dtype=torch.float64)
    clips = clips.requires_grad_()
    optimizers = [torch.optim.SGD([p], lr=0.1, momentum=0.9) for p in (ours.logit_scale, clips)]
    seen = []
    for step in range(40):
        target = 6.0 if step < 20 else 3.0  # first beyond log 100 = 4.6, then below
        for optimizer in optimizers:
            optimizer.zero_grad()
        pull(-ours().log(), target).backward()
        pull(clips, target).backward()
        torch.testing.assert_close(ours.logit_scale, clips)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            clips.clamp_(max=math.log(100))
        seen.append(1 / ours().item())
    assert max(seen) <= 100 + 1e-9
    assert seen[19] == pytest.approx(100)
    assert seen[-1] < 50


def test_at_the_limit_the_gradient_is_whole():
    temperature = LearnableTemperature(0.01)
    temperature().backward()
    assert temperature.logit_scale.grad.item() == pytest.approx(-0.01)
    with torch.no_grad():
        temperature.logit_scale += 3
    temperature.logit_scale.grad = None
    temperature().backward()
    assert temperature.logit_scale.grad.item() == pytest.approx(-0.01)


def test_without_a_limit_nothing_is_set_back():
    temperature = LearnableTemperature(0.001, max_scale=math.inf)
    assert temperature().item() == pytest.approx(0.001)


def test_it_learns_in_a_loss_and_compiles():
    torch.compiler.reset()
    x = torch.randn(32, 8)
    y = x + 0.1 * torch.randn(32, 8)
    temperature = LearnableTemperature(0.5)
    compiled = torch.compile(lambda: mi.info_nce(x, y, temperature=temperature()), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), mi.info_nce(x, y, temperature=0.5))
    compiled().backward()
    assert temperature.logit_scale.grad < 0  # clean pairs want a larger scale


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"temperature": 0.0}, ValueError, "temperature: want a finite value > 0"),
        ({"temperature": math.nan}, ValueError, "temperature: want a finite value > 0"),
        ({"temperature": "0.1"}, TypeError, "temperature: want a number"),
        ({"temperature": 0.001}, ValueError, r"temperature: want at least 1 / max_scale = 0\.01"),
        ({"max_scale": 0.0}, ValueError, "max_scale: want a number > 0"),
        ({"max_scale": math.nan}, ValueError, "max_scale: want a number > 0"),
        ({"max_scale": None}, TypeError, "max_scale: want a number"),
    ],
)
def test_bad_settings_are_named(options, error, text):
    with pytest.raises(error, match=text):
        LearnableTemperature(**options)
