r"""Training: pure functions from (state, data) to state, driven step by step from the host.

Everything random in step n is drawn from fold_in(key, n): batch, noise levels, noise, dropout. A
run that stops at n and resumes is the run that never stopped, bit for bit.

Diffusion, x = alpha x0 + sigma eps, y the target in the network's parameterisation:

    none    |f(x) - y|^2
    label   |f(x, k') - y|^2,                  k' the null label with probability .15, else k
    heads   |f_k(x) - y|^2 + .5 |f_K(x) - y|^2 k the true class, K the unconditional head

means over pixels and batch; heads of other classes get no gradient. With `references` > 0 (heads
only) y_k and y_K are the low-variance targets of dng_jax.stable_targets, and below the log-SNR
OTHERS_BELOW the other heads learn theirs too, with the mean weight of one head.

Noise levels: stratified uniform u = (u0 + i / B) mod 1 over the batch, log-SNR interpolated
linearly between the schedule's levels, which covers the discrete levels and everything between them
(as logsnr spacing needs).

Average: ema <- d ema + (1 - d) params, d = min(decay, (1 + n) / (10 + n)): the warm-up keeps the
random initialisation from lingering in the average.

Precision: the parameters, the average, the optimiser's state, the loss and the norms are float32;
what convolutions and products compute in is the module's `dtype` (bfloat16 on accelerators).

`several` makes one compiled call of several steps, for accelerators alone: on a CPU, XLA
differentiates a convolution inside lax.scan about 80 times more slowly than outside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.ndimage import map_coordinates
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dng_jax import stable_targets
from dng_jax.errors import InputError
from dng_jax.schedules import Schedule, from_eps

LABEL_DROPOUT = 0.15
OTHERS_BELOW = -1.0  # above it, a class seldom has an image near another class's x
UNCONDITIONAL_WEIGHT = 0.5


class TrainState(NamedTuple):
    """step int32 []; params, ema: parameter trees; opt_state of optax; key: never advanced."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    key: jax.Array


def make_optimiser(
    steps: int,
    learning_rate: float,
    warmup: int,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    momentum: float | None = None,
) -> optax.GradientTransformation:
    """AdamW, or gradient descent with Nesterov's momentum; the gradient's global norm is clipped.

    Rate: linear warm-up, cosine decay to zero. With momentum, kernels alone decay, by
    weight_decay times the rate, as part of their gradient; vectors and fixed tensors do not.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(warmup, steps // 2), steps)
    clipped = optax.clip_by_global_norm(clip)
    if momentum is None:
        return optax.chain(clipped, optax.adamw(rate, b2=0.99, weight_decay=weight_decay))
    decay = optax.add_decayed_weights(weight_decay, kernels)
    return optax.chain(clipped, decay, optax.sgd(rate, momentum, nesterov=True))


def kernels(params: Any) -> Any:
    """Tree of True where a leaf is the kernel of a convolution or product that is learnt."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def init_state(module, optimiser: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Fresh state; parameters from fold_in(key, 2^31 - 1), a number no step reaches."""
    shape = module.config.image_shape
    inputs = [jnp.zeros((1, *shape))]
    if hasattr(module.config, "conditioning"):
        inputs.append(jnp.zeros(1))
        if module.config.conditioning == "label":
            inputs.append(jnp.zeros(1, jnp.int32))
    params = jax.jit(module.init)(jax.random.fold_in(key, 2**31 - 1), *inputs)["params"]
    return TrainState(jnp.int32(0), params, params, optimiser.init(params), key)


