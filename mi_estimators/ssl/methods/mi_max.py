"""Mutual-information maximisation between the halves of an image (Tschannen et al. 2020, arXiv 1907.13625, sec. 3)."""

from __future__ import annotations

from typing import Annotated, ClassVar, cast

from torch import Tensor

from mi_estimators import _checks
from mi_estimators.bounds import SCORE_BOUNDS
from mi_estimators.critics import CRITICS, FactoredCritic
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.method import MakeEncoder, Method, Preset

FACTORED = ("inner_product", "bilinear", "separable")


class MIMax(Method):
    """Maximise a bound on I(g1(X1); g2(X2)): X1 the top half, X2 the bottom half, critic ``f = u(g1) . v(g2)``.

    What bounds the information of the encodings bounds that of the halves, I(X1; X2), too. The probe reads g1(X1).
    """

    presets: ClassVar = {
        "digits": Preset("augmented-halves", steps=2000, batch_size=128, lr=1e-3),
        "mnist": Preset("halves", steps=5000, batch_size=128, lr=1e-4),
    }

    def __init__(
        self,
        make_encoder: MakeEncoder,
        *,
        bound: Annotated[str, f"bound that is maximised: {', '.join(SCORE_BOUNDS)}"] = "infonce",
        critic: Annotated[str, f"how encodings are scored: {', '.join(FACTORED)}"] = "bilinear",
    ) -> None:
        super().__init__()
        _checks.choice("bound", bound, SCORE_BOUNDS)
        _checks.choice("critic", critic, FACTORED)
        self.bound = SCORE_BOUNDS[bound]
        self.bounds = tuple(dict.fromkeys(("infonce", bound)))
        self.top, self.bottom = make_encoder(), make_encoder()
        self.critic = cast(FactoredCritic, CRITICS[critic](self.top.dim, self.bottom.dim))

    def step(self, views: Views) -> dict[str, Tensor]:
        """Minus what the bound's critic is trained to maximise."""
        return {"loss": -self.bound.value_and_objective(self.scores(*self.embed(views)))[1]}

    def embed(self, views: Views) -> Views:
        """The critic's two factors: of the bilinear one, ``W^T g1`` and ``g2``."""
        return self.critic.embeddings(self.top(views[0]), self.bottom(views[1]))

    def directions(self, z1: Tensor, z2: Tensor) -> Views:
        """Centred first: InfoNCE does not change with the mean of g2, so nothing keeps the embeddings off one side."""
        return super().directions(z1 - z1.mean(dim=0), z2 - z2.mean(dim=0))

    def represent(self, view: Tensor) -> Tensor:
        """g1 of the top half."""
        return self.top(view)
