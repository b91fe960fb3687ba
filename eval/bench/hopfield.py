r"""Speed of hopfield_jax: against loops over beta, against the peak, and as problems grow.

    python -m eval.bench hopfield

loops       128 (512) betas x 128 (16) starts, float32: every start is followed at every beta until
            the state moves by less than 1e-6 of the patterns' spread. The loops take one beta after
            the other, all its starts as one product, xi <- X^T softmax(beta X xi), until the
            slowest has come to rest:
        NumPy         as plain as it can be written
        PyTorch       the same
        association   in PyTorch, as hopfield-layers iterates its association: on the weights, with
                      a head's activity as a mask over queries, keys and weights. Its criterion, the
                      norm of all changes together, is replaced by the largest: fewer updates.
        association, its own rule
                      the same with its own criterion: the Frobenius norm of the change of the
                      weights, over all queries, and its own threshold, 1e-4, so less exact
            `find_fixed_points` takes all rows at once and returns residuals and energies besides.
    wide        equidistant patterns, N = 64 in d = 128; betas over [0.9 K_s, 1.1 N], geometric
    fine        the same within 1% of K_s, where the update slows down
    flat        N = 1024 random patterns in d = 256, beta far above the transition: few updates
share       of a large matrix product's speed that the default iteration reaches on one working set:
            4 R N d operations per update in state space, 2 R N^2 in weight space, nothing counted
            for the softmax
growth      seconds ~ size^exponent over doublings of patterns, states and betas, in state space;
            every row takes at most 4 updates
many        1e6 patterns in d = 64, by blocks: their logits are never all there

Starts of "wide" and "fine": the patterns, the centroid, and points of the hull, as many as fit.
The limit and the tolerance are the same for all. Differences of results are taken over rows that
converge in both. Rows that end apart are done again in float64 by plain iteration to 1e-9: how many
of them the library, and how many the loop, has at another fixed point. Near K_s float32 may end
anywhere within the rounding of beta, in loops as here. All on one device. Costs: section 8 of
hopfield_jax.solvers; hopfield-layers is the code of Ramsauer et al. 2020.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table
from hopfield_jax import find_fixed_points, memory, patterns, theory
from hopfield_jax.solvers import fixed_points, iterations, spaces

from . import roofline, scaling, timing
from .loops import (
    MAX_STEPS,
    TOLERANCE,
    Problem,
    association,
    association_own_rule,
    numpy_loop,
    plain,
    torch_loop,
)
from .memory import peak_memory

APART = 1e-3  # of the spread: rows farther apart than this ended at different fixed points
OCTAVES = 3
UPDATES = 4
NO_TORCH = "no torch for this device: pip install torch"


def measure(config) -> Iterator[tuple[str, Any, Table]]:
    """Figures at 1/config.shrink of their sizes, from config.pairs alternations: name, results and
    table of one part after the other."""
    shrink, pairs = config.shrink, config.pairs
    if jax.device_count() > 1:
        raise InputError(
            f"the hopfield suite times one device, and there are {jax.device_count()}:"
            " leave --cpu-devices out, or hide the others"
        )
    # first, while the process's peak of memory is its own
    many = many_patterns(max(1_000_000 // shrink, 64), 64, 64, pairs)
    yield "many", many, many_table(many)
    n, d, s, b = (max(size // shrink, 4) for size in (64, 128, 128, 128))
    problems = {
        "wide": transition(n, d, s, b, fine=False),
        "fine": transition(n, d, s, b, fine=True),
        "flat": flat(*(max(size // shrink, 4) for size in (1024, 256, 512, 16))),
    }
    kinds = {
        "association": torch_loop(association),
        "association, its own rule": torch_loop(association_own_rule),
        "PyTorch": torch_loop(plain),
    }
    loops = {
        f"{name}, against {kind}": versus(problem, loop, pairs)
        for name, problem in problems.items()
        for kind, loop in (kinds | {"NumPy": numpy_loop}).items()
    }
    yield "loops", loops, loops_table(loops)
    forms = {
        f"{form} space, N = {n}, d = {d}": share(form, n, d, pairs)
        for form, n, d in (
            ("state", 1024 // shrink, 256 // shrink),
            ("weights", 1024 // shrink, 1024 // shrink),
            ("weights", 64 // min(shrink, 16), 128 // min(shrink, 16)),
        )
    }
    yield "share", forms, share_table(forms)
    grown = growth(shrink, pairs)
    yield "growth", grown, scaling.table_of(grown)


def transition(N: int, d: int, betas: int, starts: int, *, fine: bool) -> Problem:
    """Orthonormal patterns, for which K = beta, and betas across the transition."""
    x = patterns.equidistant(N, d, seed=0)
    weights = np.random.default_rng(0).dirichlet(np.ones(N), max(starts - N - 1, 0))
    limit = theory.spinodal(N).K
    window = (0.99 * limit, 1.01 * limit) if fine else (0.9 * limit, 1.1 * N)
    begin = np.concatenate([x, x.mean(axis=0, keepdims=True), weights @ x])[:starts]
    return _single(x, begin, np.geomspace(*window, betas))


def flat(N: int, d: int, betas: int, states: int) -> Problem:
    """Random unit patterns; starts with as much noise as signal, two octaves above K_c."""
    x = patterns.random(0, N, d)
    limit = theory.critical(N)
    begin = x[:states] + np.random.default_rng(1).normal(size=(states, d)) / np.sqrt(d)
    return _single(x, begin, np.geomspace(limit, 4 * limit, betas))


def versus(problem: Problem, loop, pairs: int) -> dict[str, Any] | str:
    """How many times faster the library is than a loop, and whether they agree."""
    if loop is None:
        return NO_TORCH
    x, starts, betas = problem
    network = memory(x)

    def ours():
        return find_fixed_points(
            network, starts, betas[:, None], tolerance=TOLERANCE, max_steps=MAX_STEPS
        )

    theirs, found = loop(problem), ours()
    shape = theirs.converged.shape
    converged = np.asarray(found.converged).reshape(shape)
    both = converged & theirs.converged
    difference = np.linalg.norm(np.asarray(found.state).reshape(*shape, -1) - theirs.states, axis=2)
    difference = np.where(both, difference / float(network.spread), 0)
    together = difference[difference <= APART]
    apart = np.argwhere(difference > APART)
    wrong_ours, wrong_theirs = astray(problem, apart, np.asarray(found.state), theirs.states)
    return {
        "times_faster": timing.ratio_of_pairs(lambda: loop(problem), ours, pairs),
        "updates_theirs": theirs.updates,
        "updates_ours": int(np.sum(found.steps)),
        "rows": converged.size,
        "unconverged_theirs": int(np.sum(~theirs.converged)),
        "unconverged_ours": int(np.sum(~converged)),
        "apart": len(apart),
        "astray_ours": wrong_ours,
        "astray_theirs": wrong_theirs,
        "largest_difference": float(together.max(initial=0)),
    }


def astray(problem: Problem, rows, ours, theirs) -> tuple[int, int]:
    """How many of some rows (beta, start) ended elsewhere than plain iteration in float64."""
    if not len(rows):
        return 0, 0
    beta, start = rows.T
    with jax.enable_x64(True):
        network = memory(problem.patterns.astype(np.float64))
        exact = find_fixed_points(
            network,
            problem.starts[start].astype(np.float64),
            problem.betas[beta].astype(np.float64),
            tolerance=1e-9,
            max_steps=100_000,
            method="picard",
        )
        limit = APART * float(network.spread)
        ends = np.asarray(exact.state)
    ours = ours.reshape(*theirs.shape)[beta, start]
    off = [np.linalg.norm(a - ends, axis=1) > limit for a in (ours, theirs[beta, start])]
    return int(off[0].sum()), int(off[1].sum())


def share(form, N: int, d: int, pairs: int, steps: int = 16) -> dict[str, float]:
    """Operations per second of the iterations of one working set, against a large product's."""
    x = patterns.random(0, N, d).astype(np.float32)
    space = spaces.space(memory(x), form)
    rows = fixed_points.working_set(space)
    starts = jnp.asarray(np.resize(x, (rows, d)))
    betas = jnp.full(rows, theory.critical(N), jnp.float32)

    endless = dataclasses.replace(iterations.search(max_steps=steps), tolerance=-1.0)

    @jax.jit
    def iterate(space, held, betas):
        return iterations.run(
            space,
            held,
            betas,
            jnp.zeros(rows, jnp.int32),
            jnp.ones(rows, bool),
            endless,
            length=steps,
        )

    held = space.begin(space.seen(starts), betas)
    product, peak = roofline.product()
    ratio = timing.ratio_of_pairs(lambda: iterate(space, held, betas), product, pairs)
    operations = steps * rows * (4 * N * d if form == "state" else 2 * N**2)
    low, middle, high = operations / peak / np.array([ratio.high, ratio.median, ratio.low])
    return {
        "rows": rows,
        "operations_per_second": operations / ratio.a,
        "peak_operations_per_second": peak / ratio.b,
        "share_of_peak": float(middle),
        "share_low": float(low),
        "share_high": float(high),
    }


