"""SimSiam (Chen and He 2021, arXiv 2011.10566), and its ER variant."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.method import Method, Setting, Terms, check_objective, mean_of, terms_of


class SimSiam(Method):
    """Each view's projection is predicted from the other's, and gets no gradient as a target.

    ``native`` minimises minus the cosine: the stopped gradient and the predictor keep it from collapsing. ``er`` adds
    the entropy of the projections.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (cosine) or er (entropy + reconstruction)"] = "native",
        kappa: Annotated[float, "von Mises-Fisher concentration of the ER objective and of the logged ER bound"] = 10.0,
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__()
        check_objective(objective, kappa=kappa)
        encoder = setting.make_encoder(0)
        # The batch norm of the output is what the paper found to matter most for training at all.
        norm = nn.BatchNorm1d(projection, affine=False)
        self.online = nn.Sequential(encoder, *projection_head(encoder.dim, projection), norm)
        self.predictor = projection_head(projection, projection)
        self.objective, self.kappa, self.scale = objective, kappa, kappa
        self.entropy_reconstruction = EntropyReconstruction(
            bandwidth=kappa, predictor=self.predictor, entropy_of="first", stop_gradient=True, symmetric=False
        )

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of both directions."""
        z1, z2 = (self.online(view) for view in views)
        return mean_of(self._terms(z1, z2), self._terms(z2, z1))

    def _terms(self, z: Tensor, target: Tensor) -> Terms:
        if self.objective == "native":
            return {"loss": -F.cosine_similarity(self.predictor(z).float(), target.detach().float()).mean()}
        return terms_of(self.entropy_reconstruction.terms(z, target))

    def embed(self, views: Views) -> Views:
        """Prediction from the first view and projection of the second, unit vectors."""
        z1, z2 = (self.online(view) for view in views)
        return F.normalize(self.predictor(z1), dim=1), F.normalize(z2, dim=1)
