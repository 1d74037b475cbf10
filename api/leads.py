"""POST /api/leads: take a lead. Keep it first, tell of it after the answer.

Bodies: application/json, application/x-www-form-urlencoded, multipart/form-data (text only).
Headers: Idempotency-Key (at most 255 characters, honoured for 24 hours), X-Form-Seconds.
200 `{"success": true, "id": "<uuid>", "ref": "ALFA-XXXXX"}`; 202 with `"queued": true` when it is
kept, but not in the database yet; a form navigation gets 303 to the thank-you page, and on a
fault, an unexpected one too, its own page back. 400 invalid_json, validation_error;
403 origin_not_allowed; 413 payload_too_large; 415 content_type_must_be_application_json;
422 idempotency_key_reused; 429 rate_limited; 503 persistence_failed with Retry-After, when the
lead is kept nowhere.
"""

from collections import Counter
from datetime import UTC, datetime
from urllib.parse import unquote_plus, urlencode, urlsplit
from uuid import uuid4

from lib import app as lib_app
from lib import json_body
from lib.app import Context, Request, RequestEntityTooLarge, Response
from lib.leads import canary, mailed_leads, outbox, repository, service, spam, submission, worker
from lib.leads.admission import Admitted, IdempotencyRecord, RateLimits
from lib.leads.repository import Lead
from lib.leads.service import PersistedLead, StoreFailure
from lib.monitoring import deployments
from lib.problems import (
    IdempotencyKeyReused,
    Invalid,
    InvalidJson,
    NotPersisted,
    OriginNotAllowed,
    Problem,
    TooLarge,
    Unauthorized,
    UnsupportedType,
)

MAX_BODY_BYTES = 100 * 1024
MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
CHALLENGE_FIELD = "cf-turnstile-response"  # as Cloudflare's widget names it
THANK_YOU_PATHS = {"id": "/terima-kasih", "en": "/en/thank-you"}

worker_throttle = worker.Throttle()
first_run = deployments.FirstCheck()


def post(call: Context) -> Response:
    first_run.check_after_response(call)
    _reject_foreign_origin(call)
    lead, token = _parse_lead(call)
    status, lead = _accept(call, lead, token)
    if _is_browser_form(call.request):
        return _redirect_to_thank_you(call, call.request.form.get("redirect", ""), lead)
    body: dict[str, object] = {"success": True, "id": str(lead.id), "ref": lead.ref}
    if status == 202:
        body["queued"] = True
    return lib_app.json_response(body, status)


# ------------------------------------------------------------------ what came


def _parse_lead(call: Context) -> tuple[Lead, str]:
    """The body as a lead, and the page's challenge token if it has one."""
    request = call.request
    if len(request.get_data(cache=True)) > MAX_BODY_BYTES:
        raise TooLarge
    values: object
    if request.mimetype in FORM_TYPES:
        values, ambiguous = _parse_form(request)
    elif request.mimetype == "application/json":
        values, ambiguous = _parse_json(request)
    else:
        raise UnsupportedType
    token = ""
    if isinstance(values, dict):
        given = values.pop(CHALLENGE_FIELD, "")
        token = given if isinstance(given, str) else ""
        values.pop("redirect", None)  # means something in forms alone
        if values.get("locale") in lib_app.LOCALES:
            call.locale = values["locale"]
    try:
        read = submission.parse(values, ambiguous)
    except submission.ValidationError as faulty:
        raise Invalid(faulty.details(call.locale)) from None
    lead = repository.from_submission(
        read,
        key=_idempotency_key(call),
        locale=call.locale,
        now=call.now,
        ip_address=call.client_ip,
        user_agent=request.headers.get("User-Agent"),
        canary=_is_canary(call),
    )
    return lead, token


def _is_canary(call: Context) -> bool:
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


def _parse_json(request: Request) -> tuple[object, dict[str, str]]:
    """What the body says, and the keys that say it twice."""
    try:
        values, repeated = json_body.parse(request.get_data())
    except (ValueError, RecursionError):
        raise InvalidJson from None
    return values, dict.fromkeys(repeated, "repeated")


def _parse_form(request: Request) -> tuple[object, dict[str, str]]:
    """A form's values, and its faults: a field given twice (which one was meant?), a file."""
    try:
        pairs, files = list(request.form.items(multi=True)), list(request.files)
    except RequestEntityTooLarge:
        raise TooLarge from None
    fields = dict(pairs)
    times = Counter(name for name, _ in pairs)
    repeated = {name: "repeated" for name in fields if times[name] > 1}
    return submission.from_form(fields), dict.fromkeys(files, "file") | repeated


