"""Weights in files: our own model files, any safetensors, the networks that come with the library.

weights.save(path, params, nets.describe(module))      files.py: format and metadata
module, params, config = weights.load(path)
params, taken, total = weights.overlay(params, stored) weights of another network where they fit
module, params, config = weights.diffusers.load_folder(path)     UNet2DModel of diffusers
params = weights.parts.load(folder, module, Layout(kind))        one of Stable Diffusion's networks
tensors, text = weights.read(path)                     tensors.py: any safetensors file
module, params, config = weights.pretrained.load("digits-heads")
"""

from dng_jax.weights import diffusers, parts, pretrained, tensors
from dng_jax.weights.files import load, overlay, save
from dng_jax.weights.tensors import read

__all__ = ["diffusers", "load", "overlay", "parts", "pretrained", "read", "save", "tensors"]
