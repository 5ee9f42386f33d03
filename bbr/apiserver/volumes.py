"""Volume attachments: which volume the cluster believes to be attached to which node.

After a restore this is old: a volume attached since the backup looks free. So one is deleted only where its node is
fenced; else a volume that is still written to would be attached a second time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bbr.apiserver.client import ApiServer, path_of
from bbr.apiserver.objects import Saved, at, name_of, read_all, text_at

ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A volume, named by its PersistentVolume, on a node."""

    name: str
    path: str
    node: str
    volume: str
    attacher: str
    is_attached: bool


def attachments(api: ApiServer) -> tuple[Attachment, ...]:
    """All of them."""
    return tuple(
        Attachment(
            name=name_of(one),
            path=path_of(ATTACHMENTS, name_of(one)),
            node=text_at(one, "spec", "nodeName"),
            volume=text_at(one, "spec", "source", "persistentVolumeName"),
            attacher=text_at(one, "spec", "attacher"),
            is_attached=at(one, "status", "attached") is True,
        )
        for one in api.list(ATTACHMENTS)
    )


def attachments_of(api: ApiServer, fenced: Collection[str]) -> tuple[Saved, ...]:
    """Those of nodes that are fenced, whole: to be kept, then given to `objects.delete_all`.

    One with a finalizer stays, marked, until its CSI driver runs again and has detached the volume: as it should.
    """
    return read_all(api, [one.path for one in attachments(api) if one.node in fenced])
