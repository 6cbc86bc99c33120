from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mi_estimators as mi
from mi_estimators.losses import EntropyReconstruction, InfoNCE, NTXent

DOUBLE = torch.float64


def views(n: int = 20, d: int = 6, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    z = torch.randn(n, d, dtype=DOUBLE)
    return z, z + noise * torch.randn(n, d, dtype=DOUBLE)


def test_gradcheck_of_the_er_bound():
    x, y = (t.requires_grad_() for t in views(6, 3))
    for support in ("sphere", "euclidean"):
        assert torch.autograd.gradcheck(
            lambda a, b, s=support: mi.er_bound(a, b, support=s, bandwidth=1.3).value, (x, y)
        )
    logits = torch.randn(5, 4, dtype=DOUBLE, requires_grad=True), torch.randn(5, 4, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b: mi.er_bound(a.softmax(1), b.softmax(1), support="discrete").value, logits
    )


PARAMETRIC = {
    "er_bound": lambda x, y, t: mi.er_bound(x, y, bandwidth=10 * t).value,
    "euclidean": lambda x, y, t: mi.er_bound(x, y, support="euclidean", bandwidth=t).value,
    "kde_entropy": lambda x, y, t: mi.kde_entropy(x, bandwidth=t),
    "vmf": lambda x, y, t: mi.kde_entropy(F.normalize(x, dim=1), kernel="vmf", bandwidth=10 * t),
}


@pytest.mark.parametrize("name", PARAMETRIC)
@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_losses_compile_to_one_graph_for_every_setting(name, backend):
    # The first value is compiled in, later ones make it a symbol: each has to be right.
    torch.compiler.reset()
    x, y = (t.float().requires_grad_() for t in views())
    compiled = torch.compile(PARAMETRIC[name], fullgraph=True, backend=backend)
    for setting in (0.5, 0.3, 0.7, 0.2):
        got, want = compiled(x, y, setting), PARAMETRIC[name](x, y, setting)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        (a,), (b,) = torch.autograd.grad(got, [x]), torch.autograd.grad(want, [x])
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_autocast_hands_out_mixed_dtypes():
    x, y = (t.float() for t in views(32, 8))
    unit = F.normalize(x, dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, wide = (mi.er_bound(a, y, bandwidth=10.0).value for a in (x.bfloat16(), x.bfloat16().float()))
        torch.testing.assert_close(mixed, wide)
        entropy = mi.kde_entropy(unit, kernel="vmf", bandwidth=100.0)
    torch.testing.assert_close(entropy, mi.kde_entropy(unit, kernel="vmf", bandwidth=100.0))


def test_modules_are_their_functions():
    x, y = views()
    torch.testing.assert_close(
        InfoNCE(0.2, symmetric=False, normalize=False, reduction="none")(x, y),
        mi.info_nce(x, y, temperature=0.2, symmetric=False, normalize=False, reduction="none"),
    )
    torch.testing.assert_close(NTXent(0.2, reduction="sum")(x, y), mi.nt_xent(x, y, temperature=0.2, reduction="sum"))
    bound = mi.er_bound(x, y, bandwidth=10.0)
    torch.testing.assert_close(EntropyReconstruction(symmetric=False)(x, y), -bound.value)
    weighted = EntropyReconstruction(symmetric=False, entropy_weight=0.5, reconstruction_weight=2.0)(x, y)
    torch.testing.assert_close(weighted, -(0.5 * bound.entropy + 2.0 * bound.reconstruction))
    both = EntropyReconstruction().terms(x, y)
    torch.testing.assert_close(both.entropy, (bound.entropy + mi.er_bound(y, x, bandwidth=10.0).entropy) / 2)
    assert repr(NTXent(0.2)) == "NTXent(temperature=0.2, normalize=True, reduction='mean')"


# ------------------------------------------------------------------------------------------------------- ER bound


def test_er_bound_terms_on_the_sphere():
    x, y = views(50, 5)
    u, v = F.normalize(x, dim=1), F.normalize(y, dim=1)
    bound = mi.er_bound(x, y, bandwidth=8.0)
    constant = mi.entropy.log_vmf_normalizer(5, 8.0)
    torch.testing.assert_close(bound.reconstruction, 8.0 * (u * v).sum(1).mean() + constant)
    torch.testing.assert_close(bound.entropy, mi.kde_entropy(v, kernel="vmf", bandwidth=8.0))
    torch.testing.assert_close(bound.value, bound.entropy + bound.reconstruction)
    assert bound.cap is None


def test_er_loss_at_one_concentration_is_alignment_and_uniformity():
    # With Joe's estimate, the self term and one kappa the constants cancel (see the ER paper, section 4).
    x, y = (F.normalize(t, dim=1) for t in views(30, 64))
    bound = mi.er_bound(x, y, bandwidth=10.0, leave_one_out=False)
    alignment = 10.0 * (x * y).sum(1).mean()
    uniformity = torch.logsumexp(10.0 * y @ y.T, 1).mean() - math.log(30)
    torch.testing.assert_close(bound.value, alignment - uniformity)
    assert bound.cap == pytest.approx(math.log(30))
    assert mi.er_bound(x, x, bandwidth=10.0, leave_one_out=False).value.item() <= math.log(30) + 1e-9


@pytest.mark.parametrize("d", [1, 3])
def test_euclidean_er_bound_is_below_the_truth_and_close_on_gaussians(d):
    sigma = 0.5
    z1 = torch.randn(4000, d, dtype=DOUBLE)
    z2 = z1 + sigma * torch.randn(4000, d, dtype=DOUBLE)
    truth = d / 2 * math.log(1 + 1 / sigma**2)
    bound = mi.er_bound(z1, z2, support="euclidean")
    assert bound.value.item() == pytest.approx(truth, abs=0.03 + 0.04 * d)
    worse = mi.er_bound(z1, z2, support="euclidean", reconstruction_bandwidth=2 * sigma)
    assert worse.value < bound.value


def test_maximum_likelihood_concentration_is_the_tightest():
    x, y = views(200, 6)
    values = [mi.er_bound(x, y, reconstruction_bandwidth=k).value.item() for k in (1.0, 5.0, 20.0, 100.0, 400.0)]
    assert mi.er_bound(x, y).value.item() >= max(values) - 1e-12


def test_discrete_er_bound_of_an_exact_channel():
    # z1 one-hot and uniform over K, z2 = z1: I = log K = H, and the reconstruction costs nothing.
    z = torch.eye(8, dtype=DOUBLE).repeat(5, 1)
    bound = mi.er_bound(z, z, support="discrete")
    assert bound.value.item() == pytest.approx(math.log(8), abs=1e-12)
    assert bound.cap == pytest.approx(math.log(8))
    # A wrong certain prediction costs a lot, and is finite.
    assert mi.er_bound(z, z.roll(1, 1), support="discrete").value.item() < -100
    assert math.isfinite(mi.er_bound(z, z.roll(1, 1), support="discrete").value.item())


def test_er_loss_spreads_points_and_keeps_pairs_together():
    torch.manual_seed(1)
    angles = torch.nn.Parameter(0.1 * torch.randn(24, 4, dtype=DOUBLE) + torch.tensor([1.0, 0, 0, 0]))
    loss = EntropyReconstruction(bandwidth=10.0)
    optimizer = torch.optim.Adam([angles], lr=0.05)
    noise = 0.01 * torch.randn(24, 4, dtype=DOUBLE)
    first = mi.er_bound(angles, angles + noise, bandwidth=10.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss(angles, angles + noise).backward()
        optimizer.step()
    last = mi.er_bound(angles, angles + noise, bandwidth=10.0)
    assert last.entropy > first.entropy + 0.5
    assert last.value > first.value


@pytest.mark.parametrize(
    ("replace", "error", "text"),
    [
        ({1: torch.ones(4, 2)}, ValueError, "z2: want the shape of z1"),
        ({1: torch.ones(3, 2).double()}, TypeError, "z2: want the dtype of"),
        ({1: torch.ones(3, 2, device="meta")}, ValueError, "z2: want the device of"),
        ({0: torch.ones(3, 2, dtype=torch.int64)}, TypeError, "z1: want a dtype"),
        ({0: torch.ones(0, 2), 1: torch.ones(0, 2)}, ValueError, "z1: want at least one element"),
        ({0: torch.full((3, 2), math.nan)}, ValueError, "z1: want finite values"),
        ({1: torch.full((3, 2), math.inf)}, ValueError, "z2: want finite values"),
        ({0: [1.0, 2.0]}, TypeError, "z1: want a floating-point torch.Tensor"),
    ],
)
def test_bad_views_are_named(replace, error, text):
    arguments = [torch.randn(3, 2), torch.randn(3, 2)]
    for i, value in replace.items():
        arguments[i] = value
    with pytest.raises(error, match=text):
        mi.er_bound(*arguments)


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
def test_bad_numbers_are_named(value):
    for module in (InfoNCE, NTXent):
        with pytest.raises(ValueError, match="temperature: want"):
            module(value)
    with pytest.raises(ValueError, match="bandwidth: want"):
        EntropyReconstruction(bandwidth=value)


def test_other_bad_settings():
    x, y = views()
    with pytest.raises(ValueError, match="support: want one of"):
        mi.er_bound(x, y, support="torus")
    with pytest.raises(ValueError, match="entropy_weight: want a finite number >= 0"):
        EntropyReconstruction(entropy_weight=-1.0)
    with pytest.raises(ValueError, match="z1: want rows of length 1"):
        mi.er_bound(x, y, normalize=False)
    with pytest.raises(ValueError, match="z1: want at least 2 dimensions on the sphere"):
        mi.er_bound(x[:, :1], y[:, :1])
    with pytest.raises(ValueError, match="temperature: want a number or one element"):
        InfoNCE(torch.ones(2))
    with pytest.raises(ValueError, match="reconstruction_bandwidth: want a number or a tensor with one element"):
        mi.er_bound(x, y, reconstruction_bandwidth=torch.ones(2))
    with pytest.raises(TypeError, match="reconstruction_bandwidth: want a number"):
        mi.er_bound(x, y, reconstruction_bandwidth="loo")
    with pytest.raises(ValueError, match="bandwidth: want one of"):
        EntropyReconstruction(bandwidth="x")
    with pytest.raises(ValueError, match="z1: want at least 2 pairs"):
        mi.er_bound(x[:1], y[:1])
    with pytest.raises(ValueError, match="z1: want rows of probabilities"):
        mi.er_bound(x, y, support="discrete")
