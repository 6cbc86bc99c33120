"""Record a sweep of the trainers: what native and ER lose at small batches and fast teachers, and what collapses.

    mi-estimators sweep --data fashion-mnist --data-dir DIR --steps 600 --seeds 1 --out runs/sweep
    python -m benchmarks.studies.robustness runs/sweep

Runs that the folder lacks are made first. The table of ``mi-estimators sweep``, the end of each run and two plots (DINO
apart, whose entropy is one of classes) go to benchmarks/results/sweep-DATA.*.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import write_json
from benchmarks.provenance import ROOT, provenance

LAST = ("entropy", "entropy_floor", "reconstruction", "infonce", "rankme", "uniformity", "alignment", "knn")
"""What is kept of a run's last evaluation on held-out images."""


def rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The end of each run."""
    from mi_estimators.ssl.sweep import line_of

    return [
        {
            "line": line_of(result["method"], result["objective"]),
            **{name: result[name] for name in ("batch_size", "momentum", "seed", "error")},
            "probe": result["probe"],
            "last": {name: result["history"][-1][name] for name in LAST} if result["history"] else None,
        }
        for result in results
    ]


def main(argv: Sequence[str] | None = None) -> int:
    from mi_estimators.ssl.sweep import SweepConfig, run_sweep
    from mi_estimators.ssl.sweep_report import save_sweep, training_plot

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.robustness", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path, help="that of mi-estimators sweep --out")
    parser.add_argument("--out", type=Path, help="the JSON (default: benchmarks/results/sweep-DATA.json)")
    arguments = parser.parse_args(argv)
    grid = json.loads((arguments.folder / "settings.json").read_text())["grid"]
    config = SweepConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in grid.items()})
    out: Path = arguments.out or ROOT / "benchmarks" / "results" / f"sweep-{config.data}.json"
    results = run_sweep(config, arguments.folder)
    table, text, _ = save_sweep(results, arguments.folder)
    with text.open(newline="") as lines:
        header, *body = csv.reader(lines)
    document = {
        "study": "sweep",
        **provenance(1, ("scikit-learn", "kornia", "lightning-fabric", "numpy")),
        "grid": {name: value for name, value in grid.items() if name != "data_dir"},
        "table": {"header": header, "lines": body},
        "rows": rows(results),
    }
    write_json(out, document)
    for path in (table, text):
        shutil.copyfile(path, out.with_suffix(path.suffix))
    for of_dino, path in ((False, out.with_suffix(".png")), (True, out.with_name(f"{out.stem}-dino.png"))):
        chosen = [result for result in results if result["method"].startswith("dino") == of_dino]
        if chosen:
            training_plot(chosen).savefig(path, dpi=110)
    print(f"results: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
