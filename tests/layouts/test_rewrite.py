"""Values of a manifest change, and nothing else of its text does, however it is written."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import UsageError
from bbr.layouts.renaming import MasterName, Renaming
from bbr.layouts.rewrite import difference, edit_scalars, rewrite_flags, rewrite_manifest

RENAMING = Renaming({MasterName("m1", "10.0.0.1"): MasterName("m9", "10.0.0.9")})
ETCD = {
    "name": "m9",
    "initial-cluster": "m9=https://10.0.0.9:2380,m8=https://10.0.0.8:2380",
    "initial-cluster-state": "new",
}

BY_HAND = """\
# written by a person; old address: 10.0.0.1
kind:   Pod
spec: {nodeName: "m1", containers: [
  {name: etcd, image: '10.0.0.1:5000/etcd:3', command: [etcd, "--name=m1", --name, m1, --log-level, debug],
   args: ['--initial-cluster', 'm1=https://10.0.0.1:2380', --initial-cluster-state=existing, "--it=''s"],
   env: [{name: NODE_NAME, value: m1}, {name: MODE, value: m1}],
   livenessProbe: {httpGet: {host: 10.0.0.1, port: 2381}}}]}   # the end
script: |
  ping 10.0.0.1
    ping 10.0.0.11
"""


def test_a_manifest_that_a_person_wrote_keeps_its_form() -> None:
    new = rewrite_manifest(BY_HAND, RENAMING, etcd=ETCD, what="etcd.yaml")
    container = yaml.safe_load(new)["spec"]["containers"][0]
    assert container["command"] == ["etcd", "--name=m9", "--name", "m9", "--log-level", "debug"]
    assert container["args"][:3] == ["--initial-cluster", ETCD["initial-cluster"], "--initial-cluster-state=new"]
    assert [one["value"] for one in container["env"]] == ["m9", "m1"]
    assert (container["image"], container["livenessProbe"]["httpGet"]["host"]) == ("10.0.0.1:5000/etcd:3", "10.0.0.9")
    assert yaml.safe_load(new)["script"] == "ping 10.0.0.9\n  ping 10.0.0.11\n"
    assert new.splitlines()[:3] == BY_HAND.splitlines()[:3]
    assert "# the end" in new
    assert len(new.splitlines()) == len(BY_HAND.splitlines())


def test_flags_are_set_only_for_etcd_and_only_where_they_are() -> None:
    text = BY_HAND.replace("name: etcd", "name: other").replace("command: [etcd", "command: [other")
    container = yaml.safe_load(rewrite_manifest(text, RENAMING, etcd=ETCD, what="x"))["spec"]["containers"][0]
    assert container["args"][:3] == [
        "--initial-cluster",
        "m1=https://10.0.0.9:2380",
        "--initial-cluster-state=existing",
    ]
    short = "spec:\n  containers:\n  - name: etcd\n    command:\n    - etcd\n    - --name=m1\n"
    assert rewrite_manifest(short, RENAMING, etcd=ETCD, what="x") == short.replace("m1", "m9")


def test_a_value_that_needs_quotes_gets_them() -> None:
    six = Renaming({MasterName("m1", "10.0.0.1"): MasterName("m9", "fd00::9")})
    new = rewrite_manifest("a: 10.0.0.1:6443\nb: [10.0.0.1]\nc: '10.0.0.1'\n", six, etcd={}, what="x")
    assert new == "a: '[fd00::9]:6443'\nb: ['fd00::9']\nc: 'fd00::9'\n"


SIMPLE = st.recursive(
    st.sampled_from(
        ["m1", "10.0.0.1", "https://10.0.0.1:2379", "#", 'it\'s "so"', "a\nb 10.0.0.1\n", "é😀: 10.0.0.1", ""]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(SIMPLE, st.sampled_from([None, True, False]), st.sampled_from([None, "'", '"']))
def test_every_document_is_changed_to_what_is_meant(document: object, flow: bool | None, style: str | None) -> None:
    def renamed(value: object) -> object:
        if isinstance(value, dict):
            return {key: renamed(one) for key, one in value.items()}
        return [renamed(one) for one in value] if isinstance(value, list) else RENAMING.in_text(str(value))

    text = yaml.safe_dump({"x": document}, default_flow_style=flow, default_style=style, allow_unicode=True)
    changed = rewrite_manifest(text, RENAMING, etcd={}, what="x")
    assert yaml.safe_load(changed) == {"x": renamed(document)}


@pytest.mark.parametrize("text", ["a: [", "a: 1\n---\nb: 2\n", "[" * 5000, "a: *b\n", "key: 'geheim"])
def test_what_is_not_one_document_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError, match="x is not one YAML document") as caught:
        rewrite_manifest(text, RENAMING, etcd={}, what="x")
    assert "geheim" not in str(caught.value)


def test_what_cannot_be_changed_in_place_is_refused() -> None:
    folded = "a: >\n  see\n  10.0.0.1\n"
    with pytest.raises(UsageError, match="in a way that bbr cannot change"):
        edit_scalars(folded, lambda _place, value, _scalars: value.replace("see 10", "10"), what="x")


def test_aliases_that_grow_without_end_take_no_time() -> None:
    lines = ["a0: &a0 [10.0.0.1]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    text = "\n".join(lines) + "\n"
    assert rewrite_manifest(text, RENAMING, etcd={}, what="x") == text.replace("[10.0.0.1]", "['10.0.0.9']")


def test_flags_of_the_kubelet() -> None:
    text = 'ARGS="--hostname-override={0} --node-ip=10.0.0.{1} --node-labels=x=m1"\n# --hostname-override {0}\n'
    assert rewrite_flags(text.format("m1", 1), RENAMING) == text.format("m9", 9)


def test_a_difference_shows_neither_neighbours_nor_passwords() -> None:
    shown = difference(PurePosixPath("/x"), "secret\nhttps://u:pw@10.0.0.1\n", "secret\nhttps://u:pw@10.0.0.9\n")
    assert shown.splitlines() == ["--- /x", "+++ /x", "@@ -2 +2 @@", "-https://***@10.0.0.1", "+https://***@10.0.0.9"]
