"""Trackers against the recursions of dng_jax.posterior in float64, with plain squared distances."""

from __future__ import annotations

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dng_jax import (
    InputError,
    Move,
    Step,
    guidance,
    mixtures,
    posterior,
    sampling,
    schedules,
    steps,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

BETAS = np.linspace(1e-4, 0.02, 1000)
ABAR = np.cumprod(1 - BETAS)
B, D = 6, 5


def coefficients():
    """mu = k_x x + k_eps eps and s2 at t = 999..1 (dng_jax.posterior, 2), float64."""
    beta, abar = BETAS[:0:-1], ABAR[:0:-1]
    before = ABAR[-2::-1]
    k_x = 1 / np.sqrt(1 - beta)
    return k_x, -beta / np.sqrt(1 - abar) * k_x, (1 - before) / (1 - abar) * beta


def float64_rows():
    """The 999 scored rows of the DDPM table in double precision."""
    k_x, k_eps, s2 = coefficients()
    zero = np.zeros(999)
    alpha, sigma = np.sqrt(ABAR[:0:-1]), np.sqrt(1 - ABAR[:0:-1])
    return steps.StepRow(
        np.arange(999), alpha, sigma, zero, zero, k_x, k_eps, np.sqrt(s2), k_x, k_eps, s2
    )


def chain(rng, roles, gap, dtype):
    """x [999, B, D], predictions a distance ~gap apart, and x' around the base's kernel mean."""
    k_x, k_eps, s2 = (c[:, None, None] for c in coefficients())
    x = rng.normal(size=(999, B, D))
    common = rng.normal(size=x.shape)
    eps = {role: common + gap * rng.normal(size=x.shape) for role in roles}
    x_next = k_x * x + k_eps * eps[roles[0]] + np.sqrt(s2) * rng.normal(size=x.shape)
    return jax.tree.map(lambda a: a.astype(dtype), (x, eps, x_next))


def means_of(x, eps):
    k_x, k_eps, _ = (c[:, None, None] for c in coefficients())
    return {role: k_x * x.astype(float) + k_eps * e.astype(float) for role, e in eps.items()}


def distances(x_next, mu):
    return {k: ((x_next.astype(float) - m) ** 2).sum(-1) for k, m in mu.items()}


def step_all(tracker, state, rows, x, eps, x_next):
    """One step of the tracker from every row, [999, B, ...]."""

    def one(row, state, x, eps, x_next):
        return tracker.observe(state, Step(row, x, eps, None, None), Move(x_next, x_next))

    rows = jax.tree.map(jnp.asarray, rows)
    return np.asarray(jax.jit(jax.vmap(one))(rows, state, x, eps, x_next), np.float64)


def double(tracker):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tracker)


SETTINGS = [
    {"temperature": 1.0, "delta": 0.0, "p_max": 0.99},
    {"temperature": 0.2, "delta": 2e-4, "p_max": 0.8},
    {"temperature": 0.5, "delta": -1e-3, "p_max": 0.6, "p_min": 1e-2},
]


def recursion(setting, p, d_b, d_n, s2):
    """The authors' form (dng_jax.posterior, 4), as printed."""
    tau, delta = setting["temperature"], setting["delta"]
    inside = (-tau * (d_n - d_b) + delta) / (2 * s2)
    return np.clip(p * np.exp(inside), setting.get("p_min", 1e-6), setting["p_max"])


