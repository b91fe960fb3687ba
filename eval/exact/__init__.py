"""The claims about exactly solvable models, as one table: what theory says and what is measured.

    python -m eval.exact                      all of it, about 10 minutes on 2 CPU cores
    python -m eval.exact --samples 512        a quick look

On scikit-learn's digits as a Gaussian mixture (scale .15, linear betas), digit 0 forbidden,
lambda_0 = tau = 1, delta = 0: guidance with the exact posterior against sampling the exact
complement on the same noise; trackers and baselines at several step counts. On three Gaussians in
the plane, 10% of the mass forbidden: deterministic DDIM with and without the divergence term.

    python -m eval.exact --datasets digits mnist cifar10 --samples 256

How the error of each tracker grows with dimension (64, 784, 3,072) and steps: of each data set the
first 10,000 images as a mixture of scale .15, class 0 forbidden, guided by a tracker that starts
from the exact prior; what it says beside the exact posterior, at every level of its own chain.

Writes to --out: results.json and tables.md; with --datasets pictures as well.
"""
