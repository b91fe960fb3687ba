"""A toy mixture, its float64 twin written by the textbook, and the settings tests run under."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from scipy.special import logsumexp

from dng_jax import mixtures, sampling, schedules, steps

SHAPE = (2, 2)

# Where nobody says otherwise, the raw data sets are those beside the checkout.
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if BESIDE.is_dir():
    os.environ.setdefault("DNG_JAX_DATA", str(BESIDE))
# Jobs that tests start leave nothing in the home of whoever runs them.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "true")


@dataclass(frozen=True)
class Exact:
    """Float64 loops over the components of a mixture; every density is written out in full."""

    means: np.ndarray  # [N, d]
    scales: np.ndarray  # [N]
    classes: np.ndarray  # [N]
    weights: np.ndarray  # [N], any sum

    def log_components(self, x, alpha, sigma):
        """log of weight times density, [B, N]."""
        x = np.asarray(x, np.float64).reshape(len(x), -1)
        out = []
        for mu, s, w in zip(
            self.means, self.scales, self.weights / self.weights.sum(), strict=True
        ):
            v = (alpha * s) ** 2 + sigma**2
            density = -((x - alpha * mu) ** 2).sum(1) / (2 * v)
            out.append(np.log(w) + density - x.shape[1] / 2 * np.log(2 * np.pi * v))
        return np.stack(out, axis=1)

    def log_density(self, x, alpha, sigma, among=None):
        """log of the (unnormalised) density of some classes, [B]."""
        keep = np.isin(self.classes, self.classes if among is None else among)
        return logsumexp(self.log_components(x, alpha, sigma)[:, keep], axis=1)

    def posterior(self, x, alpha, sigma):
        """p(k | x_t), [B, K]."""
        total = self.log_density(x, alpha, sigma)
        ks = np.unique(self.classes)
        return np.exp(np.stack([self.log_density(x, alpha, sigma, [k]) for k in ks], 1).T - total).T

    def denoised(self, x, alpha, sigma, among=None):
        """E[x_0 | x_t, class in among], [B, d], by conditioning each Gaussian."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        keep = np.isin(self.classes, self.classes if among is None else among)
        log_r = self.log_components(x, alpha, sigma)[:, keep]
        r = np.exp(log_r - logsumexp(log_r, axis=1, keepdims=True))
        out = np.zeros_like(flat)
        for m, (mu, s) in enumerate(zip(self.means[keep], self.scales[keep], strict=True)):
            gain = alpha * s**2 / ((alpha * s) ** 2 + sigma**2)
            out += r[:, [m]] * (mu + gain * (flat - alpha * mu))
        return out

    def eps(self, x, alpha, sigma, among=None):
        """The noise that the denoised image implies, shaped as x."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        return ((flat - alpha * self.denoised(x, alpha, sigma, among)) / sigma).reshape(x.shape)


@pytest.fixture(scope="session", autouse=True)
def _children_share_bytecode(tmp_path_factory):
    """Interpreters that tests start compile each module once, also where bytecode is not written:
    4 of the 6 seconds that a job takes to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture(scope="session")
def exact() -> Exact:
    """Three classes of two, one and two components in 4 dimensions, unequal in every respect."""
    rng = np.random.default_rng(5)
    return Exact(
        means=rng.uniform(-1, 1, (5, 4)),
        scales=np.array([0.1, 0.3, 0.2, 0.25, 0.15]),
        classes=np.array([0, 2, 1, 0, 2]),
        weights=np.array([1.0, 2.0, 0.5, 1.5, 1.0]),
    )


@pytest.fixture(scope="session")
def mixture(exact):
    return mixtures.gaussians(exact.means, exact.scales, exact.classes, exact.weights)


@pytest.fixture(scope="session")
def denoise(mixture):
    """Roles base, class:k, negative (class 0), positive (class 1), allowed (1 and 2)."""
    return mixtures.mixture_denoiser(
        mixture, {"negative": [0], "positive": [1], "allowed": [1, 2], "second": [2]}
    )


@pytest.fixture(scope="session")
def table():
    return steps.ddpm(schedules.linear(), 6)


@pytest.fixture(scope="session")
def keys():
    return sampling.sample_keys(0, 8)


@pytest.fixture(scope="session")
def noise(keys, table):
    return sampling.initial_noise(keys, SHAPE, table)


@pytest.fixture(scope="module")
def quick_compilation(tmp_path_factory):
    """For tests that compile much and compute little: plain code, compiled once per worker."""
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def eight_devices(tmp_path_factory):
    """Runs a script with 8 simulated CPU devices; it saves arrays, which come back by name."""

    def run(script: str) -> dict[str, np.ndarray]:
        out = tmp_path_factory.mktemp("eight") / "out.npz"
        flags = "--xla_force_host_platform_device_count=8"
        env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", script, str(out)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(out) as arrays:
            return dict(arrays)

    return run
