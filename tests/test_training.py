"""Training: learns, resumes bit for bit, keeps its randomness to (key, step); the jobs' manners."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
import train.classifier
import train.diffusion
from dng_jax import checkpoints, data, nets, schedules, training
from dng_jax.errors import InputError
from eval import runs

CONFIG = nets.UNetConfig(
    (8, 8, 1), 10, "heads", "v", channels=8, multipliers=(1,), blocks=0, middle_blocks=1, patch=2,
    head_channels=8, embed_channels=16, resample="shuffle", scale_shift=True, dropout=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    images, labels, _ = data.load("digits", "train")
    arrays = jnp.asarray(data.to_unit(images)), jnp.asarray(labels)
    module = nets.UNet(CONFIG)
    optimiser = training.make_optimiser(20, 5e-3, 2)
    state = training.init_state(module, optimiser, jax.random.key(0))
    step = training.make_diffusion_step(module, optimiser, schedules.linear(), 32, 0.9)
    return module, arrays, state, step


def fixed_loss(module, params, arrays):
    logsnr = training.stratified_logsnr(jax.random.key(1), 256, schedules.linear())
    x0, labels = arrays[0][:256], arrays[1][:256]
    loss = jax.jit(training.diffusion_loss, static_argnums=(0, 6))
    return loss(module, params, x0, labels, logsnr, jax.random.key(2), False)[0]


def test_loss_decreases_and_resume_is_bitwise(setting, tmp_path):
    module, arrays, start, step = setting
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    end = train.fit(step, start, arrays, 20, straight, log_every=5, save_every=100)
    before, after = (fixed_loss(module, p, arrays) for p in (start.params, end.params))
    assert after < 0.8 * before

    train.fit(step, start, arrays, 10, stopped, log_every=5, save_every=100)
    with open(stopped / "metrics.jsonl", "a") as log:
        log.write('{"step": 13, "seconds": 1.0}\n')  # ran after the last saved state
    resumed = train.fit(step, start, arrays, 20, stopped, log_every=5, save_every=100)
    for a, b in zip(jax.tree.leaves(end[:4]), jax.tree.leaves(resumed[:4]), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(*(jax.random.key_data(s.key) for s in (end, resumed)))
    logs = [(f / "metrics.jsonl").read_text().splitlines() for f in (straight, stopped)]
    logs = [[{**json.loads(line), "seconds": 0} for line in lines] for lines in logs]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [5, 10, 15, 20]
    assert {"loss", "loss_class", "loss_unconditional", "grad_norm"} < set(logs[0][0])


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
    other = start._replace(key=jax.random.key(1))
    later = start._replace(step=jnp.int32(5))
    losses = [float(step(s, *arrays)[1]["loss"]) for s in (start, start, other, later)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_state_of_another_network_is_refused(setting, tmp_path):
    _, _, start, _ = setting
    checkpoints.save_tree(tmp_path / "state.safetensors", start)
    wider = jax.tree.map(lambda p: np.concatenate([p, p]), start.params)
    other = start._replace(params=wider)
    with pytest.raises(InputError, match="another configuration"):
        checkpoints.load_tree(tmp_path / "state.safetensors", other)


def test_noise_levels_cover_the_schedule_evenly():
    schedule = schedules.linear()
    logsnr = np.asarray(training.stratified_logsnr(jax.random.key(0), 100, schedule))
    level = np.interp(-logsnr, -schedule.logsnr, np.arange(1000)) / 999
    assert np.all(np.histogram(level, 10, (0, 1))[0] >= 9)
    assert logsnr.max() <= schedule.logsnr[0] + 1e-4


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


def test_classifier_job_writes_what_it_says(tmp_path, capsys):
    out = tmp_path / "run"
    train.classifier.run(out=out, steps=20, batch_size=16, log_every=10, save_every=10)
    assert "test accuracy" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert set(lines[0]) == {"step", "seconds", "loss", "accuracy", "grad_norm"}
    module, _, _ = checkpoints.load_model(out / "model.safetensors")
    assert isinstance(module, nets.Classifier)
    with pytest.raises(InputError, match="already holds this run"):
        train.classifier.run(out=out, steps=20, batch_size=16)
    with pytest.raises(InputError, match="holds another run"):
        train.classifier.run(out=out, steps=30, batch_size=16, resume=True)


def test_a_wrong_option_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        runs.main(lambda: train.diffusion.run(preset="digit", out=tmp_path / "run"))
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "did you mean 'digits'" in message
    assert "Traceback" not in message
    with pytest.raises(InputError, match="no run to resume"):
        train.diffusion.run(out=tmp_path / "none", resume=True)
