r"""From the predictions for prompts to the roles that rules ask for.

A text-to-image model predicts for a prompt, and a rule guides what the model makes of it. Raw
predictions, u for the empty prompt, A for the prompt, B for a negative prompt, become roles by

    base = (1 - w) u + w A                       classifier-free guidance towards the prompt
    negative                                     one of, by the variant:

    variant   base        negative             negatives are scored against
    a         CFG(A)      B                    base
    b         CFG(A)      (1 - w) u + w B      base
    c         A           B                    base
    d         CFG(A)      B                    u
    nested    CFG(A)      (1 - w) u + w B      base; its B is for the prompt "A, B"
    raw       u           B                    base

d is the usual one. There alone the posterior compares predictions of two densities, B and u,
whatever w is: a CFG prediction belongs to none, and where the truth is known p falls behind in a, b
and nested, the further the larger w (eval.scenes). In "nested" p is the probability that an image
of the prompt is also one of the negative, with the prior p(B | A); but at w = 1 only, since for
w > 1 CFG's combinations are scores of no forward process. "raw" is for rules that guide towards the
prompt themselves (classifier_free, negative_in_place, safe_latent_prompt). The roles:

    base, negative (negative:0, negative:1, ...)     as above
    empty, positive                                  u and A
    reference                                        what the negatives are scored against

Trackers have to be told, `pair(0.01, reference="reference")`: with their default, "base", variant
d is variant a, and sampling warns of it. Weights are data, so that one compiled program serves
every variant and w; for that, A is asked for in "raw" too, and u in "c", where their weight is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax.errors import InputError, choose, distinct_roles, find
from dng_jax.rules import (
    Denoise,
    Predictions,
    known,
    number,
    per_sample,
    predict,
    predict_some,
    pytree,
)
from dng_jax.sampling import as_pytree
from dng_jax.steps import StepRow

EMPTY, PROMPT = "empty", "prompt"
POSITIVE, REFERENCE = "positive", "reference"
RESERVED = ("base", EMPTY, PROMPT, POSITIVE, REFERENCE)


class Variant(NamedTuple):
    """What a variant makes of raw predictions.

    base: "cfg", "prompt" or "empty"; guided: whether negatives have CFG's weights too; reference:
    the role that negatives are scored against; joined: whether their prompts begin with the prompt.
    """

    base: str = "cfg"
    guided: bool = False
    reference: str = "base"
    joined: bool = False


VARIANTS = {
    "a": Variant(),
    "b": Variant(guided=True),
    "c": Variant(base=PROMPT),
    "d": Variant(reference=EMPTY),
    "nested": Variant(guided=True, joined=True),
    "raw": Variant(base=EMPTY),
}


@pytree
class Branches:
    """weights {role: {raw role: float32 [] or [B]}}, a sparse matrix. Make it with `branches`."""

    denoise: Denoise
    weights: dict[str, dict[str, jax.Array]]

    @property
    def reference(self) -> str:
        """The role that trackers have to score negatives against: "base" where "reference" is the
        same prediction, or where weights are traced and do not say."""
        base, own = self.weights["base"], self.weights[REFERENCE]
        return "base" if all(_alike(own[raw], base[raw]) for raw in base) else REFERENCE

    def calls(self, roles: Sequence[str]) -> int | None:
        """Evaluations per image and step of what is wrapped, which may not say."""
        counted = getattr(self.denoise, "calls", None)
        return None if counted is None else counted(self.asked(roles))

    def asked(self, roles: Sequence[str]) -> tuple[str, ...]:
        """The raw roles that these roles are made of, in one order whatever that of the roles."""
        needed = {raw for role in roles for raw in find(self.weights, role)}
        return tuple(sorted(needed, key=_place))

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        raw = predict(self.denoise, x, row, self.asked(roles))
        return {role: _combined(self.weights[role], raw) for role in roles}

    def some(self, x: jax.Array, row: StepRow, roles: Sequence[str], wanted):
        """Predictions of some roles for some images, as far as what is wrapped can leave out any:
        of raw roles, those that no other role is made of."""
        always = self.asked([role for role in roles if role not in wanted])
        masks: dict[str, jax.Array] = {}
        for role, mask in wanted.items():
            for part in self.asked((role,)):
                if part not in always:
                    masks[part] = masks[part] | mask if part in masks else mask
        raw, ran = predict_some(self.denoise, x, row, self.asked(roles), masks)
        return {role: _combined(self.weights[role], raw) for role in roles}, ran


def branches(
    denoise,
    variant: str = "d",
    guidance_scale: float | jax.Array = 7.5,
    *,
    negatives: tuple[str, ...] = ("negative",),
) -> Branches:
    """The roles of a variant, of a denoiser that answers "empty", "prompt" and the negatives.

    denoise: a pytree or a plain function; guidance_scale: w, finite, a number or one per image [B],
    may be traced; negatives: the denoiser's and the answer's names of them, none of RESERVED, none
    at all where there is no negative prompt. InputError otherwise.
    """
    kind = VARIANTS[choose(variant, VARIANTS, "variant")]
    w = number(guidance_scale, "guidance_scale")
    # NumPy's, so that they are known under an active jit, which traces jnp.ones.
    one: Any = np.ones((), np.float32)
    nothing: Any = np.zeros((), np.float32)
    # Every base holds u and A, and every negative u, so that variants differ in numbers alone.
    empty = {EMPTY: one, PROMPT: nothing}
    base = {"cfg": (1 - w, w), PROMPT: (nothing, one), EMPTY: (one, nothing)}[kind.base]
    negative = (1 - w, w) if kind.guided else (nothing, one)
    weights = {"base": dict(zip((EMPTY, PROMPT), base, strict=True))}
    weights[REFERENCE] = empty if kind.reference == EMPTY else weights["base"]
    weights |= {EMPTY: {EMPTY: one}, POSITIVE: {PROMPT: one}}
    weights |= {role: {EMPTY: negative[0], role: negative[1]} for role in _unreserved(negatives)}
    inner = denoise if hasattr(denoise, "calls") else as_pytree(denoise)
    return Branches(inner, weights)


def prompts_of(
    variant: str, prompt: str, negatives: Sequence[str] | Mapping[str, str]
) -> dict[str, str]:
    """Raw roles to texts for a variant: what the denoiser that is wrapped has to be told.

    negatives: one text gives the role "negative", several "negative:0", ..., a mapping its own
    roles. In variant nested they are "A, B". InputError for a variant that does not exist, and for
    a role of RESERVED.
    """
    kind = VARIANTS[choose(variant, VARIANTS, "variant")]
    if isinstance(negatives, str):
        negatives = (negatives,)
    if not isinstance(negatives, Mapping):
        negatives = dict(zip(negative_roles(len(negatives)), negatives, strict=True))
    if kind.joined:
        negatives = {r: ", ".join(filter(None, [prompt, n])) for r, n in negatives.items()}
    _unreserved(tuple(negatives))
    return {EMPTY: "", PROMPT: prompt, **negatives}


def negative_roles(count: int) -> tuple[str, ...]:
    """The roles of so many negatives: "negative", or "negative:0", "negative:1", ..."""
    return ("negative",) if count == 1 else tuple(f"negative:{i}" for i in range(count))


def _unreserved(negatives: tuple[str, ...]) -> tuple[str, ...]:
    """Names of negatives, perhaps none; InputError for one that has another meaning."""
    for role in distinct_roles(negatives, "negative role") if negatives != () else ():
        if role in RESERVED:
            raise InputError(f"a negative cannot be named '{role}': that is a role of its own")
    return negatives


def _alike(a: jax.Array, b: jax.Array) -> bool:
    if a is b or not (known(a) or known(b)):
        return True
    return known(a) and known(b) and bool(np.all(np.asarray(a) == np.asarray(b)))


def _place(raw: str) -> tuple[int, str]:
    return {EMPTY: 0, PROMPT: 1}.get(raw, 2), raw


def _combined(row: Mapping[str, jax.Array], raw: Predictions) -> jax.Array:
    # Sums of products, element by element: a matrix product would be rounded to TF32 on a GPU. At
    # w = 7.5 they round off 3e-7, 3e-5 of w (A - u) where A - u is 1e-3, as float32 networks do.
    total = None
    for role in sorted(row, key=_place):
        eps = raw[role]
        part = per_sample(row[role], eps, "guidance_scale").astype(eps.dtype) * eps
        total = part if total is None else total + part
    assert total is not None
    return total