def _idempotency_key(call: Context) -> str | None:
    key = call.request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # the IETF draft's quoted string
    if len(key) > MAX_IDEMPOTENCY_KEY_CHARACTERS:
        fault = submission.ERROR_MESSAGES["string_too_long"][call.locale]
        raise Invalid(
            {"Idempotency-Key": [fault.format(max_length=MAX_IDEMPOTENCY_KEY_CHARACTERS)]}
        )
    return key or None


def _reject_foreign_origin(call: Context) -> None:
    """Refuse what a page of another site sends. Pages can forge none of these headers.

    Without an Origin that names the page, Sec-Fetch-Site says whether it is ours; where it is not,
    Referer may still name an allow-listed one. No browser: neither is there, and it is let in.
    """
    headers = call.request.headers
    origin = headers.get("Origin", "").strip()
    if origin and origin != "null":
        if not lib_app.is_allowed_origin(call, origin):
            raise OriginNotAllowed
        return
    site = headers.get("Sec-Fetch-Site", "").strip().lower()
    if site == "same-origin" or (not origin and site in ("", "none")):
        return
    if not lib_app.is_allowed_origin(call, lib_app.origin_of(headers.get("Referer", ""))):
        raise OriginNotAllowed


# ------------------------------------------------------------------ what is done with it


def _accept(call: Context, lead: Lead, token: str) -> tuple[int, Lead]:
    """Let it in, keep it, and put off the rest. How it is answered, and the lead as kept.

    Whatever fails before `intake.keep` is done without: only the stores decide about a lead.
    """
    settings = call.services.settings
    call.add_log_fields(lead=str(lead.id))
    member = uuid4().hex  # not the request's id, which a caller may choose
    entered = _admit(call, lead, member)
    if isinstance(entered, IdempotencyRecord):
        call.add_log_fields(decision="seen", lead=str(entered.id))
        return entered.status, repository.as_duplicate(lead, entered.id, entered.ref)
    window = call.attempt(lambda: call.maintenance, None)
    spam_reason, review = (
        (None, None) if lead.canary else _spam_or_review(call, lead, entered, token)
    )
    offered = service.with_earlier_identity(lead, entered.earlier)._replace(review=review)
    desk = repository.Recipients(settings.mail_from, settings.mail_sales_to).for_lead(lead)
    try:
        kept = service.persist(
            call.services, offered, desk, spam=spam_reason, closed=window is not None
        )
    except NotPersisted as problem:
        call.add_log_fields(decision="not_kept")
        _report_store_failures(call, problem.failures)
        _raise_alert(call, "lead_not_kept", lead)
        call.after_response(lambda: service.release(call.services, lead, member))
        call.after_response(call.services.probe_open_breakers)
        raise
    except IdempotencyKeyReused:
        call.after_response(lambda: service.release(call.services, lead, member))
        raise
    call.add_log_fields(decision=kept.decision, reason=spam_reason, review=review)
    call.add_log_fields(uncounted=entered.not_counted_because, maintenance=window and window.mode)
    _report_store_failures(call, kept.failures)
    if kept.needs_alert:
        _raise_alert(call, "lead_not_stored_nor_queued", lead)
    call.after_response(lambda: service.record_accepted(call.services, kept, lead))
    call.after_response(
        lambda: mailed_leads.register_after_response(call.services, kept.lead, kept.decision)
    )
    call.after_response(lambda: _send_emails(call, kept))
    call.after_response(call.services.probe_open_breakers)
    if window is None and worker_throttle.allow():
        call.after_response(lambda: _run_worker(call))
    return 200 if kept.decision == "spam" else kept.lead.status, kept.lead


def _admit(call: Context, lead: Lead, member: str) -> Admitted | IdempotencyRecord:
    """Idempotency and rate limit. Raises KeyReused, RateLimited."""
    settings = call.services.settings
    limits = RateLimits(
        settings.leads_per_minute, settings.leads_per_hour, settings.leads_ceiling_per_minute
    )
    entered = call.attempt(
        lambda: service.admit(call.services, lead, limits, member, call.now),
        Admitted(flooded=False, repeats=0, not_counted_because="it failed"),
    )
    if isinstance(entered, Admitted) and entered.not_counted_because is None:
        call.update_maintenance(entered.maintenance)
    return entered


