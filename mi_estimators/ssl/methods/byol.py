"""BYOL (Grill et al. 2020, arXiv 2006.07733), and BYOL+ER (Rodriguez-Galvez et al. 2023, arXiv 2307.10907)."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.method import Method, Setting, Terms, check_objective, check_share, mean_of, terms_of
from mi_estimators.ssl.teacher import Teacher, cosine


class BYOL(Method):
    """The projection of one view by a slow copy of the networks is predicted from that of the other view.

    ``native`` minimises ``2 - 2 cos``: only the slow copy and the predictor keep it from collapsing. ``er`` adds the
    entropy of the projections, under which collapse is not an optimum.
    """

    has_teacher = True

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (cosine) or er (entropy + reconstruction)"] = "native",
        kappa: Annotated[float, "von Mises-Fisher concentration of the ER objective and of the logged ER bound"] = 10.0,
        momentum: Annotated[float, "of the slow networks at the first step; it rises to 1 along a cosine"] = 0.99,
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__()
        check_objective(objective, kappa=kappa)
        check_share("momentum", momentum)
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, projection_head(encoder.dim, projection))
        self.predictor = projection_head(projection, projection)
        self.teacher = Teacher(self.online)
        self.objective, self.momentum, self.kappa = objective, momentum, kappa
        self.scale = kappa  # log q(z2 | z1) up to a constant
        self.entropy_reconstruction = EntropyReconstruction(
            bandwidth=kappa, predictor=self.predictor, entropy_of="first", symmetric=False
        )

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of both directions."""
        targets = self.teacher(views[1]), self.teacher(views[0])
        return mean_of(*(self._terms(self.online(view), t) for view, t in zip(views, targets, strict=True)))

    def _terms(self, z: Tensor, target: Tensor) -> Terms:
        if self.objective == "native":
            return {"loss": 2 - 2 * F.cosine_similarity(self.predictor(z).float(), target.float()).mean()}
        return terms_of(self.entropy_reconstruction.terms(z, target))

    def end_step(self) -> None:
        """The slow networks follow."""
        self.teacher.follow(self.online, cosine(self.momentum, 1.0, self.progress))

    def embed(self, views: Views) -> Views:
        """Prediction from the first view and target of the second, unit vectors."""
        return F.normalize(self.predictor(self.online(views[0])), dim=1), F.normalize(self.teacher(views[1]), dim=1)
