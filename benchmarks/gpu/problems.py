"""Small problems for every CUDA kernel: what compute-sanitizer looks at, which slows kernels down a hundredfold."""

from __future__ import annotations

import torch

import mi_estimators as mi

DONE = "small problems done"
# Odd sizes, and one of whole tiles, which half types may take on another way.
SHAPES = ((1, 2, 1), (130, 67, 19), (128, 192, 64))


def small_problems(device: str = "cuda") -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        for n, m, d in SHAPES:
            x = torch.randn(n, d, device=device).to(dtype).requires_grad_()
            y = torch.randn(m, d, device=device).to(dtype).requires_grad_()
            for score in ("dot", "sqeuclidean"):
                scale = torch.ones((), device=device, dtype=acc, requires_grad=True)
                bias = torch.zeros(m, device=device, dtype=acc, requires_grad=True)
                row, col = mi.pairwise_lse(x, y, scale=scale, score=score, bias=bias, columns=True)
                (row.sum() + col.sum()).backward()
                if n > 1:
                    mi.pairwise_lse(x, scale=scale, score=score, exclude_diagonal=True).sum().backward()
            if n > 1:
                pairs = y[: min(n, m)], x[: min(n, m)]
                (mi.info_nce(*pairs, temperature=0.1) + mi.nt_xent(*pairs, temperature=0.5)).backward()
                if dtype == acc:
                    mi.sinkhorn(x.detach(), y.detach(), epsilon=float(d), tol=0, max_iter=2)
    if device == "cuda":
        torch.cuda.synchronize()
    print(DONE)
