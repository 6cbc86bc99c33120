"""What a run has measured so far, in a file that the process that measures and the one that watches it both write.

They never write at once: the watcher does only when the other has ended.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.files import write_json
from benchmarks.gpu.measure import Measured
from benchmarks.harness import Row

WHOLE_CASE = "*"


@dataclass
class Progress:
    """``running``: the case and contender that were begun last and when, by :func:`time.time`.

    ``excluded``: of each case, contenders (or WHOLE_CASE) that must not be tried again, and why.
    """

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    kernels: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, dict[str, str]] = field(default_factory=dict)
    running: dict[str, Any] | None = None

    @classmethod
    def load(cls, path: Path) -> Progress:
        """What the file tells; nothing yet where there is none."""
        return cls(path, **json.loads(path.read_text())) if path.exists() else cls(path)

    def save(self) -> None:
        document = asdict(self)
        del document["path"]
        write_json(self.path, document)

    def begin(self, case: str, contender: str) -> None:
        self.running = {"case": case, "contender": contender, "since": time.time()}
        self.save()

    def exclude(self, case: str, contender: str, why: str) -> None:
        self.excluded.setdefault(case, {})[contender] = why
        self.running = None
        self.save()

    def finish(self, case: str, measured: Measured, seconds: float) -> None:
        self.rows += [row.as_dict() for row in measured.rows]
        if measured.kernels:
            self.kernels[case] = {name: list(kernels) for name, kernels in measured.kernels.items()}
        self.seconds[case] = round(seconds, 1)
        self.done.append(case)
        self.running = None
        self.save()

    def measured(self) -> list[Row]:
        return [Row(**row) for row in self.rows]
