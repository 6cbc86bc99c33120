"""The methods, one flat file each, and their table."""

from __future__ import annotations

from mi_estimators.ssl.method import Method
from mi_estimators.ssl.methods.mi_max import MIMax
from mi_estimators.ssl.methods.simclr import SimCLR

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "mi-max": MIMax,
}
