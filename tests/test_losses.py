from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pairwise import LargestTensor
from torch import Tensor

import mi_estimators as mi
from mi_estimators import _extension, losses
from mi_estimators.losses import ClipLoss, EntropyReconstruction, InfoNCE, LabelNTXent, NTXent, SupCon

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


OPTIONS = [
    {},
    {"normalize": False},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.1},
    {"decoupled": True},
    {"hard_negative_beta": 0.7},
    {"temperature": 0.2, "decoupled": True, "hard_negative_beta": 0.7, "reduction": "none"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_modules_are_their_functions(options):
    x, y = views()
    data = {"weights": torch.rand(20, dtype=DOUBLE), "groups": torch.arange(20) % 7}
    for tensors in ({}, data):
        torch.testing.assert_close(InfoNCE(**options)(x, y, **tensors), mi.info_nce(x, y, **options, **tensors))
        torch.testing.assert_close(NTXent(**options)(x, y, **tensors), mi.nt_xent(x, y, **options, **tensors))
    bank = torch.randn(9, 6, dtype=DOUBLE)
    torch.testing.assert_close(NTXent(**options)(x, y, negatives=bank), mi.nt_xent(x, y, **options, negatives=bank))
    torch.testing.assert_close(
        InfoNCE(symmetric=False, in_batch_negatives=False, **options)(x, y, negatives=bank),
        mi.info_nce(x, y, symmetric=False, in_batch_negatives=False, **options, negatives=bank),
    )
    of_labels = {k: v for k, v in options.items() if k not in ("label_smoothing", "hard_negative_beta")}
    labels = torch.arange(20) % 6
    torch.testing.assert_close(SupCon(**of_labels)(x, labels), mi.sup_con(x, labels, **of_labels))


def test_er_module_is_its_function():
    x, y = views()
    bound = mi.er_bound(x, y, bandwidth=10.0)
    torch.testing.assert_close(EntropyReconstruction(symmetric=False)(x, y), -bound.value)
    weighted = EntropyReconstruction(symmetric=False, entropy_weight=0.5, reconstruction_weight=2.0)(x, y)
    torch.testing.assert_close(weighted, -(0.5 * bound.entropy + 2.0 * bound.reconstruction))
    both = EntropyReconstruction().terms(x, y)
    torch.testing.assert_close(both.entropy, (bound.entropy + mi.er_bound(y, x, bandwidth=10.0).entropy) / 2)


def test_settings_stay_settable_and_are_shown():
    x, y = views()
    loss = NTXent(0.2)
    loss.temperature, loss.reduction = 0.7, "sum"
    torch.testing.assert_close(loss(x, y), mi.nt_xent(x, y, temperature=0.7, reduction="sum"))
    assert repr(NTXent(0.2, decoupled=True)) == "NTXent(temperature=0.2, decoupled=True)"
    assert repr(EntropyReconstruction()) == "EntropyReconstruction()"
    assert "LearnableTemperature(max_scale=100.0)" in repr(InfoNCE(learnable_temperature=True))
    assert {name for name in vars(losses) if isinstance(vars(losses)[name], type)} == set(losses.__all__)


# ----------------------------------------------------------------------------------------- temperature of the modules


@pytest.mark.parametrize("module", [InfoNCE, NTXent])
def test_a_learned_temperature_is_a_parameter_of_the_loss(module):
    x, y = views(32, 8, noise=0.1)
    loss = module(0.5, learnable_temperature=True)
    assert [name for name, _ in loss.named_parameters()] == ["temperature.logit_scale"]
    tau = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    want = {InfoNCE: mi.info_nce, NTXent: mi.nt_xent}[module](x, y, temperature=tau)
    got = loss.double()(x, y)
    torch.testing.assert_close(got, want)
    got.backward()
    want.backward()
    # tau = exp(-s)
    torch.testing.assert_close(loss.temperature.logit_scale.grad, -0.5 * tau.grad)
    optimizer = torch.optim.SGD(loss.parameters(), lr=100.0)
    optimizer.step()
    assert loss(x, y) < got
    assert 1 / loss.temperature().item() <= 100 + 1e-9


def test_the_scale_of_a_call_takes_the_place_of_the_temperature():
    x, y = views()
    scale = torch.tensor(12.0, dtype=DOUBLE, requires_grad=True)
    unit = F.normalize(x, dim=1), F.normalize(y, dim=1)
    want = mi.info_nce(x, y, temperature=1 / 12)
    for got in (InfoNCE(0.5)(x, y, scale), InfoNCE()(*unit, scale), InfoNCE(normalize=False)(*unit, 12.0)):
        torch.testing.assert_close(got, want)
    got = ClipLoss()(*unit, scale)
    torch.testing.assert_close(got, want)
    logits = scale * unit[0] @ unit[1].T
    target = torch.arange(20)
    dense = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(torch.autograd.grad(got, scale), torch.autograd.grad(dense, scale))
    with pytest.raises(ValueError, match="logit_scale: want none"):
        InfoNCE(learnable_temperature=True)(x, y, scale)
    with pytest.raises(ValueError, match="logit_scale: want finite values > 0"):
        InfoNCE()(x, y, -scale)
    with pytest.raises(ValueError, match="logit_scale: want a number or one element"):
        InfoNCE()(x, y, torch.ones(2))


def test_modules_compile_to_one_graph():
    torch.compiler.reset()
    x, y = (t.float() for t in views())
    for loss in (InfoNCE(0.3, learnable_temperature=True), InfoNCE(0.3, symmetric=False, queue_size=(16, 6))):
        want = loss(x, y)
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, y), want)


