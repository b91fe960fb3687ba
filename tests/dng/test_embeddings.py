"""Embeddings of the noise level: float64 twins by the textbook, both ends, configurations."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import nets, schedules, steps
from dng_jax.errors import InputError
from dng_jax.nets.embeddings import embed, timestep

CONFIG = nets.UNetConfig((4, 4, 1), channels=8, multipliers=(1,), blocks=0, embedding="timestep")


def log_snr_of_ho_et_al():
    """Float64 log-SNR of every level, by the product in their section 2."""
    left, found = 1.0, []
    for beta in np.linspace(1e-4, 0.02, 1000):
        left *= 1 - beta
        found.append(np.log(left / (1 - left)))
    return np.array(found)


LEVELS = log_snr_of_ho_et_al()


def by_the_textbook(t, channels):
    """[N] -> [N, channels] float64: sines first, of geometric frequencies from 1 to 1/10000."""
    half = channels // 2
    angle = np.asarray(t, np.float64)[:, None] * 10000.0 ** (-np.arange(half) / (half - 1))
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


def test_the_timestep_form_is_that_of_the_timesteps():
    found = embed("timestep", jnp.asarray(schedules.linear().logsnr, jnp.float32), 128)
    assert found.shape == (1000, 128)
    assert found.dtype == jnp.float32
    # Angles up to 999 hold a rounding of 3e-5 in float32, and frequencies one of 3e-8.
    np.testing.assert_allclose(found, by_the_textbook(np.arange(1000), 128), atol=8e-5)


def test_times_are_whole_at_the_levels_and_linear_between_them():
    levels = jnp.asarray(schedules.linear().logsnr, jnp.float32)
    np.testing.assert_array_equal(jax.jit(timestep)(levels), np.arange(1000))
    np.testing.assert_allclose(levels, LEVELS, atol=2e-6)
    between = 0.75 * LEVELS[:-1] + 0.25 * LEVELS[1:]
    found = timestep(jnp.asarray(between, jnp.float32))
    np.testing.assert_allclose(found, np.arange(999) + 0.25, atol=2e-4)
    # The log-SNR that a step table computes of its own float32 alpha and sigma.
    rows = steps.ddpm(schedules.linear())
    found = timestep(jnp.asarray(rows.logsnr))
    np.testing.assert_allclose(found, np.arange(1000)[::-1], atol=2e-4)


def test_beyond_both_ends_it_is_the_last_level():
    beyond = jnp.array([np.inf, 50.0, 9.3, -10.2, -50.0, -np.inf])
    np.testing.assert_array_equal(timestep(beyond), [0, 0, 0, 999, 999, 999])
    ends = embed("timestep", jnp.asarray(LEVELS[[0, 0, 0, -1, -1, -1]], jnp.float32), 8)
    np.testing.assert_allclose(embed("timestep", beyond, 8), ends, atol=2e-4)


def test_the_log_snr_form_is_sin_and_cos_of_geometric_frequencies():
    levels = np.array([-10.0, -1.5, 0.0, 9.0])
    for channels, half in ((8, 4), (1, 1), (512, 64)):
        angle = levels[:, None] * np.exp(np.linspace(np.log(0.05), np.log(4), half))
        expected = np.concatenate([np.sin(angle), np.cos(angle)], 1)
        found = embed("logsnr", jnp.asarray(levels, jnp.float32), channels)
        np.testing.assert_allclose(found, expected, atol=5e-6)


def test_both_forms_have_the_same_parameters():
    forms = [nets.UNet(replace(CONFIG, embedding=form)) for form in ("logsnr", "timestep")]
    own, other = (
        jax.eval_shape(module.init, jax.random.key(0), *CONFIG.example()) for module in forms
    )
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, other)


def test_files_from_before_there_was_a_choice_have_the_log_snr_form():
    stored = nets.describe(nets.UNet(CONFIG))
    assert stored.pop("embedding") == "timestep"
    assert nets.build(stored).config.embedding == "logsnr"


@pytest.mark.parametrize("channels", [3, 5, 2])
def test_numbers_of_channels_without_such_an_embedding_are_refused(channels):
    with pytest.raises(InputError, match=f"even number of channels from 4, got {channels}"):
        replace(CONFIG, channels=channels)
    assert replace(CONFIG, channels=channels, embedding="logsnr").channels == channels


def test_unknown_forms_are_refused():
    with pytest.raises(InputError, match="did you mean 'timestep'"):
        replace(CONFIG, embedding="timesteps")
