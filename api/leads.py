"""POST /api/leads: take a lead. Keep it first, tell of it after the answer.

Bodies: application/json, application/x-www-form-urlencoded, multipart/form-data (text only).
Headers: Idempotency-Key (at most 255 characters, honoured for 24 hours), X-Form-Seconds.
200 `{"success": true, "id": "<uuid>", "ref": "ALFA-XXXXX"}`; 202 with `"queued": true` when it is
kept, but not in the database yet; a form navigation gets 303 to the thank-you page, and on a
fault its own page back. 400 invalid_json, validation_error; 403 origin_not_allowed;
409 idempotency_in_progress; 413 payload_too_large; 415 content_type_must_be_application_json;
422 idempotency_key_reused; 429 rate_limited; 503 persistence_failed with Retry-After, when the
lead is kept nowhere.
"""

import json
from collections import Counter
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from lib import canary, endpoint, intake, leads, outbox, rounds, spam, submission
from lib.endpoint import Call, Request, RequestEntityTooLarge, Response
from lib.gate import Entered, Limits, Seen
from lib.intake import Kept
from lib.leads import Lead
from lib.problems import (
    ForeignOrigin,
    Invalid,
    InvalidJson,
    KeyReused,
    NotPersisted,
    Problem,
    TooLarge,
    Unauthorized,
    UnsupportedType,
)

MAX_BODY_BYTES = 100 * 1024
MAX_KEY_CHARACTERS = 255
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
CHALLENGE_FIELD = "cf-turnstile-response"  # as Cloudflare's widget names it
THANKS_PATHS = {"id": "/terima-kasih", "en": "/en/thank-you"}

nudge = rounds.Nudge()


def post(call: Call) -> Response:
    fields: dict[str, str] = {}
    try:
        _refuse_foreign(call)
        lead, token = _read(call, fields)
        status, lead = _take(call, lead, token)
    except Problem as problem:
        if _navigating(call.request):
            return _page_again(call, fields, problem)
        raise
    if _navigating(call.request):
        return _to_thanks(call, fields.get("redirect", ""), lead)
    body: dict[str, object] = {"success": True, "id": str(lead.id), "ref": lead.ref}
    if status == 202:
        body["queued"] = True
    return endpoint.reply(body, status)


# ------------------------------------------------------------------ what came


def _read(call: Call, fields: dict[str, str]) -> tuple[Lead, str]:
    """The body as a lead, and the page's challenge token if it has one.

    A form's texts are left in `fields` for the page that keeps them.
    """
    request = call.request
    if len(request.get_data(cache=True)) > MAX_BODY_BYTES:
        raise TooLarge
    if request.mimetype in FORM_TYPES:
        values: object = _form(call, fields)
    elif request.mimetype == "application/json":
        values = _json(request)
    else:
        raise UnsupportedType
    token = ""
    if isinstance(values, dict):
        given = values.pop(CHALLENGE_FIELD, "")
        token = given if isinstance(given, str) else ""
        values.pop("redirect", None)  # means something in forms alone
        if values.get("locale") in endpoint.LOCALES:
            call.locale = values["locale"]
    try:
        read = submission.read(values)
    except submission.Faulty as faulty:
        raise Invalid(faulty.details(call.locale)) from None
    lead = leads.make(
        read,
        key=_key(call),
        locale=call.locale,
        now=call.now,
        ip_address=call.client_address,
        user_agent=request.headers.get("User-Agent"),
        canary=_is_canary(call),
    )
    return lead, token


def _is_canary(call: Call) -> bool:
    """Whether this is our own synthetic lead. A false one is refused, not taken for a lead."""
    header = call.request.headers.get(canary.HEADER)
    if header is None:
        return False
    settings = call.services.settings
    secrets = (settings.canary_secret, settings.canary_secret_previous)
    body = call.request.get_data()
    if not any(canary.is_signed(one, header, body, call.now) for one in secrets if one):
        raise Unauthorized
    return True


