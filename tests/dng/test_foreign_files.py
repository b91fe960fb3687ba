"""Files from elsewhere: whatever is wrong with one is a sentence, before anything is allocated."""

from __future__ import annotations

import functools
import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from dng_jax import arrays, disk, nets, weights
from dng_jax.errors import InputError
from dng_jax.metrics import Reference
from dng_jax.weights import pretrained, tensors

CONFIG = {"kind": "classifier", **nets.ClassifierConfig((4, 4, 1), 2, (3,), 4).to_dict()}
SHAPES = {
    "Conv_0/bias": (3,), "Conv_0/kernel": (3, 3, 1, 3),
    "Conv_1/bias": (3,), "Conv_1/kernel": (3, 3, 3, 3),
    "features/bias": (4,), "features/kernel": (48, 4),
    "logits/bias": (2,), "logits/kernel": (4, 2),
}  # fmt: skip
TENSORS = {
    name: np.random.default_rng(i).normal(size=shape).astype(np.float32)
    for i, (name, shape) in enumerate(SHAPES.items())
}


def model_file(path, changed=(), config=CONFIG, *, without=(), raw=None):
    """A model file as a stranger would write it: no checksum, anything wrong with it."""
    held = {name: x for name, x in {**TENSORS, **dict(changed)}.items() if name not in without}
    text = {"format": "dng_jax model 1"}
    if config is not None:
        text["config"] = json.dumps(config) if raw is None else raw
    save_file(held, path, text)
    return path


def test_a_file_without_a_checksum_loads_where_it_is_right(tmp_path):
    path = model_file(tmp_path / "m.safetensors", {"features/bias": np.ones(4)})  # a float64
    module, params, config = weights.load(path)
    assert module.config.features == 4
    assert config == CONFIG
    np.testing.assert_array_equal(params["Conv_1"]["kernel"], TENSORS["Conv_1/kernel"])
    assert params["features"]["bias"].dtype == np.float32


