r"""Guided diffusion sampling in pure JAX, with tracked posteriors.

One step of a chain (sampling), for every row of a step table, from the noisiest level to the clean
image; B images at once, each with a key of its own:

       rule.roles ----------+     StepRow: alpha, sigma, c_x, c_eps, std, k_x, k_eps, k_var
                            |        |
                            v        v
    x_t [B, ...] ------> denoise(x_t, row, roles) ------> preds {role: eps [B, ...]}
     ^                                                      |
     |                   state ----> rule.apply(state, step = (row, x_t, preds, eval, key))
     |                     ^                                |
     |                     |             delta [B, ...], state, info {name: [B]} ---> trace
     |                     |                                |
     |                     |         eps  = preds.get("base", 0) + delta
     |                     |         mean = c_x x_t + c_eps eps
     |                     |         x_s  = mean + std z,   z = normal(fold_in(key, index))
     |                     |                                |
     |                   rule.update(state, step, Move(mean, x_s))
     |                                                      |
     +------------------------- x_s <-----------------------+

The base is 0 where a rule has no base role: its delta is then the whole prediction.
A tracker's posterior (posterior) is the state of the rules that have one: `apply` reads it before
the step, `update` scores the step that was taken.

    schedules    alpha and sigma at every noise level; kinds of predictions converted
    steps        schedule -> table of StepRows: DDPM, DDIM(eta), Euler, ancestral
    rules        what a rule is, and what it may look at
    guidance     the rules: none, CFG, negative prompt, SLD, DNG, feedback; sums and intervals
    posterior    trackers of a concept's posterior, their temperature, the exact posterior
    denoisers    networks of any conditioning as denoise(x, row, roles)
    mixtures     the exactly solvable model: density, posterior and denoiser in closed form
    sampling     the step above as one compiled scan, or the same in chunks
    sweeps       many settings of a rule as one compiled program
    compatibility  what is refused and warned of before the first step
    nets         U-Nets with label or head conditioning; classifiers
    weights      model files, and the small trained networks that come with the library
    scenes       scenes of digits: text-to-image whose truth is known
    stable_diffusion  text-to-image networks in the layout of their published files
    training     losses, steps, optimiser and EMA; checkpoints; targets of low variance
    data         digits, MNIST and others as uint8 arrays
    metrics      leak and divergences, Frechet and kernel distance, PRDC, calibration, trade-offs
    plots        figures of all of these
    experiments  what jobs sample, by which rule, and which classifier counts it
    tuning       the search for a rule's numbers
    jobs         run folders, tables, devices, options: what every job needs
    lazy         names imported when they are asked for
    version      what pyproject.toml says
    cli          the command `dng`
    disk         files written whole or not at all
    arrays       files of arrays (.npy, .npz), checked before anything is allocated
    errors       InputError: one sentence with the value and the remedy
"""

from typing import TYPE_CHECKING

from dng_jax.errors import InputError, NonFiniteError
from dng_jax.lazy import exporter

__all__ = [
    "Denoise",
    "InputError",
    "Move",
    "NonFiniteError",
    "Result",
    "Rule",
    "Stateless",
    "Step",
    "check_finite",
    "denoisers",
    "guidance",
    "initial_noise",
    "mixtures",
    "posterior",
    "pytree",
    "run_chunks",
    "sample",
    "sample_chunks",
    "sample_keys",
    "sampling",
    "schedules",
    "static",
    "steps",
    "sweep",
    "sweeps",
]

if TYPE_CHECKING:
    from dng_jax import (
        denoisers,
        guidance,
        mixtures,
        posterior,
        sampling,
        schedules,
        steps,
        sweeps,
    )
    from dng_jax.rules import Denoise, Move, Rule, Stateless, Step, pytree, static
    from dng_jax.sampling import (
        Result,
        check_finite,
        initial_noise,
        run_chunks,
        sample,
        sample_chunks,
        sample_keys,
    )
    from dng_jax.sweeps import sweep
    from dng_jax.version import __version__ as __version__
else:
    _HOMES = {
        "rules": ("Denoise", "Move", "Rule", "Stateless", "Step", "pytree", "static"),
        "sampling": (
            "Result",
            "check_finite",
            "initial_noise",
            "run_chunks",
            "sample",
            "sample_chunks",
            "sample_keys",
        ),
        "sweeps": ("sweep",),
        "version": ("__version__",),
    }
    __getattr__, __dir__ = exporter(__name__, [*__all__, "__version__"], _HOMES)
