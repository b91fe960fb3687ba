"""What is trained, on what, for how long: one function per preset, which names its network too.

    job = presets.diffusion("mnist-small", "label")      a preset in one of its three forms
    job.network, job.steps, job.learning_rate, ...
    presets.classifier("mnist")

Costs and numbers are those measured; a preset that this project has not yet run says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from dng_jax.errors import InputError, choose
from dng_jax.jobs.options import at_least, option, seed
from dng_jax.jobs.own_images import PREFIX
from dng_jax.nets.config import CONDITIONINGS, ClassifierConfig, UNetConfig

PRECISIONS = ("auto", "float32", "bfloat16")
OWN = f"{PREFIX}PATH"  # the data set of presets for images of one's own, until it is named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Fields of both jobs; a run is resumed only with all of them as they were."""

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
    network: UNetConfig | ClassifierConfig

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

    def check(self) -> None:
        """As of Job; the network must have no head, and no label to be told, without images."""
        super().check()
        at_least(0, references=self.references)
        if not 0 <= self.focus < 1:
            raise InputError(f"--focus must be at least 0 and below 1, got {self.focus}")
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


def diffusion(name: str, conditioning: str | None = None) -> DiffusionJob:
    """The preset in one of its forms: "heads", "label" or "none"; None: the preset's own.

    InputError for unknown names.
    """
    make = DIFFUSION[choose(name, DIFFUSION, "preset")]
    if conditioning is None:
        return make()
    return make(choose(conditioning, CONDITIONINGS, "conditioning"))


def classifier(name: str) -> ClassifierJob:
    """The preset; InputError for an unknown name."""
    return CLASSIFIER[choose(name, CLASSIFIER, "preset")]()


# ---- diffusion ----------------------------------------------------------------------------------


def digits(conditioning: str = "heads") -> DiffusionJob:
    """8x8 digits, all 1,797 images.

    heads, one output head per class: the network pretrained/digits-heads. Cost: about 10 minutes on
    2 CPU cores. Expect loss_class .19, loss_unconditional .28; measured leaks and shares are in the
    model card.
        python -m train.diffusion --preset digits --dtype float16
    label, class-conditional with label dropout, smaller and shorter: the network
    pretrained/digits-label. Cost: 4 to 5 minutes on 2 CPU cores. Expect a loss of about .20, 15% of
    labels dropped.
        python -m train.diffusion --preset digits --conditioning label --dtype float16
    """
    small = conditioning == "label"
    network = UNetConfig(
        image_shape=(8, 8, 1),
        conditioning=conditioning,
        parameterisation="v",
        channels=32 if small else 48,
        multipliers=(1, 2),
        blocks=1,
        middle_blocks=1,
        dropout=0.1,
        patch=2,
        # Every head reads the same features: these, not the trunk, are where classes part.
        head_channels=128,
        embed_channels=128,
        resample="shuffle",
        scale_shift=True,
    )
    steps = 4_000 if small else 5_000
    return DiffusionJob(network=network, dataset="digits", split="all", steps=steps)


def mnist_small(conditioning: str = "heads") -> DiffusionJob:
    """MNIST at 14x14 positions of 2x2 pixels: drawn from on a CPU.

    260 Mflop per image with all heads (eval.bench throughput). Training wants a GPU. Cost and
    losses: not yet run by this project in this shape.

    heads, one output head per class.
        python -m train.diffusion --preset mnist-small --dtype float16
    label, class-conditional with label dropout.
        python -m train.diffusion --preset mnist-small --conditioning label --dtype float16
    none, the paper's two networks, with half the blocks: unconditional, and one on the forbidden
    class.
        python -m train.diffusion --preset mnist-small --conditioning none --dtype float16
        python -m train.diffusion --preset mnist-small --conditioning none --only-class 0 \\
            --steps 1500 --dtype float16
    A network trained without the class, the gold standard of its removal:
        python -m train.diffusion --preset mnist-small --conditioning none --without-class 0 \\
            --steps 1500 --dtype float16
    On a CPU, --preset small --dataset mnist trains a network of a quarter of the positions.
    """
    network = UNetConfig(
        image_shape=(28, 28, 1),
        conditioning=conditioning,
        parameterisation="v",
        channels=48,
        multipliers=(1, 2),
        blocks=1 if conditioning == "none" else 2,
        middle_blocks=1,
        attention_levels=() if conditioning == "none" else (1,),
        patch=2,
        head_channels=128,
        head_kernel=1,
        global_channels=192,
        global_pool=2,
        embed_channels=256,
        resample="shuffle",
        scale_shift=True,
    )
    return DiffusionJob(
        network=network,
        dataset="mnist",
        steps={"heads": 15_000, "label": 8_000, "none": 4_000}[conditioning],
        batch_size=512,
        learning_rate=1.5e-3,
        warmup=500,
        ema_decay=0.999,
        references=500 if conditioning == "heads" else 0,
        focus=0.5,
    )


