"""Putting right, through the recovery API server, what would hurt once the real ones answer; and proving the rest.

Everything that is removed or changed is kept first, as JSON in the run's folder. An undo needs none of it: the data
directory in which it was done is put aside as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from bbr.apiserver.addresses import change, changes
from bbr.apiserver.client import ApiServer
from bbr.apiserver.extensions import conversions, extensions
from bbr.apiserver.leases import stale_leases
from bbr.apiserver.nodes import ensure_master, nodes, stale_nodes
from bbr.apiserver.objects import Saved, delete_all, name_of, put_back, text_at
from bbr.apiserver.proof import read_secrets
from bbr.apiserver.tokens import issue_token, review_token
from bbr.apiserver.volumes import attachments_of
from bbr.apiserver.webhooks import to_quarantine, webhooks
from bbr.errors import PreconditionFailed
from bbr.etcd.write import delete
from bbr.layouts.recovery import RECOVERY_PORT
from bbr.layouts.signers import keys_in
from bbr.progress import Progress
from restore.site import Site
from restore.step import Observation, done, todo
from restore.steps.readkeys import api_server_keys

QUARANTINE = "quarantine-"
MASTER_LEASES = b"/registry/masterleases/"
_ACCOUNTS = "/api/v1/serviceaccounts"


@dataclass(frozen=True, slots=True)
class Triage:
    """Stale Nodes and leases, webhooks that would deadlock, attachments of fenced nodes, old addresses."""

    site: Site
    name: ClassVar[str] = "triage"
    undo_text: ClassVar[str] = "goes with the restored data directory"
    superseded_by: ClassVar[str] = "stop-recovery"

    @property
    def title(self) -> str:
        """What is meant."""
        gone = ", ".join(sorted(self._gone_names()))
        what = f"remove Nodes and leases of {gone}, " if gone and self.site.plan.choices.is_stale_removed else ""
        hooks = "set dead webhooks aside, " if self.site.plan.choices.is_webhook_quarantined else ""
        return f"{what}{hooks}free the leaders' leases; all of it is saved first"

    def observe(self) -> Observation:
        """Whether anything of it is left."""
        with self.site.api(self.site.plan.members[0], port=RECOVERY_PORT) as api:
            left = [saved.path for saved in (*self._stale(api), *self._blocking(api))]
            left += [one.before.path for one in changes(api, self._addresses())]
            known = {node.name for node in nodes(api) if node.is_master}
        left += [f"Node {host.node_name}" for host in self.site.plan.members if host.node_name not in known]
        return todo(", ".join(left)) if left else done("nothing stale is left")

    def act(self, progress: Progress) -> None:
        """Save, then remove or change."""
        with self.site.api(self.site.plan.members[0], port=RECOVERY_PORT) as api:
            self._report(api, progress)
            for host in self.site.plan.members:
                # Before its kubelet reports: no pod shall land on a master that has no taint yet. And before stale
                # Nodes go: it gets the capacity of one until then.
                ensure_master(api, host.node_name)
            self._remove(api, self._stale(api))
            self._remove(api, self._blocking(api), mark=QUARANTINE)
            for wanted in changes(api, self._addresses()):
                self.site.keep(wanted.before)
                change(api, wanted)
        with self.site.etcd(self.site.plan.members[0]) as client:
            delete(client, MASTER_LEASES, MASTER_LEASES[:-1] + bytes([MASTER_LEASES[-1] + 1]))

    def verify(self) -> None:
        """Raises `PreconditionFailed` when something is left."""
        seen = self.observe()
        if seen.state != "done":
            raise PreconditionFailed(f"still there: {seen.seen}")

    def undo(self) -> None:
        """The data directory goes, and all of it with it."""

    def _stale(self, api: ApiServer) -> tuple[Saved, ...]:
        """Leaders' leases, since no controller runs; and what belongs to masters that are gone."""
        gone = self._gone_names()
        removed = stale_nodes(api, gone) if self.site.plan.choices.is_stale_removed else ()
        attached = attachments_of(api, gone) if self.site.plan.choices.is_stale_removed else ()
        return (*stale_leases(api, gone_hosts=gone), *removed, *attached)

    def _blocking(self, api: ApiServer) -> tuple[Saved, ...]:
        if not self.site.plan.choices.is_webhook_quarantined:
            return ()
        return to_quarantine(api, webhooks(api, gone=self._gone_names()))

    def _gone_names(self) -> frozenset[str]:
        """Nodes that are fenced or attested, and have no successor of their name."""
        staying = {host.node_name for host in self.site.plan.hosts}
        return frozenset(old.node_name for old in self.site.plan.old_masters if old.node_name not in staying)

    def _addresses(self) -> dict[str, str]:
        """Old addresses that live objects may hold. The endpoint's name counts where it changes."""
        plan = self.site.plan
        addresses: dict[str, str] = {}
        if plan.target.new_endpoint and plan.target.endpoint:
            addresses[plan.target.endpoint] = plan.target.new_endpoint
        new = [host for host in plan.members if host.takes_after]
        for number, old in enumerate(plan.old_masters if new else ()):
            if old.address:
                addresses[old.address] = new[number % len(new)].node_address
        return addresses

    def _remove(self, api: ApiServer, stale: Iterable[Saved], *, mark: str = "") -> None:
        found = list(stale)
        for saved in found:
            self.site.keep(saved, mark=mark)
        delete_all(api, found)

    def _report(self, api: ApiServer, progress: Progress) -> None:
        """What is looked at and left alone."""
        gone = self._gone_names()
        for conversion in conversions(api, gone=gone):
            if conversion.problem:
                progress.warn(f"{conversion.crd}: its conversion webhook does not live ({conversion.problem})")
        for extension in extensions(api, gone=gone):
            if extension.problem:
                progress.warn(f"APIService {extension.name}: nobody serves it ({extension.problem})")


