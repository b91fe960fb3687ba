"""Options of a job that say where its networks come from.

--network heads         one output head per class: every prediction from one call
--network label         class-conditional with label dropout: one call per role
--network bundled       whichever of these the library has for the data set
--network FILE          whatever it was trained as (train.diffusion). One without classes takes
                        a file per forbidden class beside it (--negatives: the paper's two
                        networks), and serves the rules that ask for the forbidden classes alone
--network FOLDER        one without classes, which diffusers wrote (dng_jax.weights.diffusers)
--denoiser exact        no network: the data as a Gaussian mixture, known in closed form; of large
                        sets the first 10,000 images, or --patterns of them
"""

from __future__ import annotations

from dataclasses import dataclass

BUNDLED = "bundled"
CLASS = "{k}"  # in a name: the number of the forbidden class
DENOISERS = ("exact", "network")
FEATURES = ("classifier", "inception")


@dataclass(frozen=True)
class Source:
    """Where networks come from; see the file's docstring."""

    denoiser: str = "network"
    """network: a trained one; exact: the data as a Gaussian mixture, no network at all."""
    patterns: int | None = None
    """Images of the mixture of --denoiser exact, at least 1: the first so many of the data set.
    Default: 10,000, or all where there are fewer."""
    network: str = BUNDLED
    """bundled: the library's own for the data set, heads for digits and mnist, label for cifar10.
    heads: one output head per class; label: class-conditional with label dropout; or a model file,
    or a folder of diffusers."""
    negatives: tuple[str, ...] = ()
    """Model files, or folders of diffusers, of the forbidden classes' own networks, beside a
    --network without classes. {k} in a name stands for the number of the forbidden class."""
    retrained: str | None = None
    """Model file, or folder of diffusers, of a network trained without the forbidden class
    (train.diffusion --without-class): what the rule retrained samples. {k}: as in --negatives."""
    classifier: str | None = None
    """Model file of the classifier of the samples; default: the data set's bundled one."""
    features: str = "classifier"
    """What Frechet distance, KID, precision and recall compare. classifier: its penultimate layer
    (pixels with --denoiser exact); inception: the features of FID, which need the extra fid and
    the data set, and minutes per thousand images on a CPU."""
    inception_weights: str | None = None
    """File of the Inception weights; default: torch's download cache, or a download of 91 MB."""
