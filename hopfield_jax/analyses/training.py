r"""Classifiers trained at many temperatures at once: does beta_eff, and not beta, govern?

A member is one HopfieldLayer (hopfield_jax.layers) trained as a classifier: beta, the initial norm
of its keys and of its states, a learning rate, and a seed. Members of one shape (N, d) are one
program, vmapped over all of them; a CPU is driven step by step, an accelerator gets all steps as
one scan. Every member draws initial values, and batch n by fold_in(key, n), from its own
key = fold_in(key, seed): members of one seed differ by beta, norms and rate alone, so that their
differences are paired. Adam (Kingma & Ba 2015, arXiv 1412.6980), a fixed number of steps, no
schedule; the projection W [D, d], whose entries begin sqrt(D) times smaller than those of
unit-variance keys, has the rate divided by sqrt(D).

The rate decides what training makes of a temperature, so that accuracy is also compared at the rate
best for each point. Chosen by the largest of several noisy means, it would be too good: a seed s
takes the rate that is best for the others, r_s = argmax_r sum_{s' != s} accuracy(r, s'). That
leaves out the chance of seeds, not that of the test images, which the rates share.

    beta_eff         of the keys at the start, beta N/(N-1) tr Cov (hopfield_jax.spectrum)
    logit spread     root mean square over inputs of the standard deviation of s_0 over the keys,
                     at the start: about beta |xi| |k|/sqrt(d) for states unrelated to the keys
    entropy          mean over inputs of -sum_i p_i log p_i, in units of log N: 1 where all keys
                     weigh the same, 0 where one key takes all
    gradient         global norm of d loss/d parameters on a batch
    key gradient     |K| |d loss/d K|, the gradient for keys in units of their size: the same for
                     every beta and norm that make one function
    beta d           beta_eff of keys of unit-variance entries: the norm at the start left out

Equations: hopfield_jax.layers. Whether curves fall together: hopfield_jax.analyses.data_collapse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dng_jax.errors import InputError
from dng_jax.training.optimiser import several
from hopfield_jax.distances import mean_half_squared
from hopfield_jax.layers import HopfieldLayer, associate, scaled

AT_ONCE = 16  # members whose attention over a whole data set is held at once
ADAM = optax.scale_by_adam()  # directions, yet to be scaled by a member's rate
INITIAL = 2**31 - 1  # folds a member's key for its initial values: a number no step reaches


class Members(NamedTuple):
    """[K] each: beta > 0; keys, states: standard deviation of their initial entries; rate > 0, of
    Adam; seed int."""

    beta: np.ndarray
    keys: np.ndarray
    states: np.ndarray
    rate: np.ndarray
    seed: np.ndarray


class Examples(NamedTuple):
    """x float32 [n, D], one row per image; y int32 [n], classes from 0."""

    x: np.ndarray
    y: np.ndarray


class Trained(NamedTuple):
    """[K] each; symbols as in this file's head. right int of the test examples are classified well;
    *_start before the first step, *_end after the last, *_mean over all steps."""

    right: np.ndarray
    beta_eff: np.ndarray
    beta_eff_end: np.ndarray
    logit_spread: np.ndarray
    entropy_start: np.ndarray
    entropy_end: np.ndarray
    gradient_start: np.ndarray
    gradient_mean: np.ndarray
    key_gradient_start: np.ndarray
    key_gradient_mean: np.ndarray
    loss_end: np.ndarray


def grid(betas, scales: Sequence[tuple[float, float]], rates, seeds: int) -> Members:
    """Every combination, [scales, rates, betas, seeds] in this order: seeds are fastest.

    betas, rates: numbers > 0; scales: (keys, states), the standard deviations of their initial
    entries.
    """
    axes = range(len(scales)), rates, betas, range(seeds)
    which, rate, beta, seed = (part.ravel() for part in np.meshgrid(*axes, indexing="ij"))
    keys, states = np.asarray(scales, np.float64).T
    numbers = beta.astype(np.float64), keys[which], states[which], rate.astype(np.float64)
    return Members(*numbers, seed)


def best_rate(right) -> np.ndarray:
    """Index [..., S] of the rate that a seed takes, of how many are right, int [R, ..., S]; S >= 2.

    The best for the other seeds; among equals, which whole numbers tell, the first.
    """
    right = np.asarray(right)
    return (right.sum(axis=-1, keepdims=True) - right).argmax(axis=0)


def train(
    module: HopfieldLayer,
    members: Members,
    examples: Examples,
    test: Examples,
    *,
    steps: int,
    batch: int,
    key: jax.Array,
) -> Trained:
    """Trains every member on batches of the examples and measures it on the test.

    steps, batch >= 1; key: of all members. float32. InputError where the layer has fewer outputs
    than there are classes.
    """
    classes = int(max(examples.y.max(), test.y.max())) + 1
    if classes > module.outputs:
        raise InputError(f"a layer of {module.outputs} outputs cannot tell {classes} classes apart")
    width = examples.x.shape[1]
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.asarray(members.seed))
    state = _start(module, members, keys, width)
    step = _make_step(module, batch, width)
    images, labels = jnp.asarray(examples.x), jnp.asarray(examples.y)
    measure = _make_measure(module, jnp.asarray(test.x), jnp.asarray(test.y))
    before, keys_before = measure(state), np.asarray(state.params["keys"])
    # A CPU is quick to call and slow to compile; an accelerator is the other way round.
    if jax.default_backend() == "cpu":
        history = []
        for _ in range(steps):
            state, metrics = step(state, images, labels)
            history.append(metrics)
        course = {name: np.stack([m[name] for m in history]) for name in history[0]}
    else:
        state, metrics = several(step, steps)(state, images, labels)
        course = {name: np.asarray(value) for name, value in metrics.items()}
    after = measure(state)
    return Trained(
        right=after.right,
        beta_eff=_beta_eff(members.beta, keys_before),
        beta_eff_end=_beta_eff(members.beta, np.asarray(state.params["keys"])),
        logit_spread=before.spread,
        entropy_start=before.entropy,
        entropy_end=after.entropy,
        gradient_start=course["gradient"][0],
        gradient_mean=course["gradient"].mean(axis=0),
        key_gradient_start=course["key_gradient"][0],
        key_gradient_mean=course["key_gradient"].mean(axis=0),
        loss_end=course["loss"][-max(1, steps // 10) :].mean(axis=0),
    )


class _State(NamedTuple):
    # Of K members: number of the next step, beta, rate, parameters, Adam's state, random key.
    step: jax.Array
    beta: jax.Array
    rate: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def _start(module: HopfieldLayer, members: Members, keys: jax.Array, width: int) -> _State:
    def one(key, beta, keys, states, rate) -> _State:
        example = jnp.zeros((1, width), jnp.float32)
        params = module.init(jax.random.fold_in(key, INITIAL), example, beta)["params"]
        params = scaled(params, keys, states)
        return _State(jnp.int32(0), beta, rate, params, ADAM.init(params), key)

    numbers = (jnp.asarray(column, jnp.float32) for column in members[:4])
    return jax.jit(jax.vmap(one))(keys, *numbers)


def _make_step(module: HopfieldLayer, batch: int, width: int):
    # (state, images, labels) -> (state, metrics [K] by name), compiled.
    def shrink(path) -> float:
        return width**-0.5 if path[-1].key == "kernel" else 1.0

    def one(state: _State, images, labels):
        rows = jax.random.randint(
            jax.random.fold_in(state.key, state.step), (batch,), 0, len(images), jnp.int32
        )

        def loss(params):
            output = associate(module, params, images[rows], state.beta).output
            return optax.softmax_cross_entropy_with_integer_labels(output, labels[rows]).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        directions, opt_state = ADAM.update(grads, state.opt_state)
        updates = jax.tree.map_with_path(lambda p, u: -state.rate * shrink(p) * u, directions)
        size = jnp.linalg.norm(state.params["keys"]) * jnp.linalg.norm(grads["keys"])
        metrics = {"loss": value, "gradient": optax.tree.norm(grads), "key_gradient": size}
        params = optax.apply_updates(state.params, updates)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(jax.vmap(one, in_axes=(0, None, None)))


class _Measured(NamedTuple):
    right: np.ndarray
    entropy: np.ndarray
    spread: np.ndarray


def _make_measure(module: HopfieldLayer, images, labels) -> Callable[[_State], _Measured]:
    # Of K members on all images: how many they classify well, what their attention is like.
    once = module.clone(updates=1)

    def one(images, labels, member):
        params, beta = member
        found = associate(module, params, images, beta)
        log_p = jax.nn.log_softmax(found.scores)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=1).mean() / np.log(module.patterns)
        first = found if module.updates == 1 else associate(once, params, images, beta)
        spread = jnp.sqrt(jnp.var(first.scores, axis=1).mean())
        return jnp.sum(jnp.argmax(found.output, axis=1) == labels), entropy, spread

    @jax.jit
    def run(members, images, labels):
        return jax.lax.map(partial(one, images, labels), members, batch_size=AT_ONCE)

    def measure(state: _State) -> _Measured:
        values = run((state.params, state.beta), images, labels)
        return _Measured(*(np.asarray(v) for v in values))

    return measure


def _beta_eff(beta: np.ndarray, keys: np.ndarray) -> np.ndarray:
    return np.asarray(beta, np.float64) * np.array([mean_half_squared(k) for k in keys])
