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
    ("shape", "dtype", "on_a_cpu"),
    [
        (LARGE, "float32", 6),
        (LARGE, "bfloat16", 1),
        ((8, 12, 10, 32, 33), "float32", 1),  # too few positions
        ((8, 12, 11, 32, 31), "float32", 1),  # too few channels
        (TINY, "float32", 0),
        ((63, 2, 2, 3, 4), "float32", 0),
        ((5, 2, 4, 3, 4), "float32", 0),
        ((5, 3, 3, 3, 4), "float32", 1),
    ],
)
def test_what_is_taken_where(shape, dtype, on_a_cpu):
    x, kernel = (jnp.asarray(a, dtype) for a in drawn(*shape))
    found = convolutions(convolution.conv3x3, x, kernel)
    assert found == {"cpu": on_a_cpu, "cuda": 1, "tpu": 1}
    wanted = by_definition(*(np.asarray(a, np.float32) for a in (x, kernel)))
    atol = (0.02 if dtype == "bfloat16" else 5e-6) * np.abs(wanted).max()
    found = np.asarray(jax.jit(convolution.conv3x3)(x, kernel), np.float32)
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

    found, wanted = both(convolution.conv3x3), both(convolution.xla_conv)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max()), found, wanted
    )


def convolutions(run, *args):
    """How many a program has when it is written for a platform."""
    return {
        platform: jax.jit(run).trace(*args).lower(lowering_platforms=(platform,)).as_text()
        .count("stablehlo.convolution")
        for platform in ("cpu", "cuda", "tpu")
    }  # fmt: skip


def test_six_convolutions_of_rows_on_a_cpu_and_xlas_own_elsewhere():
    x, kernel = drawn(*LARGE)
    assert convolutions(convolution.conv3x3, x, kernel) == {"cpu": 6, "cuda": 1, "tpu": 1}
    for way in (convolution.conv3x3_product_gradient, as_stable_diffusion_does):
        assert convolutions(way, x, kernel) == {"cpu": 6, "cuda": 1, "tpu": 1}
    np.testing.assert_array_equal(
        jax.jit(convolution.conv3x3)(x, kernel), winograd.along_height(x, kernel)
    )


def as_stable_diffusion_does(x, kernel):
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return convolution.conv_general_dilated(x, kernel, (1, 1), [(1, 1), (1, 1)], **how)


def test_what_does_not_vary_costs_no_convolution():
    x, kernel = drawn(*LARGE)

    def forward(x):
        return jax.jvp(lambda x: convolution.conv3x3(x, kernel), (x,), (x,))

    def backward(x):
        return jax.vjp(lambda x: convolution.conv3x3(x, kernel), x)[1](x[..., :1] + kernel[0, 0, 0])

    assert convolutions(forward, x) == {"cpu": 2, "cuda": 2, "tpu": 2}
    assert set(convolutions(backward, x).values()) <= {1, 2}  # the value is not asked for


def test_second_derivatives():
    x, kernel = drawn(*LARGE)

    def product(way):
        gradient = jax.grad(lambda x: jnp.sum(way(x, kernel) ** 3))
        return jax.jit(lambda x: jax.jvp(gradient, (x,), (x,))[1])(x)

    found, wanted = product(convolution.conv3x3), product(convolution.xla_conv)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_in_float64_errors_are_those_of_float64():
    x, kernel = (np.float64(a) for a in drawn(*LARGE))
    wanted = by_definition(x, kernel)
    with jax.enable_x64(True):
        found = jax.jit(convolution.conv3x3)(x, kernel)
        ways = convolution.kernel_by_products, convolution.kernel_by_convolution
        one, other = (jax.jit(way)(x, wanted) for way in ways)
    assert found.dtype == one.dtype == np.float64
    np.testing.assert_allclose(found, wanted, atol=1e-14 * np.abs(wanted).max())
    np.testing.assert_allclose(one, other, atol=1e-13 * np.abs(other).max())


def test_a_vector_of_kernels_is_mapped_over():
    x, kernel = drawn(*LARGE)
    both = jnp.stack([kernel, 2 * kernel])
    found = jax.jit(jax.vmap(convolution.conv3x3, (None, 0)))(x, both)
    wanted = by_definition(x, kernel)
    np.testing.assert_allclose(found, [wanted, 2 * wanted], atol=1e-5 * np.abs(wanted).max())
