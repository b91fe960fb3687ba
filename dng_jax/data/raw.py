"""Raw files of MNIST, Fashion-MNIST and CIFAR-10: their formats, checksums and readers.

idx (LeCun), gzipped, or of MNIST bare, also where torchvision leaves them (MNIST/raw): big-endian
uint32 magic (2049 labels, 2051 images), count, for images also rows and columns; then one uint8 per
label or pixel, row by row.

CIFAR-10 "binary version" (Krizhevsky): records of 3,073 bytes: the label, then 1,024 red, 1,024
green and 1,024 blue pixels, row by row. Read from cifar-10-batches-bin/*.bin, or from the official
cifar-10-binary.tar.gz. The "python version" is a pickle, and refused.

SHA-256 and sizes: tensorflow_datasets/url_checksums/{mnist,fashion_mnist,cifar10}.txt (4.9.10). The
.bin files are those whose re-packed "python version" batches have the published MD5. Bare files are
what the official ones unpack to.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dng_jax import disk
from dng_jax.data.info import Info, parts
from dng_jax.errors import InputError

Read = Callable[[str], bytes]
GZIP = b"\x1f\x8b"


class File(NamedTuple):
    """An official file: its size in bytes and its SHA-256."""

    size: int
    sha256: str


class Source(NamedTuple):
    """A data set of raw files.

    splits: the official files of "train" and "test"; decode: their bytes, in that order -> images
    uint8 [N, H, W, C], labels uint8 [N]; url: what a name is appended to for its download;
    archive: a tar.gz, where that is what is downloaded; folder: where in it, or in a copy made by
    torchvision, the files lie; bare: the files without .gz; pickles: what is not read.
    """

    info: Info
    splits: dict[str, dict[str, File]]
    decode: Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]]
    url: str
    archive: dict[str, File] = {}  # noqa: RUF012
    folder: str = ""
    bare: dict[str, File] = {}  # noqa: RUF012
    pickles: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, File]:
        """The files of both splits."""
        return self.splits["train"] | self.splits["test"]

    @property
    def downloads(self) -> dict[str, File]:
        """The files that a download fetches."""
        return self.archive or self.files


def idx(raw: bytes) -> np.ndarray:
    """The uint8 array of an idx file, [N] or [N, rows, columns]; InputError for anything else."""
    magic = int.from_bytes(raw[:4], "big")
    if magic not in (2049, 2051):
        raise InputError(f"an idx file begins with 2049 (labels) or 2051 (images), not {magic}")
    start = 4 + 4 * (magic % 256)
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    if len(raw) != start + math.prod(shape):
        raise InputError(
            f"an idx file announces {math.prod(shape)} bytes {shape} but holds"
            f" {max(0, len(raw) - start)}"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def load(source: Source, split: str, read: Read) -> tuple[np.ndarray, np.ndarray, Info]:
    """Images uint8 [N, H, W, C], labels int32 [N] in the order of the files, and Info."""
    both = [decode(source, part, read) for part in parts(split)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*both, strict=True))
    return images, labels.astype(np.int32), source.info


def decode(source: Source, part: str, read: Read) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels uint8 of "train" or "test"."""
    return source.decode([read(file) for file in source.splits[part]])


def locate(source: Source, roots: Sequence[Path]) -> Read | None:
    """How to read the files from the first folder that holds any of them; None where none does."""
    for folder in folders(source, roots):
        if any((folder / file).is_file() for file in (*source.files, *source.bare)):
            return _folder_reader(source, folder)
        for archive in source.archive:
            if (folder / archive).is_file():
                return archive_reader(source, folder / archive)
    return None


def refuse_pickles(source: Source, roots: Sequence[Path]) -> None:
    """InputError where all that is there of a set is a pickle."""
    for folder in folders(source, roots):
        for name in source.pickles:
            if (folder / name).exists():
                raise InputError(
                    f"{folder / name} is a pickle, which can run any code when it is read: fetch"
                    f" {looked_for(source)} from {source.url}"
                )


def folders(source: Source, roots: Sequence[Path]) -> list[Path]:
    """Every folder in which the files are looked for."""
    both = [folder for root in roots for folder in (root / source.info.name, root)]
    if not source.folder:
        return both
    return [inner for folder in both for inner in (folder / source.folder, folder)]


