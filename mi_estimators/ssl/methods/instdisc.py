"""Instance discrimination (Wu et al. 2018, arXiv 1805.01978), and its ER variant."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.instance_bank import InstanceBank
from mi_estimators.ssl.method import Method, Preset, Setting, Terms, check_objective, check_share, terms_of


class InstDisc(Method):
    """Each training image is a class of its own, whose weight is the image's entry in a memory bank.

    ``native`` is the full softmax over the bank, which the paper approximates by NCE on large sets. ``er`` reconstructs
    the embedding from the entry and adds the entropy of the embeddings. Images outside the training set have no entry;
    the other view's embedding stands for it in their loss.
    """

    # One view an image and step is encoded, so twice the steps take the time of the other methods'.
    presets: ClassVar = {
        "digits": Preset("augment", steps=3000, batch_size=256, lr=1e-3),
        "mnist": Preset("augment", steps=10000, batch_size=256, lr=1e-3),
    }

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (softmax over the bank) or er (entropy + reconstruction)"] = "native",
        temperature: Annotated[float, "temperature of the softmax"] = 0.1,
        kappa: Annotated[float, "von Mises-Fisher concentration of the ER objective and of the logged ER bound"] = 10.0,
        momentum: Annotated[float, "how much of its old self an entry keeps"] = 0.5,
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__()
        check_objective(objective, temperature=temperature, kappa=kappa)
        check_share("momentum", momentum)
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, projection_head(encoder.dim, projection))
        self.bank = InstanceBank(setting.size, projection, momentum)
        self.objective, self.kappa = objective, kappa
        self.scale = 1 / temperature if objective == "native" else kappa
        self.entropy_reconstruction = EntropyReconstruction(bandwidth=kappa, symmetric=False)

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of the first views against the bank."""
        if index is None:
            z, other = self.embed(views)
            entries = other.detach()
        else:  # the second views are not encoded
            z, entries = F.normalize(self.online(views[0]), dim=1), self.bank.entries[index]
        if self.objective == "native":
            terms = {"loss": self.bank.loss(z, entries, self.scale)}
        else:
            terms = terms_of(self.entropy_reconstruction.terms(entries.to(z.dtype), z))
        if self.training and index is not None:
            self.bank.remember(index, z)
        return terms

    def end_step(self) -> None:
        """The bank takes in the batch."""
        self.bank.take_in()

    def embed(self, views: Views) -> Views:
        """Unit projections of both views."""
        first, second = F.normalize(self.online(torch.cat(views)), dim=1).chunk(2)
        return first, second
