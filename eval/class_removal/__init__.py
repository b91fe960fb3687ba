"""Removes classes from what a diffusion model generates, and measures what that costs.

    python -m eval.class_removal
    python -m eval.class_removal --forbid 3 --forbid 8 --rules unguided np=0.3 dng:pair dng:classes
    python -m eval.class_removal --denoiser exact --steps 100 --samples 4096 --tracker pair
    python -m eval.class_removal --rules unguided reject:pair=1.2 dng:pair --calibration bundled
    python -m eval.class_removal --dataset mnist --cpu-devices 2 --save-images png
    python -m eval.class_removal --forbid-images FOLDER --rules unguided dng:pair safe=1 spell=1.6

The last forbids images in the place of classes: their mixture is the negative
(dng_jax.experiments.image_sets).

Every class, scale and seed: python -m eval.study.

Writes to --out: results.json (one record per rule), tables.md, samples.png, trade_off.png and,
where a rule tracks a posterior, posterior.png; with --save-images a folder images/. Rules:
unguided, np, sld, cfg, feedback, dng, reject, safe, sgf, spell, reference, intervals of them, and
your own (dng_jax.experiments.rule_specs).
"""