@pytest.mark.parametrize("setting", SETTINGS, ids=["plain", "cifar", "clamped"])
def test_pair_is_the_recursion_at_every_t(setting):
    rng = np.random.default_rng(0)
    s2 = coefficients()[2][:, None]
    p = rng.uniform(0.05, 0.5, (999, B))
    tracker = posterior.pair(**setting)

    # The algebra, in double precision: 1e-6 relative in p at all t (float32 settings: 1e-8 of 10)
    with jax.enable_x64(True):
        x, eps, x_next = chain(rng, ["base", "negative"], 0.3, np.float64)
        d = distances(x_next, means_of(x, eps))
        expected = recursion(setting, p, d["base"], d["negative"], s2)
        args = (double(tracker), np.log(p)[..., None], float64_rows(), x, eps, x_next)
        got = np.exp(step_all(*args)[..., 0])
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    clamped = (expected == setting["p_max"]) | (expected == setting.get("p_min", 1e-6))
    assert clamped.mean() < 0.5
    assert clamped.any() == (setting["p_max"] < 0.99)

    # As it runs, in float32, on the table of the library
    x, eps, x_next = chain(rng, ["base", "negative"], 0.3, np.float32)
    mu = means_of(x, eps)
    d = distances(x_next, mu)
    expected = recursion(setting, p, d["base"], d["negative"], s2)
    rows = jax.tree.map(lambda c: c[:-1], steps.ddpm(schedules.linear()))
    args = (tracker, np.log(p).astype(np.float32)[..., None], rows, x, eps, x_next)
    error = np.abs(np.exp(step_all(*args)[..., 0]) / expected - 1)
    # x' - mu cancels: float32 carries x' to 6e-8 |x'|, which the step's scale s2 makes
    # tau 6e-8 |x'| |D| / s2 in log p, plus the rounding of log p itself and of the sum
    gap = np.sqrt(((mu["negative"] - mu["base"]) ** 2).sum(-1))
    size = np.sqrt((x.astype(float) ** 2).sum(-1))
    bound = 1.5e-6 + 2e-7 * setting["temperature"] * size * gap / s2
    assert np.all(error < bound)
    assert np.median(error) < 1e-6


def test_odds_is_the_plain_form_against_the_complement():
    rng = np.random.default_rng(1)
    s2 = coefficients()[2][:, None]
    with jax.enable_x64(True):
        x, eps, x_next = chain(rng, ["base", "negative"], 0.1, np.float64)
        log_odds = rng.uniform(-4, 1.5, (999, B))
        mu = means_of(x, eps)
        mu["complement"] = mu["base"] - np.exp(log_odds)[..., None] * (mu["negative"] - mu["base"])
        d = distances(x_next, mu)
        expected = log_odds + (-0.7 * (d["negative"] - d["complement"]) + 3e-5) / (2 * s2)
        tracker = double(posterior.odds(0.2, temperature=0.7, delta=3e-5, p_min=1e-12))
        got = step_all(tracker, log_odds[..., None], float64_rows(), x, eps, x_next)[..., 0]
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_several_negatives():
    rng = np.random.default_rng(2)
    s2 = coefficients()[2][:, None]
    names = ("first", "second")
    with jax.enable_x64(True):
        x, eps, x_next = chain(rng, ["base", *names], 0.1, np.float64)
        mu = means_of(x, eps)
        d = distances(x_next, mu)
        p = rng.uniform(0.05, 0.3, (999, B, 2))
        tracker = double(posterior.pair((0.1, 0.2), negatives=names, p_min=1e-9))
        got = step_all(tracker, np.log(p), float64_rows(), x, eps, x_next)
        for i, name in enumerate(names):
            expected = np.log(p[..., i]) + (d["base"] - d[name]) / (2 * s2)
            np.testing.assert_allclose(got[..., i], np.minimum(expected, np.log(0.99)), atol=1e-6)

        # o_k = p_k/(1 - sum_j p_j), and the complement is what the base has over
        o = p / (1 - p.sum(-1, keepdims=True))
        pushed = sum(o[..., [i]] * (mu[name] - mu["base"]) for i, name in enumerate(names))
        mu["complement"] = mu["base"] - pushed
        d = distances(x_next, mu)
        tracker = double(posterior.odds((0.1, 0.2), negatives=names, p_min=1e-12))
        got = step_all(tracker, np.log(o), float64_rows(), x, eps, x_next)
        for i, name in enumerate(names):
            expected = np.log(o[..., i]) + (d["complement"] - d[name]) / (2 * s2)
            np.testing.assert_allclose(got[..., i], expected, atol=1e-6)


