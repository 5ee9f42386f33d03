"""Tokens of service accounts: the proof that pods are known after a restore."""

from __future__ import annotations

from dataclasses import dataclass

from bbr.apiserver.client import ApiServer, path_of
from bbr.apiserver.objects import at, text_at
from bbr.errors import ApiServerError

_ACCOUNTS = "/api/v1/serviceaccounts"
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
SHORTEST_S = 600
"""The API server issues none for less."""


@dataclass(frozen=True, slots=True)
class Review:
    """Whose a token is; ``user`` is empty, and ``reason`` says why, when it is nobody's."""

    user: str
    reason: str

    @property
    def is_valid(self) -> bool:
        """Whether the API server takes it."""
        return bool(self.user)


def issue_token(api: ApiServer, namespace: str, account: str, *, seconds: int = SHORTEST_S) -> str:
    """A new token of a service account: a secret. Raises `NotFoundObject`, `Invalid` for too short a life."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds},
    }
    answer = api.create(f"{path_of(_ACCOUNTS, account, namespace)}/token", body)
    token = text_at(answer, "status", "token")
    if not token:
        raise ApiServerError(f"{api.name} issued no token for {namespace}/{account}")
    return token


def review_token(api: ApiServer, token: str) -> Review:
    """Whether the API server takes a token: its signature, its life, and that its account exists with the same uid."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    answer = api.create(_REVIEWS, body)
    if at(answer, "status", "authenticated") is True:
        return Review(text_at(answer, "status", "user", "username"), "")
    return Review("", text_at(answer, "status", "error") or "it is not of this cluster")
