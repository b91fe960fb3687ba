"""Which form of Dynamic Negative Guidance a text-to-image model should use: a study whose truth is
known.

    python -m eval.scenes                             all of it, on the exact model
    python -m eval.scenes --parts variants            the variants alone
    python -m eval.scenes --model digit-scenes --parts claim      of a trained model, beside it

Scenes of two digits (dng_jax.scenes) are asked for by a prompt, with a negative that is sometimes
there (related) and one that never is (unrelated), all rules and settings on the same noise. A curve
is one rule over its scale; at each point: the share of scenes that still show the related negative,
and the share of cells that the unrelated one changed. Rules are compared where they leave the same
share (dng_jax.metrics.invasiveness), beside negative prompting with the plain negative at the same
guidance scale and number of steps.

    variants   a, b, c, d, nested (dng_jax.denoisers.branches) over guidance scale and prior
    detector   what the tracker says of unguided scenes, with the related negative in them or not
    tracker    temperature, delta and drift, of variants b and d
    steps      other numbers of steps
    claim      negative prompting and variant d at guidance scale 3, d with a calibrated tracker
               too: for models that take long
    guided     negative prompting with the guided negative, at guidance scale 3

Found on the exact model: variant d is the one to use with classifier-free guidance. What it tracks
compares densities, the negative's with the empty prompt's, and says the same whatever the guidance
scale; a guided prediction is that of no density, and the p of a, b and nested sinks as the scale
grows. Without that guidance (scale 1) nested is as good. Priors are those of the reference.

Writes to --out: results.json, tables.md, points.csv and, in curves/, the outcome of every scene;
curves that are there already are not sampled again with --overwrite.
"""