def cifar10_small(conditioning: str = "heads") -> DiffusionJob:
    """CIFAR-10 at 16x16 positions of 2x2 pixels, mirrored half of the time: drawn from on a CPU.

    650 Mflop per image with all heads. Training wants a GPU: 136 steps per second (69,600 images/s)
    on an H200 in bfloat16, which had another training beside it, with one block per level.

    heads, one output head per class.
        python -m train.diffusion --preset cifar10-small --dtype float16
    label, class-conditional with label dropout.
        python -m train.diffusion --preset cifar10-small --conditioning label --dtype float16
    none, the paper's two networks: unconditional, and one on the forbidden class. Cost and losses:
    not yet run by this project.
        python -m train.diffusion --preset cifar10-small --conditioning none
        python -m train.diffusion --preset cifar10-small --conditioning none --only-class 0
    """
    network = UNetConfig(
        image_shape=(32, 32, 3),
        conditioning=conditioning,
        parameterisation="v",
        channels=64,
        multipliers=(1, 2),
        blocks=2,
        middle_blocks=2,
        attention_levels=(1,),
        patch=2,
        head_channels=128,
        head_kernel=1,
        global_channels=256,
        global_pool=4,
        embed_channels=256,
        resample="shuffle",
        scale_shift=True,
    )
    return DiffusionJob(
        network=network,
        dataset="cifar10",
        steps=30_000,
        batch_size=512,
        learning_rate=1e-3,
        warmup=500,
        ema_decay=0.9995,
        references=500 if conditioning == "heads" else 0,
        flip=True,
        focus=0.5,
    )


def small(conditioning: str = "heads") -> DiffusionJob:
    """Your own images, of sides that divide by 4, or MNIST: give --dataset folder:PATH, or mnist.

    At a quarter of their height and width, for CPUs. The classes and the shape of the images are
    those that the folder has. heads, one output head per class; label, class-conditional with label
    dropout; none, the paper's two networks. Cost: 7 minutes for heads and 16x16 images on 2 cores
    of an AMD EPYC that had other work (630 images/s); docs/guides/own_images.md shows the result.
        python -m train.diffusion --preset small --dataset folder:PATH --dtype float16
    """
    network = UNetConfig(
        image_shape=(16, 16, 3),
        num_classes=2,
        conditioning=conditioning,
        parameterisation="v",
        channels=64,
        multipliers=(1,),
        blocks=1,
        middle_blocks=2,
        patch=4,
        head_channels=128,
        head_kernel=1,
        global_channels=256,
        embed_channels=128,
        resample="shuffle",
        scale_shift=True,
    )
    return DiffusionJob(
        network=network,
        dataset=OWN,
        steps=2_000,
        learning_rate=1.5e-3,
        references=100 if conditioning == "heads" else 0,
    )


def mnist(conditioning: str = "none") -> DiffusionJob:
    """The size of Ho et al. 2020 and Koulischer et al. 2025, to which the published numbers belong.

    128 channels, 25 million parameters.
    none: unconditional; with --only-class k the network of the forbidden class. heads: one output
    head per class. label: class-conditional with label dropout.
    Cost and losses: not yet run by this project; a GPU's job.
        python -m train.diffusion --preset mnist
        python -m train.diffusion --preset mnist --only-class 0
        python -m train.diffusion --preset mnist --conditioning heads --dtype bfloat16
    """
    network = UNetConfig(
        (28, 28, 1), 10, conditioning, channels=128, multipliers=(1, 2, 2), embed_channels=512
    )
    return DiffusionJob(
        network=network,
        dataset="mnist",
        steps=60_000,
        batch_size=256,
        learning_rate=2e-4,
        warmup=1_000,
        weight_decay=0.0,
        ema_decay=0.9995,
    )


