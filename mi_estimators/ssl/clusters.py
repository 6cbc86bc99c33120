"""k-means pseudo-labels of the clustering methods."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_estimators._extras import require


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
    return torch.nn.functional.normalize(u[:, :kept], dim=1)
