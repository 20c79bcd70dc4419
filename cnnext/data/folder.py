"""Pictures in folders, one folder a class; decoded by Pillow when they are wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cnnext.data.augment import Augmentation, Mixture
from cnnext.data.source import DataSource
from cnnext.errors import message
from cnnext.layers.attributes import as_number, as_pair

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
DEEP_MODES = ("I", "F")  # and I;16, I;16B...: Pillow would clip them to 8 bits


class ImageFolder(DataSource):
    """The pictures in a folder that holds a folder for each class.

    Parameters
    ----------
    folder : path-like
        ``folder/cat/1.png``: the folder's name is the class, the classes are numbered in the order of their names.
        Pictures may lie in folders below. Files of other kinds and hidden ones are passed over.
    size : int or (rows, columns)
        To which every picture is resized, without regard to its proportions.
    channels : int
        1 (grey), 3 (RGB) or 4 (RGBA): to which every picture is converted.
    scale : float
        What the values, 0 to 255, are multiplied by.
    augment, workers, prefetch, mix
        As of `DataSource`.

    Attributes
    ----------
    class_names : list of str
        By label.
    files : list of Path
        By class, then by name.
    targets : int64 ndarray, shape (pictures,)

    Raises
    ------
    ModuleNotFoundError
        If Pillow is not installed.
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    ValueError
        If it holds no classes, or a class no picture. A picture that cannot be read is an error, with the file's name,
        when its turn comes.

    Examples
    --------
    >>> data = ImageFolder("pictures", size=64, augment=[RandomHorizontalFlip(), RandomShift(4)])  # doctest: +SKIP
    >>> net.fit(data, batch_size=32, epochs=10, validation_split=0.2)  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], size: int | tuple[int, int] = (32, 32), channels: int = 3,
                 scale: float = 1 / 255, augment: Sequence[Augmentation] = (), workers: int | None = None,
                 prefetch: int = 2, mix: Mixture | None = None):
        if find_spec("PIL") is None:
            raise ModuleNotFoundError("ImageFolder needs Pillow. Install it: pip install 'cnnext[images]'", name="PIL")
        self._size = as_pair("ImageFolder", "size", size, minimum=1)
        if channels not in MODES:
            raise ValueError(message("ImageFolder", "channels", "be 1, 3 or 4", channels))
        self._mode = MODES[channels]
        self._scale = np.float32(as_number("ImageFolder", "scale", scale))
        by_class = _pictures(Path(folder))
        self.class_names = list(by_class)
        self.files = [file for files in by_class.values() for file in files]
        labels = np.repeat(np.arange(len(by_class), dtype=np.int64), [len(files) for files in by_class.values()])
        super().__init__((*self._size, channels), labels, augment, workers, prefetch, mix)

    def read(self, item: int) -> np.ndarray:
        """A picture, decoded, turned as its EXIF data says, converted, resized and scaled.

        Raises
        ------
        ValueError
            If it cannot be decoded or has more than 8 bits in a channel; the file is named.
        """
        try:
            pixels = self._decode(self.files[item])
        except Exception as error:  # Pillow's decoders raise many kinds for what is damaged
            raise ValueError(f"{self.name(item)}: must be a whole picture, of 8 bits in a channel, that Pillow can read. "
                             f"Received {type(error).__name__}: {error}") from error
        return pixels.reshape(self.shape) * self._scale

    def _decode(self, file: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        rows, columns = self._size
        with Image.open(file) as picture:
            if picture.mode.startswith(DEEP_MODES):
                raise ValueError(f"mode {picture.mode}")
            # A JPEG decoder can stop at a half, a quarter, an eighth of the size; twice the size wanted is sharp enough.
            picture.draft(None, (2 * columns, 2 * rows))
            turned: Any = ImageOps.exif_transpose(picture)
            sized = turned.convert(self._mode).resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return np.asarray(sized, np.float32)

    def name(self, item: int) -> str:
        """The file."""
        return f"image file {str(self.files[item])!r}"

    def split(self, share: float) -> tuple[ImageFolder, ImageFolder]:
        """All but the last ``share`` of each class, and those: the pictures are sorted by class."""
        last = np.zeros(len(self), bool)
        for label in np.unique(self.targets):
            places = np.flatnonzero(self.targets == label)
            last[places[len(places) - int(len(places) * share) :]] = True
        return self._part(np.flatnonzero(~last)), self._part(np.flatnonzero(last))


def _pictures(folder: Path) -> dict[str, list[Path]]:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(message("ImageFolder", "folder", "be a folder", str(folder)))
    if not folder.exists():
        raise FileNotFoundError(message("ImageFolder", "folder", "exist", str(folder)))
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ValueError(message("ImageFolder", "folder", "hold a folder for each class", str(folder)))
    found = {entry.name: sorted(filter(_is_picture, entry.rglob("*"))) for entry in classes}
    for name, files in found.items():
        if not files:
            raise ValueError(message("ImageFolder", "folder", f"hold a picture in {name!r}", str(folder),
                                     f"known are {', '.join(sorted(SUFFIXES))}"))
    return found


def _is_picture(path: Path) -> bool:
    # a link that leads nowhere is one, and an error when its turn comes
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
