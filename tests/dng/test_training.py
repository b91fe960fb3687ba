"""Training steps: what they learn, average, depend on; scans, precisions, resuming bit for bit."""

import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dng_jax import data, nets, schedules, training
from dng_jax.errors import NonFiniteError
from dng_jax.training import diffusion, stable_targets
from dng_jax.training.checkpoints import Checkpoints
from train import logs, loop

CONFIG = nets.UNetConfig(
    (8, 8, 1), 10, "heads", "v", channels=8, multipliers=(1,), blocks=0, middle_blocks=1, patch=2,
    head_channels=8, embed_channels=16, resample="shuffle", scale_shift=True, dropout=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def setting(quick_compilation):
    images, labels, _ = data.load("digits", "train")
    arrays = jnp.asarray(data.to_unit(images)), jnp.asarray(labels)
    module = nets.UNet(CONFIG)
    optimiser = training.make_optimiser(20, 5e-3, 2)
    # Put there outright, as restored states are: or jit would compile once for each of the two.
    state = jax.device_put(
        training.init_state(module, optimiser, jax.random.key(0)), jax.devices()[0]
    )
    step = training.make_diffusion_step(module, optimiser, schedules.linear(), 32, 0.9)
    return module, arrays, state, step


def fit(setting, folder, steps, step=None, **pace):
    """One session of a run in the folder, from its newest state, to `steps` steps."""
    module, arrays, start, own = setting
    with Checkpoints(folder / "states", nets.describe(module)) as states:
        state, facts = states.restore(start) or (start, {})
        with logs.Log(folder, int(state.step)) as log:
            pace = loop.Pace(steps, 32, **({"log_every": 5, "save_every": 100} | pace))
            done = loop.Done(**facts)
            return loop.fit(step or own, state, arrays, pace, states, log, done=done)


def same(a, b):
    """Bit for bit, the key included."""
    a, b = (jax.tree.leaves(s._replace(key=jax.random.key_data(s.key))) for s in (a, b))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_loss_decreases_and_resume_is_bitwise(setting, tmp_path):
    _, arrays, start, step = setting
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    end, _ = fit(setting, straight, 20)
    before, after = (float(step(s, *arrays)[1]["loss"]) for s in (start, end))
    assert after < 0.8 * before

    fit(setting, stopped, 10)
    with open(stopped / "metrics.jsonl", "a") as log:
        log.write('{"step": 13, "seconds": 1.0}\n{"step": 14, "sec')  # after the last saved state
    resumed, seconds = fit(setting, stopped, 20)
    same(end, resumed)
    seen = [logs.read(folder) for folder in (straight, stopped)]
    clock = [line["seconds"] for line in seen[1]]
    # Five steps are handed over within less than the clock shows.
    assert 0 <= clock[0] <= clock[1] <= clock[2] <= clock[3] <= round(seconds, 2)
    clock = {"seconds": 0, "images_per_second": 0}
    assert [line | clock for line in seen[0]] == [line | clock for line in seen[1]]
    assert [line["step"] for line in seen[0]] == [5, 10, 15, 20]
    assert {"loss", "loss_class", "loss_unconditional", "grad_norm"} < set(seen[0][0])
    # The mean over the last 5% of 20 steps is the last line; over half of them, the last two.
    assert logs.average_of_last(straight)[0]["loss"] == seen[0][-1]["loss"]
    half, batches = logs.average_of_last(straight, 0.5)
    assert batches == 2
    assert half["loss"] == pytest.approx((seen[0][-1]["loss"] + seen[0][-2]["loss"]) / 2)


@pytest.mark.slow
def test_several_steps_a_call_are_the_same_steps(setting, tmp_path):
    _, arrays, start, step = setting
    scanned, metrics = training.several(step, 3)(start, *arrays)
    state, losses = start, []
    for _ in range(3):
        state, one = step(state, *arrays)
        losses.append(one["loss"])
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, scanned[:4], state[:4])

    # Calls of 3 do not run past a line at 4 or a state at 5.
    end, _ = fit(setting, tmp_path, 10, log_every=4, save_every=5, steps_per_call=3)
    assert [line["step"] for line in logs.read(tmp_path)] == [4, 8, 10]
    assert int(end.step) == 10
    with Checkpoints(tmp_path / "states", nets.describe(setting[0])) as states:
        assert states.steps() == [5, 10]


