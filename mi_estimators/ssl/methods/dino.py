"""DINO (Caron et al. 2021, arXiv 2104.14294), and DINO+ER (Rodriguez-Galvez et al. 2023, arXiv 2307.10907)."""

from __future__ import annotations

from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_estimators import _checks
from mi_estimators.losses import EntropyReconstruction
from mi_estimators.ops import sinkhorn_knopp
from mi_estimators.ssl.augment import Views
from mi_estimators.ssl.heads import PrototypeHead
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
from mi_estimators.ssl.teacher import Teacher, cosine, linear

CENTERINGS = ("mean", "sinkhorn", "none")
HEAD_NORMS = ("batch", "none")


class DINO(ClassMethod):
    """The class probabilities that a slow copy of the networks gives one view are predicted from the other view.

    ``native`` keeps the teacher from one class for all by subtracting a running mean of its logits, or by Sinkhorn
    codes as DINOv2 does. ``er`` does without: the entropy of the student's mean prediction is a term of the loss.
    The paper's head has no batch norm; here it has, which by itself keeps a few classes in use (``head_norm``).
    """

    has_teacher = True

    center: Tensor
    skips_parameters = True  # the last layer, while it is frozen
    takes_small_crops = True

    def __init__(
        self,
        setting: Setting,
        *,
        objective: Annotated[str, "native (cross-entropy) or er (entropy + reconstruction)"] = "native",
        centering: Annotated[str, f"of the native objective: {', '.join(CENTERINGS)}"] = "mean",
        outputs: Annotated[int, "number of classes"] = 256,
        head_norm: Annotated[str, "of the head's hidden layer: batch, or none as in the paper"] = "batch",
        student_temperature: Annotated[float, "temperature of the student"] = 0.1,
        teacher_temperature: Annotated[float, "temperature of the teacher"] = 0.04,
        start_temperature: Annotated[float, "that of the teacher at the first step, with a temperature_warmup"] = 0.04,
        temperature_warmup: Annotated[float, "share of the training in which it goes linearly to the other"] = 0.0,
        momentum: Annotated[float, "of the teacher at the first step; it rises to 1 along a cosine"] = 0.99,
        frozen: Annotated[float, "share of the training in which the last layer stays as it is"] = 0.02,
    ) -> None:
        super().__init__()
        temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        check_objective(objective, outputs=outputs, start_temperature=start_temperature, **temperatures)
        _checks.choice("centering", centering, CENTERINGS)
        _checks.choice("head_norm", head_norm, HEAD_NORMS)
        check_share("momentum", momentum)
        check_share("frozen", frozen)
        check_share("temperature_warmup", temperature_warmup)
        encoder = setting.make_encoder(0)
        self.online = nn.Sequential(encoder, PrototypeHead(encoder.dim, outputs, batch_norm=head_norm == "batch"))
        self.teacher = Teacher(self.online)
        self.objective, self.centering, self.momentum, self.frozen = objective, centering, momentum, frozen
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.start_temperature, self.temperature_warmup = start_temperature, temperature_warmup
        self.register_buffer("center", torch.zeros(outputs))
        self.entropy_reconstruction = EntropyReconstruction(
            "discrete", logits=True, entropy_of="first", symmetric=False
        )

    def step(self, views: Views, index: Tensor | None) -> Terms:
        """Loss of both directions, and of the predictions from small crops."""
        cast(PrototypeHead, self.online[1]).frozen = self.progress < self.frozen
        students = [self.online(view) / self.student_temperature for view in views]
        teachers = [self.teacher(view) for view in views[:2]]
        targets = [self._target(teacher) for teacher in teachers]
        terms = mean_of(*(self._terms(students[view], targets[target]) for view, target in directions(len(views))))
        if self.training:
            mean = self.joined(torch.cat(teachers).mean(dim=0, keepdim=True)).mean(dim=0)
            self.center.lerp_(mean.to(self.center), 0.1)
        return terms

    def _target(self, teacher: Tensor) -> Tensor:
        """Logits of the target for ``er``, its probabilities for ``native``."""
        if self.objective == "er":
            return teacher / self._temperature()
        options = {"n_iter": 3} if self.centering == "sinkhorn" else {"n_iter": 0, "center": self._center()}
        return sinkhorn_knopp(teacher, epsilon=self._temperature(), group=self.group, **options)

    def _terms(self, student: Tensor, target: Tensor) -> Terms:
        if self.objective == "er":
            return terms_of(self.entropy_reconstruction.terms(student, target))
        return {"loss": F.cross_entropy(student, target)}

    def _center(self) -> Tensor | None:
        return self.center if self.centering == "mean" and self.objective == "native" else None

    def _temperature(self) -> float:
        if self.progress >= self.temperature_warmup:
            return self.teacher_temperature
        return linear(self.start_temperature, self.teacher_temperature, self.progress / self.temperature_warmup)

    def end_step(self) -> None:
        """The teacher follows."""
        self.teacher.follow(self.online, cosine(self.momentum, 1.0, self.progress))

    def embed(self, views: Views) -> Views:
        """The student's logits of the first view and the teacher's of the second."""
        center = self._center()
        teacher = self.teacher(views[1]) if center is None else self.teacher(views[1]) - center
        return self.online(views[0]) / self.student_temperature, teacher / self._temperature()
