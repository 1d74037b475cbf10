"""Origins: which sites may send a form, and which may read a response in a browser (CORS)."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from lib.app import Context, Response


def is_allowed_origin(context: "Context", origin: str) -> bool:
    """Whether `origin` is this site, the requested host, or on the allow-list."""
    settings, request = context.services.settings, context.request
    requested = f"{request.scheme}://{request.host}"
    allowed = {requested, origin_of(settings.site_url), *settings.allowed_origins}
    return origin != "null" and origin.rstrip("/") in allowed


def origin_of(address: str) -> str:
    """scheme://host of an address; "null", as browsers say, of what is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "null"
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "null"


def add_cors_headers(context: "Context", response: "Response", allowed: str) -> None:
    origin = context.request.headers.get("Origin", "")
    response.headers.add("Vary", "Origin")
    if not origin or not is_allowed_origin(context, origin):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = (
        "X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
    )
    if context.request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = allowed
        response.headers["Access-Control-Allow-Headers"] = (
            "Content-Type, Idempotency-Key, X-Form-Seconds, X-Request-Id"
        )
        response.headers["Access-Control-Max-Age"] = "86400"