KERNEL = TENSORS["Conv_1/kernel"]
WRONG = {
    "missing": ({"without": ["Conv_0/bias"]}, "'Conv_0/bias' is missing"),
    "extra": ({"changed": {"Other/kernel": np.ones(3)}}, "'Other/kernel' belongs to no part"),
    "below a tensor": ({"changed": {"Conv_0": np.ones(3)}}, "'Conv_0' belongs to no part"),
    "misshapen": ({"changed": {"Conv_0/bias": np.ones(4)}}, r"shape \[4\], the network has \[3\]"),
    "integers": ({"changed": {"Conv_1/kernel": KERNEL.astype(np.int32)}}, "is I32: store float32"),
    "complex": ({"changed": {"Conv_1/kernel": KERNEL.astype(np.complex64)}}, "is C64"),
    "one NaN": ({"changed": {"Conv_1/kernel": KERNEL * np.nan}}, "NaN or infinity"),
    "infinity": ({"changed": {"Conv_0/bias": np.full(3, np.inf)}}, "NaN or infinity"),
    "too large": ({"changed": {"Conv_0/bias": np.full(3, 1e300)}}, "NaN or infinity"),
    "zeros": ({"changed": {n: 0 * x for n, x in TENSORS.items()}}, "nothing but zeros"),
    "no config": ({"config": None}, "configuration is absent"),
    "half a config": ({"raw": '{"kind": "unet"'}, "configuration is not JSON"),
    "deep config": ({"raw": "[" * 100_000}, "configuration is not JSON"),
    "a list": ({"config": [1]}, "configuration is no mapping"),
    "no kind": ({"config": {"image_shape": [4, 4, 1]}}, "no 'kind'"),
    "other kind": ({"config": {**CONFIG, "kind": "mlp"}}, "unknown kind of network 'mlp'"),
    "no shape": ({"config": {"kind": "classifier"}}, "lacks its field image_shape"),
    "a float": ({"config": {**CONFIG, "features": 4.5}}, "features of .* cannot be 4.5"),
    "two sides": ({"config": {**CONFIG, "image_shape": [4, 4]}}, "image_shape of .* cannot be"),
    "a string": ({"config": {**CONFIG, "widths": "3"}}, "widths of .* cannot be 3"),
    "huge": ({"config": {**CONFIG, "features": 10**12}}, "features 1000000000000 is more than"),
    "many": ({"config": {**CONFIG, "widths": [1] * 10**5}}, "cannot be halved"),
    "wide": ({"config": {**CONFIG, "features": 5}}, r"shape \[4\], the network has \[5\]"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_model_file_with_something_wrong_is_refused_in_a_sentence(tmp_path, what):
    changes, said = WRONG[what]
    with pytest.raises(InputError, match=said) as caught:
        weights.load(model_file(tmp_path / "m.safetensors", **changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_blocks_without_end_are_not_traced(tmp_path):
    config = {"kind": "unet", **nets.UNetConfig((8, 8, 1), blocks=10**9).to_dict()}
    with pytest.raises(InputError, match="blocks 1000000000 is more than 8 tensors"):
        weights.load(model_file(tmp_path / "m.safetensors", config=config))


def raw_file(path, header: dict, body: bytes = b"", length: int | None = None, size=None):
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text) if length is None else length) + text + body)
        if size is not None:
            file.truncate(8 + len(text) + size)
    return path


def entry(dtype: str, shape: list[int], size: int) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


@pytest.mark.parametrize(
    ("header", "more"),
    [
        (entry("F32", [1 << 40], 4 << 40), {}),
        (entry("F32", [1 << 62, 1 << 62], 4), {"body": bytes(4)}),
        (entry("F32", [1], 4), {"length": 1 << 60}),
        (entry("F32", [], 4), {"body": b"123"}),
        ({"a": 5}, {}),
    ],
)
def test_a_header_that_lies_is_no_safetensors_file(tmp_path, header, more):
    with pytest.raises(InputError, match="not a whole safetensors file"):
        tensors.read(raw_file(tmp_path / "x.safetensors", header, **more))


def test_a_file_of_more_bytes_than_there_is_memory_is_not_read(tmp_path):
    """100 GB in name only: a sparse file, whose header says the truth."""
    assert (disk.free_memory() or 0) < 100 << 30, "a machine too large for this test"
    path = tmp_path / "x.safetensors"
    raw_file(path, entry("U8", [100 << 30], 100 << 30), size=100 << 30)
    with pytest.raises(InputError, match=r"needs 100\.0 GiB of memory and .* are free"):
        tensors.read(path)
    with (
        tensors.opened(path) as file,
        pytest.raises(InputError, match=r"tensor 'a' of .* needs 100"),
    ):
        tensors.take(file, "a", path)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_a_float8_tensor_is_named(tmp_path, kind):
    path = raw_file(tmp_path / "x.safetensors", entry(kind, [4], 4), bytes(4))
    with pytest.raises(InputError, match=f"tensor 'a' of .* is {kind}, .*convert it"):
        tensors.read(path)


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")  # reading would wait for ever
    for path, said in (
        (tmp_path / "pipe.safetensors", "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"),
        (tmp_path, "a folder"),
        (tmp_path / "none", "does not exist"),
        ("a\0b", "cannot be read"),
    ):
        for read in (tensors.read, weights.load, arrays.read_npy, arrays.read_npz):
            with pytest.raises(InputError, match=said):
                read(path)


def test_one_altered_byte_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    module = nets.build(CONFIG)
    _, params, _ = weights.load(model_file(tmp_path / "old.safetensors"))
    weights.save(path, params, nets.describe(module), {"note": "where from"})
    weights.load(path)
    whole = path.read_bytes()
    for place in (-1, -300, whole.index(b"where from"), whole.index(b'\\"features\\": 4') + 14):
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(
            InputError, match=r"was altered after it was written|does not fit|the network has"
        ):
            weights.load(path)


def test_every_bundled_file_has_its_checksum():
    for name in pretrained.NAMES:
        with pretrained.path(name) as path:
            assert len(tensors.read_metadata(path)["sha256"]) == 64
            if Reference.path_beside(path).exists():
                assert len(tensors.read_metadata(Reference.path_beside(path))["sha256"]) == 64


def test_an_export_that_overflows_is_refused_and_writes_nothing(tmp_path):
    _, params, config = weights.load(
        model_file(tmp_path / "m.safetensors", {"Conv_0/bias": np.full(3, 7e4)})
    )
    path = tmp_path / "half.safetensors"
    with pytest.raises(
        InputError, match=r"Conv_0/bias has numbers up to 7e\+04, which float16 can"
    ):
        weights.save(path, params, config, dtype="float16")
    assert not path.exists()
    weights.save(path, params, config, dtype="bfloat16")
    with pytest.raises(InputError, match="'logits/bias' is missing"):
        weights.save(path, {k: v for k, v in params.items() if k != "logits"}, config)


def lying_npy(shape: str, descr: str = "'<f4'", order: str = "False", body: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


@pytest.mark.parametrize(
    "content",
    [
        lying_npy("(1000000000000, 8)"),
        lying_npy("(4, 2)", body=bytes(31)),
        lying_npy("(4, 2)", body=bytes(33)),
        lying_npy("(-4, 2)"),
        lying_npy("(4, 2", body=bytes(32)),
        lying_npy("4", body=bytes(16)),
        lying_npy("(2,)", "'|O'", body=bytes(16)),
        lying_npy("(2,)", "[('a', '<f4')", body=bytes(8)),
        lying_npy("(" * 3000),
        b"\x93NUMPY\x07\x00" + bytes(100),
        b"",
        b"PK\x03\x04 no zip",
    ],
)
def test_an_array_whose_header_lies_is_refused(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as NumPy's arrays \(") as caught:
        arrays.read_npy(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_numpy_wrote_them(tmp_path, order):
    x = np.asarray(np.arange(6, dtype=np.float32).reshape(2, 3), order=order)
    named = {"x": x, "text": np.array("abc"), "none": np.empty((0, 3), np.uint8), "n": np.array(3)}
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", **named)
    np.testing.assert_array_equal(arrays.read_npy(tmp_path / "x.npy"), x)
    found = arrays.read_npz(tmp_path / "x.npz")
    assert found.keys() == named.keys()
    for name, value in named.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_no_altered_byte_of_an_npz_escapes(tmp_path):
    """np.load raised ten kinds of error, not all of which were caught."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.arange(5), record=json.dumps({"a": 1}))
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 2):
        for change in (1 << place % 8, 255):
            altered = bytearray(whole)
            altered[place] ^= change
            path.write_bytes(altered)
            try:
                arrays.read_npz(path)
            except InputError:
                refused += 1
    assert refused > len(whole) // 2


def reference(width=3):
    rng = np.random.default_rng(0)
    make = functools.partial(Reference.of, classes=2, extractor="x")
    return make(rng.normal(size=(20, width)), np.arange(20) % 2)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", np.array([10, -1]), "count"),
        ("count", np.array([10.0, 10.0]), "count"),
        ("mean", np.full((2, 3), np.nan), "mean"),
        ("scatter", np.zeros((2, 6), np.int32), "scatter"),
        ("labels", np.full(20, 2, np.int32), "labels"),
        ("features", np.full((20, 3), np.inf, np.float32), "features"),
    ],
)
def test_a_reference_of_nonsense_is_refused(tmp_path, name, value, said):
    path = tmp_path / "r.safetensors"
    reference().save(path)
    held, text = tensors.read(path)
    save_file({**held, name: value}, path, text)
    with pytest.raises(InputError, match=f"{said} .*make it again"):
        Reference.load(path)


def test_a_checksum_does_not_stand_for_a_whole_network(tmp_path):
    _, params, config = pretrained.load("digits-classifier")
    weights.save(tmp_path / "whole.safetensors", params, config)
    found, text = tensors.read(tmp_path / "whole.safetensors")
    lost = {name: x for name, x in found.items() if name != "Conv_0/bias"}
    tensors.write(tmp_path / "lost.safetensors", lost, text)
    with pytest.raises(InputError, match="'Conv_0/bias' is missing"):
        weights.load(tmp_path / "lost.safetensors")
