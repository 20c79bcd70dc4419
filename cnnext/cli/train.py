"""``cnnext train --data FOLDER``: train a network on pictures; a model file, a log and charts are what is left."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.cli import arguments as types
from cnnext.cli.train_data import SPLIT, TrainingData, augmentation, load, mixture
from cnnext.errors import message

if TYPE_CHECKING:
    from cnnext.data import DataSource
    from cnnext.model import Model
    from cnnext.training.callbacks import Callback
    from cnnext.training.history import History

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad", "lamb")
SCHEDULES = ("constant", "cosine", "one-cycle")
LOGS = {"csv": "log.csv", "jsonl": "log.jsonl"}
MOMENTUM = 0.9
TOP = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="FOLDER",
                      help="a folder of pictures for each class, or the IDX files of MNIST and its relatives")
    data.add_argument("--validation", metavar="FOLDER", help="pictures to validate on, in folders of the same names")
    data.add_argument("--validation-split", type=types.share, metavar="S",
                      help=f"else this share of each class, from its end (default: {SPLIT}); IDX files bring their own")
    data.add_argument("--image-size", type=types.size, metavar="ROWS,COLUMNS",
                      help="to which pictures are resized (default: what the network is made for)")
    data.add_argument("--channels", type=int, choices=(1, 3), help="grey or colour (default: as the pictures are)")
    data.add_argument("--augment", nargs="+", type=augmentation, default=[], metavar="CHANGE",
                      help="random changes, in training only: flip shift=2 rotate=10 crop=0.8 color=0.2 cutout=8")
    data.add_argument("--mix", type=mixture, metavar="MIXTURE",
                      help="mix the pictures of each batch, in training only: mixup=0.2 or cutmix=1")
    net = parser.add_argument_group("network and training")
    net.add_argument("--model", default="lenet5",
                     help="a network of cnnext.models, or a pattern such as INPUT-[CONV-RELU-POOL]*3-FC")
    net.add_argument("--option", nargs="+", type=types.option, default=[], metavar="NAME=VALUE",
                     help="further arguments of the network or the pattern: small_images=true, filters=16")
    net.add_argument("--epochs", type=types.positive, default=10, metavar="N", help="how often each picture is seen")
    net.add_argument("--batch-size", type=types.positive, default=64, metavar="N", help="pictures in a step")
    net.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help=f"sgd has a momentum of {MOMENTUM}")
    net.add_argument("--learning-rate", type=types.above_zero, metavar="R", help="(default: the optimizer's own)")
    net.add_argument("--schedule", choices=SCHEDULES, default="constant", help="how the learning rate changes")
    net.add_argument("--patience", type=types.positive, metavar="N",
                     help="stop after N epochs without a smaller loss on the validation data, and keep the best weights")
    net.add_argument("--seed", type=types.seed, default=0, metavar="N", help="the same seed gives the same network")
    net.add_argument("--threads", type=types.positive, metavar="N", help="workers; all there are by default")
    out = parser.add_argument_group("results")
    out.add_argument("--out", metavar="FOLDER", default="train-output", help="where the files go")
    out.add_argument("--log", choices=tuple(LOGS), default="csv", help="the log's form")
    out.add_argument("--checkpoint", metavar="FOLDER",
                     help="where the state is kept after every epoch (default: OUT/checkpoint)")
    out.add_argument("--checkpoint-every", type=types.positive, metavar="N", help="and after every N steps")
    out.add_argument("--resume", action="store_true",
                     help="go on where the checkpoint is, with the bits of a training that was never interrupted")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    start = time.perf_counter()
    folder = Path(arguments.out)
    checkpoint = Path(arguments.checkpoint or folder / "checkpoint")
    _check_checkpoint(checkpoint, arguments.resume)
    data = load(arguments)
    net = _network(arguments, data)
    folder.mkdir(parents=True, exist_ok=True)
    history = _fit(net, data, arguments, folder, checkpoint)
    net.save(folder / "model.safetensors")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in data.class_names), encoding="utf-8")
    answers = None if data.validation is None else _validate(net, data.validation, arguments.batch_size)
    _draw(history, answers, data.class_names, folder)
    print(f"Wrote {', '.join(str(folder / name) for name in ('model.safetensors', 'classes.txt', LOGS[arguments.log]))}")
    print(f"Done in {time.perf_counter() - start:.0f} s.")


def _check_checkpoint(folder: Path, resume: bool) -> None:
    """A training that somebody may want to go on with is not overwritten."""
    if not resume and _is_kept(folder):
        raise ValueError(message("train", "--resume", "be given to go on with the training that is kept in this folder; "
                                 "else name another --out or --checkpoint, or remove it", resume, f"folder {str(folder)!r}"))


def _is_kept(folder: Path) -> bool:
    from cnnext.training.checkpoint import Checkpoint

    return Checkpoint(folder).exists()


def _network(arguments: argparse.Namespace, data: TrainingData) -> Model:
    import cnnext as cx
    from cnnext.models.build import build_classifier

    cx.set_random_seed(arguments.seed)
    names, shape = data.class_names, data.train.shape
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    validation = 0 if data.validation is None else len(data.validation)
    print(f"Data: {arguments.data}, {len(names)} classes ({shown}): {len(data.train):,} pictures to train on, "
          f"{validation:,} to validate on.")
    net = build_classifier(arguments.model, len(names), shape, **dict(arguments.option))
    net.num_threads = arguments.threads
    print(f"Network: {arguments.model}, input {shape}, {net.count_params():,} parameters, {net.num_threads} thread(s).")
    _compile(net, arguments, -(-len(data.train) // arguments.batch_size) * arguments.epochs)
    return net


def _compile(net: Model, arguments: argparse.Namespace, steps: int) -> None:
    import cnnext as cx
    from cnnext.training.optimizers import get_optimizer

    optimizer = cx.SGD(momentum=MOMENTUM) if arguments.optimizer == "sgd" else get_optimizer(arguments.optimizer)
    rate = arguments.learning_rate or optimizer.learning_rate
    schedules = {"constant": lambda: rate, "cosine": lambda: cx.CosineDecay(rate, steps),
                 "one-cycle": lambda: cx.OneCycle(rate, max(steps, 2))}
    optimizer.learning_rate = schedules[arguments.schedule]()
    net.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])


def _fit(net: Model, data: TrainingData, arguments: argparse.Namespace, folder: Path, checkpoint: Path) -> History:
    import cnnext as cx

    logs = {"csv": cx.CSVLogger, "jsonl": cx.JSONLinesLogger}
    callbacks: list[Callback] = [logs[arguments.log](folder / LOGS[arguments.log])]
    if arguments.patience is not None:
        if data.validation is None:
            raise ValueError(message("train", "--patience", "be left out without validation data", arguments.patience))
        callbacks.append(cx.EarlyStopping(patience=arguments.patience, restore_best_weights=True))
    try:
        return net.fit(data.train, batch_size=arguments.batch_size, epochs=arguments.epochs, callbacks=callbacks,
                       validation_data=data.validation, checkpoint=checkpoint,
                       checkpoint_every=arguments.checkpoint_every, resume=arguments.resume)
    except KeyboardInterrupt:
        if _is_kept(checkpoint):
            print(f"\nThe training is kept in {checkpoint}: the same command with --resume goes on.")
        raise


def _validate(net: Model, data: DataSource, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the classes that the network gives."""
    from cnnext.training.metrics import top_k_error_rate

    with closing(data.batches(batch_size)) as batches:
        scores = np.concatenate([net.predict(x, batch_size) for [x], _ in batches])
    top1, top3 = (100 * top_k_error_rate(data.targets, scores, k) for k in (1, TOP))
    print(f"\nValidation, {len(data):,} pictures:")
    print(f"  accuracy          {100 - top1:6.2f} %")
    print(f"  top-1 error rate  {top1:6.2f} %")
    if scores.shape[1] > TOP:
        print(f"  top-{TOP} error rate  {top3:6.2f} %")
    return data.targets, scores.argmax(axis=1)


def _draw(history: History, answers: tuple[np.ndarray, np.ndarray] | None, names: list[str], folder: Path) -> None:
    if find_spec("matplotlib") is None:
        print("No charts without matplotlib: pip install matplotlib")
        return
    from cnnext import plot

    figures: dict[str, Any] = {"history.png": plot.history(history)}
    if answers is not None:
        figures["confusion.png"] = plot.confusion(answers, names, title="Validation")
    for name, figure in figures.items():
        figure.savefig(folder / name)
        print(f"Drew {folder / name}")
