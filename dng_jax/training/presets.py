"""What is trained, on what, for how long: one function per preset, which names its network too.

    job = presets.diffusion("mnist-small", "label")      a preset in one of its three forms
    job.network, job.steps, job.learning_rate, ...
    presets.classifier("mnist")
    presets.text_to_image("digit-scenes")

Costs and numbers are those measured; a preset that this project has not yet run says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dng_jax.errors import choose
from dng_jax.nets.config import CONDITIONINGS, ClassifierConfig, UNetConfig
from dng_jax.stable_diffusion.sizes import Sizes
from dng_jax.training.jobs import OWN, ClassifierJob, DiffusionJob, TextToImageJob


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


def text_to_image(name: str) -> TextToImageJob:
    """The preset; InputError for an unknown name."""
    return TEXT_TO_IMAGE[choose(name, TEXT_TO_IMAGE, "preset")]()


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

    260 Mflop per image with all heads (eval.bench throughput). Training wants a GPU. Cost, on an
    H200 in bfloat16 beside 3 to 5 other trainings, of batches of 512 (at 3673b2f where nothing
    else is said); losses at the end:

    heads, one output head per class: the network pretrained/mnist-heads. 15,000 steps in 431 s,
    class .049, others .039, unconditional .047.
        python -m train.diffusion --preset mnist-small --dtype float16
    label, class-conditional with label dropout. 8,000 steps in 263 s, .114; 98.3% [97.0, 99.1] of
    600 samples of their class.
        python -m train.diffusion --preset mnist-small --conditioning label --dtype float16
    none, the paper's two networks, with half the blocks and no attention: unconditional, 4,000
    steps in 62 s, .132 (at a9b4261; 4,000 more from there, 77 s, .130), and one on the forbidden
    class, from the first, 1,200 steps in about 35 s, .056 (1) to .133 (2).
        python -m train.diffusion --preset mnist-small --conditioning none --dtype float16
        python -m train.diffusion --preset mnist-small --conditioning none --only-class 0 \\
            --init FIRST --steps 1200 --warmup 100 --learning-rate 1e-3 --dtype float16
    A network trained without the class, the gold standard of its removal, 1,500 steps in 50 s, loss
    .136 (without 3, at a9b4261):
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


def cifar10_small(conditioning: str = "label") -> DiffusionJob:
    """CIFAR-10 at 16x16 positions of 2x2 pixels, mirrored half of the time: drawn from on a CPU.

    590 Mflop per image. Training wants a GPU. Cost, on an H200 in bfloat16 beside 2 to 5 other
    trainings, at a9b4261; shares of the right class by the bundled classifier, of 300 samples of 50
    ddim steps:

    label, class-conditional with label dropout: the network pretrained/cifar10-label, which was
    trained in pieces from the trunk of the heads below (its card), the last of 55,000 steps of 512
    in 545 s alone: 76% [73, 78] of 900 samples of the right class. From nothing, 5,000 steps in
    142 s brought .112, and 56% [51, 62]; the preset's 30,000 in one piece have not been run.
        python -m train.diffusion --preset cifar10-small --dtype float16
    heads, one output head per class. 20,500 steps of 512 in 496 s, losses of class .070 and
    unconditional .067: better drawn than those of label, but of the right class in 30% [25, 35]
    only. Other heads then learned from an image where 16 references shared their target; 260 more
    steps of 64 in which they learned at every level (weight sigma^2) brought 40% [34, 47] and
    washed-out images: here the nearest image of a class says little.
        python -m train.diffusion --preset cifar10-small --conditioning heads --steps 20500 \\
            --dtype float16
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


# ---- text to image ------------------------------------------------------------------------------


def digit_scenes() -> TextToImageJob:
    """8x16 scenes of two digits by captions: "even digits", "a four", "odd digits and a three".

    Autoencoder, text encoder and U-Net of 2.0 million parameters in all, in diffusers' layout, for
    comparison with scenes whose truth is known (dng_jax.scenes). Cost: 99 minutes on 2 CPU cores
    beside other work, about 65 alone, half of them for the autoencoder, which another seed can take
    over with --autoencoder. Reconstruction rms .018, loss .463; the weights are bundled.
        python -m train.text_to_image --preset digit-scenes --dtype float16
    """
    return TextToImageJob(
        network=Sizes(),
        split="all",
        steps=4_000,
        batch_size=128,
        learning_rate=1.5e-3,
        ema_decay=0.999,
        autoencoder_steps=3_000,
    )


TEXT_TO_IMAGE: dict[str, Callable[[], TextToImageJob]] = {"digit-scenes": digit_scenes}
