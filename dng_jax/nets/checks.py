"""Refusals of sizes and inputs that no network can have, with the value and the remedy."""

from __future__ import annotations

from typing import Any

from dng_jax.errors import InputError


def whole_numbers(low: int, **values: Any) -> None:
    """InputError unless each is a whole number (not a bool) of at least `low`."""
    for name, value in values.items():
        if not _whole(value):
            raise InputError(f"{name} must be a whole number, got {value!r}")
        if value < low:
            raise InputError(f"{name} must be at least {low}, got {value}")


def tuple_of(low: int, name: str, values: Any, *, length: int | None = None) -> None:
    """InputError unless a tuple of whole numbers from `low`, `length` of them or at least one."""
    fits = isinstance(values, tuple) and all(_whole(v) and v >= low for v in values)
    if not fits or len(values) != (length or max(1, len(values))):
        many = "one or more" if length is None else f"{length}"
        raise InputError(f"{name} must be a tuple of {many} whole numbers from {low}, got {values}")


def image_shape(shape: Any) -> None:
    """InputError unless (H, W, C)."""
    tuple_of(1, "image_shape (height, width, channels)", shape, length=3)


def levels(name: str, values: Any, count: int) -> None:
    """InputError unless a tuple of different indices of `count` levels; none will do."""
    if values == ():
        return
    tuple_of(0, name, values)
    if max(values) >= count or len(set(values)) < len(values):
        raise InputError(
            f"{name} must name levels 0..{count - 1} once each (there are {count} multipliers), got"
            f" {list(values)}"
        )


def share(name: str, value: Any) -> None:
    """InputError unless a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{name} must be at least 0 and below 1, got {value!r}")


def switch(name: str, value: Any) -> None:
    """InputError unless True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


def batch(x: Any, shape: tuple[int, int, int], logsnr: Any = None) -> None:
    """InputError unless x is [B, H, W, C] of this image shape, and logsnr, where given, [B]."""
    if x.shape[1:] != shape:
        raise InputError(
            f"x has shape {x.shape}, the network takes images of {shape} in a batch, [B, H, W, C]"
        )
    if logsnr is not None and logsnr.shape != x.shape[:1]:
        raise InputError(
            f"logsnr has shape {logsnr.shape}: it must be one number per image, {x.shape[:1]}"
        )


def _whole(value: Any) -> bool:
    # NumPy's numbers would not survive the JSON of a model file.
    return isinstance(value, int) and not isinstance(value, bool)
