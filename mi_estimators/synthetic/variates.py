"""Random variates that torch draws from no generator of one's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def gamma(shape: float, n: int, generator: torch.Generator) -> Tensor:
    """Gamma variates of unit scale, ``[n]`` float64: NumPy's, seeded by one draw from the generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).standard_gamma(shape, n))
