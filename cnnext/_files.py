"""Writing files so that a crash at any moment leaves either the old content or the new, never a mixture."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["atomic_write"]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` only once it is complete and on the disk.

    The bytes go to a temporary file in the same folder, which is flushed, synchronised and then renamed over `path`;
    at last the folder is synchronised. If anything fails before the renaming, the temporary file is removed and the
    previous file stays whole. A process killed in the middle leaves the temporary file ``.cnnext-*.tmp`` behind.

    Parameters
    ----------
    path : path-like
        The file to write. A symbolic link is followed. An existing file passes on its permission bits; a new file
        gets those that ``open`` gives.

    Yields
    ------
    file : binary file object
        Open for writing. Do not close it.

    Raises
    ------
    OSError
        Any failure to write, and a `path` that exists and is not a regular file.
    """
    # Renaming onto a symbolic link would replace the link and leave the file behind it stale.
    target = os.path.realpath(os.fspath(path))
    folder = os.path.dirname(target)
    mode = _mode_of(target)
    # The name is independent of the target's, which may already have the longest length the file system allows.
    temporary = os.path.join(folder, f".cnnext-{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags, 0o666)  # the umask applies; tempfile.mkstemp would always give 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.chmod(temporary, mode)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one worth reporting
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _mode_of(target: str) -> int | None:
    """Permission bits of the regular file `target`, None if there is no file."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(status.st_mode):  # renaming over a device such as /dev/null would destroy it
        raise OSError(errno.EINVAL, "not a regular file", target)
    return stat.S_IMODE(status.st_mode) & 0o777


def _sync_folder(folder: str) -> None:
    """Make a renaming in `folder` durable, where the system can open folders and synchronise them."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems do not offer it
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
