"""The steps of each kind of restore, in their order. Read top to bottom, this is what bbr does. Order and reasons:
docs/runbooks, and docs/decisions."""

from __future__ import annotations

from restore.site import Site
from restore.step import Step
from restore.steps.files import PutFiles
from restore.steps.ground import ClaimMachines, FenceOldMasters, HandOver, Rehearse, Upload
from restore.steps.growth import AddLearners, JoinMembers, PromoteLearners, RemoveLostMembers, RemoveLostNodes
from restore.steps.members import DisarmAlarms, MakeMembers, SaveWhatIsThere, StartEtcd
from restore.steps.programs import StopControlPlane, StopEtcd
from restore.steps.readkeys import MergeKeys
from restore.steps.recovery import StartRecovery, StopRecovery
from restore.steps.service import (
    ClearUpload,
    FreshBackup,
    NodesReport,
    PointEndpoint,
    StartApiServers,
    StartControllers,
    WaitForWorkers,
)
from restore.steps.triage import Prove, PutBackWebhooks, Triage

NO_RETURN = frozenset({StartApiServers.name, RemoveLostMembers.name})
"""The first of these in a plan is its point of no return."""


def steps_of(site: Site) -> list[Step]:
    """All steps of a plan."""
    return {"in-place": _in_place, "fresh": _fresh, "repair": _repair, "etcd-only": _etcd_only}[site.plan.kind](site)


def _in_place(site: Site) -> list[Step]:
    """The surviving masters go back to a backup; their own files stay."""
    return [
        FenceOldMasters(site),
        ClaimMachines(site),
        Upload(site),
        *_rehearsal(site),
        SaveWhatIsThere(site),
        StopControlPlane(site),
        StopEtcd(site),
        MakeMembers(site),
        StartEtcd(site),
        DisarmAlarms(site),
        MergeKeys(site),
        *_look_inside(site),
        StartApiServers(site),
        NodesReport(site),
        StartControllers(site),
        WaitForWorkers(site),
        *_at_last(site),
    ]


def _fresh(site: Site) -> list[Step]:
    """New machines become the cluster."""
    return [
        FenceOldMasters(site),
        ClaimMachines(site),
        Upload(site),
        *_rehearsal(site),
        PutFiles(site),
        MakeMembers(site),
        StartEtcd(site),
        DisarmAlarms(site),
        *_look_inside(site),
        StartApiServers(site),
        PointEndpoint(site),
        NodesReport(site),
        StartControllers(site),
        WaitForWorkers(site),
        *_at_last(site),
    ]


def _repair(site: Site) -> list[Step]:
    """A lost master is replaced while the others serve."""
    return [
        FenceOldMasters(site),
        ClaimMachines(site),
        PutFiles(site),
        RemoveLostMembers(site),
        AddLearners(site),
        JoinMembers(site),
        PromoteLearners(site),
        StartApiServers(site),
        PointEndpoint(site),
        NodesReport(site),
        StartControllers(site),
        RemoveLostNodes(site),
        HandOver(site),
    ]


def _etcd_only(site: Site) -> list[Step]:
    """etcd goes back to a backup, and nothing else is looked at: for etcds apart from Kubernetes."""
    return [
        FenceOldMasters(site),
        ClaimMachines(site),
        Upload(site),
        *_rehearsal(site),
        SaveWhatIsThere(site),
        StopControlPlane(site),
        StopEtcd(site),
        MakeMembers(site),
        StartEtcd(site),
        DisarmAlarms(site),
        StartApiServers(site),
        StartControllers(site),
        ClearUpload(site),
        HandOver(site),
    ]


def _rehearsal(site: Site) -> list[Step]:
    return [Rehearse(site)] if site.plan.choices.is_rehearsed else []


def _look_inside(site: Site) -> list[Step]:
    """Before anybody else sees the data."""
    return [StartRecovery(site), Triage(site), Prove(site), StopRecovery(site)]


def _at_last(site: Site) -> list[Step]:
    backup = [FreshBackup(site)] if site.plan.choices.is_backed_up else []
    return [PutBackWebhooks(site), *backup, ClearUpload(site), HandOver(site)]
