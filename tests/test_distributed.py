from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import Scenario, run_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mi_estimators.distributed import average_gradient, gather_with_gradient, rank, rows_of_other_ranks, world_size
from mi_estimators.losses import ClipLoss, InfoNCE, LabelNTXent, NTXent, SupCon
from mi_estimators.memory_bank import MemoryBank

DOUBLE = torch.float64
WORLDS = (2, 3)
PER_RANK = 5


def joined_rows(world: int, width: int = 4, seed: int = 3) -> Tensor:
    """The joined batch, the same in every process."""
    return torch.randn(world * PER_RANK, width, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def own(rows: Tensor, rank: int) -> Tensor:
    return rows[rank * PER_RANK : (rank + 1) * PER_RANK]


# ----------------------------------------------------------------------------------- scenarios: run in every process


def gathering(rank_: int, world: int) -> dict[str, object]:
    rows = own(joined_rows(world), rank_).clone().requires_grad_()
    gathered = gather_with_gradient(rows)
    # Rank r's loss is r + 1 times a function of all rows, so that the sum over ranks differs from any one of them.
    ((rank_ + 1) * gathered.sin().sum()).backward()
    return {
        "gathered": gathered.detach(),
        "gradient": rows.grad,
        "others": rows_of_other_ranks(rows.detach()),
        "labels": gather_with_gradient(torch.arange(PER_RANK) + 10 * rank_),
        "columns": gather_with_gradient(rows.detach().T.contiguous().T),
        "vector": gather_with_gradient(rows.detach()[:, 0]),
        "place": (rank(), world_size()),
    }


def twice_differentiated(rank_: int, world: int) -> Tensor:
    rows = own(joined_rows(world), rank_).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gather_with_gradient(rows).pow(3).sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), rows)
    return second


def raised(function, *arguments) -> str:
    with pytest.raises(ValueError) as error:
        function(*arguments)
    return str(error.value)


def uneven(rank_: int, world: int) -> dict[str, str]:
    errors = {
        "rows": raised(gather_with_gradient, torch.zeros(3 + rank_, 2)),
        "widths": raised(gather_with_gradient, torch.zeros(3, 2 + rank_)),
        "one is empty": raised(gather_with_gradient, torch.zeros(3 if rank_ else 0, 2)),
        "all are empty": raised(gather_with_gradient, torch.zeros(0, 2)),
    }
    first = dist.new_group([0])  # every rank has to call it
    if rank_:
        errors["not in the group"] = raised(gather_with_gradient, torch.zeros(3, 2), first)
    else:
        assert gather_with_gradient(torch.zeros(3, 2), first).shape == (3, 2)
    return errors


def averaging(rank_: int, world: int) -> Tensor:
    scale = torch.tensor(2.0, requires_grad=True)
    (average_gradient(scale) * (rank_ + 1)).backward()
    return scale.grad


def banks(rank_: int, world: int) -> dict[str, Tensor]:
    keys = own(joined_rows(world), rank_)
    of_all = MemoryBank(world * PER_RANK + 2, 4, gather_distributed=True).double()
    of_own = MemoryBank(PER_RANK + 2, 4).double()
    of_all.update(keys)
    of_own.update(keys)
    return {"all": of_all.entries, "own": of_own.entries}


