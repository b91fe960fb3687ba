r"""Guidance rules, one per file, and the rules made of rules.

Notation: eps_b the base prediction, eps_n that of what is forbidden (the negative), eps_+ of what
is wanted, d_k = eps_k - eps_b; p = p(forbidden | x_t) as tracked (dng_jax.posterior). A rule
returns delta, and eps = eps_b + delta (dng_jax.rules), where eps_b is 0 if no role is the base;
scores are s = -eps / sigma, so the same formulas hold in scores. lambda_0 or w is the number set by
the user (`guidance_scale`), lambda_t what it comes to at step t (traced as info["lambda"]).

    rule               delta                              falls back to
    unguided           0, or d_r for another role r       -
    classifier_free    w d_+                              w = 0 the base, w = 1 the condition alone
    negative_prompt    -lambda_0 sum_k d_n,k              0 the base; CFG of weight -lambda_0 to n
    negative_in_place  eps_n + w (eps_+ - eps_n) - eps_b  w = 1 the positive alone; CFG on base n
    safe_latent        -lambda_0 gamma, where gamma is    0 the base; mask 1, no momentum: NP
                       masked d_n + momentum
    safe_latent_prompt w (d_+ - s sum_k gamma_k)          w = 0 the base; s or mask 0: CFG of w
    dynamic_negative   -lambda_t d_n                      lambda_0 = 0 the base, and a detector;
                       lambda_t = lambda_0 p / (1 - p)    p frozen: NP of lambda_0 p / (1 - p)
      skip_below = p   the same where p is larger, and   p = 1: every k-th step alone
                       every k-th step; 0 elsewhere
      over all classes eps_a + q (eps_n - eps_a) - eps_b  lambda_0 = 0 the mixture, and a detector;
                       q = p - lambda_t (1 - p)           lambda_0 = 1 eps_a, whatever p is
    feedback           lambda_t d_+                       r = e^L frozen: CFG of weight lambda_t
                       lambda_t = r / (r - (1 - pi))
    safe_denoiser      -b d_n                             b = 0 the base; b the exact odds: DNG with
                       b the set's kernel at x_0          the exact posterior
    safety_flow        x_0 moved up its discrepancy       0 the base; far from the set as well
                       from a set of images
    sparse_repellency  x_0 moved out of balls around a    0 the base; outside of the balls as well
                       set of images
    sum_of             sum of the rules' deltas           one rule: that rule
    interval           the rule's, between two levels     outside: what it falls back to;
                                                          tracking goes on
    periodic           the rule's, at every k-th step     every 1: that rule
    recorder           another rule's (default: none)     that rule; adds evidence to its info

Why lambda_t = lambda_0 p / (1 - p). Mixing densities commutes with adding noise, so at every noise
level, with P(F) the share of what is forbidden,

    p_t(x) = P(F) p_t(x | F) + P(not F) p_t(x | not F)

Dividing the gradient by p_t(x), where P(F) p_t(x | F) / p_t(x) = p by Bayes' rule:

    s_b = p s_n + (1 - p) s_a,   a = not F     hence     s_a = s_b - p/(1-p) (s_n - s_b)

At lambda_0 = 1 with the right p this is the score of a true noising of the target, p(x | not F);
constant scales (negative prompting, CFG) guide along marginals that no noising produces. Far from
what is forbidden p, and the guidance with it, goes to 0.

With a tracker over all classes the rule knows eps_a, the posterior-weighted prediction of the
allowed ones, as well. By default (base "mixture") it then does without a base network, and puts the
posterior-weighted mixture p eps_n + (1 - p) eps_a in the place of eps_b, which gives

    eps = eps_a + [p - lambda_t (1 - p)] (eps_n - eps_a)

Why lambda_t = r / (r - (1 - pi)). Feedback Guidance takes the learned conditional for a mixture
of the base and of the density that is wanted, p_t(x | +) = (1 - pi) p_t(x) + pi p_t(x | wanted).
With r = p_t(x | +) / p_t(x), the same steps give s_wanted = s_b + r/(r - (1-pi)) (s_+ - s_b): it
is the positive sibling, and r is tracked by the same evidence.

Sources: CFG, Ho & Salimans 2022, arXiv 2207.12598. SLD, Schramowski et al. 2023, arXiv 2211.05105.
DNG, Koulischer et al., ICLR 2025, arXiv 2410.14398. Feedback Guidance, Koulischer et al. 2025,
arXiv 2506.06085. Safe Denoiser, Kim et al. 2025, arXiv 2502.08011. SGF, Kim et al. 2026, arXiv
2603.13300. SPELL, Kirchhof et al. 2025, arXiv 2410.06025. Limited interval, Kynkaanniemi et
al. 2024, arXiv 2404.07724.
"""

from dng_jax.guidance.classifier_free import classifier_free
from dng_jax.guidance.compose import interval, periodic, sum_of
from dng_jax.guidance.dynamic_negative import dynamic_negative
from dng_jax.guidance.feedback import feedback, feedback_from_times
from dng_jax.guidance.negative_prompt import negative_in_place, negative_prompt
from dng_jax.guidance.recording import recorded, recorder
from dng_jax.guidance.safe_denoiser import kernel_odds, safe_denoiser
from dng_jax.guidance.safe_latent import safe_latent, safe_latent_prompt
from dng_jax.guidance.safety_flow import safety_flow
from dng_jax.guidance.sparse_repellency import sparse_repellency
from dng_jax.guidance.unguided import unguided

__all__ = [
    "classifier_free",
    "dynamic_negative",
    "feedback",
    "feedback_from_times",
    "interval",
    "kernel_odds",
    "negative_in_place",
    "negative_prompt",
    "periodic",
    "recorded",
    "recorder",
    "safe_denoiser",
    "safe_latent",
    "safe_latent_prompt",
    "safety_flow",
    "sparse_repellency",
    "sum_of",
    "unguided",
]
