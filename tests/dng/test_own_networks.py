"""Networks of other people: what may stand for one, and what is refused in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dng_jax import InputError, denoisers, guidance, sample, sample_keys, schedules, steps

TABLE = steps.ddpm(schedules.linear(), 2)
KEYS = sample_keys(0, 3)
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def row(i=0, table=TABLE):
    return jax.tree.map(lambda column: jnp.asarray(column[i]), table)


def draw(network, rule=None):
    return np.asarray(sample(network, TABLE, rule or guidance.unguided(), KEYS, X).x)


@pytest.fixture(scope="module")
def expected():
    """Two steps by hand with eps = x / 10."""
    return draw(lambda x, row, roles: dict.fromkeys(roles, x / 10))


class Linen(nn.Module):
    """eps = kernel x, and whatever is to be refused."""

    norm: bool = False
    dropout: bool = False
    features: int = 4

    @nn.compact
    def __call__(self, x, logsnr):
        x = nn.Dense(self.features, use_bias=False)(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dropout(0.5, deterministic=not self.dropout)(x)


class Trained(nn.Module):
    @nn.compact
    def __call__(self, x, logsnr, train):
        return nn.Dense(4)(x)


TENTH = {"Dense_0": {"kernel": jnp.eye(4) / 10}}


class Nnx(nnx.Module):
    def __init__(self, norm: bool = False):
        self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.linear.kernel[...] = jnp.eye(4) / 10
        self.norm = nnx.BatchNorm(4, epsilon=0.0, rngs=nnx.Rngs(0)) if norm else None

    def __call__(self, x, logsnr):
        x = self.linear(x)
        return x if self.norm is None else self.norm(x)


@jax.tree_util.register_pytree_node_class
class Equinoxlike:
    """What an Equinox module is to JAX: arrays, functions and numbers are all leaves."""

    def __init__(self, kernel, activation, times, switch):
        self.parts = (kernel, activation, times, switch)

    def tree_flatten(self):
        return self.parts, "static"

    @classmethod
    def tree_unflatten(cls, static, parts):
        return cls(*parts)

    def __call__(self, x, logsnr):
        kernel, activation, times, switch = self.parts
        for _ in range(times):  # no traced number can stand here
            x = activation(x @ kernel)
        return x if switch else -x


def equinoxlike(kernel):
    return Equinoxlike(kernel, jax.nn.identity, 1, True)


@dataclasses.dataclass(frozen=True)
class Direct:
    """A denoiser of one's own around a network."""

    network: object

    def __call__(self, x, row, roles):
        level = jnp.full(len(x), row.logsnr)
        return {role: self.network(x, level) for role in roles}


jax.tree_util.register_dataclass(Direct, ["network"], [])


@pytest.mark.parametrize(
    "make",
    [
        lambda: denoisers.plain_network(Linen(), TENTH),
        lambda: denoisers.plain_network(lambda params, x, logsnr: params * x, jnp.float32(0.1)),
        lambda: denoisers.plain_network(lambda x, logsnr: x / 10),
        lambda: denoisers.plain_network(Nnx()),
        lambda: denoisers.plain_network(equinoxlike(jnp.eye(4) / 10)),
        lambda: Direct(Nnx()),
        lambda: Direct(equinoxlike(jnp.eye(4) / 10)),
        lambda: denoisers.label_network(lambda x, logsnr, label: x / 10, num_classes=2),
        lambda: denoisers.heads_network(lambda x, logsnr: jnp.stack([x / 10] * 3, 1), None, 2),
        lambda: denoisers.separate_networks(
            {"base": lambda x, row, roles: dict.fromkeys(roles, x / 10)}
        ),
    ],
    ids=["linen", "params", "function", "nnx", "equinox", "own-nnx", "own-equinox", "label",
         "heads", "separate"],
)  # fmt: skip
def test_whatever_stands_for_a_network_samples_the_same(make, expected):
    np.testing.assert_allclose(draw(make()), expected, rtol=1e-5, atol=1e-5)


def test_a_real_equinox_network_samples_and_its_weights_are_data():
    import equinox as eqx

    made = [eqx.nn.MLP(4, 4, 8, 1, key=jax.random.key(seed)) for seed in (0, 1)]
    traced = []

    class Network(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, x, logsnr):
            traced.append(x.shape)
            return jax.vmap(self.mlp)(x)

    found = [draw(denoisers.plain_network(Network(mlp))) for mlp in made]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert len(traced) == 1


def test_arrays_are_data_and_everything_else_is_program():
    seen = []

    def activation(x):
        seen.append(x.shape)
        return x

    make = lambda scale, times: Equinoxlike(scale * jnp.eye(4), activation, times, True)  # noqa: E731
    first = draw(Direct(make(0.1, 1)))
    draw(Direct(make(0.2, 1)))
    assert len(seen) == 1
    assert np.abs(draw(Direct(make(0.2, 2))) - first).max() > 1e-2
    assert len(seen) == 3  # two layers of another program


