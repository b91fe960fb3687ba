"""The classifier with batch normalisation: gradients, statistics, augmentation, its job."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import train.classifier.job
from dng_jax import data, nets, training, weights
from dng_jax.errors import InputError
from dng_jax.metrics.reference import Reference
from dng_jax.nets import convolution, residual
from dng_jax.training import batch_statistics, optimiser, presets
from dng_jax.weights import pretrained
from train.options import parse_classifier

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = nets.ClassifierConfig((10, 9, 3), 4, (6,), 8, 0.0, "batch")
MODULE = nets.Classifier(CONFIG)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 10, 9, 3)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, 64).astype(np.int32)
OPTIMISER = training.make_optimiser(10, 0.1, 0, 0.5, clip=100.0, momentum=0.9)
CHANGE = functools.partial(training.flip_shift_cut, flip=True, shift=2, cut=3)


@functools.partial(jax.jit, static_argnames=("train", "mutable"))
def apply(params, x, train=False, mutable=()):
    return MODULE.apply({"params": params}, x, train=train, mutable=list(mutable))


def logits(params, x, train=False):
    return apply(params, x, train)[0]


@pytest.fixture(scope="module")
def fresh(quick_compilation):
    return training.init_state(MODULE, OPTIMISER, jax.random.key(0))


@pytest.fixture(scope="module")
def params(fresh):
    found = {**fresh.params, "whitening": residual.whitening(data.to_unit(IMAGES))}
    rng = np.random.default_rng(2)
    for name in found:
        if name.startswith("BatchNorm"):
            found[name] = {**found[name], "shift": rng.normal(0, 0.05, found[name]["shift"].shape)}
    return jax.tree.map(lambda a: np.asarray(a, np.float32), found)


@pytest.fixture(scope="module")
def exact(params):
    return batch_statistics.exact(MODULE, params, IMAGES, batch=16)


@pytest.mark.parametrize("shape", [(8, 5, 4, 3, 6), (3, 1, 2, 5, 2)])
def test_gradient_of_the_kernel_is_that_of_the_sum_over_shifts(shape):
    b, h, w, i, o = shape
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(b, h, w, i)), rng.normal(size=(b, h, w, o))
    k = rng.normal(size=(3, 3, i, o))
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = {(r, c): wide[:, r : r + h, c : c + w] for r in range(3) for c in range(3)}

    @jax.jit
    def run(x, k, dy):
        y, pull = jax.vjp(convolution.conv3x3_product_gradient, x, k)
        ways = convolution.kernel_by_convolution, convolution.kernel_by_products
        return y, *pull(dy), [way(x, dy) for way in ways]

    y, dx, dk, others = run(*(jnp.asarray(a, "f4") for a in (x, k, dy)))
    np.testing.assert_allclose(y, sum(s @ k[at] for at, s in shifted.items()), rtol=1e-4, atol=1e-5)
    for at, s in shifted.items():
        expected = np.einsum("bhwi,bhwo->io", s, dy)
        np.testing.assert_allclose(dk[at], expected, rtol=1e-4, atol=1e-4)
    back = np.zeros_like(wide)
    for r, c in shifted:
        back[:, r : r + h, c : c + w] += dy @ k[r, c].T
    np.testing.assert_allclose(dx, back[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    for found in others:
        np.testing.assert_allclose(dk, found, rtol=1e-4, atol=1e-4)


def test_an_image_is_classified_alone_at_evaluation_and_with_its_batch_in_training(exact):
    x = data.to_unit(IMAGES[:16])
    spoiled = np.concatenate([x[:1], -x[1:]])
    among, others = logits(exact, x), logits(exact, spoiled)
    np.testing.assert_array_equal(among[0], others[0])
    np.testing.assert_allclose(logits(exact, x[:1])[0], among[0], rtol=1e-4, atol=1e-5)
    one, two = logits(exact, x, train=True), logits(exact, spoiled, train=True)
    assert np.abs(one[0] - two[0]).max() > 1e-3


def test_over_one_batch_evaluation_with_exact_statistics_is_training(params):
    images = IMAGES[:16]
    whole = batch_statistics.exact(MODULE, params, images, batch=64)
    x = data.to_unit(images)
    np.testing.assert_allclose(
        logits(whole, x), logits(params, x, train=True), rtol=1e-3, atol=1e-4
    )


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

    # Of the last, by the law of total variance from the batches; those beyond them do not count.
    order = np.random.default_rng(0).permutation(64).reshape(4, 16)
    seen = [
        apply(params, data.to_unit(IMAGES[rows]), train=True, mutable=("statistics",))[1]
        for rows in order
    ]
    mean, variance = (
        np.array([s["statistics"]["BatchNorm_3"][name] for s in seen], np.float64)
        for name in ("mean", "variance")
    )
    last = exact["BatchNorm_3"]
    np.testing.assert_allclose(last["mean"], mean.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last["variance"], variance.mean(0) + mean.var(0), rtol=1e-5)
    for name in exact:
        if not name.startswith("BatchNorm"):
            jax.tree.map(np.testing.assert_array_equal, exact[name], params[name])


def test_whitened_patches_have_unit_covariance():
    rng = np.random.default_rng(0)
    noise, mix = rng.normal(size=(200, 8, 8, 2)), np.array([[1, 0.5], [0, 0.4]])
    x = (noise + np.roll(noise, 1, 1) + 0.5 * np.roll(noise, 1, 2)) @ mix
    kernel = residual.whitening(x)
    assert kernel.shape == (2, 2, 2, 8)
    z = sum(x[:, i : 7 + i, j : 7 + j] @ kernel[i, j] for i in (0, 1) for j in (0, 1))
    covariance = np.cov(z.reshape(-1, 8), rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(8), atol=0.01)


def test_first_outputs_of_a_fresh_kernel_copy_the_inputs():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("f4")
    kernel = jax.jit(residual.identity, static_argnums=1)(jax.random.key(1), (3, 3, 3, 5))
    np.testing.assert_array_equal(
        jax.jit(convolution.conv3x3_product_gradient)(x, kernel)[..., :3], x
    )
    assert 0.1 < np.abs(kernel[..., 3:]).max() <= 27**-0.5


@pytest.mark.slow
def test_a_step_leaves_fixed_tensors_and_decays_kernels_alone(fresh, params):
    step = training.make_classifier_step(MODULE, OPTIMISER, 16, 0.9, change=CHANGE)
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


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("change", [training.augment, CHANGE])
def test_a_step_is_of_the_same_types_under_every_switch(change, momentum):
    """JAX's x64 mode, strict promotion of types and of ranks; dropout, convolutions in bfloat16."""
    module = nets.Classifier(replace(CONFIG, dropout=0.1), jnp.bfloat16)
    chosen = training.make_optimiser(10, 0.1, 2, 0.5, momentum=momentum)
    step = training.make_classifier_step(module, chosen, 16, 0.9, change=change)
    begin = functools.partial(training.init_state, module, chosen)
    plain = jax.eval_shape(begin, jax.random.key(0))
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        state, metrics = jax.eval_shape(
            step, jax.eval_shape(begin, jax.random.key(0)), IMAGES, LABELS
        )
    assert state == plain
    assert {leaf.dtype for leaf in metrics.values()} == {jnp.dtype("float32")}


