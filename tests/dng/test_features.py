"""Feature extractors, and real features kept class by class in a file."""

from __future__ import annotations

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dng_jax.errors import InputError
from dng_jax.metrics import Moments, Reference, features, frechet_distance
from dng_jax.weights import pretrained


class Linear:
    """Stands for a classifier; counts how often it is traced."""

    def __init__(self):
        self.traces = []

    def apply(self, variables, x, *, features):
        assert features
        self.traces.append(x.shape)
        flat = x.reshape(len(x), -1)
        return flat @ variables["params"], 2 * flat


def test_a_classifier_is_one_program_whatever_the_number_of_images():
    module, rng = Linear(), np.random.default_rng(0)
    weights = rng.normal(size=(4, 3)).astype(np.float32)
    classify = features.classifier(module, weights, batch=8)
    x = rng.uniform(-1, 1, size=(19, 2, 2, 1)).astype(np.float32)
    for n in (19, 8, 1, 0):
        labels, found = classify(jnp.asarray(x[:n]))
        flat = x[:n].reshape(n, 4)
        np.testing.assert_array_equal(labels, (flat @ weights).argmax(axis=1))
        np.testing.assert_array_equal(found, 2 * flat)
        assert (labels.dtype, found.dtype, found.shape) == (np.int32, np.float32, (n, 4))
    assert module.traces == [(8, 2, 2, 1)]
    with pytest.raises(InputError, match=r"\[19, 4\]"):
        classify(x.reshape(19, 4))


def test_bundled_classifier_gives_its_penultimate_layer():
    module, params, config = pretrained.load("digits-classifier")
    height, width, channels = config["image_shape"]
    x = np.random.default_rng(1).uniform(-1, 1, (5, height, width, channels)).astype(np.float32)
    logits, _ = module.apply({"params": params}, x, features=True)
    _, found = features.classifier(module, params, batch=4)(x)
    # The last layer, by hand, turns them into the logits.
    last = params["logits"]
    np.testing.assert_allclose(found @ last["kernel"] + last["bias"], logits, atol=1e-4)
    assert found.shape == (5, config["features"])


class Tensor:
    """As much of a torch tensor as is used."""

    def __init__(self, array):
        self.array = array

    def to(self, device):
        assert device == "cpu"
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


@pytest.fixture
def fake_torch(monkeypatch):
    """torch and torch-fidelity stand-ins: mean of each channel, tiled to 2048 features."""
    seen = []

    class Extractor:
        def __init__(self, name, wanted, feature_extractor_weights_path=None):
            assert wanted == ["2048"]
            if feature_extractor_weights_path is None:
                raise OSError("Name or service not known")

        def to(self, device):
            return self

        def __call__(self, x):
            seen.append(x.array)
            mean = x.array.astype(np.float32).mean(axis=(2, 3))
            return (Tensor(np.tile(mean, (1, 683))[:, :2048]),)

    class NoGrad:
        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    def load(path, map_location, weights_only):
        assert weights_only
        if path.endswith("broken"):
            raise EOFError("Ran out of input")

    torch = types.ModuleType("torch")
    torch.__dict__.update(load=load, from_numpy=Tensor, no_grad=NoGrad)
    network = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    network.__dict__["FeatureExtractorInceptionV3"] = Extractor
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, network.__name__, network)
    return seen


def test_inception_gets_what_an_image_file_would_hold(fake_torch, tmp_path):
    (tmp_path / "weights").write_bytes(b"x")
    extract = features.inception(tmp_path / "weights", batch=2)
    x = np.zeros((3, 2, 4, 3), np.float32)
    x[..., 0], x[..., 1], x[2, ..., 2] = -1.2, 1.0, 0.498
    found = extract(x)
    assert [part.shape for part in fake_torch] == [(2, 3, 2, 4), (1, 3, 2, 4)]
    assert all(part.dtype == np.uint8 for part in fake_torch)
    # round(127.5) to even is 128; 0.498 * 127.5 + 127.5 = 190.995.
    assert found[:, :3].tolist() == [[0, 255, 128], [0, 255, 128], [0, 255, 191]]
    assert (found.shape, found.dtype) == ((3, 2048), np.float32)
    assert extract(np.ones((1, 2, 2, 1)))[0, :3].tolist() == [255, 255, 255]
    with pytest.raises(InputError, match="got 2"):
        extract(np.ones((1, 2, 2, 2)))


