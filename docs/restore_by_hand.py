"""Restores one etcd from a repository of format 1, by docs/format.md alone: none of bbr's code is used.
python3 docs/restore_by_hand.py REPOSITORY_FOLDER RECOVERY_KEY_FILE BACKUP_ID OUTPUT_FILE [ETCD_NAME]
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pyrage
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Pairs = list[tuple[bytes, bytes]]
PAGE, FAN_OUT = 4096, 100


def need(condition: object, problem: str) -> None:
    if not condition:
        raise SystemExit(f"restore_by_hand: {problem}")


def open_envelope(body: bytes, kind: str, public_keys: set[str]) -> Any:
    """The payload of an envelope that each of the keys (in hex) signed; cryptography raises for a bad signature."""
    envelope = json.loads(body)
    payload = base64.b64decode(envelope["payload"], validate=True)
    by_id = {hashlib.sha256(bytes.fromhex(key)).hexdigest()[:16]: key for key in public_keys}
    need(envelope["payloadType"] == f"application/vnd.bbr.{kind}.v1+json", f"not a {kind} of format 1")
    need([one["keyid"] for one in envelope["signatures"]] == sorted(by_id), f"a {kind} signed by others")
    message = f"DSSEv1 {len(envelope['payloadType'])} {envelope['payloadType']} {len(payload)} ".encode() + payload
    for one in envelope["signatures"]:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(by_id[one["keyid"]]))
        public.verify(base64.b64decode(one["sig"], validate=True), message)
    return json.loads(payload)


def newest_root(repository: Path) -> tuple[Any, str]:
    """The newest root, each signed by the admin key of the one before, and the repository's id."""
    root, hashes = dict[str, Any](), list[str]()
    for number in range(1, len(list((repository / "root").iterdir())) + 1):
        body = (repository / "root" / f"{number}.json").read_bytes()
        claimed = json.loads(base64.b64decode(json.loads(body)["payload"]))
        signers = {claimed["admin_key"], root.get("admin_key", claimed["admin_key"])}
        root = open_envelope(body, "root", signers)
        need(root["number"] == number and root["previous"] == (hashes[-1] if hashes else None), "roots out of order")
        hashes.append(hashlib.sha256(body).hexdigest())
    return root, hashes[0]


def manifests(repository: Path, root: Any, repository_id: str) -> dict[tuple[str, int], Any]:
    """Every manifest that a writer of the root signed, by generation and sequence."""
    found = {}
    writers = {one["id"]: one for one in root["signers"] if one["role"] == "writer"}
    for path in (repository / "manifests").glob("*/*/*.manifest"):
        writer = writers[json.loads(path.read_bytes())["signatures"][0]["keyid"]]
        one = open_envelope(path.read_bytes(), "manifest", {writer["public_key"]})
        place = one["cluster"], one["generation"], f"{one['sequence']:06d}-{one['nonce']}.manifest"
        need(place == path.parts[-3:] and one["repository_id"] == repository_id, f"{path} is not where it belongs")
        allowed = not writer["revoked"] or one["time"] < writer["revoked"]
        need(allowed and {"*", one["cluster"]} & set(writer["clusters"]), f"{path}: its writer may not write it")
        found[one["generation"], one["sequence"]] = one
    return found


def content(repository: Path, parts: Any, identity: Any) -> bytes:
    out = []
    for part in parts:
        body = (repository / part["name"]).read_bytes()
        need(hashlib.sha256(body).hexdigest() == part["sha256"], f"{part['name']} is damaged")
        frame = pyrage.decrypt(body, [identity])
        need(zstandard.frame_content_size(frame) == part["raw_bytes"] <= 16 << 20, f"{part['name']} is too large")
        out.append(zstandard.ZstdDecompressor().decompress(frame))
    return b"".join(out)


def read_bolt(db: bytes) -> dict[bytes, Pairs]:
    metas = [struct.unpack_from("<IIIIQQQQQ", db, at + 16) for at in (0, struct.unpack_from("<I", db, 24)[0])]
    meta = max(metas, key=lambda one: int(one[8]))
    need(meta[:2] == (0xED0CDAED, 2), "not a bolt file")

    def elements(page: bytes) -> Iterator[tuple[bytes, bytes]]:
        _, flags, count, _ = struct.unpack_from("<QHHI", page)
        for at in range(16, 16 + 16 * count, 16):
            if flags & 2:
                _, position, key_size, value_size = struct.unpack_from("<IIII", page, at)
                start = at + position
                yield page[start : start + key_size], page[start + key_size : start + key_size + value_size]
            else:
                yield from tree(struct.unpack_from("<IIQ", page, at)[2])

    def tree(page_id: int) -> Iterator[tuple[bytes, bytes]]:
        overflow = struct.unpack_from("<I", db, page_id * meta[2] + 12)[0]
        return elements(db[page_id * meta[2] : (page_id + overflow + 1) * meta[2]])

    roots = {name: (struct.unpack_from("<Q", value)[0], value[16:]) for name, value in tree(meta[4])}
    return {name: list(tree(root) if root else elements(inline)) for name, (root, inline) in roots.items()}


