r"""Noise levels of a published model, by its scheduler_config.json, and the steps through them.

    found = schedule.from_config(stored)
    found.table(50)         a step table of dng_jax.steps, 50 rows
    found.level(row)        the timestep of a row, as the network was trained on it

The T = num_train_timesteps levels that the network was trained on, t = 0 .. T-1, beta_t by

    linear             beta_start to beta_end
    scaled_linear      the same of their square roots (Stable Diffusion: 0.00085 to 0.012)
    squaredcos_cap_v2  Nichol & Dhariwal 2021, eq. 17

of which N steps visit, by timestep_spacing,

    leading    i (T // N) + steps_offset,           i = 0 .. N-1
    trailing   round(T - i T / N) - 1
    linspace   round(i (T - 1) / (N - 1));  N = 1: T - 1

as diffusers' DDPMScheduler and DDIMScheduler do (but for one step of linspace, t = 0 there),
whichever scheduler is named: a step always ends at the next level visited, the last one at the
clean image. With leading and N > T / 2 the noisiest level is t = N - 1 + steps_offset, less than a
chain that starts from pure noise needs: take N = T / 2 or fewer, or trailing.

What a configuration says of the steps of its own sampler (skip_prk_steps, set_alpha_to_one,
solver_order) is passed over. clip_sample must be false, or absent: latents do not lie in [-1, 1].

A zero terminal signal-to-noise ratio (rescale_betas_zero_snr) is refused, as x_0 cannot be read off
a prediction where there is no signal, and so is what leads to t = T: 1000 steps, leading, offset 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from dng_jax import schedules, steps
from dng_jax.denoisers.levels import Timesteps, timesteps
from dng_jax.errors import InputError
from dng_jax.nets import checks
from dng_jax.schedules import Parameterisation, Schedule
from dng_jax.weights.diffusers_config import PREDICTIONS, SCHEDULERS, differing, shown

Spacing = Literal["leading", "trailing", "linspace"]
_SPACINGS: dict[Spacing, schedules.Spacing] = {
    "leading": "diffusers-leading",
    "trailing": "diffusers-trailing",
    "linspace": "uniform",
}
_BETAS: dict[str, Callable[[int, float, float], Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "squaredcos_cap_v2": lambda levels, *_: schedules.cosine(levels),
}
# Where timestep_spacing is absent; that of all others is linspace.
_LEADING = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
# Every file has these; their defaults differ between schedulers.
_NEEDED = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")
_READ = (*_NEEDED, "prediction_type", "timestep_spacing", "steps_offset", "variance_type")
# What is assumed where the field is absent, and what it must be.
_FIXED = {
    "trained_betas": (None, None),
    "rescale_betas_zero_snr": (False, False),
    "clip_sample": (False, False),
    "thresholding": (False, False),
    "timestep_type": ("discrete", "discrete"),
    "interpolation_type": ("linear", "linear"),
    "use_karras_sigmas": (False, False),
    "use_exponential_sigmas": (False, False),
    "use_beta_sigmas": (False, False),
    "use_lu_lambdas": (False, False),
    "use_flow_sigmas": (False, False),
    "use_dynamic_shifting": (False, False),
    "sigma_min": (None, None),
    "sigma_max": (None, None),
}
# Of the steps of their own samplers, and of what _FIXED switches off.
_PASSED_OVER = (
    "skip_prk_steps", "set_alpha_to_one", "clip_sample_range", "sample_max_value",
    "dynamic_thresholding_ratio", "solver_order", "solver_type", "algorithm_type", "predict_x0",
    "lower_order_final", "euler_at_final", "final_sigmas_type", "lambda_min_clipped",
    "disable_corrector", "solver_p", "flow_shift", "time_shift_type",
)  # fmt: skip
_VARIANCES = (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
_MOST = 100_000


class ModelSchedule(NamedTuple):
    """Levels that a network was trained on, and which of them its authors visit.

    levels: all T of them;  parameterisation: what the network predicts
    spacing, steps_offset: see the file's docstring
    """

    levels: Schedule
    parameterisation: Parameterisation
    spacing: Spacing = "leading"
    steps_offset: int = 0

    @property
    def level(self) -> Timesteps:
        """row -> t, int32: the number of the level that a row of a step table starts from."""
        return timesteps(self.levels)

    def visited(self, count: int) -> Schedule:
        """The `count` levels that are visited.

        InputError where count is not in 1..T, or the noisiest level would be t = T or above.
        """
        total = len(self.levels.alpha)
        checks.whole_numbers(1, steps=count)
        if self.spacing != "leading":
            return schedules.respace(self.levels, count, _SPACINGS[self.spacing])
        last = (count - 1) * (total // count) + self.steps_offset
        if count <= total <= last:
            raise InputError(
                f"{count} steps of spacing leading with steps_offset {self.steps_offset} begin at"
                f" timestep {last}, and the network knows 0..{total - 1}: take fewer steps, or"
                " spacing trailing"
            )
        return schedules.respace(
            self.levels, count, _SPACINGS[self.spacing], offset=self.steps_offset
        )

    def table(
        self, count: int, sampler: Callable[[Schedule], steps.StepTable] = steps.ddpm
    ) -> steps.StepTable:
        """The step table of `count` steps; errors of `visited`.

        sampler: which steps these are, a function of dng_jax.steps, or partial(steps.ddim, eta=1).
        """
        return sampler(self.visited(count))


def from_config(stored: Mapping[str, Any]) -> ModelSchedule:
    """What a scheduler_config.json says of the noise; see the file's docstring.

    stored: what the file holds; a field that older files lack has diffusers' default. InputError,
    naming fields and values, for what this library has no levels or steps for, and unknown fields.
    """
    if lacking := [name for name in _NEEDED if name not in stored]:
        raise _not_ours(f"{lacking[0]} is missing")
    known = {*_READ, *_FIXED, *_PASSED_OVER}
    named = stored.get("_class_name", "DDPMScheduler")
    spacing = stored.get("timestep_spacing", "leading" if named in _LEADING else "linspace")
    total, betas, *ends = (stored[name] for name in _NEEDED)
    kind, offset = stored.get("prediction_type", "epsilon"), stored.get("steps_offset", 0)
    wrong = [
        *_not_among("_class_name", named, sorted(SCHEDULERS)),
        *_not_among("timestep_spacing", spacing, _SPACINGS),
        *_not_among("beta_schedule", betas, _BETAS),
        *_not_among("prediction_type", kind, PREDICTIONS),
        *_not_among("variance_type", stored.get("variance_type"), _VARIANCES),
        *differing(stored, _FIXED),
        *(f"{n} {shown(stored[n])} (not known)" for n in stored if n not in known and n[:1] != "_"),
    ]
    if wrong:
        raise _not_ours("; ".join(wrong))
    try:
        checks.whole_numbers(1, num_train_timesteps=total)
        checks.whole_numbers(0, steps_offset=offset)
        if total > _MOST:
            raise InputError(f"num_train_timesteps {total} (at most {_MOST})")
        if any(type(end) not in (int, float) or not 0 < end < 1 for end in ends):
            said = f"beta_start {shown(ends[0])}, beta_end {shown(ends[1])}"
            raise InputError(f"{said} (must lie strictly between 0 and 1)")
        levels = _BETAS[betas](total, *ends)
    except InputError as error:
        raise _not_ours(error) from error
    return ModelSchedule(levels, PREDICTIONS[kind], spacing, offset)


def _not_among(name: str, value: object, known: Any) -> list[str]:
    known = list(known)  # a value that is a list has no hash
    if value in known:
        return []
    return [f"{name} {shown(value)} (must be {' or '.join(map(str, known))})"]


def _not_ours(why: object) -> InputError:
    return InputError(
        f"no steps can be made of this scheduler_config.json, {why}: make the schedule with"
        " dng_jax.schedules, or take another model"
    )
