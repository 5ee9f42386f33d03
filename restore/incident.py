"""The incident log: what a restore did, when, and what it saw, as a text for the post-mortem. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from restore.journal import Entry
from restore.plan import Plan

_WORDS = {
    "apply": "apply began",
    "begun": "began",
    "found": "was done already",
    "done": "done",
    "failed": "FAILED",
    "undoing": "undo began",
    "undone": "undone",
    "finished": "finished",
    "cleaned": "cleaned",
    "warned": "warning",
    "noted": "seen",
}


def render(plan: Plan, entries: Iterable[Entry]) -> str:
    """The whole log. It holds no secrets: neither plan nor journal does."""
    titles = {step.name: step.title for step in plan.steps}
    lines = [
        f"Restore {plan.run}: {plan.kind} of {plan.target.name}",
        f"planned  {plan.made_at:%Y-%m-%d %H:%M:%SZ}, plan {plan.sha256[:16]}",
        (
            f"from     {plan.source.backup_id}, taken {plan.source.taken_at:%Y-%m-%d %H:%M:%SZ}, "
            f"revision {plan.source.etcd.revision:,}, HashKV {plan.source.etcd.hash_kv}"
        ),
        f"onto     {', '.join(f'{host.name} ({host.address})' for host in plan.members)}",
        "",
        "Lost, as it was said before:",
        *(f"  - {loss}" for loss in plan.loses),
        "",
        "What happened (UTC):",
    ]
    for entry in entries:
        what = _WORDS.get(entry.event, entry.event)
        title = f" {titles.get(entry.step, entry.step)}:" if entry.step else ""
        took = f" ({entry.seconds:.1f} s)" if entry.seconds else ""
        detail = f" - {entry.detail}" if entry.detail else ""
        lines.append(f"  {entry.time:%Y-%m-%d %H:%M:%S}{title} {what}{took}{detail}")
    return "\n".join(lines) + "\n"
