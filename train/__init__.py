"""Training jobs: `python -m train.diffusion` and `python -m train.classifier`.

    presets    what is trained, on what, for how long: one function each, with cost and command
    options    the command line, shared by both jobs; overrides of any field by name
    start      devices, processes, the run's folder, arrays on the devices
    loop       the one loop: steps, lines, saved states, sample grids, signals
    logs       metrics.jsonl, TensorBoard event files, Weights & Biases
    samples    what the averaged weights draw
    finish     model.safetensors and its card model.md

A run is a folder:

    run.json             the job as it was parsed (a run resumes only with the same one), provenance
    metrics.jsonl        one line every `log_every` steps: step, seconds, loss and its parts,
                         images_per_second since the line before
    tensorboard/         the same numbers as event files
    states/              saved TrainStates (dng_jax.training.checkpoints); --resume continues from
                         the newest
    samples/             image grids drawn with the averaged weights
    model.safetensors    the averaged weights, written at the end; model.md, its card
    model.reference.safetensors    of a classifier: what the training images look like to it, so
                         that generated ones can be judged without the data set

SIGTERM, and Ctrl-C the first time, finish the step, save, and leave with exit code 0 and a line
that says how to go on; a second Ctrl-C leaves at once with 130. Bad input, a full disk and a loss
that is not finite leave with 2 and one sentence; no saved state is harmed.
"""
