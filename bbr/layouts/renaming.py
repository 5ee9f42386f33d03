"""What masters are called, and which of them becomes which: names and addresses replaced in texts. Pure.

An address is replaced wherever it stands as one: 10.0.0.1 is not found in 10.0.0.11, nor in a host name, and an IPv6
address is found in every spelling. A name is a word like others ("etcd", "m1"), so it is replaced only where it can
be nothing else: as the host of a URL, before a port, after haproxy's ``server``; what knows more of a text asks for
`Renaming.name`. All masters are replaced in one pass: two that swap their addresses do not both end up with one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from bbr.errors import UsageError
from bbr.layouts.authority import KeyMaker, key_like

_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""Source: Kubernetes' names of nodes, RFC 1123 subdomains."""

_ADDRESS = re.compile(
    r"""
    (?<![\w.:%-])(?P<open>\[?)
    (?P<address>
        \d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\w)              # 10.0.0.1, and neither 10.0.0.11 nor 10.0.0.1.nip.io
      | [0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:.-])
    )
    (?P<close>\]?)(?P<port>(?=:\d))?
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"(?P<mark>://|\bserver )?(?<![\w.@-])(?P<name>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?![\w-])")
_PORT = re.compile(r":\d")
_AFTER_HOST = re.compile(r":\d|[/,;\"'\s]|\Z")


@dataclass(frozen=True, slots=True)
class MasterName:
    """What a master is called: its node name and its node address. Raises `UsageError` for what can be neither."""

    name: str
    address: str
    """IPv4 or IPv6, in the shortest spelling; given in any."""

    def __post_init__(self) -> None:
        if not _NODE_NAME.fullmatch(self.name):
            raise UsageError(f"{self.name[:100]!r} is no name of a node")
        try:
            address = ipaddress.ip_address(self.address)
        except ValueError as err:
            raise UsageError(f"{self.address[:100]!r} is no address, which {self.name} was to have") from err
        object.__setattr__(self, "address", str(address))


@dataclass(frozen=True, slots=True)
class Renaming:
    """Every old master and the new one that takes its place; one may follow several. Raises `UsageError` for two old
    ones of one name or address."""

    masters: Mapping[MasterName, MasterName]

    def __post_init__(self) -> None:
        for values in ([old.name for old in self.masters], [old.address for old in self.masters]):
            if len(set(values)) != len(values):
                raise UsageError(f"two old masters are called {', '.join(sorted(values))}")

    @property
    def changes(self) -> bool:
        """Whether any master gets another name or address."""
        return any(needs_new_files(old, new) for old, new in self.masters.items())

    def name(self, name: str) -> str:
        """The new name of a master, or ``name`` where it is none of an old one."""
        return next((new.name for old, new in self.masters.items() if old.name == name), name)

    def address(self, address: str) -> str:
        """The new address, or ``address`` as it is spelled where it is none of an old master."""
        wanted = _spelled(address)
        return next((new.address for old, new in self.masters.items() if old.address == wanted), address)

    def host(self, host: str) -> str:
        """A name or an address, without a port and without brackets."""
        return self.address(host) if self.address(host) != host else self.name(host)

    def is_host(self, host: str) -> bool:
        """Whether this is the name or the address of an old master."""
        return any(host in (old.name, old.address) or _spelled(host) == old.address for old in self.masters)

    def in_text(self, text: str) -> str:
        """The text with every old master replaced that stands there as an address, or plainly as a host."""
        return _ADDRESS.sub(self._address, _NAME.sub(self._name, text))

    def _address(self, found: re.Match[str]) -> str:
        old = found["address"]
        new = self.address(old)
        if new == old:
            return found[0]
        bracketed = bool(found["open"]) and bool(found["close"])
        in_url = found["port"] is not None or found.string.startswith("//", max(found.start() - 2, 0))
        if bracketed or (in_url and not found["open"]):
            return url_host(new)
        return f"{found['open']}{new}{found['close']}"

    def _name(self, found: re.Match[str]) -> str:
        new = self.name(found["name"])
        if new == found["name"]:
            return found[0]
        is_before_port = _PORT.match(found.string, found.end())
        is_host = found["mark"] and _AFTER_HOST.match(found.string, found.end())
        return f"{found['mark'] or ''}{new}" if is_host or is_before_port else found[0]


@dataclass(frozen=True, slots=True)
class Move:
    """One master's files go from ``old`` to ``new``. ``pki``: the folder of its certificates.

    ``endpoint``: the control plane's ``host:port`` when it changes, else empty. Raises `UsageError` for another form.
    ``new_key`` makes the keys of new certificates.
    """

    old: MasterName
    new: MasterName
    renaming: Renaming
    pki: PurePosixPath
    endpoint: str = ""
    new_key: KeyMaker = key_like

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint_host:
            raise UsageError(f"{self.endpoint[:200]!r} is no endpoint", hint="host:port, or [IPv6]:port")

    @property
    def endpoint_host(self) -> str:
        """The endpoint without its port; empty where it does not change."""
        try:
            parts = urlsplit(f"https://{self.endpoint}")
            is_one = parts.port and parts.netloc == self.endpoint and self.endpoint.isascii()
            return (parts.hostname or "") if is_one else ""
        except ValueError:
            return ""


def needs_new_files(old: MasterName, new: MasterName) -> bool:
    """Whether a master's files must be written anew, rather than put as they were."""
    return old != new


def url_host(host: str) -> str:
    """A name or an address as it stands in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _spelled(address: str) -> str:
    """An address in its shortest spelling; what is none as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
