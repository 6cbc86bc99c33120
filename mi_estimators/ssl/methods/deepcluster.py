"""DeepCluster (Caron et al. 2018, arXiv 1807.05520), and its ER variant."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.clusters import k_means, whitened
from mi_estimators.ssl.method import (
    ClassMethod,
    OverImages,
    Setting,
    Terms,
    check_objective,
    mean_of,
    terms_of,
)  # fmt: skip


class DeepCluster(ClassMethod):
    """Classify images by the k-means clusters of their own representations.

    Clusters are found anew every few epochs from whitened representations, and the classifier starts anew with them.
    ``native`` weighs images by one over the size of their cluster, which in expectation is the paper's uniform
    sampling over clusters: the label's entropy is then log K. ``er`` weighs them alike and adds the entropy of the mean
    prediction. Images outside the training set have no cluster: the other view's prediction stands for it.
    """

    labels: Tensor
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
        super().__init__()
        check_objective(objective, clusters=clusters, every=every, components=components)
        self.encoder = setting.make_encoder(0)
        self.classifier = nn.Linear(self.encoder.dim, clusters)
        self.objective, self.clusters, self.every, self.components = objective, clusters, every, components
        self.register_buffer("labels", torch.zeros(setting.size, dtype=torch.int64))
        self.register_buffer("weights", torch.ones(clusters))
        self.entropy_reconstruction = EntropyReconstruction(
            "discrete", logits=True, entropy_of="first", symmetric=False
        )

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
        first, second = (self._logits(view) for view in views)
        labels = (second.argmax(dim=1), first.argmax(dim=1)) if index is None else 2 * (self.labels[index],)
        return mean_of(self._terms(first, labels[0]), self._terms(second, labels[1]))

    def _logits(self, view: Tensor) -> Tensor:
        return self.classifier(F.relu(self.encoder(view)))

    def _terms(self, logits: Tensor, labels: Tensor) -> Terms:
        if self.objective == "native":
            losses = F.cross_entropy(logits, labels, reduction="none")
            return {"loss": (self.weights[labels] * losses).mean()}
        certain = F.one_hot(labels, self.clusters).to(logits.dtype)
        return terms_of(self.entropy_reconstruction.terms(logits, (certain + 1e-12).log()))

    def embed(self, views: Views) -> Views:
        """Logits of both views."""
        return self._logits(views[0]), self._logits(views[1])

    def represent(self, view: Tensor) -> Tensor:
        """The encoder's output."""
        return self.encoder(view)
