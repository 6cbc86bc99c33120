"""Operators with compiled kernels: one file each, with schema, torch reference, fake, autograd and public function."""

from mi_estimators.ops.pairwise_lse import pairwise_lse

__all__ = ["pairwise_lse"]
