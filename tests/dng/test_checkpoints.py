"""Saved states: bit for bit, on any number of devices; damaged, foreign, refused by the disk."""

import errno
import math
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dng_jax import training
from dng_jax.errors import InputError
from dng_jax.training import checkpoints
from dng_jax.training.checkpoints import Checkpoints

NETWORK = {"kind": "unet", "channels": 8, "multipliers": [1, 2]}


def make(step, width=3):
    """A state with an optimiser's nested tuples, in which nothing is zero.

    Random bits cannot be compressed: they lie in files of their own, byte for byte.
    """
    bits = np.random.default_rng(step).integers(1, 2**31 - 2**24, (200, width), np.uint32)
    params = {"Dense_0": {"kernel": jnp.asarray(bits.view(np.float32))}}
    optimiser = training.make_optimiser(10, 1e-3, 2)
    moments = jax.tree.map(lambda leaf: leaf + step, optimiser.init(params))
    ema = jax.tree.map(lambda leaf: leaf / 3, params)
    return training.TrainState(jnp.int32(step), params, ema, moments, jax.random.key(step))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    a, b = (jax.tree.leaves(s._replace(key=jax.random.key_data(s.key))) for s in (a, b))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def folder(tmp_path):
    """States of steps 1 to 5, of which 2 had the lowest loss."""
    with Checkpoints(tmp_path / "states", NETWORK) as states:
        for step, loss in enumerate([0.5, 0.1, 0.4, 0.3, 0.2], start=1):
            states.save(make(step), loss, {"seconds": step / 2})
    return tmp_path / "states"


def test_the_last_two_and_the_best_are_kept_and_come_back(folder):
    with Checkpoints(folder, NETWORK) as states:
        assert states.steps() == [2, 4, 5]
        last, facts = states.restore(make(0))
        best, _ = states.restore(make(0), best=True)
        # What the losses were is known again after a restart: 2 stays the best, 4 goes.
        states.save(make(6), 0.6)
        states.wait()
        assert states.steps() == [2, 5, 6]
    same(last, make(5))
    same(best, make(2))
    assert facts == {"seconds": 2.5}
    with Checkpoints(folder, NETWORK) as states:
        states.restore(make(0))
        # Not to be compared, so never the best.
        states.save(make(7), math.inf)
        states.save(make(8), math.inf)
        states.save(make(9), math.inf)
        states.wait()
        assert states.steps() == [2, 8, 9]
        same(states.restore(make(0), best=True)[0], make(2))
    assert last.step.sharding.device_set == {jax.devices()[0]}


def test_nothing_saved_is_nothing_restored(tmp_path):
    with Checkpoints(tmp_path / "states", NETWORK) as states:
        assert states.restore(make(0)) is None


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


# Coroutines that Orbax leaves behind, when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut", "altered", "emptied", "gone", "description"])
def test_a_damaged_newest_state_is_reported_and_the_one_before_is_used(folder, damage, capfd):
    data = folder / "5" / "state"
    path = largest(data / "ocdbt.process_0" / "d")
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "cut":
        path.write_bytes(whole[:middle])
    elif damage == "altered":
        # The bytes of one stored number, found by what they are.
        number = np.asarray(make(5).ema["Dense_0"]["kernel"]).tobytes()
        for candidate in data.rglob("*"):
            content = candidate.read_bytes() if candidate.is_file() else b""
            if number[4:8] in content:
                candidate.write_bytes(content.replace(number[4:8], number[8:12]))
                found = True
        assert found
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "gone":
        shutil.rmtree(data / "ocdbt.process_0")
    else:
        (folder / "5" / "about" / "metadata").write_text('{"loss": 0.')
    reports = []
    with Checkpoints(folder, NETWORK, report=reports.append) as states:
        state, facts = states.restore(make(0))
        assert states.steps() == [2, 4]
        states.save(make(5), 0.2)  # the run comes by there again
    same(state, make(4))
    assert facts == {"seconds": 2.0}
    assert len(reports) == 1
    assert reports[0].startswith("the state of step 5 cannot be read")
    assert "\n" not in reports[0]
    assert (folder / "unreadable" / "5").is_dir()
    with Checkpoints(folder, NETWORK) as states:
        same(states.restore(make(0))[0], make(5))
    assert "Traceback" not in capfd.readouterr().err


def test_states_of_another_network_are_refused_and_stay(folder):
    other = NETWORK | {"channels": 16}
    with (
        pytest.raises(InputError, match=r"another network \(channels 8, not 16\)"),
        Checkpoints(folder, other) as states,
    ):
        states.restore(make(0, width=4))
    with Checkpoints(folder, NETWORK) as states:
        with pytest.raises(InputError, match="another optimiser or version"):
            states.restore(make(0, width=4))
        halves = jax.tree.map(
            lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, make(0)
        )
        with pytest.raises(InputError, match=r"is float32, here bfloat16\): resume with JAX_"):
            states.restore(halves)
        assert states.steps() == [2, 4, 5]


def test_where_every_state_is_damaged_the_run_does_not_begin_again_by_itself(folder):
    for step in (2, 4, 5):
        (folder / str(step) / "about" / "metadata").write_text("{")
    reports = []
    with (
        pytest.raises(InputError, match=r"no state in .* can be read: begin again with another"),
        Checkpoints(folder, NETWORK, report=reports.append) as states,
    ):
        states.restore(make(0))
    assert len(reports) == 3


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
    ],
    ids=["memory", "files", "device"],
)
def test_a_fault_of_the_machine_moves_no_state(folder, monkeypatch, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr(Checkpoints, "_state", fail)
    reports = []
    with Checkpoints(folder, NETWORK, report=reports.append) as states:
        with pytest.raises(type(fault)) as caught:
            states.restore(make(0))
        assert states.steps() == [2, 4, 5]
    assert caught.value is fault
    assert reports == []


def test_only_what_a_disk_refuses_is_reported_as_that(tmp_path):
    for number in (errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO):
        with (
            pytest.raises(InputError, match=f"cannot write in .*{os.strerror(number).lower()}"),
            checkpoints.disk_errors("write", tmp_path),
        ):
            raise OSError(number, os.strerror(number))
    with pytest.raises(FileNotFoundError), checkpoints.disk_errors("write", tmp_path):
        (tmp_path / "nothing").read_text()


def test_a_full_disk_is_one_sentence_and_harms_no_state(folder, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_, **__):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", refuse)
        with (
            pytest.raises(InputError, match=r"cannot save step 6 .*no space left on device"),
            Checkpoints(folder, NETWORK) as states,
        ):
            states.save(make(6), 0.1)

    # The same while writing in the background: it is noticed when that is waited for.
    async def refuse_late(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ocp.StandardCheckpointHandler, "async_save", refuse_late)
        with (
            pytest.raises(InputError, match=r"\(no space left on device\)"),
            Checkpoints(folder, NETWORK) as states,
        ):
            states.save(make(6), 0.1)
    with Checkpoints(folder, NETWORK) as states:
        assert states.steps() == [2, 4, 5]
        same(states.restore(make(0))[0], make(5))
