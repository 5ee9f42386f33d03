"""Names in the hosts' /etc/hosts: our block is made anew, what others wrote stays, and a name can be pointed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.errors import PreconditionFailed
from bbr.lab.host import Host, HostSpec
from bbr.lab.lab import Lab
from bbr.lab.names import hosts_file, updated
from tests.lab.conftest import said


def host(name: str, address: str) -> Host:
    return Host(name, address, 22, "ssh-ed25519 AAAA", Path("/k"), Path("/n"), HostSpec(name))


def test_new_file_has_loopback_and_every_host() -> None:
    assert hosts_file([host("m1", "10.20.30.11")], {}) == (
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n# bbr lab\n10.20.30.11 m1\n# end of bbr lab\n"
    )


def test_lines_around_the_block_stay() -> None:
    text = hosts_file([host("m1", "10.20.30.11")], {}) + "10.20.30.99 api\n"
    fresh = updated(text, [host("m2", "10.20.30.12")], {})
    assert fresh == hosts_file([host("m2", "10.20.30.12")], {}) + "10.20.30.99 api\n"


def test_lost_block_is_put_at_the_end() -> None:
    assert updated("1.2.3.4 own\n", [], {}) == "1.2.3.4 own\n# bbr lab\n# end of bbr lab\n"


def test_second_update_changes_nothing() -> None:
    text = hosts_file([host("m1", "10.20.30.11")], {})
    assert updated(text, [host("m1", "10.20.30.11")], {}) == text


def test_further_name_has_the_address_of_its_host() -> None:
    hosts = [host("m1", "10.20.30.11"), host("m2", "10.20.30.12")]
    assert "\n10.20.30.12 m2\n10.20.30.12 api.lab\n" in hosts_file(hosts, {"api.lab": "m2"})


def test_further_name_of_a_host_that_is_gone_leads_nowhere() -> None:
    assert "api.lab" not in hosts_file([host("m1", "10.20.30.11")], {"api.lab": "m2"})


def test_pointed_name_leads_every_host_there_and_survives_all_that_happens_to_a_lab(base: Path) -> None:
    with Lab.up([HostSpec("m1"), HostSpec("m2")], base=base) as lab:

        def leads_to(name: str) -> str:
            return said(lab, name, "getent hosts api.lab; true").split(" ")[0]

        first, second = (lab.host(name).address for name in ("m1", "m2"))
        lab.point("api.lab", "m1")
        assert (leads_to("m1"), leads_to("m2")) == (first, first)
        lab.power_off("m2")
        lab.point("api.lab", "m2")
        lab.power_on("m2")
        lab.add(HostSpec("m3"))
        assert {leads_to(name) for name in ("m1", "m2", "m3")} == {second}
        assert Lab.open(lab.name, base=base).pointers == {"api.lab": "m2"}
        lab.remove("m2")
        assert {leads_to(name) for name in ("m1", "m3")} == {""}
        lab.add(HostSpec("m2"))
        assert leads_to("m3") == lab.host("m2").address


def test_name_of_a_host_is_not_pointed_elsewhere_and_no_name_to_a_host_that_is_not_there(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base) as lab:
        for name, target in (("m1", "m1"), ("localhost", "m1"), ("api.lab\n1.2.3.4 x", "m1"), ("api.lab", "m2")):
            with pytest.raises(PreconditionFailed):
                lab.point(name, target)
        assert lab.pointers == {}


def test_a_host_runs_its_own_rc_local_each_time_it_starts(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base) as lab:
        said(lab, "m1", "printf '#!/bin/sh\necho on >>/root/starts\n' >/etc/rc.local && chmod 755 /etc/rc.local")
        for count in (1, 2):
            lab.power_off("m1")
            lab.power_on("m1")
            # It is begun before sshd answers, and not waited for.
            waiting = f"until [ $(cat /root/starts | wc -l) = {count} ]; do sleep 0.02; done"
            said(lab, "m1", f"timeout 10 sh -c '{waiting}' && echo {count}")
