"""Guidance rules, one a file, and the rules made of rules."""

from dng_jax.guidance.classifier_free import ClassifierFree, classifier_free
from dng_jax.guidance.compose import Interval, Sum, interval, sum_of
from dng_jax.guidance.dynamic_negative import DynamicNegative, dynamic_negative
from dng_jax.guidance.feedback import Feedback, feedback, feedback_from_times
from dng_jax.guidance.negative_prompt import (
    NegativeInPlace,
    NegativePrompt,
    negative_in_place,
    negative_prompt,
)
from dng_jax.guidance.safe_latent import SafeLatent, safe_latent, safe_latent_prompt
from dng_jax.guidance.unguided import Unguided, unguided

__all__ = [
    "ClassifierFree",
    "DynamicNegative",
    "Feedback",
    "Interval",
    "NegativeInPlace",
    "NegativePrompt",
    "SafeLatent",
    "Sum",
    "Unguided",
    "classifier_free",
    "dynamic_negative",
    "feedback",
    "feedback_from_times",
    "interval",
    "negative_in_place",
    "negative_prompt",
    "safe_latent",
    "safe_latent_prompt",
    "sum_of",
    "unguided",
]
