"""SimCLR (Chen et al. 2020), and SimCLR+ER (Rodriguez-Galvez et al. 2023)."""

from __future__ import annotations

from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.entropy import RULES
from mi_estimators.losses import EntropyReconstruction, NTXent
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.heads import projection_head
from mi_estimators.ssl.method import Method, Setting, Terms, check_objective, terms_of


class SimCLR(Method):
    """Two augmentations of an image, one encoder, a projection onto the unit sphere.

    ``native`` minimises NT-Xent; ``er`` minimises reconstruction minus entropy, with von Mises-Fisher densities, in
    both directions: both maximise the information that one view's embedding holds about the other's. With a fixed
    bandwidth both densities have the concentration kappa. With a rule the entropy's is chosen by the rule batch by
    batch, and the reconstruction's by maximum likelihood, but for ``"bgh"``: that is no estimate of a density but a
    scale, and as with a fixed one both densities have it.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (NT-Xent) or er (entropy + reconstruction)"] = "native",
        temperature: Annotated[float, "temperature of NT-Xent"] = 0.5,
        kappa: Annotated[float, "von Mises-Fisher concentration of the ER objective and of the logged ER bound"] = 10.0,
        bandwidth: Annotated[str, f"of the ER objective: fixed (kappa), or {', '.join(RULES['vmf'])}"] = "fixed",
        projection: Annotated[int, "dimension of the sphere's ambient space"] = 64,
    ) -> None:
        super().__init__()
        check_objective(objective, temperature=temperature, kappa=kappa)
        _checks.choice("bandwidth", bandwidth, ("fixed", *RULES["vmf"]))
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, projection_head(encoder.dim, projection))
        self.objective = objective
        self.kappa = kappa
        # The critic that goes with each loss: NT-Xent's own logits, or the log-density of q(z2 | z1) up to a constant.
        self.scale = 1 / temperature if objective == "native" else kappa
        self.follows_batch = objective == "er" and bandwidth != "fixed"
        if self.follows_batch:
            # What the last training batch gave: held-out pairs must not choose the critic they are scored with.
            del self.scale
            self.register_buffer("scale", torch.tensor(float(kappa)))
        self.nt_xent = NTXent(temperature=temperature)
        self.entropy_reconstruction = EntropyReconstruction(
            support="sphere",
            bandwidth=kappa if bandwidth == "fixed" else bandwidth,
            reconstruction_bandwidth="shared" if bandwidth == "bgh" else None,
        )

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of a batch of pairs; with ``er`` also its entropy and reconstruction, mean of the two directions."""
        z1, z2 = self.embed(views)
        if self.objective == "native":
            return {"loss": self.nt_xent(z1, z2)}
        bound = self.entropy_reconstruction.terms(z1, z2)
        if self.follows_batch and self.training:
            cast(Tensor, self.scale).fill_(cast(float, bound.q_bandwidth))
        return terms_of(bound)

    def embed(self, views: Views) -> Views:
        """Unit projections of both views."""
        first, second = (F.normalize(self.online(view), dim=1) for view in views)
        return first, second
