"""The processes of a job, on one machine or many: the options that name them, and who joins whom.

    with config.processes.team() as team: ...   they share independent work (dng_jax.jobs.team)
    config.processes.join()                     they are one program of jax, before anything asks
                                                it for a device
    processes.by_the_first(do)                  of those that joined, what process 0 alone does

In a step of SLURM with several tasks each takes its number, and the address, from the variables of
the step. A process uses all devices that it sees. Of those that joined in a step each takes the GPU
of its local number, as jax has it, unless its tasks have GPUs of their own (--gpus-per-task): these
are numbered from 0 in every task.

jax is imported by the functions, so that a command line is parsed without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dng_jax.errors import InputError
from dng_jax.jobs import addresses
from dng_jax.jobs import team as teams
from dng_jax.jobs.coordinator import Coordinator
from dng_jax.jobs.worker import Worker

T = TypeVar("T")

_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class Place:
    """One of several processes: the address of process 0, how many there are, which this is, and
    whether a step of SLURM says so."""

    address: str
    count: int
    process: int
    by_slurm: bool = False


@dataclass(frozen=True)
class Processes:
    """Options of a job that several processes may share; they do not change what comes out (a field
    named `processes`)."""

    coordinator: str | None = None
    """HOST:PORT on which process 0 listens, for several processes; under SLURM it is found by
    itself."""
    num_processes: int | None = None
    """How many processes there are, at least 1; 1 in a step of SLURM: each task by itself."""
    process_id: int | None = None
    """Which of them this is, 0 to --num-processes - 1."""

    def team(self) -> teams.Team:
        """The processes that share a job's work, to be entered; InputError where the options make
        no sense."""
        place = self.place(os.environ)
        if place is None:
            return teams.ALONE
        if place.process == 0:
            return Coordinator(place.address, place.count)
        return Worker(place.address, place.count, place.process)

    def join(self) -> None:
        """Joins the others to one program of jax, where there are any; InputError where the options
        make no sense, or the others cannot be joined."""
        place = self.place(os.environ)
        if place is None:
            return
        import jax

        if not jax.distributed.is_initialized():
            join(place, devices_of_task(os.environ) if place.by_slurm else None)

    def place(self, environment: Mapping[str, str]) -> Place | None:
        """Which process this is, by the options or the variables of SLURM; None for one alone."""
        given = (self.coordinator, self.num_processes, self.process_id)
        if all(value is None for value in given):
            return _of_step(environment) if all(name in environment for name in _STEP) else None
        if given == (None, 1, None):
            return None
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            raise InputError(
                "--coordinator, --num-processes and --process-id belong together: give all three"
            )
        addresses.split(self.coordinator)
        if self.num_processes < 1 or not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"--process-id must be 0 to {self.num_processes - 1} for --num-processes"
                f" {self.num_processes}, got {self.process_id}"
            )
        if self.num_processes == 1:
            return None
        return Place(self.coordinator, self.num_processes, self.process_id)


def _of_step(environment: Mapping[str, str]) -> Place | None:
    # In an interactive step SLURM_NTASKS is that of the allocation.
    count = int(environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"]))
    process = int(environment["SLURM_PROCID"])
    return Place(addresses.of_step(environment), count, process, True) if count > 1 else None


def devices_of_task(environment: Mapping[str, str]) -> list[int]:
    """The GPUs, among those that it sees, of a task of SLURM that jax is to join."""
    own = "SLURM_GPUS_PER_TASK" in environment or "gpu" in environment.get(
        "SLURM_TRES_PER_TASK", ""
    )
    seen = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return list(range(len(seen))) if own and seen else [int(environment["SLURM_LOCALID"])]


def by_the_first(do: Callable[[], T]) -> T | None:
    """What process 0 gets from `do`; None in the others. InputError in all where it raises one."""
    import jax

    found, refused = None, None
    if jax.process_index() == 0:
        try:
            found = do()
        except InputError as error:
            refused = error
    if jax.process_count() > 1:
        import numpy as np
        from jax.experimental import multihost_utils

        # Or the others would wait for a process that has left.
        wrong = multihost_utils.broadcast_one_to_all(np.int32(refused is not None))
        if wrong and refused is None:
            refused = InputError("process 0 cannot go on: see its message")
    if refused is not None:
        raise refused
    return found


def join(place: Place, devices: list[int] | None) -> None:
    """jax.distributed.initialize as one of the processes, on these of the GPUs that it sees (None:
    all); InputError where the others cannot be joined."""
    import jax

    # Signals are the job's to handle, in a training for all processes alike.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    arguments: dict[str, Any] = {}
    if place.process == 0:
        addresses.bound(place.address).close()  # a sentence, where jax would only wait
        _, port = addresses.split(place.address)
        every = addresses.is_name(place.address)
        arguments["coordinator_bind_address"] = f"[::]:{port}" if every else place.address
        who = f"waiting for {place.count - 1} more"
    else:
        addresses.reach(place.address).close()
        who = "waiting for all processes"
    try:
        with addresses.telling(who):
            jax.distributed.initialize(
                coordinator_address=place.address,
                num_processes=place.count,
                process_id=place.process,
                local_device_ids=devices,
                # Under SLURM it would take the GPU of the task's local number for its only one.
                cluster_detection_method="deactivate",
                initialization_timeout=addresses.TIMEOUT,
                **arguments,
            )
    except RuntimeError as error:
        remedy = (
            "look in the step's output for a task that did not start, and let no other step of the"
            " job run beside it"
            if place.by_slurm
            else "check --coordinator, and that all --num-processes are running"
        )
        raise InputError(
            f"cannot join the other processes ({str(error).splitlines()[0]}): {remedy}"
        ) from error