# Name: the loss, as a function of gather_distributed, and what a call gives it beside the two views.
JOINED: dict[str, tuple[Callable[[bool], nn.Module], str]] = {
    "InfoNCE": (lambda g: InfoNCE(0.3, gather_distributed=g), ""),
    "InfoNCE, one direction": (lambda g: InfoNCE(0.3, symmetric=False, gather_distributed=g), ""),
    "InfoNCE, low temperature": (lambda g: InfoNCE(0.01, normalize=False, gather_distributed=g), ""),
    "InfoNCE, decoupled": (lambda g: InfoNCE(0.3, decoupled=True, gather_distributed=g), "groups"),
    "InfoNCE, groups": (lambda g: InfoNCE(0.3, gather_distributed=g), "groups"),
    "InfoNCE, weights": (lambda g: InfoNCE(0.3, gather_distributed=g), "weights"),
    "InfoNCE, smoothed": (lambda g: InfoNCE(0.3, label_smoothing=0.2, gather_distributed=g), "groups weights"),
    "InfoNCE, hard": (lambda g: InfoNCE(0.3, hard_negative_beta=1.5, gather_distributed=g), "groups"),
    "InfoNCE, negatives": (lambda g: InfoNCE(0.3, symmetric=False, gather_distributed=g), "negatives"),
    "InfoNCE, learned": (lambda g: InfoNCE(0.3, learnable_temperature=True, gather_distributed=g), ""),
    "InfoNCE, queue": (lambda g: InfoNCE(0.3, symmetric=False, queue_size=(40, 4), gather_distributed=g), ""),
    "NTXent": (lambda g: NTXent(0.3, 0, g), ""),
    "NTXent, decoupled": (lambda g: NTXent(0.3, 0, g, decoupled=True), "weights"),
    "NTXent, groups": (lambda g: NTXent(0.3, 0, g), "groups weights"),
    "NTXent, smoothed": (lambda g: NTXent(0.3, 0, g, label_smoothing=0.2), "weights"),
    "NTXent, hard": (lambda g: NTXent(0.3, 0, g, hard_negative_beta=1.5), "groups"),
    "NTXent, negatives": (lambda g: NTXent(0.3, 0, g), "negatives"),
    "NTXent, learned": (lambda g: NTXent(0.3, 0, g, learnable_temperature=True), ""),
    "NTXent, memory bank": (lambda g: NTXent(0.3, (40, 4), g), "weights"),
    "SupCon": (lambda g: SupCon(0.3, gather_distributed=g), "labels"),
    "SupCon, learned": (lambda g: SupCon(0.3, gather_distributed=g, learnable_temperature=True), "labels"),
    "LabelNTXent": (lambda g: LabelNTXent(0.3, gather_distributed=g), "labels"),
}
PER_ANCHOR = ("InfoNCE, groups", "InfoNCE, smoothed", "NTXent, groups", "NTXent, hard", "SupCon")
REDUCTIONS = ("mean", "sum", "none")


def encoder_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def flat_gradient(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def beside_the_views(names: str, rows: Callable[[Tensor], Tensor], world: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    pairs = world * PER_RANK
    weights = torch.rand(pairs, dtype=DOUBLE, generator=generator)
    weights[:PER_RANK] = 0  # all of rank 0, whose rows stay negatives of the others
    available = {
        "groups": rows(torch.arange(pairs) % 4),  # groups spread over the ranks
        "labels": rows(torch.arange(pairs) % 4),
        "weights": rows(weights),
        "negatives": torch.randn(7, 4, dtype=DOUBLE, generator=generator),
    }
    return {name: available[name] for name in names.split()}


def two_steps(
    encoder: nn.Module, loss: nn.Module, given: str, rows: Callable[[Tensor], Tensor], world: int
) -> dict[str, Tensor]:
    """Losses and gradients of two steps (the second sees the keys of the first)."""
    values = []
    for step in range(2):
        views = [rows(joined_rows(world, 6, seed=10 * step + view)) for view in range(2)]
        z1, z2 = encoder(torch.cat(views)).chunk(2)
        data = beside_the_views(given, rows, world)
        value = loss(z1, data["labels"]) if given == "labels" else loss(z1, z2, **data)
        values.append(value.detach())
        value.sum().backward()
    result = {"loss": torch.stack(values), "gradient": flat_gradient(encoder)}
    if list(loss.parameters()):
        result["temperature"] = flat_gradient(loss)
    return result


def joined_losses(rank_: int, world: int) -> dict[Any, dict[str, Tensor]]:
    results = {}
    for name, (build, given) in JOINED.items():
        for reduction in REDUCTIONS if name in PER_ANCHOR else REDUCTIONS[:1]:
            encoder = DistributedDataParallel(encoder_of(1))
            loss = build(True).double()
            if reduction != "mean":
                loss.reduction = reduction
            results[name, reduction] = two_steps(encoder, loss, given, lambda rows: own(rows, rank_), world)
    return results


CLIP_FLAGS = [(local_loss, gather_with_grad) for local_loss in (True, False) for gather_with_grad in (True, False)]


def clip_losses(rank_: int, world: int) -> dict[Any, dict[str, Tensor]]:
    results = {}
    for flags in CLIP_FLAGS:
        loss = ClipLoss(*flags, cache_labels=True, rank=rank_, world_size=world)
        encoder = encoder_of(1)
        encoder.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=DOUBLE))
        model = DistributedDataParallel(encoder)
        # The scale takes part in the model's forward pass, as in open_clip.
        encoder.register_forward_hook(lambda module, _, output: (F.normalize(output, dim=1), module.logit_scale.exp()))
        views = [own(joined_rows(world, 6, seed=view), rank_) for view in range(2)]
        features, scale = model(torch.cat(views))
        value = loss(*features.chunk(2), scale)
        value.backward()
        results[flags] = {
            "loss": value.detach(),
            "scale": encoder.logit_scale.grad,
            "gradient": torch.cat([p.grad.flatten() for name, p in encoder.named_parameters() if "scale" not in name]),
        }
    wrong = ClipLoss(True, True, rank=0, world_size=world + 1)
    results["wrong"] = raised(wrong, torch.ones(2, 2), torch.ones(2, 2), 1.0)
    return results


