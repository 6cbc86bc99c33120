"""What the training loop costs beside a bare torch loop of the same step.

    python -m benchmarks.studies.loop_overhead

A run is trained; after each of its steps, in its progress callback, one step of a bare loop is taken on a method of its
own: views, loss, backward, optimizer, ``end_step``. Both are timed in turn, in seconds of the processor, so what else
the machine does falls on both alike; the overhead is the ratio of the medians, less one. Evaluations and checkpoints
are not in it: the medians leave out the few steps that have them. Writes benchmarks/results/loop-overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.files import write_json
from benchmarks.provenance import ROOT, provenance

LIMIT = 0.03
CASES: dict[str, dict[str, Any]] = {
    "simclr, MLP": {"method": "simclr"},
    "simclr-er, MLP": {"method": "simclr", "options": {"objective": "er"}},
    "byol, MLP": {"method": "byol"},
    "mi-max, MLP": {"method": "mi-max"},
    "simclr, ConvNet": {"method": "simclr", "encoder": "convnet"},
}
WARM_UP = 10


def bare_step(config: Any) -> Callable[[int], None]:
    """One step of a loop that does nothing but train."""
    from mi_estimators.image_sets import load
    from mi_estimators.ssl.trainer import Trainer

    made = Trainer(config, load(config.data))
    method, view, images, batches = made.method, made.view, made.data.train, made.batches
    optimizer = torch.optim.Adam(
        [weight for weight in method.parameters() if weight.requires_grad], lr=config.lr, fused=True
    )

    def step(number: int) -> None:
        index = batches[number]
        loss = method.step(view(images.pixels(index)), index)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.end_step()

    return step


def measure(settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """Processor time of a step of both loops, in turn."""
    from mi_estimators.ssl import TrainConfig, train

    seconds: dict[str, list[float]] = {"bare": [], "loop": []}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = TrainConfig(
            out=folder, steps=steps, eval_every=steps, checkpoint_every=steps, accelerator="cpu", **settings
        ).resolved()
        bare = bare_step(config)
        ended = [time.process_time()]

        def in_turn(done: int, total: int, row: Any) -> None:
            start = time.process_time()
            seconds["loop"].append(start - ended[0])
            bare(done - 1)
            ended[0] = time.process_time()
            seconds["bare"].append(ended[0] - start)

        train(config, progress=in_turn)
    medians = {name: statistics.median(values[WARM_UP:]) for name, values in seconds.items()}
    return {
        "milliseconds": {k: 1000 * v for k, v in medians.items()},
        "overhead": medians["loop"] / medians["bare"] - 1,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.loop_overhead", description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="steps of each loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "loop-overhead.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    rows = {}
    for name, settings in CASES.items():
        rows[name] = measure(settings, arguments.steps)
        row = rows[name]
        verdict = "met" if row["overhead"] < LIMIT else "MISSED"
        print(
            f"{name:20} {row['milliseconds']['bare']:8.2f} ms  overhead {row['overhead']:+.2%}  {verdict}", flush=True
        )
    document = {
        "study": "loop-overhead",
        **provenance(arguments.threads, ("lightning-fabric", "kornia")),
        "limit": LIMIT,
        "steps": arguments.steps,
        "met": all(bool(row["overhead"] < LIMIT) for row in rows.values()),
        "rows": rows,
    }
    write_json(arguments.out, document)
    print(f"results: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
