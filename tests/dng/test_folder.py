"""Images of one's own: what is read, which images are held out, what is refused."""

from __future__ import annotations

import os
import shutil
import struct
import time
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from dng_jax import data, disk
from dng_jax.data import kept, npz, picture
from dng_jax.errors import InputError
from dng_jax.experiments.classes import class_indices
from dng_jax.jobs.own_images import parse, shown


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
    assert sorted(data.load(name, "test")[1].tolist()) == [0, 0, 1, 1]


def test_a_size_resizes_and_crops(tmp_path):
    name = fill(tmp_path)
    save(tmp_path / "b" / "wide.jpg", np.zeros((30, 50, 3)))
    assert data.load(f"{name}@8")[0].shape == (41, 8, 8, 3)


def test_a_photograph_is_turned_as_it_was_taken(tmp_path):
    seen = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was turned by 90 degrees
    path = tmp_path / "a.png"
    save(path, np.rot90(seen), exif=exif)
    np.testing.assert_array_equal(picture.decode(path.read_bytes(), path, None), seen)


def test_of_a_camera_s_file_of_several_pictures_the_first_is_the_photograph(tmp_path):
    path = tmp_path / "a.jpg"
    red, black = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8))
    red.save(path, "MPO", save_all=True, append_images=[black])
    with Image.open(path) as image:
        assert image.n_frames == 2
    pixels = picture.decode(path.read_bytes(), path, None)
    np.testing.assert_allclose(pixels[4, 4].astype(int), (255, 0, 0), atol=9)


def test_other_modes_are_read_as_grey_or_rgb(tmp_path):
    path = tmp_path / "a.png"
    for mode, channels in (("1", 1), ("P", 3)):
        Image.new(mode, (5, 4)).save(path)
        assert picture.decode(path.read_bytes(), path, None).shape == (4, 5, channels)


def png_of(path, width, height, bits):
    """RGB; its pixels are those of 6x6."""

    def chunk(kind, content):
        packed = kind + content
        return struct.pack(">I", len(content)) + packed + struct.pack(">I", zlib.crc32(packed))

    head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    rows = zlib.compress(6 * (b"\0" + bytes(36)))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def animated(path, kind="PNG"):
    frame = Image.new("RGB", (6, 6), "red")
    Image.new("RGB", (6, 6)).save(path, kind, save_all=True, append_images=[frame])


