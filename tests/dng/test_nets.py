"""Networks: the three forms, published sizes, what depends on what, files, bundled weights."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dng_jax import data, nets, training, weights
from dng_jax.errors import InputError
from dng_jax.metrics import Reference, features
from dng_jax.nets.blocks import Conv3, GroupNorm, depth_to_space, space_to_depth
from dng_jax.nets.config import CONDITIONINGS
from dng_jax.training import presets
from dng_jax.weights import pretrained

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = nets.UNetConfig(
    (8, 8, 1), 3, "heads", channels=8, multipliers=(1, 2), blocks=0, middle_blocks=1, patch=2,
    head_channels=8, embed_channels=16, resample="shuffle", scale_shift=True,
)  # fmt: skip


def params_of(module, *inputs):
    """Random parameters, drawn by NumPy: nothing is compiled and nothing starts at zero."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32), shapes)


def count(config):
    x, logsnr = jnp.zeros((1, *config.image_shape)), jnp.zeros(1)
    shapes = jax.eval_shape(nets.UNet(config).init, jax.random.key(0), x, logsnr)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("conditioning", ["none", "label", "heads"])
def test_shapes_of_the_three_forms(conditioning, patch):
    config = replace(TINY, conditioning=conditioning, patch=patch, image_shape=(8, 8, 2))
    label = (jnp.array([0, 3]),) if conditioning == "label" else ()
    inputs = jnp.ones((2, 8, 8, 2)), jnp.array([-9.0, 9.0]), *label
    out, _ = jax.eval_shape(nets.UNet(config).init_with_output, jax.random.key(0), *inputs)
    assert out.shape == ((2, 4, 8, 8, 2) if conditioning == "heads" else (2, 8, 8, 2))
    assert out.dtype == jnp.float32


def test_published_sizes():
    # Ho et al. 2020, section 4 and appendix B: "Our CIFAR10 model has 35.7 million parameters".
    assert abs(count(presets.diffusion("cifar10").network) - 35.7e6) < 0.1e6
    assert 24e6 < count(presets.diffusion("mnist").network) < 26e6


def test_one_by_one_heads_are_the_centre_of_three_by_three_ones():
    wide, narrow = nets.UNet(TINY), nets.UNet(replace(TINY, head_kernel=1))
    x, logsnr = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.zeros(2)
    params = params_of(wide, x, logsnr)
    kernel = np.zeros_like(params["Conv3_2"]["kernel"])
    kernel[1, 1] = params["Conv3_2"]["kernel"][1, 1]
    centre = {"kernel": kernel, "bias": params["Conv3_2"]["bias"]}
    only_centre = {**params, "Conv3_2": centre}
    moved = {name: leaf for name, leaf in params.items() if name != "Conv3_2"}
    moved["heads"] = {"kernel": kernel[1, 1], "bias": centre["bias"]}
    a = jax.jit(wide.apply)({"params": only_centre}, x, logsnr)
    b = jax.jit(narrow.apply)({"params": moved}, x, logsnr)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch": 3}, "patch 3 is not supported: choose 1, 2 or 4"),
        ({"head_kernel": 2}, "head_kernel 2 is not supported: choose 1 or 3"),
        ({"multipliers": ()}, "multipliers must be a tuple of one or more whole"),
        (
            {"multipliers": (1, 0)},
            "multipliers must be a tuple of one or more whole",
        ),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"embed_channels": -1}, "embed_channels must be at least 1, got -1"),
        ({"head_channels": 0}, "head_channels must be at least 1, got 0"),
        ({"blocks": -1}, "blocks must be at least 0, got -1"),
        ({"middle_blocks": -1}, "middle_blocks must be at least 0, got -1"),
        ({"global_pool": 0}, "global_pool must be at least 1, got 0"),
        (
            {"global_pool": 3},
            "4x4 positions do not divide by global_pool 3: choose",
        ),
        ({"global_channels": -1}, "global_channels must be at least 0, got -1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout must be at least 0 and below 1, got nan"),
    ],
)
def test_sizes_that_are_not_there_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widths": ()}, "widths must be a tuple of one or more whole"),
        ({"widths": (8, 0)}, "widths must be a tuple of one or more whole"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"features": 0}, "features must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"widths": (4, 4, 4, 4, 4)}, "images of 8x8 cannot be halved 4 times"),
    ],
)
def test_sizes_a_classifier_cannot_have_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        replace(nets.ClassifierConfig((8, 8, 1)), **changes)


