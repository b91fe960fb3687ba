"""The networks of Stable Diffusion 1, 2 and XL, with the tensors of diffusers' files.

    unet         UNet2DConditionModel: latents, time, text -> the prediction
    vae          AutoencoderKL: images <-> latents
    blocks       their levels
    layers       what the levels are made of
    config       UNetConfig, VAEConfig: their sizes
    config_json  those of a config.json of diffusers

Their weights are read by dng_jax/weights/parts.py.
"""
