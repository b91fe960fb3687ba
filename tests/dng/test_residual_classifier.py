"""The classifier with batch normalisation: gradients, statistics, augmentation, its job."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train.classifier
from dng_jax import data, nets, training, weights
from dng_jax.errors import InputError
from dng_jax.metrics.reference import Reference
from dng_jax.nets import classifier, convolution
from dng_jax.training import batch_statistics, optimiser, presets
from dng_jax.weights import pretrained
from train.options import parse_classifier

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = nets.ClassifierConfig((10, 9, 3), 4, (6,), 8, 0.0, "batch")
MODULE = nets.Classifier(CONFIG)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 10, 9, 3)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, 64).astype(np.int32)


def apply(params, x, **kwargs):
    return jax.jit(lambda p, x: MODULE.apply({"params": p}, x, **kwargs))(params, x)


@pytest.fixture(scope="module")
def params():
    chosen = training.make_optimiser(2, 0.1, 1, momentum=0.9)
    found = training.init_state(MODULE, chosen, jax.random.key(0)).params
    found = {**found, "whitening": classifier.whitening(data.to_unit(IMAGES))}
    rng = np.random.default_rng(2)
    for name in found:
        if name.startswith("BatchNorm"):
            found[name] = {**found[name], "shift": rng.normal(0, 0.05, found[name]["shift"].shape)}
    return jax.tree.map(lambda a: np.asarray(a, np.float32), found)


@pytest.fixture(scope="module")
def exact(params):
    return batch_statistics.exact(MODULE, params, IMAGES, batch=16)


@pytest.mark.parametrize("shape", [(8, 5, 4, 3, 6), (6, 3, 3, 5, 2), (1, 1, 2, 1, 1)])
def test_gradient_of_the_kernel_is_that_of_the_sum_over_shifts(shape):
    b, h, w, i, o = shape
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(b, h, w, i)), rng.normal(size=(b, h, w, o))
    k = rng.normal(size=(3, 3, i, o))
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = {(r, c): wide[:, r : r + h, c : c + w] for r in range(3) for c in range(3)}
    y, pull = jax.vjp(convolution.conv3, x.astype("f4"), k.astype("f4"))
    np.testing.assert_allclose(y, sum(s @ k[at] for at, s in shifted.items()), rtol=1e-4, atol=1e-5)
    dx, dk = pull(dy.astype("f4"))
    for at, s in shifted.items():
        expected = np.einsum("bhwi,bhwo->io", s, dy)
        np.testing.assert_allclose(dk[at], expected, rtol=1e-4, atol=1e-4)
    back = np.zeros_like(wide)
    for r, c in shifted:
        back[:, r : r + h, c : c + w] += dy @ k[r, c].T
    np.testing.assert_allclose(dx, back[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    other = convolution._by_convolution(jnp.asarray(x, "f4"), jnp.asarray(dy, "f4"))
    np.testing.assert_allclose(dk, other, rtol=1e-4, atol=1e-4)


def test_an_image_is_classified_alone_at_evaluation_and_with_its_batch_in_training(exact):
    x = data.to_unit(IMAGES[:6])
    spoiled = np.concatenate([x[:1], -x[1:]])
    alone, among, others = apply(exact, x[:1]), apply(exact, x), apply(exact, spoiled)
    np.testing.assert_array_equal(among[0], others[0])
    np.testing.assert_allclose(alone[0], among[0], rtol=1e-4, atol=1e-5)
    one, two = apply(exact, x, train=True), apply(exact, spoiled, train=True)
    assert np.abs(one[0] - two[0]).max() > 1e-3


def test_over_one_batch_evaluation_with_exact_statistics_is_training(params):
    whole = batch_statistics.exact(MODULE, params, IMAGES, batch=64)
    x = data.to_unit(IMAGES)
    np.testing.assert_allclose(apply(whole, x), apply(params, x, train=True), rtol=1e-3, atol=1e-4)


def test_exact_statistics_are_those_of_numpy_in_double_precision(params, exact):
    gelu = lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))  # noqa: E731
    x = IMAGES / 127.5 - 1
    kernel = params["whitening"].astype(np.float64)
    z = sum(x[:, i : 9 + i, j : 8 + j] @ kernel[i, j] for i in (0, 1) for j in (0, 1))
    h = gelu(np.concatenate([z, -z], -1))
    wide = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = params["Conv3_0"]["kernel"].astype(np.float64)
    h = sum(wide[:, r : 9 + r, c : 8 + c] @ kernel[r, c] for r in range(3) for c in range(3))
    h = h[:, :8].reshape(64, 4, 2, 4, 2, 6).max((2, 4))
    # Of the first layer, statistics over equal batches are those over all images, in any order.
    first = exact["BatchNorm_0"]
    np.testing.assert_allclose(first["mean"], h.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first["variance"], h.var((0, 1, 2)), rtol=1e-5)

    # Of the last, by the law of total variance from the batches.
    order = np.random.default_rng(0).permutation(64).reshape(4, 16)
    seen = [
        apply(params, data.to_unit(IMAGES[rows]), train=True, mutable=["statistics"])[1]
        for rows in order
    ]
    mean, variance = (
        np.array([s["statistics"]["BatchNorm_3"][name] for s in seen], np.float64)
        for name in ("mean", "variance")
    )
    last = exact["BatchNorm_3"]
    np.testing.assert_allclose(last["mean"], mean.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last["variance"], variance.mean(0) + mean.var(0), rtol=1e-5)
    changed = {n for n in exact if n.startswith("BatchNorm")}
    for name in set(exact) - changed:
        jax.tree.map(np.testing.assert_array_equal, exact[name], params[name])


def test_statistics_of_changed_images_and_of_what_a_last_batch_leaves_out(params):
    still = batch_statistics.exact(MODULE, params, IMAGES, 16, lambda key, x: x)
    grey = batch_statistics.exact(MODULE, params, IMAGES, 16, lambda key, x: 0 * x)
    few = batch_statistics.exact(MODULE, params, IMAGES[:5], 16)
    plain = batch_statistics.exact(MODULE, params, IMAGES, 16)
    jax.tree.map(np.testing.assert_array_equal, still, plain)
    assert np.all(grey["BatchNorm_0"]["variance"] < 1e-9)
    assert np.all(np.isfinite(few["BatchNorm_3"]["mean"]))


def test_whitened_patches_have_unit_covariance():
    images, _, _ = data.load("digits", "train")
    # Digits have borders that never vary: noise, so that no direction has variance zero.
    x = data.to_unit(images) + np.random.default_rng(0).normal(0, 0.3, images.shape)
    kernel = classifier.whitening(x)
    assert kernel.shape == (2, 2, 1, 4)
    z = sum(x[:, i : 7 + i, j : 7 + j] @ kernel[i, j] for i in (0, 1) for j in (0, 1))
    covariance = np.cov(z.reshape(-1, 4), rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(4), atol=0.01)


def test_first_outputs_of_a_fresh_kernel_copy_the_inputs():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    kernel = classifier.identity(jax.random.key(1), (3, 3, 3, 5))
    np.testing.assert_array_equal(convolution.conv3(x, kernel)[..., :3], x)
    assert 0.1 < np.abs(kernel[..., 3:]).max() <= 27**-0.5


def test_a_step_leaves_fixed_tensors_and_decays_kernels_alone(params):
    chosen = training.make_optimiser(10, 0.1, 0, 0.5, clip=100.0, momentum=0.9)
    step = training.make_classifier_step(MODULE, chosen, 16, 0.9, change=lambda key, images: images)
    fresh = training.init_state(MODULE, chosen, jax.random.key(0))
    start = fresh._replace(params=params, ema=params)
    state = jax.block_until_ready(step(start, IMAGES, LABELS)[0])
    np.testing.assert_array_equal(state.params["whitening"], params["whitening"])
    for name in ("BatchNorm_0", "BatchNorm_3"):
        for leaf in ("mean", "variance"):
            np.testing.assert_array_equal(state.params[name][leaf], params[name][leaf])
        assert np.abs(state.params[name]["shift"] - params[name]["shift"]).max() > 0
    decays = optimiser.kernels(params)
    assert decays["Conv3_0"]["kernel"]
    assert decays["logits"]["kernel"]
    assert not decays["logits"]["bias"]
    assert not decays["whitening"]
    assert not any(jax.tree.leaves(decays["BatchNorm_0"]))


def test_nesterov_is_its_recursion():
    """p <- p - rate (g + m v), v <- m v + g, with g = gradient + decay p for kernels."""
    chosen = training.make_optimiser(8, 0.5, 0, 0.1, clip=100.0, momentum=0.9)
    params = {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}
    state, p, v = chosen.init(params), np.array([2.0, 2.0]), np.zeros(2)
    for n in range(3):
        updates, state = chosen.update(params, state, params)
        params = jax.tree.map(lambda a, b: a + b, params, updates)
        g = p * np.array([1.1, 1.0])
        v = 0.9 * v + g
        p = p - 0.25 * (1 + np.cos(np.pi * n / 8)) * (g + 0.9 * v)
        np.testing.assert_allclose([params["kernel"][0], params["bias"][0]], p, rtol=1e-5)


def test_photographs_are_flipped_moved_and_cut_image_by_image():
    images = jnp.asarray(data.to_unit(IMAGES))
    change = jax.jit(training.flip_shift_cut, static_argnums=(2, 3, 4))
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(change(keys[0], images, False, 0, 0), images)

    flipped = np.asarray(change(keys[0], images, True, 0, 0))
    mirrored = np.array(
        [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)]
    )
    same = np.array([np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert np.all(mirrored | same)
    assert 16 < mirrored.sum() < 48

    moved = np.asarray(change(keys[0], images, False, 2, 0))
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    offsets = [
        next(
            (r, c)
            for r in range(5)
            for c in range(5)
            if np.array_equal(m, w[r : r + 10, c : c + 9])
        )
        for m, w in zip(moved, wide, strict=True)
    ]
    assert {r for r, _ in offsets} == {c for _, c in offsets} == set(range(5))

    holes = np.all(np.asarray(change(keys[0], images, False, 0, 3)) == 0, axis=-1)
    assert np.all(holes.sum((1, 2)) == 9)
    assert np.all(holes.any(2).sum(1) == 3)
    assert np.all(holes.any(1).sum(1) == 3)
    assert len({(int(h.any(1).argmax()), int(h.any(0).argmax())) for h in holes}) > 20
    assert holes[:, 0].any()
    assert holes[:, -1].any()
    assert holes[:, :, 0].any()

    one, again, other = (change(k, images, True, 2, 3) for k in (keys[0], keys[0], keys[1]))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_digits_are_never_flipped_and_their_jobs_are_as_they_were():
    for name in ("digits", "mnist"):
        job = presets.classifier(name)
        assert train.classifier.change(job) is training.augment
        assert job.network.norm == "none"
        assert (job.momentum, job.flip, job.shift, job.cut) == (None, False, 0, 0)
    for name in ("fashion_mnist", "cifar10"):
        job = presets.classifier(name)
        job.check()
        change = train.classifier.change(job)
        assert change.keywords == {"flip": True, "shift": job.shift, "cut": job.cut}
        assert job.network.norm == "batch"


def test_configurations_round_trip_and_older_ones_have_no_norm():
    described = nets.describe(MODULE)
    assert nets.build(described) == MODULE
    digits = presets.classifier("digits").network
    old = nets.describe(nets.Classifier(digits))
    del old["norm"]
    assert nets.build(old).config == digits
    assert pretrained.load("digits-classifier")[0].config.norm == "none"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"widths": (8, 8, 8), "norm": "batch"}, "images of 8x8 cannot be halved 4 times"),
    ],
)
def test_networks_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        nets.ClassifierConfig((8, 8, 1), **fields)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--flip", "--flip, --shift and --cut take the place of warp: add --no-warp"),
        ("--no-warp --shift 8", "--shift must be 0 to 7 and --cut 0 to 8"),
        ("--no-warp --cut 9", "--shift must be 0 to 7 and --cut 0 to 8"),
        ("--momentum 1", "--momentum must be at least 0 and below 1, got 1.0"),
    ],
)
def test_jobs_that_cannot_be_are_refused(tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        train.classifier.run(parse_classifier([*words.split(), "--out", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()


def test_job_sets_the_statistics_of_the_averaged_weights(tmp_path, capsys):
    out = tmp_path / "run"
    words = """--network.widths 8 --network.norm batch --network.features 16 --network.dropout 0.1
        --momentum 0.9 --no-warp --shift 1 --cut 2 --ema-decay 0.9 --warmup 10 --clip 100
        --steps 40 --batch-size 64 --learning-rate 0.2 --log-every 20 --save-every 20
        --examples 600"""
    train.classifier.run(parse_classifier([*words.split(), "--out", str(out)]))
    said = capsys.readouterr().out
    path = out / "model.safetensors"
    module, params, _ = weights.load(path)
    images, labels, _ = data.load("digits", "train")
    again = batch_statistics.exact(module, params, images[:600], 64)
    for name in ("BatchNorm_0", "BatchNorm_3"):
        assert np.ptp(params[name]["mean"]) > 0
        np.testing.assert_allclose(params[name]["mean"], again[name]["mean"], atol=1e-4)
    kernel = classifier.whitening(data.to_unit(images[:600]))
    np.testing.assert_allclose(params["whitening"], kernel, rtol=1e-4, atol=1e-6)
    test_images, test_labels, _ = data.load("digits", "test")
    logits = module.apply({"params": params}, data.to_unit(test_images))
    accuracy = np.mean(np.argmax(logits, -1) == test_labels)
    assert accuracy > 0.5
    assert f"test accuracy {accuracy:.4f} on 355 images" in said
    reference = Reference.load(Reference.path_beside(path))
    assert [float(m.count) for m in reference.moments] == np.bincount(labels).tolist()
    assert reference.features.shape[1] == 16
