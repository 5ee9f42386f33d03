"""Every error that bbr raises on purpose, in one tree.

    BbrError                      1   something failed; the message says what, on what, and what to do
    |-- UsageError                2   the command line or the configuration is wrong
    |-- PartialBackup             3   a backup was committed, and lacks something that was asked for
    |-- VerificationFailed        4   content is not what was signed, hashed or served
    |   |-- RootInvalid               the root document or its chain of signatures
    |   |-- ManifestInvalid           a manifest: signature, writer, place in its chain
    |   |-- PartDamaged               a stored part: missing, swapped, cut, changed, too large
    |   |-- SnapshotDamaged           an etcd snapshot or bolt file
    |   |-- HashMismatch              HashKV is not the one that was promised
    |   `-- PlanInvalid               a restore's plan or journal: edited, cut, or of another version
    |-- PreconditionFailed        5   nothing was done, because doing it would make things worse
    |   |-- IdentityConflict          the cluster's name belongs to another cluster
    |   |-- MembersDisagree           etcd members answer with different HashKV, or CORRUPT is raised
    |   |-- TargetNotEmpty            a restore would write over something
    |   |-- NoSpace                   a disk is full, or will be
    |   |-- ToolMissing               etcdutl or a server program is not there, or too old
    |   |-- ClockSkew                 the store's time and this host's differ too much
    |   |-- Drift                     the machines are not as they were when the plan was made
    |   |-- StepBlocked               a step of a restore waits for a person
    |   |-- NoWayBack                 an undo after the point of no return
    |   `-- ExternalAuthority         certificates must be signed by an authority whose key is not in the backup
    |-- StepTimedOut              1   a step of a restore waited as long as it may; may be tried again
    |-- NoRepository             10   there is none at this address, or not the pinned one
    |   `-- FormatTooNew              it was written by a newer bbr
    |-- HeldByAnotherRun         11   another run of this host works on this cluster
    |-- KeyRefused               12   a key or an identity is wrong, revoked, exposed or missing
    |-- StoreError                1   the object store; see the subclasses
    |   |-- NotFound, AlreadyExists, AccessDenied, BucketMissing, NotAStore, BodyTooLarge, BodyWrong
    |   `-- StoreUnavailable          may be tried again
    |-- EtcdError                 1   the etcd servers; see the subclasses
    |   |-- EtcdTls, EtcdUnauthorized, EtcdCompacted
    |   `-- EtcdUnavailable           may be tried again
    |-- ApiServerError            1   the API server of a cluster; see the subclasses
    |   |-- ApiServerTls, Forbidden, Conflict, NotFoundObject, Gone, Invalid
    |   `-- NotReady                    it does not answer yet, or no more; may be tried again
    |-- IaasError                 1   what makes and holds machines; see the subclasses
    |   |-- IaasUnavailable             it did not answer; may be tried again
    |   |-- IaasRefused          5   it has no such machine, or cannot do what is asked
    |   |-- MachineTaken         5   the machine is another run's, or serves a living cluster
    |   |-- NotOurs              5   the machine does not carry this run's mark; it was left as it is
    |   `-- MachinesUnknown      3   some machines could not be asked, so what is told of the others is not all
    `-- MachineError              1   a machine, reached by SSH or this one
        |-- MachineUnreachable          nothing was begun on it; may be tried again
        |-- ConnectionLost              something was begun, and may still go on there
        |-- HostKeyWrong         12   it showed another key than the pinned one, or none is pinned
        |-- LoginRefused         12   it refused these keys or this user
        |-- NoSudo                5   the user who logs in may not become root without a password
        |-- CommandFailed             a command ended with a code that was not expected
        |-- CommandTimedOut           a command took longer than its limit, and was ended
        |-- OutputTooLarge            a command printed, or a file holds, more than the limit
        |-- FileMissing               no file has this path
        `-- TransferDamaged       4   a file did not arrive as it was sent

``exit_code`` is what the command line ends with. ``retry_may_help`` is what a retry looks at: only an
error that says so is tried again. ``hint`` is one sentence that tells what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class BbrError(Exception):
    """Something failed. ``str(error)`` says what and on what; ``hint`` says what to do next, or is empty."""

    exit_code: ClassVar[int] = 1
    retry_may_help: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(BbrError):
    """The command line or the configuration is wrong; nothing was done."""

    exit_code = 2


class PartialBackup(BbrError):
    """A backup was committed, and lacks something that was asked for."""

    exit_code = 3


class VerificationFailed(BbrError):
    """Content is not what was signed, hashed or served."""

    exit_code = 4


class RootInvalid(VerificationFailed):
    """The root document, its signatures, or its chain of numbers."""


class ManifestInvalid(VerificationFailed):
    """A manifest's signature, writer, or place in its chain."""


class PartDamaged(VerificationFailed):
    """A stored part is missing, swapped, cut, changed or too large."""


class SnapshotDamaged(VerificationFailed):
    """An etcd snapshot or bolt file breaks its own rules, or its trailing hash."""


class HashMismatch(VerificationFailed):
    """HashKV is not the one that was promised."""


class PlanInvalid(VerificationFailed):
    """A restore's plan or journal is not what was written: edited, cut, or of another version of bbr."""


class PreconditionFailed(BbrError):
    """Nothing was done, because doing it would make things worse."""

    exit_code = 5


class IdentityConflict(PreconditionFailed):
    """The cluster's name belongs to another cluster."""


class MembersDisagree(PreconditionFailed):
    """Members answer with different HashKV at one revision, or the CORRUPT alarm is raised."""