def test_the_global_part_reads_means_over_squares():
    pooled = replace(TINY, patch=2, global_channels=4, global_pool=2)
    module, (x, logsnr) = nets.UNet(pooled), pooled.example()
    whole = nets.UNet(replace(pooled, global_pool=1))
    sizes = [
        jax.eval_shape(m.init, jax.random.key(0), x, logsnr)["params"]["gather"]["kernel"].shape[0]
        for m in (whole, module)
    ]
    # 4x4 positions of TINY's channels, and the 8x8 image; then 2x2 of both.
    assert sizes == [16 * TINY.channels + 64, 4 * TINY.channels + 4]
    # A change of the image that no mean over 4x4 pixels sees reaches the global part through the
    # features alone: with their rows of the product at zero, not at all.
    params = params_of(module, x, logsnr)
    rows = np.array(params["gather"]["kernel"])
    rows[: 4 * TINY.channels] = 0
    params = {**params, "gather": {**params["gather"], "kernel": rows}}
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 8, 8, 1)).astype(np.float32)
    squares = rng.normal(size=(1, 2, 4, 2, 4, 1)).astype(np.float32)
    unseen = (squares - squares.mean((2, 4), keepdims=True)).reshape(x.shape)
    without = {**params, "spread": jax.tree.map(np.zeros_like, params["spread"])}
    apply = jax.jit(module.apply)

    def part(image):
        return apply({"params": params}, image, logsnr) - apply({"params": without}, image, logsnr)

    np.testing.assert_allclose(part(x + unseen), part(x), atol=2e-5)
    seen = np.kron(rng.normal(size=(2, 2)), np.ones((4, 4))).reshape(x.shape).astype(np.float32)
    assert np.abs(part(x + seen) - part(x)).max() > 1e-3


def test_the_global_part_belongs_to_its_head():
    module = nets.UNet(replace(TINY, global_channels=4))
    x, logsnr = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.array([-1.0, 2.0])
    params = params_of(module, x, logsnr)
    apply = jax.jit(module.apply)
    out = apply({"params": params}, x, logsnr)
    table = np.array(params["Embed_0"]["embedding"])
    table[1] += 1
    moved = apply({"params": {**params, "Embed_0": {"embedding": table}}}, x, logsnr)
    change = np.abs(np.asarray(moved - out)).max((2, 3, 4))
    assert np.all(change[:, 1] > 1e-3)
    assert np.all(change[:, [0, 2, 3]] == 0)
    # Without the last layer it is the network without a global part.
    zero = {**params, "spread": jax.tree.map(np.zeros_like, params["spread"])}
    plain = nets.UNet(TINY)
    names = jax.eval_shape(plain.init, jax.random.key(0), x, logsnr)["params"]
    local = jax.jit(plain.apply)({"params": {n: params[n] for n in names}}, x, logsnr)
    np.testing.assert_allclose(apply({"params": zero}, x, logsnr), local, rtol=1e-5, atol=1e-6)


