r"""Analyses of a landscape over beta: what they measure, and what is known of it exactly.

1. Temperatures. What beta means depends on the set; all sets are compared in

    beta_eff = beta a,   a = mean over pairs of D_ij^2/2 = N/(N-1) tr Cov(X)

For equidistant patterns it is K of hopfield_jax.theory, and the only parameter besides N. Minima of
single patterns exist from K_s(N), are the lowest from K_c(N), and the centroid is lost at N.

2. Sweeps (sweeps.py). A first-order transition shows as a loop: a branch that starts at a pattern
survives downwards to K_s, the one that starts at the centroid upwards to N. A point that has become
unstable is still a fixed point, and arithmetic may never leave it: a kick of kick * spread grows by
rho per update. It must be larger than the tolerance/|rho - 1| at which iteration stops, to be
amplified, and smaller than the basins that are to survive it.

3. Order parameters of the weights p at a state:

    p_max = max_i p_i        participation = 1 / sum_i p_i^2     (patterns that take part)
    entropy = -sum_i p_i log p_i          top90 = least k whose k largest weights sum to .90
    overlap = (N p_max - 1)/(N - 1)       p_1 - p_2 where the others are equal, 0 at the centroid

4. Protocols (transition.py). What is "the" critical beta depends on how one looks for it:

    started at the patterns    lowest beta at which pattern i has a minimum of its own        K_s
    lowest energy              beta at which that and the undecided minimum are equally low   K_c
    started at the centroid    highest beta at which the undecided branch is a minimum        N

on the right the exact answers for equidistant patterns in beta_eff. For other sets the branch that
starts at the mean ends where rho(J) reaches 1, a "crossing" (at beta = 1/lambda_max(Cov) for
symmetric data, at some .75-.8 of it for others), or turns into a pattern without ever reaching 1, a
"crossover" (spectrum.first_instability).

5. Onsets and capacity. At beta -> infinity the update returns the pattern of the largest field:
pattern i is a fixed point iff its lead s_i(x_i) - max_{j != i} s_j(x_i) > 0 (distances.py; with the
Euclidean energy always). Patterns of small norm have none: norm bias. The lowest betas at which
patterns have minima of their own (capacity.py), in beta_eff, lie near K_s(N) for random unit
vectors: a median of 5.24 for (N, d) = (16, 64), where K_s = 5.189. For data in clusters K_s is too
low: 20.57 for raw pixels of 100 MNIST digits (K_s = 7.459), 15.5% of them without any. Other draws
have other medians; docs/results.md has the table, its draw and the command that prints it.

6. Basins (basins.py). From weights p = (p_1, p_2, ..., p_2) with p_1 - p_2 = m one update of an
equidistant set leads to m' = (e^{K m} - 1)/(e^{K m} + N - 1), increasing in m: starts on the line
from the centroid (m = 0) to a pattern (m = 1) move monotonically, and part at the fixed point
between, m_u(K) of the falling branch, which near K = N is about 2 (N - K)/(N (N - 2)).

7. Metastable states (metastable.py). G groups of k patterns, |x|^2 = M^2, inner products c1 within
and c0 between groups. A state uniform within groups, of weight P_g, has field differences a_b (P_g
- P_h), a_b = (M^2 + (k-1) c1)/k - c0: equidistant patterns again, G of them at K = beta a_b, hence
minima against deviations between groups from beta_low = K_s(G)/a_b. Deviations within group g have
the eigenvalue beta a_w P_g/k of J, a_w = M^2 - c1, which reaches 1 at beta_high
(theory.ultrametric_window). For (G, k, M^2, c1, c0) = (4, 4, 1, .8, 0): 3.787 to 20.0.

8. Heads (heads.py). What the queries of a transformer's heads retrieve: one attractor, metastable
states of several keys, or single keys; and how the entropy of attention goes with beta_eff.

9. Training (training.py, imported by name; data_collapse.py). Layers whose patterns are trained, at
a grid of beta, learning rate, norm, N and d: over which abscissa their curves fall together, by the
share U that one curve leaves unexplained of another, and which value serves best.

Everything here counts certified minima alone, and names what did not converge.
Sources: Koulischer et al. 2023 (arXiv 2311.18434) for the question of temperature; Ramsauer et al.
2020 (arXiv 2008.02217) for top90. The rest is derived here; numbers were measured in float64.
"""

from hopfield_jax.analyses import (
    basins,
    capacity,
    data_collapse,
    heads,
    landscape,
    metastable,
    retrieval,
    sweeps,
    transition,
)
from hopfield_jax.analyses.sweeps import certify_sweep, hysteresis, sweep

__all__ = [
    "basins",
    "capacity",
    "certify_sweep",
    "data_collapse",
    "heads",
    "hysteresis",
    "landscape",
    "metastable",
    "retrieval",
    "sweep",
    "sweeps",
    "transition",
]