@dataclass(frozen=True, slots=True)
class Prove:
    """The data can be worked with: every Secret decrypts, and tokens of service accounts hold."""

    site: Site
    name: ClassVar[str] = "prove"
    title: ClassVar[str] = "prove that every Secret decrypts and that service-account tokens hold"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = "stop-recovery"

    def observe(self) -> Observation:
        """It leaves nothing behind, so there is nothing to see."""
        return todo("not proven by this run")

    def act(self, progress: Progress) -> None:
        """Raises `PreconditionFailed` when something does not hold."""
        with self.site.api(self.site.plan.members[0], port=RECOVERY_PORT) as api:
            progress.step("reading every Secret")
            read = read_secrets(api)
            if read.problem:
                raise PreconditionFailed(
                    f"Secrets cannot be read with the encryption configuration on this master: {read.problem}",
                    hint="`bbr restore undo`; the configuration of the backup's time has the key: `bbr show` names it",
                )
            self._check_tokens(api, progress)
        self._check_signers()

    def verify(self) -> None:
        """`act` proves it."""

    def undo(self) -> None:
        """Nothing was left."""

    def _check_tokens(self, api: ApiServer, progress: Progress) -> None:
        account = next(api.names(_ACCOUNTS), None)
        if account is None:
            progress.warn("there is no service account yet, so no token was tried")
            return
        namespace, name = text_at(account, "metadata", "namespace"), name_of(account)
        review = review_token(api, issue_token(api, namespace, name))
        if not review.is_valid:
            raise PreconditionFailed(f"a token of service account {namespace}/{name} is refused: {review.reason}")

    def _check_signers(self) -> None:
        """Tokens that were issued before the disaster are signed by the backup's key, not by what lies here."""
        theirs = self.site.old_keys
        for host in self.site.plan.members if theirs is not None else ():
            mine = api_server_keys(self.site, host)
            if theirs and mine and keys_in(theirs.signers) - keys_in(mine.signers):
                raise PreconditionFailed(
                    f"{host.name}: its API server does not know the backup's service-account key: every token that was "
                    "issued before is refused",
                    hint="`bbr restore undo`, then put sa.key and sa.pub of the backup there, or name both keys in "
                    "--service-account-key-file",
                )


@dataclass(frozen=True, slots=True)
class PutBackWebhooks:
    """What was set aside comes back where its backend lives again."""

    site: Site
    name: ClassVar[str] = "webhooks"
    title: ClassVar[str] = "put webhooks back whose backends live again"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    def observe(self) -> Observation:
        """Whether any was set aside."""
        waiting = self.site.kept(QUARANTINE)
        return todo(f"{len(waiting)} set aside") if waiting else done("none was set aside")

    def act(self, progress: Progress) -> None:
        """Put back, look whether its backend lives, and take away again what would block."""
        with self.site.api(self.site.plan.members[0]) as api:
            for path in self.site.kept(QUARANTINE):
                put_back(api, self.site.read_kept(path, QUARANTINE))
            dead = to_quarantine(api, webhooks(api))
            mine = {self.site.read_kept(path, QUARANTINE).path for path in self.site.kept(QUARANTINE)}
            still = [one for one in dead if one.path in mine]
            delete_all(api, still)
        for one in still:
            progress.warn(
                f"{one.path.rpartition('/')[2]} stays set aside, since nobody would answer for it; it is kept in "
                f"{self.site.folder.path / 'saved'}: kubectl create -f, once its backend runs"
            )

    def verify(self) -> None:
        """`act` looks."""

    def undo(self) -> None:
        """There is none."""
