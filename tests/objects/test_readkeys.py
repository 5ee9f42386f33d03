"""Encryption configurations merged: theirs can be read, what is written stays as it is, and no key is shown."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
import yaml

from bbr.errors import UsageError
from bbr.objects.encryption import why_sealed
from bbr.objects.readkeys import masked_difference, merge_read_keys
from tests.objects.test_encryption import KEY, sealed_cbc, sealed_gcm

OLD, NEW = os.urandom(32), os.urandom(32)


def provider(kind: str, *keys: tuple[str, bytes]) -> dict[str, Any]:
    listed = [{"name": name, "secret": base64.b64encode(secret).decode()} for name, secret in keys]
    return {kind: {"keys": listed}}


def configuration(*entries: tuple[list[str], list[dict[str, Any]]]) -> bytes:
    listed = [{"resources": resources, "providers": providers} for resources, providers in entries]
    return yaml.safe_dump({"kind": "EncryptionConfiguration", "resources": listed}).encode()


def entries(body: bytes) -> list[dict[str, Any]]:
    return list(yaml.safe_load(body)["resources"])


MINE = configuration((["secrets"], [provider("aescbc", ("key2", NEW)), {"identity": {}}]))
THEIRS = configuration((["secrets"], [provider("aescbc", ("key1", OLD)), {"identity": {}}]))


def test_their_key_is_for_reading_and_mine_still_writes() -> None:
    merged = merge_read_keys(MINE, THEIRS, what="mine")
    (entry,) = entries(merged)
    assert entry["providers"][0] == provider("aescbc", ("key2", NEW))
    assert why_sealed(merged, KEY, sealed_cbc(OLD, "key1")) == ""
    assert why_sealed(merged, KEY, sealed_cbc(NEW, "key2")) == ""


def test_what_is_there_already_changes_nothing_and_twice_is_once() -> None:
    assert merge_read_keys(MINE, MINE, what="mine") is MINE
    merged = merge_read_keys(MINE, THEIRS, what="mine")
    assert merge_read_keys(merged, THEIRS, what="mine") is merged


def test_a_key_of_the_same_name_is_renamed_on_my_side() -> None:
    """A configuration made anew after a loss has the name of the manual's example again."""
    mine = configuration((["secrets"], [provider("aescbc", ("key1", NEW)), {"identity": {}}]))
    merged = merge_read_keys(mine, THEIRS, what="mine")
    (entry,) = entries(merged)
    assert entry["providers"][:2] == [provider("aescbc", ("key1-new", NEW)), provider("aescbc", ("key1", OLD))]
    assert why_sealed(merged, KEY, sealed_cbc(OLD, "key1")) == ""
    assert merge_read_keys(merged, THEIRS, what="mine") is merged


def test_the_way_back_after_a_renaming_reads_what_was_written_before_it() -> None:
    """A safety snapshot is sealed with my own old key, under its old name."""
    mine = configuration((["secrets"], [provider("aescbc", ("key1", NEW)), {"identity": {}}]))
    merged = merge_read_keys(mine, THEIRS, what="mine")
    back = merge_read_keys(merged, mine, what="mine")
    assert why_sealed(back, KEY, sealed_cbc(NEW, "key1")) == ""
    assert entries(back)[0]["providers"][0] == entries(merged)[0]["providers"][0]


def test_other_providers_and_a_kms_come_along() -> None:
    kms = {"kms": {"apiVersion": "v2", "name": "vault", "endpoint": "unix:///run/kms.sock"}}
    theirs = configuration((["secrets"], [provider("aesgcm", ("a", OLD)), kms, provider("secretbox", ("b", OLD))]))
    merged = merge_read_keys(MINE, theirs, what="mine")
    assert why_sealed(merged, KEY, sealed_gcm(OLD, name="a")) == ""
    assert kms in entries(merged)[0]["providers"]
    assert merge_read_keys(merged, theirs, what="mine") is merged


def test_what_only_they_encrypt_is_read_and_written_in_the_clear() -> None:
    theirs = configuration((["secrets", "configmaps", "toads.example.com"], [provider("aescbc", ("key1", OLD))]))
    merged = entries(merge_read_keys(MINE, theirs, what="mine"))
    assert merged[1]["resources"] == ["configmaps", "toads.example.com"]
    assert merged[1]["providers"] == [{"identity": {}}, provider("aescbc", ("key1", OLD))]


def test_a_wildcard_of_mine_covers_what_they_name() -> None:
    mine = configuration((["*.*"], [provider("aescbc", ("key2", NEW))]))
    assert [one["resources"] for one in entries(merge_read_keys(mine, THEIRS, what="mine"))] == [["*.*"]]


def test_a_diff_shows_names_and_no_keys() -> None:
    merged = merge_read_keys(MINE, THEIRS, what="mine")
    shown = masked_difference("/etc/kubernetes/encryption.yaml", MINE, merged)
    assert "+++ /etc/kubernetes/encryption.yaml" in shown
    assert "name: key1" in shown
    assert not [key for key in (OLD, NEW) if base64.b64encode(key).decode() in shown]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"kind: Pod",
        b"resources: [{resources: [secrets], providers: []}]",
        b"resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: '#'}]}}]}]",
    ],
)
def test_what_is_no_configuration_is_refused_by_name(body: bytes) -> None:
    with pytest.raises(UsageError, match=r"m1: /etc/kubernetes/encryption\.yaml"):
        merge_read_keys(body, THEIRS, what="m1: /etc/kubernetes/encryption.yaml")
