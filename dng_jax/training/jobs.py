"""What a training is given besides its data: the fields of all jobs, and what excludes what.

Presets fill them in (presets.py), options of the command line change them (train/options.py).
"""

from __future__ import annotations

import dataclasses
import math

from dng_jax.errors import InputError, choose
from dng_jax.jobs.options import at_least, at_most, option, seed
from dng_jax.jobs.own_images import PREFIX
from dng_jax.nets.config import ClassifierConfig, UNetConfig
from dng_jax.scenes.prompts import CELLS_MAX
from dng_jax.stable_diffusion.sizes import Sizes

PRECISIONS = ("auto", "float32", "bfloat16")
SIZE = 8  # of a digit, pixels
OWN = f"{PREFIX}PATH"  # the data set of presets for images of one's own, until it is named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Fields of all jobs; a run is resumed only with all of them as they were."""

    dataset: str
    """Name of the data set: digits, mnist, fashion_mnist, cifar10, a prepared one, or your own
    images as folder:PATH[@SIZE]."""
    split: str = "train"
    """train, test or all."""
    examples: int | None = None
    """Train on so many images, at least 1, from the start of the split; default: all."""
    steps: int
    """Training steps, at least 1."""
    batch_size: int = 128
    """Images per step over all devices, a multiple of their number."""
    learning_rate: float = 2e-3
    """Peak learning rate, above 0."""
    warmup: int = 200
    """Steps of linear warm-up, from 0; at most half of all are taken."""
    weight_decay: float = 1e-3
    """Weight decay of AdamW, at least 0."""
    clip: float = 1.0
    """Largest global norm of the gradient, above 0."""
    ema_decay: float = 0.998
    """Decay of the averaged weights per step, 0 to below 1."""
    precision: str = "auto"
    """auto, float32 or bfloat16: what convolutions compute in; parameters are always float32.
    auto: bfloat16 on GPU and TPU, float32 on CPU."""
    seed: int = 0
    """Seed of everything random, 0 to 2^32 - 1."""
    network: UNetConfig | ClassifierConfig | Sizes

    def check(self) -> None:
        """InputError, in one sentence, for a number out of its range."""
        if self.dataset == OWN:
            raise InputError("this preset is for images of your own: give --dataset folder:PATH")
        choose(self.precision, PRECISIONS, "precision")
        at_least(1, steps=self.steps, batch_size=self.batch_size, examples=self.examples)
        at_least(0, warmup=self.warmup, weight_decay=self.weight_decay)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"{option(name)} must be positive and finite, got {value}")
        seed(32, seed=self.seed)  # jax drops the bits above: two seeds would name one run
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"--ema-decay must be at least 0 and below 1, got {self.ema_decay}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionJob(Job):
    """Training of a diffusion U-Net."""

    network: UNetConfig
    only_class: str | None = None
    """Train on this class alone, given by name or number, as the paper does for a forbidden one;
    None: all."""
    without_class: str | None = None
    """Train on all classes but this one, given by name or number; None: all."""
    references: int = 0
    """Images of every class drawn each step for targets of low variance
    (dng_jax.training.stable_targets), for networks with one head per class; 0: plain targets."""
    flip: bool = False
    """Mirror images left to right half of the time."""
    focus: float = 0.0
    """Share of a batch, 0 to below 1, at the noise levels where images take their shape (log-SNR
    normal, mean -.5, deviation 1.75); the rest spread evenly over the levels of the schedule."""
    label_dropout: float = 0.15
    """Of conditioning label: share of images shown without their label, at least 0 and below 1."""
    unconditional_weight: float = 0.5
    """Of conditioning heads: weight of the unconditional head's loss, at least 0."""

    def check(self) -> None:
        """As of Job; the network must have no head, and no label to be told, without images."""
        super().check()
        at_least(0, references=self.references, unconditional_weight=self.unconditional_weight)
        if not 0 <= self.focus < 1:
            raise InputError(f"--focus must be at least 0 and below 1, got {self.focus}")
        if not 0 <= self.label_dropout < 1:
            raise InputError(
                f"--label-dropout must be at least 0 and below 1, got {self.label_dropout}"
            )
        if self.only_class is not None and self.without_class is not None:
            raise InputError("--only-class and --without-class exclude each other: give one")
        if self.without_class is not None and self.network.conditioning == "heads":
            raise InputError(
                "--without-class would leave a head without images: add --conditioning none, or"
                " label"
            )
        if self.only_class is not None and self.network.conditioning != "none":
            raise InputError(
                "--only-class needs a network without classes, this one has conditioning"
                f" {self.network.conditioning}: add --conditioning none"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierJob(Job):
    """Training of a classifier."""

    network: ClassifierConfig
    weight_decay: float = 1e-2
    """Weight decay of AdamW, or with --momentum of kernels alone, at least 0."""
    smoothing: float = 0.05
    """Smoothing of the labels, 0 to below 1."""
    momentum: float | None = None
    """Momentum of Nesterov's gradient descent, 0 to below 1; None: AdamW."""
    warp: bool = True
    """Turn, scale, shear and move images, change their contrast and add noise, as suits digits
    (dng_jax.training.augment)."""
    flip: bool = False
    """Without warp: mirror images left to right half of the time."""
    shift: int = 0
    """Without warp: move images by up to so many pixels, at least 0 and below their side."""
    cut: int = 0
    """Without warp: cut out a square of this side, at least 0 and at most that of the images."""

    def check(self) -> None:
        """As of Job; warp and the augmentation of photographs exclude each other."""
        super().check()
        for name, value in (("smoothing", self.smoothing), ("momentum", self.momentum)):
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{option(name)} must be at least 0 and below 1, got {value}")
        if self.network.norm == "batch" and min(self.batch_size, self.examples or 2) < 2:
            raise InputError(
                "batch normalisation needs --batch-size and --examples of at least 2, got"
                f" {self.batch_size} and {self.examples or 'all'}"
            )
        side = min(self.network.image_shape[:2])
        if not 0 <= self.shift < side or not 0 <= self.cut <= side:
            raise InputError(
                f"--shift must be 0 to {side - 1} and --cut 0 to {side} for images of side {side},"
                f" got {self.shift} and {self.cut}"
            )
        if self.warp and (self.flip or self.shift or self.cut):
            raise InputError("--flip, --shift and --cut take the place of warp: add --no-warp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToImageJob(Job):
    """Training of an autoencoder, then of a U-Net and a text encoder on its latents."""

    network: Sizes
    dataset: str = "digits"
    """digits: the images that scenes are made of."""
    examples: int = 65_536
    """Scenes to make, at least 1."""
    cells: int = 2
    """Digits of a scene, side by side, 1 to 6; what captions say is known for each of them."""
    empty_captions: float = 0.1
    """Share of empty captions, at least 0 and below 1."""
    autoencoder_steps: int
    """Training steps of the autoencoder, at least 1, before all others."""
    autoencoder_learning_rate: float = 4e-3
    """Its peak learning rate, above 0."""
    autoencoder_kl: float = 1e-3
    """Weight of the divergence of latents from a normal distribution, at least 0."""

    def check(self) -> None:
        """As of Job; the images must be scenes of so many cells, of which every kind is there."""
        super().check()
        choose(self.dataset, ("digits",), "dataset of scenes")
        at_least(1, autoencoder_steps=self.autoencoder_steps, cells=self.cells)
        at_most(CELLS_MAX, cells=self.cells)
        at_least(0, autoencoder_kl=self.autoencoder_kl)
        if not 0 < self.autoencoder_learning_rate < math.inf:
            raise InputError(
                "--autoencoder-learning-rate must be positive and finite, got"
                f" {self.autoencoder_learning_rate}"
            )
        if not 0 <= self.empty_captions < 1:
            raise InputError(
                f"--empty-captions must be at least 0 and below 1, got {self.empty_captions}"
            )
        shape = (SIZE, SIZE * self.cells, 1)
        if self.network.image_shape != shape:
            wanted = " ".join(map(str, shape))
            raise InputError(
                f"scenes of {self.cells} cells need --network.image-shape {wanted}, got"
                f" {' '.join(map(str, self.network.image_shape))}"
            )

    @property
    def autoencoder(self) -> TextToImageJob:
        """The part that trains the autoencoder."""
        return dataclasses.replace(
            self, steps=self.autoencoder_steps, learning_rate=self.autoencoder_learning_rate
        )
