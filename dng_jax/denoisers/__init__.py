r"""From networks to the one `Denoise` signature: (x, row, roles) -> {role: eps}.

Networks are called in variance-preserving coordinates and take a continuous noise level. At level
(alpha, sigma) of any schedule, with r = 1 / sqrt(alpha^2 + sigma^2),

    x_vp = r x = (r alpha) x_0 + (r sigma) eps,        logsnr = log(alpha^2 / sigma^2)

so the eps that the network predicts is the eps of x itself, and one trained network serves DDPM,
EDM and rectified-flow tables. Predictions of other kinds are converted (dng_jax.schedules), and
`timesteps` translates for a network that was trained on the numbered levels of one schedule.

    networks     one class-conditional network, one with a head per class, one without classes
    modules      what may stand for a network: Flax Linen, Flax NNX, Equinox, a function
    separate     one denoiser per role
    compaction   a role's network on those images alone that need it
    image_set    a set of images as the negative of any of them, in closed form
    branches     predictions for prompts -> the roles of guidance, w and variant as data
    levels       row -> timestep of a schedule

What a network returns is checked while it is traced: a smaller array would broadcast, and sample
images that look like any other. docs/guides/own_network.md shows each of them at work.
"""

from dng_jax.denoisers.branches import branches
from dng_jax.denoisers.image_set import image_set
from dng_jax.denoisers.levels import timesteps
from dng_jax.denoisers.networks import (
    from_module,
    heads_network,
    label_network,
    plain_network,
    with_conditions,
)
from dng_jax.denoisers.separate import separate_networks

__all__ = [
    "branches",
    "from_module",
    "heads_network",
    "image_set",
    "label_network",
    "plain_network",
    "separate_networks",
    "timesteps",
    "with_conditions",
]
