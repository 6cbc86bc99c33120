"""Argument checks shared by every public function: each names the argument, what was got and what is wanted."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_MODES = ("cpu", "always", "off")
_mode = "cpu"  # of value_checks


def describe(value: object) -> str:
    """Short text of a value for an error message: dtype, shape and device for tensors."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    return f"{value!r} ({type(value).__name__})"


def floating(name: str, value: object, *, ndim: int | tuple[int, ...] = 2) -> Tensor:
    """Check for a floating tensor with one of the given numbers of dimensions and no empty one."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: want a floating-point torch.Tensor, got {describe(value)}")
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: want a dtype among float64, float32, bfloat16, float16, got {describe(value)}")
    dims = (ndim,) if isinstance(ndim, int) else ndim
    if value.ndim not in dims:
        raise ValueError(f"{name}: want {' or '.join(map(str, dims))} dimensions, got {describe(value)}")
    if value.numel() == 0:
        raise ValueError(f"{name}: want at least one element along every dimension, got {describe(value)}")
    return value


def integer(name: str, value: object, *, ndim: int) -> Tensor:
    """Check for a tensor of integers with the given number of dimensions."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: want a torch.Tensor of integers, got {describe(value)}")
    if value.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name}: want an integer dtype, got {describe(value)}")
    if value.ndim != ndim:
        raise ValueError(f"{name}: want {ndim} {'dimension' if ndim == 1 else 'dimensions'}, got {describe(value)}")
    return value


def alike(
    name: str, value: Tensor, other_name: str, other: Tensor, *, same_shape: bool = False, same_width: bool = True
) -> None:
    """Check that two tensors share device and dtype, and the last dimension or the whole shape.

    Under autocast layers hand out mixed dtypes, which are widened to one: there dtypes may differ.
    """
    if value.device != other.device:
        raise ValueError(f"{name}: want the device of {other_name} ({other.device}), got {describe(value)}")
    if value.dtype != other.dtype and not autocast_is_on(other):
        raise TypeError(f"{name}: want the dtype of {other_name} ({other.dtype}), got {describe(value)}")
    if same_shape and value.shape != other.shape:
        raise ValueError(f"{name}: want the shape of {other_name} {tuple(other.shape)}, got {describe(value)}")
    if same_width and value.shape[-1] != other.shape[-1]:
        raise ValueError(f"{name}: want the last dimension of {other_name} ({other.shape[-1]}), got {describe(value)}")


def usable_device(name: str, value: torch.device | str) -> None:
    """Check that tensors can be made on a device."""
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError) as error:  # what torch raises for a device that is unknown, or not there
        raise ValueError(f"{name}: cannot use {str(value)!r}: {error}") from error