def diffusion_loss(
    module,
    params,
    x0: jax.Array,
    labels: jax.Array,
    logsnr: jax.Array,
    key: jax.Array,
    train: bool,
    references: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss (scalar) and its parts, for clean images x0 [B, H, W, C] in [-1, 1], labels int32 [B].

    logsnr [B]; noise, label dropout and dropout come from key. references (heads only): images
    [K, M, H, W, C] of every class and log P(k) [K], for targets of low variance.
    """
    config = module.config
    eps_key, label_key, dropout_key = jax.random.split(key, 3)
    alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))[:, None, None, None]
    sigma = jnp.sqrt(jax.nn.sigmoid(-logsnr))[:, None, None, None]
    eps = jax.random.normal(eps_key, x0.shape)
    x = alpha * x0 + sigma * eps
    target = from_eps(eps, x, alpha, sigma, config.parameterisation)
    inputs = [x, logsnr]
    if config.conditioning == "label":
        dropped = jax.random.bernoulli(label_key, LABEL_DROPOUT, labels.shape) & train
        inputs.append(jnp.where(dropped, config.num_classes, labels))
    out = module.apply({"params": params}, *inputs, train=train, rngs={"dropout": dropout_key})
    if config.conditioning != "heads":
        loss = jnp.mean((out - target) ** 2)
        return loss, {"loss": loss}
    if references is not None:
        return _all_heads(out, x, x0, labels, alpha, sigma, logsnr, references, config)
    of_class = jnp.mean((out[jnp.arange(len(labels)), labels] - target) ** 2)
    unconditional = jnp.mean((out[:, -1] - target) ** 2)
    loss = of_class + UNCONDITIONAL_WEIGHT * unconditional
    return loss, {"loss": loss, "loss_class": of_class, "loss_unconditional": unconditional}


def _all_heads(out, x, x0, labels, alpha, sigma, logsnr, references, config):
    found = stable_targets.targets(x, x0, labels, alpha, sigma, *references)

    def target(mean, x, a, s):
        return from_eps((x - a * mean) / s, x, a, s, config.parameterisation)

    y = target(found.of_class, x[:, None], alpha[:, None], sigma[:, None])
    errors = jnp.mean((out[:, :-1] - y) ** 2, axis=(2, 3, 4))
    own = jax.nn.one_hot(labels, config.num_classes)
    others = jnp.sum((1 - own) * errors, axis=1) / (config.num_classes - 1)
    parts = {
        "loss_class": jnp.mean(jnp.sum(own * errors, axis=1)),
        "loss_unconditional": jnp.mean((out[:, -1] - target(found.marginal, x, alpha, sigma)) ** 2),
        "loss_others": jnp.mean(jnp.where(logsnr < OTHERS_BELOW, others, 0.0)),
    }
    weight = UNCONDITIONAL_WEIGHT
    loss = parts["loss_class"] + weight * parts["loss_unconditional"] + parts["loss_others"]
    return loss, {"loss": loss, **parts}


def stratified_logsnr(key: jax.Array, batch: int, schedule: Schedule) -> jax.Array:
    """[batch] log-SNRs spread evenly over the schedule's levels, one random offset for all."""
    u = (jax.random.uniform(key) + jnp.arange(batch) / batch) % 1
    levels = jnp.asarray(schedule.logsnr, jnp.float32)
    return jnp.interp(u * (len(levels) - 1), jnp.arange(len(levels), dtype=jnp.float32), levels)


def make_diffusion_step(
    module,
    optimiser,
    schedule: Schedule,
    batch_size: int,
    ema_decay: float,
    sharding: NamedSharding | None = None,
    references: int = 0,
    rows_by_class: np.ndarray | None = None,
    flip: bool = False,
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step (state, images, labels) -> (state, metrics).

    images [N, H, W, C] uint8 in 0..255, labels int32 [N]: the whole data set, on the device.
    sharding: how the batch is split over devices (P("batch") of a one-dimensional mesh).
    references: images of every class, drawn anew each step, for targets of low variance
    (dng_jax.stable_targets); they need conditioning "heads" and the data set's rows_by_class.
    flip: images, and references, are mirrored left to right half of the time (`mirror`).
    """
    if references and (module.config.conditioning != "heads" or rows_by_class is None):
        raise InputError(
            f"references {references} need a network of conditioning 'heads', this one has "
            f"'{module.config.conditioning}': set references to 0"
        )

    def drawn(images, labels, key):
        if not references or rows_by_class is None:
            return None
        counts = jnp.bincount(labels, length=len(rows_by_class))
        few = stable_targets.draw(key, images, jnp.asarray(rows_by_class), references)
        if sharding is not None:
            # Or XLA splits the references, and gathers them again for every product.
            few = jax.lax.with_sharding_constraint(few, NamedSharding(sharding.mesh, P()))
        if flip:
            # The targets are means over the distribution that x0 is drawn from.
            few = mirror(jax.random.fold_in(key, 0), few)
        return unit_range(few), jnp.log(counts / len(labels))

    def loss(params, images, labels, key):
        batch_key, level_key, noise_key = jax.random.split(key, 3)
        rows = jax.random.randint(batch_key, (batch_size,), 0, len(images))
        logsnr = stratified_logsnr(level_key, batch_size, schedule)
        x0, y, logsnr = split_batch((unit_range(images[rows]), labels[rows], logsnr), sharding)
        # Keys of their own, so that the other draws are those of a run without references or flip.
        if flip:
            x0 = mirror(jax.random.fold_in(key, 1), x0)
        few = drawn(images, labels, jax.random.fold_in(key, 0))
        return diffusion_loss(module, params, x0, y, logsnr, noise_key, True, few)

    return _make_step(loss, optimiser, ema_decay, sharding)


def make_classifier_step(
    module,
    optimiser,
    batch_size: int,
    ema_decay: float,
    smoothing: float = 0.05,
    sharding: NamedSharding | None = None,
    change: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """As `make_diffusion_step`, for cross-entropy with label smoothing on augmented images.

    change: (key, images [B, H, W, C]) -> images, the augmentation; None: `augment`.
    """
    change = change or augment

    def loss(params, images, labels, key):
        batch_key, augment_key, dropout_key = jax.random.split(key, 3)
        rows = jax.random.randint(batch_key, (batch_size,), 0, len(images))
        x, y = split_batch((unit_range(images[rows]), labels[rows]), sharding)
        x = change(augment_key, x)
        logits = module.apply({"params": params}, x, train=True, rngs={"dropout": dropout_key})
        target = optax.smooth_labels(jax.nn.one_hot(y, logits.shape[-1]), smoothing)
        value = optax.softmax_cross_entropy(logits, target).mean()
        accuracy = jnp.mean(jnp.argmax(logits, -1) == y)
        return value, {"loss": value, "accuracy": accuracy}

    return _make_step(loss, optimiser, ema_decay, sharding)


@functools.partial(jax.jit, static_argnums=0)
def count_right(module, params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """How many of images uint8 [N, H, W, C] a classifier puts into their class, int32 []."""
    logits = module.apply({"params": params}, unit_range(images))
    return jnp.sum(jnp.argmax(logits, -1) == labels)


def unit_range(images: jax.Array) -> jax.Array:
    """uint8 in 0..255 -> float32 in [-1, 1], on the device; float32 passes."""
    if images.dtype != jnp.uint8:
        return images
    return images.astype(jnp.float32) / 127.5 - 1


def split_batch(arrays: tuple, sharding: NamedSharding | None) -> tuple:
    """The arrays with their leading axis laid out over devices; XLA splits what follows alike."""
    if sharding is None:
        return arrays
    return tuple(jax.lax.with_sharding_constraint(a, sharding) for a in arrays)


@functools.lru_cache(maxsize=4)  # the same function again is the same program again
def several(step: Callable, count: int) -> Callable:
    """`count` steps as one compiled call: the same arguments, metrics stacked [count]."""

    @jax.jit
    def run(state: TrainState, images, labels):
        return jax.lax.scan(lambda s, _: step(s, images, labels), state, length=count)

    return run


def _make_step(loss, optimiser, ema_decay, sharding):
    # Said outright, or XLA may leave parts of the new state split over the devices.
    whole = {} if sharding is None else {"out_shardings": NamedSharding(sharding.mesh, P())}

    @functools.partial(jax.jit, **whole)
    def step(state: TrainState, images, labels):
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = jax.grad(loss, has_aux=True)(state.params, images, labels, key)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        n = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + n) / (10 + n))
        ema = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.ema, params)
        metrics = {**metrics, "grad_norm": _norm(grads)}
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return step


def _norm(tree) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Random affine maps, contrast, noise; images [B, H, W, C] in [-1, 1] -> the same shape.

    Rotation +-12 degrees, scale +-10%, shear +-.1, shift +-8% of the side, bilinear with the
    darkest value outside; contrast x .8 to 1.1; Gaussian noise of a strength uniform in 0 to .25.
    """
    b, h, w, _ = images.shape
    keys = jax.random.split(key, 6)

    def spread(i, low, high, shape=(b,)):
        return jax.random.uniform(keys[i], shape, minval=low, maxval=high)

    angle, zoom, shear = spread(0, -0.21, 0.21), spread(1, 0.9, 1.1), spread(2, -0.1, 0.1)
    shift = spread(3, -0.08, 0.08, (b, 2)) * jnp.array([h, w])
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    matrix = jnp.stack([jnp.stack([cos, shear - sin], -1), jnp.stack([sin, cos], -1)], -2)
    centre = (jnp.array([h, w]) - 1) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), -1) - centre

    def warp(image, matrix, shift):
        rows, columns = jnp.moveaxis(grid @ matrix.T + centre + shift, -1, 0)

        def sample(plane):
            return map_coordinates(plane, [rows, columns], 1, mode="constant", cval=-1.0)

        return jax.vmap(sample, -1, -1)(image)

    x = jax.vmap(warp)(images, matrix, shift)
    contrast, strength = jnp.split(spread(4, 0.0, 1.0, (b, 2)), 2, -1)
    x = (x + 1) * (0.8 + 0.3 * contrast[..., None, None]) - 1
    noise = jax.random.normal(keys[5], x.shape) * (0.25 * strength[..., None, None])
    return jnp.clip(x + noise, -1, 1)


def mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each of images [..., H, W, C] mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (*images.shape[:-3], 1, 1, 1))
    return jnp.where(mirrored, images[..., ::-1, :], images)


def flip_shift_cut(
    key: jax.Array, images: jax.Array, flip: bool, shift: int, cut: int
) -> jax.Array:
    """For photographs: mirrored left to right half of the time, moved, a square cut out.

    images [B, H, W, C] in [-1, 1] -> the same shape. Moved by -shift to shift pixels along both
    axes, the image mirrored beyond its border; a square of side `cut` anywhere inside becomes 0
    (DeVries & Taylor 2017, arXiv 1708.04552). Every image has draws of its own.
    """
    b, h, w, c = images.shape
    flip_key, shift_key, cut_key = jax.random.split(key, 3)
    if flip:
        images = mirror(flip_key, images)
    if shift:
        rows, columns = jax.random.randint(shift_key, (2, b), 0, 2 * shift + 1)
        wide = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), "reflect")

        def window(image, row, column):
            return jax.lax.dynamic_slice(image, (row, column, 0), (h, w, c))

        images = jax.vmap(window)(wide, rows, columns)
    if cut:
        sizes = jnp.array([[h - cut + 1], [w - cut + 1]])
        rows, columns = jax.random.randint(cut_key, (2, b), 0, sizes)

        def inside(count, first):
            offset = jnp.arange(count) - first[:, None]
            return (offset >= 0) & (offset < cut)

        hole = inside(h, rows)[:, :, None] & inside(w, columns)[:, None, :]
        images = jnp.where(hole[..., None], 0.0, images)
    return images