def test_plain_functions_stand_behind_roles():
    parts = {
        "base": lambda x, row, roles: dict.fromkeys(roles, 0.1 * x),
        "negative": lambda x, row, roles: dict.fromkeys(roles, 0.3 * x),
    }
    guided = draw(denoisers.separate_networks(parts), guidance.negative_prompt(0.5))
    # 0.1 - 0.5 (0.3 - 0.1) = 0
    np.testing.assert_allclose(guided, draw(lambda x, row, roles: {"base": 0 * x}), atol=1e-6)


def test_a_network_in_timesteps_is_asked_for_the_level_it_was_trained_on():
    schedule = schedules.linear()
    nearest = denoisers.timesteps(schedule)
    between = denoisers.timesteps(schedule, interpolated=True)
    table = steps.ddpm(schedule, 7)
    wanted = 999 - np.arange(7) * 1000 // 7
    for i in range(7):
        assert int(nearest(row(i, table))) == wanted[i]
        np.testing.assert_allclose(between(row(i, table)), wanted[i], atol=0.02)
    assert nearest(row()).dtype == jnp.int32
    # Another schedule's level lies between two of this one, or beyond its ends.
    middle = row()._replace(
        alpha=jnp.float32(np.exp((schedule.logsnr[500] + schedule.logsnr[501]) / 4)),
        sigma=jnp.float32(1.0),
    )
    np.testing.assert_allclose(between(middle), 500.5, atol=0.01)
    for noise, end in ((1e-4, 0), (1e4, 999)):
        far = row()._replace(alpha=jnp.float32(1), sigma=jnp.float32(noise))
        assert int(nearest(far)) == end == float(between(far))
    network = denoisers.plain_network(lambda x, t: x + t[:, None], level=nearest)
    np.testing.assert_allclose(
        network(X, row(3, table), ("base",))["base"], X + wanted[3], rtol=1e-6
    )


