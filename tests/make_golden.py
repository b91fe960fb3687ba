"""Writes all that torch recorded for the tests anew, where it is installed with what each needs.

python -m tests.make_golden
"""

from __future__ import annotations

import runpy

RECORDERS = (
    "diffusers_reference",
    "pipeline_reference",
    "stable_diffusion_reference",
    "text_reference",
)

if __name__ == "__main__":
    for module in RECORDERS:
        runpy.run_module(f"tests.{module}", run_name="__main__")
