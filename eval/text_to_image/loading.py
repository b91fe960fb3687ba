"""The model of the options, and the steps and images that they ask of it."""

from __future__ import annotations

from typing import NamedTuple

from dng_jax.experiments.prompted import Draw
from dng_jax.stable_diffusion import pipeline
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.steps import StepTable

from .options import Config, sides


class Loaded(NamedTuple):
    """A model, its table of steps, and which images are to be drawn."""

    model: Pipeline
    table: StepTable
    which: Draw


def load(config: Config) -> Loaded:
    """Reads the model; InputError for a model, a size or a number of steps that cannot be."""
    model = pipeline.load(config.model, config.weights, config.dtype)
    shape = model.latent_shape(*sides(config, model.size))
    which = Draw(config.seeds, config.seed, shape, config.batch)
    return Loaded(model, model.table(config.steps), which)
