r"""The interval of KL(q || g) where an allowed class has few samples: a test, inverted.

Symbols: F forbidden sets, K classes, n_fk counts, n_f = sum_k n_fk, ghat = n/n_f, q_f the target
over the allowed classes (0 elsewhere). The number in question is the mean over f of
KL(q_f || g_f), in nats; F = 1 is a single run.

Where a class has few samples, resampled counts say little: a class that was not drawn is never
drawn again, and KL is steep there. So a value kappa belongs to the interval where the counts would
be nothing unusual if KL were kappa. Of all shares with this KL the likeliest ones are, by a
Lagrangian of sum_fk n_fk log g_fk under mean_f KL_f = kappa,

    g_fk  =  (n_fk + mu q_fk) / (n_f + mu)  =  (1 - s) ghat_fk + s q_fk,       s = mu / (n_f + mu)

one line (all n_f are equal here) from the target, s = 1 and KL 0, through the counts, s = 0, to the
s < 0 at which the first allowed class is lost and KL infinite. Along it, with the statistic
D(n) = - mean_f sum_k q_fk log(n_fk + 1/2) and D* that of counts redrawn from g(s),

    low    KL(g(s)) of the s with  P(D* >= D) = tail        0, where s = 1 passes
    high   KL(g(s)) of the s with  P(D* <= D') = tail       infinite, where an allowed class has no
                                                            sample: its share may be any, however
                                                            small

(hybrid resampling: Chuang & Lai 2000, Statistica Sinica 10). The test at KL 0 has no nuisance and
is exact. D' = max(D, median of D* at s = 1): counts evener than even a perfect generator's would
otherwise exclude every KL, 0 included. Both ends are found by bisection on the same seeded draws.
"""

from __future__ import annotations

import numpy as np

HALVINGS = 16


def kl_interval(
    counts, target, tail: float, *, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Interval (low, high) [...] of the mean KL of F runs, from their counts [..., F, K].

    counts: whole numbers >= 0, at least one per run and equally many in every run of one mean; of
    KL among allowed classes, with 0 in the others. target [F, K]: sums to 1 over K, 0 where
    forbidden. tail: the error at either end, in (0, 1/2). high may be infinite.
    """
    counts, q = np.asarray(counts, np.int64), np.asarray(target, np.float64)
    total = counts.sum(axis=-1)
    hat = counts / total[..., None]
    empty = np.any((counts == 0) & (q > 0), axis=(-2, -1))
    logs = np.log(np.arange(total.max() + 1) + 0.5)

    def statistic(n: np.ndarray) -> np.ndarray:
        return -np.sum(q * logs[n], axis=(-2, -1))

    def shares(s: np.ndarray) -> np.ndarray:
        g = np.maximum((1 - s)[..., None, None] * hat + s[..., None, None] * q, 0)
        return g / g.sum(axis=-1, keepdims=True)

    def redrawn(s: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return statistic(rng.multinomial(total, shares(s), size=(resamples, *total.shape)))

    # Equal counts are equally unusual, whatever the rounding of their sums: hence the 1e-9.
    def low_passes(s: np.ndarray) -> np.ndarray:
        return (redrawn(s) >= here - 1e-9).mean(axis=0) >= tail

    def high_passes(s: np.ndarray) -> np.ndarray:
        return (redrawn(s) <= raised + 1e-9).mean(axis=0) >= tail

    here, hat = statistic(counts), _off_the_target(hat, q)
    one, zero = np.ones(here.shape), np.zeros(here.shape)
    perfect = redrawn(one)
    raised = np.maximum(here, np.median(perfect, axis=0))
    low, high = zero, np.full(here.shape, np.inf)
    if np.any(above := (perfect >= here - 1e-9).mean(axis=0) < tail):
        left, right = zero, one
        for _ in range(HALVINGS):
            s = (left + right) / 2
            passes = low_passes(s)
            left, right = np.where(passes, s, left), np.where(passes, right, s)
        low = np.where(above, _mean_kl(shares(right), q), 0.0)
    if not np.all(empty):
        left, right = np.where(empty, 0, _last(hat, q)), one
        for _ in range(HALVINGS):
            s = (left + right) / 2
            passes = high_passes(s)
            left, right = np.where(passes, left, s), np.where(passes, s, right)
        high = np.where(empty, np.inf, _mean_kl(shares(left), q))
    return low, high


def _mean_kl(g: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(q > 0, q * (np.log(np.where(q > 0, q, 1)) - np.log(g)), 0)
    return terms.sum(axis=-1).mean(axis=-1)


def _off_the_target(hat: np.ndarray, q: np.ndarray) -> np.ndarray:
    # Counts exactly as the target wants them show no direction to leave it: the first class does.
    same = np.all(np.abs(hat - q) < 1e-12, axis=(-2, -1))
    nudge = np.where(np.arange(q.shape[-1]) == np.argmax(q > 0, axis=-1)[:, None], 0.5, 1.0)
    moved = hat * nudge / (hat * nudge).sum(axis=-1, keepdims=True)
    return np.where(same[..., None, None], moved, hat)


def _last(hat: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The s <= 0 at which the first allowed class is lost."""
    lost = np.where(q > hat, hat / np.where(q > hat, q - hat, 1), np.inf)
    return -lost.min(axis=(-2, -1))
