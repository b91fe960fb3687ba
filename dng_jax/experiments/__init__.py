"""What is sampled, by which rule, and which classifier looks at it: the parts of an experiment.

    source         Source: the options of a job that say where networks come from
    classes        class names and numbers of the command line -> class numbers
    models         a bundled network or a model file, whether it fits the data, its fingerprint
    classifiers    images -> labels and features; the features of the real data, as their reference
    problems       Problem: all of these for one set of forbidden classes, ready to be sampled
    rule_specs     "dng:pair=5" -> a rule of dng_jax.guidance for a problem
    generating     the batched sampler: rules -> labels, features, images, traces

A class to forbid enters `problems.make` once; from there on it is a number of Problem.forbidden.
"""
