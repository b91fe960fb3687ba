"""Targets of low variance: the exact denoiser of the references, by float64 loops; all heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError, nets, schedules, training
from dng_jax.training import diffusion, stable_targets
from tests.helpers import switched

pytestmark = pytest.mark.usefixtures("quick_compilation")


def by_hand(x, x0, label, a, s, references, prior):
    """E_k and E for one image, every density written out, float64."""
    means, evidence = [], []
    for k, images in enumerate(references):
        patterns = [*images, x0] if k == label else list(images)
        logs = np.array([-np.sum((x - a * p) ** 2) / (2 * s**2) for p in patterns])
        weights = np.exp(logs - logs.max())
        means.append(np.average(patterns, axis=0, weights=weights))
        evidence.append(np.log(prior[k]) + logs.max() + np.log(weights.mean()))
    p = np.exp(np.array(evidence) - max(evidence))
    return np.array(means), np.average(means, axis=0, weights=p)


@pytest.mark.slow
@pytest.mark.parametrize("logsnr", [-8.0, -2.0, 1.0, 8.0])
def test_targets_are_the_posterior_means_of_the_references(logsnr):
    rng = np.random.default_rng(0)
    references = rng.uniform(-1, 1, (3, 5, 2, 2, 1))
    x0, labels = rng.uniform(-1, 1, (4, 2, 2, 1)), np.array([0, 2, 1, 2])
    prior = np.array([0.5, 0.2, 0.3])
    a, s = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    x = a * x0 + s * rng.normal(size=x0.shape)
    level = np.full((4, 1, 1, 1), a), np.full((4, 1, 1, 1), s)
    arrays = [jnp.asarray(v, jnp.float32) for v in (x, x0)]
    with switched(jax_numpy_rank_promotion="raise", jax_numpy_dtype_promotion="strict"):
        found = stable_targets.targets(
            *arrays, jnp.asarray(labels), *(jnp.asarray(v, jnp.float32) for v in level),
            jnp.asarray(references, jnp.float32), jnp.log(jnp.asarray(prior, jnp.float32)),
        )  # fmt: skip
    for i in range(4):
        means, mean = by_hand(x[i], x0[i], labels[i], a, s, references, prior)
        np.testing.assert_allclose(found.of_class[i], means, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(found.marginal[i], mean, rtol=2e-4, atol=2e-4)
    if logsnr == 8.0:  # only x_0 itself is near x
        np.testing.assert_allclose(found.of_class[np.arange(4), labels], x0, atol=1e-4)


def test_rows_are_those_of_the_class():
    labels = np.array([1, 0, 1, 1, 2])
    rows = stable_targets.rows_by_class(labels, 3)
    assert rows.shape == (3, 3)
    for k in range(3):
        assert set(rows[k]) == set(np.flatnonzero(labels == k))
    drawn = stable_targets.draw(jax.random.key(0), jnp.arange(5) * 10, jnp.asarray(rows), 7)
    assert drawn.shape == (3, 7)
    assert all(labels[v // 10] == k for k in range(3) for v in np.asarray(drawn[k]))


def test_every_head_learns_from_every_image_and_less_at_low_noise():
    config = nets.UNetConfig(
        (8, 8, 1), 3, "heads", "v", channels=8, multipliers=(1,), blocks=0, middle_blocks=0,
        patch=2, head_channels=8, embed_channels=16,
    )  # fmt: skip
    module = nets.UNet(config)
    rng = np.random.default_rng(1)
    x0 = jnp.asarray(rng.uniform(-1, 1, (4, 8, 8, 1)), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x0, jnp.zeros(4))["params"]
    params = jax.tree.map(lambda v: rng.normal(0, 0.1, v.shape).astype(np.float32), shapes)
    few = jnp.asarray(rng.uniform(-1, 1, (3, 6, 8, 8, 1)), jnp.float32), jnp.log(jnp.ones(3) / 3)
    labels = jnp.zeros(4, jnp.int32)

    @jax.jit
    def bias(logsnr):
        def loss(params):
            key = jax.random.key(2)
            return training.diffusion_loss(module, params, x0, labels, logsnr, key, True, few)[0]

        (last,) = (v for k, v in jax.grad(loss)(params).items() if k == "Conv3_2")
        return jnp.abs(last["bias"].reshape(2, 2, 4)).max((0, 1))

    # Labels are 0: heads 1 and 2 are of other classes.
    own_and_unconditional, others = jnp.array([0, 3]), jnp.array([1, 2])
    high, low = bias(jnp.full(4, -8.0)), bias(jnp.full(4, 8.0))
    assert np.all(high > 0)
    assert np.all(low > 0)
    assert low[others].max() < 0.2 * low[own_and_unconditional].min()


def test_loss_of_all_heads_is_the_distance_to_the_targets_of_each(monkeypatch):
    # Every prediction 0 and every target known: the loss is a sum of squares, in v.
    rng = np.random.default_rng(3)
    config = nets.UNetConfig((2, 2, 1), 3, "heads", "v", channels=8, multipliers=(1,))
    x, x0 = rng.normal(size=(2, 4, 2, 2, 1))
    logsnr = np.array([-3.0, -0.5, -2.0, 4.0])
    a = np.sqrt(1 / (1 + np.exp(-logsnr))).reshape(4, 1, 1, 1)
    s = np.sqrt(1 / (1 + np.exp(logsnr))).reshape(4, 1, 1, 1)
    labels, means = np.array([0, 1, 2, 2]), rng.normal(size=(4, 3, 2, 2, 1))
    marginal = rng.normal(size=(4, 2, 2, 1))
    known = stable_targets.Targets(*map(jnp.asarray, (means, marginal)))
    monkeypatch.setattr(stable_targets, "targets", lambda *_: known)
    out = np.zeros((4, 4, 2, 2, 1))
    arrays = (jnp.asarray(v) for v in (out, x, x0, labels, a, s))
    loss, parts = diffusion.loss_of_all_heads(*arrays, (None, None), config)
    v = (a[:, None] * x[:, None] - means) / s[:, None]  # v = (alpha x - x_0) / sigma
    errors = (v**2).mean((2, 3, 4))
    own = np.mean([errors[i, k] for i, k in enumerate(labels)])
    weighted = s.reshape(4, 1) ** 4 * errors
    others = (weighted.sum() - sum(weighted[i, k] for i, k in enumerate(labels))) / 4 / 2
    unconditional = (((a * x - marginal) / s) ** 2).mean()
    assert float(parts["loss_class"]) == pytest.approx(own, rel=1e-5)
    assert float(parts["loss_others"]) == pytest.approx(others, rel=1e-5)
    assert float(parts["loss_unconditional"]) == pytest.approx(unconditional, rel=1e-5)
    assert float(loss) == pytest.approx(own + others + 0.5 * unconditional, rel=1e-5)


def test_a_class_without_images_is_named():
    with pytest.raises(InputError, match=r"classes \[1\] have no images to draw references from"):
        stable_targets.rows_by_class(np.array([0, 2, 2]), 3)


def test_references_need_heads():
    config = nets.UNetConfig((8, 8, 1), 3, "none", channels=8, multipliers=(1,), patch=2)
    optimiser = training.make_optimiser(2, 1e-3, 1)
    with pytest.raises(InputError, match="references 4 need a network of conditioning 'heads'"):
        training.make_diffusion_step(
            nets.UNet(config), optimiser, schedules.linear(), 2, 0.9, references=4
        )
