"""Who may call: bearer tokens and an operator's token, compared in constant time.

A token may have a predecessor that is valid until its rotation ends.
"""

import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lib.problems import NotConfigured, Unauthorized

if TYPE_CHECKING:
    from lib.app import Context, Request

PROBE_WAIT_S = 3.0  # for another thread that probes the same dependency


def has_bearer_token(request: "Request", secrets: Iterable[str]) -> bool:
    """Whether the caller presents one of `secrets`, compared in constant time."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return matches_any(token, secrets) and scheme.lower() == "bearer"


def matches_any(token: str, secrets: Iterable[str]) -> bool:
    presented = token.strip().encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(presented, secret.encode()) for secret in secrets if secret]
    return any(matches)


def require_cron_token(context: "Context") -> None:
    """Raises Unauthorized for a caller that is not Vercel's scheduler.

    Then probes what was down: an open circuit breaker decides no refusal.
    """
    settings = context.services.settings
    if not has_bearer_token(context.request, (settings.cron_secret, settings.cron_secret_previous)):
        raise Unauthorized
    context.services.probe_open_breakers(PROBE_WAIT_S)


def require_operator_token(context: "Context") -> None:
    """Raises Unauthorized without an operator's token, as a bearer or in X-Admin-Token;
    NotConfigured when there is none to compare with.

    Then probes what was down: an open circuit breaker decides no refusal.
    """
    settings = context.services.settings
    tokens = (settings.leads_admin_token, settings.leads_admin_token_previous)
    if not any(tokens):
        raise NotConfigured("LEADS_ADMIN_TOKEN", "is not set")
    presented = context.request.headers.get("X-Admin-Token", "")
    if not has_bearer_token(context.request, tokens) and not matches_any(presented, tokens):
        raise Unauthorized
    context.services.probe_open_breakers(PROBE_WAIT_S)
