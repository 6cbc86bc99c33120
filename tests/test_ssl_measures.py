"""Measures of how representations are spread: closed forms, sums written out, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mi_estimators.er import er_bound
from mi_estimators.ssl import METHODS, Setting
from mi_estimators.ssl.encoders import MLP
from mi_estimators.ssl.measures import alignment, rankme, teacher_distance, uniformity
from mi_estimators.ssl.teacher import Teacher

pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_rankme_of_known_singular_values():
    assert rankme(torch.eye(7)) == pytest.approx(7, rel=1e-4)
    assert rankme(torch.ones(20, 5)) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.zeros(4, 3)) == 0
    singular = torch.tensor([5.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(n, 4, dtype=torch.float64))[0] for n in (31, 6))
    p = singular / singular.sum() + 1e-7
    spread = -(p * p.log()).sum() - 2 * 1e-7 * math.log(1e-7)  # two of six directions are empty
    for matrix in ((left * singular) @ right.T, (right * singular) @ left.T):
        assert rankme(matrix) == pytest.approx(math.exp(float(spread)), rel=1e-6)
    assert rankme((left * singular) @ right.T * 1e-6) == pytest.approx(math.exp(float(spread)), rel=1e-6)


def test_rankme_is_that_of_the_singular_value_decomposition():
    z = torch.randn(40, 12, dtype=torch.float64) * torch.logspace(0, -6, 12, dtype=torch.float64)
    values = torch.linalg.svdvals(z)
    p = values / values.sum() + 1e-7
    assert rankme(z) == pytest.approx(math.exp(-float((p * p.log()).sum())), rel=1e-6)
    assert 1 < rankme(z.half()[::2].T) < 12


def test_alignment_of_known_angles():
    z = torch.randn(9, 4)
    assert alignment(z, 3 * z) == pytest.approx(0, abs=1e-12)
    assert alignment(z, -z) == pytest.approx(4)
    assert alignment(torch.eye(5), torch.eye(5).roll(1, 0)) == pytest.approx(2)


def test_uniformity_is_the_mean_over_pairs():
    z = torch.randn(17, 3, dtype=torch.float64)
    distances = torch.pdist(F.normalize(z, dim=1)).square()
    for t in (2.0, 0.5):
        assert uniformity(z, t) == pytest.approx(float((-t * distances).exp().mean().log()), rel=1e-10)
    assert uniformity(torch.ones(6, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8)
    assert uniformity(torch.eye(64).double()) == pytest.approx(-4)


def test_teacher_distance_is_relative_to_the_weights():
    student = nn.Linear(3, 2)
    teacher = Teacher(student)
    assert teacher_distance(teacher.network, student) == 0
    with torch.no_grad():
        for weight in teacher.network.parameters():
            weight.mul_(1.25)
    assert teacher_distance(teacher.network, student) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rankme(torch.ones(3)), ValueError, "z: want 2 dimensions"),
        (lambda: rankme(torch.full((2, 2), math.nan)), ValueError, "z: want finite"),
        (lambda: rankme(torch.ones(2, 2, dtype=torch.int64)), TypeError, "z: want a dtype"),
        (lambda: alignment(torch.ones(2, 3), torch.ones(2, 4)), ValueError, "z2: want the shape of z1"),
        (lambda: uniformity(torch.ones(1, 3)), ValueError, "z: want at least 2 embeddings"),
        (lambda: uniformity(torch.ones(2, 3), 0.0), ValueError, "t: want a finite value > 0"),
        (lambda: teacher_distance(nn.Linear(2, 2), nn.Linear(2, 3)), ValueError, "teacher: want parameters"),
    ],
)
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", ["simclr", "dino"])
def test_the_entropy_floor_is_the_entropy_of_one_point(name):
    method = METHODS[name](Setting(lambda view: MLP((1, 4, 8)), 32))
    point = torch.zeros(16, 6)
    point[:, 0] = 60.0
    found = float(method.er_bound(point, point).entropy)
    assert method.entropy_floor(6) == pytest.approx(found, abs=1e-4)
    if name == "simclr":
        spread = F.normalize(torch.randn(16, 6), dim=1)
        assert float(er_bound(spread, spread, support="sphere", bandwidth=method.kappa).entropy) > found + 1