def test_weights_are_taken_over_where_names_and_shapes_agree():
    old_config, new_config = TINY, replace(TINY, global_channels=4)
    x, logsnr = jnp.ones((1, 8, 8, 1)), jnp.zeros(1)
    old = params_of(nets.UNet(old_config), x, logsnr)
    new = jax.tree.map(lambda a: a + 1, params_of(nets.UNet(new_config), x, logsnr))
    merged, taken, total = weights.overlay(new, old)
    assert jax.tree.structure(merged) == jax.tree.structure(new)
    np.testing.assert_array_equal(merged["ResBlock_0"]["Conv3_0"]["kernel"],
                                  old["ResBlock_0"]["Conv3_0"]["kernel"])  # fmt: skip
    # The global part is new.
    np.testing.assert_array_equal(merged["Embed_0"]["embedding"], new["Embed_0"]["embedding"])
    kept = [leaf.size for leaf in jax.tree.leaves(new)]
    assert 0 < taken < total == sum(kept)


def test_label_form_reads_its_label_and_refuses_to_miss_it():
    module = nets.UNet(replace(TINY, conditioning="label"))
    x, logsnr = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.zeros(2)
    params = params_of(module, x, logsnr, jnp.array([0, 0]))
    apply = jax.jit(module.apply)
    out = [apply({"params": params}, x, logsnr, jnp.full(2, k)) for k in (0, 3)]
    assert np.abs(out[0] - out[1]).max() > 1e-3
    with pytest.raises(InputError, match="without a label"):
        module.apply({"params": params}, x, logsnr)
    with pytest.raises(InputError, match="with a label"):
        nets.UNet(TINY).apply({"params": params}, x, logsnr, jnp.array([0, 0]))


@pytest.mark.slow
def test_a_head_learns_from_its_own_class_only():
    module = nets.UNet(TINY)
    x0 = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    params = params_of(module, x0, jnp.zeros(4))
    labels = jnp.array([0, 2, 2, 0])

    def loss(params):
        return training.diffusion_loss(
            module, params, x0, labels, jnp.zeros(4), jax.random.key(3), True
        )[0]

    # The last convolution's outputs are ordered (row, column, head) within each 2x2 patch.
    bias = jax.jit(jax.grad(loss))(params)["Conv3_2"]["bias"].reshape(2, 2, 4)
    assert np.all(bias[..., 1] == 0)
    assert np.all(np.abs(bias[..., [0, 2, 3]]).max((0, 1)) > 0)


def test_dropout_is_off_unless_training():
    module = nets.UNet(replace(TINY, dropout=0.5))
    x, logsnr = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.zeros(2)
    params = params_of(module, x, logsnr)
    apply = jax.jit(module.apply, static_argnames="train")

    def run(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return apply({"params": params}, x, logsnr, train=train, rngs=rngs)

    np.testing.assert_array_equal(run(0, False), run(1, False))
    assert np.abs(run(0, True) - run(1, True)).max() > 1e-3


def test_matrix_product_form_of_the_convolution():
    import flax.linen as nn

    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 5))
    params = params_of(Conv3(7), x)
    reference = nn.Conv(7, (3, 3)).apply({"params": params}, x)
    np.testing.assert_allclose(Conv3(7).apply({"params": params}, x), reference, atol=1e-5)


def test_group_norm_is_flax_group_norm():
    import flax.linen as nn

    x = 50 + jax.random.normal(jax.random.key(0), (3, 4, 4, 24))
    params = params_of(GroupNorm(), x)
    reference = nn.GroupNorm(2, use_fast_variance=False).apply({"params": params}, x)
    np.testing.assert_allclose(GroupNorm().apply({"params": params}, x), reference, atol=1e-4)


def test_space_to_depth_there_and_back():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    folded = space_to_depth(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[0, 0, 0, 3:6], x[0, 0, 1])
    np.testing.assert_array_equal(depth_to_space(folded, 2), x)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("name", presets.DIFFUSION)
def test_configuration_round_trips_through_json(name, conditioning):
    module = nets.UNet(presets.diffusion(name, conditioning).network)
    assert module.config.conditioning == conditioning
    assert nets.build(json.loads(json.dumps(nets.describe(module)))) == module


