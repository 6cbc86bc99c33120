"""MoCo (He et al. 2020, arXiv 1911.05722), and its ER variant."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.losses import EntropyReconstruction, InfoNCE
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.method import Method, Setting, Terms, check_objective, check_share, terms_of
from mi_estimators.ssl.teacher import Teacher


class MoCo(Method):
    """A query of one view, the key of the other by a slow copy of the encoder, and a queue of past keys.

    ``native`` minimises InfoNCE against the queue alone. ``er`` minimises reconstruction minus entropy: the key is
    reconstructed from the query, and the queries' entropy, among past ones, takes the place of the negatives.
    """

    has_teacher = True

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (InfoNCE) or er (entropy + reconstruction)"] = "native",
        temperature: Annotated[float, "temperature of InfoNCE"] = 0.1,
        kappa: Annotated[float, "von Mises-Fisher concentration of the ER objective and of the logged ER bound"] = 10.0,
        queue: Annotated[int, "past keys that serve as negatives; of er: past queries in the entropy"] = 1024,
        momentum: Annotated[float, "of the slow encoder, at each step"] = 0.99,
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__()
        check_objective(objective, temperature=temperature, kappa=kappa)
        check_share("momentum", momentum)
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, projection_head(encoder.dim, projection))
        self.teacher = Teacher(self.online)
        self.objective, self.momentum, self.kappa = objective, momentum, kappa
        self.scale = 1 / temperature if objective == "native" else kappa
        self.info_nce = InfoNCE(temperature, symmetric=False, in_batch_negatives=False, queue_size=(queue, projection))
        self.entropy_reconstruction = EntropyReconstruction(
            bandwidth=kappa, entropy_of="first", symmetric=False, queue=(queue, projection)
        )

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of the queries of the first views and the keys of the second."""
        query, key = self.embed(views)
        if self.objective == "native":
            return {"loss": self.info_nce(query, key)}
        loss = self.entropy_reconstruction(query, key)  # as a call, after which the queue takes in the queries
        assert self.entropy_reconstruction.last is not None
        return {**terms_of(self.entropy_reconstruction.last), "loss": loss}

    def end_step(self) -> None:
        """The keys' encoder follows the queries'."""
        self.teacher.follow(self.online, self.momentum)

    def embed(self, views: Views) -> Views:
        """Unit query and key."""
        return F.normalize(self.online(views[0]), dim=1), F.normalize(self.teacher(views[1]), dim=1)