def apply_increment(records: dict[bytes, tuple[bytes, bytes]], stream: bytes) -> dict[bytes, Pairs]:
    """Change ``records`` (by revision key) as one increment says. Returns its small buckets."""
    need(stream[:16] == b"bbr increment 1\n", "not an increment")
    at, buckets = 16, dict[bytes, Pairs]()
    while (tag := stream[at : at + 1]) != b"E":
        (size,) = struct.unpack_from(">I", stream, at + 1)
        payload, place = stream[at + 5 : at + 5 + size], 0
        if tag == b"B":
            place = 2 + struct.unpack_from(">H", payload)[0]
            buckets[payload[2:place]] = pairs = []
        while place < size:
            if tag == b"D":
                need(records.pop(payload[place : place + 17], None), "an increment removes what is not there")
                place += 17
                continue
            width, form = (1, ">B") if tag == b"R" else (4, ">I")
            key_end = place + width + struct.unpack_from(form, payload, place)[0]
            value_end = key_end + 4 + struct.unpack_from(">I", payload, key_end)[0]
            key, value = payload[place + width : key_end], payload[key_end + 4 : value_end]
            if tag == b"R":
                records[key[:17]] = key, value
            else:
                pairs.append((key, value))
            place = value_end
        at += 5 + size
    need(stream[-32:] == hashlib.sha256(stream[:at]).digest(), "an increment's hash is wrong")
    return buckets


def write_bolt(buckets: dict[bytes, Pairs]) -> bytes:
    """A bolt file, one record a leaf page: plain, not tight. A defragmentation mends that later."""
    out = bytearray(2 * PAGE)

    def put(flags: int, entries: list[tuple[bytes, bytes, int]]) -> int:
        page_id, head, body = len(out) // PAGE, b"", b""
        for at, (key, value, special) in enumerate(entries):
            position = 16 * (len(entries) - at) + len(body)
            leaf = struct.pack("<IIII", special, position, len(key), len(value))
            head += leaf if flags == 2 else struct.pack("<IIQ", position, len(key), special)
            body += key + value
        header = struct.pack("<QHHI", page_id, flags, len(entries), (15 + len(head) + len(body)) // PAGE)
        out.extend(header + head + body + bytes(-(16 + len(head) + len(body)) % PAGE))
        return page_id

    def tree(pairs: Pairs) -> bytes:
        nodes = [(key, b"", put(2, [(key, value, 0)])) for key, value in pairs] or [(b"", b"", put(2, []))]
        while len(nodes) > 1:
            nodes = [(nodes[at][0], b"", put(1, nodes[at : at + FAN_OUT])) for at in range(0, len(nodes), FAN_OUT)]
        return struct.pack("<QQ", nodes[0][2], 0)

    root = put(2, [(name, tree(pairs), 1) for name, pairs in sorted(buckets.items())])
    for page in (0, 1):
        meta = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, root, 0, 2**64 - 1, len(out) // PAGE, 2 - page)
        checksum = 0xCBF29CE484222325
        for byte in meta:
            checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
        out[page * PAGE : page * PAGE + 80] = struct.pack("<QHHI", page, 4, 0, 0) + meta + struct.pack("<Q", checksum)
    return bytes(out)


def main(repository: Path, key_file: Path, backup_id: str, output: Path, etcd: str = "main") -> None:
    root, repository_id = newest_root(repository)
    found = manifests(repository, root, repository_id)
    (wanted,) = [one for one in found.values() if one["backup_id"] == backup_id]
    entries = [one for one in wanted["etcds"] if one["name"] == etcd]
    while (parent := entries[0]["parent"]) is not None:
        entries[:0] = [one for one in found[wanted["generation"], parent]["etcds"] if one["name"] == etcd]
    own = pyrage.x25519.Identity.from_str(key_file.read_text().split()[-1])
    sealed = {
        (epoch["id"], one["recipient"]): one["object_name"] for epoch in root["epochs"] for one in epoch["readers"]
    }
    body = (repository / sealed[wanted["epoch"], str(own.to_public())]).read_bytes()
    identity = pyrage.x25519.Identity.from_str(pyrage.decrypt(body, [own]).decode().strip())
    db, buckets = content(repository, entries[0]["parts"], identity)[:-32], dict[bytes, Pairs]()
    records = {key[:17]: (key, value) for key, value in read_bolt(db)[b"key"]}
    for entry in entries[1:]:
        buckets = apply_increment(records, content(repository, entry["parts"], identity))
    pairs = [records[revision] for revision in sorted(records)]
    # The etcd key is field 1 of a record; its length has one byte, or two.
    sizes = [(v[1], 2) if v[1] < 0x80 else (v[1] & 0x7F | v[2] << 7, 3) for _, v in pairs]
    names = [value[at : at + size] for (_, value), (size, at) in zip(pairs, sizes, strict=True)]
    alive = {key for key in dict(zip(names, [key for key, _ in pairs], strict=True)).values() if not key[17:]}
    crc, compacted = google_crc32c.value(b"key"), entries[-1]["compact_revision"]
    for key, value in pairs:
        main_revision = int.from_bytes(key[:8])
        if main_revision > compacted or key in alive or not (alive or (main_revision == compacted and key[17:])):
            crc = google_crc32c.extend(crc, key + value)
    need(crc == entries[-1]["hash_kv"], "HashKV is not the one that the manifest promises")
    db = write_bolt(buckets | {b"key": pairs}) if buckets else db
    output.touch(mode=0o600, exist_ok=False)
    output.write_bytes(db + hashlib.sha256(db).digest())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), *sys.argv[5:6])
