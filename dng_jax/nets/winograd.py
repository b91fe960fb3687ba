r"""3x3 convolutions with fewer products: what a CPU computes in the place of the definition.

`along_height`: Winograd's F(4, 3) (Lavin & Gray 2016, arXiv 1509.09308) over four rows at a time, a
convolution of one row along the width. With the points p of POINTS, and infinity as the sixth,

    y_i = sum_t k_t x_(i+t)  =  sum_j A_ji (G k)_j (B x)_j          i = 0..3, t = 0..2, j = 0..5

    A_ji = p_j^i,   G_jt = p_j^t / prod_(l != j) (p_j - p_l)
    (B x)_j = sum_s b_js x_s,   b_js the coefficients of prod_(l != j) (X - p_l)      s = 0..5

and for infinity A = G = 1 at the highest power alone, and b of the product over all points (Toom
and Cook). Six products for four outputs where the definition takes twelve; a height that is no
multiple of four is padded with zeros. The six sums of x and the six products take one and a half
times the memory of x and of y. An error is a share of the largest value in the six rows of a tile,
not of the pixel itself, and a NaN in one of them reaches all four outputs: in float32 the largest
is one to four times that of XLA's convolution, 4e-7 to 3e-6 of the largest output (`python -m
eval.bench convolutions`, one draw). Points at 3/4 and 3/2 halve that of the usual ones at 1 and 2.

`of_two_by_two`: of images of up to 2x2 every pixel meets every other one, y = W x with W made of
the nine taps: 16 products for each pair of channels where the padded definition takes 36.

Shapes: x [B, H, W, I], kernel [3, 3, I, O], y [B, H, W, O], all of one float type; zeros outside.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
ROWS = len(POINTS) - 1  # of a tile's outputs


@functools.cache
def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [6, 4], G [6, 3] and B [6, 6] of the file's docstring, float64."""
    p = np.array(POINTS)
    others = [np.delete(p, j) for j in range(len(p))]
    g = [p[j] ** np.arange(3) / np.prod(p[j] - other) for j, other in enumerate(others)]
    b = [np.append(np.poly(other)[::-1], 0) for other in others]
    a = p[:, None] ** np.arange(ROWS)
    return (
        np.vstack([a, np.eye(ROWS)[-1]]),
        np.vstack([*g, np.eye(3)[-1]]),
        np.vstack([*b, np.poly(p)[::-1]]),
    )


@jax.jit
def along_height(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution, F(4, 3) along the height."""
    b, h, w, _ = x.shape
    at, gt, bt = transforms()
    tiles = -(-h // ROWS)
    x = jnp.pad(x, ((0, 0), (1, ROWS * tiles + 1 - h), (0, 0), (0, 0)))
    rows = [x[:, s : s + ROWS * (tiles - 1) + 1 : ROWS] for s in range(len(bt))]
    taps = list(kernel)
    products = [_along_width(_sum(bt[j], rows), _sum(gt[j], taps)) for j in range(len(bt))]
    y = jnp.stack([_sum(at[:, i], products) for i in range(ROWS)], axis=2)
    return y.reshape(b, ROWS * tiles, w, -1)[:, :h]


def _along_width(x, row):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, row[None], (1, 1), "SAME", dimension_numbers=dims)


def _sum(weights, arrays):
    """Weighted by constants, which do not turn float32 into float64; zeros are left out."""
    terms = [a * float(w) for w, a in zip(weights, arrays, strict=True) if w]
    return functools.reduce(jnp.add, terms)


@jax.jit
def of_two_by_two(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of images of 1 or 2 rows and columns as one product."""
    b, h, w, _ = x.shape
    places = [(i, j) for i in range(h) for j in range(w)]
    whole = jnp.concatenate(
        [jnp.concatenate([kernel[i - k + 1, j - n + 1] for k, n in places], 1) for i, j in places]
    )
    return (x.reshape(b, -1) @ whole).reshape(b, h, w, -1)
