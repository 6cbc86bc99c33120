"""``python -m mi_estimators`` is the command ``mi-estimators``."""

from __future__ import annotations

from mi_estimators.cli import main

main()