def looked_for(source: Source) -> str:
    """What is looked for, for a message."""
    return " or ".join([*source.archive, next(iter(source.files))])


def read_file(path: Path, official: File) -> bytes:
    """Bytes of a file; InputError where it is missing, or not the official one."""
    if not path.exists():
        raise InputError(f"{path} is missing, though other files of its set are there")
    if (size := disk.check_file(path)) > 2 * official.size:
        check(path, size, "not taken", official)
    found = path.read_bytes()
    check(path, len(found), hashlib.sha256(found).hexdigest(), official)
    return found


def _folder_reader(source: Source, folder: Path) -> Read:
    def read(file: str) -> bytes:
        bare = file.removesuffix(".gz")
        if bare in source.bare and (folder / bare).is_file() and not (folder / file).exists():
            return read_file(folder / bare, source.bare[bare])
        return read_file(folder / file, source.files[file])

    return read


def archive_reader(source: Source, path: Path) -> Read:
    """How to read the files from the archive; InputError where it is not the official one."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check(path, path.stat().st_size, digest, *source.archive.values())
    members: dict[str, bytes] = {}

    def read(file: str) -> bytes:
        # Once for all files: a gzip stream cannot be entered in the middle.
        if not members:
            with tarfile.open(path, "r:gz") as archive:
                members.update(_members(archive, source))
        return members[file]

    return read


def check(path: Path, size: int, sha256: str, official: File) -> None:
    """Raises InputError that names the file and both checksums unless they agree."""
    if sha256 != official.sha256:
        raise InputError(
            f"{path} is truncated or altered, or a file of another data set: SHA-256 {sha256}"
            f" ({size} bytes), expected {official.sha256} ({official.size} bytes): fetch it again"
        )


def _members(archive: tarfile.TarFile, source: Source) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        file = member.name.removeprefix(f"{source.folder}/")
        if file in source.files and (stream := archive.extractfile(member)) is not None:
            yield file, stream.read()


def _decode_idx(files: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (
        idx(gzip.decompress(file) if file.startswith(GZIP) else file) for file in files
    )
    return images[..., None], labels


def _decode_cifar(files: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    records = np.concatenate([np.frombuffer(file, np.uint8).reshape(-1, 3073) for file in files])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]


def _idx_source(
    name: str,
    class_names: Sequence[str],
    url: str,
    folder: str,
    files: Sequence[File],
    bare: Sequence[File] = (),
) -> Source:
    splits = {
        part: {f"{stem}-images-idx3-ubyte.gz": images, f"{stem}-labels-idx1-ubyte.gz": labels}
        for part, stem, (images, labels) in (
            ("train", "train", files[:2]),
            ("test", "t10k", files[2:]),
        )
    }
    names = [file.removesuffix(".gz") for part in splits.values() for file in part]
    return Source(
        Info(name, 10, tuple(class_names), (28, 28, 1)),
        splits,
        _decode_idx,
        url,
        folder=folder,
        bare=dict(zip(names, bare, strict=False)),
    )


MNIST = _idx_source(
    "mnist",
    [str(k) for k in range(10)],
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "MNIST/raw",
    (
        File(9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        File(28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        File(1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        File(4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    (
        File(47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        File(60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        File(7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        File(10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
)

FASHION_MNIST = _idx_source(
    "fashion_mnist",
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "FashionMNIST/raw",
    (
        File(26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        File(29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        File(4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        File(5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
)

CIFAR10 = Source(
    Info(
        "cifar10",
        10,
        (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        (32, 32, 3),
    ),
    {
        "train": {
            f"data_batch_{k}.bin": File(30730000, sha256)
            for k, sha256 in enumerate(
                (
                    "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                    "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                    "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                    "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                    "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                ),
                start=1,
            )
        },
        "test": {
            "test_batch.bin": File(
                30730000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
            )
        },
    },
    _decode_cifar,
    "https://www.cs.toronto.edu/~kriz/",
    {
        "cifar-10-binary.tar.gz": File(
            170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        )
    },
    "cifar-10-batches-bin",
    pickles=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
)

SETS = {source.info.name: source for source in (MNIST, FASHION_MNIST, CIFAR10)}
