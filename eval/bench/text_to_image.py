r"""A step of Stable Diffusion: three predictions of a U-Net for one image, against PyTorch's.

    (u, A, B) -> base, negative: a batch of three, latents 64x64 and 32x32, random weights, warm

The U-Net is that of Stable Diffusion 1.5, 859.5 million parameters. On a CPU in float32 against
UNet2DConditionModel of diffusers with the same weights and one thread (several spin, which takes
two to five times as long where a core is busy), where torch and diffusers are installed. Elsewhere
in float32 and bfloat16, and everywhere beside the product of two matrices of that type:

    share = (operations of the step / seconds) / (2 m^3 / seconds of the product), m = 4096

Operations are those that XLA counts before it optimises; memory is what it plans besides weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import schedules
from dng_jax.denoisers.branches import EMPTY, PROMPT, branches
from dng_jax.jobs.tables import Table
from dng_jax.rules import in_dtype
from dng_jax.stable_diffusion.config import UNetConfig
from dng_jax.stable_diffusion.config_json import unet_json
from dng_jax.stable_diffusion.prompt_network import prompt_network
from dng_jax.stable_diffusion.schedule import ModelSchedule
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.weights import files, parts

from . import timing
from .options import Config

SIDES = (64, 32)
TOKENS = 77
PRODUCT = 4096
ROLES = (EMPTY, PROMPT, "negative")
MISSING = "no torch with diffusers for this device: pip install torch diffusers"


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """One part: a record for every side and type."""
    sizes = UNetConfig(
        block_out_channels=tuple(c // config.shrink for c in UNetConfig().block_out_channels),
        cross_attention_dim=768 // config.shrink,
    )
    on_cpu = jax.default_backend() == "cpu"
    records = []
    for dtype in ("float32",) if on_cpu else ("float32", "bfloat16"):
        unet = UNet2DConditionModel(sizes, None if dtype == "float32" else jnp.bfloat16)
        params = _weights(unet, dtype)
        theirs = _torch(sizes, params) if on_cpu else None
        for side in SIDES:
            records.append(_figure(unet, params, theirs, side, dtype, config.pairs))
    count = sum(x.size for x in jax.tree.leaves(params))
    yield "steps", {"parameters": count, "records": records}, _table(count, records)


def _weights(unet: UNet2DConditionModel, dtype: str) -> Any:
    shapes = jax.eval_shape(unet.init, jax.random.key(0), *unet.config.example())["params"]
    rng = np.random.default_rng(0)

    def drawn(shape: Any) -> jax.Array:
        value = rng.standard_normal(shape.shape, np.float32) * np.float32(0.02)
        # Norms near 1 keep activations of random weights where those of trained ones are.
        return jnp.asarray(value + (len(shape.shape) == 1), dtype)

    return jax.tree.map(drawn, shapes)


def _figure(
    unet: UNet2DConditionModel, params: Any, theirs: Any, side: int, dtype: str, pairs: int
) -> dict[str, Any]:
    rng = np.random.default_rng(side)
    x = rng.standard_normal((1, side, side, unet.config.in_channels), np.float32)
    texts = {
        role: jnp.asarray(
            rng.standard_normal((TOKENS, unet.config.cross_attention_dim), np.float32)
        )
        for role in ROLES
    }
    schedule = ModelSchedule(schedules.scaled_linear(1000, 0.00085, 0.012), "eps", "leading", 1)
    table = in_dtype(schedule.table(50), jnp.float32)
    row = jax.tree.map(lambda column: jnp.asarray(column[0]), table)
    denoise = branches(prompt_network(unet, params, texts, schedule), "d", 7.5)
    ask = jax.jit(lambda denoise, x, row: denoise(x, row, ("base", "negative")))
    lowered = ask.lower(denoise, x, row)
    program = lowered.compile()
    planned = program.memory_analysis()

    def ours() -> Any:
        return program(denoise, x, row)

    share = timing.ratio_of_pairs(ours, _product(dtype), pairs)
    counted: Any = lowered.cost_analysis()
    operations = float(counted["flops"])
    peak = 2 * PRODUCT**3 / share.b
    found: dict[str, Any] = {
        "side": side,
        "dtype": dtype,
        "seconds": share.a,
        "cpu_seconds": _cpu_seconds(ours),
        "operations": operations,
        "planned_bytes": None if planned is None else int(planned.temp_size_in_bytes),
        "peak_operations_per_second": peak,
        "share_of_peak": operations / share.a / peak,
        "torch": MISSING,
    }
    if theirs is not None:
        level = int(schedule.level(row))
        other = theirs(x, np.stack([np.asarray(texts[role]) for role in ROLES]), level)
        ratio = timing.ratio_of_pairs(other, ours, pairs)
        eps = np.asarray(ours()["negative"])
        found["seconds"] = ratio.b
        found["torch"] = {
            "seconds": ratio.a,
            "cpu_seconds": _cpu_seconds(other),
            "times": ratio,
            "largest_difference": float(np.abs(other()[2] - eps[0]).max() / np.abs(eps).max()),
        }
    return found


def _product(dtype: str) -> Callable[[], Any]:
    a = jnp.ones((PRODUCT, PRODUCT), dtype)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    return lambda: multiply(a)


def _cpu_seconds(run: Callable[[], Any]) -> float:
    began = time.process_time()
    jax.block_until_ready(run())
    return time.process_time() - began


def _torch(sizes: UNetConfig, params: Any) -> Any:
    # x [1, h, w, C], texts, timestep -> what computes eps [3, h, w, C] of these weights; None
    # where it cannot be had.
    try:
        import diffusers
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    network = diffusers.UNet2DConditionModel.from_config(unet_json(sizes)).eval()
    tensors = {
        parts.torch_name(path): torch.tensor(parts.to_torch(np.asarray(value), path))
        for path, value in files.flat(params).items()
    }
    network.load_state_dict(tensors)

    def given(x: np.ndarray, texts: np.ndarray, level: int) -> Callable[[], np.ndarray]:
        first = torch.tensor(x.transpose(0, 3, 1, 2)).repeat(len(texts), 1, 1, 1)
        words = torch.tensor(texts)

        def run() -> np.ndarray:
            with torch.no_grad():
                return network(first, level, words).sample.numpy().transpose(0, 2, 3, 1)

        return run

    return given


def _table(count: int, records: list[dict[str, Any]]) -> Table:
    def of_torch(name: str) -> Callable[[dict[str, Any]], str]:
        def shown(record: dict[str, Any]) -> str:
            torch = record["torch"]
            if not isinstance(torch, dict):
                return "–"
            if name != "times":
                return f"{torch[name]:.3g}"
            ratio = torch["times"]
            return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"

        return shown

    def planned(record: dict[str, Any]) -> str:
        size = record["planned_bytes"]
        return "–" if size is None else f"{size / 2**30:.2f}"

    return Table.of(
        f"a step of three predictions, one image, {count:,} parameters,"
        f" {jax.devices()[0].device_kind}",
        records,
        {
            "latents": lambda r: f"{r['side']}x{r['side']}",
            "type": "dtype",
            "s": lambda r: f"{r['seconds']:.3g}",
            "CPU s": lambda r: f"{r['cpu_seconds']:.3g}",
            "GiB besides weights": planned,
            "share of the product's peak %": lambda r: f"{100 * r['share_of_peak']:.0f}",
            "torch s": of_torch("seconds"),
            "torch CPU s": of_torch("cpu_seconds"),
            "torch / ours [quartiles]": of_torch("times"),
        },
    )
