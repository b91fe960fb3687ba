r"""Fixed points of the update, proofs that they are minima, and their derivatives: the equations.

Symbols as in hopfield_jax.energy: patterns x_i [N, d], p = softmax(beta s(xi) + log w), mu = X^T p,
T(xi) = X^T p, f = T(xi) - xi = -grad E, D the patterns' diameter. Numbers marked (*) were measured
in float64 with equidistant patterns of N = 64 (hopfield_jax.theory: K = beta D^2/2, K_s = 6.92458).

1. The update. dp_i/dxi = beta p_i (x_i - mu), hence its Jacobian is beta times a covariance,

    J = beta sum_i p_i (x_i - mu)(x_i - mu)^T = beta Cov_p(X),    Hessian of E = I - J,

symmetric with eigenvalues >= 0. A fixed point is a strict minimum iff rho(J) < 1; the number of
eigenvalues above 1 is its Morse index. F, the free energy, is convex with gradient T, so that

    E(eta) <= |eta|^2/2 - F(xi) - T(xi).(eta - xi) + c    for every eta,

and eta = T(xi) gives E(T(xi)) <= E(xi) - |f|^2/2: no update raises the energy.

2. Plain iteration ends at the rate rho(J). Near a fold only one eigenvalue is near 1. Just below
the spinodal K_s, at K = K_s - dK, no minimum is left but its ghost: the order parameter m obeys
m' = g(K m) with g(u) = (e^u - 1)/(e^u + N - 1), and at the fold K g'(K m) = 1, so that
dm'/dK = m g' = m/K and the smallest step past the ghost is about dK m_s/K_s. A tolerance above it
reports a false minimum: choose it below a tenth of the resolution wanted in K, and certify.
Updates to a residual of 1e-10 at K_s + dK (*):

    dK        1e-1   1e-2   1e-3   1e-4
    picard      52    161    458   1245

3. Accelerated steps (aitken, newton) are tried once the residual is below 1e-2, so that the update
chooses the basin, and are kept only where they go down far enough. Where two energies agree to
rounding, the trapezium rule on grad E = -f tells which is lower (descent.py):

    E(b) - E(a) = -<f(a) + f(b), b - a>/2 + O(|b - a|^3)

4. Aitken's extrapolation. If the error is a single eigenvector v of J, xi = xi* + e v with
eigenvalue r, then f = -(1 - r) e v, f' = r f, and T(T(xi)) = xi* + r^2 e v, so that

    xi* = T(T(xi)) + c f',   c = -r^2 e / (-r (1 - r) e) = r/(1 - r),   r = <f', f>/<f, f>

Near a fixed point E is xi*'s plus (1 - r) e^2/2 along v. With the error e at xi, r e at T(xi),
r^2 e at T(T(xi)) and |f'| = r (1 - r) e, the energy falls from T(xi) to T(T(xi)) by

    (1 - r)(r^2 - r^4) e^2/2 = (1 + r) |f'|^2/2,   to xi* by   (1 - r) r^2 e^2/2 = (1 + c) |f'|^2/2

since 1/(1 - r) = 1 + c. An extrapolation is kept if the energy falls by at least the first and at
most eight times the second, 4 (1 + c) |f'|^2: beyond that it has flown over a saddle (aitken.py).
1 - r is a difference of numbers that carry relative errors of about eps scale/|f'|: hence
c <= |f'|/(64 eps scale).

Newton's step solves (I - J) delta = f by conjugate gradients; at a minimum it gains
f.(I - J)^{-1} f/2 >= |f|^2/2, and it is kept where it gains half of that.

5. The certificate (certificates.py). For unit vectors u, v, with p moving along v,

    d/ds u^T J u = beta^2 sum_i p_i (u.(x_i - mu))^2 (v.(x_i - mu))     (a third cumulant)
    |v.(x_i - mu)| <= D, mu being in the hull     =>     |d/ds u^T J u| <= beta D u^T J u,

so rho(s) <= rho e^{beta D s} at a distance s from xi. Let r = |f|. In the ball of radius s about xi

    |T(eta) - xi| <= r + integral_0^s rho e^{beta D t} dt = r + rho (e^{beta D s} - 1)/(beta D)

and T maps the ball into itself where this is <= s; it contracts where rho e^{beta D s} < 1. Room
for r, s - rho (e^{beta D s} - 1)/(beta D), is largest at e^{beta D s} = 1/rho, where it is (rho - 1
- log rho)/(beta D). If beta D r is less than rho - 1 - log rho a slightly smaller s meets both
conditions, and by Banach's theorem the ball holds exactly one fixed point, with rho < 1: a strict
minimum, and no other fixed point within log(1/rho)/(beta D). Near a spinodal the right hand side is
(1 - rho)^2/2. Rounding: the logits are off by at most delta, hence every weight by a factor within
e^{2 delta} (softmax: numerator and sum, e^delta each); f, J and its trace are sums weighted by p,
so that each is bounded with its weights at their worst. certificates.py has the bounds.

6. Weight space. With xi = X^T p, G = X X^T and s = G p + b the update reads p' = softmax(beta s +
log w). Fixed points correspond: p = softmax(...) at xi = X^T p, and back. The Jacobian there is
beta (diag(p) - p p^T) G = A B with A = beta (diag(p) - p p^T) X and B = X^T, while J = B A:
non-zero eigenvalues agree, and so do indices; the energy is one function of xi. An update costs 2
N^2 operations per row in place of 4 N d, after 2 N^2 d once: cheaper for N < 2d. All that enters is
beta G: nothing else of d, of norms or of angles matters.

7. Implicit derivatives. Differentiating xi* = T(xi*; X, beta),

    (I - J) d xi* = dT/dX dX + dT/dbeta dbeta,

with I - J symmetric and positive definite at a strict minimum: conjugate gradients end in at most
min(N, d) steps of products J v = beta X^T (p * (X v - p.X v)), and the same solve serves the
reverse mode. xi* = stop(xi*) + (I - J)^{-1} (T(stop(xi*)) - stop(xi*)) has that derivative and, as
T(xi*) - xi* is rounding, the value xi* (implicit.py).

8. Cost. R rows at once cost 4 R N d operations per iteration in state space, 2 R N^2 in weight
space: one pair of products for all temperatures, with beta folded into the rows, and the energy
from the same sums. In fine sweeps only some 5% of the rows need most of the iterations, so finished
ones are sorted out (fixed_points.py). Over many patterns the sums are taken by blocks.

Sources: Ramsauer et al. 2020 (arXiv 2008.02217) for 1; Irons & Tuck 1969 for 4; Steihaug 1983 for
Newton's truncation; Higham & Mary 2019 for rounding. The rest is derived here.
"""

from hopfield_jax.solvers import certificates, fixed_points, implicit, iterations, spaces
from hopfield_jax.solvers.certificates import certify, spectral_radius, spectrum
from hopfield_jax.solvers.fixed_points import describe, find_fixed_points, find_minima, merge
from hopfield_jax.solvers.implicit import minimum

__all__ = [
    "certificates",
    "certify",
    "describe",
    "find_fixed_points",
    "find_minima",
    "fixed_points",
    "implicit",
    "iterations",
    "merge",
    "minimum",
    "spaces",
    "spectral_radius",
    "spectrum",
]
