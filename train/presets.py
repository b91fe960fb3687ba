"""What is trained, on what, for how long: one function a preset.

Costs and numbers are those measured; a preset that this project has not yet run says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dng_jax.nets import CLASSIFIER_CONFIGS, CONFIGS, ClassifierConfig, UNetConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Fields of both jobs; a run is resumed only with all of them as they were.

    precision: auto is bfloat16 on GPU and TPU, float32 on CPU. examples: how many images of the
    split, from its start; None for all.
    """

    dataset: str
    steps: int
    split: str = "train"
    examples: int | None = None
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema_decay: float = 0.998
    precision: str = "auto"
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionJob(Job):
    """only_class: train on this class alone, as the paper does for a forbidden one.

    references: images of every class drawn each step for targets of low variance
    (dng_jax.stable_targets), for networks with one head a class; 0: plain targets. flip: images are
    mirrored left to right half of the time.
    """

    network: UNetConfig
    only_class: int | None = None
    references: int = 0
    flip: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierJob(Job):
    """smoothing: of the labels. momentum: of Nesterov's gradient descent; None: AdamW.

    warp: images are turned, bent and blurred by noise (dng_jax.training.augment); or else
    flip, shift, cut: mirrored left to right, moved by so many pixels, a square of this side cut out
    (flip_shift_cut there).
    """

    network: ClassifierConfig
    weight_decay: float = 1e-2
    smoothing: float = 0.05
    momentum: float | None = None
    warp: bool = True
    flip: bool = False
    shift: int = 0
    cut: int = 0


# ---- diffusion ----------------------------------------------------------------------------------


def digits() -> DiffusionJob:
    """One output head a class, 8x8 digits, all 1,797 images: the network pretrained/digits-heads.

    Cost: about 10 minutes on 2 CPU cores. Expect loss_class .19, loss_unconditional .28;
    measured leaks and shares are in the model card.
        python -m train.diffusion --preset digits --dtype float16
    """
    return DiffusionJob(network=CONFIGS["digits"], dataset="digits", split="all", steps=5_000)


def digits_label() -> DiffusionJob:
    """Class-conditional with label dropout, 8x8 digits: the network pretrained/digits-label.

    Cost: 4 to 5 minutes on 2 CPU cores. Expect a loss of about .20, 15% of labels dropped.
        python -m train.diffusion --preset digits-label --dtype float16
    """
    return dataclasses.replace(digits(), network=CONFIGS["digits-label"], steps=4_000)


def mnist_small() -> DiffusionJob:
    """MNIST at 7x7 positions of 4x4 pixels, one output head a class: the network for CPUs.

    Cost: about .2 s a step on 2 cores of an AMD EPYC with nothing else running (670 images/s). The
    bundled pretrained/mnist-heads was trained in five pieces, which its card lists; from nothing
    in one piece, with references all along, has not been run yet.
        python -m train.diffusion --preset mnist-small --cpu-devices 2 --dtype float16
    """
    return DiffusionJob(
        network=CONFIGS["mnist-small"],
        dataset="mnist",
        steps=14_000,
        learning_rate=1.5e-3,
        warmup=500,
        ema_decay=0.999,
        references=500,
    )


def mnist_small_label() -> DiffusionJob:
    """As mnist-small, class-conditional with label dropout.

    Cost: .14 to .17 s a step on 2 cores of an AMD EPYC. From nothing: not yet run; 2,500 steps from
    the trunk of mnist-heads (--init) end at a loss of .15.
        python -m train.diffusion --preset mnist-small-label --cpu-devices 2 --dtype float16
    """
    return dataclasses.replace(mnist_small(), network=CONFIGS["mnist-small-label"], references=0)


def mnist_small_plain() -> DiffusionJob:
    """As mnist-small, the paper's two networks: unconditional, and one on the forbidden class.

    Cost: .13 s a step on 2 cores of an AMD EPYC. From nothing: not yet run; 2,000 and, on the 3s,
    1,000 steps from the trunk of mnist-heads (--init) end at losses of .176 and .171.
        python -m train.diffusion --preset mnist-small-plain --cpu-devices 2
        python -m train.diffusion --preset mnist-small-plain --only-class 0 --out runs/mnist-only-0
    """
    return dataclasses.replace(mnist_small(), network=CONFIGS["mnist-small-plain"], references=0)


def mnist() -> DiffusionJob:
    """The paper's size, unconditional; with --only-class k the network of the forbidden class.

    128 channels, 25 million parameters. Cost and losses: not yet run by this project; a GPU's job.
        python -m train.diffusion --preset mnist
        python -m train.diffusion --preset mnist --only-class 0 --out runs/mnist-only-0
    """
    return DiffusionJob(
        network=CONFIGS["mnist"],
        dataset="mnist",
        steps=60_000,
        batch_size=256,
        learning_rate=2e-4,
        warmup=1_000,
        weight_decay=0.0,
        ema_decay=0.9995,
    )


def mnist_heads() -> DiffusionJob:
    """The paper's size with one output head a class.

    Cost and losses: not yet run by this project; a GPU's job.
        python -m train.diffusion --preset mnist-heads --dtype bfloat16
    """
    return dataclasses.replace(mnist(), network=CONFIGS["mnist-heads"])


def mnist_label() -> DiffusionJob:
    """The paper's size, class-conditional with label dropout.

    Cost and losses: not yet run by this project; a GPU's job.
        python -m train.diffusion --preset mnist-label --dtype bfloat16
    """
    return dataclasses.replace(mnist(), network=CONFIGS["mnist-label"])