# ------------------------------------------------------------------------------------------------------- past keys


def test_a_queue_holds_the_keys_of_past_batches():
    loss = InfoNCE(0.3, symmetric=False, queue_size=(10, 6), in_batch_negatives=False).double()
    beside = InfoNCE(0.3, symmetric=False, queue_size=(10, 6)).double()
    beside.load_state_dict(loss.state_dict())
    queue = loss.memory_bank.entries.clone()
    for _ in range(4):
        q, k = (t.requires_grad_() for t in views(4))
        torch.testing.assert_close(
            loss(q, k), mi.info_nce(q, k, temperature=0.3, symmetric=False, negatives=queue, in_batch_negatives=False)
        )
        torch.testing.assert_close(beside(q, k), mi.info_nce(q, k, temperature=0.3, symmetric=False, negatives=queue))
        queue = torch.cat([queue, F.normalize(k.detach(), dim=1)])[-10:]
    assert [name for name, _ in loss.named_parameters()] == []
    assert set(loss.state_dict()) == {"memory_bank.entries", "memory_bank.position"}


@pytest.mark.parametrize("loss", [InfoNCE(symmetric=False, queue_size=9), NTXent(0.5, (9, 6))])
def test_evaluation_and_errors_leave_the_past_keys_alone(loss):
    q, k = (t.float() for t in views())
    loss(q, k)
    before = loss.memory_bank.entries.clone()
    with torch.no_grad():
        first = loss(q.requires_grad_(), k)
    loss.eval()
    assert loss(q, k) == first
    loss.train()
    with pytest.raises(ValueError, match="want the shape of"):
        loss(q[:3], k)
    assert torch.equal(loss.memory_bank.entries, before)
    loss(q, k).backward()
    assert not torch.equal(loss.memory_bank.entries, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_past_keys_serve_every_dtype(dtype):
    q, k = (t.to(dtype).requires_grad_() for t in views())
    loss = NTXent(0.5, (9, 6))
    want = mi.info_nce(
        q, k, temperature=0.5, symmetric=False, in_batch_negatives=False, negatives=loss.memory_bank.entries.to(dtype)
    )
    torch.testing.assert_close(loss(q, k), want)


# --------------------------------------------------------------------------------------------------- points with labels


def test_two_views_by_labels_are_nt_xent():
    z1, z2 = views()
    z, labels = torch.cat([z1, z2]), torch.arange(20).repeat(2)
    want = mi.nt_xent(z1, z2, temperature=0.2)
    torch.testing.assert_close(LabelNTXent(0.2)(z, labels), want)
    torch.testing.assert_close(SupCon(0.2)(z, labels), want)
    torch.testing.assert_close(LabelNTXent(0.2)(1000 * z.half(), labels.int()), want.float(), rtol=1e-2, atol=1e-2)


def test_pairs_of_large_classes_are_taken_in_parts(monkeypatch):
    z, labels = torch.randn(30, 4, dtype=DOUBLE, requires_grad=True), torch.arange(30) % 3
    want = LabelNTXent(0.2)(z, labels)
    monkeypatch.setattr("mi_estimators.losses.supervised._ELEMENTS", 50)
    got = LabelNTXent(0.2)(z, labels)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(3 * got, z), torch.autograd.grad(3 * want, z))