def test_classes_is_bayes_rule_with_gaussian_densities():
    rng = np.random.default_rng(3)
    s2 = coefficients()[2][:, None]
    roles = [f"class:{k}" for k in range(3)]
    with jax.enable_x64(True):
        x, eps, x_next = chain(rng, roles, 0.1, np.float64)
        d = distances(x_next, means_of(x, eps))
        p = rng.dirichlet(np.ones(3), (999, B))
        density = np.stack([np.exp(-d[role] / (2 * s2)) / (2 * np.pi * s2) for role in roles], -1)
        for tau, delta in ((1.0, 0.0), (0.4, 2e-5)):
            bump = np.exp(delta / (2 * s2))[..., None] ** np.array([1, 0, 1])
            expected = p * density**tau * bump
            expected /= expected.sum(-1, keepdims=True)
            tracker = double(posterior.classes(3, [0, 2], temperature=tau, delta=delta))
            got = step_all(tracker, np.log(p), float64_rows(), x, eps, x_next)
            np.testing.assert_allclose(np.exp(got), expected, rtol=1e-6)
            np.testing.assert_allclose(np.exp(got).sum(-1), 1, rtol=1e-12)


def test_floor_of_the_class_probabilities():
    tracker = posterior.classes(3, [0], p_min=0.01)
    row = first_row(steps.ddpm(schedules.linear(), 10))
    zero = jnp.zeros((1, 2))
    eps = {"class:0": zero + 30.0, "class:1": zero, "class:2": zero}
    move = Move(row.k_x * zero, row.k_x * zero)
    state = tracker.observe(tracker.init(zero), Step(row, zero, eps, None, None), move)
    # floored at .01 before the last normalisation: (.01, .5, .5)/1.01
    np.testing.assert_allclose(np.exp(state[0]), np.array([0.01, 0.5, 0.5]) / 1.01, rtol=1e-5)


@pytest.mark.parametrize(
    "tracker",
    [
        posterior.pair(0.2, p_min=1e-9),
        posterior.odds(0.2),
        posterior.classes(2, [1], concepts=("base", "negative")),
    ],
    ids=["pair", "odds", "classes"],
)
def test_what_a_step_says_does_not_depend_on_the_units_of_x(tracker):
    # x/alpha turns the VP chain into a VE chain: same noise, same predictions, same posterior.
    rng = np.random.default_rng(4)
    linear = schedules.linear()
    vp = steps.ddpm(linear, 25)
    ve = steps.ddpm(schedules.Schedule(np.ones(1000), linear.sigma / linear.alpha), 25)
    for i in (0, 12, 23):
        a, b = (jax.tree.map(lambda c, i=i: c[i], t) for t in (vp, ve))
        x, base, negative, z = rng.normal(size=(4, B, D)).astype(np.float32)
        x_next = a.k_x * x + a.k_eps * base + a.std * z
        preds = {"base": base, "negative": base + 0.2 * negative}
        after = []
        for row, units in ((a, (1, 1)), (b, (a.alpha, a.alpha_next))):
            step = Step(row, x / units[0], preds, None, None)
            move = Move(x_next / units[1], x_next / units[1])
            after.append(tracker.observe(tracker.init(x), step, move))
        assert float(jnp.abs(after[0] - tracker.init(x)).max()) > 1e-3
        np.testing.assert_allclose(*after, atol=2e-4, rtol=1e-4)


def test_last_row_teaches_nothing():
    table = steps.ddpm(schedules.linear(), 10)
    last = jax.tree.map(lambda c: c[-1], table)
    x = jnp.ones((2, 3))
    preds = {"base": x, "negative": 3 * x, "class:0": x, "class:1": 2 * x}
    for tracker in (posterior.pair(0.2), posterior.odds(0.2), posterior.classes(2, [0])):
        tracker = dataclasses.replace(tracker, delta=jnp.float32(7.0))
        state = tracker.init(x)
        after = tracker.observe(state, Step(last, x, preds, None, None), Move(x, -x))
        np.testing.assert_allclose(after, state, atol=1e-6)


# ------------------------------------------------------------------------------------- offsets


def first_row(table, i=0):
    return jax.tree.map(lambda c: jnp.asarray(c[i]), table)


