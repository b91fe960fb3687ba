"""Training jobs: `python -m train.diffusion`, `train.classifier` and `train.text_to_image`;
`python -m train.tune` searches the numbers of the first two.

    options    the command line: a preset, and an option for every field of its job
    images     what is trained on, and the network that fits it
    start      devices, processes, the run's folder, arrays on the devices: a prepared Run
    session    from the newest saved state to the end, or to a signal
    steps      the compiled step of a job
    loop       the one loop: steps, lines, saved states, sample grids, signals
    logs       metrics.jsonl, TensorBoard event files, Weights & Biases
    samples    what the averaged weights draw
    prompted   the same of a text-to-image model, by its prompts
    finish     model.safetensors, or a folder of diffusers, and its card model.md

What can be trained, with costs and commands: dng_jax.training.presets.

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
                         that generated ones can be measured without the data set
    model/               of a text-to-image model, instead: its folder, as diffusers has it, from
                         the averaged weights
    autoencoder/         of a text-to-image model: metrics.jsonl, tensorboard/ and states/ of its
                         first part

SIGTERM, SIGUSR1, and Ctrl-C the first time, finish the step, save, and end with exit code 0 and a
line that shows how to go on. A second Ctrl-C ends at once with 130; so does one before the first
step, when there is nothing to save. Bad input, a full disk and a loss that is not finite end with 2
and one sentence; no saved state is harmed.
"""
