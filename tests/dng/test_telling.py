"""Which samples a picture shows, and what it says of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from dng_jax.experiments.telling import telling_images

PROBLEM = SimpleNamespace(forbidden_names="0", hits=lambda images, labels: labels == 0)


def made(labels):
    """Samples with these labels; image i is i throughout."""
    n = len(labels)
    images = np.arange(n, dtype=np.float32)[None, :, None, None, None] * np.ones((1, n, 2, 2, 1))
    return SimpleNamespace(images=images, labels=np.array([labels]))


def test_noises_that_lead_to_the_forbidden_class_come_first_under_every_rule():
    labels = np.full(64, 5)
    labels[[3, 20, 41]] = 0
    shown = {"unguided": made(labels), "np=1": made(np.full(64, 5)), "reference": made(labels)}
    grid, said = telling_images(shown, PROBLEM)
    assert grid.shape == (3, 16, 2, 2, 1)
    assert grid[0, :4, 0, 0, 0].tolist() == [3, 20, 41, 0]
    assert np.array_equal(grid[0], grid[1])  # the same noise
    assert grid[2, :, 0, 0, 0].tolist() == list(range(16))  # the reference has its own
    assert said == (
        ": noise that leads to 0 unguided (left 3 of 16), and other noise;"
        " reference: noise of their own"
    )


def test_half_of_the_picture_at_most_and_nothing_where_nothing_is_known():
    grid, said = telling_images({"unguided": made(np.zeros(64, int))}, PROBLEM)
    assert (grid.shape[1], "left 8 of 8" in said) == (8, True)
    assert "no noise of these" in telling_images({"unguided": made(np.ones(64, int))}, PROBLEM)[1]
    grid, said = telling_images({"np=1": made(np.zeros(5, int))}, PROBLEM)
    assert (grid[0, :, 0, 0, 0].tolist(), said) == ([0, 1, 2, 3, 4], "")
