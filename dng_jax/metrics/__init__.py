"""How well a sampler removed a class, how good the rest is, how far its posterior can be trusted.

shares            leak, divergences       balance           evenness of the allowed classes
frechet           Frechet distance        kernel_distance   KID, all pairs or blocks
precision_recall  and density, coverage   calibration       of predicted probabilities
tradeoff          curves over scales, paired intervals      features   images -> features
reference         real features by class, without the data

Plain NumPy in float64 on the host, but for the feature extractors. What streams (counts, Moments,
Kept, KernelBlocks, Overlap) is immutable, and gives what the whole batch gives.
"""

from dng_jax.metrics import features, tradeoff
from dng_jax.metrics.balance import (
    ClassBalance,
    class_balance,
)
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
from dng_jax.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_from_features,
)
from dng_jax.metrics.kept import (
    Kept,
)
from dng_jax.metrics.kernel_distance import (
    KernelBlocks,
    KernelDistance,
    KernelReference,
    block_kid,
    kid,
)
from dng_jax.metrics.precision_recall import (
    Manifold,
    Overlap,
    PrecisionRecall,
    precision_and_recall,
)
from dng_jax.metrics.reference import (
    Reference,
)
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
    "ClassBalance",
    "ClassReport",
    "Divergence",
    "Kept",
    "KernelBlocks",
    "KernelDistance",
    "KernelReference",
    "Manifold",
    "Moments",
    "Overlap",
    "PrecisionRecall",
    "Reference",
    "Reliability",
    "Share",
    "agreement",
    "block_kid",
    "brier",
    "calibration",
    "class_balance",
    "class_counts",
    "class_report",
    "expected_calibration_error",
    "features",
    "forbidden_share",
    "frechet_distance",
    "frechet_from_features",
    "kid",
    "kl_divergence",
    "nll",
    "precision_and_recall",
    "reliability",
    "share",
    "tradeoff",
    "wilson",
]
