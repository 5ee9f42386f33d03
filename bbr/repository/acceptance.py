"""Whether a manifest is believed: every rule that looks at one manifest, its name, and the root. Pure.

What is refused here is not listed. Rules that compare manifests with one another are in `bbr.repository.chains`.
The times that a manifest claims are held against the store's own, but only as far as a repository may be copied:
a copy has later times in its listing, never earlier ones.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bbr.errors import ManifestInvalid
from bbr.repository import names
from bbr.repository.envelope import check_signatures, decode_envelope
from bbr.repository.keys import VerifyKey
from bbr.repository.manifest import GENERATION_TERM, PAYLOAD_TYPE, Manifest, decode_manifest
from bbr.repository.root import Signer, TrustedRoot

CLOCK_TOLERANCE = timedelta(minutes=15)
"""What a manifest claims and what the store's listing says may differ by so much: clocks, and a slow last write."""


class Acceptance:
    """Decides under one root. Keys are made ready once, so that 10,000 manifests cost 10,000 signatures and no more."""

    def __init__(self, trusted: TrustedRoot) -> None:
        self._trusted = trusted
        self._epochs = {epoch.id for epoch in trusted.root.epochs}
        self._writers = {
            signer.id: (signer, VerifyKey(bytes.fromhex(signer.public_key)))
            for signer in trusted.root.signers
            if signer.role == "writer"
        }

    def accept(self, name: str, body: bytes) -> Manifest:
        """The manifest that is stored as ``body`` under ``name``. Raises `ManifestInvalid`, saying why."""
        place = names.parse_manifest_name(name)
        if place is None:
            raise ManifestInvalid(f"{name} is not the name of a manifest")
        envelope = decode_envelope(body, error=ManifestInvalid, what=name)
        if envelope.payload_type != PAYLOAD_TYPE:
            raise ManifestInvalid(
                f"{name} is signed as {envelope.payload_type[:60]!r}, not as a manifest of format 1",
                hint="a newer bbr may have written it",
            )
        if len(envelope.signatures) != 1:
            raise ManifestInvalid(f"{name} has {len(envelope.signatures)} signatures, not one")
        key_id = envelope.signatures[0].key_id
        if key_id not in self._writers:
            raise ManifestInvalid(f"{name} is signed by {key_id}, which is no writer of this repository")
        signer, key = self._writers[key_id]
        check_signatures(envelope, {key_id: key}, error=ManifestInvalid, what=name)
        manifest = decode_manifest(envelope.payload, what=name)
        problem = self._problem(place, manifest, signer)
        if problem:
            raise ManifestInvalid(f"{name}: {problem}")
        return manifest

    def doubt(self, manifest: Manifest, stored: datetime | None) -> str:
        """Why an accepted manifest should not be chosen unasked, given when the store says it was stored; or ""."""
        if stored is None:
            return ""
        if stored < manifest.time - CLOCK_TOLERANCE:
            return f"claims {manifest.time:%Y-%m-%d %H:%M} UTC, and was stored before, at {stored:%Y-%m-%d %H:%M} UTC"
        revoked = self._writers[manifest.writer][0].revoked
        if revoked is not None and stored > revoked + CLOCK_TOLERANCE:
            return (
                f"was stored at {stored:%Y-%m-%d %H:%M} UTC, after its writer was revoked; it claims an earlier time: "
                "either the repository was copied since, or somebody uses the revoked key"
            )
        return ""

    def _problem(self, place: names.ManifestName, manifest: Manifest, signer: Signer) -> str:
        if manifest.repository_id != self._trusted.repository_id:
            return f"it was made for repository {manifest.repository_id}"
        if manifest.writer != signer.id:
            return f"it names {manifest.writer} as its writer, and is signed by {signer.id}"
        if manifest.cluster != place.cluster:
            return f"it was made for cluster {manifest.cluster}"
        if manifest.generation != place.generation:
            return f"it was made for generation {manifest.generation}"
        if manifest.sequence != place.sequence:
            return f"it was made as sequence {manifest.sequence}"
        if manifest.nonce != place.nonce:
            return f"it was made by run {manifest.nonce}"
        if not signer.serves(manifest.cluster):
            return f"writer {signer.label} may not write for this cluster"
        if signer.revoked is not None and manifest.time >= signer.revoked:
            return f"writer {signer.label} was revoked at {signer.revoked:%Y-%m-%d %H:%M} UTC, before this backup"
        if manifest.epoch not in self._epochs:
            return f"it is sealed for epoch {manifest.epoch}, which this repository does not have"
        if manifest.time > manifest.opened + GENERATION_TERM:
            return "it was stored after its generation's term, when parts may already be pruned"
        return ""
