"""How well a sampler removed a class, how good the rest is, how far its posterior can be trusted.

shares            leak, divergences                calibration       of predicted probabilities
frechet           Frechet distance                 kernel_distance   KID over all pairs
precision_recall  and density, coverage            tradeoff          curves over scales, intervals
features          images -> feature vectors        buffer            feature vectors as they come
reference         real features per class, without the data
inversion         the interval of KL from few samples
nearest           distances to the nearest image of a set
displacement      how far a rule moves images of the same noise
invasiveness      what a rule changes without a reason, compared at equal removal

Plain NumPy in float64 on the host, but for the feature extractors. What streams (class counts,
Moments, FeatureBuffer, PRDC) is immutable, and gives what the whole batch gives.
"""

from dng_jax.metrics import features, tradeoff
from dng_jax.metrics.buffer import FeatureBuffer
from dng_jax.metrics.calibration import (
    Reliability,
    agreement,
    brier,
    calibration,
    expected_calibration_error,
    nll,
    reliability,
)
from dng_jax.metrics.displacement import rms_distance
from dng_jax.metrics.frechet import Moments, frechet_distance, frechet_from_features
from dng_jax.metrics.kernel_distance import KernelReference, kid
from dng_jax.metrics.nearest import nearest_distances
from dng_jax.metrics.precision_recall import PRDC, Manifold, precision_and_recall
from dng_jax.metrics.reference import Reference
from dng_jax.metrics.shares import (
    ClassReport,
    Share,
    class_counts,
    class_report,
    forbidden_share,
    kl_divergence,
    share,
    wilson,
)

__all__ = [
    "PRDC",
    "ClassReport",
    "FeatureBuffer",
    "KernelReference",
    "Manifold",
    "Moments",
    "Reference",
    "Reliability",
    "Share",
    "agreement",
    "brier",
    "calibration",
    "class_counts",
    "class_report",
    "expected_calibration_error",
    "features",
    "forbidden_share",
    "frechet_distance",
    "frechet_from_features",
    "kid",
    "kl_divergence",
    "nearest_distances",
    "nll",
    "precision_and_recall",
    "reliability",
    "rms_distance",
    "share",
    "tradeoff",
    "wilson",
]
