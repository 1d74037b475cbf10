"""HTTP to a vendor: a deadline for the whole answer, kept connections, TLS; on real sockets."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import certifi
import httpx
import pytest
import trustme

from lib import http_client
from tests.fix_server import Talk, server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def read_request(caller: socket.socket) -> bytes:
    """A request, all of which end with a body of one byte; nothing where the caller has gone."""
    received = b""
    while not received.partition(b"\r\n\r\n")[2]:
        data = caller.recv(1 << 16)
        if not data:
            return b""
        received += data
    return received


def answering(text: bytes) -> Talk:
    def talk(caller: socket.socket) -> None:
        while read_request(caller):
            caller.sendall(text)

    return talk


def silent(caller: socket.socket) -> None:
    while caller.recv(1 << 16):
        pass


class Vendor(http_client.Client):
    """A client whose addresses are those of one server."""

    def __init__(self, server_url: str, response_s: float) -> None:
        """Connecting may take longer than any test allows for an answer."""
        super().__init__(connect_s=5, response_s=response_s)
        self.server_url = server_url

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return super().request(method, urljoin(self.server_url, url), **options)


def client(port: int, scheme: str = "http", response_s: float = 5) -> Vendor:
    return Vendor(f"{scheme}://localhost:{port}", response_s)


def test_connections_are_used_again_until_the_server_closes_them() -> None:
    with server(answering(OK)) as (port, seen), client(port) as vendor:
        for _ in range(3):
            assert vendor.post("/", content=b"x").json() == {}
        assert len(seen) == 1


def test_a_connection_the_server_has_closed_is_not_used_again() -> None:
    closed = threading.Semaphore(0)

    def talk(caller: socket.socket) -> None:
        read_request(caller)
        caller.sendall(OK)
        caller.shutdown(socket.SHUT_RDWR)
        closed.release()

    with server(talk) as (port, seen), client(port) as vendor:
        for _ in range(3):
            assert vendor.post("/", content=b"x").status_code == 200
            assert closed.acquire(timeout=10)
    assert len(seen) == 3


def test_a_connection_too_old_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a freeze: the server may have closed it without a word reaching us."""
    with server(answering(OK)) as (port, seen), client(port) as vendor:
        vendor.post("/", content=b"x")
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + http_client.MAX_IDLE_AGE_S + 1)
        vendor.post("/", content=b"x")
        assert len(seen) == 2


def test_a_request_whose_reply_is_lost_is_not_repeated() -> None:
    def talk(caller: socket.socket) -> None:
        caller.recv(1 << 16)

    with server(talk) as (port, seen), client(port) as vendor:
        with pytest.raises(httpx.TransportError):
            vendor.post("/", content=b"x")
        assert len(seen) == 1


@pytest.mark.parametrize(
    "text", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", OK[:-1], b"\x00" * 99]
)
def test_an_answer_that_is_not_http_is_an_httpx_error(text: bytes) -> None:
    def talk(caller: socket.socket) -> None:
        caller.recv(1 << 16)
        caller.sendall(text)

    with server(talk) as (port, _), client(port) as vendor, pytest.raises(httpx.TransportError):
        vendor.post("/", content=b"x")


