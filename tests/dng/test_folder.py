"""Images of one's own: what is read, which images are held out, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dng_jax import data
from dng_jax.errors import InputError
from dng_jax.experiments.classes import class_indices


def fill(root, names=("a", "b"), count=20, shape=(6, 6, 3)):
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            save(root / name / f"{i}.png", np.random.default_rng([k, i]).integers(0, 256, shape))
    return f"folder:{root}"


def save(path, pixels, **options):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def test_splits_are_disjoint_whole_and_stay_when_an_image_is_added(tmp_path):
    name = fill(tmp_path)
    train, test, both = (data.load(name, split)[0] for split in ("train", "test", "all"))
    assert both.shape == (40, 6, 6, 3)
    assert both.dtype == np.uint8
    assert 0 < len(test) < len(train)
    held = {image.tobytes() for image in test}
    assert not held & {image.tobytes() for image in train}
    save(tmp_path / "a" / "0-more.png", np.zeros((6, 6, 3)))
    kept = {image.tobytes() for image in data.load(name, "test")[0]}
    assert held <= kept
    assert len(kept - held) <= 1


def test_exact_names_win_over_numbers(tmp_path):
    info = data.load(fill(tmp_path, ("10", "2", "größe 1", "1")))[2]
    assert info.class_names == ("1", "10", "2", "größe 1")
    assert class_indices(["1", "größe 1"], info) == (0, 3)


def test_folders_train_and_test_are_the_splits(tmp_path):
    fill(tmp_path / "train", count=3, shape=(4, 4))
    fill(tmp_path / "test", count=2, shape=(4, 4))
    name = f"folder:{tmp_path}"
    assert data.load(name, "train")[0].shape == (6, 4, 4, 1)
    assert data.load(name, "test")[1].tolist() == [0, 0, 1, 1]


def test_a_size_resizes_and_crops(tmp_path):
    name = fill(tmp_path)
    save(tmp_path / "b" / "wide.jpg", np.zeros((30, 50, 3)))
    assert data.load(f"{name}@8")[0].shape == (41, 8, 8, 3)


SPOILT = {
    "differ in size": lambda path: save(path, np.zeros((7, 6, 3))),
    "is grey": lambda path: save(path, np.zeros((6, 6))),
    "mode RGBA": lambda path: save(path, np.zeros((6, 6, 4))),
    "mode I;16": lambda path: Image.fromarray(np.zeros((6, 6), np.uint16)).save(path),
    "no PNG": lambda path: path.write_bytes(path.with_name("0.png").read_bytes()[:60]),
    "million pixels": lambda path: Image.new("1", (20_000, 10_000)).save(path),
    "cannot be read": lambda path: path.symlink_to(path),
    "animated": lambda path: Image.new("RGB", (6, 6)).save(
        path, save_all=True, append_images=[Image.new("RGB", (6, 6), "red")]
    ),
}


@pytest.mark.parametrize("said", SPOILT)
def test_an_image_that_does_not_do_is_named(tmp_path, said):
    name = fill(tmp_path)
    SPOILT[said](tmp_path / "b" / "odd.png")
    with pytest.raises(InputError, match=said) as error:
        data.load(name)
    assert "odd.png" in str(error.value)


def test_folders_that_are_no_classification_are_refused(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        data.load(f"folder:{tmp_path / 'none'}")
    name = fill(tmp_path, ("a",))
    with pytest.raises(InputError, match="at least two"):
        data.load(name)
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="class 'b' has no image"):
        data.load(name)


def test_large_images_need_a_size(tmp_path):
    with pytest.raises(InputError, match="@32"):
        data.load(fill(tmp_path, count=1, shape=(65, 65)))
