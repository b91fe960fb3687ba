"""google/ddpm-cifar10-32 at its full size, with random weights in diffusers' layout on the disk."""

from __future__ import annotations

import pytest

from dng_jax.weights import diffusers
from tests import diffusers_reference as reference

pytestmark = pytest.mark.slow
FULL = reference.FULL


def test_it_predicts_what_diffusers_once_did(tmp_path):
    reference.write(tmp_path, reference.weights(reference.shapes("full")), FULL)
    module, params, _ = diffusers.load_folder(tmp_path)
    ours = reference.predict_here(module, params, FULL)
    assert reference.furthest(ours, reference.output("full")) <= 2e-6


def test_it_predicts_what_the_diffusers_that_is_installed_does(tmp_path):
    for package in ("torch", "diffusers"):
        pytest.importorskip(package, reason=f"{package} is not installed: no extra asks for it")
    made = reference.model(FULL)
    made.save_pretrained(tmp_path)
    module, params, _ = diffusers.load_folder(tmp_path)
    ours = reference.predict_here(module, params, FULL)
    assert reference.furthest(ours, reference.predict(made, FULL)) <= 2e-6
