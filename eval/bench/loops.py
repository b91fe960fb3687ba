"""Loops over beta that hopfield_jax is compared with: NumPy, PyTorch, hopfield-layers' association.

All follow every start of a problem at one beta after the other, xi <- X^T softmax(beta X xi), until
the slowest has come to rest: its state moves by less than TOLERANCE of the patterns' spread.
Source: hopfield-layers, the code of Ramsauer et al. 2020; see eval.bench.hopfield.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

TOLERANCE = 1e-6
MAX_STEPS = 10_000
OWN_THRESHOLD = 1e-4  # update_steps_eps of hopfield-layers


class Problem(NamedTuple):
    """Patterns [N, d], starts [B, d] and betas [S], float32."""

    patterns: np.ndarray
    starts: np.ndarray
    betas: np.ndarray


class Ends(NamedTuple):
    """States [S, B, d] where a loop ended, whether they converged [S, B], updates of rows."""

    states: np.ndarray
    converged: np.ndarray
    updates: int


def numpy_loop(problem: Problem) -> Ends:
    """One beta after the other, all starts at once, until every state has come to rest."""
    x, starts, betas = problem
    limit = TOLERANCE * np.sqrt(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    states, last, updates = [], [], 0
    for beta in betas:
        state = starts
        for _ in range(MAX_STEPS):
            p = state @ x.T
            p *= beta
            p -= p.max(axis=1, keepdims=True)
            np.exp(p, out=p)
            p /= p.sum(axis=1, keepdims=True)
            image = p @ x
            change = np.linalg.norm(image - state, axis=1)
            state = image
            updates += len(state)
            if change.max() <= limit:
                break
        states.append(state)
        last.append(change <= limit)
    return Ends(np.stack(states), np.stack(last), updates)


def torch_loop(follow: Callable) -> Callable[[Problem], Ends] | None:
    """A loop over betas in PyTorch, on the kind of device that jax uses; None where it is missing.

    follow(torch, x, starts, beta, limit) gives states, which of them rest, and their updates.
    """
    try:
        import torch
    except ImportError:
        return None
    gpu = jax.default_backend() == "gpu"
    if gpu and not torch.cuda.is_available():
        return None

    def run(problem: Problem) -> Ends:
        x, starts = (
            torch.from_numpy(a).to("cuda" if gpu else "cpu")
            for a in (problem.patterns, problem.starts)
        )
        limit = TOLERANCE * (x - x.mean(dim=0)).pow(2).sum(dim=1).mean().sqrt()
        ends = [follow(torch, x, starts, beta, limit) for beta in problem.betas.tolist()]
        states, rest, updates = zip(*ends, strict=True)
        return Ends(
            torch.stack(states).cpu().numpy(), torch.stack(rest).cpu().numpy(), sum(updates)
        )

    return torch.inference_mode()(run)


def plain(torch, x, starts, beta, limit):
    """One beta, all starts, until the slowest rests."""
    state, count = starts, 0
    change = torch.full_like(starts[:, 0], torch.inf)
    while change.max() > limit and count < MAX_STEPS:
        image = torch.softmax(beta * (state @ x.T), dim=-1) @ x
        change = (image - state).norm(dim=-1)
        state = image
        count += 1
    return state, change <= limit, count * len(state)


def association(torch, x, starts, beta, limit):
    """The same in the order and with the masks of hopfield-layers, for one head."""
    # an upper bound of the states' change where patterns have norm 1 and are orthogonal
    return _associated(torch, x, starts, beta, lambda change: change.norm(dim=-1)[0] <= limit)


def association_own_rule(torch, x, starts, beta, limit):
    """The same until the Frobenius norm of the change of all weights is at most OWN_THRESHOLD."""

    def rests(change):
        return (change.norm() <= OWN_THRESHOLD).expand(len(starts))

    return _associated(torch, x, starts, beta, rests)


def _associated(torch, x, starts, beta, rests):
    k, q = x[None], beta * starts[None]
    active = torch.ones((1, 1, 1), dtype=torch.bool, device=x.device)
    xi, old, count = None, None, 0
    while active.any():
        if xi is not None:
            active_xi = xi.masked_select(active).view(-1, *xi.shape[1:])
            active_k = k.masked_select(active).view(-1, *k.shape[1:])
            q = beta * q.masked_scatter(active, torch.bmm(active_xi, active_k))
        logits = torch.bmm(q, k.transpose(1, 2))
        if xi is None:
            xi = torch.softmax(logits, dim=-1)
        else:
            chosen = logits.masked_select(active).view(-1, *xi.shape[1:])
            xi = xi.masked_scatter(active, torch.softmax(chosen, dim=-1))
        count += 1
        if old is not None:
            resting = rests(xi - old)
            active = (~resting.all() & (count < MAX_STEPS)).reshape(1, 1, 1)
        old = xi
    return (xi @ k)[0], resting, count * len(starts)
