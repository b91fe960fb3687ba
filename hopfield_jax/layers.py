r"""A layer that looks its input up among trainable patterns: HopfieldLayer of hopfield-layers.

Imported by name, since it needs Flax. x [D] an input, K [N, d] stored patterns (keys), V [N, C]
their values, both trainable; one head, U updates:

    xi_0 = W^T norm(x) + b                state pattern; norm: mean 0 and variance 1 over D
    s_u  = beta K xi_u,  p_u = softmax(s_u),  xi_{u+1} = K^T p_u        u = 0 .. U-1
    o    = V^T p_{U-1}                    output [C]

This is HopfieldLayer(input_size=D, hidden_size=d, pattern_size=C, quantity=N, num_heads=1,
scaling=beta, update_steps_max=U-1, update_steps_eps tiny, lookup_weights_as_separated=True,
stored_pattern_as_static=True, pattern_projection_as_static=True, pattern_projection_size=C,
disable_out_projection=True,
normalize_stored_pattern=False, normalize_pattern_projection=False, normalize_state_pattern=True
without its affine part) of ml-jku/hopfield-layers (Ramsauer et al. 2021, arXiv 2008.02217), but for
its initial values. The patterns pass no LayerNorm: it would fix their norm at sqrt(d), and with it
beta_eff at beta d times the share of their variance that is not common to all.

Initial values, before `scaled`: entries of W from N(0, 1/D), of K from N(0, 1), of V from
N(0, .02^2), b = 0. Hence states and keys of unit-variance entries, |xi_0| and |k_i| about sqrt(d),
and beta_eff = beta d (hopfield_jax.spectrum): beta = 1/sqrt(d), the usual scale, is beta_eff =
sqrt(d). With keys of M = m sqrt(d), beta_eff = beta M^2.

What depends on which temperature, exactly: p and o are unchanged by (beta, K, W, b) -> (beta/m^2,
m K, m W, m b), which leaves beta_eff; where the keys alone grow, U = 1, by (beta/m, m K), which
leaves beta M |xi_0|. Adam's steps are of one size whatever m is, so training keeps neither.

Gradient of a loss with d loss/d o = delta (cross-entropy: softmax(o) - onehot(y)), U = 1:

    dV = p delta^T,   r = p * (V delta - p.V delta)  (= d loss/d s),
    dK = beta r xi_0^T,   g = d loss/d xi_0 = beta K^T r,   dW = norm(x) g^T,   db = g

and for every update before it, with g of the state after: r = p * (K g - p.K g),
dK += p g^T + beta r xi^T, g = beta K^T r. So dV is of order 1, while dK and dW vanish both for
beta -> 0 (all of p equal, r proportional to beta) and for beta -> infinity (p one key, r = 0).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax


class Association(NamedTuple):
    """output [B, C]; scores [B, N], the s of the last update: attention is their softmax."""

    output: jax.Array
    scores: jax.Array


class HopfieldLayer(nn.Module):
    """(x [B, D], beta []) -> Association; symbols and initial values as in this file's head.

    patterns N, dimension d, outputs C, updates U, all at least 1. Parameters: state/kernel [D, d],
    state/bias [d], keys [N, d], values [N, C]; of the type of x and beta, float32 by default.
    """

    patterns: int
    dimension: int
    outputs: int
    updates: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, beta: jax.Array) -> Association:
        normal = nn.initializers.normal
        kernel = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        keys = self.param("keys", normal(1.0), (self.patterns, self.dimension))
        values = self.param("values", normal(0.02), (self.patterns, self.outputs))
        x = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False)(x)
        state = nn.Dense(self.dimension, kernel_init=kernel, name="state")(x)
        scores = beta * state @ keys.T
        for _ in range(self.updates - 1):
            scores = beta * (jax.nn.softmax(scores) @ keys) @ keys.T
        return Association(jax.nn.softmax(scores) @ values, scores)


def associate(module: HopfieldLayer, params: Any, x: jax.Array, beta: jax.Array) -> Association:
    """What the layer of these parameters makes of x [B, D] at beta []."""
    return module.apply({"params": params}, x, beta)  # type: ignore[return-value]


def scaled(params: Any, keys: jax.Array | float, states: jax.Array | float) -> Any:
    """Parameters of a HopfieldLayer with its keys and its states made larger by these factors."""
    state = {name: states * value for name, value in params["state"].items()}
    return {**params, "keys": keys * params["keys"], "state": state}