def test_adamw_decays_what_is_learnt_and_leaves_what_is_fixed():
    chosen = training.make_optimiser(8, 0.5, 0, 0.1)
    one = np.ones(2, np.float32)
    params = {"whitening": one, "norm": {"mean": one, "variance": one, "shift": one}}
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(chosen.update)(zeros, chosen.init(params), params)
    assert not updates["whitening"].any()
    assert not updates["norm"]["mean"].any()
    assert not updates["norm"]["variance"].any()
    np.testing.assert_allclose(updates["norm"]["shift"], -0.5 * 0.1, rtol=1e-6)


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
    images = data.to_unit(IMAGES)
    ways = ((False, 0, 0), (True, 0, 0), (False, 2, 0), (False, 0, 3), (True, 2, 3))

    @jax.jit
    def change(key):
        return [training.flip_shift_cut(key, jnp.asarray(images), *way) for way in ways]

    keys = jax.random.split(jax.random.key(0), 2)
    same, flipped, moved, cut, one = map(np.asarray, change(keys[0]))
    np.testing.assert_array_equal(same, images)

    mirrored = np.all(flipped == images[:, :, ::-1], (1, 2, 3))
    assert np.all(mirrored ^ np.all(flipped == images, (1, 2, 3)))
    assert 16 < mirrored.sum() < 48

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

    holes = np.all(cut == 0, axis=-1)
    assert np.all(holes.sum((1, 2)) == 9)
    assert np.all(holes.any(2).sum(1) == 3)
    assert np.all(holes.any(1).sum(1) == 3)
    assert len({(int(h.any(1).argmax()), int(h.any(0).argmax())) for h in holes}) > 20
    assert holes[:, 0].any()
    assert holes[:, -1].any()
    assert holes[:, :, 0].any()

    # All three together are the draws that each has alone: first mirrored, then moved, then cut.
    at = [holes[i, :, :, None] for i in range(len(holes))]
    turned = [w[:, ::-1] if m else w for w, m in zip(wide, mirrored, strict=True)]
    for found, hole, whole, (r, c) in zip(one, at, turned, offsets, strict=True):
        np.testing.assert_array_equal(found, np.where(hole, 0, whole[r : r + 10, c : c + 9]))
    assert not np.array_equal(one, change(keys[1])[-1])


