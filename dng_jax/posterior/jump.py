r"""Several steps of a chain as one: what a tracker learns while nobody asks for the negative.

The recursion of dng_jax.posterior holds between any two points of a chain, so the steps between
them need not be scored: with predictions at the one, x_t, and at a later one, x_s,

    p(k | x_s) = p(k | x_t) p(x_s | x_t, k) / p(x_s | x_t)                                   (1)

however many steps lie between. The kernel is that of a single step from level t to level s,

    mu_k = k_x x_t + k_eps eps_k(x_t),     k_x = 1/a,  k_eps = -g/(a sigma_t),
    k_var = sigma_s^2 g / sigma_t^2,       a = alpha_t / alpha_s,  g = sigma_t^2 - a^2 sigma_s^2

whose mean is exact. It is composed of the rows between, by sums of positive numbers, since the
differences of neighbouring levels would lose digits:

    a <- a a_i,    g <- g + a^2 g_i,    k_var by the product of k_var_i sigma_t^2 / (sigma_s^2 g_i)

(1 where a row scores the posterior variance; where it scores g_i, the product makes g of it.)

Why that is the variance. A step of DDIM(eta) (Song et al. 2021, arXiv 2010.02502, eq. 12) from
level i to level i + 1, with x_0 held, has noise of variance std_i^2 = eta^2 k_var_i and shrinks
x_i - alpha_i x_0 by c_i, c_i^2 = (sigma_(i+1)^2 - std_i^2)/sigma_i^2. The steps composed have

    variance V <- c_i^2 V + std_i^2,   hence   1 - V/sigma_s^2 = prod_i (1 - std_i^2/sigma_(i+1)^2)

At eta = 1 a factor is a_i^2 sigma_(i+1)^2/sigma_i^2; the product telescopes, V = sigma_s^2 g /
sigma_t^2 = k_var: the single kernels with x_0 held compose to the jump's, without error. At
eta < 1 V is smaller, 0 at eta = 0, and k_var is that of (1) all the same, which is Bayes' rule of
the forward process; what is missing then is the divergence term, which asks for the negative at
every step: such tables are refused (dng_jax.guidance.skipping).

With x_0 not held, because it is not known,

    Cov(x_s | x_t, k) = k_var I + (alpha_s g/sigma_t^2)^2 Cov(x_0 | x_t, k)                     (2)

The single steps have the second part as well, but of the order of the step squared: it is what
vanishes as steps become short, and a jump keeps it. For data N(m, S) it is k_var times

    1 + alpha_s^2 g S / (sigma_s^2 (alpha_t^2 S + sigma_t^2))

S = .25, linear schedule, 50 steps, a jump of 8 (a single step from the same level in brackets):
1.00 (1.00) from step 10, 1.11 (1.01) from 26, 1.59 (1.03) from 34, 3.4 (1.06) from 38 and 27 (1.12)
from 41, the last whose jump is scored (tests/dng/test_jump.py).
By that factor a jump is too sure of a direction in which the class varies as much; in one in which
it does not vary, by none. Cov(x_0 | x_t, k) is a Jacobian of the network, and is left out.

Offsets. The steps between would have added delta/(2 k_var_i) each (dng_jax.posterior, section 5).
So does the jump, which carries the sum of their weights:

    log p_k gains [tau (2 inner_k - gram_kk)]/(2 k_var) + (delta/2) sum_i 1/k_var_i

each part of it with the jump's inner, gram and k_var; of odds likewise. omega adds over log-SNR
and needs nothing. A clamp acts at the end of a jump, not at the steps within.

What else an unseen step could add, and why it is not that. In the mean over the steps of the base
model, with D the kernel's gap k_eps (eps_k - eps_b):

    nothing              D = 0 is a valid bet, E e^gain = 1, that throws evidence away: what the
                         unseen steps told is never learnt, since later ones score themselves alone
    the last gap again   any D fixed before the step is a valid bet too, of gain -|D|^2/(2 k_var)
                         in the mean, whatever the true D is; where it has turned meanwhile, a chain
                         that goes towards k loses the bet as well, and p falls on those chains
    one jump             scores what the predictions at x_t said of x_s; its mean is exact, its
                         shape is not: given x_t alone, x_s has a larger variance than k_var along
                         D, so the jump is too sure, in both directions, the more the longer it is

Measured against the exact posterior (1,000 unguided chains of the digits' exact model, zero
forbidden, 50 steps, seed 0, NumPy float64, pair; mean |p - exact| over the chain, and share of the
chains that end in the class with p < .01), when one step in k is looked at:

    k     nothing            the same eps_k - eps_b   the same gap of x_0   one jump
    1     .013    0 %
    4     .060    1 %        .026    5 %              .025   12 %           .014    0 %
    8     .070    1 %        .037   12 %              .033   30 %           .017    1 %
    12    .077    1 %        .042   21 %              .037   52 %           .016    5 %
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dng_jax.posterior.kernel_tracker import KernelTracker
from dng_jax.rules import Move, Predictions, Step, per_sample, pytree, zeros_per_sample
from dng_jax.steps import StepRow


@pytree
class Jump:
    """From where each image was last looked at to where it is now.

    state: the tracker's there; x [B, ...] and preds {role: [B, ...]} there, of the tracker's roles;
    alpha, sigma [B]: its level. ratio, gained, variance, weight [B]: a, g, the product of variances
    and the sum of 1/k_var of the steps since, 1, 0, 1 and 0 before the first.
    """

    state: Any
    x: jax.Array
    preds: Predictions
    alpha: jax.Array
    sigma: jax.Array
    ratio: jax.Array
    gained: jax.Array
    variance: jax.Array
    weight: jax.Array


def nowhere(tracker: KernelTracker, x: jax.Array) -> Jump:
    """A jump that `begun` replaces before it is used; shapes as there."""
    zero = zeros_per_sample(x)
    preds = dict.fromkeys(tracker.roles, jnp.zeros_like(x))
    return Jump(tracker.init(x), x, preds, zero + 1, zero + 1, zero + 1, zero, zero + 1, zero)


def begun(tracker: KernelTracker, jump: Jump, state: Any, step: Step, here: jax.Array) -> Jump:
    """The jump of images where `here`, bool [B], begins at this step; the others' goes on."""
    zero = zeros_per_sample(step.x)
    level = zero + step.row.alpha, zero + step.row.sigma
    preds = {role: step.preds[role] for role in tracker.roles}
    new = Jump(state, step.x, preds, *level, zero + 1, zero, zero + 1, zero)
    return jax.tree.map(lambda a, b: jnp.where(per_sample(here, a), a, b), new, jump)


