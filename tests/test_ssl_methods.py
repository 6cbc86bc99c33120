"""The methods: their losses against formulas written out here, and what each remembers from step to step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators.bounds import i_nce
from mi_estimators.er import er_bound
from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ops import sinkhorn_knopp
from mi_estimators.ssl import METHODS, Method, Setting, TrainConfig, resume, train
from mi_estimators.ssl import checkpoint as checkpoint_module
from mi_estimators.ssl.clusters import k_means, whitened
from mi_estimators.ssl.encoders import MLP, ConvNet
from mi_estimators.ssl.heads import PrototypeHead
from mi_estimators.ssl.instance_bank import InstanceBank
from mi_estimators.ssl.teacher import Teacher, cosine

for module in ("lightning_fabric", "kornia", "sklearn", "tensorboard"):
    pytest.importorskip(module)

SIZE = 96
SHAPE = (1, 4, 8)
WITH_OBJECTIVES = [name for name in METHODS if name != "mi-max"]
SMALL: dict[str, dict[str, Any]] = {
    "moco": {"queue": 128},
    "deepcluster": {"clusters": 8, "components": 8, "every": 3},
    "deepcluster-v2": {"clusters": 8, "every": 2},
    "swav": {"prototypes": 8},
    "dino": {"outputs": 16},
}


pytestmark = pytest.mark.usefixtures("one_thread")


PROJECTED = [name for name in WITH_OBJECTIVES if name not in ("deepcluster", "dino")]


def made(name: str, **options: Any) -> Method:
    return METHODS[name](Setting(lambda view: MLP(SHAPE), SIZE), **{**SMALL.get(name, {}), **options})


def pairs(count: int = SIZE) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, *SHAPE)
    return images + 0.1 * torch.randn_like(images), images + 0.1 * torch.randn_like(images)


def over(images: Tensor, method: Method) -> Any:
    def apply(function: Any) -> Tensor:
        method.eval()
        with torch.no_grad():
            found = function(images)
        method.train()
        return found

    return apply


def fit(method: Method, views: tuple[Tensor, Tensor], steps: int) -> list[dict[str, float]]:
    """Train on one and the same batch, the whole of the set."""
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    index, rows = torch.arange(SIZE), []
    for step in range(steps):
        method.progress = step / steps
        method.begin_epoch(step, over(views[0], method))
        terms = method.step(views, index)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        method.end_step()
        rows.append({name: float(value.detach()) for name, value in terms.items()})
    return rows


@pytest.mark.parametrize("bandwidth", ["loo", "bgh"])
def test_simclr_follows_the_batch_with_the_concentration_of_q(bandwidth):
    method, views = made("simclr", objective="er", bandwidth=bandwidth), pairs()
    terms = method.step(views, None)
    z1, z2 = method.embed(views)
    options = {"bandwidth": bandwidth, "reconstruction_bandwidth": "shared" if bandwidth == "bgh" else None}
    there, back = er_bound(z1, z2, **options), er_bound(z2, z1, **options)
    torch.testing.assert_close(terms["loss"], -(there.value + back.value) / 2)
    assert float(method.scale) == pytest.approx((there.q_bandwidth + back.q_bandwidth) / 2, rel=1e-5)
    method.eval()
    method.step(pairs(), None)
    assert float(method.scale) == pytest.approx((there.q_bandwidth + back.q_bandwidth) / 2, rel=1e-5)


def information(method: Method, views: tuple[Tensor, Tensor]) -> float:
    """InfoNCE of the method's own critic on the batch itself, in nats."""
    method.eval()
    with torch.no_grad():
        found = float(i_nce(method.scores(*method.embed(views))))
    method.train()
    return found


