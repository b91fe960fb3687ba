"""How a job starts: processes, devices, the mesh, the run's folder, arrays on the devices.

One mesh axis, "batch", over all devices of all processes. Parameters and the data set (uint8) lie
whole on every device; batches are split. Every process runs the same program on the same data, and
process 0 alone writes, except for saved states, which Orbax writes together.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dng_jax import data, nets, sweeps, training, weights
from dng_jax.errors import InputError
from dng_jax.jobs import processes, runs
from dng_jax.sampling import root_key
from dng_jax.training import TrainState
from dng_jax.training.jobs import ClassifierJob, Job

from . import images
from .options import Options
from .steps import dtype_of, optimiser_of, precision_of

_CALL = {"cpu": 1}  # steps per compiled call; see dng_jax.training.several
_CALL_ACCELERATOR = 25
_ORIGIN = ("command", "commit", "steps", "images", "seconds")


@dataclass(frozen=True)
class Init:
    """A model file or a folder to start from. facts: name, sha256 and what the file says of its
    origin."""

    path: Path
    params: Any
    facts: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where a job runs. whole, split: shardings of parameters and of batches."""

    devices: list[jax.Device]
    whole: NamedSharding
    split: NamedSharding

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        return self.devices[0].platform

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return jax.process_index() == 0

    def show(self, text: str) -> None:
        """Prints, once for all processes."""
        if self.first:
            print(text, flush=True)

    def put(self, tree: Any) -> Any:
        """The arrays, equal in every process, whole on every device; typed keys pass through."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.whole)

        def one(leaf):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                impl = jax.random.key_impl(leaf)
                return jax.random.wrap_key_data(one(jax.random.key_data(leaf)), impl=impl)
            array = np.asarray(leaf)
            return jax.make_array_from_callback(array.shape, self.whole, lambda i: array[i])

        return jax.tree.map(one, tree)

    def dtype(self, precision: str) -> Any:
        """What networks compute in: None for float32; auto is bfloat16 on GPU and TPU."""
        return dtype_of(precision_of(precision, self.platform))

    def steps_per_call(self, wanted: int | None) -> int:
        """The option, or what suits the platform."""
        return wanted or _CALL.get(self.platform, _CALL_ACCELERATOR)


@dataclass(frozen=True)
class Run:
    """A prepared run. network: its description, plain JSON values; arrays: images and labels on the
    devices; state: fresh, or of --init."""

    name: str
    options: Options
    out: Path
    place: Place
    module: Any
    network: dict[str, Any]
    optimiser: Any
    state: TrainState
    arrays: tuple[jax.Array, jax.Array]

    @property
    def job(self) -> Job:
        """What is trained."""
        return self.options.job


def place(options: Options) -> Place:
    """Joins the other processes, takes all devices; InputError where there are none."""
    options.processes.join()
    options.data.use()
    found = options.devices.select()
    mesh = sweeps.mesh(found)
    return Place(found, NamedSharding(mesh, P()), NamedSharding(mesh, P("batch")))


def prepare(name: str, found: images.Images, place: Place, network: Callable[..., Any]) -> Run:
    """What the jobs of one network have in common before their steps differ; opens the folder.

    name: of the job, for commands; found: images of the whole split, of which the job's examples
    are taken; network: nets.UNet or nets.Classifier. InputError for a folder or an --init that does
    not do.
    """
    options, out = found.options, found.options.folder
    job = options.job
    module = network(job.network, place.dtype(job.precision))
    optimiser = optimiser_of(job)
    used = found.images[: job.examples]
    fresh = partial(fresh_state, module, optimiser, job, used)
    init = read_init(options.init, fresh, job.network)
    open_run(out, job, options.resume, place, init, found.info)
    state = first_state(fresh, init, out, place)
    arrays = used, found.labels[: job.examples]
    described = nets.describe(module)
    return Run(name, options, out, place, module, described, optimiser, state, place.put(arrays))


def phase(
    name: str,
    options: Options,
    out: Path,
    place: Place,
    module: Any,
    kind: str,
    arrays: tuple[Any, Any],
    ready: Callable[[TrainState], TrainState] = lambda state: state,
) -> Run:
    """One of several trainings of a run that is open, in a folder of its own.

    kind: what the module is called in its description; ready: what is done to the fresh state.
    """
    job, optimiser = options.job, optimiser_of(options.job)
    described = {"kind": kind, **job.network.to_dict()}
    state = ready(training.init_state(module, optimiser, root_key(job.seed)))
    arrays = place.put(arrays)
    return Run(name, options, out, place, module, described, optimiser, place.put(state), arrays)


def fresh_state(module: Any, optimiser: Any, job: Job, pixels: np.ndarray) -> TrainState:
    """The state of step 0, by the job's seed and, with batch normalisation, its pixels uint8
    [N, H, W, C]."""
    state = training.init_state(module, optimiser, root_key(job.seed))
    batch = isinstance(job, ClassifierJob) and job.network.norm == "batch"
    return training.whitened(state, pixels) if batch else state


def read_init(path: Path | None, fresh: Callable[[], TrainState], network: Any) -> Init | None:
    """The weights of a model file or a folder of diffusers, for a network of this configuration.

    InputError where it is none, where nothing in it fits `fresh`, or where its embedding of the
    noise level, or what it predicts, is another: its weights would fit, and mean nothing.
    """
    if path is None:
        return None
    folder = os.path.isdir(path)
    read: Callable = weights.diffusers.load_folder if folder else weights.load
    module, params, _ = read(path)
    if not weights.overlay(jax.eval_shape(fresh).params, params)[1]:
        raise InputError(f"{path} has no weights of this network: leave out --init")
    for field in ("embedding", "parameterisation"):
        stored, ours = (getattr(config, field, None) for config in (module.config, network))
        if None not in (stored, ours) and stored != ours:
            raise InputError(
                f"{path} has the {field} {stored}, this network {ours}: add --network.{field}"
                f" {stored}"
            )
    files = weights.diffusers.weights_files(path) if folder else (path,)
    text = weights.tensors.read_metadata(files[0])
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    facts = {"file": path.absolute().name, "sha256": digest}
    return Init(path, params, facts | {name: text[name] for name in _ORIGIN if name in text})


def first_state(
    fresh: Callable[[], TrainState], init: Init | None, out: Path, place: Place
) -> TrainState:
    """A fresh state on the devices, with the weights of init wherever names and shapes agree.

    Where the run has saved states, these take its place: init is not used.
    """
    state = fresh()
    if init is not None and not _has_states(out):
        params, taken, total = weights.overlay(state.params, init.params)
        place.show(f"{taken:,} of {total:,} parameters from {init.path}")
        state = state._replace(params=params, ema=params)
    return place.put(state)


def open_run(
    out: Path,
    job: Job,
    resume: bool,
    place: Place,
    init: Init | None = None,
    info: data.Info | None = None,
    option: str = "--init",
    always: bool = False,
) -> None:
    """Makes the run's folder, or finds it again; never writes over another run.

    run.json keeps the facts of init, and of images of one's own: a run goes on from the weights it
    was started with, on the images that it was trained on. option: that init came with, and by
    whose name run.json has it; always: whether it is needed again where the run has saved states.
    """

    def opened() -> None:
        if resume and not (out / "run.json").exists():
            raise InputError(f"{out} holds no run to resume: leave out --resume")
        facts = {
            option[2:]: _same_init(out, init, option, always) if resume else init and init.facts
        }
        recorded = job
        if info is not None:
            recorded = images.recorded(job, info, out, resume)
            facts["data"] = info.facts
        runs.new_run_folder(out, recorded, overwrite=resume, option="--resume", facts=facts)

    processes.by_the_first(opened)


def _same_init(out: Path, init: Init | None, option: str, always: bool) -> dict[str, str] | None:
    """What run.json has of the option; InputError where it was another, or is needed again."""
    stored = (runs.read_run(out) or {}).get(option[2:])
    if stored is not None and not _is_init(stored):
        raise InputError(
            f"{out}/run.json does not say what the run started from: choose another --out"
        )
    if init is None:
        if stored and (always or not _has_states(out)):
            why = "" if always else " and has no saved state yet"
            raise InputError(f"{out} was to start from {stored['file']}{why}: give {option} again")
    elif stored is None:
        raise InputError(
            f"{out} was started without {option}: leave it out, or choose another --out"
        )
    elif stored["sha256"] != init.facts["sha256"]:
        remedy = "name the same" if always else f"leave out {option}"
        raise InputError(
            f"{out} was started from another {stored['file']} (sha256 {stored['sha256'][:12]}, not"
            f" {init.facts['sha256'][:12]}): {remedy}, or choose another --out"
        )
    return stored


def _is_init(stored: Any) -> bool:
    return isinstance(stored, dict) and all(
        isinstance(stored.get(name), str) for name in ("file", "sha256")
    )


def _has_states(out: Path) -> bool:
    return any(path.name.isdigit() for path in (out / "states").glob("*"))