def continued(jump: Jump, row: StepRow) -> Jump:
    """The jump with one more row."""
    gained = -row.k_eps * row.sigma / row.k_x
    posterior_variance = row.sigma_next**2 * gained / row.sigma**2
    scored = jnp.isfinite(row.k_var) & (posterior_variance > 0)
    larger = jnp.where(scored, row.k_var, 1.0) / jnp.where(scored, posterior_variance, 1.0)
    return Jump(
        jump.state,
        jump.x,
        jump.preds,
        jump.alpha,
        jump.sigma,
        jump.ratio / row.k_x,
        jump.gained + jump.ratio**2 * gained,
        jump.variance * larger,
        jump.weight + jnp.where(scored, 1 / jnp.where(scored, row.k_var, 1.0), 0.0),
    )


def kernel(jump: Jump, row: StepRow) -> StepRow:
    """The scored kernel of the whole jump, whose last row this is: a row with a number [B] each.

    Where the last row is not scored, neither is the jump (k_var inf). Its step is the kernel's
    mean, without noise.
    """
    k_x = 1 / jump.ratio
    k_eps = -jump.gained / (jump.ratio * jump.sigma)
    k_var = jump.variance * row.sigma_next**2 * jump.gained / jump.sigma**2
    k_var = jnp.where(jnp.isfinite(row.k_var), k_var, jnp.inf)
    zero = jnp.zeros_like(k_x)
    return StepRow(
        index=zero.astype(jnp.int32) + row.index,
        alpha=jump.alpha,
        sigma=jump.sigma,
        alpha_next=zero + row.alpha_next,
        sigma_next=zero + row.sigma_next,
        c_x=k_x,
        c_eps=k_eps,
        std=zero,  # which gives back no drift
        k_x=k_x,
        k_eps=k_eps,
        k_var=k_var,
    )


def landed(tracker: KernelTracker, jump: Jump, state: Any, row: StepRow, move: Move) -> Any:
    """The tracker's state after a jump whose last row this is; `state` where that is not scored.

    In the place of the states between, not on top of them. Temperature and offset are those of the
    level where the jump began, delta adds what it would have added step by step; a drift is not
    given back, because what was expected of the steps between is not known.
    """

    def one(state, x, preds, row, x_next, delta):
        alone = {role: eps[None] for role, eps in preds.items()}
        step = Step(row, x[None], alone, None, None)  # type: ignore[arg-type]
        ended = Move(x_next[None], x_next[None])
        before = jax.tree.map(lambda a: a[None], state)
        after = dataclasses.replace(tracker, delta=delta).observe(before, step, ended)
        return jax.tree.map(lambda a: a[0], after)

    rows = kernel(jump, row)
    scored = jnp.isfinite(rows.k_var)
    # A tracker divides it by 2 k_var again.
    delta = tracker.delta * jump.weight * jnp.where(scored, rows.k_var, 0.0)
    after = jax.vmap(one)(jump.state, jump.x, jump.preds, rows, move.x_next, delta)
    return jax.tree.map(lambda a, b: jnp.where(per_sample(scored, a), a, b), after, state)