@pytest.mark.parametrize("objective", ["native", "er"])
@pytest.mark.parametrize("name", WITH_OBJECTIVES)
def test_a_method_overfits_a_small_set(name, objective):
    options = {"every": 1000} if name.startswith("deepcluster") else {}  # one and the same target all the time
    method = made(name, objective=objective, **options)
    views = pairs()
    rows = fit(method, views, 1)
    before = information(method, views)
    rows += fit(method, views, 60)
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in rows)
    assert information(method, views) > before + 0.2
    if name not in ("moco", "dino", "swav"):  # whose targets, or negatives, move as the networks do
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert (objective == "er") == ("train_entropy" in rows[-1])
    if objective == "er" and name != "moco":
        for row in rows:
            assert row["loss"] == pytest.approx(-row["train_entropy"] - row["train_reconstruction"], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", ["native", "er"])
@pytest.mark.parametrize("name", WITH_OBJECTIVES)
def test_half_types_change_the_loss_by_their_rounding(name, objective, dtype):
    method, views, index = made(name, objective=objective), pairs(), torch.arange(SIZE)
    method.begin_epoch(0, over(views[0], method))
    expected = copy.deepcopy(method).step(views, index)["loss"].detach()
    with torch.autocast("cpu", dtype=dtype):
        loss = method.step(views, index)["loss"]
    assert loss.dtype == torch.float32
    assert (loss - expected).abs() <= 0.1 * (1 + expected.abs())
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.parameters())


@pytest.mark.parametrize("name", WITH_OBJECTIVES)
def test_images_outside_the_training_set_have_a_loss_and_change_nothing(name):
    method = made(name)
    fit(method, pairs(), 3)
    method.eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    with torch.no_grad():
        terms = method.step(pairs(40), None)
        bound = method.er_bound(*method.embed(pairs(40)))
    assert torch.isfinite(terms["loss"])
    assert torch.isfinite(bound.value)
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_moco_is_cross_entropy_of_key_and_queue():
    method = made("moco", temperature=0.2)
    views = pairs(32)
    query, key = F.normalize(method.online(views[0]), dim=1), F.normalize(method.teacher(views[1]), dim=1)
    queue = method.info_nce.memory_bank.entries.clone()
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / 0.2
    want = F.cross_entropy(logits, torch.zeros(32, dtype=torch.int64))
    assert method.step(views, torch.arange(32))["loss"].item() == pytest.approx(want.item(), rel=1e-5)
    assert torch.allclose(method.info_nce.memory_bank.entries[:32], key, atol=1e-6)


def test_instance_discrimination_is_cross_entropy_over_the_bank():
    method = made("instdisc", temperature=0.1, momentum=0.25)
    views, index = pairs(32), torch.randperm(SIZE)[:32]
    z = F.normalize(method.online(views[0]), dim=1)
    before = method.bank.entries.clone()
    want = F.cross_entropy(z @ before.T / 0.1, index)
    nothing = torch.full_like(views[1], torch.nan)  # the second views take no part in training
    loss = method.step((views[0], nothing), index)["loss"]
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    loss.backward()  # the bank must not have moved under it
    method.end_step()
    moved = F.normalize(0.25 * before[index] + 0.75 * z.detach(), dim=1)
    assert torch.allclose(method.bank.entries[index], moved, atol=1e-6)
    others = torch.ones(SIZE, dtype=torch.bool)
    others[index] = False
    assert torch.equal(method.bank.entries[others], before[others])


@pytest.mark.parametrize("negatives", ["batch", "bank"])
def test_cmc_scores_each_modality_against_the_other_only(negatives):
    method = made("cmc", negatives=negatives, temperature=0.3)
    views, index = pairs(32), torch.arange(10, 42)
    z1, z2 = method.embed(views)
    if negatives == "batch":
        target = torch.arange(32)
        want = (F.cross_entropy(z1 @ z2.T / 0.3, target) + F.cross_entropy(z2 @ z1.T / 0.3, target)) / 2
    else:
        of_first, of_second = (bank.entries for bank in method.banks)
        want = (F.cross_entropy(z1 @ of_second.T / 0.3, index) + F.cross_entropy(z2 @ of_first.T / 0.3, index)) / 2
    loss = method.step(views, index)["loss"]
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    loss.backward()
    method.end_step()


