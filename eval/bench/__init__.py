"""Speed, as ratios measured in one run.

    python -m eval.bench sampling
    python -m eval.bench pytorch --networks digits-heads mnist-heads
    python -m eval.bench kernels --networks mnist-heads
    python -m eval.bench convolutions
    python -m eval.bench growth
    python -m eval.bench start
    python -m eval.bench memory
    python -m eval.bench throughput --cpu-devices 2
    python -m eval.bench hopfield
    python -m eval.bench text-to-image --pairs 3

Programs that are compared take turns, each once more to warm up; figures are medians, ratios
medians over the rounds with their quartiles. A floor is the operations that XLA counts in a program
over the speed of a matrix product in the same run (eval.bench.roofline). Other work on the machine
spoils all of it: measure where there is none.

sampling:

rules              on the digits, with heads and with labels: unguided, negative prompting of
                   constant scale, DNG (pair: the same network calls), DNG (classes, all of them
                   from one call); each against the first two, and against its floor

sweep              32 settings as one compiled program against 32 runs; and how many programs a
                   second sweep with other numbers compiles

pytorch (needs torch), the bundled networks and one of 35.7 million parameters:

forward, loop      a batch through the network, and sampling with DNG as the paper's program does
                   it, against PyTorch eager and compiled with the same weights, on 1 and on all
                   cores, each side in a process of its own (eval.bench.pytorch)

kernels (needs torch):

layers             every layer of a network alone, here and in PyTorch, on one core: what each costs
                   of a forward, and what lies between them (eval.bench.kernels)

convolutions:

layers             3x3 convolutions at the shapes of networks, those of this library against XLA's,
                   forward or gradient, on one core (eval.bench.convolutions)

growth:

exponents          how seconds of sampling with DNG grow with images, steps, classes and settings

start:

seconds            from nothing to --help and to the first image, without the compilation cache,
                   with an empty one and with a warm one (eval.bench.start)

memory:

bytes per image    of a chain, its trajectory kept or not: planned by XLA, and seen
                   (eval.bench.memory)

throughput, the networks of --networks at their training batch:

images per second  of a training step and of a sampling step (one network call per image and the
                   rule's arithmetic), and the share of the machine's matrix-product peak that they
                   reach (eval.bench.throughput), timed in alternation

hopfield:

loops over beta    hopfield_jax against NumPy and PyTorch, hopfield-layers' association by its own
                   stopping rule and by ours; its share of the matrix-product peak; how seconds grow
                   with patterns, states and betas; 1e6 patterns (eval.bench.hopfield)

text-to-image:

one step           three predictions of Stable Diffusion 1.5's U-Net, random weights, against
                   PyTorch, and their share of the matrix-product peak (eval.bench.text_to_image)
"""
