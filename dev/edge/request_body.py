"""Request bodies off the wire: by Content-Length or in chunks, up to a limit."""

from typing import Protocol

from werkzeug.datastructures import Headers


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


def read(stream: Stream, headers: Headers, limit: int | None) -> bytes | None:
    """The request's body; None when it is longer than `limit`; ValueError when malformed."""
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        return _chunks(stream, limit)
    length = int(headers.get("Content-Length") or 0)
    if length < 0:
        raise ValueError("negative Content-Length")
    if limit is not None and length > limit:
        _drain(stream, length)
        return None
    return stream.read(length)


def _drain(stream: Stream, length: int) -> None:
    """Read what the client is sending, within reason, so that it reads our answer."""
    for _ in range(min(length, 64 << 20) >> 16):
        if not stream.read(1 << 16):
            return
    stream.read(length % (1 << 16))


def _chunks(stream: Stream, limit: int | None) -> bytes | None:
    parts: list[bytes] = []
    total = 0
    while size := int(stream.readline(1024).split(b";")[0], 16):
        total += size
        if limit is not None and total > limit:
            return None
        parts.append(stream.read(size))
        stream.readline(8)
    while stream.readline(8192).strip():
        pass
    return b"".join(parts)