def test_bad_configurations_are_refused():
    with pytest.raises(InputError, match="do not divide by 16"):
        replace(TINY, multipliers=(1, 1, 1, 1))
    with pytest.raises(InputError, match="did you mean 'heads'"):
        replace(TINY, conditioning="head")
    with pytest.raises(InputError, match="patch 3"):
        replace(TINY, patch=3)
    with pytest.raises(InputError, match="unknown field of UNetConfig 'chanels'"):
        nets.build({"kind": "unet", "image_shape": [8, 8, 1], "chanels": 3})


def test_model_file_round_trip(tmp_path):
    module = nets.UNet(TINY)
    params = params_of(module, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    weights.save(tmp_path / "m.safetensors", params, nets.describe(module), {"note": "x"})
    loaded, restored, config = weights.load(tmp_path / "m.safetensors")
    assert loaded == module
    assert config == nets.describe(module)
    jax.tree.map(np.testing.assert_array_equal, restored, params)
    for dtype, rtol in (("float16", 2**-11), ("bfloat16", 2**-8)):  # half a unit of 10 and 7 bits
        path = tmp_path / f"{dtype}.safetensors"
        weights.save(path, params, nets.describe(module), dtype=dtype)
        assert path.stat().st_size < 0.6 * (tmp_path / "m.safetensors").stat().st_size
        _, half, _ = weights.load(path)
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half))
        close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6)
        jax.tree.map(close, half, params)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    module = nets.UNet(TINY)
    params = params_of(module, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    path = tmp_path / "m.safetensors"
    weights.save(path, params, nets.describe(module))
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:50], b"not weights at all"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="not a whole safetensors file"):
            weights.load(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(InputError, match="no model file"):
        weights.load(path)
    with pytest.raises(InputError, match="does not exist"):
        weights.load(tmp_path / "none.safetensors")


def test_bundled_weights_are_small_and_described():
    folder = Path(pretrained.__file__).parent
    assert sum(f.stat().st_size for f in folder.rglob("*.safetensors")) <= 32e6
    files = sorted(folder.glob("*.safetensors"))
    networks = [f for f in files if not f.name.endswith(".reference.safetensors")]
    assert sorted(f.stem for f in networks) == sorted(pretrained.NAMES)
    assert all(f.with_suffix(".md").exists() for f in networks)
    models = sorted(f.parent.name for f in folder.glob("*/model_index.json"))
    assert models == sorted(pretrained.FOLDERS)
    assert all((folder / f"{name}.md").exists() for name in models)


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_a_bundled_file_saved_again_is_the_same_file(name, tmp_path):
    def parts(path):
        """Header without its metadata, whose order is random, the metadata, and the numbers."""
        whole = path.read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:end])
        return header.pop("__metadata__"), list(header.items()), whole[end:]

    _, params, config = pretrained.load(name)
    with pretrained.path(name) as path:
        text, header, numbers = parts(path)
        dtype = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[header[0][1]["dtype"]]
        weights.save(tmp_path / "again.safetensors", params, config, text, dtype)
        again = parts(tmp_path / "again.safetensors")
    assert again[1:] == (header, numbers)
    assert again[0] | {"config": ""} == text | {"config": ""}
    assert json.loads(again[0]["config"]) == json.loads(text["config"])


def test_bundled_names_only():
    with pytest.raises(InputError, match="did you mean 'digits-heads'"):
        pretrained.load("digit-heads")
    with pytest.raises(InputError, match="did you mean 'digit-scenes'"):
        pretrained.folder("digits-scenes")


def test_bundled_classifier_is_accurate():
    module, params, _ = pretrained.load("digits-classifier")
    images, labels, _ = data.load("digits", "test")
    logits, features = module.apply({"params": params}, data.to_unit(images), features=True)
    assert features.shape == (len(images), 64)
    assert np.mean(np.argmax(logits, -1) == labels) >= 0.98


