r"""Images that are forbidden themselves, in the place of classes.

    distance    min_k |x - z_k|, of a sample x and the images z_k, over all elements in [-1, 1]
    inside      distance <= radius

Default radius: what holds 95% of the draws of the set's own mixture, whose distance to the image
that they were drawn from is s times a chi of d degrees of freedom,

    radius = s sqrt( chi2_d^{-1}(.95) ),        4.37 at s = .15 and d = 784

The copies of the exact model (--denoiser exact, images of its own data) are such draws. A network's
samples hold no such noise; what counts as a copy of an image is then for the user to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dng_jax import data, disk, mixtures
from dng_jax.errors import InputError
from dng_jax.metrics import nearest_distances
from dng_jax.mixtures import Mixture

BANDWIDTH = 0.15
PRIOR = 0.01
HELD = 0.95  # of the draws of the set's mixture, within the default radius
COMPONENT = 0  # class of the set in the mixture of `divided`


@dataclass(frozen=True)
class ForbiddenImages:
    """Forbidden images. Make it with `read`.

    images float32 [N, H, W, C] in [-1, 1]; bandwidth: s of their mixture; radius: within which a
    sample counts as one of them; prior: share of the model's mass; name: of the folder; absent: how
    many are not among the patterns of the exact model.
    """

    images: np.ndarray
    bandwidth: float
    radius: float
    prior: float
    name: str
    absent: int = 0

    @property
    def title(self) -> str:
        """In words: how many, of what folder."""
        return f"{len(self.images)} image{'s' * (len(self.images) > 1)} of {self.name}"

    @property
    def absence(self) -> str:
        """How many are not among the patterns of the exact model, in words; "" where none."""
        total = len(self.images)
        return f"{self.absent} of {total} are no patterns of the exact model" if self.absent else ""

    def distances(self, images) -> np.ndarray:
        """Distance of each image [B, H, W, C] to the nearest forbidden one, float64 [B]."""
        return nearest_distances(images, self.images)

    def inside(self, images) -> np.ndarray:
        """Whether each image [B, H, W, C] counts as a forbidden one, bool [B]."""
        return self.distances(images) <= self.radius


def read(
    folder: str, shape: Sequence[int], bandwidth: float | None = None, radius: float | None = None
) -> ForbiddenImages:
    """The images of a folder, for a model of images of this shape (H, W, C).

    InputError for what is no folder of images (dng_jax.data.load_images), another shape, and
    numbers that make no sense.
    """
    root = Path(folder).expanduser()
    pixels = data.load_images(root)
    if pixels.shape[1:] != tuple(shape):
        given, wanted = ("x".join(map(str, s)) for s in (pixels.shape[1:], shape))
        raise InputError(
            f"the images of {folder} are {given}, those of the model {wanted} (height, width,"
            " channels): resize or convert them"
        )
    for name, value in (("bandwidth", bandwidth), ("radius", radius)):
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"--{name} must be a finite number above 0, got {value:g}")
    s = BANDWIDTH if bandwidth is None else bandwidth
    radius = usual_radius(s, pixels[0].size) if radius is None else radius
    return ForbiddenImages(np.asarray(data.to_unit(pixels)), s, radius, PRIOR, root.resolve().name)


def usual_radius(bandwidth: float, dimension: int) -> float:
    """The default radius, see the file's docstring."""
    from scipy import stats  # half a second that a command line does not need

    return float(bandwidth * np.sqrt(stats.chi2.ppf(HELD, dimension)))


def divided(images: ForbiddenImages, x: np.ndarray) -> tuple[ForbiddenImages, Mixture | None]:
    """The set with its share of the patterns x [N, H, W, C] for a prior, and the patterns as a
    mixture of two classes, COMPONENT those of the set; no mixture, and the number of those that are
    absent, where an image is not among the patterns. InputError where no other pattern is left."""
    wanted = {image.tobytes() for image in images.images}
    chosen = np.array([row.tobytes() in wanted for row in np.asarray(x, np.float32)])
    if chosen.all():
        raise InputError(
            f"{images.title} hold all {len(x):,} patterns of the exact model: forbid fewer"
        )
    absent = len(wanted - {row.tobytes() for row in x[chosen]})
    if absent:
        return dataclasses.replace(images, absent=absent), None
    classes = np.where(chosen, COMPONENT, COMPONENT + 1)
    disk.check_memory(
        f"the exact model without {images.title}",
        mixtures.bytes_of_means(classes, x[0].size),
        "take fewer patterns with --patterns",
    )
    mixture = mixtures.patterns(x, classes)
    return dataclasses.replace(images, prior=float(chosen.mean())), mixture
