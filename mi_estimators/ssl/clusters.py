"""k-means pseudo-labels, and the base of the methods that predict them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mi_estimators._extras import require
from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ssl.method import ClassMethod, Terms, check_objective, mean_of, terms_of


class ClusterMethod(ClassMethod):
    """Base of the methods whose target is the k-means cluster of an image, found anew every few epochs.

    ``native`` minimises :meth:`native_loss`; ``er`` reconstructs the label and adds the entropy of the mean prediction.
    Images outside the training set have no label: the other view's likeliest cluster stands for it.

    Args:
        size: number of training images.
        objective: native or er.
        clusters: number of clusters.
        every: epochs between clusterings.
        **positive: further settings, checked to be above 0.
    """

    labels: Tensor

    def __init__(self, size: int, objective: str, clusters: int, every: int, **positive: float) -> None:
        super().__init__()
        check_objective(objective, clusters=clusters, every=every, **positive)
        if clusters > size:
            raise ValueError(f"clusters: want at most the {size} training images, got {clusters}")
        self.objective, self.clusters, self.every = objective, clusters, every
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.entropy_reconstruction = EntropyReconstruction(
            "discrete", logits=True, entropy_of="first", symmetric=False
        )

    def classified(self, first: Tensor, second: Tensor, index: Tensor | None) -> Terms:
        """Terms of the logits of both views, each ``[K, clusters]``, of training images ``index``."""
        labels = (second.argmax(dim=1), first.argmax(dim=1)) if index is None else 2 * (self.labels[index],)
        return mean_of(self._terms(first, labels[0]), self._terms(second, labels[1]))

    def native_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with the labels."""
        return F.cross_entropy(logits, labels)

    def _terms(self, logits: Tensor, labels: Tensor) -> Terms:
        if self.objective == "native":
            return {"loss": self.native_loss(logits, labels)}
        certain = F.one_hot(labels, self.clusters).float()  # in a half type the log of its zeros would be infinite
        return terms_of(self.entropy_reconstruction.terms(logits.float(), (certain + 1e-12).log()))


def k_means(features: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means by scikit-learn, its start drawn from torch's global generator.

    Shape:
        - features: ``[N, d]``.
        - output: labels ``[N]``, int64, and centres ``[clusters, d]``, on the device of the features.

    Raises:
        ValueError: there are fewer points than clusters.
    """
    if len(features) < clusters:
        raise ValueError(f"clusters: want at most the {len(features)} training images, got {clusters}")
    seed = int(torch.randint(2**31 - 1, ()))
    found = (
        require("sklearn.cluster", "train").KMeans(clusters, n_init=1, random_state=seed).fit(features.cpu().numpy())
    )
    labels, centres = torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_)
    return labels.to(features.device), centres.to(features)


def whitened(features: Tensor, dim: int) -> Tensor:
    """The leading principal components, each scaled to unit variance, rows then to unit length.

    Source: Caron et al. (2018), arXiv 1807.05520, sec. 4.
    """
    centred = features - features.mean(dim=0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = min(dim, int((s > 1e-6 * s[0]).sum()))
    return F.normalize(u[:, :kept], dim=1)
