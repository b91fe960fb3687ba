"""Fitting the temperature, on evidence of the exact model and on evidence made too sure."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import (
    InputError,
    Move,
    Step,
    guidance,
    initial_noise,
    posterior,
    sample,
    sample_keys,
    schedules,
    steps,
)
from dng_jax.posterior import Evidence, fit_temperature, forward_evidence, replay
from dng_jax.rules import class_roles

pytestmark = pytest.mark.usefixtures("quick_compilation")

TABLE = steps.ddpm(schedules.linear(), 40)
TRACKER = posterior.classes(3, [0], prior=(2.5 / 6, 0.5 / 6, 0.5))


@pytest.fixture(scope="module")
def labelled(mixture, denoise):
    x_0, labels = mixture.draw(sample_keys(11, 1500), (2, 2))
    every = guidance.recorder(class_roles(3))
    evidence = forward_evidence(denoise, TABLE, every, x_0, sample_keys(12, 1500))
    return evidence, np.asarray(labels)


def negative_log_likelihood(tracker, evidence, labels):
    log_p = np.asarray(replay(tracker, evidence, TABLE, evidence.inner[0]), np.float64)
    return -log_p[:, np.arange(len(labels)), labels].mean()


@pytest.mark.slow
def test_exact_evidence_asks_for_no_temperature(labelled):
    fit = fit_temperature(TRACKER, *labelled[:1], TABLE, labelled[1], knots=4)
    assert fit.before == pytest.approx(negative_log_likelihood(TRACKER, *labelled), rel=1e-4)
    assert fit.after <= fit.before + 1e-6
    assert fit.before - fit.after < 0.01
    knots, tau = np.asarray(fit.temperature.knots), np.asarray(fit.temperature.values)
    # the classes part between log-SNR -4 and 2; beyond, nothing is left to learn
    informative = (knots > -5) & (knots < 2)
    assert informative.sum() >= 1
    assert np.all(np.abs(tau[informative] - 1) < 0.25)
    assert fit.final < fit.after


@pytest.mark.slow
def test_overconfident_evidence_is_cooled(labelled):
    evidence, labels = labelled
    # log-ratios five times too large: the honest ones are back at tau = .2
    loud = jax.tree.map(lambda leaf: 5 * leaf, evidence)
    honest = negative_log_likelihood(TRACKER, evidence, labels)
    fit = fit_temperature(TRACKER, loud, TABLE, labels, knots=4)
    assert fit.before > honest + 0.05
    assert fit.after == pytest.approx(honest, abs=0.01)
    cooled = dataclasses.replace(TRACKER, temperature=fit.temperature)
    assert negative_log_likelihood(cooled, loud, labels) == pytest.approx(fit.after, abs=1e-4)


def test_forward_evidence_tracks_the_exact_posterior(labelled, mixture):
    # averaged over the data, the posterior of the true class at the clean end
    evidence, labels = labelled
    log_p = np.asarray(replay(TRACKER, evidence, TABLE, evidence.inner[0]))
    assert log_p.shape == (39, 1500, 3)
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-4)
    # calibrated: mean probability of a class = its share, within 4 standard errors
    share = np.bincount(labels, minlength=3) / 1500
    mean = np.exp(log_p[-1]).mean(0)
    assert np.all(np.abs(mean - share) < 4 * np.sqrt(share * (1 - share) / 1500) * 0.5 + 0.01)


def everything(state, step):
    return {"state": state}


def test_one_record_of_all_classes_serves_a_tracker_of_one_concept(labelled):
    # class after class along the batch: each is the tracker's own concept once
    evidence, labels = labelled
    tracker = posterior.pair(1 / 3)
    own, outcomes = tracker.arrange(evidence, labels)
    assert own.inner.shape == (39, 4500, 1)
    assert own.gram.shape == (39, 4500, 1, 1)
    log_p = replay(tracker, own, TABLE, own.inner[0])
    assert log_p.shape == (39, 4500, tracker.num_outcomes)
    p = tracker.class_probabilities(log_p, 3)
    assert p.dtype == np.float64
    for k in range(3):
        np.testing.assert_array_equal(outcomes[k * 1500 : (k + 1) * 1500] == 0, labels == k)
        alone = posterior.Evidence(
            *(part[:, :, [k]] for part in (evidence.inner, evidence.expected)),
            evidence.gram[:, :, [k]][..., [k]],
            evidence.divergence[:, :, [k]],
        )
        expected = np.exp(replay(tracker, alone, TABLE, alone.inner[0])[..., 0])
        np.testing.assert_allclose(p[:, :, k], expected, rtol=1e-5)


def test_a_tracker_of_all_classes_takes_a_record_as_it_is(labelled):
    evidence, labels = labelled
    own, outcomes = TRACKER.arrange(evidence, labels)
    assert own is evidence
    np.testing.assert_array_equal(outcomes, labels)
    log_p = replay(TRACKER, evidence, TABLE, evidence.inner[0])
    assert TRACKER.num_outcomes == log_p.shape[2] == 3
    p = TRACKER.class_probabilities(log_p, 3)
    np.testing.assert_array_equal(p, np.exp(np.asarray(log_p, np.float64)))


@pytest.mark.parametrize("name", ["pair", "odds", "classes"])
def test_replay_is_the_tracker_in_the_sampler(name, denoise, keys):
    table = steps.ddpm(schedules.linear(), 8)
    tracker = {
        "pair": posterior.pair(0.3, drift=0.5),
        "odds": posterior.odds(0.3, delta=1e-3),
        "classes": TRACKER,
    }[name]
    rule = guidance.dynamic_negative(tracker, 2.0, base="model")
    x = initial_noise(keys, (2, 2), table)
    trace = sample(denoise, table, rule, keys, x, save=("x",), observe=everything).trace

    # evidence gathered again from the stored images, then replayed
    def again(row, x, state, x_next):
        step = Step(row, x, denoise(x, row, rule.roles), None, None)
        delta, _, _ = rule.apply(state, step)
        mean = row.c_x * x + row.c_eps * (step.base + delta)
        return tracker.evidence(step, Move(mean, x_next))

    xs, rows = trace["x"], jax.tree.map(lambda c: jnp.asarray(c[:-1]), table)
    evidence = jax.jit(jax.vmap(again))(rows, xs[:-1], trace["state"][:-1], xs[1:])
    log_p = np.asarray(replay(tracker, evidence, table, x), np.float64)
    state = np.asarray(trace["state"][1:], np.float64)
    if name == "classes":
        expected = state
    else:
        p = np.exp(state) if name == "pair" else 1 / (1 + np.exp(-state))
        expected = np.log(np.concatenate([p, 1 - p], axis=-1))
    np.testing.assert_allclose(log_p, expected, atol=2e-3)
    assert np.ptp(expected) > 0.5


@pytest.mark.parametrize("reference", ["base", "second"])
def test_what_was_recorded_against_a_role_replays_its_trackers_alone(reference, denoise, keys):
    table = steps.ddpm(schedules.linear(), 8)
    tracker = posterior.pair(0.3, reference=reference)
    rule = guidance.dynamic_negative(tracker, 2.0)
    x = initial_noise(keys, (2, 2), table)
    record = guidance.recorder(("class:1", "negative"), rule, reference=reference)
    trace = sample(denoise, table, record, keys, x).trace
    evidence = guidance.recorded(trace)
    assert evidence.reference == reference
    own = Evidence(
        *(part[..., 1:] for part in (evidence.inner, evidence.expected)),
        evidence.gram[..., 1:, 1:],
        evidence.divergence[..., 1:],
        reference,
    )
    p = np.exp(replay(tracker, own, table, x)[..., 0])
    np.testing.assert_allclose(p, trace["posterior"][1:], atol=1e-5)
    assert np.ptp(p) > 0.1
    assert replay(TRACKER, own, table, x) is not None
    other = dataclasses.replace(tracker, reference="third")
    for refused in (
        lambda: replay(other, own, table, x),
        lambda: fit_temperature(other, own, table, np.zeros(8, int), knots=2),
    ):
        with pytest.raises(InputError, match=f"against '{reference}'.*record.* reference='third'"):
            refused()


def test_evidence_against_the_classes_mean_serves_classes_alone(labelled):
    own, _ = TRACKER.arrange(dataclasses.replace(labelled[0], reference=TRACKER.reference), 0)
    single, _ = posterior.pair(0.3).arrange(own, labelled[1])
    with pytest.raises(InputError, match=r"against the concepts' mean, the tracker .* 'base'"):
        replay(posterior.pair(0.3), single, TABLE, single.inner[0])


def test_a_trace_without_evidence_is_named():
    with pytest.raises(InputError, match="holds lambda: sample with one recorder"):
        guidance.recorded({"lambda": jnp.zeros((3, 1))})


@pytest.mark.slow
def test_a_deterministic_table_does_not_change_forward_evidence(mixture, denoise):
    # forward transitions carry the kernel's full noise whatever the sampler will do
    x_0, _ = mixture.draw(sample_keys(1, 8), (2, 2))
    probed = posterior.classes(3, [0], probes=1)
    a, b = (
        forward_evidence(
            denoise, steps.ddim(schedules.linear(), 8, eta=eta), probed, x_0, sample_keys(2, 8)
        )
        for eta in (0.0, 1.0)
    )
    assert np.all(np.asarray(a.divergence) == 0)
    np.testing.assert_allclose(a.inner, b.inner, rtol=1e-5)


def deterministic(seed=0, batch=8):
    """Evidence of random numbers along a deterministic table, with its divergence; labels."""
    table, rng = steps.ddim(schedules.cosine(), 6), np.random.default_rng(seed)
    grow = np.linspace(0.2, 4, 5)[:, None, None]
    inner, divergence, square = rng.normal(size=(3, 5, batch, 10)) * grow
    gram = np.abs(square)[..., None] * np.eye(10)
    numbers = (inner, inner, gram, divergence)
    evidence = Evidence(*(jnp.asarray(a, jnp.float32) for a in numbers))
    return table, evidence, np.arange(batch) % 10


@pytest.mark.slow
def test_a_fit_has_a_gradient_whatever_is_compiled_twice():
    # A backward pass may round what it computes again otherwise; a maximum's derivative that asks
    # which number was the largest is then 0/0.
    table, evidence, labels = deterministic()
    tracker = posterior.classes(10, [0], probes=1)
    fit = fit_temperature(tracker, evidence, table, labels, knots=3)
    assert np.isfinite(np.asarray(fit.temperature.values)).all()
    # no constant temperature does better
    for tau in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0):
        cooled = dataclasses.replace(tracker, temperature=posterior.temperature(tau))
        log_p = replay(cooled, evidence, table, evidence.inner[0])
        assert fit.after <= -float(log_p[:, np.arange(8), labels].mean()) + 1e-5


def test_evidence_that_is_not_finite_is_refused():
    table, evidence, labels = deterministic()
    broken = dataclasses.replace(evidence, inner=evidence.inner.at[2, 3, 1].set(jnp.nan))
    with pytest.raises(InputError, match="evidence of 1 of 8 chains is not finite"):
        fit_temperature(posterior.classes(10, [0]), broken, table, labels, knots=3)


@pytest.mark.parametrize(
    ("labels", "knots", "message"),
    [
        (np.full(1500, 3), 4, r"0\.\.2"),
        (np.full(1500, -1), 4, r"0\.\.2"),
        (np.zeros(7, int), 4, "1500 integers"),
        (np.zeros(1500), 4, "1500 integers"),
        (np.zeros(1500, int), 1, "got 1"),
        (np.zeros(1500, int), 40, "got 40"),
    ],
)
def test_bad_labels_and_knots_are_named(labelled, labels, knots, message):
    with pytest.raises(InputError, match=message):
        fit_temperature(TRACKER, labelled[0], TABLE, labels, knots=knots)
