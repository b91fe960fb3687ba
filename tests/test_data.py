"""The embedded data set: values, splits, scaling."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dng_jax import data
from dng_jax.errors import InputError


def test_digits_are_the_source_rescaled():
    images, labels, info = data.load("digits", "all")
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert (info.name, info.num_classes, info.shape) == ("digits", 10, (8, 8, 1))
    assert info.class_names[7] == "7"
    source = load_digits()
    np.testing.assert_allclose(images[..., 0] * (16 / 255), source.images, atol=0.04)
    np.testing.assert_array_equal(labels, source.target)
    assert images.min() == 0
    assert images.max() == 255


def test_split_is_stratified_disjoint_and_complete():
    everything, all_labels, _ = data.load("digits", "all")
    train, _, _ = data.load("digits", "train")
    test, test_labels, _ = data.load("digits", "test")
    assert len(train) + len(test) == len(everything)
    for k in range(10):
        share = np.sum(test_labels == k) / np.sum(all_labels == k)
        assert 0.19 < share <= 0.2
    both = np.concatenate([train, test]).reshape(len(everything), -1)
    order = lambda a: a[np.lexsort(a.T)]  # noqa: E731
    np.testing.assert_array_equal(order(both), order(everything.reshape(len(everything), -1)))
    np.testing.assert_array_equal(data.load("digits", "test")[1], test_labels)
    assert test_labels[:3].tolist() != all_labels[:3].tolist() or len(test) != len(everything)


def test_to_unit_maps_the_ends_exactly():
    x = data.to_unit(np.array([0, 255, 51], np.uint8))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [-1, 1, -0.6], atol=1e-7)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'digits'"):
        data.load("digit")
    with pytest.raises(InputError, match="choose from train, test, all"):
        data.load("digits", "validation")
