"""Writes the golden files anew: python -m tests.make_golden, where torch and diffusers are."""

from __future__ import annotations

from tests import stable_diffusion_reference

if __name__ == "__main__":
    stable_diffusion_reference.write()
