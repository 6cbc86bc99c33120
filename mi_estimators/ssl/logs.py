"""The record of a run: JSON lines and CSV that are always whole, and TensorBoard."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from mi_estimators._extras import require
from mi_estimators._files import write_text

Row = dict[str, float]


class RunLog:
    """One row per evaluation, in ``metrics.jsonl``, ``metrics.csv`` and ``tensorboard/``.

    Both tables are written anew, atomically, at each row: a run has few, and a killed one leaves no half line.

    Args:
        folder: the run's folder.
        rows: rows of the run so far, from its checkpoint.
    """

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self.folder = folder
        self.rows = list(rows)
        # Steps after the checkpoint were logged by the killed process and will be logged again.
        self._writer = require("torch.utils.tensorboard", "train").SummaryWriter(
            str(folder / "tensorboard"), purge_step=int(self.rows[-1]["step"]) + 1 if self.rows else None
        )
        self._write()

    def add(self, row: Row) -> None:
        """Append a row; it has a ``step``."""
        self.rows.append(row)
        self._write()
        self.scalars({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Send values to TensorBoard alone."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        self._writer.close()

    def _write(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_text(self.folder / "metrics.jsonl", lines)
        table = io.StringIO(newline="")
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "metrics.csv", table.getvalue())
