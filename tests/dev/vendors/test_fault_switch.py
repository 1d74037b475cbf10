"""The switches of the stand-ins, and Resend's idempotency keys."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dev.vendors.fake_vendor import FakeVendor
from dev.vendors.fault_switch import InvalidFault
from dev.vendors.resend import Resend

MAIL = {"from": "A <a@x.test>", "to": ["b@x.test"], "subject": "Hi", "text": "Hello"}
KEY = {"Authorization": "Bearer re_local", "Idempotency-Key": "k1"}


@pytest.fixture
def clock() -> list[float]:
    return [1_000_000.0]


@pytest.fixture
def resend(clock: list[float]) -> Iterator[FakeVendor]:
    stand_in = FakeVendor(Resend("re_local", lambda: clock[0]))
    yield stand_in
    stand_in.close()


def send(resend: FakeVendor, timeout_s: float = 5, **changes: Any) -> httpx.Response:
    return httpx.post(f"{resend.url}/emails", json=MAIL | changes, headers=KEY, timeout=timeout_s)


def delivered(resend: FakeVendor) -> int:
    listed = httpx.get(f"{resend.url}/emails", headers=KEY).json()
    return len(listed["data"])


def test_the_same_key_and_body_answer_the_same_id_and_deliver_once(resend: FakeVendor) -> None:
    assert send(resend).json() == send(resend).json()
    assert delivered(resend) == 1
    assert [record["outcome"] for record in resend.received()][:2] == ["ok", "replayed"]


def test_the_same_key_with_another_body_is_refused(resend: FakeVendor) -> None:
    send(resend)
    answer = send(resend, text="Other")
    assert (answer.status_code, answer.json()["name"]) == (409, "invalid_idempotent_request")


def test_a_key_is_forgotten_after_24_hours(resend: FakeVendor, clock: list[float]) -> None:
    send(resend)
    clock[0] += 24 * 3600
    send(resend)
    assert delivered(resend) == 2


def test_a_key_whose_request_is_under_way_is_refused(resend: FakeVendor) -> None:
    resend.switch("slow", delay_s=30, times=1)
    with pytest.raises(httpx.ReadTimeout):
        send(resend, timeout_s=0.3)
    answer = send(resend)
    assert (answer.status_code, answer.json()["name"]) == (409, "concurrent_idempotent_requests")


@pytest.mark.parametrize(
    ("headers", "status", "name"),
    [
        ({}, 401, "missing_api_key"),
        ({"Authorization": "Bearer other"}, 403, "invalid_api_key"),
    ],
)
def test_a_wrong_key_is_named(
    resend: FakeVendor, headers: dict[str, str], status: int, name: str
) -> None:
    answer = httpx.post(f"{resend.url}/emails", json=MAIL, headers=headers)
    assert (answer.status_code, answer.json()["name"]) == (status, name)


@pytest.mark.parametrize("recipient", ["nobody", "a@b", "a b@c.test", ""])
def test_an_invalid_recipient_is_refused_and_frees_its_key(
    resend: FakeVendor, recipient: str
) -> None:
    assert send(resend, to=recipient).status_code == 422
    assert send(resend).status_code == 200


def test_the_page_shows_mail_without_running_it(resend: FakeVendor) -> None:
    send(resend, subject="<script>1</script>", html="<script>2</script>")
    page = httpx.get(resend.url).text
    assert "<script>" not in page
    assert 'sandbox=""' in page


def test_a_lost_reply_has_done_the_work(resend: FakeVendor) -> None:
    resend.switch("lose_reply", times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        send(resend)
    assert send(resend).status_code == 200
    assert delivered(resend) == 1


def test_a_reset_has_not_done_the_work(resend: FakeVendor) -> None:
    resend.switch("reset", times=1)
    with pytest.raises(httpx.TransportError):
        send(resend)
    assert delivered(resend) == 0


def test_a_stalled_request_is_released_when_the_switch_changes(resend: FakeVendor) -> None:
    resend.switch("stall")
    with pytest.raises(httpx.ReadTimeout):
        send(resend, timeout_s=0.2)
    resend.ok()
    assert send(resend).status_code == 200


def test_failures_speak_the_vendors_format(resend: FakeVendor) -> None:
    resend.switch("fail", status=503)
    assert send(resend).json()["statusCode"] == 503
    resend.switch("rate_limit", retry_after_s=7)
    answer = send(resend)
    assert answer.json()["name"] == "rate_limit_exceeded"
    assert answer.headers["retry-after"] == "7"


def test_a_switch_reaches_only_what_it_matches_and_as_often_as_told(resend: FakeVendor) -> None:
    resend.switch("fail", match="Other", times=1)
    statuses = [send(resend, subject=subject).status_code for subject in ("Hi", "Other")]
    assert statuses == [200, 500]
    assert httpx.get(f"{resend.url}/_control").json()["mode"] == "ok"


@pytest.mark.parametrize(
    "switch",
    [
        {"mode": "explode"},
        {"mode": "fail", "status": 200},
        {"mode": "fail", "status": True},
        {"mode": "slow", "delay_s": "2"},
        {"mode": "stall", "times": 0},
        {"mode": "stall", "colour": 1},
        {},
        [],
    ],
)
def test_a_bad_switch_is_refused_and_named(resend: FakeVendor, switch: Any) -> None:
    answer = httpx.post(f"{resend.url}/_control", json=switch)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_bad_switch_in_python_raises(resend: FakeVendor) -> None:
    with pytest.raises(InvalidFault, match="status"):
        resend.switch("fail", status=99)