@pytest.mark.parametrize(
    ("name", "least", "counts"),
    [
        # Images of a class in the training split, as published.
        ("mnist", 0.99, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("cifar10", 0.98, [5000] * 10),
    ],
)
def test_a_reference_is_that_of_the_training_images_through_its_classifier(name, least, counts):
    found = Reference.bundled(f"{name}-classifier")
    assert [m.count for m in found.moments] == counts
    _, params, _ = pretrained.load(f"{name}-classifier")
    last = params["logits"]
    logits = found.features @ last["kernel"] + last["bias"]
    assert np.mean(np.argmax(logits, -1) == found.labels) >= least
    moments, kept = found.excluding([0])
    own = kept.mean(0)
    assert np.abs(own - moments.mean).max() < 0.2 * np.abs(moments.mean).max()
    assert Reference.bundled("digits-classifier") is None


@pytest.mark.parametrize(("name", "n", "least"), [("mnist", 2000, 0.99), ("cifar10", 500, 0.9)])
def test_bundled_classifiers_are_accurate(name, n, least):
    try:
        pixels, labels, _ = data.load(name, "test", download=False)
    except InputError:
        pytest.skip(f"no {name} here")
    module, params, _ = pretrained.load(f"{name}-classifier")
    predicted, _ = features.classifier(module, params)(data.to_unit(pixels[:n]))
    assert np.mean(predicted == labels[:n]) >= least


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist-heads", "cifar10-label"])
def test_bundled_diffusion_networks_of_real_images_know_the_class(name):
    """At a log-SNR of -2 the right class's prediction beats a wrong one's."""
    try:
        images, labels, _ = data.load(name.partition("-")[0], "test", download=False)
    except InputError:
        pytest.skip(f"no {name} here")
    module, params, _ = pretrained.load(name)
    x0, logsnr = jnp.asarray(data.to_unit(images[:200])), jnp.full(200, -2.0)
    loss = jax.jit(
        lambda labels: training.diffusion_loss(
            module, params, x0, labels, logsnr, jax.random.key(0), False
        )[1]
    )
    labels = jnp.asarray(labels[:200])
    key = "loss_class" if "heads" in name else "loss"
    assert loss(labels)[key] < loss((labels + 1) % 10)[key]


@pytest.mark.parametrize("name", ["digits-heads", "digits-label"])
def test_bundled_diffusion_networks_denoise_by_class(name):
    """At a log-SNR of -1 the right class's prediction beats a wrong one's by a quarter."""
    module, params, config = pretrained.load(name)
    images, labels, _ = data.load("digits", "test")
    x0, logsnr = jnp.asarray(data.to_unit(images)), jnp.full(len(images), -1.0)
    loss = jax.jit(
        lambda labels: training.diffusion_loss(
            module, params, x0, labels, logsnr, jax.random.key(0), False
        )[1]
    )
    right, wrong = loss(jnp.asarray(labels)), loss((jnp.asarray(labels) + 1) % 10)
    key = "loss_class" if name == "digits-heads" else "loss"
    assert config["conditioning"] == name.split("-")[1]
    assert right[key] < 0.75 * wrong[key]


@pytest.mark.parametrize("name", presets.CLASSIFIER)
def test_classifier_sizes_give_logits_and_features(name):
    config = presets.classifier(name).network
    module = nets.Classifier(config)

    def shapes(key):
        x = jnp.zeros((2, *config.image_shape))
        return module.init_with_output(key, x, features=True)[0]

    logits, features = jax.eval_shape(shapes, jax.random.key(0))
    assert logits.shape == (2, config.num_classes)
    assert features.shape == (2, config.features)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention_levels": (9,)}, r"attention_levels must name levels 0\.\.1 once each"),
        ({"attention_levels": (1, 1)}, r"attention_levels must name levels 0\.\.1 once each"),
        ({"attention_levels": (-1,)}, r"attention_levels must be a tuple .* from 0, got \(-1,\)"),
        ({"image_shape": (8, 8)}, r"image_shape \(height, width, channels\) must be a tuple of 3"),
        ({"image_shape": (8, 8, 0)}, "whole numbers from 1, got"),
        ({"image_shape": 8}, "whole numbers from 1, got 8"),
        ({"image_shape": (6, 8, 1)}, "6x8 do not divide by 4: set image_shape to that of your"),
        ({"channels": "8"}, "channels must be a whole number, got '8'"),
        ({"channels": 8.5}, "channels must be a whole number, got 8.5"),
        ({"num_classes": True}, "num_classes must be a whole number, got True"),
        ({"multipliers": [1, 2]}, "multipliers must be a tuple"),
        ({"dropout": "x"}, "dropout must be at least 0 and below 1, got 'x'"),
        ({"scale_shift": "no"}, "scale_shift must be True or False, got 'no'"),
    ],
)
def test_values_of_another_kind_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 1},
        {"channels": 3, "scale_shift": False, "resample": "conv"},
        {"channels": 9},
        {"head_channels": 9, "embed_channels": 1, "global_channels": 1},
    ],
)
def test_any_number_of_channels_is_a_network(changes):
    module = nets.UNet(replace(TINY, **changes))
    inputs = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
    out, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), *inputs)
    assert out.shape == (2, 4, 8, 8, 1)


