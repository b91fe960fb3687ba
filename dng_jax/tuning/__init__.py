"""The search for a rule's numbers: a space, a block of trials at a time, a front.

    spaces      what is searched, in words; a setting of it
    goals       objectives and constraints, in words
    fronts      domination, the Pareto front, an order of settings
    halving     few images first, more for the survivors
    journals    Optuna's journal file, and what a killed process leaves of it
    ways        grid, random, TPE, NSGA-II: who proposes the next settings
    studies     trials asked, told, and taken over from processes that died
    searching   ask a block, evaluate it, tell it, until the study is full
    measuring   settings -> leak, KL, Frechet distance, network calls: the compiled half
    memory      how many settings a device holds at once
    judging     the front again on seeds that the search never saw, and the bias of the first look
    numbers     spaces of training numbers, for python -m train.tune
    blocks      members trained through rungs, saved on the way
    paired      the difference of two settings on fresh seeds, with its interval
    importance  which number an objective rests on
    engines     one process, a cluster by SLURM, or Ray

A trial is one setting; its life in the journal:

    asked    RUNNING, with the name of the worker that has it
    told     COMPLETE with its values; where its predictions were not finite, with the worst ones
             and a constraint violated beyond all others, so that the search keeps away
    stopped  PRUNED, by halving, with its value at every rung (dng_jax.tuning.studies)
    orphan   RUNNING, and the lock of its worker is free: whoever asks next takes it over

so that a trial is told exactly once however many processes ask, and however they end: the values
and the end of a trial are one line of the journal, and a worker whose lock is free is dead.
Optuna and what it needs come with the extra `tune`; only journals, ways, studies and importance
import it.
"""
