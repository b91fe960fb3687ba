"""Convolutions by fewer products against the definition, in float64 by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax.nets import convolution, winograd


def by_definition(x, kernel):
    x, kernel = np.float64(x), np.float64(kernel)
    _, h, w, _ = x.shape
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(wide[:, r : r + h, c : c + w] @ kernel[r, c] for r in range(3) for c in range(3))


def drawn(b, h, w, i, o):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((b, h, w, i), np.float32)
    return x, rng.standard_normal((3, 3, i, o), np.float32) / np.float32(np.sqrt(9 * i))


def test_transforms_give_four_outputs_of_a_filter_exactly():
    a, g, b = winograd.transforms()
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=6), rng.normal(size=3)
    found = a.T @ ((g @ k) * (b @ x))
    np.testing.assert_allclose(found, [k @ x[i : i + 3] for i in range(4)], atol=1e-13)


@pytest.mark.parametrize(
    "shape", [(3, 4, 5, 7, 6), (2, 7, 7, 5, 3), (1, 14, 3, 4, 4), (2, 1, 2, 3, 5)]
)
def test_along_the_height(shape):
    x, kernel = drawn(*shape)
    wanted = by_definition(x, kernel)
    found = winograd.along_height(x, kernel)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=5e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_two_by_two(size):
    x, kernel = drawn(3, *size, 5, 4)
    wanted = by_definition(x, kernel)
    found = winograd.of_two_by_two(x, kernel)
    np.testing.assert_allclose(found, wanted, atol=5e-6 * np.abs(wanted).max())


LARGE, TINY = (8, 12, 11, 32, 33), (64, 2, 2, 3, 4)


@pytest.mark.parametrize(
    ("shape", "dtype", "primitive"),
    [
        (LARGE, "float32", "platform_index"),
        (LARGE, "bfloat16", "conv_general_dilated"),
        ((8, 12, 10, 32, 33), "float32", "conv_general_dilated"),  # too few positions
        ((8, 12, 11, 32, 31), "float32", "conv_general_dilated"),  # too few channels
        (TINY, "float32", "dot_general"),
        ((63, 2, 2, 3, 4), "float32", "concatenate"),
    ],
)
def test_what_is_taken_where(shape, dtype, primitive):
    x, kernel = (jnp.asarray(a, dtype) for a in drawn(*shape))
    text = str(jax.make_jaxpr(convolution.same)(x, kernel))
    assert primitive in text
    assert ("platform_index" in text) == (primitive == "platform_index")
    wanted = by_definition(*(np.asarray(a, np.float32) for a in (x, kernel)))
    atol = (0.02 if dtype == "bfloat16" else 5e-6) * np.abs(wanted).max()
    found = np.asarray(jax.jit(convolution.same)(x, kernel), np.float32)
    np.testing.assert_allclose(found, wanted, atol=atol)


@pytest.mark.parametrize("shape", [LARGE, TINY])
def test_derivatives_are_those_of_the_definition(shape):
    x, kernel = drawn(*shape)
    dy = np.cos(by_definition(x, kernel)).astype(np.float32)

    def both(way):
        @jax.jit
        def run(x, kernel):
            y, pull = jax.vjp(way, x, kernel)
            return y, pull(dy), jax.jvp(way, (x, kernel), (x, kernel))[1]

        return run(x, kernel)

    found, wanted = both(convolution.same), both(convolution.plain)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max()), found, wanted
    )


def test_a_vector_of_kernels_is_mapped_over():
    x, kernel = drawn(*LARGE)
    both = jnp.stack([kernel, 2 * kernel])
    found = jax.jit(jax.vmap(convolution.same, (None, 0)))(x, both)
    wanted = by_definition(x, kernel)
    np.testing.assert_allclose(found, [wanted, 2 * wanted], atol=1e-5 * np.abs(wanted).max())