def _json(request: Request) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(constant)  # NaN and Infinity are no JSON

    try:
        return json.loads(request.get_data().decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise InvalidJson from None


def _form(call: Call, fields: dict[str, str]) -> dict[str, object]:
    """A form's values. A field given twice, or a file, is a fault: which one was meant?"""
    request = call.request
    try:
        pairs, files = list(request.form.items(multi=True)), list(request.files)
    except RequestEntityTooLarge:
        raise TooLarge from None
    fields.update(pairs)
    times = Counter(name for name, _ in pairs)
    repeated = {name: "repeated" for name in fields if times[name] > 1}
    faults = dict.fromkeys(files, "file") | repeated
    if faults:
        raise Invalid(
            {name: [submission.FAULTS[kind][call.locale]] for name, kind in faults.items()}
        )
    return submission.from_form(fields)


def _key(call: Call) -> str | None:
    key = call.request.headers.get("Idempotency-Key", "").strip()
    if len(key) > MAX_KEY_CHARACTERS:
        fault = submission.FAULTS["string_too_long"][call.locale]
        raise Invalid({"Idempotency-Key": [fault.format(max_length=MAX_KEY_CHARACTERS)]})
    return key or None


def _refuse_foreign(call: Call) -> None:
    origin = call.request.headers.get("Origin")
    if origin is not None and not endpoint.known_origin(call, origin):
        raise ForeignOrigin


# ------------------------------------------------------------------ what is done with it


def _take(call: Call, lead: Lead, token: str) -> tuple[int, Lead]:
    """Let it in, keep it, and put off the rest. How it is answered, and the lead as kept."""
    settings = call.services.settings
    call.note(lead=str(lead.id))
    limits = Limits(
        settings.leads_per_minute, settings.leads_per_hour, settings.leads_ceiling_per_minute
    )
    member = uuid4().hex  # not the request's id, which a caller may choose
    if call.known_maintenance is None:
        intake.expect(call.services)
    entered = intake.enter(call.services, lead, limits, member, call.now)
    if isinstance(entered, Seen):
        call.note(decision="seen", lead=str(entered.id))
        return entered.status, leads.seen_before(lead, entered.id, entered.ref)
    if entered.uncounted is None:
        endpoint.board.remember(entered.maintenance)
    window = call.maintenance
    why = None if lead.canary else _suspicion(call, lead, entered, token)
    desk = leads.Desk(settings.mail_from, settings.mail_sales_to).for_lead(lead)
    try:
        kept = intake.keep(call.services, lead, desk, spam=why, closed=window is not None)
    except NotPersisted as problem:
        call.note(decision="not_kept", lost=list(problem.lost))
        _alarm(call, "lead_not_kept", lead)
        call.later(lambda: intake.leave(call.services, lead, member))
        call.later(call.services.probe)
        raise
    except KeyReused:
        call.later(lambda: intake.leave(call.services, lead, member))
        raise
    call.note(decision=kept.decision, reason=why, lost=list(kept.lost_rungs) or None)
    call.note(uncounted=entered.uncounted, maintenance=window and window.mode)
    if kept.alarming:
        _alarm(call, "lead_not_stored_nor_queued", lead)
    call.later(lambda: intake.settle(call.services, kept, lead))
    call.later(lambda: _send(call, kept))
    call.later(call.services.probe)
    if window is None and nudge.due():
        call.later(lambda: _make_round(call))
    return 200 if kept.decision == "spam" else kept.lead.status, kept.lead


def _alarm(call: Call, name: str, lead: Lead) -> None:
    from lib import alarm  # what a lead that is kept never needs

    alarm.sound(call, name, lead=str(lead.id))


def _suspicion(call: Call, lead: Lead, entered: Entered, token: str) -> str | None:
    return spam.reason(
        lead.submission,
        seconds_to_fill=call.request.headers.get("X-Form-Seconds", type=int),
        repeats=entered.repeats,
        flooded=entered.flooded,
    ) or intake.challenge(call.services, lead, token)


def _send(call: Call, kept: Kept) -> None:
    """Deliver the lead's own mails, which were leased to this instance when it was stored."""
    tally = outbox.Tally()
    mails = outbox.at_birth(kept.lead.id, kept.letters, call.now)
    outbox.attempt(call.services.database.run, call.services.mailer.send, mails, _clock, tally)
    call.note(sent=tally.sent, delayed=tally.delayed, dead=tally.dead)


def _make_round(call: Call) -> None:
    settings = call.services.settings
    desk = leads.Desk(settings.mail_from, settings.mail_sales_to)
    found = rounds.make(
        call.services, desk, _clock, queue_s=rounds.NUDGE_BUDGET_S, mails_s=rounds.NUDGE_BUDGET_S
    )
    call.note(round=found.facts())


def _clock() -> datetime:
    return datetime.now(UTC)


# ------------------------------------------------------------------ how a browser is answered


def _navigating(request: Request) -> bool:
    """Whether a browser sent a form and will show what we answer."""
    return request.mimetype in FORM_TYPES and "text/html" in request.headers.get("Accept", "")


def _to_thanks(call: Call, wanted: str, lead: Lead) -> Response:
    target = wanted if _allowed_target(call, wanted) else THANKS_PATHS[lead.locale]
    joint = "&" if "?" in target else "?"
    location = f"{target}{joint}{urlencode({'ref': lead.ref})}"
    return Response(status=303, headers={"Location": location})


def _allowed_target(call: Call, target: str) -> bool:
    """A path on this site, or an address at an allow-listed origin; nothing a browser reads
    otherwise (`//host`, backslashes, control characters)."""
    if not target.isascii() or not target.isprintable() or "\\" in target or " " in target:
        return False
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    if not parts.scheme and not parts.netloc:
        return target.startswith("/") and not target.startswith("//")
    return parts.scheme in ("http", "https") and endpoint.known_origin(
        call, f"{parts.scheme}://{parts.netloc}"
    )


def _page_again(call: Call, fields: dict[str, str], problem: Problem) -> Response:
    """The form as it was sent, with what is wrong beside each field."""
    from lib import pages  # what a lead that is right never needs

    call.note(problem=problem.code)
    title = problem.title[call.locale]
    page = pages.faulty_form(call.locale, fields, problem.details or {}, title)
    response = Response(page, problem.status, content_type="text/html; charset=utf-8")
    response.headers.update(problem.headers)
    return response


app = endpoint.wsgi("leads", cross_origin=True, POST=post)
