"""Steps per second of a staircase of eight estimators: ours, plain torch, torch-mist, and the matrix products alone.

``python -m benchmarks.studies.staircase_speed [--rounds N] [--steps N] [--out FILE]``, in the environment of
``peers-mist.txt`` with this package on the path; without torch-mist the other contenders run.

A call of a contender is some steps of eight estimators on the published setting: d = 20, batches of 64 and all 64^2
scores, critics of two hidden layers of 256 ReLU units (joint, and separable with embeddings of 32), Adam. torch-mist
gets its step alone, ``estimator.loss``, backward and Adam, without loaders and logs; ours is a whole run of the
staircase, with the recorded values. The eight: InfoNCE, NWJ, MINE, SMILE, JS, TUBA with a learned baseline, I_alpha,
FLO. Contenders run in turn with the same number of threads; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.files import write_json
from benchmarks.provenance import ROOT, provenance
from mi_estimators.synthetic import correlated_gaussian
from mi_estimators.tightness import TightnessConfig, run
from mi_estimators.variational import variational

BOUNDS = ("infonce", "nwj", "mine", "smile", "js", "tuba_learned", "i_alpha", "flo")
DIM, BATCH, HIDDEN, EMBEDDING, RATE = 20, 64, 256, 32, 5e-4
CRITICS = {"joint": "concatenated", "separable": "separable"}


def ours(critic: str, precision: str, threads: int) -> Callable[[int], None]:
    def call(steps: int) -> None:
        run(
            TightnessConfig(
                bounds=BOUNDS,
                critic=CRITICS[critic],
                dim=DIM,
                batch_size=BATCH,
                steps_per_level=steps,
                levels=(4.0,),
                hidden=HIDDEN,
                embedding=EMBEDDING,
                learning_rate=RATE,
                precision=precision,
                threads=threads,
            )
        )

    return call


def _steps(models: list[torch.nn.Module], loss: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """One training step after the other of each model on fresh batches."""
    task, generator = correlated_gaussian(DIM, 4.0), torch.Generator().manual_seed(0)
    optimizers = [torch.optim.Adam(model.parameters(), lr=RATE) for model in models]

    def call(steps: int) -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            for _ in range(steps):
                x, y = task.sample(BATCH, generator)
                optimizer.zero_grad()
                loss(model, x, y).backward()
                optimizer.step()

    return call


def plain(critic: str) -> Callable[[int], None]:
    """Our estimators as anybody would train them."""
    options: dict[str, Any] = {"hidden": (HIDDEN, HIDDEN)}
    if critic == "separable":
        options["embedding"] = EMBEDDING
    models = [variational(bound, DIM, DIM, critic=CRITICS[critic], critic_options=options) for bound in BOUNDS]
    return _steps(list(models), lambda model, x, y: -model(x, y).objective)


def mist(critic: str) -> Callable[[int], None]:
    from torch_mist.baseline.factories import baseline_nn
    from torch_mist.estimators import alpha_tuba, flo, infonce, js, mine, nwj, smile, tuba
    from torch_mist.estimators.discriminative.implementations.tuba import TUBA

    options: dict[str, Any] = {"x_dim": DIM, "y_dim": DIM, "critic_type": critic, "hidden_dims": [HIDDEN, HIDDEN]}
    if critic == "separable":
        options["k_dim"] = EMBEDDING
    # All pairs, as InfoNCE takes them; the others leave out the positives.
    models = [infonce(neg_samples=0, **options)]
    models += [make(neg_samples=-1, **options) for make in (nwj, mine, smile, js, alpha_tuba, flo)]
    if critic == "separable":
        # Its factory of TUBA does not take the options of a separable critic.
        scores = infonce(neg_samples=0, **options).critic
        models.append(
            TUBA(critic=scores, baseline=baseline_nn(x_dim=DIM, hidden_dims=[HIDDEN, HIDDEN]), neg_samples=-1)
        )
    else:
        models.append(tuba(neg_samples=-1, **options))
    return _steps(models, lambda model, x, y: model.loss(x, y))


def products(critic: str, dtype: torch.dtype) -> Callable[[int], None]:
    """The products of the hidden layers, forward and backward, into buffers that are used again."""
    rows = BATCH * BATCH if critic == "joint" else BATCH
    shapes = [(rows, HIDDEN, HIDDEN)]
    if critic == "separable":
        shapes = 2 * [(rows, DIM, HIDDEN), (rows, HIDDEN, HIDDEN), (rows, HIDDEN, EMBEDDING)]
    operands = []
    for n, k, m in shapes:
        sides = torch.randn(n, k).to(dtype), torch.randn(k, m).to(dtype), torch.randn(n, m).to(dtype)
        operands.append((sides, [torch.empty_like(value) for value in sides]))

    def call(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps * len(BOUNDS)):
                for (a, b, c), (da, db, out) in operands:
                    torch.mm(a, b, out=out)
                    torch.mm(c, b.T, out=da)
                    torch.mm(a.T, c, out=db)

    return call


def contenders(critic: str, threads: int) -> dict[str, Callable[[int], None]]:
    found = {"ours": ours(critic, "float32", threads), "torch": plain(critic)}
    if critic == "joint":
        found["ours, bfloat16"] = ours(critic, "bfloat16", threads)
        found["products, bfloat16"] = products(critic, torch.bfloat16)
    found["products"] = products(critic, torch.float32)
    try:
        found["torch-mist"] = mist(critic)
    except ImportError as error:
        print(f"torch-mist left out: {error}")
    return found


def measure(critic: str, rounds: int, steps: int, threads: int) -> dict[str, list[float]]:
    """Seconds of one step of all eight, by contender and round."""
    calls = contenders(critic, threads)
    for call in calls.values():
        call(2)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call(steps)
            samples[name].append((time.perf_counter() - start) / steps)
    return samples


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks" / "staircase-speed.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    document: dict[str, Any] = {
        **provenance(arguments.threads, ["torch-mist", "numpy"]),
        "study": "staircase-speed",
        "settings": {"rounds": arguments.rounds, "steps": arguments.steps, "bounds": list(BOUNDS)},
        "seconds_per_step": {},
    }
    for critic in CRITICS:
        samples = measure(critic, arguments.rounds, arguments.steps, arguments.threads)
        document["seconds_per_step"][critic] = samples
        print(f"{critic} critic, {len(BOUNDS)} estimators, {arguments.threads} threads")
        for name, values in samples.items():
            ratio = statistics.median(v / o for v, o in zip(values, samples["ours"], strict=True))
            print(f"  {name:20} {1e3 * statistics.median(values):8.1f} ms a step of all   {ratio:5.2f} x ours")
    write_json(arguments.out, document)
    print(arguments.out)


if __name__ == "__main__":
    main()