@pytest.mark.parametrize("drift", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ["pair", "odds", "classes"])
def test_drift_gives_back_its_share_of_the_expected_increment(name, drift):
    # An increment is linear in the noise z: the mean over z and -z is its expectation.
    rng = np.random.default_rng(6)
    row = first_row(steps.ddpm(schedules.linear(), 50), 20)
    x, base, other, z = rng.normal(size=(4, B, D)).astype(np.float32)
    difference = 0.2 * other
    tau, scale = 0.6, 2.5
    preds = {"base": base, "negative": base + difference}
    if name == "classes":
        # base is here the mixture of two classes with p = .3 of the forbidden one
        preds = {"class:0": base + difference, "class:1": base - 0.3 / 0.7 * difference}
        tracker = posterior.classes(2, [0], prior=[0.3, 0.7], temperature=tau, drift=drift)
    else:
        make = {"pair": posterior.pair, "odds": posterior.odds}[name]
        tracker = make(0.3, temperature=tau, drift=drift)
    mean = row.k_x * x + row.k_eps * (base - scale * difference)
    state = tracker.init(x)
    step = Step(row, x, preds, None, None)
    both = [tracker.observe(state, step, Move(mean, mean + s * row.std * z)) for s in (1, -1)]
    gained = np.asarray((both[0] + both[1]) / 2 - state)
    if name == "classes":
        gained = [np.asarray(s[:, 0] - s[:, 1]) for s in (*both, state)]
        gained = (gained[0] + gained[1]) / 2 - gained[2]
    square = (float(row.k_eps) ** 2 * difference.astype(float) ** 2).sum(-1)
    # dng_jax.posterior, 5: -tau (1 + 2 lambda) k^2 |D|^2 / (2 s2) for log p against the base.
    # Against the complement mu_c = mu_b - o D both distances are to mu_b - lambda D:
    # (1 + lambda)^2 - (lambda - o)^2 in place of (1 + lambda)^2 - lambda^2.
    o = 0.0 if name == "pair" else 0.3 / 0.7
    bias = -tau * ((1 + scale) ** 2 - (scale - o) ** 2) * square / (2 * float(row.k_var))
    assert np.all(np.abs(bias) > 1e-3)
    np.testing.assert_allclose(
        gained.reshape(B), (1 - drift) * bias, rtol=1e-3, atol=2e-6 + 1e-5 * np.abs(bias).max()
    )


# ------------------------------------------------------------------- deterministic samplers


def linear_denoiser(matrices):
    def denoise(x, row, roles):
        return {role: x @ matrices[role].T for role in roles}

    return denoise


TABLES = {
    "ddim": steps.ddim(schedules.linear(), 20),
    "half": steps.ddim(schedules.linear(), 20, eta=0.5),
    "ancestral": steps.ddpm(schedules.linear(), 20),
    "paper": steps.ddpm_paper(schedules.linear(), 20),
}


@pytest.mark.parametrize("name", TABLES)
def test_divergence_term_of_a_linear_denoiser(name):
    # eps_k = A_k x: div(mu_neg - mu_base) = k_eps tr(A_neg - A_base); v'Av = tr A exactly for
    # diagonal A and Rademacher v, so that one probe is enough.
    rng = np.random.default_rng(7)
    diagonals = {role: rng.uniform(0, 0.3, D) for role in ("base", "negative")}
    denoise = linear_denoiser(
        {k: jnp.asarray(np.diag(v), jnp.float32) for k, v in diagonals.items()}
    )
    row = first_row(TABLES[name], 17)
    x = jnp.asarray(0.1 * rng.normal(size=(B, D)), jnp.float32)
    trace = (diagonals["negative"] - diagonals["base"]).sum()
    std2, k_var = float(row.std) ** 2, float(row.k_var)
    expected = -(1 - std2 / k_var) / 2 * float(row.k_eps) * trace
    keys = sampling.sample_keys(0, B)

    def evaluate(x):
        return denoise(x, row, ("base", "negative"))

    step = Step(row, x, evaluate(x), evaluate, keys)
    move = Move(row.k_x * x, row.k_x * x)
    trackers = (posterior.pair(0.2, probes=1), posterior.pair(0.2))
    after = [t.observe(t.init(x), step, move)[:, 0] for t in trackers]
    np.testing.assert_allclose(after[0] - after[1], expected, atol=3e-6, rtol=2e-4)
    # against the complement: div (1 + o)(mu_neg - mu_base), where o = 1/4 turns with x as well,
    # grad o = o (1 + o) (s_neg - s_base) and eps = -sigma s
    trackers = (posterior.odds(0.2, probes=1), posterior.odds(0.2))
    after = [t.observe(t.init(x), step, move)[:, 0] for t in trackers]
    gap = np.asarray(step.preds["negative"] - step.preds["base"], np.float64)
    turning = 0.25 * 1.25 * -(gap**2).sum(1) / float(row.sigma)
    expected = -(1 - std2 / k_var) / 2 * float(row.k_eps) * (1.25 * trace + turning)
    np.testing.assert_allclose(after[0] - after[1], expected, atol=3e-6, rtol=2e-4)
    assert np.all(np.abs(expected) < 1e-6) == (name == "ancestral")