def test_digits_are_never_flipped_and_their_jobs_are_as_they_were():
    for name in ("digits", "mnist"):
        job = presets.classifier(name)
        assert train.steps.change(job) is training.augment
        assert job.network.norm == "none"
        assert (job.momentum, job.flip, job.shift, job.cut) == (None, False, 0, 0)
    for name in ("fashion_mnist", "cifar10"):
        job = presets.classifier(name)
        job.check()
        change = train.steps.change(job)
        assert change.keywords == {"flip": True, "shift": job.shift, "cut": job.cut}
        assert job.network.norm == "batch"


def test_configurations_round_trip_and_older_ones_have_no_norm():
    described = nets.describe(MODULE)
    assert nets.build(json.loads(json.dumps(described))) == MODULE
    digits = presets.classifier("digits").network
    old = nets.describe(nets.Classifier(digits))
    del old["norm"]
    assert nets.build(old).config == digits
    assert pretrained.load("digits-classifier")[0].config.norm == "none"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"norm": None}, "unknown norm 'None'"),
        (
            {"widths": (8, 8, 8), "norm": "batch"},
            "8x8 cannot be halved 4 times: name fewer widths, or norm none",
        ),
    ],
)
def test_networks_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        nets.ClassifierConfig((8, 8, 1), **fields)


@pytest.mark.parametrize(
    ("changes", "without", "said"),
    [
        ({"norm": "none"}, "", "not the network that is described, 'Conv_0/bias' is missing"),
        ({"norm": 1}, "", "norm of ClassifierConfig cannot be 1"),
        ({"norm": "layer"}, "", "unknown norm 'layer'"),
        ({"widths": [6, 6, 6]}, "", "10x9 cannot be halved 4 times"),
        ({"features": 9}, "", r"'BatchNorm_2/mean' has shape \[8\], the network has \[9\]"),
        ({}, "BatchNorm_1/variance", "'BatchNorm_1/variance' is missing"),
        ({}, "whitening", "'whitening' is missing"),
    ],
)
def test_files_that_describe_another_network_are_refused(tmp_path, params, changes, without, said):
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    flat.pop(without, None)
    text = {"format": weights.files.MODEL_FORMAT}
    text["config"] = json.dumps(nets.describe(MODULE) | changes)
    save_file(flat, tmp_path / "m.safetensors", text)
    with pytest.raises(InputError, match=said) as caught:
        weights.load(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--flip", "--flip, --shift and --cut take the place of warp: add --no-warp"),
        ("--no-warp --shift 8", "--shift must be 0 to 7 and --cut 0 to 8"),
        ("--no-warp --cut 9", "--shift must be 0 to 7 and --cut 0 to 8"),
        ("--momentum 1", "--momentum must be at least 0 and below 1, got 1.0"),
        (
            "--network.norm batch --network.widths 8 --batch-size 1",
            "--batch-size and --examples of",
        ),
        ("--smoothing nan", "--smoothing must be at least 0 and below 1, got nan"),
    ],
)
def test_jobs_that_cannot_be_are_refused(tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        train.classifier.job.run(parse_classifier([*words.split(), "--out", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_job_sets_the_statistics_of_the_averaged_weights(tmp_path, capsys):
    out = tmp_path / "run"
    words = """--network.widths 8 --network.norm batch --network.features 16 --network.dropout 0.1
        --momentum 0.9 --no-warp --shift 1 --cut 2 --ema-decay 0.9 --warmup 10 --clip 100
        --steps 40 --batch-size 64 --learning-rate 0.2 --log-every 20 --save-every 20
        --examples 600"""
    train.classifier.job.run(parse_classifier([*words.split(), "--out", str(out)]))
    said = capsys.readouterr().out
    path = out / "model.safetensors"
    module, params, _ = weights.load(path)
    images, labels, _ = data.load("digits", "train")
    again = batch_statistics.exact(module, params, images[:600], 64)
    for name in ("BatchNorm_0", "BatchNorm_3"):
        assert np.ptp(params[name]["mean"]) > 0
        np.testing.assert_allclose(params[name]["mean"], again[name]["mean"], atol=1e-4)
    kernel = residual.whitening(data.to_unit(images[:600]))
    np.testing.assert_allclose(params["whitening"], kernel, rtol=1e-4, atol=1e-6)
    test_images, test_labels, _ = data.load("digits", "test")
    found = module.apply({"params": params}, data.to_unit(test_images))
    accuracy = np.mean(np.argmax(found, -1) == test_labels)
    assert accuracy > 0.5
    assert f"test accuracy {accuracy:.4f} on 355 images" in said
    reference = Reference.load(Reference.path_beside(path))
    assert [float(m.count) for m in reference.moments] == np.bincount(labels).tolist()
    assert reference.features.shape[1] == 16
