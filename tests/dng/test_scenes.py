"""Scenes of digits: prompts by enumeration, images by their parts."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from dng_jax import InputError, sampling
from dng_jax.scenes import images, prompts

ALLOWS = {
    "": lambda y: True,
    "even digits": lambda y: all(d % 2 == 0 for d in y),
    "odd digits": lambda y: all(d % 2 for d in y),
    "a four": lambda y: 4 in y,
    "an eight": lambda y: 8 in y,
    "even digits and a four": lambda y: all(d % 2 == 0 for d in y) and 4 in y,
    "Even digits,  a four": lambda y: all(d % 2 == 0 for d in y) and 4 in y,
    "a three, and a nine": lambda y: 3 in y and 9 in y,
    "even digits and a seven": lambda y: False,
}


@pytest.mark.parametrize("prompt", ALLOWS)
@pytest.mark.parametrize("cells", [1, 2, 3])
def test_a_prompt_allows_the_tuples_that_it_says(prompt, cells):
    found = prompts.tuples(prompt, cells)
    assert found.shape == (10,) * cells
    for y in itertools.product(range(10), repeat=cells):
        assert found[y] == ALLOWS[prompt](y), y


def test_shares_are_counted():
    assert prompts.share("a four", "even digits", 2) == pytest.approx(1 - 0.8**2)
    assert prompts.share("a four", "", 2) == pytest.approx(1 - 0.9**2)
    assert prompts.share("a seven", "even digits", 2) == 0
    with pytest.raises(InputError, match="no scene of 2 cells shows 'even digits, a seven'"):
        prompts.share("a four", "even digits, a seven", 2)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a fuor", "prompt 'a fuor': unknown phrase 'a fuor': did you mean 'a four'"),
        ("a cat", "choose from even digits, odd digits, a zero,"),
        ("even digits and", "unknown phrase"),
    ],
)
def test_words_that_are_not_known_are_named(prompt, said):
    with pytest.raises(InputError, match=said):
        prompts.tuples(prompt, 2)


@pytest.mark.parametrize("cells", [0, 7])
def test_a_scene_has_some_cells_and_not_too_many(cells):
    with pytest.raises(InputError, match=f"1 to 6 cells, got {cells}"):
        prompts.tuples("", cells)
    with pytest.raises(InputError, match=f"1 to 6 cells, got {cells}"):
        images.scenes(cells, 1, sampling.root_key(0))


def test_every_caption_of_a_scene_is_true_of_it_and_none_is_missing():
    assert prompts.captions((4, 3)) == (
        "", "a three", "a four", "a three and a four", "a three, a four",
    )  # fmt: skip
    for labels in [(4, 4), (8, 2), (1, 3, 7), (0,)]:
        found = prompts.captions(labels)
        assert len(set(found)) == len(found)
        assert all(prompts.tuples(caption, len(labels))[labels] for caption in found)
        assert f"{prompts.PARITIES[labels[0] % 2]} and {prompts.mention(labels[0])}" in found
    with pytest.raises(InputError, match=r"digits 0\.\.9"):
        prompts.captions((4, 12))


def test_prompts_are_joined_without_the_empty_one():
    assert prompts.joined("even digits", "a four") == "even digits, a four"
    assert prompts.joined("", "a four") == "a four"


def test_scenes_show_the_digits_that_their_labels_say():
    x, labels = images.scenes(3, 500, sampling.root_key(5))
    assert x.shape == (500, 8, 24, 1)
    assert (x.dtype, labels.dtype) == (np.float32, np.int32)
    pool, classes = images.digits()
    known = {image.tobytes(): k for image, k in zip(pool, classes, strict=True)}
    for i, m in itertools.product(range(500), range(3)):
        cell = np.ascontiguousarray(x[i, :, 8 * m : 8 * m + 8])
        assert known[cell.tobytes()] == labels[i, m]
    # 1,500 labels: each class 150 with a deviation of 12
    assert np.all(np.abs(np.bincount(labels.ravel(), minlength=10) - 150) < 50)


def test_scenes_are_a_function_of_their_key_and_cells_come_apart():
    x, _ = images.scenes(2, 8, sampling.root_key(1))
    again, _ = images.scenes(2, 8, sampling.root_key(1))
    other, _ = images.scenes(2, 8, sampling.root_key(2))
    np.testing.assert_array_equal(x, again)
    assert not np.array_equal(x, other)
    np.testing.assert_array_equal(images.side_by_side(images.apart(x)), x)
    np.testing.assert_array_equal(images.apart(jax.numpy.asarray(x))[:, 1], x[:, :, 8:])
    with pytest.raises(InputError, match="scenes have shape"):
        images.apart(x[:, :, :9])


def test_a_split_is_kept_to():
    x, _ = images.scenes(1, 300, sampling.root_key(0), split="test")
    pool = {image.tobytes() for image in images.digits("test")[0]}
    assert all(np.ascontiguousarray(image).tobytes() in pool for image in x)