def test_swav_swaps_codes_of_an_even_assignment():
    method = made("swav", temperature=0.1, epsilon=0.3)
    views = pairs(48)
    z1, z2 = (F.normalize(z, dim=1) for z in method.online(torch.cat(views)).chunk(2))
    cosines = [z @ F.normalize(method.prototypes, dim=1).T for z in (z1, z2)]

    def code(scores: Tensor) -> Tensor:
        q = (scores.detach().double() / 0.3).exp().T
        for _ in range(3):
            q = q / q.sum(dim=1, keepdim=True) / len(q)
            q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
        return (q * q.shape[1]).T

    first, second = (
        -(code(a) * F.log_softmax(b.double() / 0.1, dim=1)).sum(1).mean() for a, b in (cosines, cosines[::-1])
    )
    assert method.step(views, None)["loss"].item() == pytest.approx(((first + second) / 2).item(), rel=1e-5)


def test_swav_holds_its_prototypes_at_first_and_remembers_embeddings():
    method = made("swav", frozen=0.5, queue=64)
    views = pairs(48)
    method.progress = 0.4
    method.step(views, None)["loss"].backward()
    assert method.prototypes.grad is None
    assert int(method.bank.count) == 48
    method.progress = 0.5
    method.step(views, None)["loss"].backward()
    assert method.prototypes.grad.abs().max() > 0
    assert int(method.bank.count) == 64


