r"""Scenes of digits: a text-to-image problem whose truth is known.

A scene is M cells side by side, each a real digit of 8x8 pixels; a prompt says which label tuples
y = (y_1 .. y_M) it may show, so that A is a set of tuples:

    prompts   "even digits", "a four", both, "" -> A, bool [10, .., 10]
    captions  what a model is told of the scenes that it is trained on
    images    labels uniform and independent, an image of each class at random
    exact     p_A(x) = sum_{y in A} w_A(y) prod_m p(x_m | y_m),     w_A(y) = w(y) / sum_{A} w

p(x_m | k) is the mixture of the images of class k (dng_jax.mixtures), one for every cell: given the
labels, cells are independent, and so they are under noise. No product of M images is ever listed.
"""
