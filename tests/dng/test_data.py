"""Data sets: values, splits, where files are looked for, and what is said when they are not right.

Tiny copies of MNIST and CIFAR-10 are written in the official formats, under a table of checksums of
their own; the real ones are read where DNG_JAX_DATA names them.
"""

import functools
import gzip
import hashlib
import http.server
import io
import os
import struct
import sys
import tarfile
import threading
import time
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dng_jax import data, nets
from dng_jax.data import network, prepared, raw, search
from dng_jax.errors import InputError, MissingDataError

TRAIN, TEST = 30, 12
REAL = pytest.mark.skipif(search.VARIABLE not in os.environ, reason="DNG_JAX_DATA is not set")


def official(content):
    return raw.File(len(content), hashlib.sha256(content).hexdigest())


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data set is found but under tmp_path."""
    monkeypatch.delenv(search.VARIABLE, raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path


@pytest.fixture
def mnist(nowhere, monkeypatch):
    """Files of a tiny MNIST, its images and its labels by split."""
    rng = np.random.default_rng(0)
    files, splits, truth = {}, {}, {}
    for part, stem, count in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count, np.uint8)
        contents = {
            f"{stem}-images-idx3-ubyte.gz": struct.pack(">4I", 2051, count, 28, 28)
            + images.tobytes(),
            f"{stem}-labels-idx1-ubyte.gz": struct.pack(">2I", 2049, count) + labels.tobytes(),
        }
        packed = {name: gzip.compress(content) for name, content in contents.items()}
        files |= packed
        splits[part] = {name: official(content) for name, content in packed.items()}
        truth[part] = images[..., None], labels
    bare = {name[:-3]: official(gzip.decompress(content)) for name, content in files.items()}
    monkeypatch.setitem(raw.SETS, "mnist", raw.MNIST._replace(splits=splits, bare=bare))
    return files, truth


@pytest.fixture
def cifar10(nowhere, monkeypatch):
    """Files of a tiny CIFAR-10, its images and its labels by split."""
    rng = np.random.default_rng(1)
    files, splits, truth = {}, {}, {}
    for part, names in (("train", raw.CIFAR10.splits["train"]), ("test", ("test_batch.bin",))):
        images = rng.integers(0, 256, (6 * len(names), 32, 32, 3), np.uint8)
        labels = rng.integers(0, 10, len(images), np.uint8)
        packed = {}
        for k, name in enumerate(names):
            packed[name] = b"".join(
                bytes([label]) + image[..., 0].tobytes() + image[..., 1].tobytes()
                + image[..., 2].tobytes()
                for image, label in zip(
                    images[6 * k : 6 * k + 6], labels[6 * k : 6 * k + 6], strict=True
                )
            )  # fmt: skip
        files |= packed
        splits[part] = {name: official(content) for name, content in packed.items()}
        truth[part] = images, labels
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed = {"cifar-10-binary.tar.gz": stream.getvalue()}
    archive = {name: official(content) for name, content in packed.items()}
    monkeypatch.setitem(raw.SETS, "cifar10", raw.CIFAR10._replace(splits=splits, archive=archive))
    return files, packed, truth


def agree(loaded, truth):
    """Whether a split has the images and the labels, in this order."""
    images, labels, info = loaded
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert images.shape[1:] == info.shape
    np.testing.assert_array_equal(images, truth[0])
    np.testing.assert_array_equal(labels, truth[1])


# --------------------------------------------------------------------------------------- digits
def test_digits_are_the_same_where_the_file_of_the_source_has_moved(monkeypatch):
    here, _, _ = data.load("digits", "all")
    monkeypatch.setattr(data.digits.importlib.util, "find_spec", lambda name: None)
    moved, _, _ = data.load("digits", "all")
    np.testing.assert_array_equal(here, moved)


def test_digits_are_the_source_rescaled():
    images, labels, info = data.load("digits", "all")
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert (info.name, info.num_classes, info.shape) == ("digits", 10, (8, 8, 1))
    assert info.class_names[7] == "7"
    source = load_digits()
    np.testing.assert_allclose(images[..., 0] * (16 / 255), source.images, atol=0.04)
    np.testing.assert_array_equal(labels, source.target)
    assert images.min() == 0
    assert images.max() == 255


def test_split_is_stratified_disjoint_and_complete():
    everything, all_labels, _ = data.load("digits", "all")
    train, _, _ = data.load("digits", "train")
    test, test_labels, _ = data.load("digits", "test")
    assert len(train) + len(test) == len(everything)
    for k in range(10):
        share = np.sum(test_labels == k) / np.sum(all_labels == k)
        assert 0.19 < share <= 0.2
    both = np.concatenate([train, test]).reshape(len(everything), -1)
    order = lambda a: a[np.lexsort(a.T)]  # noqa: E731
    np.testing.assert_array_equal(order(both), order(everything.reshape(len(everything), -1)))
    # The fifth zero of the source is the first zero of the test split.
    zeros = np.flatnonzero(all_labels == 0)
    np.testing.assert_array_equal(test[test_labels == 0][0], everything[zeros[4]])


def test_to_unit_maps_the_ends_exactly():
    x = data.to_unit(np.array([0, 255, 51], np.uint8))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [-1, 1, -0.6], atol=1e-7)


@pytest.mark.parametrize(
    "form", [np.int32, np.int64, np.uint16, lambda pixels: pixels, jnp.asarray]
)
def test_to_unit_scales_integers_of_every_kind_alike(form):
    x = data.to_unit(form([0, 255, 51]))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [-1, 1, -0.6], atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_to_unit_leaves_floats_as_they_are(dtype):
    x = np.array([-1, 0.5, 1], dtype)
    assert data.to_unit(x) is x


def test_a_network_of_other_images_or_classes_does_not_fit():
    info = data.describe("digits")
    data.must_fit(nets.ClassifierConfig((8, 8, 1)), info, "a")
    for shape, classes in (((8, 8, 3), 10), ((8, 8, 1), 3)):
        with pytest.raises(
            InputError, match=rf"^a is made for {classes} .*, digits has 10 of 8x8x1"
        ):
            data.must_fit(nets.ClassifierConfig(shape, classes), info, "a")


# --------------------------------------------------------------------------- the real data sets


@REAL
def test_mnist_is_the_published_one():
    images, labels, info = data.load("mnist", "train", download=False)
    assert info == data.Info("mnist", 10, tuple("0123456789"), (28, 28, 1))
    assert images.shape == (60000, 28, 28, 1)
    # Mean and deviation of the training pixels: the .1307 and .3081 of every MNIST script.
    assert round(images.mean() / 255, 4) == 0.1307
    assert round(images.std() / 255, 4) == 0.3081
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(labels).tolist() == counts
    test, test_labels, _ = data.load("mnist", "test", download=False)
    assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    everything, all_labels, _ = data.load("mnist", download=False)
    np.testing.assert_array_equal(everything[60000:], test)
    np.testing.assert_array_equal(all_labels[:60000], labels)


@REAL
def test_cifar10_is_the_published_one():
    images, labels, info = data.load("cifar10", "train", download=False)
    assert images.shape == (50000, 32, 32, 3)
    # Channel means in the order red, green, blue, as everybody normalises by them.
    np.testing.assert_allclose(images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert np.bincount(labels).tolist() == [5000] * 10
    assert labels[:5].tolist() == [6, 9, 9, 4, 1]
    own = Path(os.environ[search.VARIABLE])
    meta = own / "cifar10" / "cifar-10-batches-bin" / "batches.meta.txt"
    assert info.class_names == tuple(meta.read_text().split())
    # Neighbouring pixels agree along both axes: rows, columns and channels are where they belong.
    some = images[:500].astype(float)
    for axis in (1, 2):
        assert np.abs(np.diff(some, axis=axis)).mean() < 0.4 * some.std()


# ------------------------------------------------------------------------------------ raw files


def test_a_table_of_checksums_is_that_of_tensorflow_datasets():
    tfds = pytest.importorskip("tensorflow_datasets")
    for name in ("mnist", "fashion_mnist", "cifar10"):
        source = raw.SETS[name]
        published = tfds.builder_cls(name).url_infos
        ours = {source.url + file: item for file, item in source.downloads.items()}
        assert ours.keys() == published.keys()
        for url, item in ours.items():
            assert item == (published[url].size, published[url].checksum)


@pytest.mark.parametrize("folder", ["", "mnist"])
def test_mnist_is_read_from_idx_files(mnist, nowhere, monkeypatch, folder):
    files, truth = mnist
    write(nowhere / "own" / folder, files)
    for part in ("train", "test"):
        agree(data.load("mnist", part, data_dir=nowhere / "own"), truth[part])
    monkeypatch.setenv(search.VARIABLE, str(nowhere / "own"))
    whole = [np.concatenate(pair) for pair in zip(truth["train"], truth["test"], strict=True)]
    agree(data.load("mnist"), whole)


@pytest.mark.parametrize("bare", [False, True])
def test_mnist_is_read_as_torchvision_leaves_it(mnist, nowhere, bare):
    files, truth = mnist
    unpacked = {name[:-3]: gzip.decompress(content) for name, content in files.items()}
    write(nowhere / "MNIST" / "raw", unpacked if bare else files)
    agree(data.load("mnist", "test", data_dir=nowhere), truth["test"])
    if bare:
        agree(data.load("mnist", "train", data_dir=nowhere / "MNIST" / "raw"), truth["train"])
        write(nowhere / "MNIST" / "raw", {"t10k-labels-idx1-ubyte": bytes(20)})
        with pytest.raises(InputError, match="t10k-labels-idx1-ubyte is truncated or altered"):
            data.load("mnist", "test", data_dir=nowhere)


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_a_pickle_is_refused_with_what_to_fetch_instead(nowhere, name):
    write(nowhere / "cifar10", {name: b""})
    with pytest.raises(InputError, match=f"{name} is a pickle.* fetch cifar-10-binary.tar.gz"):
        data.load("cifar10", data_dir=nowhere)


@REAL
def test_bare_files_are_what_the_official_ones_unpack_to():
    read = raw.locate(raw.MNIST, search.paths(None).raw)
    content = gzip.decompress(read("t10k-images-idx3-ubyte.gz"))
    assert official(content) == raw.MNIST.bare["t10k-images-idx3-ubyte"]


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
def test_cifar10_is_read_from_its_binary_files(cifar10, nowhere, folder):
    files, _, truth = cifar10
    write(nowhere / folder, files)
    for part in ("train", "test"):
        agree(data.load("cifar10", part, data_dir=nowhere), truth[part])


def test_cifar10_is_read_from_its_archive(cifar10, nowhere):
    _, packed, truth = cifar10
    write(nowhere / "cifar10", packed)
    for part in ("train", "test"):
        agree(data.load("cifar10", part, data_dir=nowhere), truth[part])


def test_the_first_place_that_has_a_set_is_taken(mnist, cifar10, nowhere, monkeypatch):
    write(nowhere / "other" / "mnist", mnist[0])
    write(nowhere / "own" / "cifar10", cifar10[0])
    monkeypatch.setenv(search.VARIABLE, str(nowhere / "own"))
    agree(data.load("cifar10", "test", download=False), cifar10[2]["test"])
    agree(data.load("mnist", "test", data_dir=nowhere / "other", download=False), mnist[1]["test"])
    with pytest.raises(InputError, match="data set 'mnist' not found"):
        data.load("mnist", "test", download=False)
    write(nowhere / "own" / "mnist", dict.fromkeys(mnist[0], b"another"))
    with pytest.raises(InputError, match=r"own/mnist/t10k-images-idx3-ubyte.gz is truncated"):
        data.load("mnist", "test", download=False)


def test_a_folder_beside_the_checkout_is_no_place_to_look(nowhere):
    assert search.paths(None) == ((), (nowhere / "tfds",))


def truncate(content):
    return content[:-7]


def alter(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [truncate, alter])
@pytest.mark.parametrize("victim", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_harmed_file_is_named_with_both_checksums(mnist, nowhere, harm, victim):
    files, truth = mnist
    harmed = harm(files[victim])
    write(nowhere / "mnist", files | {victim: harmed})
    before = listing(nowhere)
    with pytest.raises(InputError) as error:
        data.load("mnist", "test", data_dir=nowhere)
    for part in (
        str(nowhere / "mnist" / victim),
        hashlib.sha256(harmed).hexdigest(),
        hashlib.sha256(files[victim]).hexdigest(),
        f"({len(harmed)} bytes)",
    ):
        assert part in str(error.value)
    assert listing(nowhere) == before
    agree(data.load("mnist", "train", data_dir=nowhere), truth["train"])


@pytest.mark.parametrize("harm", [truncate, alter])
def test_a_harmed_cifar10_is_named(cifar10, nowhere, harm):
    files, packed, _ = cifar10
    name, content = next(iter(packed.items()))
    write(nowhere, {name: harm(content)})
    with pytest.raises(InputError, match=f"{name} is truncated or altered.*expected"):
        data.load("cifar10", "test", data_dir=nowhere)
    write(nowhere, files | {"data_batch_3.bin": harm(files["data_batch_3.bin"])})
    with pytest.raises(InputError, match=r"data_batch_3.bin is truncated or altered.*expected"):
        data.load("cifar10", "train", data_dir=nowhere)


def test_a_missing_file_of_a_set_is_named(mnist, nowhere):
    files, _ = mnist
    write(nowhere, {name: files[name] for name in files if name != "train-labels-idx1-ubyte.gz"})
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte.gz is missing"):
        data.load("mnist", "train", data_dir=nowhere)


def test_idx_is_refused_with_another_magic_number_or_length():
    good = struct.pack(">4I", 2051, 2, 3, 1) + bytes(range(6))
    np.testing.assert_array_equal(raw.idx(good)[1, :, 0], [3, 4, 5])
    with pytest.raises(InputError, match="not 2052"):
        raw.idx(struct.pack(">I", 2052) + good[4:])
    with pytest.raises(InputError, match=r"announces 6 bytes \(2, 3, 1\) but holds 5"):
        raw.idx(good[:-1])


# ------------------------------------------------------------------------------ nothing is there


def test_a_missing_set_is_one_sentence_at_once(nowhere, monkeypatch):
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        data.load("mnist", "test", download=False)
    assert time.perf_counter() - start < 1
    for part in ("mnist", "train-images-idx3-ubyte.gz", str(nowhere / "tfds"), search.VARIABLE):
        assert part in str(error.value)
    assert listing(nowhere) == []
    monkeypatch.setenv(search.VARIABLE, str(nowhere))
    with pytest.raises(InputError, match=f"no train-images-idx3-ubyte.gz in {nowhere}/mnist"):
        data.load("mnist", "test", download=False)


def test_where_nothing_can_download_the_message_says_what_to_install(nowhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # as if it were not installed
    said = r"data set 'mnist' not found: .* --data-dir, or pip install 'dng-jax\[data\]'"
    with pytest.raises(MissingDataError, match=said):
        data.load("mnist")
    said = r"unknown data set 'mnits': .*\(pip install 'dng-jax\[data\]'\).* --data-dir"
    with pytest.raises(InputError, match=said):
        data.load("mnits")
    with pytest.raises(InputError, match=r"pip install 'dng-jax\[data\]'"):
        prepared.tfds()


def test_without_a_network_the_download_ends_at_once(nowhere, monkeypatch):
    # Nobody listens on port 9 of this machine.
    away = raw.FASHION_MNIST._replace(url="http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(raw.SETS, "fashion_mnist", away)
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"go online \(127.0.0.1:9 cannot be reached: .*refused"):
        data.load("fashion_mnist")
    assert time.perf_counter() - start < 1
    assert listing(nowhere) == []


def test_unknown_names_are_refused_with_a_suggestion(nowhere, monkeypatch):
    with pytest.raises(InputError, match="did you mean 'digits'"):
        data.load("digit")
    with pytest.raises(InputError, match=r"did you mean 'fashion_mnist'.*array_record"):
        data.load("fashion-mnist")
    for strange in ("", "../mnist", "a b", "huggingface:mnist"):
        with pytest.raises(InputError, match=f"unknown data set '{strange}'"):
            data.load(strange)
    with pytest.raises(InputError, match="choose from train, test, all"):
        data.load("digits", "validation")
    with pytest.raises(InputError, match=r"data_dir names .*absent, which is no folder"):
        data.load("mnist", data_dir=nowhere / "absent")
    monkeypatch.setenv(search.VARIABLE, str(nowhere / "absent"))
    with pytest.raises(InputError, match=f"{search.VARIABLE} names .*absent"):
        data.load("mnist")


# --------------------------------------------------------------------------- TensorFlow Datasets


@pytest.fixture(scope="module")
def tfds():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def builders(tfds):
    from dng_jax.data import builders

    return builders


def test_prepared_mnist_equals_the_raw_files(mnist, nowhere, builders, tfds, monkeypatch):
    files, truth = mnist
    write(nowhere / "raw", files)
    source = raw.SETS["mnist"]
    root = nowhere / "tfds"
    folder = builders.prepare(source, root, raw.locate(source, [nowhere / "raw"]))
    assert folder == root / "mnist" / "3.0.1"
    for part in ("train", "test"):
        agree(data.load("mnist", part, download=False), truth[part])
    assert "tensorflow" not in sys.modules
    # What lies there is a data set for everybody: the stock builder reads it.
    stock = tfds.data_source("mnist", split="test", data_dir=root, download=False)
    assert [example["label"] for example in stock] == truth["test"][1].tolist()
    np.testing.assert_array_equal(stock[5]["image"], truth["test"][0][5])
    # The second load decodes nothing, and a prepared set that changed is decoded again.
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_decode", None)
        agree(data.load("mnist", "test", download=False), truth["test"])
        agree(data.load("mnist:3.0.1", "test"), truth["test"])
    caches = list(folder.glob("dng_jax-test-*"))
    (folder / "dataset_info.json").touch()
    agree(data.load("mnist", "test", download=False), truth["test"])
    assert len(list(folder.glob("dng_jax-test-*"))) == 1
    assert list(folder.glob("dng_jax-test-*")) != caches


def test_prepared_cifar10_equals_the_raw_files(cifar10, nowhere, builders, tfds):
    files, _, truth = cifar10
    write(nowhere / "raw", files)
    source = raw.SETS["cifar10"]
    builders.prepare(source, nowhere / "tfds", raw.locate(source, [nowhere / "raw"]))
    agree(data.load("cifar10", "train", download=False), truth["train"])
    loaded = data.load("cifar10", "test", download=False)
    agree(loaded, truth["test"])
    assert loaded[2] == raw.CIFAR10.info
    stock = tfds.data_source("cifar10", split="train", data_dir=nowhere / "tfds", download=False)
    assert stock[7]["id"] == b"train_00007"


def test_a_harmed_cache_is_made_anew(mnist, nowhere, builders):
    files, truth = mnist
    write(nowhere / "raw", files)
    source = raw.SETS["mnist"]
    folder = builders.prepare(source, nowhere / "tfds", raw.locate(source, [nowhere / "raw"]))
    data.load("mnist", "test", download=False)
    (cache,) = folder.glob("dng_jax-test-*")
    whole = cache.read_bytes()
    for harmed in (truncate(whole), alter(whole), b""):
        cache.write_bytes(harmed)
        agree(data.load("mnist", "test", download=False), truth["test"])
        assert cache.stat().st_size == len(whole)


def test_a_cache_is_written_whole_or_not_at_all(mnist, nowhere, builders, monkeypatch):
    files, truth = mnist
    write(nowhere / "raw", files)
    source = raw.SETS["mnist"]
    folder = builders.prepare(source, nowhere / "tfds", raw.locate(source, [nowhere / "raw"]))
    before = listing(folder)

    def full(file, **arrays):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prepared.np, "savez", full)
        agree(data.load("mnist", "test", download=False), truth["test"])
    assert listing(folder) == before


def test_harmed_prepared_data_is_named(mnist, nowhere, builders):
    files, _ = mnist
    write(nowhere / "raw", files)
    source = raw.SETS["mnist"]
    folder = builders.prepare(source, nowhere / "tfds", raw.locate(source, [nowhere / "raw"]))
    (records,) = folder.glob("mnist-test.array_record*")
    whole = records.read_bytes()
    for harmed in (whole[: len(whole) // 2], alter(whole), b""):
        records.write_bytes(harmed)
        with pytest.raises(InputError, match=r"split 'test' in .*tfds/mnist/3.0.1 cannot be read"):
            data.load("mnist", "test", download=False)
        assert not list(folder.glob(".*"))
        assert not list(folder.glob("dng_jax-*"))
    (folder / "dataset_info.json").write_bytes(b"{")
    with pytest.raises(InputError, match=r"tfds/mnist cannot be read .*prepare it again"):
        data.load("mnist", "test", download=False)


def test_a_preparation_that_fails_leaves_no_data_set(mnist, nowhere, builders):
    files, _ = mnist
    victim = "t10k-labels-idx1-ubyte.gz"
    write(nowhere / "raw", files | {victim: alter(files[victim])})
    source = raw.SETS["mnist"]
    with pytest.raises(InputError, match=f"{victim} is truncated or altered"):
        builders.prepare(source, nowhere / "tfds", raw.locate(source, [nowhere / "raw"]))
    assert [name for name in listing(nowhere / "tfds") if "3.0.1" in name] == []
    with pytest.raises(InputError, match="data set 'mnist' not found"):
        data.load("mnist", download=False)


def test_of_two_processes_that_prepare_a_set_the_second_finds_it_there(mnist, nowhere, builders):
    files, truth = mnist
    write(nowhere / "raw", files)
    source, root = raw.SETS["mnist"], nowhere / "tfds"
    read = raw.locate(source, [nowhere / "raw"])
    others = []

    def slow(file):
        if not others:
            others.append(builders.prepare(source, root, read))
        return read(file)

    assert [builders.prepare(source, root, slow)] == others
    agree(data.load("mnist", "test", download=False), truth["test"])
    assert not [name for name in listing(root) if "incomplete" in name]


@pytest.fixture
def server(nowhere, monkeypatch):
    """The address of a web server for tmp_path / "web"."""
    (nowhere / "web").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=nowhere / "web")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_set_is_downloaded_prepared_and_loaded(
    request, nowhere, server, monkeypatch, builders, name
):
    *_, files, truth = request.getfixturevalue(name)
    monkeypatch.setitem(raw.SETS, name, raw.SETS[name]._replace(url=server))
    with pytest.raises(InputError, match=r"go online .*answers 404"):
        data.load(name, "test")
    victim = next(iter(files))
    write(nowhere / "web", files | {victim: alter(files[victim])})
    with pytest.raises(InputError, match=f"'{name}' could not be prepared .*{victim}.*checksum"):
        data.load(name, "test")
    write(nowhere / "web", files)
    agree(data.load(name, "test"), truth["test"])
    for path in (nowhere / "web").iterdir():
        path.unlink()
    agree(data.load(name, "train"), truth["train"])


@pytest.fixture
def prepare(tfds, nowhere):
    """prepare(name, examples by split, image feature, label feature) -> folder of a TFDS set."""

    def make(set_name, splits, image, label):
        class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            name = set_name
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict({"picture": image, "kind": label})
                return tfds.core.DatasetInfo(
                    builder=self, features=features, disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {part: self._generate_examples(part) for part in splits}

            def _generate_examples(self, part):
                for i, (pixels, kind) in enumerate(splits[part]):
                    yield i, {"picture": pixels, "kind": kind}

        builder = Small(data_dir=nowhere / "tfds", file_format="array_record")
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        return builder

    return make


def png(pixels):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_any_prepared_classification_is_loaded(prepare, tfds):
    pixels = np.random.default_rng(2).integers(0, 256, (9, 5, 4, 3), np.uint8)
    kinds = [0, 2, 1, 1, 0, 2, 2, 1, 0]
    examples = [(png(image), kind) for image, kind in zip(pixels, kinds, strict=True)]
    names = ["cat", "dog", "owl"]
    image, label = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(names=names)
    prepare("pets", {"train": examples[:6], "validation": examples[6:]}, image, label)
    loaded = data.load("pets", "train")
    agree(loaded, (pixels[:6], kinds[:6]))
    assert loaded[2] == data.Info("pets", 3, ("cat", "dog", "owl"), (5, 4, 3))
    agree(data.load("pets"), (pixels[:6], kinds[:6]))
    with pytest.raises(InputError, match="'pets' has no split 'test', only train, validation"):
        data.load("pets", "test")
    with pytest.raises(InputError, match="did you mean 'pets'"):
        data.load("petz")
    prepare("pets2", {"train": examples[:6], "test": examples[6:]}, image, label)
    agree(data.load("pets2"), (pixels, kinds))


def test_what_is_no_classification_of_equal_images_is_refused(prepare, tfds):
    rng = np.random.default_rng(3)
    small, large = (rng.integers(0, 256, (size, 4, 3), np.uint8) for size in (4, 5))
    image, label = tfds.features.Image(), tfds.features.ClassLabel(num_classes=2)
    prepare("sizes", {"train": [(png(small), 0), (png(large), 1)]}, image, label)
    with pytest.raises(InputError, match=r"several sizes, \(4, 4, 3\) and \(5, 4, 3\)"):
        data.load("sizes", "train")
    prepare("parts", {"train": [(png(small), 0)], "test": [(png(large), 1)]}, image, label)
    with pytest.raises(InputError, match="several sizes"):
        data.load("parts")
    deep = tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16)
    prepare("deep", {"train": [(png(small[..., 0].astype(np.uint16)), 0)]}, deep, label)
    with pytest.raises(InputError, match="'deep' has uint16 images"):
        data.load("deep", "train")
    prepare("blind", {"train": [(png(small), "cat")]}, image, tfds.features.Text())
    with pytest.raises(InputError, match="the images picture and the class labels none"):
        data.load("blind", "train")
    prepare("hidden", {"test": [(png(small), -1)]}, image, label)
    with pytest.raises(InputError, match="'hidden' has no labels in its split 'test'"):
        data.load("hidden", "test")


def test_data_that_only_tensorflow_reads_is_refused(prepare, tfds):
    pixels = np.zeros((4, 4, 3), np.uint8)
    image, label = tfds.features.Image(), tfds.features.ClassLabel(num_classes=2)
    folder = Path(prepare("old", {"train": [(png(pixels), 0)]}, image, label).data_dir)
    described = (folder / "dataset_info.json").read_text()
    assert '"array_record"' in described
    (folder / "dataset_info.json").write_text(described.replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match="prepared as tfrecord, which only TensorFlow reads"):
        data.load("old", "train")


def test_network_check_says_what_the_server_answers(server):
    with pytest.raises(OSError, match="absent answers 404"):
        network.check(f"{server}absent")
    network.check(server)


def test_known_sets_are_described_without_their_files(tmp_path, monkeypatch):
    monkeypatch.setenv("DNG_JAX_DATA", str(tmp_path))
    described = data.describe("cifar10")
    assert described.shape == (32, 32, 3)
    assert described.class_names[0] == "airplane"
    assert data.describe("digits") == data.load("digits")[2]