@pytest.mark.parametrize("objective", ["native", "er"])
@pytest.mark.parametrize("name", ["swav", "dino"])
def test_small_crops_predict_the_large_views_and_are_no_targets(name, objective):
    method = METHODS[name](Setting(lambda view: ConvNet((1, 8, 8)), SIZE), objective=objective, **SMALL[name])
    method.eval()  # batch statistics would tie the views together
    images = torch.rand(24, 1, 8, 8)
    large = images, images.flip(3)
    small = images[:, :, :4, 2:6], images[:, :, 4:, :4]
    whole = method.step((*large, *small), None)

    def predicted(view: Tensor, target: Tensor) -> Tensor:
        """The terms of one direction, by formulas."""
        z, t = method.online(view), (method.teacher if name == "dino" else method.online)(target)
        if name == "swav":
            z, t = (F.normalize(x, dim=1) @ F.normalize(method.prototypes, dim=1).T for x in (z, t))
        logits, sharp = z / 0.1, t.detach() / (0.05 if name == "swav" else 0.04)
        if objective == "native":
            codes = sinkhorn_knopp(t.detach(), epsilon=0.05) if name == "swav" else F.softmax(sharp, dim=1)
            return -(codes * F.log_softmax(logits, dim=1)).sum(1).mean()
        marginal = F.softmax(logits, dim=1).mean(0)
        entropy = -(marginal * marginal.log()).sum()
        return -(F.softmax(sharp, dim=1) * F.log_softmax(logits, dim=1)).sum(1).mean() - entropy

    views = [*large, *small]
    losses = [predicted(views[v], views[t]) for t in (0, 1) for v in range(4) if v != t]
    assert whole["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    pair = method.step(large, None)
    assert pair["loss"].item() == pytest.approx(((losses[0] + losses[3]) / 2).item(), rel=1e-4)
    if name == "dino":  # the centre is that of the teacher's views, which are the large ones
        method.train()
        method.teacher.eval()
        before = method.center.clone()
        method.step((*large, *small), None)
        mean = torch.cat([method.teacher(view) for view in large]).mean(0)
        assert torch.allclose(method.center, 0.9 * before + 0.1 * mean, atol=1e-6)


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_cosine_losses(name):
    method = made(name)
    v1, v2 = pairs(32)
    z1, z2 = method.online(v1), method.online(v2)
    t1, t2 = (method.teacher(v1), method.teacher(v2)) if name == "byol" else (z1.detach(), z2.detach())
    p1, p2 = method.predictor(z1), method.predictor(z2)
    cosines = (F.normalize(p1, dim=1) * F.normalize(t2, dim=1)).sum(1) + (
        F.normalize(p2, dim=1) * F.normalize(t1, dim=1)
    ).sum(1)
    want = 2 - cosines.mean() if name == "byol" else -cosines.mean() / 2
    loss = method.step((v1, v2), None)["loss"]
    assert loss.item() == pytest.approx(want.item(), abs=1e-5)
    loss.backward()
    if name == "byol":
        assert all(p.grad is None for p in method.teacher.parameters())


def test_er_of_byol_is_the_formula_of_the_paper():
    method = made("byol", objective="er", kappa=5.0, projection=3)
    v1, v2 = pairs(32)
    terms = method.step((v1, v2), None)
    kappa = torch.tensor(5.0, dtype=torch.float64)
    log_c = torch.log(kappa / (4 * torch.pi * torch.sinh(kappa)))  # of the sphere in three dimensions
    losses = []
    for mine, other in ((v1, v2), (v2, v1)):
        z, t = method.online(mine).double(), F.normalize(method.teacher(other).double(), dim=1)
        p = F.normalize(method.predictor(z.float()).double(), dim=1)
        z = F.normalize(z, dim=1)
        pairwise = (kappa * z @ z.T).masked_fill(torch.eye(32, dtype=torch.bool), -torch.inf)
        entropy = -(log_c + pairwise.logsumexp(1) - torch.log(torch.tensor(31.0))).mean()
        losses.append(-(entropy + log_c + kappa * (p * t).sum(1).mean()))
    assert terms["loss"].item() == pytest.approx((sum(losses) / 2).item(), rel=1e-4)


@pytest.mark.parametrize("centering", ["mean", "none", "sinkhorn"])
def test_dino_is_cross_entropy_with_the_centred_teacher(centering):
    method = made("dino", centering=centering)
    method.center.copy_(0.1 * torch.randn(16))
    center = method.center.clone()
    v1, v2 = pairs(32)
    students = [method.online(view) / 0.1 for view in (v1, v2)]
    teachers = [method.teacher(view) for view in (v1, v2)]
    if centering == "sinkhorn":
        codes = []
        for t in teachers:
            q = (t.double() / 0.04).exp().T
            for _ in range(3):
                q = q / q.sum(dim=1, keepdim=True) / len(q)
                q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
            codes.append((q * q.shape[1]).T.float())
    else:
        codes = [F.softmax((t - (center if centering == "mean" else 0)) / 0.04, dim=1) for t in teachers]
    want = sum(-(codes[1 - i] * F.log_softmax(students[i], dim=1)).sum(1).mean() for i in (0, 1)) / 2
    loss = method.step((v1, v2), None)["loss"]
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    assert torch.allclose(method.center, 0.9 * center + 0.1 * torch.cat(teachers).mean(0), atol=1e-6)


@pytest.mark.parametrize("objective", ["native", "er"])
def test_the_teacher_of_dino_warms_up_its_temperature(objective):
    options = {"objective": objective, "teacher_temperature": 0.07}
    scheduled = made("dino", start_temperature=0.03, temperature_warmup=0.5, **options)
    views = pairs(32)
    for progress, temperature in ((0.0, 0.03), (0.25, 0.05), (0.5, 0.07), (0.9, 0.07)):
        scheduled.progress = progress
        constant = made("dino", **{**options, "teacher_temperature": temperature})
        constant.load_state_dict(scheduled.state_dict())
        constant.progress = progress
        assert scheduled.step(views, None)["loss"].item() == pytest.approx(constant.step(views, None)["loss"].item())
        torch.testing.assert_close(scheduled.embed(views)[1], constant.embed(views)[1])


def test_a_frozen_prototype_head_gets_no_gradient():
    head = PrototypeHead(6, 5)
    head.frozen = True
    out = head(torch.randn(8, 6))
    assert out.abs().max() <= 1 + 1e-6
    out.sum().backward()
    assert head.prototypes.grad is None
    assert head.layers[0].weight.grad.abs().max() > 0


def test_the_head_of_dino_is_without_batch_norm_if_asked():
    def norms(module: torch.nn.Module) -> int:
        return sum(isinstance(part, torch.nn.BatchNorm1d) for part in module.modules())

    plain = made("dino", head_norm="none")
    assert (norms(plain), norms(made("dino"))) == (0, 2)  # student and teacher
    one = torch.rand(1, *SHAPE)  # no other image has a part in its output
    together = plain.online(torch.cat([one, torch.rand(5, *SHAPE)]))
    assert torch.allclose(plain.online(one)[0], together[0], atol=1e-6)


@pytest.mark.parametrize(("temperature", "held"), [(0.04, 4.33), (0.07, None)])
def test_er_holds_one_output_for_all_images_only_below_a_sharp_teacher(temperature, held):
    """docs/trainers.md: the gap of one logit to the other 255 at which the loss of equal outputs is stationary."""
    criterion = EntropyReconstruction("discrete", logits=True, entropy_of="first", symmetric=False)
    gaps = torch.linspace(0.1, 12, 120, dtype=torch.float64)
    slopes = []
    for gap in gaps:
        student = gap.clone().requires_grad_()
        logits = torch.cat([student[None], torch.zeros(255, dtype=torch.float64)]).expand(256, 256)
        teacher = (logits * (0.1 / temperature)).detach()
        (slope,) = torch.autograd.grad(criterion(logits, teacher), student)
        slopes.append(float(slope))
    signs = torch.tensor(slopes) > 0  # descent then makes the gap smaller
    if held is None:
        assert bool(signs.all())
    else:
        crossing = gaps[1:][signs[1:] & ~signs[:-1]]
        assert len(crossing) == 1
        assert abs(crossing.item() - held) <= 0.11


def test_deepcluster_weighs_clusters_alike_and_starts_its_classifier_anew():
    method = made("deepcluster")
    views = pairs()
    method.begin_epoch(0, over(views[0], method))
    labels, weights = method.labels.clone(), method.weights.clone()
    sizes = torch.bincount(labels, minlength=8)
    assert torch.allclose(weights * sizes, torch.full((8,), SIZE / 8))  # each cluster counts the same
    weight = method.classifier.weight.clone()
    method.begin_epoch(1, over(views[0], method))
    assert torch.equal(method.classifier.weight, weight)
    method.begin_epoch(3, over(views[0], method))
    assert not torch.equal(method.classifier.weight, weight)


def test_deepcluster_v2_predicts_the_nearest_centre():
    method = made("deepcluster-v2")
    views = pairs()
    method.begin_epoch(0, over(views[0], method))
    method.eval()
    z = F.normalize(method.online(views[0]), dim=1)
    assert torch.allclose(method.bank.entries, z, atol=1e-6)
    assert torch.allclose(method.centres.norm(dim=1), torch.ones(8))
    # Lloyd's assignment is by distance to the means, the prediction's by angle: they agree for nearly all.
    assert ((z @ method.centres.T).argmax(1) == method.labels).float().mean() > 0.9


def test_k_means_and_whitening():
    points = torch.cat([torch.randn(50, 3) + 20 * corner for corner in torch.eye(3)])
    labels, centres = k_means(points, 3)
    assert sorted(torch.bincount(labels).tolist()) == [50, 50, 50]
    for k in range(3):
        assert torch.allclose(points[labels == k].mean(0), centres[k], atol=1e-4)
    with pytest.raises(ValueError, match="clusters: want at most the 4 training images, got 5"):
        k_means(points[:4], 5)
    white = whitened(torch.randn(200, 6) @ torch.diag(torch.logspace(0, 3, 6)), 4)
    assert white.shape == (200, 4)
    assert torch.allclose(white.norm(dim=1), torch.ones(200), atol=1e-5)
    spread = white.std(dim=0)
    assert spread.max() / spread.min() < 1.5  # every component counts alike, whatever its variance was


def test_a_teacher_is_an_exponential_moving_average():
    student = torch.nn.Linear(3, 2)
    teacher = Teacher(student)
    start = student.weight.detach().clone()
    with torch.no_grad():
        student.weight.add_(1.0)
    teacher.follow(student, 0.9)
    assert torch.allclose(teacher.network.weight, start + 0.1)
    assert not teacher(torch.randn(4, 3)).requires_grad
    assert [cosine(0.9, 1.0, at) for at in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])