def test_probes_average_to_the_trace_for_a_full_matrix():
    rng = np.random.default_rng(8)
    a = rng.normal(size=(D, D)) * 0.3
    denoise = linear_denoiser({"base": jnp.zeros((D, D)), "negative": jnp.asarray(a, jnp.float32)})
    row = first_row(TABLES["ddim"], 10)
    n = 4000
    x = jnp.zeros((n, D))

    def evaluate(x):
        return denoise(x, row, ("base", "negative"))

    step = Step(row, x, evaluate(x), evaluate, sampling.sample_keys(1, n))
    got = {}
    for probes in (1, 3):
        evidence = posterior.pair(0.2, probes=probes).evidence(step, Move(x, x))
        got[probes] = np.asarray(evidence.divergence[:, 0], np.float64) / float(row.k_eps)
        assert got[probes].mean() == pytest.approx(
            np.trace(a), abs=4 * got[probes].std() / np.sqrt(n)
        )
    # variance of Hutchinson's estimate with Rademacher probes: sum_{i<j} (a_ij + a_ji)^2
    off = np.triu(a + a.T, 1)
    assert got[1].var() == pytest.approx((off**2).sum(), rel=0.1)
    assert got[3].var() == pytest.approx((off**2).sum() / 3, rel=0.1)


ONE_D = mixtures.gaussians([[-1.0], [0.1], [1.2]], [0.12, 0.4, 0.35], weights=[0.3, 0.3, 0.4])


def tracked_and_exact(tracker, table, role="base"):
    """Final and halfway log-odds of class 0 along unguided chains in one dimension."""
    denoise = mixtures.mixture_denoiser(ONE_D, {"negative": [0]})
    rule = guidance.dynamic_negative(tracker, 0.0, base="model")
    truth = posterior.oracle(ONE_D, [0])

    def observe(state, step):
        return {"exact": truth.log_odds(step)}

    keys = sampling.sample_keys(2, 64)
    x = sampling.initial_noise(keys, (1,), table)
    trace = sampling.sample(denoise, table, rule, keys, x, observe=observe).trace
    return np.asarray(trace["posterior"]), np.asarray(jax.nn.sigmoid(trace["exact"]))


@pytest.mark.parametrize("name", ["pair", "odds", "classes"])
def test_deterministic_chains_are_tracked_with_a_probe_and_only_with_it(name):
    # One dimension: the probe is exact, and what remains is the error of the step, O(1/steps), and
    # the prior at x_T in place of the posterior.
    make = {
        "pair": lambda probes: posterior.pair(0.3, p_max=0.999, probes=probes),
        "odds": lambda probes: posterior.odds(0.3, probes=probes),
        "classes": lambda probes: posterior.classes(3, [0], prior=[0.3, 0.3, 0.4], probes=probes),
    }[name]
    table = steps.ddim(schedules.linear(), 250, spacing="logsnr")
    p, exact = tracked_and_exact(make(1), table)
    error = np.abs(p - exact).mean(1)
    with pytest.warns(UserWarning, match="divergence"):
        p, exact = tracked_and_exact(make(0), table)
    without = np.abs(p - exact).mean(1)
    assert error.max() < 0.02
    assert without.max() > 4 * error.max()


# --------------------------------------------------------------------------------- temperature


def test_temperature_table_is_interpolated_in_logsnr():
    table = steps.ddpm(schedules.linear(), 40)
    knots, values = (-4.0, 0.0, 5.0), (0.2, 1.0, 0.05)
    tau = posterior.temperature((knots, values))
    got = jax.vmap(tau)(jax.tree.map(jnp.asarray, table))
    logsnr = np.log(table.alpha.astype(float) ** 2 / table.sigma.astype(float) ** 2)
    np.testing.assert_allclose(got, np.interp(logsnr, knots, values), atol=3e-6)
    assert float(posterior.temperature(0.3)(first_row(table))) == pytest.approx(0.3)
    assert posterior.temperature(tau) is tau


