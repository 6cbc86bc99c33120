"""SwAV (Caron et al. 2020, arXiv 2006.09882), and its ER variant."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.losses import EntropyReconstruction
from mi_estimators.memory_bank import bank_of_size
from mi_estimators.ops import sinkhorn_knopp
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.method import (
    ClassMethod,
    Setting,
    Terms,
    check_objective,
    check_share,
    directions,
    mean_of,
    terms_of,
)


class SwAV(ClassMethod):
    """Each view's assignment to prototypes is predicted from the other view.

    ``native``: the assignments are Sinkhorn codes, which use all prototypes alike: their entropy is held at its
    largest. ``er``: they are a plain softmax, and the entropy of the mean prediction is a term of the loss.
    """

    skips_parameters = True  # the prototypes, while they are frozen
    takes_small_crops = True

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (Sinkhorn codes) or er (entropy + reconstruction)"] = "native",
        prototypes: Annotated[int, "number of prototypes"] = 64,
        temperature: Annotated[float, "temperature of the predictions"] = 0.1,
        epsilon: Annotated[float, "temperature of the codes"] = 0.05,
        queue: Annotated[int, "past embeddings that take part in the codes"] = 0,
        frozen: Annotated[float, "share of the training in which the prototypes stay as they are"] = 0.02,
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__()
        check_objective(objective, prototypes=prototypes, temperature=temperature, epsilon=epsilon)
        check_share("frozen", frozen)
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, projection_head(encoder.dim, projection))
        self.prototypes = nn.Parameter(torch.randn(prototypes, projection))
        self.objective, self.temperature, self.epsilon, self.frozen = objective, temperature, epsilon, frozen
        self.bank = bank_of_size("queue", (queue, projection) if queue else 0, start="empty")
        self.entropy_reconstruction = EntropyReconstruction(
            "discrete", logits=True, entropy_of="first", stop_gradient=True, symmetric=False
        )

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of both directions, and of the predictions from small crops."""
        z = F.normalize(self.online(torch.cat(views[:2])), dim=1)
        cosines = list(self._cosines(z).chunk(2))
        if small := views[2:]:
            of_small = F.normalize(self.online(torch.cat(small)), dim=1)
            cosines += self._cosines(of_small).chunk(len(small))
        if self.objective == "er":
            return mean_of(*(self._terms(cosines[view], cosines[target]) for view, target in directions(len(views))))
        with torch.no_grad():
            past = None
            if self.bank is not None and int(self.bank.count):
                past = self._cosines(self.own_share(self.bank(z, update=False)))
            options: dict[str, Any] = {"epsilon": self.epsilon, "queue": past, "group": self.group}
            codes = [sinkhorn_knopp(s.float(), **options) for s in cosines[:2]]
            if self.bank is not None and self.training:
                self.bank.update(z.chunk(2)[0])
        logits = [s / self.temperature for s in cosines]
        return mean_of(*({"loss": F.cross_entropy(logits[v], codes[target])} for v, target in directions(len(views))))

    def _cosines(self, z: Tensor) -> Tensor:
        weight = self.prototypes.detach() if self.progress < self.frozen else self.prototypes
        return z @ F.normalize(weight, dim=1).T

    def _terms(self, predicting: Tensor, target: Tensor) -> Terms:
        return terms_of(self.entropy_reconstruction.terms(predicting / self.temperature, target / self.epsilon))

    def embed(self, views: Views) -> Views:
        """Logits of the prediction from the first view, and of the second view's assignment."""
        first, second = self._cosines(F.normalize(self.online(torch.cat(views)), dim=1)).chunk(2)
        return first / self.temperature, second / self.epsilon
