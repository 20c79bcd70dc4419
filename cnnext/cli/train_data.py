"""What ``cnnext train`` trains on: a folder of pictures, one folder a class, or of IDX files; and what changes them."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnext.errors import message, unknown

if TYPE_CHECKING:
    from cnnext.data import Augmentation, DataSource, ImageFolder
    from cnnext.data.augment import Mixture

SPLIT = 0.2
DEFAULT_SIZE = (32, 32)     # of pictures for a pattern; a network of `cnnext.models` says its own


@dataclass(frozen=True)
class TrainingData:
    """Examples to train on and to validate on.

    Attributes
    ----------
    train : DataSource
    validation : DataSource, or None
    class_names : list of str
        By label.
    """

    train: DataSource
    validation: DataSource | None
    class_names: list[str]


def load(arguments: argparse.Namespace) -> TrainingData:
    """Read the folder that ``--data`` names.

    Raises
    ------
    FileNotFoundError, ValueError
        If it holds neither pictures in folders nor IDX files, or they are damaged; or if the options do not fit.
    """
    folder = Path(arguments.data)
    if not folder.is_dir():
        raise FileNotFoundError(message("train", "--data", "be a folder", arguments.data))
    if any(folder.glob("train-images*")):
        return _idx(folder, arguments)
    if not any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()):
        rule = "hold a folder of pictures for each class, or the IDX files train-images-idx3-ubyte and its relatives"
        raise FileNotFoundError(message("train", "--data", rule, arguments.data))
    return _pictures(folder, arguments)


def _idx(folder: Path, arguments: argparse.Namespace) -> TrainingData:
    from cnnext.data import Arrays, load_idx_folder

    rule = "be left out for IDX files, which hold images of one size and a part to test with"
    for option in ("validation", "validation_split", "image_size", "channels"):
        if (value := getattr(arguments, option)) is not None:
            raise ValueError(message("train", f"--{option.replace('_', '-')}", rule, value))
    data = load_idx_folder(folder)
    train = Arrays(data.x_train, data.y_train, augment=arguments.augment, mix=arguments.mix)
    return TrainingData(train, Arrays(data.x_test, data.y_test), [str(label) for label in range(data.classes)])


def _pictures(folder: Path, arguments: argparse.Namespace) -> TrainingData:
    from cnnext.data import ImageFolder

    size = arguments.image_size or _size_for(arguments.model)
    train = ImageFolder(folder, size, arguments.channels or 3, augment=arguments.augment, mix=arguments.mix)
    if arguments.channels is None and _is_grey(train):
        train = ImageFolder(folder, size, 1, augment=arguments.augment, mix=arguments.mix)
    names = train.class_names
    if len(names) < 2:
        raise ValueError(message("train", "--data", "hold two classes or more", names))
    share = arguments.validation_split
    if arguments.validation is None:
        return TrainingData(*_split(train, SPLIT if share is None else share), names)
    if share is not None:
        raise ValueError(message("train", "--validation-split", "be left out where --validation is given", share))
    validation = ImageFolder(arguments.validation, size, train.shape[2])
    if validation.class_names != names:
        raise ValueError(message("train", "--validation", f"hold the classes of --data, {', '.join(names)}",
                                 validation.class_names))
    return TrainingData(train, validation, names)


def _split(data: ImageFolder, share: float) -> tuple[ImageFolder, ImageFolder | None]:
    if not share:
        return data, None
    train, validation = data.split(share)
    if not len(train) or not len(validation):
        raise ValueError(message("train", "--validation-split", "leave pictures on both sides", share,
                                 f"{len(data)} pictures of {len(data.class_names)} classes"))
    return train, validation


def _size_for(model: str) -> tuple[int, int]:
    """Rows and columns of the pictures that a network is made for."""
    from cnnext import models

    if model not in models.__all__:
        return DEFAULT_SIZE
    rows, columns, _ = inspect.signature(getattr(models, model)).parameters["input_shape"].default
    return rows, columns


def _is_grey(data: ImageFolder) -> bool:
    """Whether the first picture of every class is."""
    from PIL import Image

    first = dict(zip(reversed(data.targets.tolist()), reversed(data.files)))
    for file in first.values():
        try:
            with Image.open(file) as picture:
                grey = picture.mode in ("1", "L", "LA")
        except OSError:     # its turn comes, and then it is an error with the file's name
            continue
        if not grey:
            return False
    return True


def augmentation(text: str) -> Augmentation:
    """One of the augmentations of ``cnnext.data``: ``flip``, ``shift=2``, ``rotate=10``, ``crop=0.8``, ``color=0.2``,
    ``cutout=8``.
    """
    from cnnext import data

    def color(s: float) -> Augmentation:
        return data.ColorJitter(s, s, s)

    numbers: dict[str, tuple[Callable[..., Augmentation], type]] = {
        "shift": (data.RandomShift, int), "rotate": (data.RandomRotation, float), "crop": (data.RandomResizedCrop, float),
        "color": (color, float), "cutout": (data.Cutout, int),
    }
    name, equals, number = text.partition("=")
    if name == "flip" and not equals:
        return data.RandomHorizontalFlip()
    if name not in numbers:
        raise argparse.ArgumentTypeError(unknown("augmentation", text, ["flip", *(f"{key}=NUMBER" for key in numbers)]))
    make, kind = numbers[name]
    try:
        return make(kind(number))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def mixture(text: str) -> Mixture:
    """A mixture of ``cnnext.data``: ``mixup=0.2``, ``cutmix=1``."""
    from cnnext import data

    known: dict[str, Callable[[float], Mixture]] = {"mixup": data.Mixup, "cutmix": data.CutMix}
    name, _, alpha = text.partition("=")
    if name not in known:
        raise argparse.ArgumentTypeError(unknown("mixture", text, [f"{key}=ALPHA" for key in known]))
    try:
        return known[name](float(alpha))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
