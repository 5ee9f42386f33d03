"""Under which resource a key of Kubernetes is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.objects.keys import kubernetes_prefix


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        (b"/registry/pods/default/web-0", b"/registry/pods/"),
        (b"/registry/minions/node-1", b"/registry/minions/"),
        (b"/registry/services/endpoints/default/kubernetes", b"/registry/services/"),
        (b"/registry/cert-manager.io/certificates/default/web", b"/registry/cert-manager.io/certificates/"),
        (b"/registry/apiregistration.k8s.io/apiservices/v1.", b"/registry/apiregistration.k8s.io/apiservices/"),
        (b"/registry/ranges/serviceips", b"/registry/ranges/"),
        (b"/registry/health", b"/registry/"),
        (b"/other", b"/other"),
        (b"compact_rev_key", b"compact_rev_key"),
        (b"", b""),
    ],
)
def test_prefix_is_the_resource(key: bytes, prefix: bytes) -> None:
    assert kubernetes_prefix(key) == prefix


@given(key=st.binary(max_size=60))
def test_prefix_begins_the_key_whatever_it_is(key: bytes) -> None:
    assert key.startswith(kubernetes_prefix(key))
