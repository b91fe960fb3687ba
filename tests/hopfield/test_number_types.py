"""Every function of hopfield_jax that takes numbers, in every type of number and under JAX's
settings: what float32 gives, in float32 or, where the patterns are float64, in float64."""

from __future__ import annotations

import functools
import inspect
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import hopfield_jax
from dng_jax import mixtures
from hopfield_jax import (
    InputError,
    attention,
    diffusion,
    distances,
    energy,
    equidistant,
    patterns,
    projections,
    spectrum,
    theory,
)
from hopfield_jax.analyses import (
    basins,
    capacity,
    landscape,
    metastable,
    retrieval,
    sweeps,
    transition,
)
from hopfield_jax.energy import memory
from hopfield_jax.solvers import certificates, fixed_points, implicit, iterations, spaces
from hopfield_jax.solvers import weight_space as ws
from tests.helpers import SWITCHES, switched
from tests.hopfield.helpers import settle

pytestmark = pytest.mark.usefixtures("quick_compilation")

TYPES = {
    "numpy float16": functools.partial(np.asarray, dtype=np.float16),
    "numpy bfloat16": functools.partial(np.asarray, dtype=ml_dtypes.bfloat16),
    "numpy float32": functools.partial(np.asarray, dtype=np.float32),
    "numpy float64": functools.partial(np.asarray, dtype=np.float64),
    "numpy int8": functools.partial(np.asarray, dtype=np.int8),
    "numpy int64": functools.partial(np.asarray, dtype=np.int64),
    "float16": functools.partial(jnp.asarray, dtype=jnp.float16),
    "bfloat16": functools.partial(jnp.asarray, dtype=jnp.bfloat16),
    "float32": functools.partial(jnp.asarray, dtype=jnp.float32),
    "float64": functools.partial(jnp.asarray, dtype=float),
    "int32": functools.partial(jnp.asarray, dtype=jnp.int32),
    "lists": lambda values: np.asarray(values).tolist(),
}
SINGLE = ("numpy float16", "numpy bfloat16", "numpy float32", "float16", "bfloat16", "float32")
SETTINGS = {name: {name: value} for name, value in SWITCHES.items()}
SETTINGS |= {"none": {}, "all": SWITCHES}

# whole numbers, so that every type holds them exactly
X = np.array([[2, 0, 1], [0, 2, -1], [-1, 1, 2], [1, -2, 0], [-2, -1, -1]])
S = np.array([[1, 0, 1], [0, 1, -1], [-1, 1, 1]])
W = np.array([1, 2, 1, 1, 3])
ONE, TWO, BETAS = np.array(1), np.array(2), np.array([1, 2])
EACH = np.array([1, 2, 1])  # a beta per state
LABELS = np.array([0, 0, 1, 1, 1])
KEYS = np.stack([X, X[::-1]])
FREE = np.eye(5, dtype=int)  # weights of five patterns


def dot(a):
    return memory(a(X))


def weighed(a):
    return memory(a(X), "euclidean", a(W))


def mixture(a):
    return mixtures.gaussians(a(X), 0.5, LABELS, a(W))


def gram(a):
    return ws.gram(dot(a))


def read_off(a):
    found = transition.settle(dot(a), a(X), a(TWO))
    return [
        transition.overlap(found),
        transition.orders(found),
        transition.medians([found]),
        transition.energy_gap(found),
        transition.undecided(found),
        transition.majority(a(FREE))(found),
    ]


def equal_energies(a):
    first = transition.onsets(dot(a), relative=1e-2)
    last = transition.edge(
        dot(a), a(X[:1] * 0), transition.undecided, 1 / 8, a(8 * TWO), relative=1e-2
    )
    return first, last, transition.equal_energy(dot(a), first, last, [0, 1], 1e-2)


def observed(a):
    step = type("Step", (), {"x": jnp.asarray(a(S)), "row": type("Row", (), LEVEL)})
    return diffusion.observer(mixture(a), [0])(None, step)


LEVEL = {"alpha": 0.5, "sigma": 2.0}


def point(a, form):
    space = spaces.space(dot(a), form)
    held = space.begin(space.seen(a(S)), a(EACH))
    return space.evaluate(space.lift(held), energy.check_states(dot(a), S)[:, 0] + 3)


