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
guider has to see the scheduler's steps; a deterministic step would say nothing about p. All of this
is computed in float32, whatever the network's dtype is.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput

from dng_jax.errors import InputError

_CLIPPED = "a clipped step has no Gaussian kernel: set it to False"
_NO_SIGNAL = "x_0 cannot be read off its first step: take a model trained without it"
_VARIANCE = "the posterior knows the kernel of fixed_small alone: set that"
_PREDICTION = "it must be epsilon, v_prediction or sample, as the network was trained"
# What a scheduler's configuration may say, and what is to be done where it says otherwise.
_TAKEN: dict[str, tuple[tuple[Any, ...], str]] = {
    "clip_sample": ((False,), _CLIPPED),
    "thresholding": ((False,), _CLIPPED),
    "rescale_betas_zero_snr": ((False,), _NO_SIGNAL),
    "variance_type": (("fixed_small", "fixed_small_log"), _VARIANCE),
    "prediction_type": (("epsilon", "v_prediction", "sample"), _PREDICTION),
}
_P_MOST = 1 - 1e-6  # beyond it the odds leave what float32 can tell from infinity


class DynamicNegativeGuidance(BaseGuidance):
    """guidance_scale: w. negative_scale: lambda_0 >= 0; scale_max: cap on its product with the
    odds, None for none. prior in (0, 1), temperature tau >= 0, delta in squared units of latents,
    p_min, p_max: as of dng_jax.posterior.pair. enabled=False leaves classifier-free guidance.

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
        scale_max: float | None = None,
        p_min: float = 1e-6,
        p_max: float = 0.99,
        enabled: bool = True,
    ):
        super().__init__(enabled=enabled)
        self.guidance_scale = _finite("guidance_scale", guidance_scale)
        self.negative_scale = _finite("negative_scale", negative_scale, low=0)
        self.temperature = _finite("temperature", temperature, low=0)
        self.delta = _finite("delta", delta)
        self.scale_max = math.inf if scale_max is None else _finite("scale_max", scale_max, low=0)
        if not 0 < p_min <= prior <= p_max <= _P_MOST or p_min == p_max:
            raise InputError(
                f"0 < p_min <= prior <= p_max <= {_P_MOST} must hold, got p_min {p_min}, prior"
                f" {prior}, p_max {p_max}"
            )
        self.prior, self.p_min, self.p_max = prior, p_min, p_max
        self._switched_on = enabled
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
        for name, (taken, remedy) in _TAKEN.items():
            if (said := scheduler.config.get(name, taken[0])) not in taken:
                raise InputError(f"the scheduler's {name} is {said!r}: {remedy}")
        self._empty = dict(empty or {})
        guider = self

        # Bound to the scheduler, so that a copy of it steps by its own timesteps.
        def watched(self, model_output, timestep, sample, *more, **named):
            found = type(self).step(self, model_output, timestep, sample, *more, **named)
            guider._update(self, int(timestep), sample, found[0])
            return found

        watched.__wrapped__ = type(scheduler).step  # type: ignore[attr-defined]
        scheduler.step = types.MethodType(watched, scheduler)

    def prepare_inputs(self, data):
        """As in the base: the prompt's, the negative's and the empty prompt's inputs."""
        return self._batches(lambda *which: self._prepare_batch(data, *which))

    def prepare_inputs_from_block_state(self, data, input_fields):
        """As in the base, likewise."""
        prepare = self._prepare_batch_from_block_state
        return self._batches(lambda *which: prepare(input_fields, data, *which))

    def forward(self, pred_cond, pred_negative=None, pred_empty=None):
        """The guided prediction, in the dtype of the network's; InputError where the negative's is
        missing or the empty prompt's, and where the scheduler's last step was not seen."""
        base = pred_cond.float()
        if pred_empty is not None:
            empty = pred_empty.float()
            base = empty + self.guidance_scale * (base - empty)
        if pred_negative is None:
            return _output(base, pred_cond, pred_empty)
        negative = pred_negative.float()
        if self._step == 0:
            if pred_empty is not None and torch.equal(pred_negative, pred_empty):
                raise InputError(
                    "the negative prompt is that of the empty prompt: give negative_prompt, what"
                    " is to be kept out"
                )
            prior = math.log(self.prior)
            self._log_p = torch.full((len(base),), prior, dtype=base.dtype, device=base.device)
        elif self._log_p is None or self._seen is not None:
            raise InputError(
                "the guider has not seen the last step: call attach(scheduler, empty) of the guider"
                " and the scheduler that the pipeline uses, also after new(), and begin with step 0"
            )
        odds = self._log_p.exp() / -torch.expm1(self._log_p)
        scale = (self.negative_scale * odds).clamp(max=self.scale_max)
        reference = base if pred_empty is None else empty
        self._seen = reference.detach(), negative.detach()
        guided = base - scale.reshape(-1, *[1] * (base.ndim - 1)) * (negative - base)
        return _output(guided, pred_cond, pred_empty)

    @property
    def is_conditional(self):
        """As in the base."""
        return self._count_prepared == 1

    @property
    def num_conditions(self):
        """As in the base."""
        return 1 + self._tracks + bool(self._empty)

    @property
    def _tracks(self):
        # A pipeline enables its guider at every run, whatever this one was made with.
        return self._switched_on and self._enabled

    def _batches(self, prepare):
        found = [prepare(0, "pred_cond")]
        if self._tracks:
            found.append(prepare(1, "pred_negative"))
        if self._empty:
            found.append(prepare(0, "pred_empty"))
            for name, value in self._empty.items():
                setattr(found[-1], name, _as(name, value, found[0]))
        return found

    def _update(self, scheduler, t, x, moved):
        if self._seen is None:
            return
        (reference, negative), self._seen = self._seen, None
        before = scheduler.previous_timestep(t)
        if before < 0:  # the last step is deterministic
            return
        level, after = (scheduler.alphas_cumprod[i].item() for i in (t, before))
        beta = 1 - level / after
        variance = beta * (1 - after) / (1 - level)
        x, moved = x.float(), moved.float()

        def mean(prediction):
            denoised = _denoised(scheduler.config.prediction_type, prediction, x, level)
            towards = math.sqrt(after) * beta / (1 - level) * denoised
            return towards + math.sqrt(1 - beta) * (1 - after) / (1 - level) * x

        ours, theirs = mean(reference), mean(negative)
        # |x' - ours|^2 - |x' - theirs|^2 without the difference of two large sums
        gap = ((theirs - ours) * (2 * moved - ours - theirs)).flatten(1).sum(1)
        moved_by = (self.temperature * gap + self.delta) / (2 * variance)
        least, most = math.log(self.p_min), math.log(self.p_max)
        self._log_p = (self._log_p + moved_by).clamp(least, most)


