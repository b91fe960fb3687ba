r"""The posterior of a concept, tracked along a sampling chain.

Symbols: x = x_t -> x' = x_s one step to less noise, of a table row (dng_jax.steps); k a concept or
class, b the base model, F the forbidden set, c its complement; p_k = p(k | x_t); eps_k the
prediction for k, s_k = -eps_k / sigma_t = grad log p_t(x | k) its score. <,> and |.|^2 sum over the
d elements of an image. Logarithms are natural. Paper: Koulischer, Deleu, Raya, Demeester,
Ambrogioni, "Dynamic Negative Guidance of Diffusion Models", ICLR 2025, arXiv 2410.14398.

1. The recursion. Noising does not know k: given x_s, the noisier x_t is independent of it, and
p(k | x_s, x_t) = p(k | x_s). Bayes' rule for x_s at fixed x_t therefore reads

    p(k | x_s) = p(k | x_t) p(x_s | x_t, k) / p(x_s | x_t),         p(k | x_T) = prior          (1)

at any pair of points, so along any chain, guided or not.

2. The kernel that is scored. With a = alpha_t/alpha_s and g = sigma_t^2 - a^2 sigma_s^2 the forward
process conditioned on x_0 is Gaussian, p(x_s | x_t, x_0) having

    mean alpha_s x_0 + (a sigma_s^2/sigma_t^2)(x_t - alpha_t x_0),  variance sigma_s^2 g/sigma_t^2

The mean is linear in x_0, so averaging over p(x_0 | x_t, k) puts (x_t - sigma_t eps_k)/alpha_t in
the place of x_0:

    p(x_s | x_t, k) = N(x_s; mu_k, k_var I),     mu_k = k_x x_t + k_eps eps_k                   (2)
                      k_x = 1/a,   k_eps = -g/(a sigma_t),   k_var = sigma_s^2 g/sigma_t^2

The mean is exact; the Gaussian shape, of one variance for all k, is the one approximation, and
vanishes as steps become short. For every level of a DDPM, where a^2 = 1 - beta_t and g = beta_t, it
is that of Ho et al. 2020 (arXiv 2006.11239):

    mu_k = [x - beta_t/sqrt(1 - abar_t) eps_k] / sqrt(1 - beta_t)
    k_var = beta_t (1 - abar_{t-1}) / (1 - abar_t)

In scores the mean is mu_k = k_x x + kappa s_k, kappa = -k_eps sigma_t = g/a > 0.

3. Evidence (file evidence). With D_k = mu_k - mu_b = k_eps (eps_k - eps_b),

    |x'-mu_b|^2 - |x'-mu_k|^2 = 2 inner_k - gram_kk                                         (3)
    inner_k = <x'-mu_b, D_k>,   gram_jk = <D_j, D_k>

The left side is a small difference of two numbers of size d k_var; the right side forms neither.

4. Three trackers, on the same evidence; tau is the temperature (section 7), delta and drift
are offsets (section 5).

pair, the paper's, takes p(x_s | x_t) for one Gaussian, that of the base prediction. In (1):

    log p_k <- clamp( log p_k + [tau (2 inner_k - gram_kk) + delta] / (2 k_var) )

to [log p_min, log p_max], which the authors' program has as

    p <- clamp( p exp{ [-tau (|x'-mu_n|^2 - |x'-mu_b|^2) + delta] / (2 k_var) }, p_min, p_max )

Since the true p(x_s | x_t) is a mixture over what x_t may become, p is not normalised and may leave
(0, 1): hence the clamp. With several negatives their odds are o_k = p_k / (1 - sum_j p_j).

odds divides (1) for k by (1) for the complement, so that p(x_s | x_t) cancels. The base is the
mixture of both sides (derived in dng_jax.guidance), which is solved for the complement:

    eps_b = sum_j p_j eps_j + (1 - sum_j p_j) eps_c,      eps_c = eps_b - sum_j o_j (eps_j - eps_b)

With u = sum_j o_j D_j, then, mu_c = mu_b - u and x' - mu_c = (x' - mu_b) + u:

    L_k = log o_k <- clamp( L_k + [tau gap_k + delta] / (2 k_var) )
    gap_k = |x'-mu_c|^2 - |x'-mu_k|^2 = 2 <x'-mu_b, u> + |u|^2 + 2 inner_k - gram_kk

every part of it in (3): <x'-mu_b, u> = sum_j o_j inner_j, |u|^2 = sum_jl o_j o_l gram_jl. p stays
in (0, 1) without a clamp; that of L_k, to +-log((1 - p_min)/p_min), keeps a decided concept within
reach of later evidence. The total of the odds in u, and in guidance, is capped at odds_max.

classes follows all K classes of a model; the denominator of (1) is sum_k p_k N(x'; mu_k, k_var I):

    log p_k <- log_softmax_k( log p_k + [tau (2 inner_k - gram_kk) + [k in F] delta] / (2 k_var) )

a probability vector by construction, with the mixture for its base kernel, which is much better
than one Gaussian where steps are long. Measuring from any common point in the place of mu_b changes
every exponent by the same amount, which the softmax removes. p(F) = sum_{k in F} p_k for any set F.
Where p_min > 0 (default 0), log p_k <- log_softmax_k( max(log p_k, log p_min) ) follows, so that a
class can return.

5. Offsets. A step ends at x' = mean + std z. Averaged over z, inner_k is expected_k, that is
<mean - mu_b, D_k>. On ancestral tables, where the step has the kernel's mean (c_x = k_x and
c_eps = k_eps), one negative guides to mean = mu_b - lambda D, D = D_n, and

    E log p_n gains tau (2 expected_n - gram_nn)/(2 k_var) = -tau (1 + 2 lambda) |D|^2 / (2 k_var)

so a chain talks its own posterior down, the more the stronger it is guided. Two ways to counter it:

    delta   raw, the authors': adds delta/(2 k_var). A squared distance in units of x, so its
            meaning changes with dimension, schedule and step count; tau does not weigh it
    drift   portable, in [0, 1]: gives back that fraction of the expected fall,
            -drift tau E_z[gap_k] / (2 k_var) times min(1, std^2/k_var)

E_z[gap_k] is the tracker's own gap with expected_k for inner_k: pair 2 expected_k - gram_kk; odds
|mean-mu_c|^2 - |mean-mu_k|^2; classes, for forbidden k, its excess over the allowed classes' mean
sum_{j not in F} p_j (2 expected_j - gram_jj) / sum_{j not in F} p_j. The last factor: without noise
x' is its own expectation, and giving that back would erase the evidence.

6. Tables with less noise than the kernel. In continuous time, forward dx = f dt + g dW (here g is
the diffusion coefficient), each density obeys the Fokker-Planck equation (Anderson 1982; Song et
al. 2021, arXiv 2011.13456)

    d log p / dt = -div f - <f, s> + (g^2/2) (div s + |s|^2)

Along a path run backwards by dt > 0 with noise of variance eta^2 g^2 dt, Ito's term being
(eta^2 g^2/2) div s dt, log p_k - log p_b changes, with ds = s_k - s_b, by

    <ds, dx> + <f, ds> dt - (g^2/2)(|s_k|^2 - |s_b|^2) dt - (g^2/2)(1 - eta^2) div ds dt

In step form mu_k = x - f dt + g^2 s_k dt and k_var = g^2 dt, so the first three terms are
(2 inner_k - gram_kk)/(2 k_var). The last is not in (3), and vanishes for ancestral sampling only:

    log-ratio of k against b  +=  -tau (1 - std^2/k_var)/2  div(mu_k - mu_b)                    (4)

tau, 1 in the derivation, weighs it with the gap that it belongs to, in all three trackers. Without
it DNG on a deterministic sampler leaks at any number of steps (python -m eval.exact). The
divergence is estimated by Rademacher probes (file evidence; Hutchinson 1990), one JVP each. In
classes, what is common to all k cancels in the softmax: div D_k is enough. In odds the reference is
mu_c = mu_b - u, whose odds turn with x (file odds). A tracker without probes on such a table warns.

7. Temperature. tau = 1 is Bayes' rule with kernels as they are. The log-ratio of a learned network
divides its error by k_var, which is tiny at low noise, so there it is too sure: tau(log-SNR) in the
place of a number, interpolated between knots (file temperature). Nothing need be generated to find
it: labelled data noised along the forward chain obey (1) as well, and minimising the negative
log-likelihood of their labels over the chain fits tau, by gradients through the replay of recorded
evidence (file fitting). For classes the exponent is linear in tau: a convex problem.

An offset omega(log-SNR), in nats per unit of log-SNR that a step gains, adds omega gain to log p_k
(pair; for classes that of each forbidden class) or to L_k (odds) in the updates of section 4,
before the clamp; it is fitted with tau and defaults to 0 (files temperature, fitting).

8. Information (file information). What the predictions know of the class, level by level, needs no
sampling either: half the integral over log-SNR of what the base errs more than the true class is
H(c) where classes do not overlap. A denoiser whose budget does not close misleads every tracker.

9. Steps without a prediction (file jump). (1) holds between any two points of a chain, so steps at
which nobody asked for k are scored as one, from the predictions at the last look.

10. Interfaces (file view). `Tracker` is what a rule uses: init, observe, view, roles. The three
trackers of kernels are `Replayable`: their update needs the `Evidence` of a step and nothing else,
so `replay` runs any of them on one record, and `fit_temperature` fits it. `oracle` is the exact
posterior of a mixture in the same place.
"""

from dng_jax.posterior.classes import classes
from dng_jax.posterior.evidence import Evidence, gather, one_concept_each
from dng_jax.posterior.fitting import fit_temperature, forward_evidence, replay
from dng_jax.posterior.information import Budget, information_budget
from dng_jax.posterior.odds import odds
from dng_jax.posterior.oracle import oracle
from dng_jax.posterior.pair import pair
from dng_jax.posterior.temperature import Offset, Temperature, offset, temperature
from dng_jax.posterior.view import Replayable, Tracker, View

__all__ = [
    "Budget",
    "Evidence",
    "Offset",
    "Replayable",
    "Temperature",
    "Tracker",
    "View",
    "classes",
    "fit_temperature",
    "forward_evidence",
    "gather",
    "information_budget",
    "odds",
    "offset",
    "one_concept_each",
    "oracle",
    "pair",
    "replay",
    "temperature",
]
