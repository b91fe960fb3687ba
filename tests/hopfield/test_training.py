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
    options = {"steps": 30, "batch": 16, "rate": 0.05} | options
    return training.train(
        HopfieldLayer(N, DIM, 3), members, *problem, key=jax.random.key(3), **options
    )


@pytest.fixture(scope="module")
def trained(problem):
    members = training.grid([0.1, 0.4, 1.6], [(1, 1), (2, 2), (2, 1)], 2)
    return members, train(problem, members)


def at(members, **wanted):
    """Indices of the members with these fields, seeds in order."""
    hit = np.all([np.isclose(getattr(members, k), v) for k, v in wanted.items()], axis=0)
    return np.flatnonzero(hit)


def test_a_grid_has_every_combination_with_seeds_fastest():
    members = training.grid([1, 2], [(1, 1), (3, 1)], 2)
    assert members.beta.tolist() == [1, 1, 2, 2] * 2
    assert members.keys.tolist() == [1] * 4 + [3] * 4
    assert members.states.tolist() == [1] * 8
    assert members.seed.tolist() == [0, 1] * 4


def test_members_learn_and_temperatures_enter_as_they_must(trained):
    members, found = trained
    # the same function at the start: one beta_eff with states of the keys' norm
    plain, large = at(members, beta=0.4, keys=1), at(members, beta=0.1, keys=2, states=2)
    for name in ("beta_eff", "entropy_start", "logit_spread", "key_gradient_start"):
        value = getattr(found, name)
        np.testing.assert_allclose(value[plain], value[large], rtol=1e-4)
    # trained with one rate, it is another one
    assert not np.allclose(found.entropy_end[plain], found.entropy_end[large], rtol=1e-2)
    assert np.median(found.right) >= 28  # of 30
    assert (
        found.beta_eff[at(members, keys=2)] > 3.9 * found.beta_eff[at(members, keys=1)][0]
    ).any()


@pytest.mark.slow
def test_a_member_does_not_know_the_others(problem, trained):
    members, found = trained
    (i,) = at(members, beta=0.4, keys=2, states=1, seed=1)
    alone = train(problem, training.Members(*(column[[i]] for column in members)))
    for name, value in alone._asdict().items():
        np.testing.assert_allclose(value[0], getattr(found, name)[i], rtol=2e-4, err_msg=name)


def test_the_first_observables_are_the_textbooks(problem, trained):
    members, found = trained
    (i,) = at(members, beta=1.6, keys=2, states=2, seed=1)
    (examples, test), key = problem, jax.random.fold_in(jax.random.key(3), 1)
    initial = jax.random.fold_in(key, training.INITIAL)
    drawn = jax.jit(HopfieldLayer(N, DIM, 3).init)(initial, examples.x[:1], 1.0)["params"]
    keys, kernel = 2 * np.float64(drawn["keys"]), 2 * np.float64(drawn["state"]["kernel"])
    values = np.float64(drawn["values"])
    assert found.beta_eff[i] == pytest.approx(float(spectrum.beta_eff(keys, 1.6)), rel=1e-6)

    def states(x):
        x = np.float64(x)
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return x, x @ kernel

    scores = 1.6 * states(test.x)[1] @ keys.T
    p = softmax(scores, axis=1)
    entropy = -(p * np.log(p)).sum(axis=1).mean() / math.log(N)
    assert found.entropy_start[i] == pytest.approx(entropy, rel=1e-4)
    spread = math.sqrt(scores.var(axis=1).mean())
    assert found.logit_spread[i] == pytest.approx(spread, rel=1e-5)
    # the gradient on the member's own first batch
    rows = np.asarray(jax.random.randint(jax.random.fold_in(key, 0), (16,), 0, 90))
    x, xi = states(examples.x[rows])
    p = softmax(1.6 * xi @ keys.T, axis=1)
    delta = (softmax(p @ values, axis=1) - np.eye(3)[examples.y[rows]]) / 16
    down = delta @ values.T
    r = p * (down - (p * down).sum(axis=1, keepdims=True))
    g = 1.6 * r @ keys
    parts = [p.T @ delta, 1.6 * r.T @ xi, x.T @ g, g.sum(axis=0)]
    whole = math.sqrt(sum((part**2).sum() for part in parts))
    assert found.gradient_start[i] == pytest.approx(whole, rel=1e-3)
    size = np.linalg.norm(keys) * np.linalg.norm(parts[1])
    assert found.key_gradient_start[i] == pytest.approx(size, rel=1e-3)