class TargetNotEmpty(PreconditionFailed):
    """A restore would write over something that exists."""


class NoSpace(PreconditionFailed):
    """A disk is full, or would be."""


class ToolMissing(PreconditionFailed):
    """A program that is needed is not there, or is too old."""


class ClockSkew(PreconditionFailed):
    """The store's time and this host's differ by more than is safe."""


class Drift(PreconditionFailed):
    """The machines, or the backup, are not as they were when the plan was made. Nothing was done."""


class StepBlocked(PreconditionFailed):
    """A step of a restore must not act before a person has seen to something. What was done before it stays."""


class NoWayBack(PreconditionFailed):
    """An undo was asked for after the point of no return."""


class ExternalAuthority(PreconditionFailed):
    """Certificates must be signed by an authority whose key is not in the backup. The requests were written."""


class StepTimedOut(BbrError):
    """What a step of a restore waited for did not come in time. The same command goes on waiting."""

    retry_may_help = True


class NoRepository(BbrError):
    """There is no repository at this address, or not the one that is pinned."""

    exit_code = 10


class FormatTooNew(NoRepository):
    """The repository was written by a newer bbr."""


class HeldByAnotherRun(BbrError):
    """Another run of this host works on this cluster."""

    exit_code = 11


class KeyRefused(BbrError):
    """A key or an identity is wrong, revoked, exposed to other users, or missing."""

    exit_code = 12


class StoreError(BbrError):
    """The object store failed."""


class NotFound(StoreError):
    """No object has this name."""


class AlreadyExists(StoreError):
    """An object of this name exists; it was left as it is."""


class AccessDenied(StoreError):
    """The store refused these credentials."""


class BucketMissing(StoreError):
    """The bucket, or the directory, does not exist."""


class NotAStore(StoreError):
    """What answers at this address does not speak the store's protocol."""


class BodyTooLarge(StoreError):
    """An object is larger than the limit it was read with."""


class BodyWrong(StoreError):
    """A body came back other than it was written."""


class StoreUnavailable(StoreError):
    """The store did not answer, or asked to be tried again."""

    retry_may_help = True


class EtcdError(BbrError):
    """The etcd servers failed."""


class EtcdTls(EtcdError):
    """The TLS handshake failed: an authority, a name or an expiry."""


class EtcdUnauthorized(EtcdError):
    """etcd's authentication refused these credentials."""


class EtcdCompacted(EtcdError):
    """The revision that was asked for has been compacted away."""


class EtcdUnavailable(EtcdError):
    """No etcd member answered in time, or a stream broke."""

    retry_may_help = True


class ApiServerError(BbrError):
    """The API server of a cluster failed, or refused."""


class ApiServerTls(ApiServerError):
    """The TLS handshake with the API server failed: an authority, a name, an expiry, or a port of something else."""


class Forbidden(ApiServerError):
    """The API server does not know these credentials (401), or they may not do this (403)."""


class Conflict(ApiServerError):
    """The object exists already, or is not the one that was looked at (409). It was left as it is."""


class NotFoundObject(ApiServerError):
    """The API server has no object of this path (404)."""


class Gone(ApiServerError):
    """The revision that was asked for is compacted away (410): list again."""


class Invalid(ApiServerError):
    """The API server refused the content of an object (400, 413, 415, 422)."""


class NotReady(ApiServerError):
    """The API server does not answer, or says that it is not ready or too busy. A change may have been made."""

    retry_may_help = True


class IaasError(BbrError):
    """What makes and holds machines failed."""


class IaasUnavailable(IaasError):
    """It did not answer, or a machine that it must ask did not."""

    retry_may_help = True


class IaasRefused(IaasError):
    """It has no such machine, or cannot do what is asked; nothing was done."""

    exit_code = 5


class MachineTaken(IaasError):
    """The machine carries another run's mark, or serves a living cluster; nothing was done to it."""

    exit_code = 5


class NotOurs(IaasError):
    """The machine does not carry this run's mark; it was left as it is."""

    exit_code = 5


class MachinesUnknown(IaasError):
    """Some machines could not be asked: what is told of the others is not all."""

    exit_code = 3


class MachineError(BbrError):
    """A machine failed: this one, or one that is reached by SSH."""


class MachineUnreachable(MachineError):
    """No connection could be made. Nothing was begun on the machine."""

    retry_may_help = True


class ConnectionLost(MachineError):
    """The connection broke while something ran. It may have been done, and may still go on: look before a retry."""


class HostKeyWrong(MachineError):
    """The machine showed another host key than the pinned one, or no key is pinned for it. Nothing was sent to it."""

    exit_code = 12


class LoginRefused(MachineError):
    """The machine refused these keys, or this user."""

    exit_code = 12


class NoSudo(MachineError):
    """The user who logs in may not become root without a password. Nothing was done."""

    exit_code = 5


class CommandFailed(MachineError):
    """A command ended with a code that was not expected: ``code``, and the last lines of its ``stderr``."""

    def __init__(self, message: str, *, code: int = 1, stderr: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.stderr = stderr


class CommandTimedOut(MachineError):
    """A command took longer than its limit, and was ended; what it had done by then is done."""


class OutputTooLarge(MachineError):
    """A command printed, or a file holds, more than the limit it was read with."""


class FileMissing(MachineError):
    """No file on the machine has this path."""


class TransferDamaged(MachineError):
    """A file did not arrive as it was sent; nothing has appeared at its path."""

    exit_code = 4
