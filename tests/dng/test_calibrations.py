"""Offsets of trackers, their fit, and the files that carry both to the jobs."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError, disk, guidance, posterior, sample_keys, schedules, steps
from dng_jax.experiments import calibrations, problems, rule_builders, rule_specs
from dng_jax.experiments.calibrations import Calibration, Correction
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.experiments.source import Source
from dng_jax.metrics.forecasts import event_scores, log_odds_error
from dng_jax.posterior import Evidence, fit_temperature, forward_evidence, replay
from dng_jax.posterior.temperature import gain
from dng_jax.rules import class_roles
from dng_jax.weights import pretrained

pytestmark = pytest.mark.usefixtures("quick_compilation")

TABLE = steps.ddpm(schedules.linear(), 20)


def silent(count: int, batch: int, concepts: int = 1) -> Evidence:
    """Evidence that says nothing."""
    row = jnp.zeros((count, batch, concepts))
    return Evidence(row, row, jnp.zeros((count, batch, concepts, concepts)), row)


@pytest.mark.parametrize("name", steps.TABLES)
@pytest.mark.parametrize("count", [5, 40])
def test_the_gain_of_a_step_is_that_of_its_log_snr(name, count):
    table = steps.TABLES[name](schedules.linear(), count)
    same_gain(table)


def test_the_gain_is_that_of_the_levels_whatever_variance_is_scored():
    same_gain(steps.ancestral(schedules.linear(), 6, scoring_variance="beta"))


def same_gain(table):
    found = np.asarray(jax.vmap(gain)(jax.tree.map(jnp.asarray, table)))
    logsnr = np.asarray(table.logsnr, np.float64)
    np.testing.assert_allclose(found[:-1], np.diff(logsnr), rtol=1e-4)
    assert found[-1] == 0  # the step to the clean image is not scored


@pytest.mark.parametrize("name", ["pair", "odds", "classes"])
@pytest.mark.parametrize("count", [10, 40])
def test_an_offset_adds_its_integral_over_log_snr_whatever_the_steps(name, count):
    table = steps.ddpm(schedules.linear(), count)
    omega = 0.05
    tracker = {
        "pair": posterior.pair(0.1, offset=omega),
        "odds": posterior.odds(0.1, offset=omega),
        "classes": posterior.classes(4, [1], prior=(0.3, 0.1, 0.3, 0.3), offset=omega),
    }[name]
    evidence = silent(count - 1, 2, 4 if name == "classes" else 1)
    log_p = np.asarray(replay(tracker, evidence, table, jnp.zeros((2, 3))), np.float64)
    p = np.exp(log_p[:, 0, 1 if name == "classes" else 0])
    total = omega * (np.asarray(table.logsnr, np.float64)[1:] - float(table.logsnr[0]))
    log = np.log(p) if name == "pair" else np.log(p / (1 - p))
    start = np.log(0.1) if name == "pair" else np.log(0.1 / 0.9)
    np.testing.assert_allclose(log, start + total, atol=1e-4)


def test_an_offset_is_a_leaf_and_changing_it_compiles_nothing():
    traced = []

    @jax.jit
    def last(tracker):
        traced.append(1)
        return replay(tracker, silent(19, 1), TABLE, jnp.zeros((1, 3)))[-1, 0, 0]

    found = [float(last(posterior.pair(0.1, offset=omega))) for omega in (0.0, 0.02, -0.02)]
    assert len(traced) == 1
    assert found[2] < found[0] < found[1]
    slope = jax.grad(last)(posterior.pair(0.1)).offset.values
    assert float(slope[0]) > 1


@pytest.fixture(scope="module")
def labelled(mixture, denoise):
    x_0, labels = mixture.draw(sample_keys(11, 300), (2, 2))
    every = guidance.recorder(class_roles(3))
    evidence = forward_evidence(denoise, TABLE, every, x_0, sample_keys(12, 300))
    return evidence, np.asarray(labels)


@pytest.mark.slow
def test_a_shift_that_was_put_in_is_fitted_away(labelled):
    # A prior far too small pushes the posteriors of every level down: an offset brings them back.
    evidence, labels = labelled
    pushed = posterior.odds(0.05)
    own, outcomes = pushed.arrange(evidence, labels)
    before = fit_temperature(pushed, own, TABLE, outcomes, knots=2)
    after = fit_temperature(pushed, own, TABLE, outcomes, knots=2, offset=True)
    assert after.after < before.after - 0.1
    assert np.all(np.asarray(before.offset.values) == 0)
    np.testing.assert_array_equal(after.offset.knots, after.temperature.knots)
    assert after.offset.values.shape == (2,)
    assert float(after.offset.values.max()) > 0.1
    mended = dataclasses.replace(pushed, temperature=after.temperature, offset=after.offset)
    log_p = replay(mended, own, TABLE, own.inner[0])
    happened = np.take_along_axis(np.asarray(log_p), outcomes[None, :, None], 2)
    assert -happened.mean() == pytest.approx(after.after, abs=1e-4)


def test_an_offset_of_zero_changes_nothing(labelled):
    evidence, _ = labelled
    tracker = posterior.classes(3, [0])
    same = dataclasses.replace(tracker, offset=posterior.offset(([-3, 0, 2], [0, 0, 0])))
    a, b = (replay(t, evidence, TABLE, evidence.inner[0]) for t in (tracker, same))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (([0, 1], [1.0]), "a table of offsets needs as many log-SNR knots as values"),
        (([1, 0], [1.0, 2.0]), "the log-SNR knots of a table of offsets must increase"),
        (([0], [1.0], 3), "pair \\(knots, values\\), got 3 parts"),
        (float("nan"), "offset must"),
    ],
)
def test_offsets_that_are_none_are_refused(value, said):
    with pytest.raises(InputError, match=said):
        posterior.pair(0.1, offset=value)


@pytest.fixture(scope="module")
def digits():
    return problems.make("digits", ("0",), Source("exact"))


@pytest.fixture
def made(digits, tmp_path):
    """A calibration of the exact model, and its file."""
    pair = Correction((-5.0, 0.0, 3.0), (1.0, 0.5, 0.25), (0.0, 0.125, 0.5))
    found = Calibration(
        "digits", calibrations.fingerprint(digits), "ddpm", 8, {"pair": pair}, {"seed": 3}
    )
    return found, calibrations.save(tmp_path / "c.json", found)


def built(problem, text, sampler="ddpm", count=8, **options):
    spec = rule_specs.parse(text)
    return rule_builders.build(spec, problem, TrackerOptions(**options), sampler, count)


def test_a_calibration_is_read_back_and_reaches_every_tracked_rule(digits, made):
    found, path = made
    assert calibrations.load(path) == found
    for rule in ("dng:pair=2", "reject:pair=1.5"):
        calibrated = built(digits, f"{rule},calibration={path}")
        tracker = getattr(calibrated, "detector", calibrated).tracker
        np.testing.assert_array_equal(tracker.temperature.values, [1.0, 0.5, 0.25])
        np.testing.assert_array_equal(tracker.offset.values, [0.0, 0.125, 0.5])
        np.testing.assert_array_equal(tracker.offset.knots, [-5.0, 0.0, 3.0])
    spec = rule_specs.parse("dng:pair=2").with_calibration(str(path))
    assert str(spec) == f"dng:pair=2,calibration={path}"
    for word in ("np=1", "dng:exact", "dng:pair,tau=.5", "dng:pair,calibration=none"):
        plain = rule_specs.parse(word)
        assert plain.with_calibration(str(path)) == plain


def test_a_calibration_of_something_else_is_refused(digits, made):
    found, path = made
    words = f"dng:pair,calibration={path}"
    with pytest.raises(InputError, match="is of number of steps 8, not 9"):
        built(digits, words, count=9)
    with pytest.raises(InputError, match="is of sampler ddpm, not ddim"):
        built(digits, words, sampler="ddim")
    with pytest.raises(InputError, match=r"unknown tracker in calibration .* choose from pair"):
        built(digits, f"dng:odds,calibration={path}")
    with pytest.raises(InputError, match="--tau and a calibration both set the temperature"):
        built(digits, words, tau=0.5)
    calibrations.save(path, dataclasses.replace(found, network="0" * 64))
    with pytest.raises(InputError, match="of another network"):
        built(digits, words)
    with pytest.raises(InputError, match="no calibration comes with the exact model"):
        built(digits, "dng:pair,calibration=bundled")


@pytest.mark.parametrize(
    "change",
    [
        "not JSON",
        [],
        {"format": "dng_jax calibration 2"},
        {"steps": "8"},
        {"trackers": {"pair": {"knots": [0], "temperature": [1]}}},
        {"trackers": {"pair": {"knots": [0, 1], "temperature": [1], "offset": [0]}}},
        {"trackers": {"pair": {"knots": [1, 0], "temperature": [1, 1], "offset": [0, 0]}}},
        {"trackers": {"pair": {"knots": [0], "temperature": [-1], "offset": [0]}}},
        {"trackers": {"pair": {"knots": [0], "temperature": [1], "offset": [float("nan")]}}},
        {"trackers": []},
        {"trackers": {}},
        {"trackers": {"other": {"knots": [0], "temperature": [1], "offset": [0]}}},
        {"trackers": {"pair": {"knots": [10**400], "temperature": [1], "offset": [0]}}},
        {"trackers": {"pair": {"knots": [0], "temperature": [1], "offset": [1e300]}}},
        {"trackers": {"pair": {"knots": [0], "temperature": [True], "offset": [0]}}},
        {"trackers": {"pair": {"knots": [], "temperature": [], "offset": []}}},
        {"trackers": {"pair": {"knots": [1, 1 + 1e-9], "temperature": [1, 1], "offset": [0, 0]}}},
        {
            "trackers": {
                "pair": {"knots": [*range(8)], "temperature": "12345678", "offset": [0] * 8}
            }
        },
        {"steps": True},
        {"steps": 0},
        {"fit": [["seed", 3]]},
        {"fit": {"seed": [[[3]]]}},
        "[" * 200_000,
        "9" * 5000,
    ],
)
def test_a_file_that_is_no_calibration_is_one_sentence(made, change):
    _, path = made
    stored = json.loads(path.read_text())
    changed = stored | change if isinstance(change, dict) else change
    path.write_text(change if isinstance(change, str) else json.dumps(changed))
    with pytest.raises(InputError, match=r"name a file that eval\.calibration wrote") as caught:
        calibrations.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        calibrations.load(tmp_path / "none.json")


def test_what_is_no_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="a pipe or a device, no file"):
        calibrations.load("/dev/zero")
    with pytest.raises(InputError, match="is a folder, no file"):
        calibrations.load(tmp_path)


def test_a_calibration_larger_than_memory_is_one_sentence(made, monkeypatch):
    monkeypatch.setattr(disk, "free_memory", lambda: 100)
    with pytest.raises(InputError, match="is it the right file"):
        calibrations.load(made[1])


@pytest.mark.parametrize("name", ["digits-heads", "digits-label", "mnist-heads", "cifar10-label"])
def test_the_bundled_calibration_is_of_the_bundled_network(name):
    problem = problems.make(name.partition("-")[0], ("3",), Source(network=name))
    rule = built(problem, "dng:pair,calibration=bundled", count=50)
    assert rule.tracker.temperature.values.shape == rule.tracker.offset.values.shape == (8,)
    assert float(jnp.max(jnp.abs(rule.tracker.offset.values))) > 0.1
    path = pretrained.calibration(name)
    assert set(calibrations.load(path).trackers) == {"pair", "odds", "classes"}
    # Bound to the parameters, and nothing else: another forbidden class is the same network.
    assert calibrations.fingerprint(problem) == calibrations.load(path).network


def test_log_odds_are_compared_where_they_are_not_decided():
    # two images, three levels; beyond 5 nats nothing counts
    exact = np.array([[-2.0, 0.0], [-4.0, 1.0], [-300.0, 9.0]])
    tracked = np.array([[-2.0, 1.0], [-3.0, 3.0], [-20.0, 2.0]])
    found = log_odds_error(tracked, exact, 5.0)
    np.testing.assert_allclose(found.over_time, [0.5, 1.5, 1.5])
    np.testing.assert_allclose(found.bias_over_time, [0.5, 1.5, -1.5])
    assert found.error.value == pytest.approx((1 / 3 + 2) / 2)
    assert found.bias.value == pytest.approx((1 / 3 + 0) / 2)
    # of two images at 1/3 and 0 the standard error is half their distance
    half = 1.96 / 6
    assert found.bias.low == pytest.approx(1 / 6 - half)
    assert found.bias.high == pytest.approx(1 / 6 + half)
    assert found.error.low == 0


def test_scores_of_forecasts_and_their_intervals():
    rng = np.random.default_rng(0)
    p = rng.random((2000, 3))
    event = rng.random((2000, 3)) < p
    scores = event_scores(p, event)
    yes, no = p[event], p[~event]
    pairs = (yes[:, None] > no[None, :]).mean()
    assert scores["auc"].value == pytest.approx(pairs, abs=1e-9)
    nll = -np.log(np.where(event, p, 1 - p)).mean()
    assert scores["nll"].value == pytest.approx(nll, rel=1e-9)
    assert scores["nll"].low < 0.5 < scores["nll"].high  # E = 1/2 for uniform calibrated p
    assert scores["ece"].value < 0.03
    # a tie is half a pair
    tied = event_scores(np.full((4, 1), 0.5), np.array([[True], [False], [True], [False]]))
    assert tied["auc"].value == 0.5
    assert tied["ece"].value == 0
    assert np.isnan(event_scores(p, np.zeros_like(event))["auc"].value)
