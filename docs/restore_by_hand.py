"""Restores one etcd from a repository of format 1, by docs/format.md alone. Holds it in memory about three times.
Usage: python3 docs/restore_by_hand.py REPOSITORY_FOLDER RECOVERY_KEY_FILE BACKUP_ID OUTPUT_FILE [ETCD_NAME]"""

import json
import os
import sys
from base64 import b64decode
from functools import reduce
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from struct import pack, unpack_from
from tempfile import NamedTemporaryFile
from typing import Any

import google_crc32c
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pyrage import decrypt, x25519
from zstandard import ZstdDecompressor, frame_content_size

Pairs = dict[bytes, bytes]
Elements = list[tuple[int, bytes, bytes]]  # of bolt pages: flags (in a leaf) or page (in a branch), key, value
BRANCH, LEAF, META, FAN_OUT = 1, 2, 4, 64  # flags of bolt pages, and how many elements a written page has
canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
now: dict[str, object] = {"at": "at the start"}  # what a problem is of


def require(condition: object, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def open_envelope(data: bytes, kind: str, key: str) -> Any:
    """The payload of an envelope that exactly this key (in hex) signed; a root also by its own admin key."""
    envelope, kind = json.loads(data), f"application/vnd.bbr.{kind}.v1+json"
    payload = b64decode(envelope["payload"], validate=True)
    content = json.loads(payload, parse_float=str, parse_constant=str)  # so that they will not be the same again
    same = canonical(envelope).encode() == data and canonical(content).encode() == payload
    require(same and (envelope["payloadType"], content["format"]) == (kind, 1), f"not canonical, or not {kind}")
    signers = map(bytes.fromhex, {key or content["admin_key"], content.get("admin_key", key)})
    by_id = {sha256(one).hexdigest()[:16]: Ed25519PublicKey.from_public_bytes(one) for one in signers}
    require([one["keyid"] for one in envelope["signatures"]] == sorted(by_id), "not signed by whom it should be")
    for one in envelope["signatures"]:
        message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        by_id[one["keyid"]].verify(b64decode(one["sig"], validate=True), message)
    return content


def open_manifest(path: Path, root: Any, repository_id: str) -> Any:
    """A manifest that a writer of the newest root was allowed to store under this name."""
    (writer,) = (one for one in root["signers"] if (one["role"], one["id"]) == ("writer", path.parts[-2].split("-")[1]))
    one = open_envelope(path.read_bytes(), "manifest", writer["public_key"])
    place = one["cluster"], one["generation"], f"{one['sequence']:06d}-{one['nonce']}.manifest"
    require((repository_id, *path.parts[-3:]) == (one["repository_id"], *place), "it belongs to another place")
    require({"*", one["cluster"]} & set(writer["clusters"]), "its writer may not write for this cluster")
    require(writer["revoked"] is None or one["time"] < writer["revoked"], f"its writer was revoked {writer['revoked']}")
    return one


def chain_to(repository: Path, backup_id: str, etcd: str) -> list[tuple[Any, Any, Any]]:
    """Newest root, manifest and entry of the etcd: for the base, then for each increment up to the backup."""
    root, hashes, good, refused, chain = dict[str, Any](), list[Any]([None]), list[Any](), "", list[Any]()
    for number in range(1, 1 + (len(list((repository / "root").glob("*.json"))) or 1)):
        now["at"] = path = repository / f"root/{number}.json"
        root = open_envelope(path.read_bytes(), "root", root.get("admin_key", ""))
        require((root["number"], root["previous"]) == (number, hashes[-1]), "it does not follow from the one before")
        hashes.append(sha256(path.read_bytes()).hexdigest())
    for path in (repository / "manifests" / backup_id.rsplit("-", 2)[0]).glob("*/*.manifest"):
        try:
            good.append(open_manifest(path, root, hashes[1]))
        except Exception as problem:  # the others may be all that is needed
            refused += f"; refused {path.name!r}: {problem!r}"
    now["at"], found = backup_id, [one for one in good if one["backup_id"] == backup_id]
    while not chain or chain[0][2]["parent"] is not None:
        entries = [(root, one, entry) for one in found for entry in one["etcds"] if entry["name"] == etcd]
        require(len(entries) == 1, f"{len(entries)} manifests fit in its chain where one must{refused}")
        chain[:0], (_, last, entry) = entries, entries[0]
        require(entry["parent"] in (None, *range(last["sequence"])), "it builds upon itself, or upon what is later")
        found = [one for one in good if one["generation"] == last["generation"] and one["sequence"] == entry["parent"]]
    return chain


def content(repository: Path, own: x25519.Identity, root: Any, manifest: Any, entry: Any) -> bytes:
    """The content of an etcd's parts, each checked before it is opened."""
    (epoch,), raw = [one for one in root["epochs"] if one["id"] == manifest["epoch"]], bytearray()
    names = [one["object_name"] for one in epoch["readers"] if one["recipient"] == str(own.to_public())]
    require(names, f"epoch {epoch['id']} is not sealed to {own.to_public()}")
    identity = x25519.Identity.from_str(decrypt((repository / names[0]).read_bytes(), [own]).decode().strip())
    for part in entry["parts"]:
        now["at"] = path = repository / part["name"]
        require(path.stat().st_size == part["size_bytes"], "it is damaged: its size is another")
        require(sha256(sealed := path.read_bytes()).hexdigest() == part["sha256"], "it is damaged")
        require(frame_content_size(frame := decrypt(sealed, [identity])) == part["raw_bytes"] <= 16 << 20, "too large")
        raw += ZstdDecompressor().decompress(frame, allow_extra_data=False)
    return bytes(raw)


def apply_increment(records: Pairs, stream: bytes) -> dict[bytes, Pairs]:
    """Change the records as an increment says. Returns its other buckets."""
    source, order, frames = BytesIO(stream), Elements(), {(0, b""): Pairs(), (1, b""): Pairs()}
    require(source.read(16) == b"bbr increment 1\n", "it is no increment of version 1")
    while (rank := b"DRBE".index(source.read(1) or b"?")) < 3:
        end = int.from_bytes(source.read(4)) + source.tell()
        name = source.read(int.from_bytes(source.read(2))) if rank == 2 else b""
        pairs = frames.setdefault((rank, name), Pairs())
        while source.tell() < end:
            key = source.read(int.from_bytes(source.read(1 if rank == 1 else 4)) if rank else 17)
            require(rank == 2 or (len(key) > 16 and key[8:9] + key[17:] in (b"_", b"_t")), "not a revision key")
            pairs[key] = source.read(int.from_bytes(source.read(4))) if rank else b""
            order.append((rank, name, key if rank == 2 else key[:17]))
        require(source.tell() == end, "a frame of it does not end with its last entry")
    removed, added, start = frames.pop((0, b"")), frames.pop((1, b"")), source.tell() - 1
    whole = pack(">IQQI", 52, len(removed), len(added), len(frames)) + sha256(stream[:start]).digest()
    good = source.read() == whole and order == sorted(set(order)) and (2, b"key") not in frames
    require(good, "its keys are out of order, or its end does not count them right")
    for key in removed:
        require({key, key + b"t"} & records.keys(), f"it removes revision {key.hex()}, which is not there")
        records.pop(key if key in records else key + b"t")
    records.update(added)
    return {name: pairs for (_, name), pairs in frames.items()}


def read_bolt(data: bytes, page_size: int) -> dict[bytes, Pairs]:
    """The buckets of a snapshot file. Both metas are valid if its hash is."""

    def pairs(page: int, inline: bytes = b"") -> Pairs:  # in, or below, a page
        block, found = memoryview(inline or data)[page * page_size :], Pairs()
        _, kind, count, _ = unpack_from("<QHHI", block)
        for at in range(16, 16 + 16 * count, 16):
            _, position, key_size, value_size = unpack_from("<IIII", block, at)
            if kind == BRANCH:
                found |= pairs(unpack_from("<Q", block, at + 8)[0])
            else:
                found[bytes(block[at + position :][:key_size])] = bytes(block[at + position + key_size :][:value_size])
        return found

    newest = max((unpack_from("<4I5Q", data, at) for at in (16, page_size + 16)), key=lambda meta: int(meta[8]))
    require(newest[:3] == (0xED0CDAED, 2, page_size) and sha256(data[:-32]).digest() == data[-32:], "a bad snapshot")
    return {name: pairs(unpack_from("<Q", value)[0], value[16:]) for name, value in pairs(newest[4]).items()}


def write_bolt(buckets: dict[bytes, Pairs], page_size: int) -> bytes:
    out = bytearray(2 * page_size)

    def tree(elements: Elements, kind: int = LEAF) -> int:  # appends pages, and returns the number of their root
        nodes = Elements()
        for at in range(0, len(elements) or 1, FAN_OUT):
            group, heads, body = elements[at : at + FAN_OUT], b"", b""
            for index, (special, key, value) in enumerate(group):
                place = 16 * (len(group) - index) + len(body), len(key)
                heads += pack("<IIII", special, *place, len(value)) if kind == LEAF else pack("<IIQ", *place, special)
                body += key + value
            nodes.append((len(out) // page_size, group[0][1] if group else b"", b""))
            out.extend(pack("<QHHI", nodes[-1][0], kind, len(group), (15 + len(heads + body)) // page_size))
            out.extend(heads + body + bytes(-(16 + len(heads + body)) % page_size))
        return tree(nodes, BRANCH) if len(nodes) > 1 else nodes[0][0]

    leaves = {name: [(0, *pair) for pair in sorted(pairs.items())] for name, pairs in buckets.items()}
    root = tree([(1, name, pack("<QQ", tree(leaves[name]), 0)) for name in sorted(leaves)])
    for at in (0, page_size):
        meta = pack("<4I5Q", 0xED0CDAED, 2, page_size, 0, root, 0, 2**64 - 1, len(out) // page_size, at // page_size)
        fnv1a = reduce(lambda value, byte: (value ^ byte) * 0x100000001B3 % 2**64, meta, 0xCBF29CE484222325)
        out[at : at + 80] = pack("<QHHI", at // page_size, META, 0, 0) + meta + pack("<Q", fnv1a)
    return bytes(out) + sha256(out).digest()


def hash_kv(records: Pairs, compacted: int) -> int:
    """The HashKV of these records, at the newest revision among them."""
    newest, edge, pairs = Pairs(), pack(">Q", max(compacted, 0)), sorted(records.items())
    for key, value in pairs:
        end = next((at + 1 for at in range(1, len(value)) if value[at] < 128), 0)  # of the size of the etcd key
        newest[value[: end + sum((byte & 127) << 7 * at for at, byte in enumerate(value[1:end]))]] = key
    kept = {key for key in newest.values() if len(key) == 17} or set(records)
    counted = (k + v for k, v in pairs if k[:8] > edge or (k in kept and k[:8] + k[17:] != edge + b"t"))
    return int(google_crc32c.value(b"key" + b"".join(counted)))


def restore(repository: Path, key_file: Path, backup_id: str, output: Path, etcd: str = "main") -> str:
    require(not os.path.lexists(output), f"{output} is there already")
    own = x25519.Identity.from_str(next(filter(lambda one: one[:4] == "AGE-", (keys := key_file.read_text()).split())))
    size, (_, manifest, wanted) = (chain := chain_to(repository, backup_id, etcd))[0][2]["page_size"], chain[-1]
    require(manifest["repository_id"] in keys or "# repository:" not in keys, "the key file is of another repository")
    buckets = read_bolt(snapshot := content(repository, own, *chain[0]), size)
    for link in chain[1:]:
        buckets = apply_increment(buckets[b"key"], content(repository, own, *link)) | {b"key": buckets[b"key"]}
    snapshot = write_bolt(buckets, size) if len(chain) > 1 else snapshot
    hashed, now["at"] = hash_kv(read_bolt(snapshot, size)[b"key"], wanted["compact_revision"]), backup_id
    require(hashed == wanted["hash_kv"], f"its HashKV is {hashed}, not {wanted['hash_kv']}")
    with NamedTemporaryFile(dir=output.parent, suffix=".partial") as partial:  # 0600, and never left behind
        Path(partial.name).write_bytes(snapshot)
        os.fsync(partial.fileno())
        os.link(partial.name, output)
    return f"{output}: {manifest['status']}, revision {wanted['revision']}, repository {manifest['repository_id']}"


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    sys.excepthook = lambda kind, e, _: print(f"restore_by_hand: {now['at']}: {kind.__name__}: {e}", file=sys.stderr)
    print(restore(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), *sys.argv[5:]))