def uneven_losses(rank_: int, world: int) -> list[str]:
    z = torch.randn(3 + rank_, 4)
    labels = torch.zeros(3 + rank_, dtype=torch.int64)
    zeros = {"weights": torch.zeros(3)}
    return [
        raised(InfoNCE(gather_distributed=True), z, z),
        raised(NTXent(gather_distributed=True), z, z),
        raised(NTXent(0.5, 8, True), z.requires_grad_(), z),
        raised(SupCon(gather_distributed=True), z, labels),
        raised(lambda: InfoNCE(gather_distributed=True)(z[:3], z[:3], **zeros)),
    ]


def compiled(rank_: int, world: int) -> list[tuple[Tensor, Tensor]]:
    torch.compiler.reset()
    results = []
    loss = NTXent(0.3, 0, True)
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        views = [own(joined_rows(world, seed=view), rank_).clone().requires_grad_() for view in range(2)]
        value = function(*views)
        value.backward()
        results.append((value.detach(), torch.cat([view.grad for view in views])))
    return results


SCENARIOS: dict[str, Scenario] = {
    "joined_losses": joined_losses,
    "clip_losses": clip_losses,
    "uneven_losses": uneven_losses,
    "gathering": gathering,
    "twice_differentiated": twice_differentiated,
    "uneven": uneven,
    "averaging": averaging,
    "banks": banks,
}


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world}-ranks")
def ranks(request, tmp_path_factory):
    world = request.param
    scenarios = SCENARIOS | {"compiled": compiled} if world == WORLDS[0] else SCENARIOS  # tracing takes seconds
    return world, run_ranks(world, tmp_path_factory.mktemp(f"ranks{world}"), scenarios)


# ------------------------------------------------------------------------------------------------------------ tests


def test_rows_come_in_rank_order(ranks):
    world, results = ranks
    joined = joined_rows(world)
    for r, got in enumerate(results["gathering"]):
        assert torch.equal(got["gathered"], joined)
        assert torch.equal(got["columns"], joined)
        assert torch.equal(got["vector"], joined[:, 0])
        assert torch.equal(got["others"], torch.cat([own(joined, s) for s in range(world) if s != r]))
        assert got["labels"].tolist() == [10 * s + i for s in range(world) for i in range(PER_RANK)]
        assert got["place"] == (r, world)


def test_a_row_gets_the_gradients_of_all_ranks(ranks):
    world, results = ranks
    for r, got in enumerate(results["gathering"]):
        want = world * (world + 1) / 2 * own(joined_rows(world), r).cos()
        torch.testing.assert_close(got["gradient"], want)


def test_the_gather_is_differentiated_twice(ranks):
    # On every rank f = sum of cubes; its gradient at a row sums P of them, and so does that of the gradient's square.
    world, results = ranks
    for r, got in enumerate(results["twice_differentiated"]):
        rows = own(joined_rows(world), r)
        torch.testing.assert_close(got, 2 * (3 * world * rows.square()) * 6 * rows * world)


def test_sizes_that_differ_are_named_on_every_rank(ranks):
    world, results = ranks
    for r, got in enumerate(results["uneven"]):
        assert f"want as many rows on every rank, got {[3 + s for s in range(world)]}" in got["rows"]
        assert f"rows of one size on every rank, got {[2 + s for s in range(world)]}" in got["widths"]
        assert f"want as many rows on every rank, got {[0] + [3] * (world - 1)}" in got["one is empty"]
        assert "want at least one row" in got["all are empty"]
        assert r == 0 or "group: want a process group that holds this process" in got["not in the group"]


def test_a_parameter_beside_ddp_gets_the_mean_gradient(ranks):
    world, results = ranks
    for got in results["averaging"]:
        assert got.item() == pytest.approx((world + 1) / 2)


