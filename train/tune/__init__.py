"""Searches the numbers of a training: python -m train.tune --space "learning_rate=1e-4..1e-2:log"

    python -m train.tune --space "warmup=0,100,400 weight_decay=1e-4..0.1:log"
    python -m train.tune --of classifier --objective error --space "smoothing=0..0.2 clip=.3,1,3"
    python -m train.tune --steps 2000 --first-steps 250 --eta 2 --trials 64
    python -m train.tune --steps 50 --compare

Members differ in numbers that change no shape: learning_rate, warmup, weight_decay, clip,
ema_decay; of diffusion focus, label_dropout (conditioning label) and unconditional_weight (heads);
of a classifier smoothing, and momentum where the preset has one. A block of --members is one
training (dng_jax.training.members): the same start, batches, noise and augmentation for all. With
--first-steps the worst are dropped on the way.

What they are compared by is the loss of the averaged weights on --held-out images of the split,
which none of them trains on, with the same noise for all (dng_jax.training.yardsticks). Diffusion's
digits train on all images: add --split train to leave test images unseen. Of diffusion that loss
weighs noise levels evenly and half of the unconditional loss, which decides focus,
unconditional_weight and label_dropout; it is not image quality. The best loss is the least of many
on the same images and one --seed, so in the end the best and the preset's numbers are trained on
--judge-seeds others, with other images held out, and their difference decides.

Writes to --out: journal.log, and at the end results.json, tables.md, curves.png and best.json, with
the command that trains the best one on all images. --resume goes on, and joins processes at work.
"""