def _report_store_failures(call: Context, lost: tuple[StoreFailure, ...]) -> None:
    """Log the stores that did not take a lead, and have them looked at again after the answer;
    report what is no mere outage."""
    if lost:
        call.add_log_fields(lost=[str(one) for one in lost])
    for one in lost:
        call.record_outage(one.store, one.error)
        if not isinstance(one.error, service.OUTAGE_ERRORS):
            call.report(one.error)


def _raise_alert(call: Context, name: str, lead: Lead) -> None:
    from lib.incidents import alerting  # what a lead that is kept never needs

    alerting.raise_alert_after_response(call, name, lead=str(lead.id))


def _spam_or_review(
    call: Context, lead: Lead, entered: Admitted, token: str
) -> tuple[str | None, str | None]:
    """Why it goes to the spam box; else why a person looks at it before sales are mailed."""
    reason = call.attempt(
        lambda: spam.classify(
            lead.submission,
            seconds_to_fill=call.request.headers.get("X-Form-Seconds", type=int),
            repeats=entered.repeats,
        ),
        None,
    )
    if reason is None and entered.flooded:
        return None, "flood"
    challenge = reason or call.attempt(
        lambda: service.verify_challenge(call.services, lead, token), None
    )
    if challenge in spam.INCONCLUSIVE_CHALLENGES:
        return None, challenge
    return challenge, None


def _send_emails(call: Context, kept: PersistedLead) -> None:
    """Deliver the lead's own mails, which were leased to this instance when it was stored."""
    tally = outbox.DeliveryStats()
    mails = outbox.claimed_on_insert(kept.lead.id, kept.emails, call.now)
    way = outbox.get_transport(call.services)
    outbox.send_new(call.services.database.run, way, mails, _utc_now, tally)
    call.add_log_fields(
        sent=tally.sent, delayed=tally.delayed, dead=tally.dead, refused=tally.refused
    )
    if tally.error is not None:
        raise tally.error


def _run_worker(call: Context) -> None:
    settings = call.services.settings
    desk = repository.Recipients(settings.mail_from, settings.mail_sales_to)
    found = worker.process_pending(
        call.services,
        desk,
        _utc_now,
        queue_s=worker.AFTER_RESPONSE_BUDGET_S,
        mails_s=worker.AFTER_RESPONSE_BUDGET_S,
    )
    for fault in found.errors.values():
        call.report(fault)
    call.add_log_fields(round=found.as_dict())


def _utc_now() -> datetime:
    return datetime.now(UTC)


# ------------------------------------------------------------------ how a browser is answered


def _is_browser_form(request: Request) -> bool:
    """Whether a browser sent a form and will show what we answer."""
    return request.mimetype in FORM_TYPES and "text/html" in request.headers.get("Accept", "")


def _redirect_to_thank_you(call: Context, wanted: str, lead: Lead) -> Response:
    target = wanted if _is_allowed_redirect(call, wanted) else THANK_YOU_PATHS[lead.locale]
    return Response(status=303, headers={"Location": _add_reference(target, lead.ref)})


def _add_reference(target: str, ref: str) -> str:
    """The address with `ref` as its last parameter, before a fragment and in place of another."""
    address, hash_sign, fragment = target.partition("#")
    path, _, query = address.partition("?")
    kept = [
        part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) != "ref"
    ]
    return f"{path}?{'&'.join([*kept, urlencode({'ref': ref})])}{hash_sign}{fragment}"


def _is_allowed_redirect(call: Context, target: str) -> bool:
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
    return parts.scheme in ("http", "https") and lib_app.is_allowed_origin(
        call, f"{parts.scheme}://{parts.netloc}"
    )


def _render_form(call: Context, problem: Problem) -> Response | None:
    """The form as it was sent, with what is wrong beside each field; None if none was sent."""
    if not _is_browser_form(call.request):
        return None
    from lib.leads import form_pages  # what a lead that is right never needs

    try:
        fields = call.request.form.to_dict()
    except RequestEntityTooLarge:
        fields = {}
    call.add_log_fields(problem=problem.code)
    title = problem.title[call.locale]
    page = form_pages.render_form_with_errors(call.locale, fields, problem.details or {}, title)
    response = Response(page, problem.status, content_type="text/html; charset=utf-8")
    response.headers.update(problem.headers)
    return response


app = lib_app.wsgi_app("leads", cross_origin=True, page=_render_form, POST=post)