def test_groups_divide_the_channels():
    for c, groups in ((4, 1), (9, 1), (10, 2), (36, 1), (64, 16), (128, 32)):
        x = np.random.default_rng(0).normal(3, 2, (2, 3, 3, c)).astype(np.float32)
        params = {"scale": np.ones(c, np.float32), "bias": np.zeros(c, np.float32)}
        out = GroupNorm().apply({"params": params}, x)
        parts = x.reshape(2, 9, groups, c // groups)
        mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
        np.testing.assert_allclose(
            out, ((parts - mean) / np.sqrt(var + 1e-6)).reshape(x.shape), atol=1e-4
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("form", ["heads", "label", "classifier", "residual"])
def test_networks_take_every_float_under_every_switch(form, dtype):
    """Images of any float type; JAX's x64 mode, strict promotion of types and of ranks."""
    whole = replace(TINY, conditioning="heads", global_channels=4, attention_levels=(1,))
    plain = replace(whole, conditioning="label", scale_shift=False, resample="conv")
    with (
        jax.enable_x64(dtype == "float64"),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        inputs = [jax.ShapeDtypeStruct((2, 8, 8, 1), dtype)]
        if form in ("heads", "label"):
            inputs.append(jax.ShapeDtypeStruct((2,), dtype))
        if form == "label":
            inputs.append(jax.ShapeDtypeStruct((2,), "int32"))
        for inner in (None, jnp.bfloat16):
            module = {
                "heads": nets.UNet(whole, inner),
                "label": nets.UNet(plain, inner),
                "classifier": nets.Classifier(nets.ClassifierConfig((8, 8, 1)), inner),
                "residual": nets.Classifier(
                    nets.ClassifierConfig((8, 8, 1), widths=(4,), norm="batch"), inner
                ),
            }[form]
            out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *inputs)
            assert out.dtype == jnp.float32
            assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_images_of_another_shape_are_named():
    module = nets.UNet(TINY)
    for x, logsnr, said in (
        (jnp.ones((2, 6, 6, 1)), jnp.zeros(2), r"\(2, 6, 6, 1\), the network takes .*\(8, 8, 1\)"),
        (jnp.ones((8, 8, 1)), jnp.zeros(8), "in a batch"),
        (jnp.ones((2, 8, 8, 1)), jnp.zeros(()), r"logsnr has shape \(\): .*, \(2,\)"),
    ):
        with pytest.raises(InputError, match=said):
            jax.eval_shape(module.init, jax.random.key(0), x, logsnr)
    classifier = nets.Classifier(nets.ClassifierConfig((8, 8, 1)))
    with pytest.raises(InputError, match=r"the network takes images of \(8, 8, 1\)"):
        jax.eval_shape(classifier.init, jax.random.key(0), jnp.ones((2, 8, 8, 3)))
