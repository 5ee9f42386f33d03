from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bbr.errors import ManifestInvalid
from bbr.repository import document, names
from bbr.repository.acceptance import Acceptance
from bbr.repository.administration import NewSigner, add_signer
from bbr.repository.envelope import encode_envelope, sign
from bbr.repository.keys import SigningKey
from bbr.repository.manifest import PAYLOAD_TYPE, Manifest, encode_manifest

if TYPE_CHECKING:
    from tests.repository.conftest import Site, Writer


def place(manifest: Manifest) -> str:
    return names.manifest(manifest.cluster, manifest.generation, manifest.sequence, manifest.nonce)


def accept(site: Site, manifest: Manifest, *, writer: Writer | None = None, name: str = "") -> Manifest:
    body = encode_manifest(manifest, (writer or site.main).key)
    return Acceptance(site.trusted).accept(name or place(manifest), body)


def refused(site: Site, manifest: Manifest, *, writer: Writer | None = None, name: str = "") -> str:
    """Why it is refused; the message begins with the name of the object."""
    with pytest.raises(ManifestInvalid) as caught:
        accept(site, manifest, writer=writer, name=name)
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith(name or place(manifest))
    return str(caught.value)


def test_manifest_of_a_writer_is_accepted(site: Site) -> None:
    manifest = site.draft()
    assert accept(site, manifest) == manifest


def test_bad_signature_is_refused(site: Site) -> None:
    manifest = site.draft()
    body = encode_manifest(manifest, site.main.key)
    at = body.index(b'"sig":"') + 20
    changed = body[:at] + (b"A" if body[at : at + 1] != b"A" else b"B") + body[at + 1 :]
    with pytest.raises(ManifestInvalid, match=f"the signature of {site.main.key.key_id} is bad"):
        Acceptance(site.trusted).accept(place(manifest), changed)


def test_manifest_under_a_name_that_is_none_is_refused(site: Site) -> None:
    assert "is not the name of a manifest" in refused(site, site.draft(), name="manifests/prod/x.manifest")


def test_manifest_replayed_under_another_place_is_refused(site: Site) -> None:
    manifest = site.draft()
    other = names.generation(site.clock.now + timedelta(hours=1), site.main.key.key_id, "0" * 16)
    for changed, reason in (
        (replace(manifest, cluster="test"), "it was made for cluster prod"),
        (replace(manifest, generation=other), f"it was made for generation {manifest.generation}"),
        (replace(manifest, sequence=5), "it was made as sequence 0"),
        (replace(manifest, nonce="0" * 16), f"it was made by run {manifest.nonce}"),
    ):
        assert reason in refused(site, manifest, name=place(changed))


def test_manifest_of_another_repository_is_refused(site: Site) -> None:
    manifest = replace(site.draft(), repository_id="ab" * 32)
    assert f"it was made for repository {'ab' * 32}" in refused(site, manifest)


def test_key_that_is_no_writer_is_refused(site: Site) -> None:
    second = site.add_writer("second")
    manifest = site.draft(writer=second)
    site.trusted = replace(site.trusted, root=replace(site.trusted.root, signers=site.trusted.root.signers[:1]))
    assert "which is no writer of this repository" in refused(site, manifest, writer=second)


def test_verifier_cannot_write(site: Site) -> None:
    verifier = site.add_writer("to be replaced")
    verifier.key = SigningKey.generate()
    signer = NewSigner(verifier.key.public, "verifier", role="verifier")
    site.trusted = add_signer(site.store, site.trusted, site.people, signer, now=site.clock.now)
    assert "which is no writer of this repository" in refused(site, site.draft(writer=verifier), writer=verifier)


def test_manifest_signed_by_another_than_it_names_is_refused(site: Site) -> None:
    second = site.add_writer("second")
    manifest = site.draft()
    assert f"it names {site.main.key.key_id} as its writer" in refused(site, manifest, writer=second)


def test_writer_of_other_clusters_is_refused(site: Site) -> None:
    second = site.add_writer("second", "test")
    assert accept(site, site.draft(cluster="test", writer=second), writer=second).cluster == "test"
    reason = refused(site, site.draft(cluster="prod", writer=second), writer=second)
    assert "writer second may not write for this cluster" in reason


def test_revoked_writer_is_refused_from_then_on(site: Site) -> None:
    before, after = site.draft(), replace(site.draft(), time=site.clock.now + timedelta(seconds=5))
    site.clock.advance(timedelta(seconds=5))
    site.revoke("main", at=site.clock.now)
    assert accept(site, before) == before
    assert "writer main was revoked at 2026-01-02 04:04 UTC" in refused(site, after)


def test_unknown_epoch_is_refused(site: Site) -> None:
    assert "which this repository does not have" in refused(
        site, replace(site.draft(), epoch="20260101T000000Z-00000000")
    )


def test_manifest_after_its_generations_term_is_refused(site: Site) -> None:
    manifest = site.draft()
    last = replace(manifest, time=site.clock.now + timedelta(hours=24))
    late = replace(manifest, time=site.clock.now + timedelta(hours=24, seconds=1))
    assert accept(site, last) == last
    assert "after its generation's term" in refused(site, late)


def test_document_of_another_kind_is_refused(site: Site) -> None:
    manifest = site.draft()
    for kind in ("application/vnd.bbr.root.v1+json", "application/vnd.bbr.manifest.v2+json"):
        body = encode_envelope(sign(kind, document.encode(manifest), [site.main.key]))
        with pytest.raises(ManifestInvalid, match="not as a manifest of format 1"):
            Acceptance(site.trusted).accept(place(manifest), body)


def test_manifest_with_two_signatures_is_refused(site: Site) -> None:
    second = site.add_writer("second")
    manifest = site.draft()
    body = encode_envelope(sign(PAYLOAD_TYPE, document.encode(manifest), [site.main.key, second.key]))
    with pytest.raises(ManifestInvalid, match="has 2 signatures, not one"):
        Acceptance(site.trusted).accept(place(manifest), body)


def test_no_doubt_about_a_manifest_stored_when_it_says(site: Site) -> None:
    manifest = site.draft()
    acceptance = Acceptance(site.trusted)
    for minutes in (-15, 0, 15, 10_000):
        assert acceptance.doubt(manifest, manifest.time + timedelta(minutes=minutes)) == ""
    assert acceptance.doubt(manifest, None) == ""


def test_time_that_the_store_had_not_reached_is_doubted(site: Site) -> None:
    manifest = site.draft()
    reason = Acceptance(site.trusted).doubt(manifest, manifest.time - timedelta(minutes=16))
    assert "claims 2026-01-02 04:04 UTC, and was stored before, at 2026-01-02 03:48 UTC" in reason


def test_manifest_backdated_by_a_revoked_writer_is_doubted(site: Site) -> None:
    manifest = site.draft()
    site.clock.advance(timedelta(hours=1))
    site.revoke("main", at=site.clock.now)
    acceptance = Acceptance(site.trusted)
    assert acceptance.doubt(manifest, manifest.time) == ""
    assert "after its writer was revoked" in acceptance.doubt(manifest, site.clock.now + timedelta(hours=2))
