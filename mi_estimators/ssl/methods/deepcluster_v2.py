"""DeepCluster-v2 (Caron et al. 2020, arXiv 2006.09882, appendix), and its ER variant."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.clusters import ClusterMethod, k_means
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.instance_bank import InstanceBank
from mi_estimators.ssl.method import OverImages, Setting, Terms


class DeepClusterV2(ClusterMethod):
    """Predict the spherical k-means cluster of an image, the centres serving as the classifier.

    Clusters are found at the start of an epoch from the embeddings of the last one, which a bank holds: no image is
    encoded twice. ``er`` adds the entropy of the mean prediction.
    """

    centres: Tensor

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (cross-entropy) or er (entropy + reconstruction)"] = "native",
        clusters: Annotated[int, "number of clusters"] = 64,
        every: Annotated[int, "epochs between clusterings"] = 5,
        temperature: Annotated[float, "temperature of the predictions"] = 0.1,
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__(setting.size, objective, clusters, every, temperature=temperature)
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, projection_head(encoder.dim, projection))
        self.bank = InstanceBank(setting.size, projection, momentum=0.0)
        self.temperature = temperature
        self.register_buffer("centres", torch.zeros(clusters, projection))

    def begin_epoch(self, epoch: int, over_images: OverImages) -> None:
        """Cluster the bank, every few epochs; at first, what the networks give before training."""
        if epoch == 0:
            self.bank.entries.copy_(F.normalize(over_images(self.online), dim=1))
        if epoch % self.every == 0:
            labels, centres = k_means(self.bank.entries, self.clusters)
            self.labels.copy_(labels)
            self.centres.copy_(F.normalize(centres, dim=1))

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of both views."""
        z1, z2 = self._unit(views)
        if self.training and index is not None:
            self.bank.update(index, (z1 + z2).detach())
        return self.classified(self._logits(z1), self._logits(z2), index)

    def _unit(self, views: Views) -> Views:
        first, second = F.normalize(self.online(torch.cat(views)), dim=1).chunk(2)
        return first, second

    def _logits(self, z: Tensor) -> Tensor:
        return z @ self.centres.to(z.dtype).T / self.temperature

    def embed(self, views: Views) -> Views:
        """Logits of both views."""
        first, second = map(self._logits, self._unit(views))
        return first, second
