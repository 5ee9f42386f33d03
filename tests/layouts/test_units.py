"""How systemd reads a unit: cases from its manual pages, and a round trip of what we write."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import UsageError
from bbr.layouts.units import parse_environment, parse_unit, split_words, unit_text

ENV = PurePosixPath("/etc/etcd.env")


def words(*texts: str, env: str = "") -> tuple[str, ...]:
    return parse_unit(texts, what="x.service").words({ENV: env}, what="x.service")


def test_the_examples_of_the_manual() -> None:
    unit = "[Service]\nEnvironment=\"ONE=one\" 'TWO=two two'\nExecStart=/bin/echo $ONE $TWO ${TWO}\n"
    assert words(unit) == ("/bin/echo", "one", "two", "two", "two two")
    unit = "[Service]\nEnvironment=ONE='one' \"TWO='two two' too\" THREE=\nExecStart=/bin/echo $ONE $TWO $THREE\n"
    assert words(unit) == ("/bin/echo", "one", "two two", "too")
    assert words("[Service]\nExecStart=/bin/echo / >/dev/null & \\; \\\nls\n") == (
        "/bin/echo", "/", ">/dev/null", "&", ";", "ls",
    )  # fmt: skip


def test_lines_go_on_and_comments_between_them_do_not_count() -> None:
    unit = (
        "[Service]\nExecStart=/usr/bin/etcd \\\n  --name=m1 \\\n# not this\n  --data-dir /d \n[Install]\nWantedBy=x\n"
    )
    assert words(unit) == ("/usr/bin/etcd", "--name=m1", "--data-dir", "/d")
    assert parse_unit([unit], what="x").is_installable


def test_a_drop_in_resets_the_command_and_files_override_the_environment() -> None:
    unit = "[Service]\nEnvironment=NAME=a DIR=/d\nEnvironmentFile=-/etc/etcd.env\nExecStart=/usr/bin/old\n"
    drop_in = "[Service]\nExecStart=\nExecStart=-/usr/bin/etcd --name=${NAME} --data-dir=${DIR} $NOTHING $$HOME\n"
    assert words(unit, drop_in, env="NAME='m 1'\n") == ("/usr/bin/etcd", "--name=m 1", "--data-dir=/d", "$HOME")


def test_prefixes_are_no_part_of_the_program() -> None:
    assert words("[Service]\nExecStart=@/usr/bin/etcd zero --x\n") == ("/usr/bin/etcd", "--x")
    assert words("[Service]\nExecStart=:/usr/bin/etcd ${X}\n") == ("/usr/bin/etcd", "${X}")


@pytest.mark.parametrize("line", ["/usr/bin/etcd --name=%H", '/usr/bin/etcd "no end', "/usr/bin/etcd \\q"])
def test_what_cannot_be_known_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match=r"x\.service"):
        words(f"[Service]\nExecStart={line}\n")


def test_an_environment_file_is_not_a_shell_script() -> None:
    text = '# A=1\n;B=2\nnothing\nC= a "b" \\\n c \nD="x\\"y\ny"\nE=\'a\\b\'\n1F=no\nG=/p # not a comment\nH='
    found = {"C": 'a "b"  c', "D": 'x"y\ny', "E": "a\\b", "G": "/p # not a comment", "H": ""}
    assert parse_environment(text) == found


def test_escapes() -> None:
    assert split_words(r'a\x20b "c\td" e\sf --x="y z" ' + "''", what="x") == ["a b", "c\td", "e f", "--x=y z", ""]


PRINTABLE = st.text().filter(str.isprintable)


@given(st.lists(PRINTABLE, max_size=5))
def test_what_we_write_is_read_as_it_was_meant(arguments: list[str]) -> None:
    text = unit_text("100% ours", ["/usr/bin/kube-apiserver", *arguments])
    assert words(text) == ("/usr/bin/kube-apiserver", *arguments)


@given(st.text(alphabet="[]=\\\"'%${}ExecStart Service\n;#", max_size=200))
def test_garbage_is_read_or_refused(text: str) -> None:
    with suppress(UsageError):
        words("[Service]\n" + text)
    parse_environment(text)
