"""The pytorch suite of eval.bench: the twin computes the same, and each side has its own process.

Light at import, since processes that workers start import it too.
"""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from dng_jax.errors import InputError
from eval.bench.workers import Worker

NETWORKS = ("digits-heads", "digits-label", "mnist-heads", "cifar10-label", "cifar10")


def programs(answer):
    """A worker's programs; "end" ends its process."""
    if answer == "refused":
        raise InputError("refused in a sentence")
    facts = {"cores": len(os.sched_getaffinity(0)), "answer": answer, "process": os.getpid()}
    return {"sleep": lambda: time.sleep(0.1), "end": lambda: os._exit(3), "facts": facts}


def test_a_worker_is_a_process_held_to_its_cores_that_times_its_programs():
    mine = os.sched_getaffinity(0)
    with Worker("jax", 1, programs, 42) as worker:
        assert worker.facts["cores"] == 1
        assert worker.facts["answer"] == 42
        assert worker.facts["process"] != os.getpid()
        assert os.sched_getaffinity(0) == mine
        run = worker.run("sleep")
        assert run.seconds >= 0.1 > run.cpu_seconds
        assert 0 <= worker.idle_cpu_seconds < 0.1
        with pytest.raises(InputError, match=r"process of jax ended .* \(exit code 3\)"):
            worker.run("end")
    assert not worker.process.is_alive()


@pytest.mark.slow
def test_what_a_worker_refuses_is_raised_here():
    with pytest.raises(InputError, match=r"^refused in a sentence$"):
        Worker("jax", 1, programs, "refused")
    with pytest.raises(InputError, match=r"--threads 9999 is more than the \d+ cores there are"):
        Worker("jax", 9999, programs, 0)


def test_without_torch_the_suite_says_so_in_a_sentence(monkeypatch, tmp_path):
    from dng_jax.jobs.options import RunOptions
    from eval.bench import job as bench

    monkeypatch.setitem(sys.modules, "torch", None)
    config = bench.Config("pytorch", run=RunOptions(str(tmp_path / "b")))
    with pytest.raises(InputError, match="needs torch, which is not installed: pip install torch"):
        bench.main(config)
    with pytest.raises(InputError, match="unknown network 'mnist-small'"):
        bench.main(bench.Config("pytorch", networks=("mnist-small",)))
    with pytest.raises(InputError, match="unknown dtype 'float16'"):
        bench.main(bench.Config("pytorch", dtype="float16"))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_twin_predicts_what_the_network_does(name):
    torch = pytest.importorskip("torch")
    import jax
    import numpy as np

    from dng_jax.weights import files
    from eval.bench import jax_side, networks, torch_unet

    assert set(NETWORKS) == set(networks.SIZES)
    module, params = networks.load(name)
    given = jax_side.inputs(module.config, 2)
    ours = np.asarray(jax.jit(module.apply)({"params": files.nested(params)}, *given))
    x, *others = map(torch.tensor, given)
    with torch.inference_mode():
        twin = torch_unet.unet(module.config, params)(x.permute(0, 3, 1, 2), *others)
    theirs = np.moveaxis(twin.numpy(), -3, -1)
    assert ours.shape == theirs.shape
    assert np.abs(ours).max() > 1
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("name", ["digits-heads", "digits-label"])
def test_the_loop_draws_the_same_images_from_the_same_noise(name):
    torch = pytest.importorskip("torch")
    import jax
    import numpy as np

    from dng_jax import guidance, initial_noise, posterior, sample, sample_keys
    from eval.bench import jax_side, networks, torch_loop, torch_unet

    module, params = networks.load(name)
    # Half of a chain: at its end every posterior is as small as it may be.
    table = jax.tree.map(lambda column: column[:6], jax_side.table_of(12))
    keys = sample_keys(3, 8)
    shape = module.config.image_shape
    x = initial_noise(keys, shape, table)
    rule = guidance.dynamic_negative(posterior.pair(0.3))
    ours = sample(jax_side.denoiser(name), table, rule, keys, x)
    of_step = jax.vmap(lambda key: jax.random.normal(key, shape))
    fold = jax.vmap(jax.random.fold_in, (0, None))
    drawn = iter([of_step(fold(keys, step)) for step in range(6)])

    def chw(images):
        return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)

    predict = torch_loop.predictions([torch_unet.unet(module.config, params)])
    images, log_p = torch_loop.sample(predict, table, chw(x), 0.3, lambda _: chw(next(drawn)))
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), ours.x, atol=2e-4)
    np.testing.assert_allclose(log_p.numpy(), ours.state[:, 0], atol=2e-2)
    assert len(np.unique(log_p.numpy())) > 4  # it moved, and is not held at a bound


@pytest.mark.slow
def test_both_sides_are_timed_in_turn(tmp_path, capsys):
    pytest.importorskip("torch")
    from dng_jax.jobs.options import RunOptions
    from eval.bench import job as bench

    run = RunOptions(str(tmp_path / "b"))
    config = bench.Config(
        "pytorch", 2, 2, pairs=1, networks=("digits-label",), threads=(1,), run=run
    )
    found = bench.main(config)["results"]["digits-label"]
    assert json.loads((tmp_path / "b" / "results.json").read_text())["seconds"] > 0
    assert [record["program"] for record in found["records"]] == ["forward", "loop"]
    assert all(value < 1e-5 for value in found["difference"].values())
    forward, loop = found["records"]
    # A step asks the network of both labels.
    assert loop["operations"] == pytest.approx(2 * 2 * forward["operations"], rel=0.01)
    for record in found["records"]:
        assert record["times"]["eager"].median > 0
        assert record["seconds"].keys() - {"compiled"} == {"ours", "eager"}
    assert "digits-label: 556,420 parameters, 2 images, 2 steps" in capsys.readouterr().out


def test_layers_are_counted_as_they_stand_in_the_network():
    from eval.bench import kernels, networks

    counts = kernels.layers(networks.load("digits-label")[0], 3)
    by_kind = dict.fromkeys(kernels.OURS, 0)
    for layer, count in counts.items():
        by_kind[layer.kind] += count
    # 7 residual blocks of two convolutions and two norms, one of each at either end
    assert by_kind["Conv3"] == 2 * 7 + 2
    assert by_kind["GroupNorm"] == 2 * 7 + 1
    assert by_kind["Conv"] == by_kind["Attention"] == 0
    assert counts[kernels.Layer("Conv3", (3, 4, 4, 32), 32)] >= 3


def test_a_layer_alone_is_the_same_in_torch():
    torch = pytest.importorskip("torch")
    import jax
    import numpy as np

    from dng_jax.weights import files, parts
    from eval.bench import kernels, torch_kernels

    for kind in kernels.OURS:
        outputs = 8 if kind in ("Conv3", "Dense") else 16
        layer = kernels.Layer(kind, (2, 4, 4, 16), outputs)
        x, one = kernels.example(layer), kernels.OURS[kind](outputs)
        params = one.init(jax.random.key(0), x)["params"]
        ours = one.apply({"params": params}, x)
        twin = torch_kernels.made(layer)
        named = {
            parts.torch_name(path): torch.tensor(parts.to_torch(np.asarray(value), path))
            for path, value in files.flat(params).items()
        }
        (twin[1] if kind == "Conv" else twin).load_state_dict(named)
        with torch.inference_mode():
            theirs = twin(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)
