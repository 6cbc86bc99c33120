"""The Python on the page of estimators, and in the README's part on them, runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("page", "wanted"), [("docs/estimators.md", "mi."), ("README.md", "TASKS|compare")])
def test_the_examples_run(page, wanted, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    chosen = [block for block in blocks if re.search(wanted, block)]
    assert len(chosen) >= 2
    space: dict[str, object] = {}
    exec("import mi_estimators as mi", space)
    for block in chosen:
        exec(block, space)
    assert "interval" in capsys.readouterr().out
