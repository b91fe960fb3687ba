"""Searches the numbers of guidance rules: python -m eval.tune

    python -m eval.tune --space "dng:pair scale=.1..10:log tau=.2..2 drift=0..0.8"
    python -m eval.tune --space "dng:classes scale=.5..4" "np scale=.05..1:log" --search random
    python -m eval.tune --dataset mnist --trials 256 --constraints 'leak<=0.5%' --objectives kl
    python -m eval.tune --trials 1000 --first-samples 64 --samples 576
    python -m eval.tune --dry-run

A space is a rule and its leaves, LEAF=LOW..HIGH[:log] or LEAF=A,B,C: scale, tau, delta, drift,
prior, lo and hi (noise levels that it is limited to), steps, sampler (dng_jax.tuning.spaces).
Settings are asked block by block, and a block runs as one compiled program.

Several processes share a study: the same command with --resume, in as many shells, on as many
machines as see the folder. Killed ones lose nothing: their settings are taken over.

Writes to --out: journal.log, and when the study is full results.json, tables.md, front.png,
report.html and best.json, which python -m eval.class_removal --settings takes. The front is judged
on seeds that the search never saw.
"""
