"""Request bodies off the wire: by Content-Length or in chunks, up to a limit."""

from typing import Protocol

from werkzeug.datastructures import Headers


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


def read(stream: Stream, headers: Headers, limit: int | None) -> bytes | None:
    """The request's body; None when it is longer than `limit`; ValueError when it is malformed, or
    ends before it is whole: a caller that hung up has sent nothing."""
    lengths = headers.getlist("Content-Length")
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        if lengths:
            raise ValueError("both Content-Length and chunks")
        return _chunks(stream, limit)
    if len(set(lengths)) > 1:
        raise ValueError("more than one Content-Length")
    length = _number(lengths[0], 10) if lengths else 0
    if limit is not None and length > limit:
        _drain(stream, length)
        return None
    return _whole(stream, length)


def _number(text: str, base: int) -> int:
    """Digits alone: int() takes signs, blanks and underscores too."""
    if not text.isascii() or not text.isalnum():
        raise ValueError(f"not a number: {text!r}")
    return int(text, base)


def _whole(stream: Stream, length: int) -> bytes:
    body = stream.read(length)
    if len(body) < length:
        raise ValueError("the body ends early")
    return body


def _drain(stream: Stream, length: int) -> None:
    """Read what the client is sending, within reason, so that it reads our answer."""
    for _ in range(min(length, 64 << 20) >> 16):
        if not stream.read(1 << 16):
            return
    stream.read(length % (1 << 16))


def _chunks(stream: Stream, limit: int | None) -> bytes | None:
    parts: list[bytes] = []
    total = 0
    while size := _number(stream.readline(1024).decode("latin-1").split(";")[0].strip(), 16):
        total += size
        if limit is not None and total > limit:
            return None
        parts.append(_whole(stream, size))
        stream.readline(8)
    while stream.readline(8192).strip():
        pass
    return b"".join(parts)
