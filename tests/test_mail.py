"""Mail by Resend's SDK: what is sent, and what an answer means, on real sockets."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import resend

from dev.platform.local_platform import Platform
from lib.leads.emails import Email
from lib.mail import Mailer
from lib.problems import PermanentMailError, TransientMailError
from tests.fix_server import server

EMAIL = Email(
    "sales", "Alfa Beauty <noreply@alfabeauty.test>", ("sales@alfabeauty.test", "b@b.test"),
    "andi@example.com", "New Lead: Salon “Ayu” é", "Halo\nté", "<p>Halo \U0001f487</p>",
)  # fmt: skip
KEY = "sales/7d1f0d0e-4f1c-5f0e-9d6e-0c8f1a2b3c4d"


@pytest.fixture
def mailer(platform: Platform, database: object) -> Iterator[Mailer]:
    platform.resend.forget()
    made = Mailer(platform.environment["RESEND_API_KEY"], platform.environment["RESEND_API_URL"])
    yield made
    made.close()


def last_request(platform: Platform) -> dict[str, Any]:
    """Without what may differ: who sends, and how bytes are framed."""
    last = platform.resend.received()[-1]
    names = ("authorization", "content-type", "idempotency-key")
    headers = {name: last["headers"].get(name) for name in names}
    return {"method": last["method"], "path": last["path"], "body": last["body"], **headers}


@pytest.mark.parametrize("reply_to", ["andi@example.com", None])
def test_a_mail_is_sent_as_the_sdk_alone_sends_it(
    platform: Platform, mailer: Mailer, monkeypatch: pytest.MonkeyPatch, reply_to: str | None
) -> None:
    """With requests, its own library: a mail is known again by its key and its bytes."""
    email = EMAIL._replace(reply_to=reply_to)
    ours = mailer.send(email, KEY), last_request(platform)
    environment = platform.environment
    own_client = resend.http_client_requests.RequestsClient()
    monkeypatch.setattr(resend, "default_http_client", own_client)
    monkeypatch.setattr(resend, "api_key", environment["RESEND_API_KEY"])
    monkeypatch.setattr(resend, "api_url", environment["RESEND_API_URL"])
    params: resend.Emails.SendParams = {
        "from": email.sender,
        "to": list(email.recipients),
        "subject": email.subject,
        "text": email.body_text,
        "html": email.body_html,
    }
    if reply_to is not None:
        params["reply_to"] = reply_to
    response = resend.Emails.send(params, {"idempotency_key": KEY})
    assert (response["id"], last_request(platform)) == ours
    assert platform.resend.received()[-1]["outcome"] == "replayed"


def test_mailers_of_one_process_keep_to_their_own_keys(platform: Platform, mailer: Mailer) -> None:
    """The SDK has one key for a process, which belongs to nobody here."""
    url = platform.environment["RESEND_API_URL"]
    refused, errors, ids = Mailer("re_wrong", url), [], []

    def send(number: int) -> None:
        ids.append(mailer.send(EMAIL, f"sales/{number}"))
        try:
            refused.send(EMAIL, f"sales/{number}")
        except TransientMailError as error:
            errors.append(error.reason)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    refused.close()
    assert errors == ["invalid_api_key"] * 6
    assert len(set(ids)) == 6


@pytest.mark.parametrize(
    ("status", "name", "error_type"),
    [
        (422, "validation_error", PermanentMailError),
        (400, "validation_error", PermanentMailError),
        (403, "validation_error", TransientMailError),
        (500, "application_error", TransientMailError),
        (503, "service_unavailable", TransientMailError),
        (451, "security_error", TransientMailError),
    ],
)
def test_a_resend_error_is_classified_by_its_name(
    platform: Platform, mailer: Mailer, status: int, name: str,
    error_type: type[PermanentMailError | TransientMailError],
) -> None:  # fmt: skip
    platform.resend.switch("fail", status=status, name=name, message="Refused.")
    with pytest.raises(error_type) as error:
        mailer.send(EMAIL._replace(reply_to=None), KEY)
    assert isinstance(error.value, PermanentMailError | TransientMailError)
    assert error.value.reason == ("sender_refused" if status == 403 else name)


def test_a_rate_limit_error_carries_its_retry_after(platform: Platform, mailer: Mailer) -> None:
    platform.resend.switch("rate_limit", retry_after_s=7)
    with pytest.raises(TransientMailError) as error:
        mailer.send(EMAIL, KEY)
    assert (error.value.reason, error.value.retry_after_s) == ("rate_limit_exceeded", 7.0)
    assert not error.value.may_be_sent, "it was not taken: the next try is the first"


JSON = "application/json"
# Status, type, body -> reason, whether it may be sent, seconds to wait.
ANSWERS: list[tuple[int, str, bytes, str, bool, float | None]] = [
    (200, "text/html", b"<html>", "application_error", True, None),
    (200, JSON, b"<html>", "application_error", True, None),
    (200, JSON, b"null", "nonsense", True, None),
    (200, JSON, b"[]", "nonsense", True, None),
    (200, JSON, b'"x"', "nonsense", True, None),
    (200, JSON, b"{}", "nonsense", True, None),
    (200, JSON, b'{"id":""}', "nonsense", True, None),
    (200, JSON, b'{"id":{"a":1}}', "nonsense", True, None),
    (200, JSON, b"[" * 100_000, "nonsense", True, None),
    (200, JSON, b'{"statusCode":"x"}', "status_500", True, None),
    (502, "text/html", b"<html>", "status_502", True, None),
    (429, "text/html", b"<html>", "status_429", False, 9.0),
    (429, JSON, b"{}", "status_429", False, 9.0),
    (500, JSON, b'{"name":{"a":1}}', "nonsense", True, None),
    (500, JSON, b'{"name":"two words"}', "status_500", True, None),
    (409, JSON, b'{"name":"concurrent_idempotent_requests"}',
     "concurrent_idempotent_requests", True, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind", "body", "reason", "may_be_sent", "retry_after_s"),
    ANSWERS,
    ids=range(len(ANSWERS)),
)
def test_an_answer_that_is_not_resends_delays_a_mail(
    status: int, kind: str, body: bytes, reason: str, may_be_sent: bool,
    retry_after_s: float | None,
) -> None:  # fmt: skip
    with answering(status, kind, body) as url:
        mailer = Mailer("re_key", url)
        with pytest.raises(TransientMailError) as error:
            mailer.send(EMAIL._replace(reply_to=None), KEY)
        mailer.close()
    assert (error.value.reason, error.value.may_be_sent) == (reason, may_be_sent)
    assert error.value.retry_after_s == retry_after_s


@pytest.mark.parametrize("drips", [False, True])
def test_a_timeout_is_uncertain_and_may_have_been_sent(drips: bool) -> None:
    """Silent, and dripping: the deadline is of the whole answer."""
    with answering(200, JSON, b"", drips=drips, is_silent=not drips) as url:
        mailer = Mailer("re_key", url)
        with pytest.raises(TransientMailError) as error:
            mailer.send(EMAIL._replace(reply_to=None), KEY, timeout_s=0.3)
        mailer.close()
    assert (error.value.reason, error.value.may_be_sent) == ("no_answer", True)


def test_an_api_key_is_checked_without_sending_a_mail(platform: Platform, mailer: Mailer) -> None:
    assert mailer.api_key_error() is None
    platform.resend.switch("fail", status=401, name="restricted_api_key", message="Sends only.")
    assert mailer.api_key_error() is None
    platform.resend.switch(
        "fail", status=400, name="validation_error", message="API key is invalid"
    )
    assert mailer.api_key_error() == "validation_error"
    platform.resend.switch("fail", status=500, name="application_error", message="Oops.")
    with pytest.raises(TransientMailError):
        mailer.api_key_error()


@contextmanager
def answering(
    status: int, kind: str, body: bytes, *, drips: bool = False, is_silent: bool = False
) -> Iterator[str]:
    """A server with one answer to each mail, or none."""
    ended = threading.Event()

    def talk(caller: socket.socket) -> None:
        received = b""
        while not received.endswith(b"}"):  # the end of its JSON
            data = caller.recv(1 << 16)
            if not data:
                return
            received += data
        if is_silent or drips:
            while not ended.wait(0.02):
                if drips:
                    caller.sendall(b"x")
        else:
            head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nRetry-After: 9\r\n"
            caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with server(talk) as (port, _):
        yield f"http://127.0.0.1:{port}"
        ended.set()