def test_inception_names_what_is_missing(fake_torch, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"Name or service not known.*pass its path"):
        features.inception()
    with pytest.raises(InputError, match="nowhere"):
        features.inception(tmp_path / "nowhere")
    (tmp_path / "broken").write_bytes(b"x")
    with pytest.raises(InputError, match="Ran out of input"):
        features.inception(tmp_path / "broken")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InputError, match=r"dng-jax\[fid\]"):
        features.inception()


@pytest.fixture(scope="module")
def real():
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(np.arange(4), [30, 40, 50, 60]))
    return (rng.normal(size=(180, 3)) + labels[:, None]).astype(np.float32), labels


def test_reference_without_classes_is_that_of_the_other_images(real, tmp_path):
    x, labels = real
    reference = Reference.of(x, labels, 4, extractor="pixels", keep=35)
    path = tmp_path / "sub" / "reference.safetensors"
    reference.save(path, {"data": "made up"})
    for one, tolerance in ((reference, 1e-12), (Reference.load(path), 1e-6)):
        for forbidden in ((), (1,), (0, 3)):
            allowed = ~np.isin(labels, forbidden)
            moments, kept = one.excluding(forbidden)
            assert moments.count == allowed.sum()
            np.testing.assert_allclose(moments.mean, x[allowed].mean(axis=0, dtype=float), 1e-12)
            cov = np.cov(x[allowed], rowvar=False, dtype=np.float64)
            np.testing.assert_allclose(moments.covariance, cov, rtol=tolerance, atol=tolerance)
            first = [x[labels == k][:35] for k in range(4) if k not in forbidden]
            np.testing.assert_array_equal(kept, np.concatenate(first))
            other = frechet_distance(np.zeros(3), np.eye(3), x[allowed].mean(axis=0), cov)
            mine = moments.distance(Moments(3, np.zeros(3), 2 * np.eye(3)))
            assert mine == pytest.approx(other, rel=1e-5)
        assert one.extractor == "pixels"
        assert np.bincount(one.labels).tolist() == [30, 35, 35, 35]
    reference.save(path, dtype="float16")
    half = Reference.load(path)
    assert half.features.dtype == np.float32
    np.testing.assert_array_equal(half.features, reference.features.astype(np.float16))
    assert load_file(path)["features"].dtype == np.float16
    assert not list(tmp_path.glob("**/*.part"))


def test_bad_references_are_named(real, tmp_path):
    x, labels = real
    reference = Reference.of(x, labels, 4, extractor="pixels")
    path = tmp_path / "r.safetensors"
    reference.save(path)
    before = path.read_bytes()
    large = Reference.of(1e6 * x, labels, 4, extractor="pixels")

    def damaged():
        path.write_bytes(before[:-9])
        Reference.load(path)

    def reshaped():
        path.write_bytes(before)
        arrays = load_file(path)
        arrays["scatter"] = np.ascontiguousarray(arrays["scatter"][:, :2])
        save_file(arrays, path, {"format": "dng_jax reference 2"})
        Reference.load(path)

    def foreign():
        save_file({"mean": np.ones(2)}, path)
        Reference.load(path)

    for call, words in (
        (lambda: Reference.load(tmp_path / "no"), "does not exist"),
        (damaged, "not a whole safetensors"),
        (reshaped, "scatter of 3 features has 2 numbers per class"),
        (foreign, "no reference"),
        (lambda: reference.excluding([4]), "0..3"),
        (lambda: reference.excluding(range(4)), "all 4"),
        (lambda: Reference.of(x, labels, 3, extractor=""), "0..2"),
        (lambda: Reference.of(x, labels, 5, extractor=""), "[4]"),
        (lambda: Reference.of(x, labels[1:], 4, extractor=""), "180 integers"),
        (lambda: reference.save(path, dtype="int8"), "float16"),
        (lambda: large.save(path, dtype="float16"), "do not fit float16"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert words in str(error.value)
