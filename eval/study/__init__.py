"""The class-removal study: python -m eval.study

    python -m eval.study                                     digits
    python -m eval.study --dataset mnist --cpu-devices 2
    python -m eval.study --parts curves --forbid 0 --forbid 8 --samples 256
    python -m eval.study.report runs/study-digits           one HTML page of it

Parts, each a set of cells (eval.study.cells):

    curves        every forbidden class x rule x grid of scales x seed: the trade-offs, and the KL
                  of the rules at equal leak with paired bootstrap intervals; what the least
                  drawn of the allowed classes keeps
    sensitivity   lambda_0, tau, drift, delta and prior of DNG, one at a time, for each tracker
    steps         step counts from 25 to 1000
    several       sets of 2, 3 and 5 classes forbidden at once
    path          the same noise along each rule's scales, as a picture
    calibration   the tracked posterior against the classifier's label (eval.calibration)

A cell is computed once: a study that was interrupted, or is asked for more parts or seeds, goes on
with --resume. Results: results.json, tables.md, pictures; eval.study.report makes one page of them.
"""