def cifar10_small() -> DiffusionJob:
    """CIFAR-10 at 8x8 positions of 4x4 pixels, one output head a class: for CPUs; mirrored images.

    Cost: about 1 s a step on 2 cores with nothing else running (125 images/s); losses: not yet run
    by this project.
        python -m train.diffusion --preset cifar10-small --dtype float16
    """
    return DiffusionJob(
        network=CONFIGS["cifar10-small"],
        dataset="cifar10",
        steps=12_000,
        learning_rate=1e-3,
        warmup=500,
        ema_decay=0.999,
        references=200,
        flip=True,
    )


def cifar10_small_label() -> DiffusionJob:
    """As cifar10-small, class-conditional with label dropout.

    Cost: about .7 s a step on 2 cores with nothing else running (182 images/s); losses: not yet run
    by this project.
        python -m train.diffusion --preset cifar10-small-label --dtype float16
    """
    return dataclasses.replace(
        cifar10_small(), network=CONFIGS["cifar10-small-label"], references=0
    )


def cifar10_small_plain() -> DiffusionJob:
    """As cifar10-small, the paper's two networks: unconditional, and one on the forbidden class.

    Cost and losses: not yet run by this project.
        python -m train.diffusion --preset cifar10-small-plain
        python -m train.diffusion --preset cifar10-small-plain --only-class 0 --out runs/cifar10-0
    """
    return dataclasses.replace(
        cifar10_small(), network=CONFIGS["cifar10-small-plain"], references=0
    )


def cifar10() -> DiffusionJob:
    """Ho et al.'s CIFAR-10 network, unconditional; --only-class k for the forbidden class's own.

    35.7 million parameters, dropout .1, rate 2e-4 and batch 128 as in Ho et al. 2020, appendix B;
    cosine decay and a shorter average are ours. Cost and losses: not yet run by this project; a
    GPU's job.
        python -m train.diffusion --preset cifar10
        python -m train.diffusion --preset cifar10 --only-class 0 --out runs/cifar10-only-0
    """
    return DiffusionJob(
        network=CONFIGS["cifar10"],
        dataset="cifar10",
        steps=100_000,
        batch_size=128,
        learning_rate=2e-4,
        warmup=5_000,
        weight_decay=0.0,
        ema_decay=0.9995,
    )


def cifar10_heads() -> DiffusionJob:
    """Ho et al.'s CIFAR-10 network with one output head a class.

    Cost and losses: not yet run by this project; a GPU's job.
        python -m train.diffusion --preset cifar10-heads --dtype bfloat16
    """
    return dataclasses.replace(cifar10(), network=CONFIGS["cifar10-heads"])


def cifar10_label() -> DiffusionJob:
    """Ho et al.'s CIFAR-10 network, class-conditional with label dropout, 35.7 million parameters.

    Cost and losses: not yet run by this project; a GPU's job.
        python -m train.diffusion --preset cifar10-label --dtype bfloat16
    """
    return dataclasses.replace(cifar10(), network=CONFIGS["cifar10-label"])


DIFFUSION: dict[str, Callable[[], DiffusionJob]] = {
    "digits": digits,
    "digits-label": digits_label,
    "mnist-small": mnist_small,
    "mnist-small-label": mnist_small_label,
    "mnist-small-plain": mnist_small_plain,
    "mnist": mnist,
    "mnist-heads": mnist_heads,
    "mnist-label": mnist_label,
    "cifar10-small": cifar10_small,
    "cifar10-small-label": cifar10_small_label,
    "cifar10-small-plain": cifar10_small_plain,
    "cifar10": cifar10,
    "cifar10-heads": cifar10_heads,
    "cifar10-label": cifar10_label,
}


# ---- classifiers --------------------------------------------------------------------------------


def digits_classifier() -> ClassifierJob:
    """8x8 digits, the 1,442 images of "train", augmented: the network pretrained/digits-classifier.

    Cost: 2 to 3 minutes on 2 CPU cores. Expect a loss of .30 and 99.7% on "test".
        python -m train.classifier --preset digits --dtype float16
    """
    return ClassifierJob(network=CLASSIFIER_CONFIGS["digits"], dataset="digits", steps=6_000)


def mnist_classifier() -> ClassifierJob:
    """MNIST, the 60,000 images of "train", augmented.

    The network pretrained/mnist-classifier. Cost: 11 minutes on 2 cores of an AMD EPYC that had
    other work. Expect a loss of .309 and 99.7% on "test".
        python -m train.classifier --preset mnist --cpu-devices 2 --dtype float16
    """
    return ClassifierJob(network=CLASSIFIER_CONFIGS["mnist"], dataset="mnist", steps=4_000)


def fashion_mnist_classifier() -> ClassifierJob:
    """Fashion-MNIST, the 60,000 images of "train", mirrored and moved: 13 epochs.

    Cost and accuracy: not yet run by this project.
        python -m train.classifier --preset fashion_mnist --dtype float16
    """
    return dataclasses.replace(
        cifar10_classifier(),
        network=CLASSIFIER_CONFIGS["fashion_mnist"],
        dataset="fashion_mnist",
        steps=1_500,
        shift=2,
        cut=0,
    )


def cifar10_classifier() -> ClassifierJob:
    """CIFAR-10, the 50,000 images of "train", mirrored, moved, squares cut out: 20 epochs.

    Batch, momentum, decay and rate are near those of Jordan 2024, arXiv 2404.00498, and Page 2018;
    the rates there are sums over examples. Cost and accuracy: not yet run by this project.
        python -m train.classifier --preset cifar10 --dtype float16
    """
    return ClassifierJob(
        network=CLASSIFIER_CONFIGS["cifar10"],
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
        shift=4,
        cut=8,
    )


CLASSIFIER: dict[str, Callable[[], ClassifierJob]] = {
    "digits": digits_classifier,
    "mnist": mnist_classifier,
    "fashion_mnist": fashion_mnist_classifier,
    "cifar10": cifar10_classifier,
}
