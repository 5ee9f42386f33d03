"""What a key in etcd means to Kubernetes: under which resource an object is stored."""

from __future__ import annotations


def kubernetes_prefix(key: bytes) -> bytes:
    """The resource's prefix, with its final slash: ``/registry/pods/``, ``/registry/<group>/<plural>/`` if custom.

    A segment with a dot in it is a group. A key that is not built so is counted up to the slash after its first
    segment, or under itself when it has none.
    """
    segments = key.split(b"/", 4)
    if len(segments) < 3 or segments[0]:
        cut = key.find(b"/", 1) + 1
        return key[:cut] if cut else key
    taken = 4 if b"." in segments[2] and len(segments) > 4 else 3
    if len(segments) == 3:
        return b"/" + segments[1] + b"/"
    return b"/".join(segments[:taken]) + b"/"
