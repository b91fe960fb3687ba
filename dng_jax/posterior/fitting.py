r"""Fitting a tracker's temperature and offset on labelled data, without generating anything.

Labelled clean data x_0 are noised along the forward chain of a step table,

    x_{T-1} = alpha x_0 + sigma z,        x_i = a_i x_{i+1} + sqrt(g_i) z_i    (noisier)
    a_i = 1 / k_x,  g_i = -k_eps sigma_i / k_x                                 (dng_jax.steps)

and every transition x_i -> x_{i+1} is scored with the network's kernels. Since noising does not
know the class, the tracked posterior of the label is a Markov product of those scores. The
temperature tau(logsnr) with n knots, and on request the offset omega(logsnr) with the same
(dng_jax.posterior.temperature), minimise the negative log-likelihood of the labels, averaged over
samples and over the levels of the chain, under 0 <= tau <= tau_max. Runs of the sampler with their
evidence recorded, labelled by a classifier, are as good as chains of data.

For `classes` the log-posterior is linear in tau before the softmax, so the problem is convex. Its
offset moves the forbidden classes against the others; one that is common to all classes cancels,
and so a calibration that is to serve any forbidden class has none.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.posterior.evidence import Evidence
from dng_jax.posterior.temperature import Offset, Temperature
from dng_jax.posterior.view import EvidenceSource, Replayable
from dng_jax.rules import Denoise, Move, Step, chain_dtype, in_dtype, predict
from dng_jax.sampling import as_pytree
from dng_jax.steps import StepRow, StepTable


class Fit(NamedTuple):
    """temperature, offset: the fitted ones; before, after: mean negative log-likelihood over the
    chain (nats) with the tracker's own and with the fitted ones; final: after, at its end."""

    temperature: Temperature
    offset: Offset
    before: float
    after: float
    final: float


def forward_evidence(
    denoise: Denoise, table: StepTable, tracker: EvidenceSource, x_0: jax.Array, keys: jax.Array
) -> Evidence:
    """Evidence [T-1, B, ...] of the tracker's concepts along the forward chain of x_0 [B, ...].

    tracker: one of kernels, or a rule that records (dng_jax.guidance.recording); keys [B] typed.
    `expected` is set to `inner`: no sampler took these steps.
    """
    # Forward transitions are as noisy as the kernel, so no divergence term belongs to them.
    tracker = dataclasses.replace(tracker, probes=0)
    return _forward(as_pytree(denoise), table, tracker, jnp.asarray(x_0, jnp.float32), keys)


def replay(tracker: Replayable, evidence: Evidence, table: StepTable, x_0: jax.Array) -> jax.Array:
    """log-posterior along the chain from its evidence, [T-1, B, num_outcomes].

    Outcomes are the K classes, or the M negatives and, last, none of them. x_0 [B, ...]: any array
    with the chain's batch. In float32, or float64 where the evidence is. InputError for evidence
    against another reference than the tracker's.
    """
    _must_share_reference(tracker, evidence)

    def body(state, inputs):
        row, one = inputs
        state = tracker.update(state, one, row)
        return state, tracker.log_outcomes(state)

    dtype = chain_dtype(evidence.inner)
    tracker, evidence = in_dtype(tracker, dtype), in_dtype(evidence, dtype)
    rows = in_dtype(jax.tree.map(lambda column: jnp.asarray(column)[:-1], table), dtype)
    return jax.lax.scan(body, tracker.init(jnp.asarray(x_0, dtype)), (rows, evidence))[1]


