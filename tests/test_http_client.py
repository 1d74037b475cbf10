"""HTTP to a vendor: any answer is understood as http.client does, over TLS too; none is waited for
too long, and what is no answer is Unreached."""

import contextlib
import http.client
import io
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import certifi
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import http_client
from lib.http_client import HttpClient, HttpResponse, RequestFailed

type Talk = Callable[[socket.socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Told:
    """A socket from which these pieces come, and then the end."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def recv(self, size: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    def sendall(self, _request: bytes) -> None: ...
    def settimeout(self, _seconds: float) -> None: ...


def line(*pieces: bytes) -> http_client._Connection:
    made = http_client._Connection(Told(*pieces))  # type: ignore[arg-type]
    made.deadline = time.monotonic() + 5
    return made


def as_http_client(text: bytes) -> tuple[int, dict[str, str], bytes]:
    class Socket:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(text)

    answer = http.client.HTTPResponse(Socket(), method="POST")  # type: ignore[arg-type]
    answer.begin()
    body = answer.read()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


# ------------------------------------------------------------------ answers

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-", min_size=1, max_size=12)
FRAMING = {"content-length", "transfer-encoding", "connection", "keep-alive"}
HEADERS = st.dictionaries(
    TOKEN.filter(lambda name: name.lower() not in FRAMING),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30),
    max_size=6,
)


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;a=b\r\n%s\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from([200, 201, 204, 304, 400, 401, 429, 500, 503]))
    version = draw(st.sampled_from([b"1.0", b"1.1"]))
    body = b"" if status in (204, 304) else draw(st.binary(max_size=300))
    head = b"HTTP/%s %d %s\r\n" % (version, status, draw(st.sampled_from([b"", b"Not So Well"])))
    for name, value in draw(HEADERS).items():
        head += f"{name}: {value}\r\n".encode()
    framing = draw(st.sampled_from(["length", "chunks", "end"]))
    if status in (204, 304) or framing == "end":
        return head + b"\r\n" + body
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, draw(st.integers(1, 99)))


@settings(deadline=None)
@given(answers(), st.lists(st.integers(0, 600), max_size=8))
def test_an_answer_is_understood_as_http_client_does_in_whatever_pieces_it_comes(
    text: bytes, cuts: list[int]
) -> None:
    at = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[start:end] for start, end in itertools.pairwise(at)]
    assert tuple(line(*pieces).exchange(b"")) == as_http_client(text)


def test_what_is_said_meanwhile_is_passed_over() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert line(hints + OK).exchange(b"") == HttpResponse(200, {"content-length": "2"}, b"{}")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",  # cut off
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n" + b"x" * 10,
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}",  # without its end
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxy\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}..0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"x" * (http_client.MAX_HEAD_BYTES + 70_000),
    ],
)
def test_what_is_no_answer_is_none(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        line(text).exchange(b"")


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        (OK, True),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False),
        (OK.replace(b"1.1", b"1.0"), False),
        (OK.replace(b"1.1 200 OK", b"1.0 200 OK\r\nConnection: keep-alive"), True),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", False),
        (OK + b"HTTP/1.1 200 OK", False),  # more than was asked: the next answer would be wrong
    ],
)
def test_a_connection_is_kept_only_where_the_next_answer_will_be_the_next(
    text: bytes, stays: bool
) -> None:
    asked = line(text)
    assert asked.exchange(b"").status == 200
    assert asked.reusable is stays


# ------------------------------------------------------------------ a server


@contextlib.contextmanager
def server(talk: Talk, context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[int]]]:
    """A port, and the connections so far; `talk` has each to itself."""
    seen: list[int] = []

    def serve(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            if context is None:
                talk(plain)
                return
            with context.wrap_socket(plain, server_side=True) as secured:
                talk(secured)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                plain.settimeout(5)
                seen.append(len(seen))
                threading.Thread(target=serve, args=(plain,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], seen
        listener.shutdown(socket.SHUT_RDWR)


def answering(text: bytes) -> Talk:
    def talk(one: socket.socket) -> None:
        while one.recv(1 << 16):
            one.sendall(text)

    return talk


def silent(one: socket.socket) -> None:
    one.recv(1 << 16)
    time.sleep(3)


def test_connections_are_used_again_until_the_server_closes_them() -> None:
    with server(answering(OK)) as (port, seen):
        asked = HttpClient(f"http://127.0.0.1:{port}", {}, connect_s=1)
        for _ in range(3):
            assert asked.post("/", b"{}", within_s=2).json() == {}
        assert len(seen) == 1
        asked.close()
        asked.post("/", b"{}", within_s=2)
        assert len(seen) == 2
        asked.close()


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> trustme.CA:
    """One whom this process trusts, alone."""
    made = trustme.CA()
    file = tmp_path / "ca.pem"
    made.cert_pem.write_to_path(file)
    monkeypatch.setattr(certifi, "where", lambda: str(file))
    monkeypatch.setattr(http_client, "_tls_context", None)
    return made


def secured(authority: trustme.CA, name: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(made)
    return made


def test_tls_is_spoken_and_its_connection_used_again(authority: trustme.CA) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"7" * 300_000
    with server(answering(large), secured(authority, "localhost")) as (port, seen):
        asked = HttpClient(f"https://localhost:{port}", {}, connect_s=2)
        for _ in range(3):
            assert asked.post("/", b"{}", within_s=5).body == b"7" * 300_000
        assert len(seen) == 1
        asked.close()


def test_whoever_shows_another_name_is_not_talked_to(authority: trustme.CA) -> None:
    heard: list[bytes] = []
    with server(lambda one: heard.append(one.recv(99)), secured(authority, "resend.test")) as (
        port,
        _,
    ):
        asked = HttpClient(f"https://localhost:{port}", {"Authorization": "secret"}, connect_s=2)
        with pytest.raises(RequestFailed):
            asked.post("/", b"{}", within_s=2)
    assert b"secret" not in b"".join(heard)


def test_whom_nobody_vouches_for_is_not_talked_to(authority: trustme.CA) -> None:
    heard: list[bytes] = []
    stranger = secured(trustme.CA(), "localhost")
    with server(lambda one: heard.append(one.recv(99)), stranger) as (port, _):
        asked = HttpClient(f"https://localhost:{port}", {"Authorization": "secret"}, connect_s=2)
        with pytest.raises(RequestFailed):
            asked.post("/", b"{}", within_s=2)
    assert b"secret" not in b"".join(heard)


@pytest.mark.measures_time
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing_is_left_in_time(scheme: str, authority: trustme.CA) -> None:
    """For https it does not even shake hands."""
    with server(silent) as (port, _):
        asked = HttpClient(f"{scheme}://localhost:{port}", {}, connect_s=0.3)
        began = time.monotonic()
        with pytest.raises(RequestFailed):
            asked.post("/", b"{}", within_s=0.3)
        assert time.monotonic() - began < 1.5


@pytest.mark.measures_time
def test_a_server_that_drips_is_left_in_time(authority: trustme.CA) -> None:
    def drip(one: socket.socket) -> None:
        one.recv(1 << 16)
        for byte in OK * 20:
            one.sendall(bytes([byte]))
            time.sleep(0.05)

    with server(drip, secured(authority, "localhost")) as (port, _):
        asked = HttpClient(f"https://localhost:{port}", {}, connect_s=2)
        began = time.monotonic()
        with pytest.raises(RequestFailed):
            asked.post("/", b"{}", within_s=0.4)
        assert time.monotonic() - began < 2


def test_a_header_of_two_lines_is_never_sent() -> None:
    asked = HttpClient("http://127.0.0.1:1", {}, connect_s=1)
    with pytest.raises(RequestFailed):
        asked.post("/", b"", {"X": "1\r\nY: 2"}, within_s=1)
