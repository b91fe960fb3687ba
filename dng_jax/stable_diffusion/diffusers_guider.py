r"""Dynamic Negative Guidance as a guider of diffusers, in PyTorch, for its modular pipelines.

    guider = DynamicNegativeGuidance(guidance_scale=7.5, prior=0.01)
    guider.attach(scheduler, empty={"prompt_embeds": embeds, "text_embeds": pooled})

For the predictions of the prompt A, the negative prompt B and the empty prompt u,

    base      = u + w (A - u)                                      w: guidance_scale
    guided    = base - lambda_0 p / (1 - p) (B - base)             lambda_0: negative_scale
    log p    <- clamp( log p + [ tau (|x' - mu_u|^2 - |x' - mu_B|^2) + delta ] / (2 var) )

with the mean mu of Ho et al. 2020, eq. 7, and its variance: variant d of
dng_jax.denoisers.branches, the tracker of dng_jax.posterior.pair. Without `empty` base and
reference are A, variant c. The update needs x', the noisy sample that a step arrives at, so the
guider has to see the scheduler's steps; a deterministic step would say nothing about p.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput

from dng_jax.errors import InputError

_NOT_TAKEN = {"clip_sample": False, "thresholding": False, "rescale_betas_zero_snr": False}
_VARIANCES = ("fixed_small", "fixed_small_log")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


class DynamicNegativeGuidance(BaseGuidance):
    """guidance_scale: w. negative_scale: lambda_0 >= 0; scale_max: cap on its product with the
    odds. prior in (0, 1), temperature tau >= 0, delta in squared units of latents, p_min, p_max:
    as of dng_jax.posterior.pair. enabled=False leaves classifier-free guidance.

    `posterior`: p of every image, float32 [B], after the last step. InputError for numbers out of
    range.
    """

    _input_predictions: ClassVar = ["pred_cond", "pred_negative", "pred_empty"]

    @register_to_config
    def __init__(
        self,
        guidance_scale: float = 7.5,
        negative_scale: float = 1.0,
        prior: float = 0.01,
        temperature: float = 1.0,
        delta: float = 0.0,
        scale_max: float = math.inf,
        p_min: float = 1e-6,
        p_max: float = 0.99,
        enabled: bool = True,
    ):
        super().__init__(enabled=enabled)
        if not 0 < p_min < p_max < 1 or not p_min <= prior <= p_max:
            raise InputError(
                f"0 < p_min <= prior <= p_max < 1, got p_min {p_min}, prior {prior}, p_max {p_max}"
            )
        for name in ("negative_scale", "temperature", "scale_max"):
            if not self.config[name] >= 0:
                raise InputError(f"{name} must be at least 0, got {self.config[name]}")
        self._empty: dict[str, torch.Tensor] = {}
        self._log_p: torch.Tensor | None = None
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def posterior(self) -> torch.Tensor:
        """p of every image, float32 [B]; InputError before the first step."""
        if self._log_p is None:
            raise InputError("there is no posterior before the first step: sample first")
        return self._log_p.exp()

    def attach(self, scheduler: Any, empty: Mapping[str, torch.Tensor] | None = None) -> None:
        """Watches a scheduler's steps, in the place of a guider that did.

        empty: the inputs of the network for the empty prompt that differ from the prompt's, by the
        pipeline's names, leading axis 1 or that of the prompt's. InputError for a scheduler whose
        steps are not those of DDPM with fixed small variances.
        """
        if not isinstance(scheduler, DDPMScheduler):
            raise InputError(
                f"the posterior is read off DDPM's noise, and {type(scheduler).__name__} steps"
                " otherwise: take DDPMScheduler.from_config(scheduler.config, clip_sample=False)"
            )
        config = {**scheduler.config}
        wrong = [name for name, usual in _NOT_TAKEN.items() if config.get(name, usual) != usual]
        wrong += [] if config["variance_type"] in _VARIANCES else ["variance_type"]
        wrong += [] if config["prediction_type"] in _PREDICTIONS else ["prediction_type"]
        if wrong:
            said = ", ".join(f"{name}={config[name]!r}" for name in wrong)
            raise InputError(f"steps with {said} have no Gaussian kernel of known mean: change it")
        self._empty = dict(empty or {})
        step = inspect.unwrap(scheduler.step)

        @functools.wraps(step)
        def watched(model_output, timestep, sample, *more, **named):
            found = step(model_output, timestep, sample, *more, **named)
            self._update(scheduler, int(timestep), sample, found[0])
            return found

        scheduler.step = watched

    def prepare_inputs(self, data):
        """As in the base: the prompt's, the negative's and the empty prompt's inputs."""
        return self._batches(lambda *which: self._prepare_batch(data, *which))

    def prepare_inputs_from_block_state(self, data, input_fields):
        """As in the base, likewise."""
        prepare = self._prepare_batch_from_block_state
        return self._batches(lambda *which: prepare(input_fields, data, *which))

    def forward(self, pred_cond, pred_negative=None, pred_empty=None):
        """The guided prediction, in the dtype of the network's."""
        base = pred_cond
        if pred_empty is not None:
            base = pred_empty + self.config.guidance_scale * (pred_cond - pred_empty)
        if pred_negative is None:
            return GuiderOutput(pred=base, pred_cond=pred_cond, pred_uncond=pred_empty)
        if self._step == 0:
            shape = (len(base),)
            self._log_p = torch.full(shape, math.log(self.config.prior), device=base.device)
        elif self._log_p is None or self._seen is not None:
            raise InputError(
                "the guider has not seen the last step: call attach(scheduler) of the scheduler"
                " that steps, and begin with step 0"
            )
        odds = self._log_p.exp() / -torch.expm1(self._log_p)
        scale = (self.config.negative_scale * odds).clamp(max=self.config.scale_max)
        scale = scale.reshape(-1, *[1] * (base.ndim - 1)).to(base.dtype)
        self._seen = (base if pred_empty is None else pred_empty), pred_negative
        guided = base - scale * (pred_negative - base)
        return GuiderOutput(pred=guided, pred_cond=pred_cond, pred_uncond=pred_empty)

    @property
    def is_conditional(self):
        """As in the base."""
        return self._count_prepared == 1

    @property
    def num_conditions(self):
        """As in the base."""
        return 1 + bool(self._enabled) + bool(self._empty)

    def _batches(self, prepare):
        found = [prepare(0, "pred_cond")]
        if self._enabled:
            found.append(prepare(1, "pred_negative"))
        if self._empty:
            found.append(prepare(0, "pred_empty"))
            for name, value in self._empty.items():
                setattr(found[-1], name, value.expand_as(getattr(found[0], name)))
        return found

    def _update(self, scheduler, t, x, moved):
        if self._seen is None:
            return
        (reference, negative), self._seen = self._seen, None
        before = scheduler.previous_timestep(t)
        if before < 0:  # the last step is deterministic
            return
        level, after = (scheduler.alphas_cumprod[i].double().item() for i in (t, before))
        beta, x = 1 - level / after, x.float()
        variance = beta * (1 - after) / (1 - level)

        def square(prediction):
            denoised = _denoised(
                scheduler.config.prediction_type, prediction.float(), x.float(), level
            )
            mean = math.sqrt(after) * beta / (1 - level) * denoised
            mean = mean + math.sqrt(1 - beta) * (1 - after) / (1 - level) * x.float()
            return (moved.float() - mean).flatten(1).square().sum(1)

        gap = self.config.temperature * (square(reference) - square(negative)) + self.config.delta
        least, most = math.log(self.config.p_min), math.log(self.config.p_max)
        self._log_p = (self._log_p + gap / (2 * variance)).clamp(least, most)


def _denoised(kind, prediction, x, level):
    if kind == "sample":
        return prediction
    if kind == "v_prediction":
        return math.sqrt(level) * x - math.sqrt(1 - level) * prediction
    return (x - math.sqrt(1 - level) * prediction) / math.sqrt(level)
