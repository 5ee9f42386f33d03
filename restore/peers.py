"""The flags that say who the members are, checked before anything is fetched: etcdutl looks at them when all is there.

The rules are etcd's: ``NewURLs`` and ``NewURLsMap`` (client/pkg/types), ``VerifyBootstrap`` (server/config). Stricter:
etcd takes two URLs for the same when their names resolve to the same address; here they are written alike.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from bbr.errors import UsageError

CLUSTER_FLAG = "--initial-cluster"
PEERS_FLAG = "--initial-advertise-peer-urls"


def check_peers(name: str, initial_cluster: str, peer_urls: str) -> None:
    """Raises `UsageError` unless ``initial_cluster`` gives the member ``name`` just the URLs of ``peer_urls``.

    ``initial_cluster`` is "NAME=URL,...", with one pair for each URL of a member; ``peer_urls`` is "URL,...".
    """
    own = sorted(_checked_url(PEERS_FLAG, text) for text in peer_urls.split(","))
    members = _members(initial_cluster)
    if name not in members:
        raise UsageError(
            f"{CLUSTER_FLAG} has no member {name!r}; it has: {', '.join(members) or 'none'}",
            hint="--name is what this member is called there",
        )
    urls = [url for several in members.values() for url in several]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice:
        raise UsageError(f"{CLUSTER_FLAG} has {twice} twice", hint="each member has a peer URL of its own")
    if own != sorted(members[name]):
        raise UsageError(
            f"{CLUSTER_FLAG} gives {name} {', '.join(members[name])}, and {PEERS_FLAG} says {', '.join(own)}",
            hint="write the same in both, as that etcd's own command line has it",
        )


def _members(initial_cluster: str) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for pair in filter(None, initial_cluster.split(",")):
        name, _, url = pair.partition("=")
        if not url or not name or name != name.strip():
            raise UsageError(
                f"{CLUSTER_FLAG}: {pair!r} is not NAME=URL",
                hint="write master-1=https://10.0.0.11:2380,master-2=https://10.0.0.12:2380, without blanks",
            )
        members.setdefault(name, []).append(_checked_url(CLUSTER_FLAG, url))
    return members


def _checked_url(flag: str, text: str) -> str:
    """The URL in small letters, without the blanks around it, which etcd forgives."""
    url = text.strip().lower()
    try:
        parts = urlsplit(url)
        whole = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port)
    except ValueError:  # a port that is no number, or half an IPv6 address
        whole = False
    if not whole or url != f"{parts.scheme}://{parts.netloc}" or "@" in url or any(map(str.isspace, url)):
        raise UsageError(
            f"{flag}: {text!r} is not http(s)://HOST:PORT",
            hint="a peer URL has a host and a port, and no path: https://10.0.0.11:2380",
        )
    return url
