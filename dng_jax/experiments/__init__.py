"""What is sampled, by which rule, and which classifier looks at it: the parts of an experiment.

    source         Source: the options of a job that say where networks come from
    classes        class names and numbers of the command line -> class numbers
    models         a bundled network, model file or folder; whether it fits the data; fingerprint
    classifiers    images -> labels and features; the features of the real data, as their reference
    problems       Problem: all of these for one set of forbidden classes, ready to be sampled
    rule_specs     "dng:pair=5" in words -> Spec
    rule_builders  Spec -> a rule of dng_jax.guidance for a problem
    prompt_rules   Spec -> a rule for a prompt and negative prompts
    paper_prompts  the prompts of the DNG paper
    prompted       the sampler of text-to-image jobs: rules -> latents, images, traces; its cost
    clamps         whether a tracked posterior stood at a clamp
    own_rules      MODULE:FACTORY -> a rule of the user's own
    rejection      unguided samples, the likeliest forbidden thrown away
    calibrations   fitted temperatures and offsets of trackers, as files
    saving         images and labels -> PNG files or one .npz
    generating     the batched sampler: rules -> labels, features, images, traces

A class to forbid enters `problems.make` once; from there on it is a number of Problem.forbidden.
"""
