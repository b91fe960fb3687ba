"""Modern Hopfield networks as energy landscapes: analyses of a pattern set over beta.

    python -m eval.hopfield bifurcation --count 64        minima over beta, hysteresis, energies
    python -m eval.hopfield phase-diagram                 (N, beta_eff): K_s, K_c, N and measured
    python -m eval.hopfield collapse                      many norms, angles, N, d on one curve
    python -m eval.hopfield basins                        basin volumes, watersheds
    python -m eval.hopfield landscape --plane principal   energy along a line and on a plane
    python -m eval.hopfield retrieval --patterns mnist    from noisy and masked patterns
    python -m eval.hopfield capacity --patterns mnist     predicted onset of minima and measured
    python -m eval.hopfield metastable                    windows of groups, trees of minima
    python -m eval.hopfield spectrum --patterns keys.npy  what a set predicts, and what it does
    python -m eval.hopfield diffusion                     where guidance switches on, and why there
    python -m eval.hopfield training                      classifiers trained over beta and beta_eff
    python -m eval.hopfield attention --model DIR --text FILE    the heads of a whole transformer
    python -m eval.hopfield attention                     the heads of an attention layer:
        --file model.safetensors --heads 12 --inputs-file hidden.safetensors --inputs hidden
        --key layer.0.attention.self.key.weight --query layer.0.attention.self.query.weight

Each prints a table or two and writes them with results.json, a CSV of its curves and a figure. The
words: beta_eff = mean over pairs of beta D_ij^2/2; K_s, K_c, N the values of beta_eff at which
equidistant patterns get minima, get the lowest ones, and the centroid loses its own
(hopfield_jax.theory). Only certified minima are counted; what did not converge is named.
"""
