"""The layer against the textbook in float64: output, gradient, and what leaves it unchanged."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

from hopfield_jax.layers import HopfieldLayer, associate, scaled

pytestmark = pytest.mark.usefixtures("quick_compilation", "double")

B, D, N, DIM, C, BETA = 6, 7, 5, 4, 3, 0.8


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    params = {
        "keys": rng.normal(size=(N, DIM)),
        "values": rng.normal(size=(N, C)),
        "state": {"kernel": rng.normal(size=(D, DIM)), "bias": rng.normal(size=DIM)},
    }
    return params, rng.normal(size=(B, D)), rng.integers(C, size=B)


def normalised(x):
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)


def textbook(params, x, updates):
    """Every state, every p, and the output, by the equations of the file's head."""
    states, weights = [normalised(x) @ params["state"]["kernel"] + params["state"]["bias"]], []
    for _ in range(updates):
        weights.append(softmax(BETA * states[-1] @ params["keys"].T, axis=1))
        states.append(weights[-1] @ params["keys"])
    return states, weights, weights[-1] @ params["values"]


@pytest.mark.parametrize("updates", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_the_output_and_the_gradient_are_those_of_the_sheet(drawn, updates):
    params, x, y = drawn
    module = HopfieldLayer(N, DIM, C, updates)
    states, weights, output = textbook(params, x, updates)
    found = jax.jit(associate, static_argnums=0)(module, params, jnp.asarray(x), BETA)
    np.testing.assert_allclose(found.output, output, rtol=1e-12)
    np.testing.assert_allclose(softmax(found.scores, axis=1), weights[-1], rtol=1e-12)

    def loss(params):
        out = associate(module, params, jnp.asarray(x), BETA).output
        return optax.softmax_cross_entropy_with_integer_labels(out, jnp.asarray(y)).mean()

    grads = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, params))
    keys = params["keys"]
    delta = (softmax(output, axis=1) - np.eye(C)[y]) / B
    np.testing.assert_allclose(grads["values"], weights[-1].T @ delta, rtol=1e-9, atol=1e-12)
    down, own = delta @ params["values"].T, np.zeros_like(keys)
    for u in reversed(range(updates)):
        p = weights[u]
        r = p * (down - (p * down).sum(axis=1, keepdims=True))
        own += BETA * r.T @ states[u]
        g = BETA * r @ keys
        if u:
            own += weights[u - 1].T @ g
            down = g @ keys.T
    np.testing.assert_allclose(grads["keys"], own, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grads["state"]["kernel"], normalised(x).T @ g, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grads["state"]["bias"], g.sum(axis=0), rtol=1e-9, atol=1e-12)
    # and the sheet's gradient is the slope of the textbook's loss
    step = 1e-6
    moved = params | {"keys": keys + step * own}
    values = [
        -log_softmax(textbook(q, x, updates)[2], axis=1)[np.arange(B), y].mean()
        for q in (params, moved)
    ]
    assert (values[1] - values[0]) / step == pytest.approx((own**2).sum(), rel=1e-4)


def test_sizes_enter_as_the_sheet_says(drawn):
    params, x, _ = drawn
    m = 1.7
    run = jax.jit(associate, static_argnums=0)
    for updates, keys, states, beta in ((3, m, m, BETA / m**2), (1, m, 1.0, BETA / m)):
        module = HopfieldLayer(N, DIM, C, updates)
        plain = run(module, params, jnp.asarray(x), BETA).output
        moved = run(module, scaled(params, keys, states), jnp.asarray(x), beta).output
        np.testing.assert_allclose(moved, plain, rtol=1e-12)


@pytest.mark.slow
def test_initial_entries_have_the_variances_of_the_sheet():
    module = HopfieldLayer(400, 50, 30)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(300, 80)))
    params = module.init(jax.random.key(0), x, 0.1)["params"]
    state = normalised(np.asarray(x)) @ params["state"]["kernel"]
    for value, deviation in ((params["keys"], 1), (params["values"], 0.02), (state, 1)):
        assert np.std(value) == pytest.approx(deviation, rel=0.05)
    assert not params["state"]["bias"].any()
