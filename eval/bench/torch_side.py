"""What the suite pytorch compares, by PyTorch: eager and compiled, in channels_last.

Compiled is `network.compile(dynamic=False)`, torch's own settings but for programs of one shape
each; the loop over steps stays Python's, as in the paper's program. `facts` hold the outputs of
forward as [B, ..., H, W, C] and seconds to the first compiled result of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from . import networks, roofline, torch_loop, torch_unet
from .jax_side import PRIOR, inputs, table_of
from .networks import Size

Program = Callable[[], Any]


def programs(
    name: str, size: Size, dtype: str, cores: int, gpu: bool, compiling: bool
) -> dict[str, Any]:
    """ "forward", "loop" and "product" of a network, where `compiling` "compiled forward" and
    "compiled loop", and "facts"."""
    jax.config.update("jax_platforms", "cpu")  # which reads the weights, and nothing else
    torch.set_num_threads(cores)
    device = torch.device("cuda" if gpu else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True  # as XLA does in float32, and cuDNN anyway
    eager = _networks(name, dtype, device)
    config, table = eager[0].config, table_of(size.steps)
    x, *others = (torch.tensor(value, device=device) for value in inputs(config, size.images))
    x = x.permute(0, 3, 1, 2)  # channels_last as it stands

    def both(pair: list[Any]) -> dict[str, Program]:
        predict = torch_loop.predictions(pair)
        return {
            "forward": _awaited(gpu, lambda: pair[0](x, *others)),
            "loop": _awaited(gpu, lambda: torch_loop.sample(predict, table, x, PRIOR)[0]),
        }

    found = both(eager)
    outputs, first = {"eager": _array(found["forward"]())}, {}
    if compiling:
        compiled = _networks(name, dtype, device)
        for network in compiled:
            network.compile(dynamic=False)
        for what, program in both(compiled).items():
            began = time.perf_counter()
            answer = program()
            first[what] = time.perf_counter() - began
            found[f"compiled {what}"] = program
            if what == "forward":
                outputs["compiled"] = _array(answer)
    a = torch.ones((roofline.SIDE,) * 2, device=device, dtype=getattr(torch, dtype))
    found["product"] = _awaited(gpu, lambda: a @ a)
    return found | {"facts": {"outputs": outputs, "first_seconds": first}}


def _networks(name: str, dtype: str, device: torch.device) -> list[Any]:
    """One network, or the two of the paper where it has no classes."""
    module, params = networks.load(name)
    both = [params]
    if module.config.conditioning == "none":
        both.append(networks.load(name, 1)[1])
    kind = getattr(torch, dtype)
    return [torch_unet.unet(module.config, params, kind).to(device) for params in both]


def _awaited(gpu: bool, program: Program) -> Program:
    @torch.inference_mode()
    def run() -> Any:
        answer = program()
        if gpu:
            torch.cuda.synchronize()
        return answer

    return run


def _array(output: Any) -> np.ndarray:
    return np.moveaxis(output.float().cpu().numpy(), -3, -1)