SPOILT = {
    "differ in size": lambda path: save(path, np.zeros((7, 6, 3))),
    "is grey": lambda path: save(path, np.zeros((6, 6))),
    "mode RGBA": lambda path: save(path, np.zeros((6, 6, 4))),
    "mode I;16": lambda path: Image.fromarray(np.zeros((6, 6), np.uint16)).save(path),
    "no PNG": lambda path: path.write_bytes(path.with_name("0.png").read_bytes()[:60]),
    "million pixels": lambda path: png_of(path, 20_000, 10_000, 8),
    "cannot be read": lambda path: path.symlink_to(path),
    "animated": animated,
    "is animated": lambda path: animated(path, "WEBP"),
    "16 bits per channel": lambda path: png_of(path, 6, 6, 16),
    "mode CMYK": lambda path: Image.new("CMYK", (6, 6)).save(path, "JPEG"),
    "with transparency": lambda path: Image.new("P", (6, 6)).save(path, transparency=0),
    "truncated": lambda path: path.write_bytes(b""),
    "more bytes than": lambda path: (path.touch(), os.truncate(path, 400_000_001)),  # sparse
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
    save(tmp_path / "b" / "0.png", np.zeros((6, 6, 3)))
    (tmp_path / "c\nd").mkdir()
    with pytest.raises(InputError, match="rename it to UTF-8 text"):
        data.load(name)


def test_a_name_is_one_class_however_its_system_spells_it(tmp_path):
    spelt = [unicodedata.normalize(form, "größe") for form in ("NFD", "NFC")]
    name = fill(tmp_path, ("a", spelt[0]), count=10)
    assert data.load(name)[2].class_names == ("a", spelt[1])
    (tmp_path / spelt[1]).mkdir()
    with pytest.raises(InputError, match="both called"):
        data.load(name)


def test_the_first_images_are_of_all_classes(tmp_path):
    assert set(data.load(fill(tmp_path, "abc"), "train")[1][:15]) == {0, 1, 2}


def test_the_checksum_is_that_of_the_content(tmp_path):
    first = data.load(fill(tmp_path / "first"), "train")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in sorted((tmp_path / "first").iterdir(), reverse=True):
        shutil.copytree(path, moved / path.name)
    os.rename(moved / "a" / "3.png", moved / "a" / "another name.PNG")
    again = data.load(f"folder:{moved}", "train")
    np.testing.assert_array_equal(first[0], again[0])
    assert first[2].sha256 == again[2].sha256 == data.load(f"folder:{moved}", "test")[2].sha256
    assert data.load(f"folder:{moved}@5")[2].sha256 != first[2].sha256
    os.rename(moved / "b", moved / "c")
    assert data.load(f"folder:{moved}")[2].sha256 != first[2].sha256
    save(tmp_path / "first" / "a" / "3.png", np.zeros((6, 6, 3)))
    assert data.load(f"folder:{tmp_path / 'first'}")[2].sha256 != first[2].sha256


def counted(monkeypatch, settled=0.0):
    """Names of the files that are decoded from now on; files have settled after so many seconds."""
    names, decode = [], picture.decode

    def seen(content, path, size):
        names.append(path.name)
        return decode(content, path, size)

    monkeypatch.setattr(picture, "decode", seen)
    monkeypatch.setattr(kept, "SETTLED", settled)
    monkeypatch.setattr(kept, "_sets", {})
    return names


def test_a_folder_is_decoded_once(tmp_path, monkeypatch):
    name, names = fill(tmp_path), counted(monkeypatch)
    first = data.load(name)
    assert len(names) == 40
    again = [data.load(name, split) for split in ("train", "test", "all")]
    again += [data.load(f"folder:{os.path.relpath(tmp_path)}")]
    assert len(names) == 40
    both = np.concatenate([again[0][0], again[1][0]])
    for images in (both, again[2][0], again[3][0]):
        np.testing.assert_array_equal(images, first[0])
    assert {info.sha256 for *_, info in again} == {first[2].sha256}
    assert again[3][2].name != name
    assert data.load(f"{name}@5")[0].shape == (40, 5, 5, 3)
    assert len(names) == 80


def test_what_was_decoded_cannot_be_changed(tmp_path, monkeypatch):
    name, _ = fill(tmp_path), counted(monkeypatch)
    for split in ("train", "test", "all"):
        for array in data.load(name, split)[:2]:
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def repainted(path):
    """Another image of as many bytes, said to be as old as the first."""
    before = os.stat(path)
    with Image.open(path) as image:
        pixels = np.asarray(image)[::-1]
    save(path, pixels, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size


CHANGES = {
    "another": lambda path: save(path, np.zeros((6, 6, 3))),
    "as large, as old": repainted,
    "added": lambda path: save(path.with_name("1-more.png"), np.zeros((6, 6, 3))),
    "removed": lambda path: path.unlink(),
    "renamed folder": lambda path: path.parent.rename(path.parent.with_name("c")),
    "older file in its place": lambda path: path.with_name("2.png").replace(path),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changed_is_read_again(tmp_path, monkeypatch, change):
    name, path = fill(tmp_path, count=8), tmp_path / "b" / "1.png"
    with Image.open(path) as image:
        save(path, np.asarray(image), compress_level=0)
    counted(monkeypatch)
    first = data.load(name)[2]
    time.sleep(0.02)  # past the tick of the file system's clock
    CHANGES[change](path)
    now = data.load(name)[2]
    assert now.sha256 != first.sha256
    monkeypatch.setattr(kept, "_sets", {})
    assert data.load(name)[2] == now


def test_files_that_have_just_changed_are_not_trusted_to_stay(tmp_path, monkeypatch):
    name, names = fill(tmp_path), counted(monkeypatch, settled=60.0)
    assert data.load(name)[2] == data.load(name)[2]
    assert len(names) == 80


def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    name, names = fill(tmp_path), counted(monkeypatch)
    decode, path = picture.decode, tmp_path / "a" / "0.png"

    def changing(content, of, size):
        if len(names) == 20:
            time.sleep(0.02)
            save(path, np.zeros((6, 6, 3)))
        return decode(content, of, size)

    monkeypatch.setattr(picture, "decode", changing)
    before = data.load(name)[2].sha256
    assert data.load(name)[2].sha256 != before


def test_few_images_are_kept(tmp_path, monkeypatch):
    names = counted(monkeypatch)
    a, b = fill(tmp_path / "a", count=10), fill(tmp_path / "b", count=11)
    monkeypatch.setattr(kept, "MOST", 6 * 6 * 3 * 41)  # bytes: one of them alone
    for name, decoded in ((a, 20), (a, 20), (b, 42), (b, 42), (a, 62)):
        data.load(name)
        assert len(names) == decoded
    monkeypatch.setattr(kept, "MOST", 6 * 6 * 3 * 19)
    data.load(b), data.load(b)
    assert len(names) == 62 + 44


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), np.uint8)
LABELS = np.arange(40) % 2


def packed(path, **changes):
    held = {"images": PIXELS, "labels": LABELS} | changes
    np.savez(path, **{name: value for name, value in held.items() if value is not None})
    return f"folder:{path}"


def test_one_file_holds_a_data_set_as_well(tmp_path):
    name = packed(tmp_path / "a.npz", classes=np.array(["größe 1", "0"]))
    (train, labels, info), test = data.load(name, "train"), data.load(name, "test")[0]
    assert info[1:4] == (2, ("größe 1", "0"), (5, 4, 3))
    assert 0 < len(test) < len(train)
    assert len(train) + len(test) == 40
    of = {pixels.tobytes(): label for pixels, label in zip(PIXELS, LABELS, strict=True)}
    assert [of[pixels.tobytes()] for pixels in train] == labels.tolist()
    grey = data.load(packed(tmp_path / "b.npz", images=PIXELS[..., 0]) + "@8")
    assert grey[0].shape == (40, 8, 8, 1)
    assert grey[2].class_names == ("0", "1")


def test_one_file_is_read_once_while_it_stays_the_same(tmp_path, monkeypatch):
    name, names = packed(tmp_path / "a.npz"), []
    monkeypatch.setattr(kept, "SETTLED", 0.0)
    read = npz.read
    monkeypatch.setattr(npz, "read", lambda *args: names.append(args) or read(*args))
    first = [data.load(name, split)[2].sha256 for split in ("train", "test")]
    assert len(names) == 1
    time.sleep(0.02)
    packed(tmp_path / "a.npz", labels=1 - LABELS)
    assert data.load(name)[2].sha256 not in first
    assert len(names) == 2


REFUSED = {
    "no array 'labels'": {"labels": None},
    r"uint8 \[N, H, W\]": {"images": PIXELS / 255},
    r"got uint8 \[40, 5\]": {"images": PIXELS[:, :, 0, 0]},
    "has no images": {"images": PIXELS[:0], "labels": LABELS[:0]},
    "39 labels": {"labels": LABELS[1:]},
    "whole numbers": {"labels": LABELS / 2},
    "has a label -1": {"labels": 2 * LABELS - 1},
    "label 1001": {"labels": LABELS * 1001},
    "class '1' has no image": {"labels": LABELS * 2},
    "at least two": {"labels": LABELS * 0},
    "must be text": {"classes": np.arange(2)},
    "one name twice": {"classes": np.array(["a", "a"])},
    "Python objects": {"labels": LABELS.astype(object)},
    "larger than 64": {"images": np.zeros((40, 65, 4), np.uint8)},
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_file_that_is_no_data_set_is_refused(tmp_path, said):
    with pytest.raises(InputError, match=said):
        data.load(packed(tmp_path / "a.npz", **REFUSED[said]))


def test_large_images_need_a_size(tmp_path):
    with pytest.raises(InputError, match="@32"):
        data.load(fill(tmp_path, count=1, shape=(65, 65)))


def test_too_many_large_images_need_a_size_too(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_memory", lambda: 10_000)
    with pytest.raises(InputError, match="@32"):
        data.load(fill(tmp_path, count=2, shape=(65, 65)))


def test_folders_train_val_and_test_are_no_classes(tmp_path):
    for part in ("train", "val", "test"):
        name = fill(tmp_path / part, count=1).removesuffix(part)
    with pytest.raises(InputError, match="test has folders and no image in it: what is read is"):
        data.load(name)


def test_a_test_folder_without_classes_is_no_lack_of_folders(tmp_path):
    fill(tmp_path / "train", count=5)
    (tmp_path / "test").mkdir()
    for i in range(3):
        save(tmp_path / "test" / f"{i}.png", np.zeros((6, 6, 3)))
    with pytest.raises(InputError, match=r"test has no folders of classes.* 3 images") as error:
        data.load(f"folder:{tmp_path}")
    assert "make folders" not in str(error.value)


def test_what_is_passed_over_is_counted_where_images_are_missing(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", np.zeros((6, 6, 3)))
    with pytest.raises(InputError, match="3 images outside the folders of classes"):
        data.load(f"folder:{tmp_path}")
    name = fill(tmp_path, count=1)
    (tmp_path / "b" / "0.heic").touch()
    (tmp_path / "b" / "1.GIF").touch()
    said = r"for the split \w+ \(passed over: 3 images .*; 2 files of other endings, .gif, .heic\)"
    with pytest.raises(InputError, match=said):
        data.load(name)
    (tmp_path / "b" / "0.png").unlink()
    with pytest.raises(InputError, match=r"class 'b' has no image .* 2 files of other endings"):
        data.load(name)


def test_a_path_that_cannot_be_entered_is_one_sentence(tmp_path, monkeypatch):
    for path in (tmp_path / ("x" * 300), tmp_path / ("x" * 300 + "@8")):
        with pytest.raises(InputError, match=r"cannot be entered \(file name too long\)"):
            data.load(f"folder:{path}")
    name = fill(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.X_OK)  # root may do all
    with pytest.raises(InputError, match=r"cannot be entered \(permission denied\)"):
        data.load(name)


@pytest.mark.parametrize("size", ["0000321234", "00008", "3", "1025", "x", "-8", "²", ""])
def test_a_size_has_at_most_four_digits(tmp_path, size):
    with pytest.raises(InputError, match="size after @ must be 4 to 1024"):
        data.load(f"folder:{tmp_path}@{size}")


def test_a_size_is_no_part_of_the_path(tmp_path):
    assert parse(f"folder:{tmp_path}/@32") == (f"{tmp_path}/", "32")
    assert shown("folder:shapes/@32") == shown("folder:/a@b/shapes@32") == "folder:shapes@32"
    assert shown("folder:/a@b/shapes") == "folder:shapes"
    (tmp_path / "mine@8").mkdir()
    assert parse(f"folder:{tmp_path}/mine@8") == (f"{tmp_path}/mine@8", None)
    assert shown(f"folder:{tmp_path}/mine@8/") == "folder:mine@8"
    for name in ("folder:", "folder:@32"):  # no path is not the folder where one is
        with pytest.raises(InputError, match="is no folder"):
            data.load(name)
