"""The methods, one flat file each, and their table."""

from __future__ import annotations

from mi_estimators.ssl.method import Method
from mi_estimators.ssl.methods.byol import BYOL
from mi_estimators.ssl.methods.cmc import CMC
from mi_estimators.ssl.methods.deepcluster import DeepCluster
from mi_estimators.ssl.methods.deepcluster_v2 import DeepClusterV2
from mi_estimators.ssl.methods.dino import DINO
from mi_estimators.ssl.methods.instdisc import InstDisc
from mi_estimators.ssl.methods.mi_max import MIMax
from mi_estimators.ssl.methods.moco import MoCo
from mi_estimators.ssl.methods.simclr import SimCLR
from mi_estimators.ssl.methods.simsiam import SimSiam
from mi_estimators.ssl.methods.swav import SwAV

METHODS: dict[str, type[Method]] = {
    "instdisc": InstDisc,
    "cmc": CMC,
    "simclr": SimCLR,
    "moco": MoCo,
    "deepcluster": DeepCluster,
    "deepcluster-v2": DeepClusterV2,
    "swav": SwAV,
    "byol": BYOL,
    "simsiam": SimSiam,
    "dino": DINO,
    "mi-max": MIMax,
}