def growth(shrink: int, pairs: int) -> dict[str, Any]:
    """Seconds over doublings of one size at a time, and their exponents."""
    small = {name: max(size // shrink, 4) for name, size in SMALL.items()}
    d = max(64 // shrink, 4)
    out = {}
    for axis in small:
        sizes = [small[axis] * 2**k for k in range(OCTAVES + 1)]
        runs_of = [_retrieval(d=d, **(small | {axis: size})) for size in sizes]
        out[axis] = scaling.measured(dict(zip(sizes, runs_of, strict=True)), pairs)
    return out


SMALL = {"patterns": 1024, "states": 32, "betas": 32}


def _retrieval(d: int, patterns: int, states: int, betas: int) -> Callable[[], Any]:
    problem = flat(patterns, d, betas, states)
    network = memory(problem.patterns)
    return functools.partial(
        find_fixed_points,
        network,
        problem.starts,
        problem.betas[:, None],
        tolerance=1e-30,
        max_steps=UPDATES,
        space="state",
    )


def many_patterns(N: int, d: int, states: int, pairs: int) -> dict[str, Any]:
    """Retrieval from very many patterns: seconds, and the process's peak of memory."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, d), dtype=np.float32)
    x /= np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    noise = rng.standard_normal((states, d), dtype=np.float32) / np.sqrt(d)
    starts = x[:states] + noise / 2
    network = memory(x)
    built = peak_memory()
    run = functools.partial(find_fixed_points, network, starts, 100.0, tolerance=TOLERANCE)
    found = run()
    return {
        "patterns": N,
        "states": states,
        "seconds": float(np.median([timing.seconds(run) for _ in range(min(pairs, 3))])),
        "converged": int(np.sum(found.converged)),
        "most_updates": int(np.max(found.steps)),
        "patterns_mb": x.nbytes / 1e6,
        "logits_mb": 4 * N * states / 1e6,
        "peak_mb_before": built,
        "peak_mb": peak_memory(),
    }


def loops_table(loops: dict[str, Any]) -> Table:
    """Times faster than loops."""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    rows = [
        {"figure": name} | (found if isinstance(found, dict) else {"missing": found})
        for name, found in loops.items()
    ]

    def known(cell: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
        return lambda r: None if "missing" in r else cell(r)

    def quartiles(r: dict[str, Any]) -> str:
        return f"{r['times_faster'].low:.1f} .. {r['times_faster'].high:.1f}"

    def updates(r: dict[str, Any]) -> str:
        return " / ".join(f"{r[f'updates_{who}'] / r['rows']:.1f}" for who in ("theirs", "ours"))

    return Table.of(
        f"Against loops over beta ({device}; float32, tolerance {TOLERANCE:g} of the spread)",
        rows,
        {
            "figure": "figure",
            "times faster": lambda r: r.get("missing") or f"{r['times_faster'].median:.1f}",
            "quartiles": known(quartiles),
            "loop s": known(lambda r: r["times_faster"].a),
            "hopfield_jax s": known(lambda r: r["times_faster"].b),
            "updates per row, loop / here": known(updates),
            "unconverged, loop / here": known(
                lambda r: "{unconverged_theirs} / {unconverged_ours} of {rows}".format(**r)
            ),
            f"rows apart > {APART:g}: of them astray, loop / here": known(
                lambda r: "{apart}: {astray_theirs} / {astray_ours}".format(**r)
            ),
            "largest difference of others": known(lambda r: f"{r['largest_difference']:.1e}"),
        },
    )


def share_table(forms: dict[str, Any]) -> Table:
    """Speeds beside that of a product."""
    return Table.of(
        "Share of a matrix product's speed",
        [{"iteration": name} | found for name, found in forms.items()],
        {
            "iteration": "iteration",
            "Gop/s": lambda r: f"{r['operations_per_second'] / 1e9:.0f}",
            "product Gop/s": lambda r: f"{r['peak_operations_per_second'] / 1e9:.0f}",
            "share % [quartiles]": lambda r: (
                f"{100 * r['share_of_peak']:.0f}"
                f" [{100 * r['share_low']:.0f}, {100 * r['share_high']:.0f}]"
            ),
        },
    )


def many_table(many: dict[str, Any]) -> Table:
    """Seconds and memory of very many patterns."""
    memory = {
        "peak memory MB": "peak_mb",
        "of it before": "peak_mb_before",
        "patterns MB": "patterns_mb",
        "all logits MB": "logits_mb",
    }
    shown = {
        "states": "states",
        "converged": "converged",
        "updates": "most_updates",
        "s": "seconds",
    }
    return Table.of(
        f"{many['patterns']:,} patterns by blocks",
        [many | {name: f"{many[field]:.0f}" for name, field in memory.items()}],
        shown | {name: name for name in memory},
    )


def _single(*arrays) -> Problem:
    return Problem(*(np.ascontiguousarray(a, np.float32) for a in arrays))