def test_an_instance_bank_has_one_unit_entry_an_image():
    bank = InstanceBank(5, 4, momentum=0.0)
    z = F.normalize(torch.randn(2, 4), dim=1)
    bank.update(torch.tensor([3, 0]), 7 * z)
    assert torch.allclose(bank.entries[[3, 0]], z, atol=1e-6)
    assert torch.allclose(bank.entries.norm(dim=1), torch.ones(5), atol=1e-6)


@pytest.mark.parametrize("name", ["moco", "deepcluster-v2", "dino"])
def test_a_method_with_a_memory_resumes_bit_for_bit(name, tmp_path):
    options = SMALL.get(name, {})
    fields: dict[str, Any] = {"method": name, "batch_size": 512, "accelerator": "cpu", "eval_every": 100}
    whole = TrainConfig(out=str(tmp_path / "whole"), steps=6, checkpoint_every=6, options=options, **fields)
    train(whole)
    # Stopped in the middle of an epoch (of two steps), by a failure after the checkpoint of step 3.
    method = METHODS[name]
    step, calls = method.step, []

    def breaking(self: Method, *arguments: Any) -> Any:
        calls.append(self.training)
        if sum(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "step", breaking)
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(out=str(tmp_path / "part"), steps=6, checkpoint_every=3, options=options, **fields))
    resume(tmp_path / "part")
    first, second = (checkpoint_module.load(tmp_path / run / "checkpoint.pt") for run in ("whole", "part"))
    assert first["step"] == second["step"] == 6
    assert list(first["method"]) == list(second["method"])
    for key, value in first["method"].items():
        assert torch.equal(value, second["method"][key]), key


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("byol", {"objective": "erm"}, "objective: want one of"),
        ("byol", {"momentum": 1.5}, "momentum: want a number from 0 to 1, got 1.5"),
        ("moco", {"temperature": 0.0}, "temperature: "),
        ("dino", {"centering": "median"}, "centering: want one of"),
        ("dino", {"head_norm": "layer"}, "head_norm: want one of"),
        ("dino", {"temperature_warmup": 2.0}, "temperature_warmup: want a number from 0 to 1, got 2.0"),
        ("dino", {"start_temperature": 0.0}, "start_temperature: "),
        ("swav", {"epsilon": -1.0}, "epsilon: "),
        ("cmc", {"negatives": "none"}, "negatives: want one of"),
        ("deepcluster", {"clusters": 0}, "clusters: "),
        ("deepcluster", {"clusters": 97}, "clusters: want at most the 96 training images, got 97"),
        ("instdisc", {"kappa": float("nan")}, "kappa: "),
        *((name, {"projection": 1}, "projection: want an integer >= 2, got 1") for name in PROJECTED),
    ],
)
def test_bad_settings_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        made(name, **options)


@pytest.mark.parametrize(("target", "sign"), [(0.0, -1), (50.0, -1), (-1.0, 1)])
def test_mi_max_holds_its_bound_at_a_target(target, sign):
    method = made("mi-max", bound="nwj", target=max(target, 0.0))
    method.target = target  # the bound starts below every target that is allowed
    views = pairs()
    value = method.bound(*method.embed(views)).value
    loss = method.step(views, None)["loss"]
    assert float(loss) == pytest.approx(abs(float(value) - target) if target else -float(value), abs=1e-6)
    weight = method.top.layers[1].weight
    (raised,) = torch.autograd.grad(method.bound(*method.embed(views)).objective, [weight])
    (found,) = torch.autograd.grad(loss, [weight])
    assert raised.abs().max() > 0
    torch.testing.assert_close(found, sign * raised)
