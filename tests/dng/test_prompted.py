"""The sampler of text-to-image jobs on a denoiser in closed form, without a network."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import disk, guidance, posterior, schedules, steps
from dng_jax.denoisers.branches import branches
from dng_jax.errors import InputError
from dng_jax.experiments.prompted import Draw, cost, draw
from dng_jax.rules import pytree
from tests.helpers import tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE, STEPS = (2, 3, 4), 7  # a prime number goes in pieces of one step
TABLE = steps.ddpm(schedules.linear(), STEPS)
RULE = guidance.dynamic_negative(posterior.pair(0.3, temperature=0.1), 2.0)
MODEL = SimpleNamespace(decode=lambda latents: np.tile(np.asarray(latents)[..., :1], 3))


def drawn(batch, table=TABLE, count=3, **more):
    return draw(MODEL, tiny, table, RULE, Draw(count, 5, SHAPE, batch), **more)


def test_images_do_not_depend_on_the_batch():
    two, three = drawn(2), drawn(3)
    assert two.latents.shape == (3, *SHAPE)
    assert two.images.shape == (3, 2, 3, 3)
    assert {name: v.shape for name, v in two.trace.items()} == {
        "lambda": (STEPS, 3),
        "posterior": (STEPS, 3),
    }
    np.testing.assert_allclose(two.latents, three.latents, atol=1e-6)
    np.testing.assert_allclose(two.trace["posterior"], three.trace["posterior"], atol=1e-6)
    assert np.ptp(two.trace["posterior"]) > 0.01
    assert np.abs(two.latents[0] - two.latents[2]).max() > 0.1


@pytest.mark.parametrize("length", [STEPS, 20])  # 20 steps go in pieces of 2
def test_all_images_are_reported_and_latents_are_kept_before_they_are_decoded(length):
    told, kept = [], []
    drawn(2, steps.ddpm(schedules.linear(), length), advance=told.append, keep=kept.append)
    assert sum(told) == pytest.approx(3)
    assert len(told) == 2 * (STEPS if length == STEPS else 10)

    def fails(latents):
        np.testing.assert_array_equal(latents, kept[-1])
        raise MemoryError

    with pytest.raises(MemoryError):
        draw(SimpleNamespace(decode=fails), tiny, TABLE, RULE, Draw(3, 5, SHAPE, 2),
             keep=kept.append)  # fmt: skip
    assert len(kept) == 2


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Makes images of a million pixels."""

    def apply(self, variables, latents, method):
        return jnp.tile(latents[:, :1, :1, :1], (1, 1024, 1024, 3))


@pytree
class Answers:
    """A denoiser that says what it costs."""

    slope: float = 1.0

    def calls(self, roles):
        return len(roles)

    def __call__(self, x, row, roles):
        return dict.fromkeys(roles, self.slope * x)


def test_a_cost_is_that_of_the_step_and_of_decoding(monkeypatch):
    model = SimpleNamespace(vae=Decoder(), params={"vae": {"one": np.zeros(5, np.float32)}})
    asked = (model, branches(Answers()), TABLE, ("base", "negative"), Draw(3, 0, SHAPE, 2))
    found = cost(*asked)
    assert (found.weights, found.calls) == (20, 3)
    assert min(found.seconds, found.decoding) > 0
    image = 4 * 3 * 1024**2
    assert found.memory >= image
    one = found._replace(seconds=1.0, decoding=10.0)
    assert one.of([3, 6], steps=50, which=Draw(3, 0, SHAPE, 2)) == 3 * 50 * 2 + 2 * 3 * 10
    monkeypatch.setattr(disk, "free_memory", lambda: image - 1)
    with pytest.raises(InputError, match=r"decoding one image needs .* take a smaller --size"):
        cost(*asked)
