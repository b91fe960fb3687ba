r"""Training: pure functions from (state, data) to state, driven step by step from the host.

    state = init_state(module, optimiser, key)
    step = make_diffusion_step(module, optimiser, schedule, batch_size, ema_decay)
    state, metrics = step(state, images, labels)

    optimiser         TrainState, the optimiser, the average, the one step of all trainings
    diffusion         losses of the three forms of network, noise levels
    stable_targets    targets of low variance, from many reference images
    autoencoder       images -> latents -> images
    text_to_image     latents by their captions: a U-Net and a text encoder
    classifier        cross-entropy on augmented images
    augmentation      random changes of images
    batch_statistics  of networks with batch normalisation, once their weights are final
    members           K trainings that differ in their numbers, as one
    yardsticks        held-out losses, to compare members by
    jobs              the fields of all trainings, with their ranges
    presets           what is trained, on what, for how long
    checkpoints       saved states (Orbax); imported by itself

Everything random in step n is drawn from fold_in(key, n). Pixels stay uint8 until they are on the
device. Precision: the parameters, the average, the optimiser's state, the loss and the norms are
float32; what convolutions and products compute in is the module's `dtype` (bfloat16 on
accelerators).
"""

from typing import TYPE_CHECKING

from dng_jax.lazy import exporter

__all__ = [
    "Step",
    "TrainState",
    "augment",
    "count_right",
    "diffusion_loss",
    "flip_shift_cut",
    "init_state",
    "make_classifier_step",
    "make_diffusion_step",
    "make_optimiser",
    "mirror",
    "several",
    "stratified_logsnr",
    "whitened",
]

if TYPE_CHECKING:
    from dng_jax.training.augmentation import augment, flip_shift_cut, mirror
    from dng_jax.training.classifier import count_right, make_classifier_step, whitened
    from dng_jax.training.diffusion import diffusion_loss, make_diffusion_step, stratified_logsnr
    from dng_jax.training.optimiser import Step, TrainState, init_state, make_optimiser, several
else:
    _HOMES = {
        "augmentation": ("augment", "flip_shift_cut", "mirror"),
        "classifier": ("count_right", "make_classifier_step", "whitened"),
        "diffusion": ("diffusion_loss", "make_diffusion_step", "stratified_logsnr"),
        "optimiser": ("Step", "TrainState", "init_state", "make_optimiser", "several"),
    }
    __getattr__, __dir__ = exporter(__name__, __all__, _HOMES)