def test_more_callers_than_connections_are_kept_wait_for_none() -> None:
    callers = http_client.MAX_IDLE_CONNECTIONS + 4
    barrier = threading.Barrier(callers)

    def talk(caller: socket.socket) -> None:
        read_request(caller)
        barrier.wait(timeout=10)
        caller.sendall(OK)

    statuses: list[int] = []
    with server(talk) as (port, _), client(port, response_s=10) as vendor:
        threads = [
            threading.Thread(
                target=lambda: statuses.append(vendor.post("/", content=b"x").status_code)
            )
            for _ in range(callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert statuses == [200] * callers


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[trustme.CA]:
    """One whom this process trusts, alone."""
    made = trustme.CA()
    file = tmp_path / "ca.pem"
    made.cert_pem.write_to_path(file)
    monkeypatch.setattr(certifi, "where", lambda: str(file))
    http_client._tls_context.cache_clear()
    yield made
    http_client._tls_context.cache_clear()


def secured(authority: trustme.CA, name: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(made)
    return made


def test_tls_is_spoken_and_its_connection_used_again(authority: trustme.CA) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"7" * 300_000
    with server(answering(large), secured(authority, "localhost")) as (port, seen):
        with client(port, "https") as vendor:
            for _ in range(3):
                assert vendor.post("/", content=b"x").content == b"7" * 300_000
        assert len(seen) == 1


def test_a_requests_head_and_body_are_one_record_of_tls(authority: trustme.CA) -> None:
    """Reading gives one record at a time. As one packet they cost a slow line one wait less."""
    arrived: list[bytes] = []

    def talk(caller: socket.socket) -> None:
        arrived.append(caller.recv(1 << 16))
        caller.sendall(OK)

    with (
        server(talk, secured(authority, "localhost")) as (port, _),
        client(port, "https") as vendor,
    ):
        vendor.post("/", json={"a": 1})
    assert arrived[0].endswith(b'\r\n\r\n{"a":1}')


def test_clients_share_one_trust_store_and_plain_http_does_not_load_it(
    authority: trustme.CA,
) -> None:
    with server(answering(OK)) as (port, _), client(port) as vendor:
        vendor.post("/", content=b"x")
    assert http_client._tls_context.cache_info().currsize == 0
    with server(answering(OK), secured(authority, "localhost")) as (port, _):
        for _ in range(3):
            with client(port, "https") as vendor:
                vendor.post("/", content=b"x")
    assert http_client._tls_context.cache_info().misses == 1


@pytest.mark.parametrize("is_stranger", [False, True])
def test_a_wrong_host_name_or_an_untrusted_certificate_is_refused(
    authority: trustme.CA, is_stranger: bool
) -> None:
    context = (
        secured(trustme.CA(), "localhost") if is_stranger else secured(authority, "resend.test")
    )
    received: list[bytes] = []
    with (
        server(lambda caller: received.append(caller.recv(99)), context) as (port, _),
        client(port, "https") as vendor,
        pytest.raises(httpx.ConnectError),
    ):
        vendor.post("/", headers={"Authorization": "secret"})
    assert b"secret" not in b"".join(received)


@pytest.mark.measures_time
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_server_times_out(scheme: str, authority: trustme.CA) -> None:
    context = secured(authority, "localhost") if scheme == "https" else None
    with (
        server(silent, context) as (port, _),
        client(port, scheme, response_s=0.3) as vendor,
        pytest.raises(httpx.ReadTimeout),
    ):
        vendor.post("/", content=b"x")


def test_a_stalled_tls_handshake_times_out() -> None:
    with server(silent) as (port, _):
        url = f"https://localhost:{port}"
        vendor = http_client.Client(connect_s=0.3, response_s=60)
        with vendor, pytest.raises(httpx.ConnectTimeout):
            vendor.post(url)


@pytest.mark.parametrize("first", [b"", OK[:-1] + b"{" * 9])
def test_a_server_that_sends_byte_by_byte_times_out(first: bytes, authority: trustme.CA) -> None:
    """Its head, or a body without end, a byte at a time: no read of it takes long."""
    gone = threading.Event()

    def drip(caller: socket.socket) -> None:
        caller.recv(1 << 16)
        caller.sendall(first.replace(b"Content-Length: 2", b"Content-Length: 99999"))
        while not gone.wait(0.02):
            caller.sendall(b"x")

    with server(drip, secured(authority, "localhost")) as (port, _):
        with client(port, "https", response_s=0.4) as vendor, pytest.raises(httpx.ReadTimeout):
            vendor.post("/", content=b"x")
        gone.set()


def test_a_header_beyond_ascii_spoils_no_answer() -> None:
    text = OK.replace(b"\r\n\r\n", b"\r\nX-Served-By: caf\xe9\r\n\r\n")
    with server(answering(text)) as (port, _), client(port) as vendor:
        assert vendor.post("/", content=b"x").json() == {}


def test_a_url_of_another_protocol_is_an_httpx_error() -> None:
    with client(1) as vendor, pytest.raises(httpx.UnsupportedProtocol):
        vendor.request("GET", "ftp://localhost/")


@pytest.mark.parametrize("url", ["http://[::1", "http://localhost:99999/", "http://a\nb/"])
def test_a_url_that_is_none_is_a_failed_request(url: str) -> None:
    with client(1) as vendor, pytest.raises(http_client.RequestFailed):
        http_client.Client.request(vendor, "GET", url)


def test_a_page_is_read_where_it_has_moved_to() -> None:
    def talk(caller: socket.socket) -> None:
        moved = b"HTTP/1.1 308 Moved\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n"
        while request := caller.recv(1 << 16):
            caller.sendall(OK if request.startswith(b"GET /new ") else moved)

    with server(talk) as (port, _):
        url = f"http://localhost:{port}/old"
        assert http_client.get(url, connect_s=5, response_s=5).json() == {}


def test_a_header_with_a_line_break_is_never_sent() -> None:
    with (
        server(answering(OK)) as (port, _),
        client(port) as vendor,
        pytest.raises(httpx.LocalProtocolError),
    ):
        vendor.post("/", headers={"X": "1\r\nY: 2"})


def test_no_requested_url_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The runtime logs information; a webhook's address is a secret."""
    caplog.set_level("INFO")
    with server(answering(OK)) as (port, _), client(port) as vendor:
        vendor.post("/services/T0/B0/secret", content=b"x")
    assert "secret" not in caplog.text
