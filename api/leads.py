"""POST /api/leads: take a lead. Keep it first, tell of it after the answer.

Bodies: application/json, application/x-www-form-urlencoded, multipart/form-data (text only).
200 `{"success": true, "id": "<uuid>", "ref": "ALFA-XXXXX"}`; a form navigation gets 303 to the
thank-you page, and on a fault its own page back. 400 invalid_json, validation_error;
403 origin_not_allowed; 413 payload_too_large; 415 content_type_must_be_application_json;
503 persistence_failed with Retry-After, when the lead is kept nowhere.
"""

import json
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from lib import endpoint, leads, log, outbox, pages, submission
from lib.endpoint import Call
from lib.leads import Lead
from lib.letters import Letter
from lib.problems import (
    DatabaseDown,
    ForeignOrigin,
    Invalid,
    InvalidJson,
    NotConfigured,
    NotPersisted,
    Problem,
    TooLarge,
    UnsupportedType,
)

MAX_BODY_BYTES = 100 * 1024
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
THANKS_PATHS = {"id": "/terima-kasih", "en": "/en/thank-you"}


def post(call: Call) -> Response:
    request = call.request
    fields: dict[str, str] = {}
    try:
        _refuse_foreign(call)
        if len(request.get_data(cache=True)) > MAX_BODY_BYTES:
            raise TooLarge
        if request.mimetype in FORM_TYPES:
            fields = _form(call)
            lead = _take(call, submission.from_form(_without_redirect(fields)))
        elif request.mimetype == "application/json":
            lead = _take(call, _json(request))
        else:
            raise UnsupportedType
    except Problem as problem:
        if _navigating(request):
            return _page_again(call, fields, problem)
        raise
    if _navigating(request):
        return _to_thanks(call, fields.get("redirect", ""), lead)
    return endpoint.reply({"success": True, "id": str(lead.id), "ref": lead.ref})


def _take(call: Call, values: object) -> Lead:
    """Read, decide, keep. The lead as kept."""
    asked = values.get("locale") if isinstance(values, dict) else None
    if asked in endpoint.LOCALES:
        call.locale = asked
    try:
        read = submission.read(values)
    except submission.Faulty as faulty:
        raise Invalid(faulty.details(call.locale)) from None
    lead = leads.make(
        read,
        locale=call.locale,
        now=call.now,
        ip_address=call.client_address,
        user_agent=call.request.headers.get("User-Agent"),
    )
    call.note(lead=str(lead.id))
    try:
        return _keep(call, lead)
    except (DatabaseDown, NotConfigured) as fault:
        if isinstance(fault, NotConfigured):
            log.not_configured(fault, call.request_id)
        call.note(decision="not_kept", because=type(fault).__name__)
        raise NotPersisted from fault


def _keep(call: Call, lead: Lead) -> Lead:
    services, settings = call.services, call.services.settings
    if lead.submission.company is not None:
        leads.keep_as_spam(services.database.run, lead, "honeypot")
        call.note(decision="spam", reason="honeypot")
        return lead
    desk = leads.Desk(settings.mail_from, settings.mail_sales_to)
    kept, letters = leads.store(services.database.run, lead, desk)
    call.note(decision="stored" if letters else "stored_before")
    if letters:
        call.later(lambda: _send(call, kept, letters))
    return kept


def _send(call: Call, lead: Lead, letters: list[Letter]) -> None:
    tally = outbox.Tally()
    for mail in outbox.at_birth(lead.id, letters, call.now):
        outbox.attempt(
            call.services.database.run,
            call.services.mailer.send,
            mail,
            lambda: datetime.now(UTC),
            tally,
        )
    call.note(sent=tally.sent, delayed=tally.delayed, dead=tally.dead)


def _refuse_foreign(call: Call) -> None:
    origin = call.request.headers.get("Origin")
    if origin is not None and not endpoint.known_origin(call, origin):
        raise ForeignOrigin


def _json(request: Request) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(constant)  # NaN and Infinity are no JSON

    try:
        return json.loads(request.get_data().decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise InvalidJson from None


def _form(call: Call) -> dict[str, str]:
    """A form's fields. A field given twice, or a file, is a fault: which one was meant?"""
    request = call.request
    try:
        pairs, files = list(request.form.items(multi=True)), list(request.files)
    except RequestEntityTooLarge:
        raise TooLarge from None
    fields = dict(pairs)
    faults = dict.fromkeys(files, "file") | {
        name: "repeated" for name in fields if sum(name == other for other, _ in pairs) > 1
    }
    if faults:
        raise Invalid(
            {name: [submission.FAULTS[kind][call.locale]] for name, kind in faults.items()}
        )
    return fields


def _without_redirect(fields: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name != "redirect"}


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
    call.note(problem=problem.code)
    page = pages.faulty_form(call.locale, fields, problem.details or {}, problem.title[call.locale])
    response = Response(page, problem.status, content_type="text/html; charset=utf-8")
    response.headers.update(problem.headers)
    return response


app = endpoint.wsgi("leads", cross_origin=True, POST=post)
