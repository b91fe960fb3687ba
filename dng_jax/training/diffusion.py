r"""Training a diffusion network, x = alpha x0 + sigma eps, y the target in its parameterisation:

    none    |f(x) - y|^2
    label   |f(x, k') - y|^2,                  k' the null label with probability d, else k
    heads   |f_k(x) - y|^2 + w |f_K(x) - y|^2  k the true class, K the unconditional head

means over pixels and batch, d = .15 and w = .5 where nothing else is said; heads of other classes
get no gradient. With `references` > 0 (heads only) y_k and y_K are the low-variance targets of
dng_jax.training.stable_targets, and the heads j of the other classes learn theirs from the same
image,

    + mean over j of sigma^4 |f_j(x) - y_j|^2

or nothing would tell a head what to answer where its class is not likely, and a chain that has
strayed there would go on to a well-drawn image of another class. sigma^4 leaves the low noise,
where a head has nothing to say about images of other classes, to the head of the image's own.

Noise levels: stratified uniform u = (u0 + i / B) mod 1 over the batch, log-SNR interpolated
linearly between the schedule's levels, which covers the discrete levels and everything between them
(as logsnr spacing needs). A linear schedule spends most of its levels where the image is a blur: a
share `focus` of u is spread over the quantiles of a normal distribution of log-SNR instead, where
images take their shape. Karras et al. 2022 (arXiv 2206.00364, section 5) draw all levels from one,
of mean 2.4 and deviation 2.4; ours lies where classes are decided. Losses of two values of focus
cannot be compared.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dng_jax.data import to_unit
from dng_jax.errors import InputError
from dng_jax.schedules import Schedule, from_eps
from dng_jax.training import stable_targets
from dng_jax.training.augmentation import mirror
from dng_jax.training.optimiser import Step, make_step, split_batch

LABEL_DROPOUT = 0.15
FOCUS_MEAN, FOCUS_DEVIATION = -0.5, 1.75  # of the log-SNR
UNCONDITIONAL_WEIGHT = 0.5


def diffusion_loss(
    module,
    params,
    x0: jax.Array,
    labels: jax.Array,
    logsnr: jax.Array,
    key: jax.Array,
    train: bool,
    references: tuple[jax.Array, jax.Array] | None = None,
    label_dropout: float = LABEL_DROPOUT,
    unconditional_weight: float = UNCONDITIONAL_WEIGHT,
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
        share = jnp.float32(label_dropout)  # bernoulli refuses a whole number
        dropped = jax.random.bernoulli(label_key, share, labels.shape) & train
        inputs.append(jnp.where(dropped, config.num_classes, labels))
    out = module.apply({"params": params}, *inputs, train=train, rngs={"dropout": dropout_key})
    if config.conditioning != "heads":
        loss = jnp.mean((out - target) ** 2)
        return loss, {"loss": loss}
    if references is not None:
        given = (references, config, unconditional_weight)
        return loss_of_all_heads(out, x, x0, labels, alpha, sigma, *given)
    of_class = jnp.mean((out[jnp.arange(len(labels)), labels] - target) ** 2)
    unconditional = jnp.mean((out[:, -1] - target) ** 2)
    loss = of_class + unconditional_weight * unconditional
    return loss, {"loss": loss, "loss_class": of_class, "loss_unconditional": unconditional}


def loss_of_all_heads(
    out, x, x0, labels, alpha, sigma, references, config, weight=UNCONDITIONAL_WEIGHT
):
    """Loss and parts of the prediction out [B, K+1, H, W, C] by the targets of stable_targets."""
    found = stable_targets.targets(x, x0, labels, alpha, sigma, *references)

    def target(mean, x, a, s):
        return from_eps((x - a * mean) / s, x, a, s, config.parameterisation)

    y = target(found.of_class, x[:, None], alpha[:, None], sigma[:, None])
    errors = jnp.mean((out[:, :-1] - y) ** 2, axis=(2, 3, 4))
    own = jax.nn.one_hot(labels, config.num_classes)
    others = (1 - own) * sigma.reshape(-1, 1) ** 4 * errors
    parts = {
        "loss_class": jnp.mean(jnp.sum(own * errors, axis=1)),
        "loss_unconditional": jnp.mean((out[:, -1] - target(found.marginal, x, alpha, sigma)) ** 2),
        "loss_others": jnp.mean(jnp.sum(others, axis=1)) / (config.num_classes - 1),
    }
    loss = parts["loss_class"] + weight * parts["loss_unconditional"] + parts["loss_others"]
    return loss, {"loss": loss, **parts}


def stratified_logsnr(
    key: jax.Array, batch: int, schedule: Schedule, focus: float = 0.0
) -> jax.Array:
    """[batch] log-SNRs spread evenly over the schedule's levels, one random offset for all.

    focus: the share, 0 to below 1, spread over a normal distribution instead, within the levels.
    """
    u = (jax.random.uniform(key) + jnp.arange(batch) / batch) % 1
    levels = jnp.asarray(schedule.logsnr, jnp.float32)
    index = (u - focus) / (1 - focus) * (len(levels) - 1)
    even = jnp.interp(index, jnp.arange(len(levels), dtype=jnp.float32), levels)
    if not isinstance(focus, jax.Array) and not focus:
        return even
    quantile = FOCUS_MEAN + FOCUS_DEVIATION * ndtri(jnp.minimum(u / focus, 1.0))
    return jnp.where(u < focus, jnp.clip(quantile, levels.min(), levels.max()), even)


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
    focus: float = 0.0,
    label_dropout: float = LABEL_DROPOUT,
    unconditional_weight: float = UNCONDITIONAL_WEIGHT,
) -> Step:
    """The compiled step (state, images, labels) -> (state, metrics).

    images [N, H, W, C] uint8 in 0..255, labels int32 [N]: the whole data set, on the device.
    sharding: how the batch is split over devices (P("batch") of a one-dimensional mesh).
    references: images of every class, drawn again each step, for targets of low variance
    (dng_jax.training.stable_targets); they need conditioning "heads" and the data set's
    rows_by_class.
    flip: images, and references, are mirrored left to right half of the time.
    focus: share of the batch at the noise levels where images take their shape (the file's
    docstring), 0 to below 1.
    label_dropout, unconditional_weight: d, 0 to 1, and w, at least 0, of the file's docstring.
    """
    if references and (module.config.conditioning != "heads" or rows_by_class is None):
        raise InputError(
            f"references {references} need a network of conditioning 'heads', this one has "
            f"'{module.config.conditioning}': set references to 0"
        )

    def drawn(images, labels, key, mirror_key):
        if not references or rows_by_class is None:
            return None
        counts = jnp.bincount(labels, length=len(rows_by_class))
        few = stable_targets.draw(key, images, jnp.asarray(rows_by_class), references)
        if sharding is not None:
            # Or XLA splits the references, and gathers them again for every product.
            few = jax.lax.with_sharding_constraint(few, NamedSharding(sharding.mesh, P()))
        if flip:
            # The targets are means over the distribution that x0 is drawn from.
            few = mirror(mirror_key, few)
        return to_unit(few), jnp.log(counts / len(labels))

    def loss(params, images, labels, key):
        batch_key, level_key, noise_key = jax.random.split(key, 3)
        rows = jax.random.randint(batch_key, (batch_size,), 0, len(images))
        logsnr = stratified_logsnr(level_key, batch_size, schedule, focus)
        x0, y, logsnr = split_batch((to_unit(images[rows]), labels[rows], logsnr), sharding)
        # More keys, so that the other draws are those of a run without references or flip. 0 to 2
        # are the three above: references share the batch's, as the published weights were trained.
        if flip:
            x0 = mirror(jax.random.fold_in(key, 3), x0)
        few = drawn(images, labels, jax.random.fold_in(key, 0), jax.random.fold_in(key, 4))
        given = (few, label_dropout, unconditional_weight)
        return diffusion_loss(module, params, x0, y, logsnr, noise_key, True, *given)

    return make_step(loss, optimiser, ema_decay, sharding)