def fit_temperature(
    tracker: Replayable,
    evidence: Evidence,
    table: StepTable,
    labels,
    *,
    knots: int = 8,
    tau_max: float = 2.0,
    offset: bool = False,
) -> Fit:
    """Fits tau at `knots` log-SNRs, spread evenly over the table's scored steps.

    labels [B]: index of the true outcome (see `replay`). offset: fit omega at the same knots
    too, else the tracker keeps its own. The tracker's delta and drift are left out: they answer to
    guided chains, and these are not. Raises InputError where labels or knots make no sense, and for
    evidence against another reference than the tracker's.
    """
    from scipy.optimize import minimize  # here, because the library imports nothing heavy

    _must_share_reference(tracker, evidence)
    steps, batch = evidence.inner.shape[:2]
    outcomes = tracker.num_outcomes
    labels = np.asarray(labels)
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.shape != (batch,) or labels.min() < 0 or labels.max() >= outcomes:
        raise InputError(f"labels must be {batch} integers in 0..{outcomes - 1}")
    if not 2 <= knots <= steps:
        raise InputError(f"knots must lie between 2 and the {steps} scored steps, got {knots}")
    scalars = evidence.scalars().values()
    finite = [jnp.isfinite(one).all((0, *range(2, one.ndim))) for one in scalars]
    if lost := batch - int(jnp.sum(jnp.all(jnp.stack(finite), axis=0))):
        raise InputError(
            f"the evidence of {lost} of {batch} chains is not finite: look for what diverged there"
        )
    logsnr = np.asarray(table.logsnr, np.float64)[:-1]
    at = np.interp(np.linspace(0, steps - 1, knots), np.arange(steps), logsnr)
    at_knots = jnp.asarray(at, jnp.float32)
    nothing = jnp.zeros((), jnp.float32)
    plain = dataclasses.replace(tracker, delta=nothing, drift=nothing)
    chain = (plain, evidence, table, jax.nn.one_hot(labels, outcomes))
    free = knots * (2 if offset else 1)

    def heated(values) -> tuple[Temperature, Offset]:
        values = jnp.asarray(values, jnp.float32)
        own = Offset(at_knots, values[knots:]) if offset else tracker.offset
        return Temperature(at_knots, values[:knots]), own

    def objective(values):
        loss, (tau, omega) = _mean_nll(heated(values), *chain)
        slope = np.concatenate([tau.values, omega.values])[:free]
        return float(loss), slope.astype(np.float64)

    runs = [
        minimize(
            objective,
            np.concatenate([np.full(knots, first), np.zeros(free - knots)]),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, tau_max)] * knots + [(None, None)] * (free - knots),
            options={"maxiter": 60},
        )
        for first in (0.03, 0.3, 1.0)
    ]
    best = min(runs, key=lambda run: run.fun)
    fitted = heated(best.x)
    before = _nll((tracker.temperature, tracker.offset), *chain)
    after = _nll(fitted, *chain)
    return Fit(*fitted, float(before.mean()), float(after.mean()), float(after[-1]))


def _must_share_reference(tracker: Replayable, evidence: Evidence) -> None:
    # None: a tracker of all classes, which takes any, since what is common to them cancels.
    wanted, found = getattr(tracker, "reference", None), evidence.reference
    if wanted not in (None, found):
        measured = "the concepts' mean" if found is None else f"'{found}'"
        raise InputError(
            f"the evidence was measured against {measured}, the tracker scores against '{wanted}':"
            f" record it with reference='{wanted}'"
        )


@jax.jit
def _nll(fitted, tracker, evidence, table, one_hot):
    """Mean negative log-likelihood of the labels at every level, [T-1]."""
    temperature, offset = fitted
    heated = dataclasses.replace(tracker, temperature=temperature, offset=offset)
    log_p = replay(heated, evidence, table, evidence.inner[0])
    # 0 * -inf where an outcome is impossible: only the true outcome's term may count.
    return -jnp.sum(jnp.where(one_hot > 0, log_p, 0.0), axis=2).mean(axis=1)


@jax.jit
@jax.value_and_grad
def _mean_nll(fitted, tracker, evidence, table, one_hot):
    return _nll(fitted, tracker, evidence, table, one_hot).mean()


@jax.jit
def _forward(denoise, table: StepRow, tracker, x_0, keys):
    table = jax.tree.map(jnp.asarray, table)
    last = jax.tree.map(lambda column: column[-1], table)

    def noise(index):
        def draw(key):
            return jax.random.normal(jax.random.fold_in(key, index), x_0.shape[1:], x_0.dtype)

        return jax.vmap(draw)(keys)

    def body(x_next, row):
        g = -row.k_eps * row.sigma / row.k_x
        x = x_next / row.k_x + jnp.sqrt(g) * noise(row.index)
        roles = tracker.roles

        def evaluate(x):
            return predict(denoise, x, row, roles)

        step = Step(row, x, evaluate(x), evaluate, keys)
        move = Move(x_next, x_next)
        return x, tracker.evidence(step, move)

    rows = jax.tree.map(lambda column: column[:-1], table)
    start = last.alpha * x_0 + last.sigma * noise(last.index)
    return jax.lax.scan(body, start, rows, reverse=True)[1]
