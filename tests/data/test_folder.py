"""Pictures in folders: found in order, decoded as Pillow does, damaged ones named."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

import cnnext as cx
from cnnext.data import ImageFolder, RandomHorizontalFlip, RandomShift

CLASSES = ("ant", "bee", "cat")


def picture(seed: int, shape=(8, 6, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(picture(10 * label + i)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def whole(data: ImageFolder) -> tuple[np.ndarray, np.ndarray]:
    (x,), y = next(data.batches(len(data)))
    return x, y


def test_classes_files_and_pixels(folder):
    (folder / "bee" / "more").mkdir()
    Image.fromarray(picture(99)).save(folder / "bee" / "more" / "late.PNG")
    (folder / "bee" / "notes.txt").write_text("no picture")
    (folder / "bee" / "._0.png").write_bytes(b"what a file system leaves")
    (folder / ".cache").mkdir()
    (folder / "list.csv").write_text("no folder")
    data = ImageFolder(folder, size=(8, 6))
    assert data.class_names == list(CLASSES) and len(data) == 16 and data.shape == (8, 6, 3)
    x, y = whole(data)
    np.testing.assert_array_equal(y, [0] * 5 + [1] * 6 + [2] * 5)
    seeds = [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 99, 20, 21, 22, 23, 24]
    np.testing.assert_allclose(x, np.stack([picture(s) for s in seeds]) / 255, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("source", ["1", "L", "P", "RGB", "RGBA"])
def test_every_mode_is_converted(tmp_path, channels, mode, source):
    (tmp_path / "a").mkdir()
    given = Image.fromarray(picture(1, (9, 7, 4)), "RGBA").convert(source)
    given.save(tmp_path / "a" / "0.png")
    x, _ = whole(ImageFolder(tmp_path, size=(9, 7), channels=channels, scale=1))
    with Image.open(tmp_path / "a" / "0.png") as stored:
        np.testing.assert_array_equal(x[0], np.asarray(stored.convert(mode), np.float32).reshape(9, 7, channels))


def test_a_large_jpeg_is_close_to_the_exact_resize(tmp_path):
    (tmp_path / "a").mkdir()
    rows, columns = np.mgrid[:600, :800]
    smooth = np.stack([rows / 600, columns / 800, (rows + columns) / 1400], -1)
    Image.fromarray((255 * smooth).astype(np.uint8)).save(tmp_path / "a" / "0.jpg", quality=95)
    x, _ = whole(ImageFolder(tmp_path, size=(32, 40)))
    centres = (np.mgrid[:32, :40] + 0.5) / np.array([32, 40])[:, None, None]
    expected = np.stack([centres[0], centres[1], (600 * centres[0] + 800 * centres[1]) / 1400], -1)
    np.testing.assert_allclose(x[0], expected, atol=0.02)


def test_exif_turns_a_picture(tmp_path):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    Image.fromarray(picture(1)).save(tmp_path / "a" / "0.png", exif=exif)
    x, _ = whole(ImageFolder(tmp_path, size=(6, 8), scale=1))
    np.testing.assert_array_equal(x[0], np.rot90(picture(1), -1))


def test_split_takes_from_every_class(folder):
    data = ImageFolder(folder, size=(8, 6))
    first, last = data.split(0.4)
    x, y = whole(data)
    for part, places in ((first, [0, 1, 2, 5, 6, 7, 10, 11, 12]), (last, [3, 4, 8, 9, 13, 14])):
        found_x, found_y = whole(part)
        np.testing.assert_array_equal(found_x, x[places])
        np.testing.assert_array_equal(found_y, y[places])


def test_training(folder):
    cx.set_random_seed(0)
    net = cx.Sequential([cx.Flatten(), cx.Dense(3)], input_shape=(8, 6, 3))
    net.compile(cx.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    data = ImageFolder(folder, size=(8, 6), augment=[RandomHorizontalFlip(0.1), RandomShift(0)])
    history = net.fit(data, batch_size=4, epochs=60, verbose=0, validation_data=data).history
    assert len(history["loss"]) == 60 and net.evaluate(data)["accuracy"] == 1.0


def png(content: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(content).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(("content", "words"), [
    (b"", "UnidentifiedImageError"),
    (b"not a picture", "UnidentifiedImageError"),
    (png(picture(0, (64, 64, 3)))[:3000], "OSError"),
    (png(np.full((4, 4), 40000, np.uint16)), "mode I"),
])
def test_what_cannot_be_read_is_named(folder, content, words):
    bad = folder / "bee" / "2.png"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=f"must be a whole picture.*{words}") as error:
        whole(ImageFolder(folder))
    assert str(error.value).startswith(f"image file {str(bad)!r}:")


def test_a_file_that_is_gone(folder):
    data = ImageFolder(folder)
    (folder / "cat" / "1.png").unlink()
    with pytest.raises(ValueError, match=re.escape(str(folder / "cat" / "1.png"))):
        whole(data)


def test_a_link_that_leads_nowhere(folder):
    (folder / "cat" / "9.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=re.escape(f"image file {str(folder / 'cat' / '9.png')!r}: must be a whole")):
        whole(ImageFolder(folder))


def test_a_label_out_of_range_is_named_by_its_file(folder):
    data = ImageFolder(folder, size=8)
    net = cx.Sequential([cx.Flatten(), cx.Dense(2)], input_shape=(8, 8, 3))
    net.compile("sgd")
    wrong = data.with_targets(np.where(np.arange(len(data)) == 1, 7, 0))
    with pytest.raises(ValueError, match=rf"`x.targets\[1\]` must be a label.*{re.escape(str(data.files[1]))}"):
        net.fit(wrong, verbose=0)


@pytest.mark.parametrize(("options", "words"), [
    ({"size": 0}, "ImageFolder: `size` must be at least 1"),
    ({"size": (1, 2, 3)}, "ImageFolder: `size` must be one whole number or a pair"),
    ({"channels": 2}, "ImageFolder: `channels` must be 1, 3 or 4"),
    ({"scale": float("inf")}, "ImageFolder: `scale` must be a finite number"),
])
def test_invalid_options(folder, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ImageFolder(folder, **options)


def test_folders_without_pictures(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="`folder` must exist"):
        ImageFolder(folder / "no such folder")
    with pytest.raises(NotADirectoryError, match="`folder` must be a folder"):
        ImageFolder(folder / "cat" / "1.png")
    with pytest.raises(ValueError, match="`folder` must hold a folder for each class"):
        ImageFolder(tmp_path_factory.mktemp("empty"))
    (folder / "dog").mkdir()
    with pytest.raises(ValueError, match="`folder` must hold a picture in 'dog'"):
        ImageFolder(folder)
