"""Preparing mnist, fashion_mnist and cifar10 by TensorFlow Datasets (TFDS), without TensorFlow.

The stock builders of TFDS unpack and encode with TensorFlow. These subclasses keep their names,
versions and features, so tfds.data_source(name) finds what they prepare, but read the raw files by
raw.py and hand over PNG bytes, which pass through. Measured: mnist 10 s and 27 MB, cifar10 20 s and
144 MB. Examples keep the order of the raw files.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from dng_jax.data import raw
from dng_jax.data.picture import as_picture
from dng_jax.errors import InputError

STOCK: dict[str, Any] = {
    "mnist": tfds.image_classification.MNIST,
    "fashion_mnist": tfds.image_classification.FashionMNIST,
    "cifar10": tfds.image_classification.Cifar10,
}


class _FromRaw(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What replaces the parts of a stock builder that need TensorFlow."""

    source: raw.Source
    read: raw.Read | None = None  # how to read raw files at hand; None: download them

    def _info(self):
        stock = super()._info()
        label = stock.features["label"]
        if tuple(label.names) != self.source.info.class_names:
            label.names = self.source.info.class_names
        return tfds.core.DatasetInfo(
            builder=self,
            description=stock.description,
            features=stock.features,
            supervised_keys=stock.supervised_keys,
            homepage=stock.homepage,
            citation=stock.citation,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        read = self.read or self._downloaded(dl_manager)
        return {part: self._examples(part, read) for part in self.source.splits}

    def _examples(self, part, read):
        for i, (image, label) in enumerate(zip(*raw.decode(self.source, part, read), strict=True)):
            example = {"image": _png(image), "label": int(label)}
            if "id" in self.info.features:
                example["id"] = f"{part}_{i:05d}"
            yield i, example

    def _downloaded(self, dl_manager):
        paths = dl_manager.download(
            {file: self.source.url + file for file in self.source.downloads}
        )
        if self.source.archive:
            return raw.archive_reader(self.source, Path(*paths.values()))
        return lambda file: raw.read_file(Path(paths[file]), self.source.files[file])


def prepare(source: raw.Source, root: Path, read: raw.Read | None = None) -> Path:
    """Prepares a set under root and returns its folder; there is none after a failure.

    read: the raw files where they are at hand (raw.locate), else they are downloaded to
    root/downloads. Raises InputError for a file that is not the official one, a download that
    fails, a disk that is full.
    """
    stock = STOCK[source.info.name]

    class Prepared(_FromRaw, stock, skip_registration=True):  # type: ignore[call-arg,misc,valid-type]
        name = stock.name
        url_infos = {  # noqa: RUF012
            source.url + file: UrlInfo(official.size, official.sha256, file)
            for file, official in source.downloads.items()
        }

    Prepared.source = source
    builder = Prepared(data_dir=root, file_format="array_record")
    builder.read = read
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, force_checksums_validation=True
            )
        )
    except InputError:
        raise
    except (ImportError, OSError, NonMatchingChecksumError, tfds.download.DownloadError) as error:
        # A folder of this name is whole, for it gets the name last: another process was quicker.
        if Path(builder.data_dir).is_dir():
            return Path(builder.data_dir)
        reason = " ".join(str(error).split())
        raise InputError(
            f"data set '{source.info.name}' could not be prepared in {root}: {reason}"
        ) from error
    return Path(builder.data_dir)


def _png(image) -> bytes:
    stream = io.BytesIO()
    as_picture(image).save(stream, "PNG")
    return stream.getvalue()