SHAPES = {
    "one": (lambda x: x[:, :1, None], r"shape \(3, 1, 1\) for role base: it must be \(3, 4\)"),
    "scalar": (lambda x: x.sum(), r"shape \(\) for role base: it must be \(3, 4\)"),
    "batch": (lambda x: x[:1], r"shape \(1, 4\) for role base: it must be \(3, 4\)"),
    "wide": (lambda x: jnp.tile(x, 2), r"shape \(3, 8\) .* wrap it in a function"),
    "pair": (lambda x: (x, x), "returned a tuple for role base"),
    "whole": (lambda x: x.astype(int), "returned int32 for role base: it must return floats"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_of_another_shape_is_refused_while_it_is_traced(name):
    answer, said = SHAPES[name]
    with pytest.raises(InputError, match=said):
        draw(denoisers.plain_network(lambda x, logsnr: answer(x)))


def test_the_number_of_heads_and_the_batch_of_labels_are_checked():
    four = denoisers.heads_network(lambda x, logsnr: jnp.stack([x] * 4, 1), None, 2)
    with pytest.raises(InputError, match=r"\(3, 4, 4\) .*must be \(3, 3, 4\) \(3 heads: 2 classes"):
        draw(four)
    first = denoisers.label_network(lambda x, logsnr, label: x[:3], None, 2, {"negative": 1})
    with pytest.raises(InputError, match=r"for roles base, negative: it must be \(6, 4\)"):
        draw(first, guidance.negative_prompt(1.0))


REFUSED = {
    "lacks": (lambda: (Linen(), {}), "the parameters lack Dense_0/kernel"),
    "adds": (
        lambda: (Linen(), TENTH | {"Dense_1": TENTH["Dense_0"]}),
        "its layers have no place for Dense_1/kernel",
    ),
    "shape": (
        lambda: (Linen(), {"Dense_0": {"kernel": jnp.ones((2, 4))}}),
        r"Dense_0/kernel has shape \(2, 4\), for these images it must be \(4, 4\)",
    ),
    "variables": (lambda: (Linen(), {"params": TENTH}), r"give its parameters, variables\['params"),
    "none": (lambda: (Linen(), None), "Linen comes without parameters"),
    "state": (
        lambda: (Linen(norm=True), TENTH),
        r"Linen has state besides its parameters \(batch_stats\)",
    ),
    "stats": (
        lambda: (Linen(norm=True), {"params": TENTH, "batch_stats": {}}),
        r"state besides its parameters \(batch_stats\)",
    ),
    "dropout": (lambda: (Linen(dropout=True), TENTH), "Linen asks for random numbers .*dropout"),
    "train": (lambda: (Trained(), TENTH), r"cannot be called as \(x, logsnr\).*'train'"),
    "arguments": (lambda: (lambda x: x, None), r"\(x\) cannot be called as \(x, logsnr\)"),
    "params": (lambda: (lambda x, logsnr: x, TENTH), r"called as \(params, x, logsnr\)"),
    "twice": (lambda: (Nnx(), TENTH), "Nnx holds its parameters itself: leave params out"),
    "mutable": (lambda: (Nnx(norm=True), None), r"Nnx changed its own state.*module.eval\(\)"),
    "number": (lambda: (3, None), "^int is no network"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_used_is_refused_in_one_sentence(name):
    make, said = REFUSED[name]
    with pytest.raises(InputError, match=said) as error:
        draw(denoisers.plain_network(*make()))
    assert "\n" not in str(error.value)


def test_running_averages_may_be_used_where_they_stay_what_they_are():
    network = Nnx(norm=True)
    network.norm.mean[...] = jnp.full(4, 0.1)
    network.eval()
    shifted = draw(lambda x, row, roles: {"base": x / 10 - 0.1})
    found = draw(denoisers.plain_network(network))
    np.testing.assert_allclose(found, shifted, rtol=1e-4, atol=1e-4)
    stats = {"BatchNorm_0": {"mean": jnp.full(4, 0.1), "var": jnp.ones(4) - 1e-5}}
    extra = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    variables = {"params": TENTH | {"BatchNorm_0": extra}, "batch_stats": stats}
    by_function = denoisers.plain_network(Linen(norm=True).apply, variables)
    np.testing.assert_allclose(draw(by_function), shifted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.7, "1", True, 3, -1, None])
def test_only_a_class_can_be_told(value):
    network = denoisers.label_network(lambda x, logsnr, label: x, None, 2)
    with pytest.raises(InputError, match=r"role 'negative' names class .*: choose from 0\.\.1"):
        denoisers.with_conditions(network, {"negative": value})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: denoisers.label_network(lambda x, t, c: x), "say how many classes <lambda> knows"),
        (lambda: denoisers.heads_network(lambda x, t: x, None, 0), "whole number from 1, got 0"),
        (lambda: denoisers.from_module(Linen(), TENTH), "Linen does not say how it is condition"),
        (lambda: denoisers.plain_network(lambda x, t: x, level=3), r"level must be callable"),
        (
            lambda: denoisers.plain_network(lambda x, t: x, parameterisation="epsilon"),
            "unknown parameterisation 'epsilon': did you mean 'eps'",
        ),
        (lambda: draw(Direct([1, {2}, print])), "neither an array nor hashable"),
        (
            lambda: draw(
                denoisers.separate_networks({"base": lambda x, row, roles: {"other": x}})
            ),
            "denoiser of role 'base' was asked for it and returned other",
        ),
        (
            lambda: draw(
                denoisers.plain_network(lambda x, t: x, level=lambda row: jnp.zeros(3))
            ),
            r"level\(row\) has shape \(3,\): it must be one number",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(make, said):
    with pytest.raises(InputError, match=said):
        make()


SWITCHES = {
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
    "x64": lambda: jax.enable_x64(True),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_adapters_take_every_float_under_every_switch(switch, dtype):
    seen = []

    def network(x, level):
        seen.append((x.dtype, level.dtype))
        return x / 10

    with SWITCHES[switch](), contextlib.ExitStack() as stack:
        if dtype == "float64":
            stack.enter_context(jax.enable_x64(True))
        x = jnp.asarray(X, dtype)
        adapters = [
            denoisers.plain_network(network, parameterisation="v"),
            denoisers.label_network(lambda x, t, c: network(x, t), None, 2, None, "x0"),
            denoisers.heads_network(lambda x, t: jnp.stack([network(x, t)] * 3, 1), None, 2),
        ]
        for adapter in adapters:
            eps = jax.eval_shape(lambda x, a=adapter: a(x, row(), ("base", "class:1")), x)
            wanted = jnp.float64 if dtype == "float64" else jnp.float32
            assert {e.dtype for e in eps.values()} == {jnp.dtype(wanted)}
            assert {e.shape for e in eps.values()} == {X.shape}
    assert set(seen) == {(jnp.dtype("float32"),) * 2}


def test_a_network_in_float64_is_asked_in_float64():
    with jax.enable_x64(True):
        scale = jnp.asarray(0.1, jnp.float64)
        network = denoisers.plain_network(lambda scale, x, logsnr: scale * x, scale)
        x = np.random.default_rng(0).normal(size=(3, 4))
        vp = jax.tree.map(lambda column: np.float64(column[0]), TABLE)
        r = 1 / np.hypot(vp.alpha, vp.sigma)
        eps = network(jnp.asarray(x), vp, ("base",))["base"]
        assert eps.dtype == jnp.float64
        np.testing.assert_allclose(eps, 0.1 * r * x, rtol=1e-12)
