"""Adapters: an exact Gaussian network on every schedule, in every parameterisation."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError, denoisers, guidance, sample, sample_keys, schedules, steps
from tests.helpers import Log

MEANS = np.array([-0.8, 0.1, 0.9, 0.3])  # the last one is the null label, or the last head
SCALE = 0.4
X = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)


def predict(x, logsnr, mean, kind, xp=jnp):
    """What an exact network for N(mean, SCALE^2) says of a variance-preserving x."""
    a2, s2 = 1 / (1 + xp.exp(-logsnr)), 1 / (1 + xp.exp(logsnr))
    a, s = xp.sqrt(a2), xp.sqrt(s2)
    x_0 = mean + a * SCALE**2 / (a2 * SCALE**2 + s**2) * (x - a * mean)
    eps = (x - a * x_0) / s
    return {"eps": eps, "x0": x_0, "v": a * eps - s * x_0}[kind]


@dataclass(frozen=True)
class Labelled:
    kind: str = "eps"
    log: Log | None = None

    def apply(self, variables, x, logsnr, label):
        if self.log is not None:
            self.log.append(x.shape)
        mean = variables["params"]["means"][label][:, None, None]
        return predict(x, logsnr[:, None, None], mean, self.kind)


@dataclass(frozen=True)
class Heads:
    kind: str = "eps"

    def apply(self, variables, x, logsnr):
        level = logsnr[:, None, None]
        return jnp.stack(
            [predict(x, level, variables["params"]["means"][k], self.kind) for k in range(4)],
            axis=1,
        )


@dataclass(frozen=True)
class Plain:
    kind: str = "eps"

    def apply(self, variables, x, logsnr):
        return predict(x, logsnr[:, None, None], variables["params"]["means"][3], self.kind)


PARAMS = {"means": jnp.asarray(MEANS, jnp.float32)}
LEVELS = {
    "vp": steps.ddpm(schedules.linear(), 6),
    "ve": steps.euler(schedules.edm(20), 6),
    "flow": steps.ddim(schedules.flow(), 6),
}


def truth(x, row, mean):
    """E[eps | x] for N(mean, SCALE^2) at any level: sigma (x - alpha mean) / variance."""
    alpha, sigma = float(row.alpha), float(row.sigma)
    return sigma * (x - alpha * mean) / ((alpha * SCALE) ** 2 + sigma**2)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", LEVELS)
def test_one_network_serves_every_schedule(name, kind):
    plain = denoisers.plain_network(Plain(kind), PARAMS, kind)
    networks = [
        denoisers.label_network(Labelled(kind), PARAMS, 3, {"negative": 2}, kind),
        denoisers.heads_network(Heads(kind), PARAMS, 3, {"negative": 2}, kind),
        denoisers.separate_networks({"base": plain, "negative": plain}),
    ]
    for i in (0, 3, 5):
        row = jax.tree.map(lambda c, i=i: jnp.asarray(c[i]), LEVELS[name])
        x = X * float(jnp.hypot(row.alpha, row.sigma))
        # reading eps off x_0 divides by sigma what float32 keeps of x: 1e-7 (1 + |x|)/sigma
        r = float(jnp.hypot(row.alpha, row.sigma) / row.sigma)
        atol = 3e-6 + 6e-7 * r
        for network in networks[:2]:
            eps = network(x, row, ("base", "class:0", "negative"))
            assert list(eps) == ["base", "class:0", "negative"]
            for role, k in (("base", 3), ("class:0", 0), ("negative", 2)):
                np.testing.assert_allclose(eps[role], truth(x, row, MEANS[k]), atol=atol)
        for role in ("base", "negative"):
            eps = networks[2](x, row, (role,))[role]
            np.testing.assert_allclose(eps, truth(x, row, MEANS[3]), atol=atol)


def test_all_roles_go_through_a_label_network_in_one_batch():
    log = Log()
    network = denoisers.label_network(Labelled(log=log), PARAMS, 3)
    row = jax.tree.map(lambda c: jnp.asarray(c[2]), LEVELS["vp"])
    network(X, row, ("base", "class:0", "class:1"))
    assert list(log) == [(15, 2, 3)]


def test_another_class_behind_a_role_does_not_recompile():
    log = Log()
    network = denoisers.label_network(Labelled(log=log), PARAMS, 3, {"negative": 0})
    keys, table = sample_keys(0, 5), LEVELS["vp"]
    rule = guidance.negative_prompt(0.5)
    first = sample(network, table, rule, keys, X).x
    other = denoisers.with_conditions(network, {"negative": 2})
    second = sample(other, table, rule, keys, X).x
    again = denoisers.label_network(Labelled(log=log), PARAMS, 3, {"negative": 2})
    third = sample(again, table, rule, keys, X).x
    assert len(log) == 1
    assert np.abs(np.asarray(first - second)).max() > 0.05
    np.testing.assert_array_equal(second, third)
    heads = denoisers.heads_network(Heads(), PARAMS, 3, {"negative": 2})
    np.testing.assert_allclose(sample(heads, table, rule, keys, X).x, second, atol=1e-5)


@dataclass(frozen=True)
class Config:
    conditioning: str
    num_classes: int = 3


@pytest.mark.parametrize(
    ("conditioning", "kind", "calls"),
    [("label", Labelled, 2), ("heads", Heads, 1), ("none", Plain, 1)],
)
def test_a_module_becomes_the_denoiser_of_its_conditioning(conditioning, kind, calls):
    class Module(kind):
        config = Config(conditioning)

    network = denoisers.from_module(Module(), PARAMS, {"negative": 2})
    row = jax.tree.map(lambda c: jnp.asarray(c[2]), LEVELS["vp"])
    eps = network(X, row, ("base", "negative"))
    for role, k in (("base", 3), ("negative", 3 if conditioning == "none" else 2)):
        np.testing.assert_allclose(eps[role], truth(X, row, MEANS[k]), atol=3e-5)
    assert network.calls(("base", "negative")) == calls


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: denoisers.label_network(Labelled(), PARAMS, 3, {"negative": 4}), "class 4"),
        (lambda: denoisers.heads_network(Heads(), PARAMS, 3, {"negative": -1}), "class -1"),
        (lambda: denoisers.separate_networks({"negative": None}), "'base'"),
        (
            lambda: denoisers.with_conditions(
                denoisers.label_network(Labelled(), PARAMS, 3), {"negative": 9}
            ),
            "class 9",
        ),
        (
            lambda: denoisers.with_conditions(
                denoisers.separate_networks({"base": denoisers.plain_network(Plain(), PARAMS)}),
                {"negative": 1},
            ),
            "SeparateNetworks cannot be told another class",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
