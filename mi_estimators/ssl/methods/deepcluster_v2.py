"""DeepCluster-v2 (Caron et al. 2020, arXiv 2006.09882, appendix), and its ER variant."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.backbones import projection_head
from mi_estimators.ssl.clusters import k_means
from mi_estimators.ssl.instance_bank import InstanceBank
from mi_estimators.ssl.method import (
    ClassMethod,
    OverImages,
    Setting,
    Terms,
    check_objective,
    mean_of,
    terms_of,
)  # fmt: skip


class DeepClusterV2(ClassMethod):
    """Predict the spherical k-means cluster of an image, the centres serving as the classifier.

    Clusters are found at the start of an epoch from the embeddings of the last one, which a bank holds: no image is
    encoded twice. ``er`` adds the entropy of the mean prediction. Images outside the training set belong to the centre
    nearest to the other view.
    """

    labels: Tensor
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
        super().__init__()
        check_objective(objective, clusters=clusters, every=every, temperature=temperature)
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, projection_head(encoder.dim, projection))
        self.bank = InstanceBank(setting.size, projection, momentum=0.0)
        self.objective, self.clusters, self.every, self.temperature = objective, clusters, every, temperature
        self.register_buffer("labels", torch.zeros(setting.size, dtype=torch.int64))
        self.register_buffer("centres", torch.zeros(clusters, projection))
        self.entropy_reconstruction = EntropyReconstruction(
            "discrete", logits=True, entropy_of="first", symmetric=False
        )

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
        z1, z2 = F.normalize(self.online(torch.cat(views)), dim=1).chunk(2)
        first, second = (z @ self.centres.to(z.dtype).T / self.temperature for z in (z1, z2))
        labels = (second.argmax(dim=1), first.argmax(dim=1)) if index is None else 2 * (self.labels[index],)
        if self.training and index is not None:
            self.bank.update(index, (z1 + z2).detach())
        return mean_of(self._terms(first, labels[0]), self._terms(second, labels[1]))

    def _terms(self, logits: Tensor, labels: Tensor) -> Terms:
        if self.objective == "native":
            return {"loss": F.cross_entropy(logits, labels)}
        certain = F.one_hot(labels, self.clusters).to(logits.dtype)
        return terms_of(self.entropy_reconstruction.terms(logits, (certain + 1e-12).log()))

    def embed(self, views: Views) -> Views:
        """Logits of both views."""
        z = F.normalize(self.online(torch.cat(views)), dim=1)
        first, second = (z @ self.centres.to(z.dtype).T / self.temperature).chunk(2)
        return first, second
