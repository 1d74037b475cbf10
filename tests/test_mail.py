"""Resend as our adapter speaks it: what its own client sends, and what its answers mean."""

from collections.abc import Iterator
from typing import Any

import pytest
import resend

from dev.platform.local_platform import Platform
from lib.leads.emails import Email
from lib.mail import Mailer
from lib.problems import PermanentMailError, TransientMailError

LETTER = Email(
    "sales", "Alfa Beauty <noreply@alfabeauty.test>", ("sales@alfabeauty.test", "b@b.test"),
    "andi@example.com", "New Lead: Salon “Ayu” é", "Halo\nté", "<p>Halo \U0001f487</p>",
)  # fmt: skip
KEY = "sales/7d1f0d0e-4f1c-5f0e-9d6e-0c8f1a2b3c4d"


@pytest.fixture
def mailer(
    platform: Platform, database: object, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mailer]:
    given = platform.environment
    monkeypatch.setattr(resend, "api_key", given["RESEND_API_KEY"])
    monkeypatch.setattr(resend, "api_url", given["RESEND_API_URL"])
    platform.resend.forget()
    made = Mailer(given["RESEND_API_KEY"], given["RESEND_API_URL"])
    yield made
    made.close()


def by_their_client(letter: Email) -> str:
    params: resend.Emails.SendParams = {
        "from": letter.sender,
        "to": list(letter.recipients),
        "subject": letter.subject,
        "text": letter.body_text,
        "html": letter.body_html,
    }
    if letter.reply_to is not None:
        params["reply_to"] = letter.reply_to
    return str(resend.Emails.send(params, {"idempotency_key": KEY})["id"])


def sent(platform: Platform) -> dict[str, Any]:
    """The last request, without what may differ: who sends, and how bytes are framed."""
    last = platform.resend.received()[-1]
    names = ("authorization", "content-type", "idempotency-key")
    headers = {name: last["headers"].get(name) for name in names}
    return {"method": last["method"], "path": last["path"], "body": last["body"], **headers}


@pytest.mark.parametrize("reply_to", ["andi@example.com", None])
def test_a_mail_is_sent_as_resends_own_client_sends_it(
    platform: Platform, mailer: Mailer, reply_to: str | None
) -> None:
    letter = LETTER._replace(reply_to=reply_to)
    theirs = by_their_client(letter), sent(platform)
    ours = mailer.send(letter, KEY), sent(platform)
    assert ours == theirs, "the same mail: Resend knows it again by its key and its content"
    assert platform.resend.received()[-1]["outcome"] == "replayed"


@pytest.mark.parametrize(
    ("status", "means"),
    [
        (422, PermanentMailError),
        (403, TransientMailError),
        (500, TransientMailError),
        (503, TransientMailError),
    ],
)
def test_an_error_has_the_name_resends_own_client_gives_it(
    platform: Platform,
    mailer: Mailer,
    status: int,
    means: type[PermanentMailError | TransientMailError],
) -> None:
    platform.resend.switch("fail", status=status)
    with pytest.raises(resend.exceptions.ResendError) as theirs:
        by_their_client(LETTER)
    with pytest.raises(means) as ours:
        mailer.send(LETTER, KEY)
    assert isinstance(ours.value, PermanentMailError | TransientMailError)
    assert ours.value.reason == theirs.value.error_type


def test_told_to_slow_down_it_says_for_how_long(platform: Platform, mailer: Mailer) -> None:
    platform.resend.switch("rate_limit", retry_after_s=7)
    with pytest.raises(resend.exceptions.RateLimitError) as theirs:
        by_their_client(LETTER)
    with pytest.raises(TransientMailError) as ours:
        mailer.send(LETTER, KEY)
    assert (ours.value.reason, ours.value.retry_after_s) == (theirs.value.error_type, 7.0)
    assert not ours.value.may_be_sent, "it was not taken: the next try is the first"
