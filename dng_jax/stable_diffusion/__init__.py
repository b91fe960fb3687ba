"""Stable Diffusion: text-to-image networks in the layout of their published files.

    pipeline     a model's folder -> prompts -> latents -> pictures
    prompt_network  the U-Net as a denoiser of a raw role for each prompt
    pictures     latents -> pixels
    hub          the folder, here or fetched by its repository's name
    clip_config  a CLIP text encoder, as its config.json describes it
    clip_text    the encoder: tokens -> hidden states, and the prompt as one vector
    tokenizer    prompts -> tokens
    vocabulary   a tokenizer of few words, made here
    schedule     scheduler_config.json -> noise levels, and which of them are visited
    unet         UNet2DConditionModel: latents, time, text -> the prediction
    vae          AutoencoderKL: images <-> latents
    blocks       the levels of both
    layers       what the levels are made of
    config       UNetConfig, VAEConfig: their sizes
    config_json  those of a config.json of diffusers
    sizes        the sizes of a small model that is trained here
    saving       a model as the folder of a pipeline

Weights are read by dng_jax/weights/parts.py. At run time nothing of PyTorch is needed, and of
Hugging Face's packages `tokenizers` alone, and `huggingface_hub` where a model is asked for by its
repository's name (extra `text`).
"""
