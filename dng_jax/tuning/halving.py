r"""Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943).

    n_0 = first,   n_r = min(eta^r first, samples)         images of a setting after rung r
    K_r = ceil(K eta^-r)                                   settings that reach rung r

Of a training samples are steps (dng_jax.tuning.blocks). A survivor's samples go on from those it
has, so that every setting of a rung has seen the same noise. In an early rung a constraint on the
leak is held against the lower end of its interval: with few images one leaked sample says little. A
Frechet distance is larger the fewer images it is of (dng_jax.metrics.frechet), but within a rung
all have as many.
"""

from __future__ import annotations

from dng_jax.errors import InputError


def rungs(
    first: int, samples: int, eta: int, batch: int = 1, unit: str = "images"
) -> tuple[int, ...]:
    """Samples of a setting after each rung, rising to `samples`, each a multiple of `batch`.

    unit: what an InputError calls them."""
    if eta < 2:
        raise InputError(f"halving keeps 1 of eta settings: eta must be at least 2, got {eta}")
    if not 1 <= first <= samples:
        raise InputError(
            f"the first rung takes between 1 and all {samples} {unit}, got {first}: lower it"
        )
    found = [first]
    while found[-1] < samples:
        found.append(min(found[-1] * eta, samples))
    whole = [-(-n // batch) * batch for n in found]
    return tuple(dict.fromkeys(whole))


def survivors(count: int, eta: int) -> int:
    """Of `count` settings of a rung, how many reach the next."""
    return -(-count // eta)


def share(plan: tuple[int, ...], eta: int) -> float:
    """Images that halving draws, as a share of what it would be without."""
    drawn, settings, before = 0.0, 1.0, 0
    for n in plan:
        drawn += settings * (n - before)
        settings, before = settings / eta, n
    return drawn / plan[-1]