def test_a_memory_bank_takes_in_the_keys_of_all_ranks(ranks):
    world, results = ranks
    joined = F.normalize(joined_rows(world), dim=1)
    for r, got in enumerate(results["banks"]):
        torch.testing.assert_close(got["all"][: world * PER_RANK], joined)
        torch.testing.assert_close(got["own"][:PER_RANK], own(joined, r))


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 2)
    assert gather_with_gradient(rows) is rows
    assert average_gradient(rows) is rows
    assert (rank(), world_size()) == (0, 1)
    assert rows_of_other_ranks(rows).shape == (0, 2)
    with pytest.raises(ValueError, match="tensor: want at least one dimension"):
        gather_with_gradient(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"tensor: want a torch\.Tensor"):
        gather_with_gradient([1.0])


# ------------------------------------------------------------------------------------------ losses of the joined batch


@pytest.mark.parametrize("name", JOINED)
def test_losses_of_all_ranks_are_those_of_one_process(ranks, name):
    world, results = ranks
    build, given = JOINED[name]
    for reduction in REDUCTIONS if name in PER_ANCHOR else REDUCTIONS[:1]:
        encoder = encoder_of(1)  # seeds the first entries of a memory bank too
        loss = build(False).double()
        if reduction != "mean":
            loss.reduction = reduction
        want = two_steps(encoder, loss, given, lambda rows: rows, world)
        got = [result[name, reduction] for result in results["joined_losses"]]
        # A mean over ranks of sums is the sum over all anchors divided by the number of ranks.
        share = 1.0 if reduction == "mean" else 1 / world
        values = torch.stack([part["loss"] for part in got])
        if reduction == "none":
            # NT-Xent gives the first views, then the second ones: of each rank, and of the joined batch.
            views = 2 if name.startswith("NTXent") else 1
            values = values.unflatten(2, (views, PER_RANK)).permute(1, 2, 0, 3).flatten(1)
            torch.testing.assert_close(values, want["loss"], rtol=1e-9, atol=1e-9)
        else:
            torch.testing.assert_close(values.mean(0), share * want["loss"], rtol=1e-9, atol=1e-9)
        for part in got:
            torch.testing.assert_close(part["gradient"], share * want["gradient"], rtol=1e-9, atol=1e-9)
            assert part.keys() == want.keys()
            if "temperature" in want:
                torch.testing.assert_close(part["temperature"], share * want["temperature"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("local_loss", "gather_with_grad"), CLIP_FLAGS)
def test_clip_loss_is_that_of_open_clip_for_all_its_flags(ranks, local_loss, gather_with_grad):
    world, results = ranks
    encoder = encoder_of(1)
    log_scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    views = [joined_rows(world, 6, seed=view) for view in range(2)]
    image, text = (F.normalize(side, dim=1) for side in encoder(torch.cat(views)).chunk(2))

    def cross_entropy(anchors: Tensor, candidates: Tensor, first: int) -> Tensor:
        return F.cross_entropy(log_scale.exp() * anchors @ candidates.T, torch.arange(len(anchors)) + first)

    joined = (cross_entropy(image, text, 0) + cross_entropy(text, image, 0)) / 2
    constants = not gather_with_grad and local_loss
    parts = [
        (
            cross_entropy(own(image, r), text.detach() if constants else text, r * PER_RANK)
            + cross_entropy(own(text, r), image.detach() if constants else image, r * PER_RANK)
        )
        / 2
        for r in range(world)
    ]
    (torch.stack(parts).mean() if local_loss else joined).backward()
    # Without it and for the whole batch, each rank's features get the gradient of their rank's loss alone.
    share = 1 / world if not gather_with_grad and not local_loss else 1.0
    for r, got in enumerate(result[local_loss, gather_with_grad] for result in results["clip_losses"]):
        torch.testing.assert_close(got["loss"], parts[r].detach() if local_loss else joined.detach())
        torch.testing.assert_close(got["gradient"], share * flat_gradient(encoder), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got["scale"], log_scale.grad, rtol=1e-9, atol=1e-9)
    if gather_with_grad:
        for r in range(world):
            assert "rank, world_size: want those of torch.distributed" in results["clip_losses"][r]["wrong"]


def test_losses_of_all_ranks_compile_to_one_graph(ranks):
    world, results = ranks
    if world != WORLDS[0]:
        pytest.skip("traced on the smaller number of ranks")
    for eager, traced in results["compiled"]:
        for got, want in zip(traced, eager, strict=True):
            torch.testing.assert_close(got, want)


def test_losses_name_batches_that_differ_between_ranks(ranks):
    world, results = ranks
    for errors in results["uneven_losses"]:
        for error in errors[:4]:
            assert f"want as many rows on every rank, got {[3 + s for s in range(world)]}" in error
        assert "weights: want at least one above 0 for a mean, got zeros only on every rank" in errors[4]
