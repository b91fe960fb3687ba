"""Many trainings as one against NumPy; seeds; observables; collapse and peaks; the job."""

from __future__ import annotations

import csv
import json
import math
import re

import jax
import numpy as np
import pytest
from scipy.special import softmax

from dng_jax.errors import InputError
from eval.hopfield import __main__ as job
from hopfield_jax import spectrum
from hopfield_jax.analyses import data_collapse, training
from hopfield_jax.analyses.training import Examples
from hopfield_jax.layers import HopfieldLayer

pytestmark = pytest.mark.usefixtures("quick_compilation")

N, DIM = 6, 5


@pytest.fixture(scope="module")
def problem():
    """Three blobs that a few keys tell apart."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8))
    y = rng.integers(3, size=120).astype(np.int32)
    x = (centres[y] + 0.3 * rng.normal(size=(120, 8))).astype(np.float32)
    return Examples(x[:90], y[:90]), Examples(x[90:], y[90:])


def train(problem, members, **options):
    options = {"steps": 30, "batch": 16} | options
    return training.train(
        HopfieldLayer(N, DIM, 3), members, *problem, key=jax.random.key(3), **options
    )


@pytest.fixture(scope="module")
def trained(problem):
    members = training.grid([0.1, 0.4, 1.6], [(1, 1), (2, 2), (2, 1)], [0.05, 0.01], 2)
    return members, train(problem, members)


def at(members, **wanted):
    """Indices of the members with these fields, seeds in order."""
    hit = np.all([np.isclose(getattr(members, k), v) for k, v in wanted.items()], axis=0)
    return np.flatnonzero(hit)


def test_a_grid_has_every_combination_with_seeds_fastest():
    members = training.grid([1, 2], [(1, 1), (3, 1)], [0.1, 0.2, 0.3], 2)
    assert members.beta.tolist() == [1, 1, 2, 2] * 6
    assert members.keys.tolist() == [1] * 12 + [3] * 12
    assert members.states.tolist() == [1] * 24
    assert members.rate.tolist() == [r for r in (0.1, 0.2, 0.3) for _ in range(4)] * 2
    assert members.seed.tolist() == [0, 1] * 12


def test_a_seed_takes_the_rate_that_is_best_for_the_others():
    # of two seeds each takes the other's best: a rate that is best by luck alone gains nothing
    taken = training.best_rate([[[9, 1]], [[2, 8]], [[3, 3]]])
    assert taken.tolist() == [[1, 0]]
    assert training.best_rate([[[7, 1, 2]], [[6, 2, 2]]]).tolist() == [[1, 0, 0]]  # first of equals
    luck = np.random.default_rng(0).normal(size=(3, 4000, 8))
    taken = training.best_rate(luck)[None]
    assert abs(np.take_along_axis(luck, taken, 0).mean()) < 0.02  # the largest mean's: .3
    better = luck + np.array([0, 5, 0])[:, None, None]
    assert (training.best_rate(better) == 1).all()


def test_members_learn_and_temperatures_enter_as_they_must(trained):
    members, found = trained
    # the same function at the start: one beta_eff with states of the keys' norm
    plain = at(members, beta=0.4, keys=1, rate=0.05)
    large = at(members, beta=0.1, keys=2, states=2, rate=0.05)
    for name in ("beta_eff", "entropy_start", "logit_spread", "key_gradient_start"):
        value = getattr(found, name)
        np.testing.assert_allclose(value[plain], value[large], rtol=1e-4)
    # trained with one rate, it is another one
    assert not np.allclose(found.entropy_end[plain], found.entropy_end[large], rtol=1e-2)
    assert np.median(found.right[at(members, rate=0.05)]) >= 28  # of 30
    # a rate is of what follows the first gradient: the same start, another end
    slow = at(members, beta=0.4, keys=1, rate=0.01)
    np.testing.assert_allclose(found.gradient_start[plain], found.gradient_start[slow], rtol=1e-5)
    assert (found.loss_end[slow] > found.loss_end[plain] + 0.1).all()
    assert (
        found.beta_eff[at(members, keys=2)] > 3.9 * found.beta_eff[at(members, keys=1)][0]
    ).any()


@pytest.mark.slow
def test_a_member_does_not_know_the_others(problem, trained):
    members, found = trained
    (i,) = at(members, beta=0.4, keys=2, states=1, rate=0.01, seed=1)
    alone = train(problem, training.Members(*(column[[i]] for column in members)))
    for name, value in alone._asdict().items():
        np.testing.assert_allclose(value[0], getattr(found, name)[i], rtol=2e-4, err_msg=name)


def initial(problem, keys, states, seed):
    """Initial values in float64 of a member, from its own key, and the key."""
    key = jax.random.fold_in(jax.random.key(3), seed)
    first = jax.random.fold_in(key, training.INITIAL)
    drawn = jax.jit(HopfieldLayer(N, DIM, 3).init)(first, problem[0].x[:1], 1.0)["params"]
    kernel, bias = (states * np.float64(drawn["state"][name]) for name in ("kernel", "bias"))
    return [keys * np.float64(drawn["keys"]), np.float64(drawn["values"]), kernel, bias], key


def normal(x):
    x = np.float64(x)
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)


def gradients(params, x, y, beta):
    """Loss and its gradients by the equations of hopfield_jax.layers, of keys, values, W, b."""
    keys, values, kernel, bias = params
    x = normal(x)
    xi = x @ kernel + bias
    p = softmax(beta * xi @ keys.T, axis=1)
    shares = softmax(p @ values, axis=1)
    delta = (shares - np.eye(3)[y]) / len(y)
    down = delta @ values.T
    r = p * (down - (p * down).sum(axis=1, keepdims=True))
    g = beta * r @ keys
    loss = -np.log(shares[np.arange(len(y)), y]).mean()
    return loss, [beta * r.T @ xi, p.T @ delta, x.T @ g, g.sum(axis=0)]


def batches(key, steps):
    """Rows of the examples in every batch of a member."""

    def rows(n):
        return jax.random.randint(jax.random.fold_in(key, n), (16,), 0, 90)

    return np.asarray(jax.vmap(rows)(np.arange(steps)))


def test_the_first_observables_are_the_textbooks(problem, trained):
    members, found = trained
    (i,) = at(members, beta=1.6, keys=2, states=2, rate=0.05, seed=1)
    examples, test = problem
    params, key = initial(problem, 2, 2, 1)
    keys, _, kernel, bias = params
    assert found.beta_eff[i] == pytest.approx(float(spectrum.beta_eff(keys, 1.6)), rel=1e-6)
    scores = 1.6 * (normal(test.x) @ kernel + bias) @ keys.T
    p = softmax(scores, axis=1)
    entropy = -(p * np.log(p)).sum(axis=1).mean() / math.log(N)
    assert found.entropy_start[i] == pytest.approx(entropy, rel=1e-4)
    spread = math.sqrt(scores.var(axis=1).mean())
    assert found.logit_spread[i] == pytest.approx(spread, rel=1e-5)
    # the gradient on the member's own first batch
    (rows,) = batches(key, 1)
    _, parts = gradients(params, examples.x[rows], examples.y[rows], 1.6)
    whole = math.sqrt(sum((part**2).sum() for part in parts))
    assert found.gradient_start[i] == pytest.approx(whole, rel=1e-3)
    size = np.linalg.norm(keys) * np.linalg.norm(parts[0])
    assert found.key_gradient_start[i] == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize("rate", [0.05, 0.01])
def test_members_are_trained_as_by_adam_of_their_rate(problem, trained, rate):
    """All steps in float64 by Kingma & Ba's algorithm 1; the projection's rate by its inputs."""
    members, found = trained
    (i,) = at(members, beta=0.4, keys=1, states=1, rate=rate, seed=1)
    examples, _ = problem
    params, key = initial(problem, 1, 1, 1)
    rates = [rate, rate, rate / math.sqrt(8), rate]
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    losses = []
    for n, rows in enumerate(batches(key, 30), 1):
        loss, grads = gradients(params, examples.x[rows], examples.y[rows], 0.4)
        losses.append(loss)
        m = [0.9 * a + 0.1 * g for a, g in zip(m, grads, strict=True)]
        v = [0.999 * a + 0.001 * g**2 for a, g in zip(v, grads, strict=True)]
        params = [
            p - of * (a / (1 - 0.9**n)) / (np.sqrt(b / (1 - 0.999**n)) + 1e-8)
            for p, of, a, b in zip(params, rates, m, v, strict=True)
        ]
    ended = float(spectrum.beta_eff(params[0], 0.4))
    assert found.beta_eff_end[i] == pytest.approx(ended, rel=2e-3)
    assert found.loss_end[i] == pytest.approx(np.mean(losses[-3:]), rel=1e-2)


def test_too_few_outputs_are_named(problem):
    with pytest.raises(InputError, match="2 outputs cannot tell 3 classes"):
        training.train(
            HopfieldLayer(N, DIM, 2),
            training.grid([1.0], [(1, 1)], [0.1], 1),
            *problem,
            steps=1,
            batch=4,
            key=jax.random.key(0),
        )


# --------------------------------------------------------------------------- collapse and peaks


BETAS = np.geomspace(0.01, 100, 25)
WEIGHTS = data_collapse.resampled(6, 200)


def curves(shifts, noise, seed=0):
    """x [A, B] and one sigmoid of log (x * shift), y [A, B, 6]."""
    rng = np.random.default_rng(seed)
    x = np.tile(BETAS, (len(shifts), 1))
    y = 1 / (1 + 1 / (x * np.asarray(shifts)[:, None]))
    return x, y[..., None] + noise * rng.normal(size=(*y.shape, 6))


def alone(x, y, groups):
    """U over one abscissa."""
    found = data_collapse.collapse({"x": x}, y, groups, WEIGHTS)
    return found.unexplained["x"], found


def test_one_curve_leaves_nothing_and_unrelated_values_leave_all():
    shifts = (1, 9, 0.2)
    x, y = curves(shifts, 0)
    apart, _ = alone(x, y, [[0, 1, 2]])
    whole, found = alone(x * np.array(shifts)[:, None], y, [[0, 1, 2]])
    assert apart.value > 0.2
    assert whole.value < 1e-3
    assert found.points < 6 * 25  # of overlaps alone
    drawn = np.random.default_rng(1).normal(size=(12, 25, 6))
    free, found = alone(np.tile(BETAS, (12, 1)), drawn, [range(12)])
    assert free.value == pytest.approx(1, abs=0.1)
    assert found.noise == pytest.approx(1, abs=0.15)


def test_the_share_of_straight_lines_is_the_closed_forms():
    """y = log x + Delta, Delta = k steps of the grid: U = 6 k^2/(m^2 - 1) over m = B - k points."""
    k, m = 4, 21
    x = np.tile(2.0 ** np.arange(25), (2, 1))  # products of powers of two are exact
    shifted = x * np.array([1, 2**k])[:, None]
    y = np.repeat(np.log(shifted)[..., None], 6, axis=2)
    found = data_collapse.collapse({"beta": x, "shifted": shifted}, y, [[0, 1]], WEIGHTS)
    assert found.points == 2 * m  # where they overlap over both
    assert found.unexplained["beta"].value == pytest.approx(6 * k**2 / (m**2 - 1), rel=1e-9)
    assert found.unexplained["shifted"].value < 1e-20
    assert found.gain["shifted"].value == pytest.approx(6 * k**2 / (m**2 - 1), rel=1e-9)


def test_abscissae_are_compared_on_the_same_points():
    """Against a loop over pairs and points in NumPy; one abscissa does not know of scale."""
    rng = np.random.default_rng(5)
    scales = np.array([1.0, 6.0, 0.3, 40.0])[:, None]
    x, y = curves(scales[:, 0], 0.1)
    xs = {"a": x, "b": x * scales, "c": x * rng.uniform(0.5, 2, size=(4, 1))}
    groups = [[0, 1, 2], [1, 3]]
    found = data_collapse.collapse(xs, y, groups, WEIGHTS)
    mean = y.mean(axis=2)
    squared, spread, points = dict.fromkeys(xs, 0.0), 0.0, 0
    for group in groups:
        taken = []
        for p in group:
            for a in group:
                for i in range(25):
                    inside = all(v[p, 0] <= v[a, i] <= v[p, -1] for v in xs.values())
                    if a == p or not inside:
                        continue
                    taken.append(mean[a, i])
                    for name, v in xs.items():
                        told = np.interp(np.log(v[a, i]), np.log(v[p]), mean[p])
                        squared[name] += (told - mean[a, i]) ** 2
        spread, points = spread + len(taken) * np.var(taken), points + len(taken)
    assert found.points == points < sum(len(g) * (len(g) - 1) for g in groups) * 25
    for name in xs:
        assert found.unexplained[name].value == pytest.approx(squared[name] / spread / 2, rel=1e-9)
    assert set(found.gain) == {"b", "c"}
    gain = found.unexplained["a"].value - found.unexplained["b"].value
    assert found.gain["b"].value == pytest.approx(gain)
    # what an abscissa of little overlap leaves out, it leaves out of the others as well
    apart = {"a": x, "far": x * np.array([1, 1e3, 1, 1])[:, None]}
    few = data_collapse.collapse(apart, y, [[0, 1]], WEIGHTS)
    assert few.unexplained["a"] != alone(x, y, [[0, 1]])[0]


def test_a_gain_is_paired_and_its_interval_holds():
    """Noise that all curves of a seed share is none of a difference; the true gain is covered."""
    x, y = curves((1, 4), 0)
    xs = {"beta": x, "shifted": x * np.array([1, 4])[:, None]}
    truth = data_collapse.collapse(xs, y, [[0, 1]], WEIGHTS).gain["shifted"].value
    assert truth > 0.05
    held, narrower = [], []
    for seed in range(40):
        noise = 0.05 * np.random.default_rng(seed).normal(size=y.shape)
        found = data_collapse.collapse(xs, y + noise, [[0, 1]], WEIGHTS)
        gain = found.gain["shifted"]
        held.append(gain.low <= truth <= gain.high and gain.low > 0)
        of_beta = found.unexplained["beta"]
        narrower.append((gain.high - gain.low) / (of_beta.high - of_beta.low))
    assert np.mean(held) > 0.75  # six seeds: percentile intervals are short
    assert np.median(narrower) < 1.05
    same = {"beta": x, "again": x}
    none = data_collapse.collapse(same, y + noise, [[0, 1]], WEIGHTS).gain["again"]
    assert none == (0, 0, 0)


def test_noise_is_what_one_noisy_curve_leaves():
    values, noises = [], []
    for seed in range(30):
        x, y = curves((1, 1), 0.2, seed)
        left, found = alone(x, y, [[0, 1]])
        values.append(left.value)
        noises.append(found.noise)
        assert left.low <= left.value <= left.high
    assert np.mean(values) == pytest.approx(np.mean(noises), rel=0.1)


def test_groups_are_pooled_and_curves_apart_refused():
    x, y = curves((1, 1, 9, 9), 0)
    assert alone(x, y, [[0, 1], [2, 3]])[0].value < 1e-12
    far = x * np.array([1, 1e6, 1, 1])[:, None]
    with pytest.raises(InputError, match="no two curves overlap"):
        alone(far, y, [[0, 1]])
    with pytest.raises(InputError, match="at least 2 of them, got 1"):
        data_collapse.resampled(1, 10)


def test_a_peak_is_found_between_the_points_and_noise_does_not_raise_it():
    t = np.log(BETAS)
    hill = 0.9 - 0.02 * (t - 0.7) ** 2
    own = int(np.argmin(np.abs(t)))
    exact = data_collapse.peak(BETAS, np.repeat(hill[:, None], 6, axis=1), own, WEIGHTS)
    assert exact.at.value == pytest.approx(math.exp(0.7), rel=0.03)
    assert exact.value.value == pytest.approx(0.9, abs=5e-3)
    assert exact.shortfall.value == pytest.approx(0.02 * 0.49, rel=0.1)
    # .9 - .01 is reached half a square root on either side, and no further
    np.testing.assert_allclose(np.log(exact.plateau), 0.7 + np.array([-1, 1]) * 0.5**0.5, atol=0.1)
    assert not exact.edge
    slope = np.repeat(hill[:5, None], 6, axis=1)  # rises to its last point
    assert data_collapse.peak(BETAS[:5], slope, 2, WEIGHTS).edge
    rng = np.random.default_rng(2)
    noisy = [
        data_collapse.peak(BETAS, hill[:, None] + 0.1 * rng.normal(size=(25, 6)), own, WEIGHTS)
        for _ in range(40)
    ]
    assert np.mean([p.value.value for p in noisy]) == pytest.approx(0.9, abs=0.03)
    assert np.mean([p.at.low < math.exp(0.7) < p.at.high for p in noisy]) > 0.7


def test_the_peaks_of_all_curves_are_their_mean():
    t, shifts = np.log(BETAS), np.array([-1.0, 0.0, 2.5])
    y = np.repeat((0.9 - 0.02 * (t - shifts[:, None]) ** 2)[..., None], 6, axis=2)
    x = np.tile(BETAS, (3, 1))
    own = int(np.argmin(np.abs(t)))
    found = data_collapse.tops(x, y, own, WEIGHTS)
    assert math.log(found.at.value) == pytest.approx(shifts.mean(), abs=0.05)
    assert found.shortfall.value == pytest.approx(0.02 * (shifts**2).mean(), rel=0.05)
    assert found.edges == 0
    # without what lies above t = -.4, the two that are highest beyond are so at the end
    assert data_collapse.tops(x[:, :12], y[:, :12], own - 1, WEIGHTS).edges == 2


def test_one_value_serves_all_where_tops_agree():
    t = np.log(BETAS)
    shifts = np.array([-1.0, 0.0, 2.0])
    y = np.repeat((0.9 - 0.02 * (t - shifts[:, None]) ** 2)[..., None], 6, axis=2)
    same = np.tile(BETAS, (3, 1))
    agreed = data_collapse.common(same / np.exp(shifts)[:, None], y, WEIGHTS)
    assert agreed.at.value == pytest.approx(1, rel=0.05)
    assert agreed.loss.value < 1e-3
    apart = data_collapse.common(same, y, WEIGHTS)
    assert math.log(apart.at.value) == pytest.approx(shifts.mean(), abs=0.1)
    assert apart.loss.value == pytest.approx(0.02 * shifts.var(), rel=0.05)
    assert apart.worst == pytest.approx(0.02 * (2 - shifts.mean()) ** 2, rel=0.1)
    with pytest.raises(InputError, match="ranges of all curves"):
        data_collapse.common(same * np.array([[1], [1], [1e6]]), y, WEIGHTS)


# --------------------------------------------------------------------------- the job

SMALL = ["--counts", "4", "8", "--dimensions", "4", "--norms", "1", "2", "--betas", "5"]
SMALL += ["--seeds", "2", "--steps", "3", "--batch", "8", "--rates", "0.01", "0.1"]


@pytest.mark.slow
def test_the_job_writes_every_member_and_every_curve(tmp_path, capsys):
    results = job.main(["training", *SMALL, "--out", str(tmp_path / "run")])
    folder = tmp_path / "run"
    names = {"run.json", "results.json", "tables.md", "members.csv", "training.csv", "collapse.csv"}
    pictures = {f"{seen}_{s}.png" for seen in ("accuracy", "entropy") for s in ("keys", "unit")}
    pictures.add("optima.png")
    assert {p.name for p in folder.iterdir()} == {*names, *pictures, ".lock"}
    members = list(csv.DictReader((folder / "members.csv").open()))
    assert len(members) == 2 * 3 * 2 * 5 * 2  # scales (1, 1), (2, 1) and (2, 2); two rates
    lines = list(csv.DictReader((folder / "training.csv").open()))
    assert len(lines) == 2 * 4 * 3 * 5  # two rates, and the best
    first = [m for m in members if m["N"] == "4" and m["norm"] == m["states"] == "2.0"]
    own = [r for r in lines if (r["N"], r["norm"], r["states"]) == ("4", "2.0", "keys")]
    shares = np.array([int(m["right"]) / results["test_images"] for m in first]).reshape(2, 5, 2)
    by_rate = {rate: [r for r in own if r["rate"] == rate] for rate in ("0.01", "0.1", "best")}
    for i, rate in enumerate(("0.01", "0.1")):
        for j, line in enumerate(by_rate[rate]):
            assert float(line["accuracy"]) == pytest.approx(shares[i, j].mean())
            assert float(line["beta"]) == pytest.approx(float(first[2 * j]["beta"]))
    # each of two seeds takes the rate that is best for the other
    for j, line in enumerate(by_rate["best"]):
        one, other = shares[:, j, 0], shares[:, j, 1]
        taken = one[other.argmax()] + other[one.argmax()]
        assert float(line["accuracy"]) == pytest.approx(taken / 2)
    falls = list(csv.DictReader((folder / "collapse.csv").open()))
    assert {(f["observed"], f["rate"]) for f in falls if f["over"] == "norm and N"} >= {
        ("entropy_start", "any"),
        ("log_entropy_end", "best"),
        ("accuracy", "0.1"),
    }
    for fall in falls:
        gain = float(fall["unexplained_beta"]) - float(fall["unexplained_beta_eff"])
        assert float(fall["gain_beta_eff"]) == pytest.approx(gain)
    assert json.loads((folder / "results.json").read_text())["best"][0]["usual"] > 0
    said = capsys.readouterr()
    assert "U over the logit spread" in said.out
    assert "one value for every norm and N: accuracy lost, of 1," in said.out  # d was one
    assert "of 1 (digits, N = 4 and 8, 3 steps, 2 seeds, 355 test images)" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--betas", "4"), "--betas must be odd, so that 1/sqrt(d) is among them: 4"),
        (("--seeds", "1"), "--seeds must be at least 2, got 1"),
        (("--norms", "0"), "--norms must be a finite number > 0, got 0"),
        (("--counts", "8", "8"), "--counts must be one or more different numbers"),
        (("--rates", "nan"), "--rates must be a finite number > 0, got nan"),
        (("--rates", "0.1", "0.1"), "--rates must be one or more different numbers"),
        (("--span", "1"), "--span must be a finite number > 1, got 1"),
        (("--norms", "1", "8", "--span", "8"), "set --span to at least 14, got 8"),
        (("--dataset", "didgits"), "did you mean 'digits'?"),
    ],
)
def test_bad_words_leave_nothing_behind(tmp_path, words, said):
    with pytest.raises(InputError, match=re.escape(said)):
        job.main(["training", *words, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
