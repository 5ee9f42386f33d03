"""The files of one host as a tree that can be changed in memory: links are followed as the host would. No I/O.

What it is made from comes out of a backup: links may lead anywhere or in circles, and are only ever looked up here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from bbr.layouts.reissue import Csr, Issued
from bbr.repository.hostfiles import HostFile

_HOPS = 40
"""As Linux: after so many links it is a circle."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What comes up while a host's files are made: a text for each that is not as it was, what an external authority
    is asked for, and what a person should know. No keys in ``diffs`` and ``notes``. ``signed`` is what such an
    authority has given already, by `bbr.layouts.signed.request_name`."""

    signed: Mapping[str, Issued] = field(default_factory=dict, repr=False)
    diffs: list[str] = field(default_factory=list)
    requests: list[Csr] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class HostTree:
    """Files by their paths, each as it was or as it was written since."""

    def __init__(self, files: Iterable[HostFile]) -> None:
        self._files = {file.path: file for file in files}

    @property
    def files(self) -> tuple[HostFile, ...]:
        """All of them, in order of their paths."""
        return tuple(file for _, file in sorted(self._files.items()))

    def resolve(self, path: PurePosixPath) -> PurePosixPath:
        """Where a path leads, through links of its own and of its folders. A circle leads to where it was given up."""
        place, rest, hops = PurePosixPath("/"), list(path.parts[1:]), 0
        while rest:
            part = rest.pop(0)
            place = place.parent if part == ".." else place / part
            file = self._files.get(place)
            if file is not None and file.link and hops < _HOPS:
                hops += 1
                target = PurePosixPath(file.link)
                rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
                place = PurePosixPath("/") if target.is_absolute() else place.parent
        return place

    def body(self, path: PurePosixPath) -> bytes | None:
        """What is in a file; None where there is none."""
        file = self._files.get(self.resolve(path))
        return None if file is None or file.link else file.body

    def text(self, path: PurePosixPath) -> str | None:
        """The same as text; None also for a file that is none, or holds keys or certificates."""
        body = self.body(path)
        if body is None or b"\0" in body or b"-----BEGIN " in body:
            return None
        try:
            return body.decode()
        except UnicodeDecodeError:
            return None

    def write(self, path: PurePosixPath, body: bytes) -> None:
        """Give a file another body. It keeps its mode and owner; one that is new is root's, 0600."""
        place = self.resolve(path)
        old = self._files.get(place) or HostFile(place, 0o600, 0, 0, b"")
        self._files[place] = replace(old, body=body, link="")

    def remove(self, path: PurePosixPath) -> None:
        """Take a file away; none there is no error."""
        self._files.pop(self.resolve(path), None)

    def under(self, path: PurePosixPath) -> tuple[PurePosixPath, ...]:
        """Every file that is ``path``, or in it."""
        place = self.resolve(path)
        return tuple(one for one, file in sorted(self._files.items()) if not file.link and one.is_relative_to(place))
