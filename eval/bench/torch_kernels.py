"""The layers of the suite kernels by PyTorch, one core, channels_last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import jax_side, kernels, networks, torch_unet
from .kernels import Layer


def programs(name: str, images: int, kinds: list[Layer]) -> dict[str, Callable[[], None]]:
    """Programs of the layers and of the whole."""
    torch.set_num_threads(1)
    module, params = networks.load(name)
    network = torch_unet.unet(module.config, params)
    x, *others = map(torch.tensor, jax_side.inputs(module.config, images))
    found = {kernels.FORWARD: _repeated(network, x.permute(0, 3, 1, 2), *others)}
    for layer in kinds:
        x = torch.tensor(kernels.example(layer))
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        one = made(layer).to(memory_format=torch.channels_last)
        found[str(layer)] = _repeated(one, x)
    return found


def made(layer: Layer) -> nn.Module:
    """The layer, untrained."""
    inputs, outputs = layer.shape[-1], layer.outputs
    match layer.kind:
        case "Conv3":
            return torch_unet.conv3(inputs, outputs)
        case "Conv":
            strided = torch_unet.Conv(inputs, outputs, 3, stride=2)
            return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), strided)
        case "Dense":
            return torch_unet.Dense(inputs, outputs)
        case "GroupNorm":
            return torch_unet.GroupNorm(inputs)
    return torch_unet.Attention(inputs)


def _repeated(network: nn.Module, *given: Any) -> Callable[[], None]:
    @torch.inference_mode()
    def run() -> None:
        for _ in range(kernels.REPEATED):
            network(*given)

    return run