@pytest.mark.skipif(not _extension.info()["cpu_kernels"], reason="the torch reference holds blocks of scores")
def test_nothing_is_of_the_size_of_the_pairs_of_large_classes(monkeypatch):
    monkeypatch.setattr("mi_estimators.losses.supervised._ELEMENTS", 20_000)
    z, labels = torch.randn(400, 4, requires_grad=True), torch.arange(400) % 2
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with LargestTensor() as largest:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = LabelNTXent(0.2)(z, labels)
        loss.backward()
    assert max(sum(kept.values()), largest.elements) <= 20_000  # of 400 x 199 pairs


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
def test_bad_temperatures_are_named(value):
    for call in (
        lambda: InfoNCE(value),
        lambda: NTXent(value),
        lambda: SupCon(value),
        lambda: LabelNTXent(value),
        lambda: InfoNCE(value, learnable_temperature=True),
    ):
        with pytest.raises(ValueError, match="temperature: want"):
            call()
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
        mi.er_bound(x, y, reconstruction_bandwidth=[1.0])
    with pytest.raises(ValueError, match=r"reconstruction_bandwidth: want one of \['shared'\], got 'loo'"):
        mi.er_bound(x, y, reconstruction_bandwidth="loo")
    with pytest.raises(ValueError, match="bandwidth: want one of"):
        EntropyReconstruction(bandwidth="x")
    with pytest.raises(ValueError, match="z1: want at least 2 pairs"):
        mi.er_bound(x[:1], y[:1])
    with pytest.raises(ValueError, match="z1: want rows of probabilities"):
        mi.er_bound(x, y, support="discrete")


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: InfoNCE(reduction="median"), ValueError, "reduction: want one of"),
        (lambda: InfoNCE(label_smoothing=2.0), ValueError, "label_smoothing: want"),
        (lambda: NTXent(hard_negative_beta=-1.0), ValueError, "hard_negative_beta: want"),
        (lambda: InfoNCE(torch.tensor(0.1), learnable_temperature=True), TypeError, "temperature: want a number"),
        (lambda: LabelNTXent(1e-320), ValueError, "temperature: want at least 1e-30"),
        (lambda: InfoNCE(0.001, learnable_temperature=True), ValueError, "temperature: want at least 1 / max_scale"),
        (lambda: InfoNCE(queue_size=8), ValueError, "queue_size: want symmetric=False"),
        (lambda: NTXent(0.5, -1), ValueError, "memory_bank_size: want an integer >= 0"),
        (lambda: NTXent(0.5, (8, 4, 2)), ValueError, "memory_bank_size: want an integer >= 0"),
        (lambda: NTXent(0.5, True), ValueError, "memory_bank_size: want an integer >= 0"),
        (lambda: NTXent(0.5, 2.5), ValueError, "memory_bank_size: want an integer >= 0"),
        (lambda: ClipLoss(use_horovod=True), ValueError, "use_horovod: want False"),
    ],
)
def test_bad_settings_of_modules_are_named(build, error, text):
    with pytest.raises(error, match=text):
        build()


def test_data_that_a_module_cannot_use_is_named():
    x, y = views()
    with pytest.raises(ValueError, match="negatives: want none beside the queue"):
        InfoNCE(symmetric=False, queue_size=8)(x, y, negatives=x)
    with pytest.raises(ValueError, match="groups: want none with a memory bank"):
        NTXent(0.5, 8)(x, y, groups=torch.arange(20))
    with pytest.raises(ValueError, match=r"rank, world_size: want those of torch\.distributed, 0 and 1"):
        ClipLoss(world_size=2)(x, y, 1.0)
