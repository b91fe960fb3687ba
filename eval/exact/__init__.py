"""The claims about exactly solvable models, as one table: what theory says and what is measured.

    python -m eval.exact                      all of it, about 10 minutes on 2 CPU cores
    python -m eval.exact --samples 512        a quick look

On scikit-learn's digits as a Gaussian mixture (scale .15, linear betas), digit 0 forbidden,
lambda_0 = tau = 1, delta = 0: guidance with the exact posterior against sampling the exact
complement on the same noise; trackers and baselines at several step counts. On three Gaussians in
the plane, 10% of the mass forbidden: deterministic DDIM with and without the divergence term.

Writes to --out: results.json and tables.md.
"""
