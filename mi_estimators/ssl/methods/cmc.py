"""Contrastive multiview coding (Tian et al. 2020, arXiv 1906.05849), and its ER variant."""

from __future__ import annotations

from typing import Annotated, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.losses import EntropyReconstruction, InfoNCE
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.encoders import Encoder
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.instance_bank import InstanceBank
from mi_estimators.ssl.method import Method, Preset, Setting, Terms, check_objective, check_share, terms_of

NEGATIVES = ("batch", "bank")


class CMC(Method):
    """Two modalities of an image, an encoder for each: grey images give their halves.

    ``native`` scores each modality against the other's candidates only, in both directions: those of the batch, or the
    entries of all training images in that modality's bank. ``er`` reconstructs each embedding from the other and adds
    the entropy of both. The probe reads the first modality.
    """

    presets: ClassVar = {
        "digits": Preset("augmented-halves", steps=1500, batch_size=256, lr=1e-3),
        "mnist": Preset("halves", steps=5000, batch_size=256, lr=1e-3),
        "npz": Preset("pairs", steps=5000, batch_size=256, lr=1e-3),
    }

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (InfoNCE) or er (entropy + reconstruction)"] = "native",
        negatives: Annotated[str, f"of the native objective: {' or '.join(NEGATIVES)}"] = "batch",
        temperature: Annotated[float, "temperature of InfoNCE"] = 0.07,
        kappa: Annotated[float, "von Mises-Fisher concentration of the ER objective and of the logged ER bound"] = 10.0,
        momentum: Annotated[float, "how much of its old self an entry of a bank keeps"] = 0.5,
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__()
        check_objective(objective, temperature=temperature, kappa=kappa)
        _checks.choice("negatives", negatives, NEGATIVES)
        check_share("momentum", momentum)
        self.encoders = nn.ModuleList(setting.make_encoder(view) for view in (0, 1))
        self.heads = nn.ModuleList(projection_head(cast(Encoder, e).dim, projection) for e in self.encoders)
        banked = objective == "native" and negatives == "bank"
        self.banks = [InstanceBank(setting.size, projection, momentum) for _ in range(2 * banked)]
        self.held = nn.ModuleList(self.banks)
        self.objective, self.kappa = objective, kappa
        self.scale = 1 / temperature if objective == "native" else kappa
        self.info_nce = InfoNCE(temperature)
        self.entropy_reconstruction = EntropyReconstruction(bandwidth=kappa)

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of both directions."""
        z1, z2 = self.embed(views)
        if self.objective == "er":
            return terms_of(self.entropy_reconstruction.terms(z1, z2))
        if not self.banks or index is None:  # images outside the training set are in no bank
            return {"loss": self.info_nce(z1, z2)}
        if self.training:
            for bank, z in zip(self.banks, (z1, z2), strict=True):
                bank.remember(index, z)
        first, second = self.banks
        forward = second.loss(z1, second.entries[index], self.scale)
        return {"loss": (forward + first.loss(z2, first.entries[index], self.scale)) / 2}

    def end_step(self) -> None:
        """The banks take in the batch."""
        for bank in self.banks:
            bank.take_in()

    def embed(self, views: Views) -> Views:
        """Unit projection of each modality."""
        networks = zip(self.encoders, self.heads, views, strict=True)
        first, second = (F.normalize(head(encoder(view)), dim=1) for encoder, head, view in networks)
        return first, second

    def represent(self, view: Tensor) -> Tensor:
        """The encoder's output for the first modality, before the projection."""
        return self.encoders[0](view)