def test_temperature_weighs_evidence_but_not_the_raw_offset():
    row = first_row(steps.ddpm(schedules.linear(), 50), 30)
    x = jnp.zeros((1, 4))
    preds = {"base": x, "negative": x + 1.0}
    move = Move(x, row.k_x * x + 0.01)
    gained = []
    for tau in (0.0, 0.5, 1.0):
        tracker = posterior.pair(0.1, temperature=tau, delta=1e-4)
        after = tracker.observe(tracker.init(x), Step(row, x, preds, None, None), move)
        gained.append(float((after - tracker.init(x))[0, 0]))
    offset = 1e-4 / (2 * float(row.k_var))
    assert gained[0] == pytest.approx(offset, abs=3e-7)  # an ulp of log .1
    assert gained[1] - offset == pytest.approx((gained[2] - offset) / 2, rel=1e-3)


# --------------------------------------------------------------------------------- what it says


def test_view_of_pair_and_odds():
    rng = np.random.default_rng(9)
    x, base, first, second = rng.normal(size=(4, 1, D)).astype(np.float32)
    preds = {"base": base, "first": first, "second": second}
    step = Step(None, x, preds, None, None)
    p = np.array([[0.1, 0.3]])
    tracker = posterior.pair((0.1, 0.3), negatives=("first", "second"))
    view = tracker.view(tracker.init(x), step)
    assert float(view.log_odds[0]) == pytest.approx(np.log(0.4 / 0.6), abs=1e-6)
    np.testing.assert_allclose(view.eps_forbidden, (0.1 * first + 0.3 * second) / 0.4, rtol=1e-5)
    # two clamped at .99 each: their sum is kept below p_max
    view = tracker.view(jnp.log(jnp.array([[0.99, 0.99]])), step)
    assert float(view.log_odds[0]) == pytest.approx(np.log(99), rel=1e-4)
    tracker = posterior.odds((0.1, 0.3), negatives=("first", "second"), odds_max=0.5)
    np.testing.assert_allclose(np.exp(tracker.log_probabilities(tracker.init(x))), p, rtol=1e-5)
    view = tracker.view(tracker.init(x), step)
    assert float(view.log_odds[0]) == pytest.approx(np.log(0.5), abs=1e-6)  # .4/.6 is capped


