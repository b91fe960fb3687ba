"""Static descriptions of networks: plain values, so that they round-trip through JSON."""

from __future__ import annotations

import typing
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.nets import checks
from dng_jax.schedules import PARAMETERISATIONS

CONDITIONINGS = ("none", "label", "heads")
NORMS = ("none", "batch")
EMBEDDINGS = ("logsnr", "timestep")


@dataclass(frozen=True)
class Config:
    """What the configurations of all networks can do; fields are numbers, strings and tuples."""

    def example(self) -> tuple[np.ndarray, ...]:
        """Inputs of one example, all zero: what the module's `init` and `apply` take."""
        values = vars(self)
        inputs = [np.zeros((1, *values["image_shape"]), np.float32)]
        if "conditioning" in values:
            inputs.append(np.zeros(1, np.float32))
            if values["conditioning"] == "label":
                inputs.append(np.zeros(1, np.int32))
        return tuple(inputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; raises InputError for a field that is unknown, missing or of
        another type."""
        known = {f.name: f for f in fields(cls)}
        hints = typing.get_type_hints(cls)
        for name, value in values.items():
            choose(name, known, f"field of {cls.__name__}")
            if not _is(value, hints[name]):
                raise InputError(f"{name} of {cls.__name__} cannot be {str(value)[:60]}")
        for name, field in known.items():
            if name not in values and field.default is MISSING:
                raise InputError(f"{cls.__name__} lacks its field {name}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _is(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a field's type; a whole number will do for a float."""
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list):
            return False
        many = len(value) if inner[-1] is Ellipsis else len(inner)
        return len(value) == many and all(_is(v, inner[0]) for v in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


@dataclass(frozen=True)
class UNetConfig(Config):
    """Static description of a U-Net; see dng_jax.nets.unet."""

    image_shape: tuple[int, int, int]
    """Height, width and channels of an image."""
    num_classes: int = 10
    """Number of classes K, at least 1."""
    conditioning: str = "none"
    """none, label or heads."""
    parameterisation: str = "eps"
    """What is predicted: eps, v, x0, score or flow."""
    channels: int = 64
    """Channels of the first level, at least 1."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of level i are channels * multipliers[i], each from 1; a level is half as large as
    the one before."""
    blocks: int = 2
    """Residual blocks per level on the way down, at least 0; one more on the way up."""
    middle_blocks: int = 2
    """Residual blocks at the lowest level, at least 0."""
    attention_levels: tuple[int, ...] = ()
    """Levels with self-attention, counted from 0; where there are any, in the middle too."""
    dropout: float = 0.0
    """Dropout in residual blocks, 0 to below 1."""
    patch: int = 1
    """1, 2 or 4: patch x patch pixels are folded into channels."""
    head_channels: int = 128
    """With heads: channels in front of the last layer, at least 1."""
    head_kernel: int = 3
    """With heads: the side of the last convolution's kernel, 1 or 3."""
    global_channels: int = 0
    """With heads: channels of the dense network over all positions; 0: none."""
    global_pool: int = 1
    """With heads: the dense network reads image and features as means over squares of so many
    positions a side, from 1; 1: both whole."""
    embed_channels: int = 256
    """Channels of the embedding of the noise level, at least 1."""
    resample: str = "conv"
    """conv (strided, nearest + conv3) or shuffle (space to depth around a product, for CPUs)."""
    scale_shift: bool = False
    """Whether the noise level scales and shifts after the norm, or is added before it."""
    embedding: str = "logsnr"
    """How the noise level is embedded: logsnr, or timestep, as in Ho et al.'s own networks."""

    def __post_init__(self):
        choose(self.conditioning, CONDITIONINGS, "conditioning")
        choose(self.parameterisation, PARAMETERISATIONS, "parameterisation")
        choose(self.resample, ("conv", "shuffle"), "resample")
        choose(self.embedding, EMBEDDINGS, "embedding")
        checks.image_shape(self.image_shape)
        checks.tuple_of(1, "multipliers", self.multipliers)
        checks.levels("attention_levels", self.attention_levels, len(self.multipliers))
        for low, names in (
            (1, ("num_classes", "channels", "embed_channels", "head_channels", "global_pool")),
            (0, ("blocks", "middle_blocks", "global_channels")),
        ):
            checks.whole_numbers(low, **{name: getattr(self, name) for name in names})
        checks.share("dropout", self.dropout)
        checks.switch("scale_shift", self.scale_shift)
        if self.patch not in (1, 2, 4):
            raise InputError(f"patch {self.patch} is not supported: choose 1, 2 or 4")
        if self.head_kernel not in (1, 3):
            raise InputError(f"head_kernel {self.head_kernel} is not supported: choose 1 or 3")
        if self.embedding == "timestep" and (self.channels < 4 or self.channels % 2):
            raise InputError(
                "embedding timestep needs an even number of channels from 4, got"
                f" {self.channels}: choose another number, or embedding logsnr"
            )
        factor = self.patch * 2 ** (len(self.multipliers) - 1)
        if any(side % factor for side in self.image_shape[:2]):
            raise InputError(
                f"images of {self.image_shape[0]}x{self.image_shape[1]} do not divide by {factor}: "
                "set image_shape to that of your images, or use fewer levels (multipliers) or a"
                " smaller patch"
            )
        positions = [side // self.patch for side in self.image_shape[:2]]
        if any(side % self.global_pool for side in positions):
            raise InputError(
                f"{positions[0]}x{positions[1]} positions do not divide by global_pool"
                f" {self.global_pool}: choose a divisor, or 1"
            )


@dataclass(frozen=True)
class ClassifierConfig(Config):
    """Static description of a classifier; see dng_jax.nets.classifier."""

    image_shape: tuple[int, int, int]
    """Height, width and channels of an image."""
    num_classes: int = 10
    """Number of classes K, at least 2."""
    widths: tuple[int, ...] = (32, 48)
    """Channels of each stage, at least 1; every stage is half as large as the one before."""
    features: int = 64
    """F, the width of the penultimate layer, at least 1; of norm batch, the channels of one more
    stage."""
    dropout: float = 0.2
    """Dropout in front of the logits, 0 to below 1."""
    norm: str = "none"
    """none, or batch: a residual network with batch normalisation, for photographs."""

    def __post_init__(self):
        choose(self.norm, NORMS, "norm")
        checks.image_shape(self.image_shape)
        checks.tuple_of(1, "widths", self.widths)
        checks.whole_numbers(2, num_classes=self.num_classes)
        checks.whole_numbers(1, features=self.features)
        checks.share("dropout", self.dropout)
        # With norm batch the patches take a row and a column, and every stage halves.
        batch = self.norm == "batch"
        halvings = len(self.widths) + (1 if batch else -1)
        if min(self.image_shape[:2]) - batch < 2**halvings:
            raise InputError(
                f"images of {self.image_shape[0]}x{self.image_shape[1]} cannot be halved {halvings}"
                f" times: name fewer widths{', or norm none' if batch else ''}"
            )