def test_too_few_outputs_are_named(problem):
    with pytest.raises(InputError, match="2 outputs cannot tell 3 classes"):
        training.train(
            HopfieldLayer(N, DIM, 2),
            training.grid([1.0], [(1, 1)], 1),
            *problem,
            steps=1,
            batch=4,
            rate=0.1,
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


def test_one_curve_leaves_nothing_and_unrelated_values_leave_all():
    shifts = (1, 9, 0.2)
    x, y = curves(shifts, 0)
    apart = data_collapse.collapse(x, y, [[0, 1, 2]], WEIGHTS).unexplained.value
    whole = data_collapse.collapse(x * np.array(shifts)[:, None], y, [[0, 1, 2]], WEIGHTS)
    assert apart > 0.2
    assert whole.unexplained.value < 1e-3
    assert whole.points < 6 * 25  # of overlaps alone
    drawn = np.random.default_rng(1).normal(size=(12, 25, 6))
    free = data_collapse.collapse(np.tile(BETAS, (12, 1)), drawn, [range(12)], WEIGHTS)
    assert free.unexplained.value == pytest.approx(1, abs=0.1)
    assert free.noise == pytest.approx(1, abs=0.15)


def test_noise_is_what_one_noisy_curve_leaves():
    values, noises = [], []
    for seed in range(30):
        x, y = curves((1, 1), 0.2, seed)
        found = data_collapse.collapse(x, y, [[0, 1]], WEIGHTS)
        values.append(found.unexplained.value)
        noises.append(found.noise)
        assert found.unexplained.low <= found.unexplained.value <= found.unexplained.high
    assert np.mean(values) == pytest.approx(np.mean(noises), rel=0.1)


def test_groups_are_pooled_and_curves_apart_refused():
    x, y = curves((1, 1, 9, 9), 0)
    assert data_collapse.collapse(x, y, [[0, 1], [2, 3]], WEIGHTS).unexplained.value < 1e-12
    far = x * np.array([1, 1e6, 1, 1])[:, None]
    with pytest.raises(InputError, match="no two curves overlap"):
        data_collapse.collapse(far, y, [[0, 1]], WEIGHTS)
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
    rng = np.random.default_rng(2)
    noisy = [
        data_collapse.peak(BETAS, hill[:, None] + 0.1 * rng.normal(size=(25, 6)), own, WEIGHTS)
        for _ in range(40)
    ]
    assert np.mean([p.value.value for p in noisy]) == pytest.approx(0.9, abs=0.03)
    assert np.mean([p.at.low < math.exp(0.7) < p.at.high for p in noisy]) > 0.7


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
SMALL += ["--seeds", "2", "--steps", "3", "--batch", "8"]


@pytest.mark.slow
def test_the_job_writes_every_member_and_every_curve(tmp_path, capsys):
    results = job.main(["training", *SMALL, "--out", str(tmp_path / "run")])
    folder = tmp_path / "run"
    names = {"run.json", "results.json", "tables.md", "members.csv", "training.csv"}
    pictures = {"training_keys.png", "training_unit.png"}
    assert {p.name for p in folder.iterdir()} == {*names, *pictures, ".lock"}
    members = list(csv.DictReader((folder / "members.csv").open()))
    assert len(members) == 2 * 3 * 5 * 2  # scales (1, 1), (2, 1) and (2, 2)
    lines = list(csv.DictReader((folder / "training.csv").open()))
    assert len(lines) == 2 * 4 * 5
    first = [m for m in members if m["N"] == "4" and m["norm"] == m["states"] == "2.0"]
    own = [r for r in lines if (r["N"], r["norm"], r["states"]) == ("4", "2.0", "keys")]
    shares = [int(m["right"]) / results["test_images"] for m in first]
    for i, line in enumerate(own):
        assert float(line["accuracy"]) == pytest.approx(np.mean(shares[2 * i : 2 * i + 2]))
        assert float(line["beta"]) == pytest.approx(float(first[2 * i]["beta"]))
    assert json.loads((folder / "results.json").read_text())["best"][0]["usual"] > 0
    said = capsys.readouterr()
    assert "over the logit spread" in said.out
    assert "beta sqrt(d)" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--betas", "4"), "--betas must be odd, so that 1/sqrt(d) is among them: 4"),
        (("--seeds", "1"), "--seeds must be at least 2, got 1"),
        (("--norms", "0"), "--norms must be a finite number > 0, got 0"),
        (("--counts", "8", "8"), "--counts must be one or more different numbers"),
        (("--rate", "nan"), "--rate must be a finite number > 0, got nan"),
        (("--span", "1"), "--span must be a finite number > 1, got 1"),
        (("--norms", "1", "8", "--span", "8"), "set --span to at least 14, got 8"),
        (("--dataset", "didgits"), "did you mean 'digits'?"),
    ],
)
def test_bad_words_leave_nothing_behind(tmp_path, words, said):
    with pytest.raises(InputError, match=re.escape(said)):
        job.main(["training", *words, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
