"""The address a browser is sent to after its form: a page of this site or of an allowed origin."""

from collections.abc import Callable
from urllib.parse import unquote_plus, urlencode, urlsplit

THANK_YOU_PATHS = {"id": "/terima-kasih", "en": "/en/thank-you"}


def is_allowed(target: str, is_allowed_origin: Callable[[str], bool]) -> bool:
    """A path on this site, or an address at an allowed origin; nothing a browser reads otherwise
    (`//host`, backslashes, control characters)."""
    if not target.isascii() or not target.isprintable() or "\\" in target or " " in target:
        return False
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    if not parts.scheme and not parts.netloc:
        return target.startswith("/") and not target.startswith("//")
    return parts.scheme in ("http", "https") and is_allowed_origin(
        f"{parts.scheme}://{parts.netloc}"
    )


def add_reference(target: str, ref: str) -> str:
    """The address with `ref` as its last parameter, before a fragment and in place of another."""
    address, hash_sign, fragment = target.partition("#")
    path, _, query = address.partition("?")
    others = [
        part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) != "ref"
    ]
    return f"{path}?{'&'.join([*others, urlencode({'ref': ref})])}{hash_sign}{fragment}"
