"""Reading a file that holds a secret: only where nobody but its owner can."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bbr.errors import KeyRefused

KEY_FILE_LIMIT_BYTES = 64 * 1024


def read_private(path: Path) -> bytes:
    """The bytes of a regular file that only its owner may read. What is checked is what is read, through links too.

    Raises `KeyRefused` when it is missing, open to others, no file, or larger than any key.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as err:
        raise KeyRefused(f"the key file {path} does not exist", hint="check the path") from err
    except OSError as err:
        raise KeyRefused(f"the key file {path} cannot be read: {err.strerror}") from err
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise KeyRefused(f"{path} is not a file")
    with os.fdopen(descriptor, "rb") as file:
        if about.st_mode & 0o077:
            raise KeyRefused(
                f"the key file {path} can be read or changed by other users (mode {stat.S_IMODE(about.st_mode):04o})",
                hint=f"chmod 600 {path}",
            )
        body = file.read(KEY_FILE_LIMIT_BYTES + 1)
    if len(body) > KEY_FILE_LIMIT_BYTES:
        raise KeyRefused(f"{path} is larger than any key file")
    return body
