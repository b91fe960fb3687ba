"""Is the tracked posterior right? Trackers as detectors on unguided runs.

    python -m eval.calibration                        the bundled network and its classifier
    python -m eval.calibration --denoiser exact       against the closed-form posterior
    python -m eval.calibration --information          what the predictions know of the class

Unguided chains are sampled once for each step table, recording what each step says about every
class; then every tracker is replayed on the record. Each class in turn plays the forbidden one: the
figures for one class are averages over these K events per run (dng_jax.metrics.forecasts).
Together they are a vector, normalised for pair and odds, that forecasts the class.
Temperatures are fitted twice: on labelled data noised along the forward chain (nothing generated),
and on the first half of the runs, there together with an offset too (of pair and odds); all figures
are of the second half.

Writes to --out: results.json (one record per step table, tracker and fit), tables.md, reliability
curves, the error over time, and per step table a calibration_SAMPLER.json with temperature and
offset, which --calibration of eval.class_removal and eval.study takes.

--information samples nothing: labelled images are noised, and half the integral over log-SNR of
what the base errs more than the class is the information about it (dng_jax.posterior.information).
Writes results.json, tables.md and information.png.
"""
