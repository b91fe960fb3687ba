"""Speed, as ratios measured in one run.

    python -m eval.bench sampling
    python -m eval.bench throughput --cpu-devices 2
    python -m eval.bench hopfield
    python -m eval.bench text-to-image --pairs 3

sampling:

tracker overhead   DNG (pair) against negative prompting of constant scale: same network calls
heads              DNG (classes, all classes from one call) against unguided sampling
sweep              16 settings as one compiled program against 16 times the run time of one setting;
                   and how many programs a second sweep with other numbers compiles

throughput, the networks of --networks at their training batch:
images per second  of a training step and of a sampling step (one network call per image and the
                   rule's arithmetic), and the share of the machine's matrix-product peak that they
                   reach (eval.bench.throughput), timed in alternation

hopfield:
loops over beta    hopfield_jax against NumPy and PyTorch; its share of the matrix-product peak; how
                   seconds grow with patterns, states and betas; 1e6 patterns (eval.bench.hopfield)

text-to-image:
one step           three predictions of Stable Diffusion 1.5's U-Net, random weights, against
                   PyTorch, and their share of the matrix-product peak (eval.bench.text_to_image)
"""