def _denoised(kind, prediction, x, level):
    if kind == "sample":
        return prediction
    if kind == "v_prediction":
        return math.sqrt(level) * x - math.sqrt(1 - level) * prediction
    return (x - math.sqrt(1 - level) * prediction) / math.sqrt(level)


def _output(pred, pred_cond, pred_empty):
    pred = pred.to(pred_cond.dtype)
    return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_empty)


def _finite(name, value, low=-math.inf):
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {value!r}")
    if not low <= value < math.inf:
        at_least = "" if low == -math.inf else f" and at least {low}"
        raise InputError(f"{name} must be finite{at_least}, got {value}")
    return float(value)


def _as(name, value, inputs):
    """An input of the empty prompt in the shape, dtype and place of the prompt's."""
    theirs = getattr(inputs, name, None)
    if not isinstance(theirs, torch.Tensor):
        known = [n for n, v in vars(inputs).items() if isinstance(v, torch.Tensor)]
        raise InputError(f"the network has no input '{name}', of the empty prompt: {known} are")
    if value.shape[1:] != theirs.shape[1:] or len(value) not in (1, len(theirs)):
        raise InputError(
            f"{name} of the empty prompt has the shape {tuple(value.shape)}, the prompt's"
            f" {tuple(theirs.shape)}: encode one empty prompt by the same encoders"
        )
    return value.to(theirs).expand_as(theirs)
