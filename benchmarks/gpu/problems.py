"""Small problems for every CUDA kernel: what compute-sanitizer looks at, which slows kernels down a hundredfold."""

from __future__ import annotations

import torch
from torch import Tensor

import mi_estimators as mi

DONE = "small problems done"
ODD = ((1, 2, 1), (130, 67, 19))
TILES = (128, 192, 64)  # whole ones, which half types may take on another way
HALF = (torch.bfloat16, torch.float16)


def small_problems(device: str = "cuda") -> None:
    """Every kernel, forward and backward; says DONE at its end."""

    def points(n: int, d: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(n, d, device=device).to(dtype).requires_grad_()

    for dtype in (torch.float32, *HALF, torch.float64):
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        for n, m, d in (*ODD, TILES) if dtype in HALF else ODD:
            for score in ("dot", "sqeuclidean"):
                x, y = points(n, d, dtype), points(m, d, dtype)
                scale = torch.ones((), device=device, dtype=acc, requires_grad=True)
                bias = torch.zeros(m, device=device, dtype=acc, requires_grad=True)
                row, col = mi.pairwise_lse(x, y, scale=scale, score=score, bias=bias, columns=True)
                (row.sum() + col.sum()).backward()
                if n > 1:
                    mi.pairwise_lse(x, scale=scale, score=score, exclude_diagonal=True).sum().backward()
    for dtype in (torch.float32, *HALF, torch.float64):
        for n, _, d in (ODD[-1], TILES):
            x, y, groups = points(n, d, dtype), points(n, d, dtype), torch.arange(n, device=device) // 2
            learned = torch.tensor(0.1, device=device, requires_grad=True)
            (mi.info_nce(x, y, temperature=learned) + mi.nt_xent(x, y, temperature=0.5, groups=groups)).backward()
    mi.sinkhorn(points(130, 19, torch.float32), points(67, 19, torch.float32), epsilon=20.0, tol=0, max_iter=2)
    if device == "cuda":
        torch.cuda.synchronize()
    print(DONE)