CHEAP = {
    "energy.memory": dot,
    "energy.check_beta": lambda a: energy.check_beta(a(BETAS)),
    "energy.check_states": lambda a: energy.check_states(dot(a), a(S)),
    "patterns.check": lambda a: patterns.check(a(X)),
    "patterns.real_numbers": lambda a: patterns.real_numbers(a(X)),
    "patterns.from_images": lambda a: patterns.from_images(
        np.asarray(a(X)).reshape(5, 1, 3) / 1.0, "centred-unit"
    ),
    "patterns.equidistant": lambda a: patterns.equidistant(4, None, a(TWO), a(ONE)),
    "patterns.random": lambda a: patterns.random(0, 4, 3, a(TWO)),
    "patterns.ultrametric": lambda a: patterns.ultrametric(2, 2, a(TWO), a(ONE), a(ONE - 1)),
    "distances.mean_half_squared": lambda a: distances.mean_half_squared(a(X)),
    "distances.pairs": lambda a: distances.pairs(a(X), a(W)),
    "distances.squares": lambda a: list(distances.squares(a(X), [0, 2])),
    "distances.nearest": lambda a: distances.nearest(a(X), [0, 2]),
    "distances.separation": lambda a: distances.separation(a(X)),
    "theory.effective": lambda a: theory.effective(a(BETAS), a(TWO), a(ONE)),
    "theory.half_squared_distance": lambda a: theory.half_squared_distance(a(BETAS), a(ONE)),
    "theory.k_of_u": lambda a: theory.k_of_u(a(W), 1, 6),
    "theory.m_of_u": lambda a: theory.m_of_u(a(W), 1, 6),
    "theory.weights_of_u": lambda a: theory.weights_of_u(a(W), 1, 6),
    "theory.eigenvalues": lambda a: theory.eigenvalues(a(W), 1, 6),
    "theory.spectral_radius": lambda a: theory.spectral_radius(a(W), 1, 6),
    "theory.morse_index": lambda a: theory.morse_index(a(W), 1, 6),
    "theory.energy": lambda a: theory.energy(a(W), 1, 6),
    "theory.energy_above_centroid": lambda a: theory.energy_above_centroid(a(W), 1, 6),
    "theory.phase": lambda a: theory.phase(6, a(TWO)),
    "theory.branch": lambda a: theory.branch(6, 1, a(TWO) * 4),
    "theory.barriers": lambda a: theory.barriers(6, a(TWO)),
    "theory.pattern_limits": lambda a: theory.pattern_limits(a(TWO)),
    "theory.attention_limits": lambda a: theory.attention_limits(a(TWO)),
    "theory.ultrametric_window": lambda a: theory.ultrametric_window(
        4, 4, a(TWO), a(ONE), a(ONE - 1)
    ),
    "theory.ultrametric_scales": lambda a: theory.ultrametric_scales(3, a(TWO), a(ONE), a(ONE - 1)),
    "equidistant.branches": lambda a: equidistant.branches(6, a(TWO), a(TWO) * 4, 20),
    "equidistant.number_of_minima": lambda a: equidistant.number_of_minima(3, a(W)),
    "equidistant.weight": lambda a: equidistant.weight(3, a(W)),
    "equidistant.watershed": lambda a: equidistant.watershed(3, a(W)),
    "equidistant.weight_of": lambda a: equidistant.weight_of(6, a(W)),
    "spectrum.beta_eff": lambda a: spectrum.beta_eff(a(X), a(BETAS)),
    "spectrum.report": lambda a: vars(spectrum.report(a(X), follow=False)),
    "spectrum.first_instability": lambda a: vars(spectrum.first_instability(a(X))),
    "diffusion.snr": lambda a: diffusion.snr(a(BETAS), a(BETAS[::-1]), a(ONE)),
    "diffusion.noise_of": lambda a: diffusion.noise_of(a(BETAS), a(ONE - 1)),
    "diffusion.markers": lambda a: vars(diffusion.markers(mixture(a), [0])),
    "diffusion.evidence": lambda a: diffusion.evidence(mixture(a), [0]),
    "diffusion.predicted_share": lambda a: diffusion.predicted_share(mixture(a), [0], a(W)),
    "diffusion.collapse": lambda a: diffusion.collapse(a(X)),
    "diffusion.image_collapse": lambda a: diffusion.image_collapse(a(X)),
    "diffusion.common_scale": lambda a: diffusion.common_scale(mixture(a)),
    "attention.beta_eff": lambda a: attention.beta_eff(a(KEYS), a(ONE)),
    "projections.standardised": lambda a: projections.standardised(a(X)),
    "projections.split_heads": lambda a: projections.split_heads(a(X[:, :2]), 2),
    "projections.check_inputs": lambda a: projections.check_inputs(a(X)),
    "projections.check_finite": lambda a: projections.check_finite(np.asarray(a(X)), "x"),
    "fixed_points.check_starts": lambda a: fixed_points.check_starts(dot(a), a(S)),
    "fixed_points.merge": lambda a: fixed_points.merge(a(S), a(ONE)),
    "iterations.search": lambda a: vars(iterations.search(a(ONE), a(TWO))),
    "capacity.share": lambda a: capacity.share(a(W), a(BETAS)),
    "landscape.through": lambda a: landscape.through(*a(X[:3])),
    "landscape.principal": lambda a: landscape.principal(a(X)).project(a(S)),
    "landscape.variances": lambda a: landscape.variances(a(X)),
    "landscape.line": lambda a: landscape.line(a(X[0]), a(X[1]), a(BETAS)),
    "retrieval.rms_norm": lambda a: retrieval.rms_norm(a(X)),
    "retrieval.corrupt": lambda a: [
        retrieval.corrupt(a(X), [0, 1], a(ONE), kind, fill=a(TWO)) for kind in ("noise", "mask")
    ],
    "retrieval.posterior_mean_beta": lambda a: retrieval.posterior_mean_beta(a(X), a(ONE)),
}
COMPILED = {
    "energy.memory, weighed": lambda a: [weighed(a), memory(a(X), checked=False)],
    "energy.pad": lambda a: energy.pad(dot(a), 4),
    "energy.fields": lambda a: energy.fields(weighed(a), a(S)),
    "energy.gradient": lambda a: energy.gradient(weighed(a), a(S), a(EACH)),
    "weight_space.gram": gram,
    "weight_space.inner": lambda a: ws.inner(gram(a), a(FREE)),
    "weight_space.to_state": lambda a: ws.to_state(dot(a), a(FREE)),
    "sweeps.order_parameters": lambda a: sweeps.order_parameters(a(FREE)),
    "transition.margins": lambda a: transition.margins(weighed(a)),
    "basins.hull_starts": lambda a: basins.hull_starts(dot(a), 4, 0, a(ONE)),
    "energy.centred": lambda a: energy.centred(energy.pad(dot(a), 4)),
    "energy.logits": lambda a: [energy.logits(dot(a), a(S), a(b)) for b in (TWO, EACH)],
    "energy.partition": lambda a: energy.partition(
        energy.fields(dot(a), a(S)), a(TWO), dot(a).log_weights
    ),
    "energy.weights": lambda a: energy.weights(dot(a), a(S), a(EACH[:, None])),
    "energy.update_and_energy": lambda a: [
        energy.update_and_energy(m, a(S), a(b), block=block)
        for m in (weighed(a), energy.pad(dot(a), 4))
        for b in (TWO, EACH, EACH[:2, None])
        for block in (None, 2)
    ],
    "energy.update": lambda a: energy.update(dot(a), a(S[0]), a(TWO)),
    "energy.energy": lambda a: energy.energy(dot(a), a(S[0]), a(BETAS)),
    "diffusion.memory_of": lambda a: diffusion.memory_of(mixture(a)),
    "diffusion.class_memories": lambda a: diffusion.class_memories(mixture(a)),
    "diffusion.denoised": lambda a: [
        diffusion.denoised(mixture(a), a(S), a(ONE), a(TWO)),
        diffusion.denoised(mixture(a), a(S), 0.5, 2.0),
    ],
    "diffusion.log_posterior": lambda a: diffusion.log_posterior(mixture(a), a(S), a(ONE), a(TWO)),
    "diffusion.prior_of": lambda a: diffusion.prior_of(mixture(a), [0]),
    "diffusion.ends_in": lambda a: diffusion.ends_in(mixture(a), a(X), [0]),
    "diffusion.observer": observed,
    "attention.report": lambda a: [vars(r) for r in attention.report(a(KEYS), a(KEYS), a(ONE))],
    "certificates.jvp": lambda a: certificates.jvp(dot(a), a(S), a(S[::-1]), a(EACH)),
    "certificates.spectral_radius": lambda a: certificates.spectral_radius(dot(a), a(S), a(EACH)),
    "certificates.spectrum": lambda a: certificates.spectrum(dot(a), a(S), a(EACH)),
    "certificates.certify": lambda a: certificates.certify(dot(a), a(X), a(EACH[0])),
    "certificates.certify_rows": lambda a: certificates.certify_rows(
        dot(a), a(S), a(EACH), np.float64(1e-6)
    ),
    "certificates.proved": lambda a: certificates.proved(
        dot(a), jnp.asarray(a(S)), jnp.asarray(a(EACH)), np.float64(1e-6)
    ),
    "spaces.space": lambda a: [point(a, form) for form in ("state", "weights")],
    "weight_space.from_inner": lambda a: ws.from_inner(
        gram(a), a(FREE), ws.inner(gram(a), a(FREE)), a(TWO)
    ),
    "fixed_points.find_fixed_points": lambda a: [
        fixed_points.find_fixed_points(
            dot(a), a(S), a(EACH), space=space, method=method, tolerance=np.float64(1e-6)
        )[:2]
        for space in ("state", "weights")
        for method in iterations.METHODS
    ],
    "fixed_points.find_minima": lambda a: fixed_points.find_minima(
        weighed(a), a(S), a(BETAS[:, None]), max_steps=np.int64(100)
    ),
    "fixed_points.merge, of JAX": lambda a: fixed_points.merge(
        fixed_points.find_minima(weighed(a), a(S), a(TWO)).state, weighed(a).spread
    ),
    "fixed_points.describe": lambda a: [
        len(fixed_points.describe(fixed_points.find_minima(dot(a), a(S), a(TWO), max_steps=2)))
    ],
    "implicit.minimum": lambda a: [
        implicit.minimum(weighed(a), a(S[0]), a(TWO)),
        implicit.minimum(dot(a), a(S[0]), a(TWO), max_steps=1),  # NaN, also under jax_debug_nans
        jax.jacobian(lambda x: implicit.minimum(memory(x), a(S[0]), 2.0))(weighed(a).patterns),
    ],
    "sweeps.sweep": lambda a: [
        sweeps.sweep(dot(a), a(S), a(BETAS), warm=warm, kick=np.float64(1e-3))
        for warm in ("none", "up")
    ],
    "sweeps.certify_sweep": lambda a: sweeps.certify_sweep(
        dot(a), sweeps.sweep(dot(a), a(S), a(BETAS))
    ),
    "sweeps.hysteresis": lambda a: sweeps.hysteresis(dot(a), a(S), a(X), a(BETAS)),
    # Without its steps: float64 takes more to its tolerance.
    "transition.settle": lambda a: transition.settle(dot(a), a(S), a(TWO))[:-1],
    "transition.orders": read_off,
    "transition.many": lambda a: [each[:6] for each in transition.many(dot(a), a(S), a(BETAS))],
    "transition.loop": lambda a: [
        each[:6] for way in transition.loop(dot(a), a(S), a(X), a(BETAS)) for each in way
    ],
    "transition.equal_energy": equal_energies,
    "transition.protocols": lambda a: transition.protocols(dot(a), relative=1e-2),
    "capacity.measure": lambda a: capacity.measure(dot(a), relative=1e-2).quantiles(a(BETAS - 1)),
    "basins.basins": lambda a: basins.basins(dot(a), a(S), a(TWO)),
    "basins.watershed": lambda a: basins.watershed(
        dot(a), a(X[:2]), a(X[1:3]), a(TWO), resolution=1e-2
    ),
    "landscape.energies": lambda a: landscape.energies(dot(a), a(S), a(BETAS)),
    "metastable.tree": lambda a: metastable.tree(dot(a), a(BETAS)),
    "metastable.group_window": lambda a: metastable.group_window(
        dot(a), LABELS, a(ONE), relative=1e-1
    ),
    "retrieval.retrieve": lambda a: retrieval.retrieve(dot(a), [0, 1], a(X[None, :2]), a(BETAS)),
}
CASES = CHEAP | COMPILED
ELSEWHERE = {  # functions that those above call with what they made, or that take no such numbers
    "energy": {"block_size", "aligned"},
    "patterns": {"generator", "rows"},
    "projections": {"project", "random_projection", "read_tensor"},
    "theory": {"spinodal_u", "spinodal", "critical", "characteristic", "centroid_energy"},
    "fixed_points": {"follow", "working_set"},
    "iterations": {"run", "run_to_rest"},
    "spaces": {"length"},
    "basins": {"sort"},
    # of text models and of what a run has measured, plain NumPy
    "encoders": {"load", "scale"},
    "heads": {"regime", "head_map", "foretold", "rank_correlation"},
    "data_collapse": {"resampled", "collapse", "peak", "tops", "common", "smoother", "mean"},
    "transition": {
        *("default_tolerance", "sharp_tolerance", "overlap", "medians", "energy_gap"),
        *("majority", "undecided", "edge", "onsets"),
    },
}


