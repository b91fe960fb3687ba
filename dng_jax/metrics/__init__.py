"""How well a sampler removed a class, and how far its posterior can be trusted.

Plain NumPy in float64 on the host: nothing here needs an accelerator or a compiled program.
"""

from dng_jax.metrics.calibration import (
    Calibration,
    Reliability,
    agreement,
    brier,
    calibration,
    expected_calibration_error,
    nll,
    reliability,
)
from dng_jax.metrics.frechet import Moments, frechet_distance, frechet_from_features
from dng_jax.metrics.shares import (
    ClassReport,
    Divergence,
    Share,
    class_counts,
    class_report,
    forbidden_share,
    kl_divergence,
    share,
    wilson,
)

__all__ = [
    "Calibration",
    "ClassReport",
    "Divergence",
    "Moments",
    "Reliability",
    "Share",
    "agreement",
    "brier",
    "calibration",
    "class_counts",
    "class_report",
    "expected_calibration_error",
    "forbidden_share",
    "frechet_distance",
    "frechet_from_features",
    "kl_divergence",
    "nll",
    "reliability",
    "share",
    "wilson",
]
