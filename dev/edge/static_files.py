"""The folder `public/` as Vercel's edge serves it."""

import hashlib
import mimetypes
from pathlib import Path

from werkzeug.datastructures import Headers

from dev.edge.http_server import Request, Response, as_text

# Text types carry their charset, as at Vercel; the machine's own table is not asked.
_TYPES = mimetypes.MimeTypes()
_MORE = {
    ".js": "application/javascript",
    ".mjs": "application/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
    ".xml": "application/xml",
    ".yaml": "text/yaml",
    ".yml": "text/yaml",
    ".ico": "image/vnd.microsoft.icon",
}
_WITH_CHARSET = {"application/javascript", "application/json", "application/xml"}


def find(public: Path, path: str, *, clean_urls: bool) -> Path | None:
    """The file behind a decoded path; None when there is none (or it leads outside)."""
    if "\0" in path or "\\" in path:
        return None
    base = public.resolve()
    wanted = base / path.lstrip("/")
    candidates = [wanted, wanted / "index.html"]
    if clean_urls and path.strip("/"):
        candidates.append(wanted.with_name(wanted.name + ".html"))
    for candidate in candidates:
        resolved = candidate.resolve()
        if resolved.is_relative_to(base) and _is_file(resolved):
            return resolved
    return None


def respond(file: Path, request: Request, status: int = 200) -> Response:
    """The file with its type and ETag; 304 when the client has it, 405 for other methods."""
    if request.method not in ("GET", "HEAD"):
        return as_text("Method Not Allowed\n", 405)
    content = file.read_bytes()
    tag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
    headers = Headers(
        {
            "Content-Type": content_type(file),
            "Cache-Control": "public, max-age=0, must-revalidate",
            "ETag": tag,
            "Content-Disposition": f'inline; filename="{file.name}"',
        }
    )
    known_tags = {part.strip().removeprefix("W/") for part in _if_none_match(request).split(",")}
    if status == 200 and (tag in known_tags or "*" in known_tags):
        return Response(304, b"", headers)
    return Response(status, content, headers)


def content_type(file: Path) -> str:
    kind = _MORE.get(file.suffix.lower()) or _TYPES.guess_type(file.name)[0]
    kind = kind or "application/octet-stream"
    if kind.startswith("text/") or kind in _WITH_CHARSET:
        return f"{kind}; charset=utf-8"
    return kind


def _if_none_match(request: Request) -> str:
    return request.headers.get("If-None-Match", "")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