def cifar10(conditioning: str = "none") -> DiffusionJob:
    """Ho et al.'s CIFAR-10 network, 35.7 million parameters.

    none: unconditional; --only-class k for the forbidden class's own. heads: one output head per
    class. label: class-conditional with label dropout.
    Dropout .1, rate 2e-4 and batch 128 as in Ho et al. 2020, appendix B; cosine decay and a shorter
    average are ours. Cost and losses: not yet run by this project; a GPU's job.
        python -m train.diffusion --preset cifar10
        python -m train.diffusion --preset cifar10 --only-class 0
        python -m train.diffusion --preset cifar10 --conditioning label --dtype bfloat16
    With --network.embedding timestep it is google/ddpm-cifar10-32, from which --init can start it
    (docs/guides/paper_cifar10.md).
    """
    network = UNetConfig(
        (32, 32, 3),
        10,
        conditioning,
        channels=128,
        multipliers=(1, 2, 2, 2),
        attention_levels=(1,),
        dropout=0.1,
        embed_channels=512,
    )
    return DiffusionJob(
        network=network,
        dataset="cifar10",
        steps=100_000,
        batch_size=128,
        learning_rate=2e-4,
        warmup=5_000,
        weight_decay=0.0,
        ema_decay=0.9995,
    )


DIFFUSION: dict[str, Callable[..., DiffusionJob]] = {
    "digits": digits,
    "small": small,
    "mnist-small": mnist_small,
    "cifar10-small": cifar10_small,
    "mnist": mnist,
    "cifar10": cifar10,
}


# ---- classifiers --------------------------------------------------------------------------------


def small_classifier() -> ClassifierJob:
    """Your own images, moved by up to 2 pixels: give --dataset folder:PATH.

    Cost: 1 to 2 minutes for 16x16 images on 2 cores of an AMD EPYC that had other work.
        python -m train.classifier --preset small --dataset folder:PATH --dtype float16
    """
    network = ClassifierConfig((16, 16, 3), 2, widths=(32, 64))
    return ClassifierJob(
        network=network, dataset=OWN, steps=1_000, batch_size=64, warp=False, shift=2
    )


def digits_classifier() -> ClassifierJob:
    """8x8 digits, the 1,442 images of "train", augmented: the network pretrained/digits-classifier.

    Cost: 2 to 3 minutes on 2 CPU cores. Expect a loss of .30 and 99.7% on "test".
        python -m train.classifier --preset digits --dtype float16
    """
    return ClassifierJob(network=ClassifierConfig((8, 8, 1)), dataset="digits", steps=6_000)


def mnist_classifier() -> ClassifierJob:
    """MNIST, the 60,000 images of "train", augmented.

    The network pretrained/mnist-classifier. Cost: 11 minutes on 2 cores of an AMD EPYC that had
    other work. Expect a loss of .309 and 99.7% on "test".
        python -m train.classifier --preset mnist --cpu-devices 2 --dtype float16
    """
    network = ClassifierConfig((28, 28, 1), 10, widths=(32, 64, 128), features=128, dropout=0.4)
    return ClassifierJob(network=network, dataset="mnist", steps=4_000)


def fashion_mnist_classifier() -> ClassifierJob:
    """Fashion-MNIST, the 60,000 images of "train", mirrored and moved: 13 epochs.

    Cost and accuracy: not yet run by this project.
        python -m train.classifier --preset fashion_mnist --dtype float16
    """
    network = ClassifierConfig(
        (28, 28, 1), 10, widths=(64, 128), features=128, dropout=0.0, norm="batch"
    )
    return dataclasses.replace(
        cifar10_classifier(),
        network=network,
        dataset="fashion_mnist",
        steps=1_500,
    )


def cifar10_classifier() -> ClassifierJob:
    """CIFAR-10, the 50,000 images of "train", mirrored and moved: 20 epochs.

    The network pretrained/cifar10-classifier. Batch, momentum, decay and rate are near those of
    Jordan 2024, arXiv 2404.00498, and Page 2018; the rates there are of sums over examples. Cost:
    half a minute on a GPU; 154 images/s on 2 cores of an AMD EPYC, hence 1.9 hours. Expect a loss
    of .56 and 93.1% on "test". With --shift 4 --cut 8, 92.8 and 93.0% (two seeds): in 20 epochs
    cutting squares out costs more than it teaches.
        python -m train.classifier --preset cifar10 --dtype float16
    """
    network = ClassifierConfig(
        (32, 32, 3), 10, widths=(64, 256), features=256, dropout=0.0, norm="batch"
    )
    return ClassifierJob(
        network=network,
        dataset="cifar10",
        steps=2_000,
        batch_size=512,
        learning_rate=0.5,
        warmup=400,
        weight_decay=1e-3,
        clip=100.0,
        ema_decay=0.99,
        smoothing=0.1,
        momentum=0.9,
        warp=False,
        flip=True,
        shift=2,
    )


CLASSIFIER: dict[str, Callable[[], ClassifierJob]] = {
    "digits": digits_classifier,
    "small": small_classifier,
    "mnist": mnist_classifier,
    "fashion_mnist": fashion_mnist_classifier,
    "cifar10": cifar10_classifier,
}