def test_view_of_classes_weighs_both_sides():
    rng = np.random.default_rng(10)
    x, a, b, c = rng.normal(size=(4, 1, D)).astype(np.float32)
    step = Step(None, x, {"class:0": a, "class:1": b, "class:2": c}, None, None)
    tracker = posterior.classes(3, [0, 2], prior=[0.2, 0.3, 0.5])
    view = tracker.view(tracker.init(x), step)
    assert float(view.log_odds[0]) == pytest.approx(np.log(0.7 / 0.3), abs=1e-6)
    np.testing.assert_allclose(view.eps_forbidden, (0.2 * a + 0.5 * c) / 0.7, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(view.eps_allowed, b, rtol=1e-5)


# --------------------------------------------------------------------------------- bad numbers

TRACKERS = {
    "pair": posterior.pair((0.2, 0.3), negatives=("class:0", "class:1"), delta=1e-3, drift=1.0),
    "odds": posterior.odds((0.2, 0.3), negatives=("class:0", "class:1"), delta=1e-3, drift=1.0),
    "classes": posterior.classes(3, [0, 1], delta=1e-3, drift=1.0),
    "floored": posterior.classes(3, [0, 1], p_min=0.01),
}
TWENTY = steps.ddim(schedules.linear(), 20)
ROLES = ("base", "class:0", "class:1", "class:2")


@jax.jit
def twice(tracker, x, eps, x_next, index):
    """Two steps of the same evidence, then the guidance it gives."""
    row = jax.tree.map(lambda c: jnp.asarray(c)[index], TWENTY)
    step = Step(row, x, dict(zip(ROLES, eps, strict=True)), None, None)
    rule = guidance.dynamic_negative(tracker, 0.0, base="model")
    state = tracker.init(x)
    for _ in range(2):
        state = tracker.observe(state, step, Move(x_next, x_next))
    _, _, info = rule.apply(state, step)
    return tracker.log_probabilities(state), info


exponents = st.lists(st.integers(-45, 38), min_size=6, max_size=6)


@pytest.mark.parametrize("name", TRACKERS)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(powers=exponents, seed=st.integers(0, 2**31), index=st.integers(0, 19))
@hypothesis.example(powers=[38] * 6, seed=0, index=18)
@hypothesis.example(powers=[0, 0, 0, 2, 0, 0], seed=0, index=18)
@hypothesis.example(powers=[0, 38, 0, 0, 0, 0], seed=1, index=19)
def test_any_finite_input_leaves_a_probability(name, powers, seed, index):
    drawn = np.random.default_rng(seed).uniform(-3.4, 3.4, (6, 2, 3))
    x, x_next, *eps = (drawn * 10.0 ** np.array(powers)[:, None, None]).astype(np.float32)
    log_p, info = twice(TRACKERS[name], x, eps, x_next, index)
    p = np.exp(np.asarray(log_p, np.float64))
    assert np.all((p >= 0) & (p <= 1 + 1e-6))
    assert np.all((np.asarray(info["posterior"]) >= 0) & (np.asarray(info["posterior"]) <= 1))
    assert np.all(np.asarray(info["lambda"]) == 0)
    if name != "pair":
        assert np.all(p.sum(-1) <= 1 + 1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posterior.pair(0.0), "prior.*0.0"),
        (lambda: posterior.pair(1.0), "prior.*1.0"),
        (lambda: posterior.odds(-0.1), "prior.*-0.1"),
        (lambda: posterior.pair(float("nan")), "prior.*nan"),
        (lambda: posterior.pair((0.5, 0.5), negatives=("a", "b")), "less than 1, got 1"),
        (lambda: posterior.odds(0.6, negatives=("a", "b")), "less than 1, got 1.2"),
        (lambda: posterior.pair(0.1, negatives=()), "at least one negative"),
        (lambda: posterior.pair((0.1, 0.1, 0.1), negatives=("a", "b")), "3"),
        (lambda: posterior.pair(0.2, p_max=1.0), "p_max.*1.0"),
        (lambda: posterior.pair(0.2, drift=1.5), "drift.*1.5"),
        (lambda: posterior.pair(0.2, temperature=-1.0), "temperature.*-1.0"),
        (lambda: posterior.pair(0.2, probes=-1), "probes.*-1"),
        (lambda: posterior.odds(0.2, p_min=0.0), "p_min.*0.0"),
        (lambda: posterior.odds(0.2, odds_max=0.0), "odds_max.*0.0"),
        (lambda: posterior.classes(3, []), "at least one class"),
        (lambda: posterior.classes(3, [0, 1, 2]), "all 3 classes"),
        (lambda: posterior.classes(3, [3]), "class 3 does not exist"),
        (lambda: posterior.classes(3, [-1]), "class -1 does not exist"),
        (lambda: posterior.classes(3, [0], prior=[0.5, 0.5]), "3 classes"),
        (lambda: posterior.classes(3, [0], prior=[0.5, 0.4, 0.2]), "sum to 1, got 1.1"),
        (lambda: posterior.classes(3, [0], concepts=("a", "b")), "got 2"),
        (lambda: posterior.classes(3, [0], p_min=0.5), "p_min.*0.5"),
        (lambda: posterior.oracle(ONE_D, [5]), "class 5 does not exist"),
        (lambda: posterior.temperature(((0.0, 1.0), (1.0,))), "as many"),
        (lambda: posterior.temperature(((1.0, 0.0), (1.0, 1.0))), "increase"),
        (lambda: posterior.temperature(((0.0, 1.0), (1.0, -2.0))), "-2.0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_detector_survives_certainty():
    # log-odds beyond 88 have no odds in float32; lambda_0 = 0 must still be no guidance
    x = jnp.zeros((1, 2))
    step = Step(None, x, dict.fromkeys(ROLES, x), None, None)
    rule = guidance.dynamic_negative(TRACKERS["classes"], 0.0, base="model")
    delta, _, info = rule.apply(jnp.log(jnp.array([[1.0, 1e-30, 0.0]])) - 1e-3, step)
    assert float(info["lambda"][0]) == 0
    assert np.all(np.asarray(delta) == 0)
