r"""Images that are forbidden themselves, in the place of classes.

    distance    min_k |x - z_k|, of a sample x and the images z_k, over all elements in [-1, 1]
    inside      distance <= radius

Default radius: what holds 95% of the draws of the exact model's patterns, whose distance to the
image that they were drawn from is s times a chi of d degrees of freedom,

    radius = s sqrt( chi2_d^{-1}(.95) ),     s = .15:  1.37 at d = 64, 4.37 at d = 784

whatever the bandwidth of the set's own mixture is: a sweep of it leaves the yardstick where it is.
The copies of the exact model (--denoiser exact, images of its own data) are such draws. A network's
samples hold no such noise; what counts as a copy of an image is then for the user to say.

Default width of the kernels of safe and sgf: h = bandwidth sqrt(d), the root of the mean square
distance of the mixture's draws from their image. It follows what the set is taken to be, not the
radius by which rules are measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dng_jax import data, disk, mixtures
from dng_jax.data import picture
from dng_jax.errors import InputError, counted
from dng_jax.metrics import nearest_distances
from dng_jax.mixtures import Mixture

PRIOR = 0.01
LEAST, MOST = 1e-6, 1e6  # of bandwidths and radii: in between, nothing leaves float32
HELD = 0.95  # of the draws of the set's mixture, within the default radius
COMPONENT = 0  # class of the set in the mixture of `divided`


@dataclass(frozen=True)
class ForbiddenImages:
    """Forbidden images. Make it with `read`.

    images float32 [N, H, W, C] in [-1, 1]; bandwidth: s of their mixture; radius: within which a
    sample counts as one of them; prior: share of the model's mass; name: of the folder; repeated:
    how many files hold the same as another, and are none of the N; passed_over: names in the folder
    that were not read; absent: how many of the N are not among the patterns of the exact model.
    """

    images: np.ndarray
    bandwidth: float
    radius: float
    prior: float
    name: str
    repeated: int = 0
    passed_over: tuple[str, ...] = ()
    absent: int = 0

    @property
    def title(self) -> str:
        """In words: how many, of what folder."""
        return f"{counted(len(self.images), 'image')} of {self.name}"

    @property
    def width(self) -> float:
        """The default width of a kernel, see the file's docstring."""
        return self.bandwidth * math.sqrt(self.images[0].size)

    @property
    def sha256(self) -> str:
        """Of their shape and sorted 8-bit pixels, whatever the files are called; hexadecimal."""
        pixels = data.to_pixels(self.images)
        held = hashlib.sha256(repr(pixels.shape).encode())
        for image in sorted(image.tobytes() for image in pixels):
            held.update(image)
        return held.hexdigest()

    @property
    def absence(self) -> str:
        """How many are not among the patterns of the exact model, in words; "" where none."""
        total = len(self.images)
        return f"{self.absent} of {total} are no patterns of the exact model" if self.absent else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of results should know of how they were taken, a few words each."""
        said = []
        if self.passed_over:
            kinds = sorted({Path(name).suffix or "no ending" for name in self.passed_over})
            others = counted(len(self.passed_over), "other name")
            said.append(f"{others} in the folder passed over ({', '.join(kinds[:5])})")
        if self.repeated:
            said.append(f"{counted(self.repeated, 'file')} left out, the same as another")
        if self.absence:
            said.append(f"{self.absence}: prior {self.prior:g}")
        return tuple(said)

    def distances(self, images) -> np.ndarray:
        """Distance of each image [B, H, W, C] to the nearest forbidden one, float64 [B]."""
        return nearest_distances(images, self.images)

    def inside(self, images) -> np.ndarray:
        """Whether each image [B, H, W, C] counts as a forbidden one, bool [B]."""
        return self.distances(images) <= self.radius


def read(
    folder: str, shape: Sequence[int], bandwidth: float | None = None, radius: float | None = None
) -> ForbiddenImages:
    """The images of a folder, each once, for a model of images of this shape (H, W, C).

    InputError for what is no folder of images (dng_jax.data.load_images), another shape, and
    numbers outside LEAST to MOST.
    """
    if not folder.strip():
        raise InputError("--forbid-images names no folder: give one that holds the images")
    for name, value in (("bandwidth", bandwidth), ("radius", radius)):
        if value is not None and not LEAST <= value <= MOST:
            raise InputError(f"--{name} must lie between {LEAST:g} and {MOST:g}, got {value:g}")
    root = Path(folder).expanduser()
    pixels = data.load_images(root)
    if pixels.shape[1:] != tuple(shape):
        given, wanted = ("x".join(map(str, s)) for s in (pixels.shape[1:], shape))
        raise InputError(
            f"the images of {folder} are {given}, those of the model {wanted} (height, width,"
            " channels): resize or convert them"
        )
    first = {image.tobytes(): i for i, image in reversed(list(enumerate(pixels)))}
    once = pixels[sorted(first.values())]
    return ForbiddenImages(
        np.asarray(data.to_unit(once)),
        mixtures.PATTERN_SCALE if bandwidth is None else bandwidth,
        usual_radius(pixels[0].size) if radius is None else radius,
        PRIOR,
        root.resolve().name,
        len(pixels) - len(once),
        tuple(p.name for p in sorted(root.iterdir()) if _is_other(p)),
    )


def usual_radius(dimension: int) -> float:
    """The default radius, see the file's docstring."""
    from scipy import stats  # half a second that a command line does not need

    return float(mixtures.PATTERN_SCALE * np.sqrt(stats.chi2.ppf(HELD, dimension)))


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


def _is_other(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and (path.suffix.lower() not in picture.ENDINGS or path.is_dir())
