"""The saved states of a training run: Orbax's CheckpointManager (v0) behind one file.

    FOLDER/1000/state     every leaf of the TrainState under its path ("ema/Conv3_0/kernel")
    FOLDER/1000/about     JSON: the network's description, the mean training loss since the save
                          before, facts of the job (seconds so far), checksums
    FOLDER/unreadable/    states found damaged, moved out of the way, never deleted

Saving is asynchronous: arrays are copied to the host, then written while training goes on. A state
appears by a rename, whole or not at all, and disappears by a rename before it is deleted, so that
kill -9 at any moment leaves only states that can be read. Kept: the last two, and the best by loss.

Restoring asks for shapes, dtypes and shardings of the present mesh alone: a state saved on eight
devices comes back on one, bit for bit, the typed key included. The files' own checks find cut and
missing pieces, but not altered numbers; so every leaf, as 32-bit words w, has a checksum

    sum_i (2 i + 1) w_i  mod 2^32,

an integer, hence the same for every layout over devices, and any one altered word changes it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from dng_jax import disk
from dng_jax.errors import InputError, difference
from dng_jax.training.optimiser import TrainState

KEEP_LAST = 2  # the one before the newest is the way out when the newest is damaged
_TRASH, _UNREADABLE = "deleted", "unreadable"
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # a piece is missing, or not what it was
# Status codes by which C++ reports faults of the machine, not of the file.
_PASSING = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "PERMISSION_DENIED")


class Checkpoints:
    """The saved states of one run, to be used as a context and by all processes alike.

    folder: theirs alone, made when missing. network: plain JSON values (`nets.describe`), compared
    before anything is restored. keep_best: how many of the lowest loss to keep besides the last
    two. report: called with one line for a state that cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        network: Mapping[str, Any],
        *,
        keep_best: int = 1,
        report: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.network, self.report = Path(folder).resolve(), dict(network), report
        self._losses: dict[int, float] = {}
        _quieten()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_LastAndBest(self._losses, keep_best),
            cleanup_tmp_directories=True,
            todelete_subdir=_TRASH,
            # Or threads that wait for a folder keep a failed job from ending for five minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        with disk_errors("open", self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "about": ocp.JsonCheckpointHandler(),
                },
            )
            self._empty_trash()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, error, trace) -> None:
        # The save under way when something else went wrong is a good one: let it finish.
        try:
            with disk_errors("finish", self.folder):
                self._manager.close()
                self._empty_trash()
        except Exception:
            if error is None:
                raise

    def steps(self) -> list[int]:
        """Steps of the states kept, rising."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, loss: float, facts: Mapping[str, Any] | None = None) -> None:
        """Begins to write the state under its step; raises InputError where the disk refuses.

        loss: mean training loss since the save before; infinite: not to be compared, so never the
        best. A failure of the save before, which is noticed late, is raised here too; it leaves the
        states before it as they were.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arrays = _flatten(state)
        about = {
            "network": self.network,
            "loss": float(loss),
            "facts": dict(facts or {}),
            "leaves": _shapes(arrays),
            "checksums": np.asarray(_checksums(list(arrays.values()))).tolist(),
        }
        about["digest"] = _digest(about)
        with disk_errors(f"save step {step}", self.folder):
            self._manager.wait_until_finished()
            self._empty_trash()
            self._losses[step] = float(loss)
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)
            )
            self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Returns when everything is on the disk; raises InputError where it is not."""
        with disk_errors("save", self.folder):
            self._manager.wait_until_finished()

    def restore(self, like: TrainState, *, best: bool = False) -> tuple[TrainState, dict] | None:
        """The newest state that can be read (best: of the lowest loss), and its facts; or None.

        like: arrays, of which only shape, dtype and sharding are used. A state that cannot be read
        is reported and moved to `unreadable`. Raises InputError for a state of another network or
        optimiser, and where there are states but none can be read. A fault of the machine (no
        memory, a disk that does not answer) is raised as it is and moves nothing.
        """
        self.wait()
        if not self.steps():
            return None
        for step in reversed(self.steps()):
            try:
                self._losses[step] = float(self._about(step)["loss"])
            except Exception as error:
                self._put_aside(step, error)
        order = self.steps()
        if best:
            order.sort(key=lambda step: -self._losses[step])
        for step in reversed(order):
            about = self._about(step)
            if about["network"] != self.network:
                raise InputError(
                    f"{self.folder} holds states of another network"
                    f" ({difference(about['network'], self.network)}):"
                    " resume with the options it was started with, or choose another --out"
                )
            stored, ours = about["leaves"], _shapes(_flatten(like))
            if stored != ours:
                # The first entry is the type, the others are the shape.
                alike = {n: s[1:] for n, s in stored.items()} == {n: s[1:] for n, s in ours.items()}
                name = next((n for n in ours if stored.get(n) != ours[n]), "")
                if alike:
                    raise InputError(
                        f"{self.folder} holds states of other number types ({name} is"
                        f" {stored[name][0]}, here {ours[name][0]}): resume with JAX_ENABLE_X64 as"
                        " it was when the run was started, or choose another --out"
                    )
                raise InputError(
                    f"{self.folder} holds states of another optimiser or version of this library:"
                    " resume with the one it was started with, or choose another --out"
                )
            try:
                return self._state(step, like, about["checksums"]), about["facts"]
            except Exception as error:
                self._put_aside(step, error)
        raise InputError(
            f"no state in {self.folder} can be read: begin again with another --out, or copy the"
            " states again"
        )

    def _about(self, step: int) -> dict:
        items = ocp.args.Composite(about=ocp.args.JsonRestore())
        about = self._manager.restore(step, args=items)["about"]
        if about["digest"] != _digest(about):
            raise ValueError("its description was altered")
        return about

    def _state(self, step: int, like: TrainState, checksums: list[int]) -> TrainState:
        wanted = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _flatten(like).items()
        }
        items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        arrays = self._manager.restore(step, args=items)["state"]
        found = np.asarray(_checksums([arrays[name] for name in wanted])).tolist()
        for name, ours, theirs in zip(wanted, found, checksums, strict=True):
            if ours != theirs:
                raise ValueError(f"the numbers of {name} were altered")
        leaves, structure = jax.tree.flatten_with_path(like)
        restored = [
            jax.random.wrap_key_data(arrays[_name(path)], impl=jax.random.key_impl(leaf))
            if _is_key(leaf)
            else arrays[_name(path)]
            for path, leaf in leaves
        ]
        return jax.tree.unflatten(structure, restored)

    def _put_aside(self, step: int, error: Exception) -> None:
        if not _is_damage(error):
            raise error
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        self.report(f"the state of step {step} cannot be read ({reason}): using the one before")
        if jax.process_index() == 0:
            target = self.folder / _UNREADABLE / str(step)
            while target.exists():
                target = target.with_name(target.name + "-again")
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"unreadable {step}")
        self._manager.reload()

    def _empty_trash(self) -> None:
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / _TRASH, ignore_errors=True)


def disk_errors(what: str, folder: Path) -> AbstractContextManager[None]:
    """Turns what a disk refuses, inside, into an InputError: cannot WHAT in FOLDER."""
    otherwise = "then continue with --resume; the states saved before are intact"
    return disk.refused(f"{what} in {folder}", otherwise)


class _LastAndBest(ocp.checkpoint_managers.PreservationPolicy):
    # Orbax's own BestN ranks by a file of metrics beside the state, which it reads when it opens
    # the folder: a damaged one could not be put aside.
    def __init__(self, losses: dict[int, float], keep_best: int) -> None:
        self.losses, self.keep_best = losses, keep_best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = sorted(c.step for c in checkpoints)
        compared = (s for s in steps if self.losses.get(s, math.inf) < math.inf)
        best = sorted(compared, key=self.losses.__getitem__)
        kept = {*steps[-KEEP_LAST:], *best[: self.keep_best]}
        return [c.step in kept for c in checkpoints]


def _is_damage(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return False
    if isinstance(error, OSError) and error.errno not in (None, *_DAMAGE):
        return False
    if any(code in str(error) for code in _PASSING):
        return False
    return error.__cause__ is None or _is_damage(error.__cause__)


@functools.cache
def _quieten() -> None:
    # Of one failed save, each of its hundreds of writes logs a traceback, some of them later;
    # the error itself comes up anyway. Done once and never undone, because of those later ones.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def filtered(error):
        if not (error.exc_type is RuntimeError and str(error.exc_value) == "Event loop is closed"):
            hook(error)

    sys.unraisablehook = filtered


def _flatten(state: TrainState) -> dict[str, jax.Array]:
    return {
        _name(path): jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for path, leaf in jax.tree.leaves_with_path(state)
    }


@jax.jit
def _checksums(leaves: list[jax.Array]) -> jax.Array:
    def one(leaf):
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(-1)
        return jnp.sum(words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1))

    return jnp.stack([one(leaf) for leaf in leaves])


def _digest(about: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in about.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _shapes(arrays: Mapping[str, jax.Array]) -> dict[str, list]:
    return {name: [leaf.dtype.name, *leaf.shape] for name, leaf in arrays.items()}


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