@pytest.mark.slow
def test_bfloat16_keeps_float32_parameters_and_the_loss(setting):
    module, arrays, start, own = setting
    half = nets.UNet(module.config, jnp.bfloat16)
    # Away from the zeros that the output layers start from: otherwise nothing is compared.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype("f4"), start.params)
    optimiser = training.make_optimiser(20, 5e-3, 2)
    step = training.make_diffusion_step(half, optimiser, schedules.linear(), 32, 0.9)
    state, metrics = step(start._replace(params=params), *arrays)
    single = float(own(start._replace(params=params), *arrays)[1]["loss"])
    assert metrics["loss"] != single
    assert float(metrics["loss"]) == pytest.approx(single, rel=0.01)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state[1:3])} == {"float32"}
    assert metrics["loss"].dtype == jnp.float32


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(setting, tmp_path):
    step = setting[3]

    def spoiled(state, *arrays):
        new, metrics = step(state, *arrays)
        late = new.step == 13
        return new, metrics | {"loss": jnp.where(late, jnp.nan, metrics["loss"])}

    with pytest.raises(NonFiniteError, match=r"step 13, where the loss nan"):
        fit(setting, tmp_path, 40, spoiled, save_every=5)
    with Checkpoints(tmp_path / "states", nets.describe(setting[0])) as states:
        assert states.steps() == [5, 10]
        assert int(states.restore(setting[2])[0].step) == 10
    assert [line["step"] for line in logs.read(tmp_path)] == [5, 10]


def test_losses_that_states_are_compared_by_are_means_over_equal_numbers_of_steps(
    setting, tmp_path
):
    _, arrays, start, step = setting
    single, state = [], start
    for _ in range(12):
        state, metrics = step(state, *arrays)
        single.append(float(metrics["loss"]))

    def session(state, steps, losses=()):
        saved = {}
        states = types.SimpleNamespace(
            save=lambda state, loss, facts: saved.update({int(state.step): (loss, facts, state)}),
            wait=lambda: None,
        )
        log = logs.Log(tmp_path, 0, active=False)
        pace = loop.Pace(steps, 32, log_every=100, save_every=5)
        loop.fit(step, state, arrays, pace, states, log, done=loop.Done(losses=losses))
        return saved

    whole = session(start, 12)
    assert list(whole) == [5, 10, 12]
    assert whole[5][0] == pytest.approx(np.mean(single[:5]), rel=1e-6)
    assert whole[10][0] == pytest.approx(np.mean(single[5:10]), rel=1e-6)
    assert whole[12][0] == np.inf
    # Stopped between two multiples, a run compares as if it had not been.
    _, facts, state = session(start, 7)[7]
    assert session(state, 10, facts["losses"])[10][0] == whole[10][0]
    # After another --save-every a mean is of fewer steps.
    assert session(state, 10)[10][0] == np.inf


def test_average_follows_its_formula(setting):
    _, arrays, start, step = setting
    first, _ = step(start, *arrays)
    second, _ = step(first, *arrays)
    d = 2 / 11  # step number 1: (1 + 1) / (10 + 1), below the decay of .9
    leaf = lambda tree: np.asarray(tree["Conv3_2"]["bias"])  # noqa: E731
    expected = d * leaf(first.ema) + (1 - d) * leaf(second.params)
    np.testing.assert_allclose(leaf(second.ema), expected, rtol=1e-5, atol=1e-8)
    assert np.abs(leaf(second.params)).max() > 0


