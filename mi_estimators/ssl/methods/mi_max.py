"""Mutual-information maximisation between the halves of an image (Tschannen et al. 2020, arXiv 1907.13625, sec. 3)."""

from __future__ import annotations

from typing import Annotated, ClassVar, cast

from torch import Tensor

from mi_estimators import _checks
from mi_estimators.critics import CRITICS, FactoredCritic
from mi_estimators.er import ERBound
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.method import Method, Preset, Setting, Terms, check_not_negative
from mi_estimators.variational import OPTIONS, variational
from mi_estimators.variational.scored import ScoredEstimator

OF_SCORES = [name for name, options in OPTIONS.items() if "score_clip" in options]
OF_VECTORS = [name for name in CRITICS if name != "conv"]


class MIMax(Method):
    """Maximise a bound on I(g1(X1); g2(X2)), with X1 the top half and X2 the bottom half of an image.

    What bounds the information of the encodings bounds that of the halves, I(X1; X2), too. The probe reads g1(X1). With
    a target the bound is held there, |bound - target| being minimised: encoders compared at the same bound.
    """

    presets: ClassVar = {
        "digits": Preset("augmented-halves", steps=2000, batch_size=128, lr=1e-3),
        "mnist": Preset("halves", steps=5000, batch_size=128, lr=1e-4),
        "npz": Preset("pairs", steps=5000, batch_size=128, lr=1e-4),
    }

    def __init__(
        self,
        setting: Setting,
        *,
        bound: Annotated[str, f"bound that is maximised: {', '.join(OF_SCORES)}"] = "infonce",
        critic: Annotated[str, f"how encodings are scored: {', '.join(OF_VECTORS)}"] = "bilinear",
        target: Annotated[float, "nats at which the bound is held; 0 to maximise it"] = 0.0,
    ) -> None:
        super().__init__()
        _checks.choice("bound", bound, OF_SCORES)
        _checks.choice("critic", critic, OF_VECTORS)
        check_not_negative("target", target)
        self.name, self.target = bound, target
        self.top, self.bottom = (setting.make_encoder(view) for view in (0, 1))
        self.bound = cast(ScoredEstimator, variational(bound, self.top.dim, self.bottom.dim, critic=critic))

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Minus what the bound's critic is trained to maximise, or how far the bound is from its target."""
        value, objective = self.bound(*map(self.joined, self.embed(views)))
        if not self.target:
            return {"loss": -objective}
        above = value.detach() - self.target
        return {"loss": above.abs() + above.sign() * (objective - objective.detach())}

    def embed(self, views: Views) -> Views:
        """``g1`` and ``g2``."""
        return self.top(views[0]), self.bottom(views[1])

    def scores(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The critic's."""
        return self.bound.critic(z1, z2)

    def bounds(self, z1: Tensor, z2: Tensor) -> Terms:
        """InfoNCE with the critic, and the bound that is maximised."""
        return {**super().bounds(z1, z2), self.name: self.bound(z1, z2).value}

    def er_bound(self, z1: Tensor, z2: Tensor) -> ERBound:
        """Of the critic's factors where it has some, as those lie in one space: of the bilinear one, W^T g1 and g2.

        Centred first: InfoNCE does not change with the mean of g2, so nothing keeps the embeddings off one side.
        """
        if isinstance(self.bound.critic, FactoredCritic):
            z1, z2 = self.bound.critic.embeddings(z1, z2)
        return super().er_bound(z1 - z1.mean(dim=0), z2 - z2.mean(dim=0))

    def represent(self, view: Tensor) -> Tensor:
        """g1 of the top half."""
        return self.top(view)