def autocast_is_on(value: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    device = value.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class _Restored:
    """Gives the mode of :func:`value_checks` back when a ``with`` block ends."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        global _mode
        _mode = self._mode


def value_checks(mode: str) -> AbstractContextManager[None]:
    """Choose whose values the checks of arguments look at: a NaN, an infinity, a weight below 0 is then an error.

    Shapes, dtypes, devices and Python numbers are always checked. The values of a tensor on a GPU are not, by default,
    as a look waits for all work that was given to the GPU before, at every call: a NaN there travels on to the result.
    To find where one comes from, ask for the looks, as for ``torch.autograd.set_detect_anomaly``: the error then is
    raised in the call that got it, and names the argument.

    The mode is that of the whole process, from the call on. In a ``with`` statement it ends with the block. Traced
    code (``torch.compile``, ``torch.func``, a CUDA graph under capture) is not checked in any mode. Processes that
    train together need one mode.

    Args:
        mode: ``"cpu"``, the default: tensors on the CPU. ``"always"``: those on any device. ``"off"``: none.

    Raises:
        ValueError: another mode.

    Example:
        >>> with value_checks("always"):
        ...     loss = info_nce(torch.randn(8, 4), torch.randn(8, 4))
    """
    global _mode
    choice("mode", mode, _MODES)
    before, _mode = _mode, mode
    return _Restored(before)


def at_hand(value: Tensor) -> bool:
    """Whether a tensor's values can be had without waiting: on the CPU, not traced, not in a torch.func transform."""
    return value.device.type == "cpu" and _is_plain(value)


def concrete(value: object) -> bool:
    """Whether a check may look at a tensor's values here: where :func:`value_checks` allows it and they exist.

    Elsewhere they are not checked, and a NaN travels on to the result.
    """
    if not isinstance(value, Tensor):
        return True
    if not _is_plain(value):  # first: traced code then does not depend on the mode
        return False
    device = value.device.type
    if device == "cpu":
        return _mode != "off"
    return _mode == "always" and device != "meta" and not (value.is_cuda and torch.cuda.is_current_stream_capturing())


def _is_plain(value: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and type(value) in (Tensor, torch.nn.Parameter)
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
    )


class NotFinite(ValueError):
    """Values that are NaN or infinite."""


def finite(name: str, value: Tensor) -> None:
    """Check that every element is finite, where :func:`concrete` allows a look; else :class:`NotFinite`."""
    if not concrete(value):
        return
    with torch.no_grad():
        # The sum is finite unless an element is not, or it overflows; only then look at each element.
        if not math.isfinite(value.sum().item()) and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise NotFinite(f"{name}: want finite values, got {bad} NaN or infinite in {describe(value)}")


def positive(name: str, value: float | Tensor) -> None:
    """Check for a finite number, or tensor of numbers, greater than zero."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name}: want a floating-point tensor or a number, got {describe(value)}")
        if value.numel() == 0:
            raise ValueError(f"{name}: want at least one element, got {describe(value)}")
        if concrete(value) and not bool(((value > 0) & torch.isfinite(value)).all()):
            raise ValueError(f"{name}: want finite values > 0, got {value.detach().tolist()}")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: want a number or a tensor, got {describe(value)}")
    # Comparisons, not math.isfinite: torch.compile traces a number that changes from call to call as a symbol.
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: want a finite value > 0, got {value!r}")


def count(name: str, value: int, least: int = 1, most: int | None = None, *, most_is: str = "") -> int:
    """Check for an integer from ``least`` to ``most``, which ``most_is`` explains; numpy's integers are taken too."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: want an integer, got {describe(value)}")
    if value < least or (most is not None and value > most):
        wanted = f">= {least}" if most is None else f"from {least} to {f'{most_is} = ' if most_is else ''}{most}"
        raise ValueError(f"{name}: want an integer {wanted}, got {value}")
    return value if type(value) is int else int(value)


def unit_rows(name: str, value: Tensor) -> None:
    """Check for rows of length one, to the rounding of their dtype, where :func:`concrete` allows a look."""
    if not concrete(value):
        return
    with torch.no_grad():
        lengths = value.float().norm(dim=1)
        error = (lengths - 1).abs().max().item()
        zeros = int((lengths == 0).sum()) if error >= 1 else 0
    if zeros:
        raise ValueError(f"{name}: want rows of length 1, got {zeros} of zeros, which have no direction")
    if not error <= 8 * torch.finfo(value.dtype).eps + 1e-4:
        raise ValueError(f"{name}: want rows of length 1, got lengths that differ from it by up to {error:.3g}")


def nearest(value: object, options: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the option that is spelled most like the value, or nothing if none is close."""
    near = difflib.get_close_matches(value, list(options), n=1) if isinstance(value, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown(value: object, options: Iterable[str]) -> str:
    """Words for a name that is in no table: the names that are, and the nearest."""
    names = sorted(options)
    return f"want one of {', '.join(names)}; got {value!r}{nearest(value, names)}"


def choice(name: str, value: object, options: Collection[str]) -> None:
    """Check that a string is one of the options."""
    if value not in options:
        names = sorted(options)
        raise ValueError(f"{name}: want one of {names}, got {value!r}{nearest(value, names)}")