def test_a_step_depends_on_key_and_number_alone(setting):
    _, arrays, start, step = setting
    other, later = jax.device_put(
        (start._replace(key=jax.random.key(1)), start._replace(step=jnp.int32(5))),
        jax.devices()[0],
    )
    losses = [float(step(s, *arrays)[1]["loss"]) for s in (start, start, other, later)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_mirror_turns_half_of_the_images_each_by_its_own_draw():
    images = np.random.default_rng(0).normal(size=(8, 25, 4, 3, 2)).astype("f4")
    turned = np.asarray(jax.jit(training.mirror)(jax.random.key(1), images))
    same = np.all(turned == images, (2, 3, 4))
    other = np.all(turned == images[..., ::-1, :], (2, 3, 4))
    assert np.all(same ^ other)
    assert 70 < other.sum() < 130
    assert other.sum(1).min() > 0


def test_flip_mirrors_images_and_references_and_leaves_every_other_draw(monkeypatch):
    def loss(module, params, x0, labels, logsnr, key, train, few, *weights):
        seen = x0, labels, logsnr, jax.random.key_data(key), *few
        return params["kernel"], {str(n): a for n, a in enumerate(seen)}

    monkeypatch.setattr(diffusion, "diffusion_loss", loss)
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(300, dtype=np.int32) % 10
    rows = stable_targets.rows_by_class(labels, 10)
    optimiser = training.make_optimiser(20, 5e-3, 2)
    params = {"kernel": jnp.float32(0)}
    start = training.TrainState(
        jnp.int32(0), params, params, optimiser.init(params), jax.random.key(0)
    )
    module = types.SimpleNamespace(config=CONFIG)

    def drawn(flip):
        make = training.make_diffusion_step
        step = make(module, optimiser, schedules.linear(), 64, 0.9, None, 3, rows, flip)
        seen = step(start, images, labels)[1]
        return [np.asarray(seen[str(n)]) for n in range(len(seen) - 1)]

    plain, turned = drawn(False), drawn(True)
    for n, (a, b) in enumerate(zip(plain, turned, strict=True)):
        if a.ndim < 4:
            np.testing.assert_array_equal(a, b)
            continue
        same = np.all(a == b, (-3, -2, -1))
        assert np.all(same ^ np.all(a[..., ::-1, :] == b, (-3, -2, -1))), n
        assert 0.2 < np.mean(~same) < 0.8
    assert len(plain) == 6


def test_noise_levels_cover_the_schedule_evenly():
    schedule = schedules.linear()
    logsnr = np.asarray(training.stratified_logsnr(jax.random.key(0), 100, schedule))
    level = np.interp(-logsnr, -schedule.logsnr, np.arange(1000)) / 999
    assert np.all(np.histogram(level, 10, (0, 1))[0] >= 9)
    assert logsnr.max() <= schedule.logsnr[0] + 1e-4


def test_a_share_of_the_noise_levels_is_normal_in_log_snr():
    schedule, n = schedules.linear(), 1_000
    logsnr = np.asarray(training.stratified_logsnr(jax.random.key(0), n, schedule, 0.3))
    of_normal = scipy.stats.norm(-0.5, 1.75).cdf
    falling = schedule.logsnr[::-1]
    of_levels = lambda x: np.interp(x, falling, np.linspace(0, 1, len(falling)))  # noqa: E731
    for x in (-8.0, -4.0, -1.0, 0.5, 2.0, 4.0):
        share = 0.3 * of_normal(x) + 0.7 * of_levels(x)
        assert abs(np.mean(logsnr <= x) - share) <= 3 / n, x
    assert falling[0] <= logsnr.min()
    assert logsnr.max() <= falling[-1]


def test_loss_reads_the_parameterisation_of_the_network():
    """A network that always answers zero has the mean square of its target as its loss."""
    x0, labels = jnp.full((64, 8, 8, 1), 0.5), jnp.zeros(64, jnp.int32)
    logsnr = jnp.full(64, 1.0)
    alpha2, sigma2 = float(jax.nn.sigmoid(1.0)), float(jax.nn.sigmoid(-1.0))
    expected = {"eps": 1.0, "x0": 0.25, "v": alpha2 + sigma2 * 0.25}
    for name, value in expected.items():
        module = nets.UNet(replace(CONFIG, conditioning="none", parameterisation=name))
        shapes = jax.eval_shape(module.init, jax.random.key(0), x0, logsnr)["params"]
        zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        loss = jax.jit(training.diffusion_loss, static_argnums=(0, 6))
        loss, _ = loss(module, zeros, x0, labels, logsnr, jax.random.key(1), False)
        assert float(loss) == pytest.approx(value, rel=0.06)


def test_augmentation_keeps_range_and_identity_of_images():
    images, _, _ = data.load("digits", "train")
    x = data.to_unit(images[:200])
    y = np.asarray(training.augment(jax.random.key(0), jnp.asarray(x)))
    assert y.shape == x.shape
    assert -1 <= y.min() <= y.max() <= 1
    flat = lambda a: (a - a.mean((1, 2, 3), keepdims=True)).reshape(len(a), -1)  # noqa: E731
    a, b = flat(x), flat(y)
    correlation = np.sum(a * b, 1) / np.sqrt(np.sum(a**2, 1) * np.sum(b**2, 1))
    assert 0.75 < correlation.mean() < 0.99