def test_no_public_function_is_left_out():
    seen = {name.split(",")[0] for name in CASES}
    for package in (hopfield_jax, hopfield_jax.solvers, hopfield_jax.analyses):
        for name in package.__all__:
            module = getattr(package, name)
            if not inspect.ismodule(module) or hasattr(module, "__path__"):
                continue
            functions = {
                key
                for key, value in vars(module).items()
                if getattr(value, "__module__", None) == module.__name__
                and not (key.startswith("_") or inspect.isclass(value))
                and callable(value)
            }
            missing = {f for f in functions if f"{name}.{f}" not in seen}
            assert missing == ELSEWHERE.get(name, set()), name


@functools.cache
def expected(name):
    """What a case gives in NumPy's float32, as JAX is set where it is first asked for."""
    return leaves(CASES[name](TYPES["numpy float32"]))


def leaves(found):
    return [leaf for leaf in jax.tree.leaves(found) if not isinstance(leaf, str)]


def agrees(name, kinds):
    """Runs a case in some types: the numbers of float32, in the type that the patterns ask for."""
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy's of overflow, JAX's of a float64 cut short
            found = leaves(CASES[name](TYPES[kind]))
        double = jax.config.values["jax_enable_x64"] and kind not in SINGLE
        for got, wanted in zip(found, expected(name), strict=True):
            if isinstance(got, jax.Array) and jnp.issubdtype(got.dtype, jnp.floating):
                mixed = name.startswith("diffusion.")  # mixtures are float32 unless told otherwise
                assert mixed or got.dtype == (jnp.float64 if double else jnp.float32), kind
            got, wanted = np.asarray(got), np.asarray(wanted)
            assert got.dtype.kind in "biu" or got.dtype in (np.float32, np.float64), kind
            np.testing.assert_allclose(
                got.astype(float), wanted.astype(float), rtol=2e-4, atol=2e-4, err_msg=kind
            )


