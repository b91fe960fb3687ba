"""The text-to-image job on little data: what it writes, how it goes on, what it refuses."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest

import train.text_to_image.encoding
import train.text_to_image.job
from dng_jax import disk
from dng_jax.errors import InputError
from dng_jax.jobs import cli
from dng_jax.sampling import root_key
from dng_jax.stable_diffusion import pipeline
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.training import autoencoder, presets, text_to_image
from tests.jobs.switches import TEXT_TO_IMAGE
from train import logs, options

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = options.parse_text_to_image([*TEXT_TO_IMAGE, "--sample-every", "0"])


def small(out, **changes):
    return dataclasses.replace(SMALL, out=out, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_compilation):
    """A run that was never disturbed, with a sample grid."""
    pytest.importorskip("tokenizers")
    out = tmp_path_factory.mktemp("finished") / "run"
    path = train.text_to_image.job.run(small(out, sample_every=4, dtype="float16"))
    assert path == out / "model"
    return out


def params_of(folder):
    return jax.tree.map(np.asarray, dict(pipeline.load(folder / "model").params))


@pytest.mark.slow
def test_the_job_writes_what_it_says(finished):
    assert {p.name for p in finished.iterdir()} == {
        ".lock", "run.json", "metrics.jsonl", "tensorboard", "states", "samples", "model",
        "model.md", "autoencoder",
    }  # fmt: skip
    assert [line["step"] for line in logs.read(finished)] == [2, 4]
    (line,) = logs.read(finished / "autoencoder")
    assert line["step"] == 2
    assert {"loss", "rms", "kl"} <= line.keys()
    assert {"loss", "loss_low", "loss_middle", "loss_high"} <= logs.read(finished)[-1].keys()
    assert {p.name for p in (finished / "samples").iterdir()} == {"step-000004.png"}
    found = pipeline.load(finished / "model")
    stored = json.loads((finished / "model" / "vae" / "config.json").read_text())
    assert stored["scaling_factor"] == found.vae.config.scaling_factor != 1
    card = (finished / "model.md").read_text()
    for fact in (
        "4 steps, 32 images seen", "Autoencoder, text encoder and U-Net", "reconstruction rms",
        f"| scaling factor | {found.vae.config.scaling_factor:g} |", "samples/step-000004.png",
        "the first 1,500 images, 8x16x1", "python -m train.text_to_image --preset digit-scenes",
    ):  # fmt: skip
        assert fact in card


@pytest.mark.slow
@pytest.mark.parametrize("where", ["autoencoder", "networks"])
def test_a_signal_in_either_part_saves_and_resume_ends_the_same(
    finished, tmp_path, capsys, monkeypatch, where
):
    home, name = {
        "autoencoder": (autoencoder, "make_autoencoder_step"),
        "networks": (text_to_image, "make_text_to_image_step"),
    }[where]
    make = getattr(home, name)

    def signalled(*arguments):
        step = make(*arguments)

        def run(state, *arrays):
            if int(state.step) == 0:
                signal.raise_signal(signal.SIGTERM)
            return step(state, *arrays)

        return run

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(home, name, signalled)
        assert cli.main(lambda: train.text_to_image.job.run(small(out))) is None
    assert "stopped by SIGTERM: step 1 of" in capsys.readouterr().out
    assert not (out / "model").exists()
    train.text_to_image.job.run(small(out, resume=True, dtype="float16"))
    jax.tree.map(np.testing.assert_array_equal, params_of(finished), params_of(out))


@pytest.mark.slow
def test_an_autoencoder_is_taken_as_it_is_and_kept_on_resume(finished, tmp_path):
    model, out = finished / "model", tmp_path / "run"
    usual = SMALL.base.autoencoder_steps  # what a command line that says nothing of it has
    job = dataclasses.replace(SMALL.job, autoencoder_steps=usual)
    taking = {"autoencoder": model, "dtype": "float16", "job": job}
    train.text_to_image.job.run(small(out, **taking))
    ours, theirs = params_of(out), params_of(finished)
    jax.tree.map(np.testing.assert_array_equal, ours["vae"], theirs["vae"])
    card = (out / "model.md").read_text()
    assert "--autoencoder model" in card
    assert "--init" not in card  # no such option: what is taken is the autoencoder alone
    assert disk.digest(model / "vae", "*.json", "*.safetensors")[:12] in card
    assert not (out / "autoencoder").exists()
    with pytest.raises(InputError, match="was to start from model: give --autoencoder again"):
        train.text_to_image.job.run(small(out, resume=True, job=job))
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "vae" / "note").write_text("no part of it")
    assert train.text_to_image.encoding.read(other, SMALL.job.network).facts["sha256"] in (
        (out / "run.json").read_text()
    )
    config = other / "vae" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(InputError, match="started from another model"):
        train.text_to_image.job.run(small(out, **taking | {"autoencoder": other}, resume=True))
    again = small(out, **taking, resume=True)
    assert train.text_to_image.job.run(again) == out / "model"
    sizes = dataclasses.replace(SMALL.job.network, autoencoder_layers=2)
    wrong = small(
        tmp_path / "x",
        autoencoder=model,
        job=dataclasses.replace(job, network=sizes),
    )
    with pytest.raises(InputError, match="an autoencoder of other sizes"):
        train.text_to_image.job.run(wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dataset", "mnist"), "unknown dataset of scenes 'mnist'"),
        (("--cells", "3"), "3 cells need --network.image-shape 8 24 1"),
        (("--cells", "7"), "--cells must be at most 6"),
        (("--autoencoder-steps", "0"), "--autoencoder-steps must be at least 1"),
        (("--autoencoder-learning-rate", "0"), "--autoencoder-learning-rate must be positive"),
        (("--autoencoder-kl", "-1"), "--autoencoder-kl must be at least 0"),
        (("--empty-captions", "1"), "--empty-captions must be at least 0 and below 1"),
        (("--init", "model.safetensors"), "--init names one network"),
        (("--autoencoder", "nowhere"), "nowhere has no model_index.json"),
        (("--autoencoder", "x", "--autoencoder-kl", "1"), "leave out --autoencoder-kl"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, words, said):
    chosen = options.parse_text_to_image(["--out", str(tmp_path / "run"), *words])
    with pytest.raises(InputError, match=said):
        train.text_to_image.job.run(chosen)
    assert not (tmp_path / "run").exists()


def test_presets_say_what_they_cost_and_fit_in_the_package():
    for name, make in presets.TEXT_TO_IMAGE.items():
        assert f"python -m train.text_to_image --preset {name}" in make.__doc__
        assert "cost" in make.__doc__.lower()
        job = presets.text_to_image(name)
        job.check()
        sizes = job.network

        def size(module):
            made = jax.eval_shape(module.init, root_key(0), *module.config.example())
            return sum(leaf.size for leaf in jax.tree.leaves(made))

        count = size(text_to_image.TextToImage(sizes, 554))
        count += size(AutoencoderKL(sizes.autoencoder()))
        assert 1_500_000 < count < 2_050_000  # 4.1 MB as float16, of 32 for all that is bundled
