"""Images written for other programs, and the classes that people name."""

from __future__ import annotations

import csv
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dng_jax import InputError, data, metrics, posterior
from dng_jax.errors import some_classes
from dng_jax.experiments import saving
from dng_jax.experiments.classes import class_indices, class_title
from dng_jax.experiments.saving import Labelled


def test_seeds_keep_their_64_bits_beside_small_ones(tmp_path):
    x = np.zeros((1, 2, 2, 1))
    parts = [Labelled(x, np.array([0]), seed) for seed in (1, 2**64 - 1)]
    saving.save(tmp_path, "np=1", parts, "npz")
    with np.load(tmp_path / "np=1.npz") as stored:
        assert stored["seeds"].tolist() == [1, 2**64 - 1]


def test_pixels_come_back_from_the_scale_of_the_library():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    back = data.to_pixels(data.to_unit(pixels))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, pixels)
    np.testing.assert_array_equal(
        data.to_pixels([-7.0, -1.0, 0.0, 1.0, 7.0]), [0, 0, 128, 255, 255]
    )


def test_a_calibrations_path_makes_no_name_too_long_and_two_make_two():
    folders = ("/data/" + "deep/" * 60, "runs/cal/")
    rules = [f"dng:pair=5,calibration={folder}c.json" for folder in folders]
    names = [saving.file_name(f"interval(0.1,5,{rule})") for rule in rules]
    assert re.fullmatch(r"interval-0\.1,5,dng-pair=5,calibration=c-[0-9a-f]{8}", names[0]), names
    assert names[0] != names[1]
    assert saving.file_name("dng:pair,calibration=bundled") == "dng-pair,calibration=bundled"
    long = [saving.file_name("é" * 300 + end) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(name.encode()) <= saving.LONGEST for name in long)


@pytest.mark.parametrize("kind", saving.KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_read_back_with_their_labels_and_seeds(tmp_path, kind, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), np.uint8)
    x = data.to_unit(pixels)
    parts = [Labelled(x[:3], np.array([7, 8, 9]), 0), Labelled(x[3:], np.array([1, 2]), 4)]
    saving.save(tmp_path, "dng:pair=5,tau=0.2", parts, kind)
    name = tmp_path / "dng-pair=5,tau=0.2"
    if kind == "npz":
        with np.load(f"{name}.npz") as stored:
            images, labels, seeds = (stored[n] for n in ("images", "labels", "seeds"))
    else:
        rows = list(csv.DictReader((name / "labels.csv").open()))
        labels, seeds = ([int(r[n]) for r in rows] for n in ("label", "seed"))
        read = [np.asarray(Image.open(name / r["file"])) for r in rows]
        images = np.stack(read).reshape(pixels.shape)
        assert {p.name for p in name.iterdir()} == {"labels.csv", *(r["file"] for r in rows)}
    np.testing.assert_array_equal(images, pixels)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(labels, [7, 8, 9, 1, 2])
    np.testing.assert_array_equal(seeds, [0, 0, 0, 4, 4])


def test_what_cannot_be_saved_is_refused():
    with pytest.raises(InputError, match="a PNG has 1 or 3 channels, the images 2"):
        saving.check("png", 2)
    saving.check("npz", 2)
    with pytest.raises(InputError, match="unknown kind of --save-images 'gif'"):
        saving.check("gif", 1)


NAMES = ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9")  # as a folder lists them
FOLDERS = data.Info("folders", 11, NAMES, (8, 8, 1))


def test_a_word_is_a_name_before_it_is_a_number():
    assert class_indices(["10"], FOLDERS) == (2,)
    assert class_indices(["2"], FOLDERS) == (3,)
    assert class_indices([2], FOLDERS) == (2,)  # an integer is a number
    cats = FOLDERS._replace(class_names=("cat", *NAMES[1:]))
    assert class_indices([np.int64(2), "cat"], cats) == (0, 2)
    birds = data.Info("birds", 3, ("hen", "owl", "tit"), (8, 8, 1))
    assert class_indices(["2", "hen"], birds) == (0, 2)


def test_titles_say_name_and_number_where_they_differ():
    assert class_title(2, FOLDERS) == 'class 2, "10"'
    assert class_title(1, FOLDERS) == "1"


def test_a_name_of_two_classes_is_refused():
    twice = data.Info("twice", 3, ("a", "b", "a"), (8, 8, 1))
    with pytest.raises(InputError, match="classes 0 and 2 are both called 'a'"):
        class_indices(["a"], twice)
    assert class_indices([2], twice) == (2,)


@pytest.mark.parametrize("odd", [0.7, 1.0, True, np.float32(2), jnp.float32(0.7), None, "x"])
def test_a_class_is_a_whole_number_wherever_one_is_taken(odd):
    takes = [
        lambda: some_classes([odd], 3),
        lambda: posterior.classes(3, [odd]),
        lambda: metrics.tradeoff.curves({"np": [np.zeros((1, 4), int)]}, [[odd]], 3, {"np": [1.0]}),
    ]
    if not isinstance(odd, str):
        takes.append(lambda: class_indices([odd], FOLDERS))
    for take in takes:
        with pytest.raises(InputError, match="a class is given by a whole number"):
            take()


def test_whole_numbers_of_every_library_are_classes():
    assert some_classes([np.uint8(1), jnp.int32(0), 1], 3) == (0, 1)