@pytest.mark.parametrize("name", CHEAP)
def test_no_type_and_no_setting_of_jax_changes_a_number(name):
    expected(name)
    with switched(**SWITCHES):
        agrees(name, TYPES)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("energy.logits", ("bfloat16", "numpy float64")),
        ("energy.gradient", ("float16",)),
        ("sweeps.order_parameters", ("numpy float64",)),
    ],
)
def test_nor_one_of_a_compiled_program(name, kinds):
    expected(name)
    with switched(**SWITCHES):
        agrees(name, kinds)


def test_nor_a_minimum():
    wanted = settle(X, 2.0, S[1])
    with switched(**SWITCHES):
        found = fixed_points.find_minima(memory(X), jnp.asarray(S[1:2], jnp.bfloat16), TWO)
        assert bool(found.minimum[0])
        assert found.state.dtype == jnp.float64
        np.testing.assert_allclose(found.state[0], wanted, atol=1e-5)


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request):
    """One after the other: all their programs at once are more than a process may map."""
    yield request.param
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_type_under_every_setting(name, setting):
    expected(name)
    with switched(**SETTINGS[setting]):
        agrees(name, TYPES)


def test_a_type_may_be_spelt_in_any_way_of_numpy():
    assert all(memory(X, dtype=t).dtype == jnp.float32 for t in ("f4", "<f4", np.float32))
    with pytest.raises(InputError, match="x64 mode"):
        memory(X, dtype=float)


def test_floats_longer_than_those_of_jax_are_shortened():
    assert memory(X.astype(np.longdouble)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert memory(X.astype(np.longdouble)).dtype == jnp.float64


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: memory(X, dtype=jnp.float16), "float32 or float64, got float16: leave dtype out"),
        (lambda: memory(X, dtype="bfloat16"), "float32 or float64, got bfloat16"),
        (lambda: memory(X, dtype=int), "float32 or float64, got int"),
        (lambda: memory(X, dtype=np.float64), "float64 needs JAX's x64 mode: switch it on"),
        (lambda: memory(X + 1j), "patterns must be real numbers"),
        (lambda: memory(jnp.asarray(X) + 1j), "patterns must be real numbers"),
        (lambda: memory([["a", "b"], ["c", "d"]]), "patterns must be real numbers"),
        (lambda: memory([[1, 2], [3]]), "patterns must be real numbers"),
        (lambda: memory(np.array(X * 7e4, np.float16)), "of the patterns hold NaN or infinity"),
    ],
)
def test_what_is_no_number_of_a_memory_is_refused(call, words):
    with np.errstate(over="ignore"), pytest.raises(InputError, match=words):
        call()
