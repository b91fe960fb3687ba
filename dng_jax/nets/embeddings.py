r"""Embeddings of the noise level, log-SNR [B] of any float type -> float32 [B, E], in two forms.

    logsnr      [sin(l f_0), ..., sin(l f_h'), cos(l f_0), ..., cos(l f_h')],  h' = h - 1
                f_0 .. f_h' geometric from .05 to 4 radians per unit of l = logsnr
    timestep    [sin(t f_0), ..., sin(t f_h'), cos(t f_0), ..., cos(t f_h')]
                f_i = 10000^(-i / (h - 1)),   h = channels / 2

The timestep form is that of the code of Ho et al. 2020, and diffusers' get_timestep_embedding with
flip_sin_to_cos False and downscale_freq_shift 1. Its t numbers the levels of their schedule
(dng_jax.schedules.linear, 1000 levels, log-SNR l_0 > ... > l_999) and is interpolated between them:

    t(l) = i + (l_i - l) / (l_i - l_{i+1})      for  l_{i+1} <= l <= l_i
    t(l) = 0  for  l >= l_0 = 9.21,     t(l) = 999  for  l <= l_999 = -10.12

so t(l_i) = i exactly in float32, and less noise than the first level, or more than the last, is
that level: a network trained at 0 .. 999 has seen no other.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import schedules


def embed(form: str, logsnr: jax.Array, channels: int) -> jax.Array:
    """The embedding of that form in a network of so many channels; see the file's docstring.

    logsnr: h = channels // 2 frequencies, but 1 to 64 of them; timestep: h = channels / 2, of an
    even number from 4 (UNetConfig refuses others).
    """
    if form == "timestep":
        return of_timestep(timestep(logsnr), channels)
    return _waves(logsnr, np.geomspace(0.05, 4.0, max(1, min(channels, 128) // 2)))


def of_timestep(
    t: jax.Array, channels: int, shift: float = 1, cosine_first: bool = False
) -> jax.Array:
    """get_timestep_embedding of diffusers: t [B] of any type -> float32 [B, channels], an even
    number of them.

    shift: 1 in the file's docstring, whose f_i it makes 10000^(-i / (h - shift)); cosine_first:
    the second half before the first, which diffusers calls flip_sin_to_cos.
    """
    waves = _waves(t, _frequencies(channels // 2, shift))
    return jnp.roll(waves, channels // 2, -1) if cosine_first else waves


def timestep(logsnr: jax.Array) -> jax.Array:
    """t(logsnr), float32 of the same shape, 0 to 999; see the file's docstring."""
    levels = jnp.asarray(_levels())
    numbers = jnp.arange(len(levels), dtype=jnp.float32)
    return jnp.interp(-logsnr.astype(jnp.float32), -levels, numbers)


def _waves(level: jax.Array, frequencies: np.ndarray) -> jax.Array:
    angle = level.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _frequencies(count: int, shift: float) -> np.ndarray:
    # The exponent is rounded to float32 before exp, as in the code these networks were trained
    # with: at t = 999 the angle would differ by 3e-5 from that of exact frequencies.
    exponent = -np.float32(np.log(10000.0)) * np.arange(count, dtype=np.float32)
    return np.exp((exponent / np.float32(count - shift)).astype(np.float64))


@functools.cache
def _levels() -> np.ndarray:
    return schedules.linear().logsnr.astype(np.float32)
