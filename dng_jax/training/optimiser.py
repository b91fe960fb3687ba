r"""State, optimiser and the one step that every training takes.

Everything random in step n is drawn from fold_in(key, n): batch, noise levels, noise, dropout. A
run that stops at n and resumes is the run that never stopped, bit for bit.

AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), b2 = .99, or gradient descent with Nesterov's
momentum m on gradients g (Sutskever et al. 2013, as optax forms it),

    v <- m v + g,     p <- p - rate (g + m v);

the gradient's global norm is clipped. Rate, with w = min(warm-up, half of all S steps):

    rate(n) = peak n / w,  n < w;     peak (1 + cos(pi (n - w) / (S - w))) / 2  from there.

All numbers may be traced, so that members of one compiled training differ in them
(dng_jax.training.members).

Average (optax.incremental_update): with d = min(decay, (1 + n) / (10 + n)) and s = 1 - d,

    ema <- s params + (1 - s) ema,

which is d ema + (1 - d) params to rounding: in float32 within 1.2e-7 (|ema| + |params|) of it. The
warm-up of d keeps the random initialisation from lingering in the average.

`several` makes one compiled call of several steps, for accelerators alone: on a CPU, XLA
differentiates a convolution inside lax.scan about 80 times more slowly than outside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dng_jax.nets.residual import FIXED


class TrainState(NamedTuple):
    """step int32 []; params, ema: parameter trees; opt_state of optax; key: never advanced."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    key: jax.Array


Step = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def make_optimiser(
    steps: int,
    learning_rate: float,
    warmup: int,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    momentum: float | None = None,
) -> optax.GradientTransformation:
    """AdamW, or with a momentum Nesterov's gradient descent; see the file's docstring.

    AdamW decays every tensor that is learnt. With a momentum kernels alone decay, by weight_decay
    times the rate, as part of their gradient g after it is clipped.
    """
    rate = rate_of(steps, learning_rate, warmup)
    clipped = optax.clip_by_global_norm(clip)
    if momentum is None:
        adamw = optax.adamw(rate, b2=0.99, weight_decay=weight_decay, mask=learnt)
        return optax.chain(clipped, adamw)
    decay = optax.add_decayed_weights(weight_decay, kernels)
    return optax.chain(clipped, decay, optax.sgd(rate, momentum, nesterov=True))


def rate_of(steps: int, peak: float, warmup: float) -> Callable[[jax.Array], jax.Array]:
    """Step n int32 [] -> learning rate float32 []; see the file's docstring."""

    def rate(n):
        with jax.numpy_dtype_promotion("standard"):
            up = jnp.minimum(jnp.float32(warmup), steps // 2)
            rising = peak - peak * (1 - jnp.minimum(n, up) / jnp.maximum(up, 1))
            left = steps - up
            falling = peak * (0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(n - up, left) / left)))
            return jnp.where(n < up, rising, falling)

    return rate


def learnt(params: Any) -> Any:
    """Tree of True where a leaf of params is not fixed (dng_jax.nets.residual.FIXED)."""
    return jax.tree.map_with_path(lambda path, _: _name(path) not in FIXED, params)


def kernels(params: Any) -> Any:
    """Tree of True where a leaf of params is the kernel of a convolution or product."""
    return jax.tree.map_with_path(lambda path, _: _name(path) == "kernel", params)


def _name(path: tuple) -> Any:
    return getattr(path[-1], "key", None) if path else None


def init_state(module, optimiser: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Fresh state; parameters from fold_in(key, 2^31 - 1), a number no step reaches."""
    params = jax.jit(module.init)(jax.random.fold_in(key, 2**31 - 1), *module.config.example())[
        "params"
    ]
    return TrainState(jnp.int32(0), params, params, optimiser.init(params), key)


def make_step(
    loss: Callable,
    optimiser: optax.GradientTransformation,
    ema_decay: float,
    sharding: NamedSharding | None,
) -> Step:
    """The compiled step that descends loss(params, images, labels, key) -> (scalar, metrics).

    key is fold_in(state.key, state.step); the metrics gain "grad_norm", before clipping.
    """
    # Said outright, or XLA may leave parts of the new state split over the devices.
    whole = {} if sharding is None else {"out_shardings": NamedSharding(sharding.mesh, P())}

    @functools.partial(jax.jit, **whole)
    def step(state: TrainState, images, labels):
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = jax.grad(loss, has_aux=True)(state.params, images, labels, key)
        # Optax's rates mix types, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        n = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + n) / (10 + n))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return step


@functools.lru_cache(maxsize=4)  # the same function again is the same program again
def several(step: Callable, count: int) -> Callable:
    """`count` steps as one compiled call: the same arguments, metrics stacked [count]."""

    @jax.jit
    def run(state: TrainState, images, labels):
        return jax.lax.scan(lambda s, _: step(s, images, labels), state, length=count)

    return run


def split_batch(arrays: tuple, sharding: NamedSharding | None) -> tuple:
    """The arrays with their leading axis laid out over devices; XLA splits what follows alike."""
    if sharding is None:
        return arrays
    return tuple(jax.lax.with_sharding_constraint(a, sharding) for a in arrays)
