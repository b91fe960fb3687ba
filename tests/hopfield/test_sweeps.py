"""Sweeps over beta: hysteresis at K_s and N, order parameters, sets of patterns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError
from hopfield_jax import energy, memory
from hopfield_jax.analyses import sweeps
from hopfield_jax.solvers import certificates
from tests.hopfield.helpers import softmax

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPINODAL = {16: 5.1890355, 5: 3.5645018}


@pytest.mark.slow
def test_hysteresis_between_the_spinodal_and_the_loss_of_the_centroid():
    # A6: K_s + 1e-3 keeps the patterns, K_s - 1e-3 does not; the centroid goes just after K = N
    n, k_s = 16, SPINODAL[16]
    betas = np.array([3.0, 4.0, k_s - 1e-3, k_s + 1e-3, 8.0, 12.0, 15.9, 16.1, 18.0])
    x = np.eye(n)
    with jax.enable_x64(True):
        loop = sweeps.hysteresis(memory(x), np.full((1, n), 1 / n), x[:2], betas, tolerance=1e-11)
        assert loop.up.state.shape == (9, 1, n)
        assert loop.down.state.shape == (9, 2, n)
        assert bool(loop.up.converged.all())
        assert bool(loop.down.converged.all())
        up, down = np.asarray(loop.up.p_max[:, 0]), np.asarray(loop.down.p_max)
        np.testing.assert_allclose(up[:7], 1 / n, atol=1e-7)
        assert (up[7:] > 0.999).all()
        np.testing.assert_allclose(down[:3], 1 / n, atol=1e-7)
        assert (down[3:] > 0.76).all()
        # each stays with the pattern it started from
        assert (np.argmax(np.asarray(loop.down.state)[3:], axis=2) == np.arange(2)).all()
        np.testing.assert_allclose(loop.up.spectral_radius[:7, 0], betas[:7] / n, rtol=1e-6)
        # the energies cross at K_c = 5.8029647, between 5.19 and 8
        gap = np.asarray(loop.up.energy[:, 0] - loop.down.energy[:, 0])
        assert gap[3] < 0 < gap[4]
        assert (np.asarray(loop.down.spectral_radius) < 1).all()


@pytest.mark.slow
def test_without_a_kick_arithmetic_stays_where_it_is():
    n = 4
    start, betas = np.full((1, n), 1 / n), [3.0, 6.0]
    with jax.enable_x64(True):
        still = sweeps.sweep(memory(np.eye(n)), start, betas, warm="up", kick=0.0)
        np.testing.assert_allclose(still.p_max[:, 0], 1 / n, atol=1e-12)
        np.testing.assert_allclose(still.spectral_radius[:, 0], [0.75, 1.5], rtol=1e-9)
        moved = sweeps.sweep(memory(np.eye(n)), start, betas, warm="up")
        assert float(moved.p_max[1, 0]) > 0.9


@pytest.mark.slow
def test_cold_sweep_against_a_loop():
    rng = np.random.default_rng(0)
    x, starts, betas = rng.normal(size=(7, 5)), rng.normal(size=(3, 5)), np.array([0.2, 1.0, 4.0])
    with jax.enable_x64(True):
        m = memory(x)
        found = sweeps.sweep(m, starts, betas, tolerance=1e-12, radius_steps=200)
        assert bool(found.converged.all())
        for s, beta in enumerate(betas):
            for r in range(3):
                xi = starts[r]
                for _ in range(3000):
                    p = softmax(beta * x @ xi)
                    xi = p @ x
                np.testing.assert_allclose(found.state[s, r], xi, atol=1e-9)
                np.testing.assert_allclose(found.p_max[s, r], p.max(), atol=1e-9)
                np.testing.assert_allclose(found.participation[s, r], 1 / (p**2).sum(), rtol=1e-8)
                entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
                np.testing.assert_allclose(found.entropy[s, r], entropy, atol=1e-8)
                j = beta * (x.T * p) @ x - beta * np.outer(xi, xi)
                radius = np.linalg.eigvalsh(j)[-1]
                np.testing.assert_allclose(found.spectral_radius[s, r], radius, atol=1e-7)
                e = -np.log(np.exp(beta * x @ xi).mean()) / beta + xi @ xi / 2
                constant = (x**2).sum(1).max() / 2
                np.testing.assert_allclose(found.energy[s, r], e + constant, atol=1e-9)
        fast = sweeps.sweep(m, starts, betas, tolerance=1e-12, radius_steps=0, method="newton")
        assert bool(jnp.isnan(fast.spectral_radius).all())
        np.testing.assert_allclose(fast.state, found.state, atol=1e-9)
        warm = sweeps.sweep(m, starts, betas, warm="down", tolerance=1e-12, kick=0.0)
        np.testing.assert_allclose(warm.state[2], found.state[2], atol=1e-9)


def test_order_parameters():
    p = np.array([np.full(10, 0.1), np.eye(10)[3], [0.5, 0.3, 0.15, 0.05] + [0] * 6])
    found = sweeps.order_parameters(jnp.asarray(p, jnp.float32))
    np.testing.assert_allclose(found.p_max, [0.1, 1, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.participation, [10, 1, 1 / 0.365], rtol=1e-6)
    np.testing.assert_allclose(found.entropy, [np.log(10), 0, 1.142119], rtol=1e-5)
    assert found.top90.tolist() == [9, 1, 3]


@pytest.mark.parametrize(
    "warm", [pytest.param(w, marks=pytest.mark.slow) for w in ("down", "none", "up")]
)
def test_rows_that_do_not_converge_have_beta_and_start(warm):
    # 1e-4 off K_s of 5 patterns, on either side, plain steps from a pattern need hundreds
    k_s, x = SPINODAL[5], np.eye(5)
    betas, stuck = ([k_s + 1e-4, 8.0], 0) if warm == "up" else ([1.0, k_s - 1e-4, 8.0], 1)
    with jax.enable_x64(True):
        found = sweeps.sweep(
            memory(x), x[:2], betas, warm=warm, max_steps=60, kick=0.0, method="picard"
        )
        assert found.unconverged.tolist() == [[stuck, 0], [stuck, 1]]
        assert found.steps[stuck].tolist() == [60, 60]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"betas": [2.0, 1.0]}, "must ascend strictly"),
        ({"betas": [1.0, 1.0 + 1e-9]}, r"ascend strictly \(as float32\)"),
        ({"betas": [0.0, 1.0]}, "got 0.0"),
        ({"betas": []}, "must ascend strictly"),
        ({"warm": "sideways"}, "unknown direction of a sweep 'sideways'"),
        ({"starts": np.ones((1, 2))}, r"rows \[R, 3\]"),
        ({"max_steps": 0}, "max_steps at least 1"),
    ],
)
def test_bad_input_is_named(change, words):
    call = {"starts": np.eye(3), "betas": [1.0, 2.0]} | change
    with pytest.raises(InputError, match=words):
        sweeps.sweep(memory(np.eye(3)), **call)


@pytest.mark.slow
def test_certificates_of_a_sweep_are_those_of_its_rows(monkeypatch):
    # one attractor; ghosts 1e-7 below K_s; centroid and patterns; centroid a saddle beyond K = N
    n = 16
    betas = [3.0, 5.189035508065551 * (1 - 1e-7), 8.0, 18.0]
    starts = np.concatenate([np.full((2, n), 1 / n), np.eye(n)[[0, 1, 0, 0]]])
    asked = []

    def spy(memory, states, *arguments):
        asked.append(len(states))
        return certificates.certify_rows(memory, states, *arguments)

    with jax.enable_x64(True):
        m = memory(np.eye(n))
        found = sweeps.sweep(m, starts, betas, radius_steps=0)
        assert bool(found.converged.all())
        monkeypatch.setattr(sweeps, "certify_rows", spy)
        sure = sweeps.certify_sweep(m, found)
        exact = certificates.certify(m, found.state.reshape(24, n), np.repeat(betas, 6))
        for name in ("minimum", "morse_index"):
            np.testing.assert_array_equal(getattr(sure, name).reshape(-1), getattr(exact, name))
        np.testing.assert_allclose(sure.residual.reshape(-1), exact.residual, atol=1e-15)
        np.testing.assert_allclose(
            sure.spectral_radius.reshape(-1), exact.spectral_radius, atol=1e-4
        )
        centroid, pattern = sure.minimum[:, :2], sure.minimum[:, 2:]
        assert centroid.tolist() == [[True] * 2] * 3 + [[False] * 2]
        assert pattern.tolist() == [[b] * 4 for b in (True, False, True, True)]
    # 1 + 3 + 3 + 3 points; then the two other rows of one ghost and the second one of the saddle
    assert asked == [10, 3]
    with pytest.raises(InputError, match=r"states \[S, R, d\]: got shape \(6, 16\)"):
        sweeps.certify_sweep(m, found._replace(state=found.state[0]))


@pytest.mark.slow
def test_patterns_that_are_all_one_point():
    m = memory([[3.0, 4.0], [3.0, 4.0]], checked=False)
    found = sweeps.sweep(m, np.eye(2), [1.0, 2.0], warm="up", radius_steps=0)
    np.testing.assert_allclose(found.state, np.broadcast_to([3, 4], (2, 2, 2)), rtol=1e-6)


@pytest.mark.slow
def test_blocks_of_patterns_change_nothing(monkeypatch):
    # 11 patterns in blocks of 4, the last one padded, and weights sorted one row at a time
    rng = np.random.default_rng(7)
    x = rng.normal(size=(11, 5)) + 2
    betas, starts = [0.3, 1.0, 4.0], np.concatenate([x[:2], x.mean(axis=0, keepdims=True)])
    sizes = []

    def spy(memory, state, beta, **options):
        sizes.append(options.get("block"))
        return energy.update_and_energy(memory, state, beta, **options)

    def swept():
        m = memory(x, "euclidean")
        warm, cold = (
            sweeps.sweep(m, starts, betas, warm=way, tolerance=1e-12, radius_steps=60)
            for way in ("up", "none")
        )
        return warm, cold, sweeps.certify_sweep(m, cold)

    with jax.enable_x64(True):
        whole = swept()
        monkeypatch.setattr(energy, "BLOCK", 4)
        monkeypatch.setattr(sweeps, "ROOM", 11)
        monkeypatch.setattr(sweeps, "update_and_energy", spy)
        jax.clear_caches()  # sizes of blocks are read when a program is traced
        blocked = swept()
        jax.clear_caches()
        assert set(sizes) == {4}
        for one, other in zip(whole, blocked, strict=True):
            for name in one._fields:
                a, b = getattr(one, name), getattr(other, name)
                slack = 2 if name == "steps" else 1e-9
                np.testing.assert_allclose(a, b, atol=slack, err_msg=name)
        assert bool(whole[0].converged.all())


@pytest.mark.slow
def test_cold_and_warm_sweeps_agree_far_from_the_origin():
    # single precision, 1000 spreads away: weights and spectra must be taken from the mean
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 8))
    m = memory((x + 1000).astype(np.float32), "euclidean")
    betas = [0.5, 4.0]
    warm, cold = (
        sweeps.sweep(m, x[:3] + 1000, betas, warm=way, kick=0.0, tolerance=1e-4)
        for way in ("up", "none")
    )
    assert warm.converged.all()
    assert cold.converged.all()
    assert (cold.spectral_radius >= 0).all()
    np.testing.assert_allclose(cold.spectral_radius[0], warm.spectral_radius[0], atol=0.02)
    np.testing.assert_allclose(cold.p_max[0], warm.p_max[0], atol=0.02)


@pytest.mark.parametrize("warm", [pytest.param("none", marks=pytest.mark.slow), "up"])
def test_what_is_not_measured_is_no_fault_under_debug_nans(warm):
    x = np.eye(3)
    with jax.debug_nans(True):
        found = sweeps.sweep(memory(x), x[:1], [2.0, 9.0], warm=warm, radius_steps=0)
    assert np.isnan(found.spectral_radius).all()
    assert np.isfinite(found.energy).all()
