"""DeepCluster (Caron et al. 2018, arXiv 1807.05520), and its ER variant."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.clusters import ClusterMethod, k_means, whitened
from mi_estimators.ssl.method import OverImages, Preset, Setting, Terms


class DeepCluster(ClusterMethod):
    """Classify images by the k-means clusters of their own representations.

    Clusters are found anew every few epochs from whitened representations, and the classifier starts anew with them.
    ``native`` weighs images by one over the size of their cluster, which in expectation is the paper's uniform
    sampling over clusters: the label's entropy is then log K. ``er`` weighs them alike and adds the entropy of the mean
    prediction.
    """

    # The classifier starts anew with every clustering, so that learning takes longer.
    presets: ClassVar = {
        "digits": Preset("augment", steps=3000, batch_size=256, lr=1e-3),
        "mnist": Preset("augment", steps=10000, batch_size=256, lr=1e-3),
    }

    weights: Tensor

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (weighted cross-entropy) or er (entropy + reconstruction)"] = "native",
        clusters: Annotated[int, "number of clusters"] = 64,
        every: Annotated[int, "epochs between clusterings"] = 25,
        components: Annotated[int, "principal components that are clustered"] = 64,
    ) -> None:
        super().__init__(setting.size, objective, clusters, every, components=components)
        self.encoder = setting.make_encoder(0)
        self.classifier = nn.Linear(self.encoder.dim, clusters)
        self.components = components
        self.register_buffer("weights", torch.ones(clusters))

    def begin_epoch(self, epoch: int, over_images: OverImages) -> None:
        """Cluster, every few epochs."""
        if epoch % self.every:
            return
        labels, _ = k_means(whitened(over_images(self.represent), self.components), self.clusters)
        self.labels.copy_(labels)
        sizes = torch.bincount(labels, minlength=self.clusters).clamp_min(1)
        self.weights.copy_(len(labels) / (self.clusters * sizes))
        self.classifier.reset_parameters()

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of both views."""
        return self.classified(*self.embed(views), index)

    def native_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in which every cluster weighs the same."""
        return (self.weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()

    def embed(self, views: Views) -> Views:
        """Logits of both views."""
        first, second = (self.classifier(F.relu(self.encoder(view))) for view in views)
        return first, second

    def represent(self, view: Tensor) -> Tensor:
        """The encoder's output."""
        return self.encoder(view)
