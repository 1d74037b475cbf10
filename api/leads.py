"""POST /api/leads: take a lead. Store it first, send mails after the answer.

Bodies: application/json, application/x-www-form-urlencoded, multipart/form-data (text only).
Headers: Idempotency-Key (at most 255 characters, honoured for 24 hours), X-Form-Seconds.
200 `{"success": true, "id": "<uuid>", "ref": "ALFA-XXXXX"}`; 202 with `"queued": true` when it is
accepted, but not in the database yet; a form navigation gets 303 to the thank-you page, and on any
error its own page back. 400 invalid_json, validation_error; 403 origin_not_allowed;
413 payload_too_large; 415 content_type_must_be_application_json; 422 idempotency_key_reused;
429 rate_limited; 503 persistence_failed with Retry-After, when the lead is stored nowhere.
"""

from collections import Counter

from lib import json_body
from lib.app import (
    LOCALES,
    Context,
    Request,
    RequestEntityTooLarge,
    Response,
    find_store_fault,
    json_response,
    utc_now,
    wsgi_app,
)
from lib.leads import (
    canary,
    mailed_leads,
    outbox,
    redirects,
    service,
    spam,
    submission,
    worker,
)
from lib.leads.admission import Admission, RateLimits, StoreFailure
from lib.leads.lead import Lead, Recipients
from lib.leads.service import Conditions
from lib.monitoring import deployments
from lib.origins import is_allowed_origin, origin_of
from lib.problems import (
    IntakeClosed,
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

worker_throttle = worker.Throttle()
first_run = deployments.FirstCheck()


def post(context: Context) -> Response:
    first_run.check_after_response(context)
    _reject_foreign_origin(context)
    lead, challenge_token = _parse_lead(context)
    status, lead = _accept(context, lead, challenge_token)
    return _respond(context, status, lead)


# ------------------------------------------------------------------ parse


def _reject_foreign_origin(context: Context) -> None:
    """Refuse what a page of another site sends. Pages can forge none of these headers.

    Without an Origin that names the page, Sec-Fetch-Site says whether it is ours; where it is not,
    Referer may still name an allow-listed one. No browser: neither is there, and it is let in.
    """
    headers = context.request.headers
    origin = headers.get("Origin", "").strip()
    if origin and origin != "null":
        if not is_allowed_origin(context, origin):
            raise OriginNotAllowed
        return
    site = headers.get("Sec-Fetch-Site", "").strip().lower()
    if site == "same-origin" or (not origin and site in ("", "none")):
        return
    if not is_allowed_origin(context, origin_of(headers.get("Referer", ""))):
        raise OriginNotAllowed


def _parse_lead(context: Context) -> tuple[Lead, str]:
    """The body as a lead, and the page's challenge token; empty if there is none."""
    request = context.request
    if len(request.get_data(cache=True)) > MAX_BODY_BYTES:
        raise TooLarge
    _reject_truncated_body(context)
    values: object
    if request.mimetype in FORM_TYPES:
        values, ambiguous = _parse_form(request)
    elif request.mimetype == "application/json":
        values, ambiguous = _parse_json(request)
    else:
        raise UnsupportedType
    challenge_token: object = ""
    if isinstance(values, dict):
        challenge_token = values.pop(CHALLENGE_FIELD, "")
        values.pop("redirect", None)  # means something in forms alone
        if values.get("locale") in LOCALES:
            context.locale = values["locale"]
    try:
        form = submission.parse(values, ambiguous)
    except submission.ValidationError as error:
        raise Invalid(error.details(context.locale)) from None
    lead = Lead.from_submission(
        form,
        key=_idempotency_key(context),
        locale=context.locale,
        now=context.now,
        ip_address=context.client_ip,
        user_agent=request.headers.get("User-Agent"),
        canary=_is_canary(context),
    )
    return lead, challenge_token if isinstance(challenge_token, str) else ""


def _reject_truncated_body(context: Context) -> None:
    """A form that is cut short is a form still. The runtime keeps the length that was announced."""
    announced = context.request.environ.get("HTTP_CONTENT_LENGTH", "")
    if announced.isdecimal() and int(announced) > len(context.request.get_data()):
        raise Invalid({"_": [submission.ERROR_MESSAGES["truncated"][context.locale]]})


def _parse_json(request: Request) -> tuple[object, dict[str, str]]:
    """The value, and as `repeated` the keys that one object holds twice."""
    try:
        values, repeated = json_body.parse(request.get_data())
    except (ValueError, RecursionError):
        raise InvalidJson from None
    return values, dict.fromkeys(repeated, "repeated")


def _parse_form(request: Request) -> tuple[object, dict[str, str]]:
    """The values, and its ambiguous fields: `repeated`, or a `file`."""
    try:
        pairs, files = list(request.form.items(multi=True)), list(request.files)
    except RequestEntityTooLarge:
        raise TooLarge from None
    counts = Counter(name for name, _ in pairs)
    repeated = {name: "repeated" for name, count in counts.items() if count > 1}
    return submission.from_form(dict(pairs)), dict.fromkeys(files, "file") | repeated


def _idempotency_key(context: Context) -> str | None:
    key = context.request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # the IETF draft's quoted string
    if len(key) > MAX_IDEMPOTENCY_KEY_CHARACTERS:
        message = submission.ERROR_MESSAGES["string_too_long"][context.locale]
        raise Invalid(
            {"Idempotency-Key": [message.format(max_length=MAX_IDEMPOTENCY_KEY_CHARACTERS)]}
        )
    return key or None


def _is_canary(context: Context) -> bool:
    """Whether this is our own synthetic lead. Raises Unauthorized for a forged one."""
    header = context.request.headers.get(canary.HEADER)
    if header is None:
        return False
    settings, body = context.services.settings, context.request.get_data()
    secrets = (settings.canary_secret, settings.canary_secret_previous)
    if not any(canary.is_signed(secret, header, body, context.now) for secret in secrets if secret):
        raise Unauthorized
    return True


# ------------------------------------------------------------------ decide


def _accept(context: Context, lead: Lead, challenge_token: str) -> tuple[int, Lead]:
    """The status of the answer, and the lead as it is stored.

    An error before `service.persist` costs nobody a lead: only the stores decide about it.
    """
    context.add_log_fields(lead=str(lead.id))
    window = context.attempt(lambda: context.confirmed_maintenance, None)
    admitted = _persist(context, lead, _conditions(context, window is None, challenge_token))
    is_closed = window is not None or any(
        isinstance(failure.error, IntakeClosed) for failure in admitted.failures
    )
    context.add_log_fields(lead=str(admitted.lead.id), closed=is_closed or None)
    context.after_response(lambda: _send_emails(context, admitted))
    context.after_response(context.services.probe_open_breakers)
    if not is_closed and worker_throttle.allow():
        context.after_response(lambda: _run_worker(context))
    return admitted.lead.status, admitted.lead


def _conditions(context: Context, use_database: bool, challenge_token: str) -> Conditions:
    settings = context.services.settings
    limits = RateLimits(
        settings.leads_per_minute, settings.leads_per_hour, settings.leads_ceiling_per_minute
    )
    return Conditions(
        limits,
        lambda lead, repeats: _screen(context, lead, repeats, challenge_token),
        use_database,
        bypass_maintenance=context.bypasses_maintenance,
    )


def _screen(context: Context, lead: Lead, repeats: int, challenge_token: str) -> Lead:
    if lead.canary:
        return lead
    screened = context.attempt(
        lambda: spam.screen(
            context.services,
            lead,
            seconds_to_fill=context.request.headers.get("X-Form-Seconds", type=int),
            repeats=repeats,
            challenge_token=challenge_token,
        ),
        lead,
    )
    context.add_log_fields(reason=screened.spam, review=screened.review)
    return screened


def _persist(context: Context, lead: Lead, conditions: Conditions) -> Admission:
    services = context.services
    recipients = Recipients(services.settings.mail_from, services.settings.mail_sales_to)
    try:
        admitted = service.persist(services, lead, recipients.for_lead(lead), conditions)
    except NotPersisted as problem:
        context.add_log_fields(decision="not_persisted")
        _report_store_failures(context, problem.failures)
        _raise_alert(context, "lead_not_kept", lead)
        context.after_response(services.probe_open_breakers)
        raise
    context.add_log_fields(decision=admitted.decision)
    _report_store_failures(context, admitted.failures)
    if admitted.decision == "mailed":
        _raise_alert(context, "lead_not_stored_nor_queued", lead)
    context.after_response(lambda: service.record_accepted(services, admitted, lead))
    context.after_response(
        lambda: mailed_leads.register_after_response(services, admitted.lead, admitted.decision)
    )
    return admitted


def _report_store_failures(context: Context, failures: tuple[StoreFailure, ...]) -> None:
    """Log them, have the stores checked after the answer, report what is no mere outage."""
    if failures:
        context.add_log_fields(store_failures=[str(failure) for failure in failures])
    for store, error in failures:
        if isinstance(error, IntakeClosed):
            continue
        context.record_outage(store, error)
        if not isinstance(error, service.OUTAGE_ERRORS):
            context.report(error)


def _raise_alert(context: Context, name: str, lead: Lead) -> None:
    from lib.incidents import alerting  # what a lead that is stored never needs

    alerting.raise_alert_after_response(context, name, lead=str(lead.id))


# ------------------------------------------------------------------ respond


def _respond(context: Context, status: int, lead: Lead) -> Response:
    if _is_browser_form(context.request):
        target = context.request.form.get("redirect", "")
        if not redirects.is_allowed(target, lambda origin: is_allowed_origin(context, origin)):
            target = redirects.THANK_YOU_PATHS[lead.locale]
        location = redirects.add_reference(target, lead.ref)
        return Response(status=303, headers={"Location": location})
    body: dict[str, object] = {"success": True, "id": str(lead.id), "ref": lead.ref}
    if status == 202:
        body["queued"] = True
    return json_response(body, status)


def _is_browser_form(request: Request) -> bool:
    """Whether a browser sent a form and will show the answer as a page."""
    return request.mimetype in FORM_TYPES and "text/html" in request.headers.get("Accept", "")


def _render_form(context: Context, problem: Problem) -> Response | None:
    """The form as it was sent, with the error beside each field; None if none was sent."""
    if not _is_browser_form(context.request):
        return None
    from lib.leads import form_pages  # what a valid lead never needs

    try:
        fields = context.request.form.to_dict()
    except RequestEntityTooLarge:
        fields = {}
    context.add_log_fields(problem=problem.code)
    title = problem.title[context.locale]
    page = form_pages.render_form_with_errors(context.locale, fields, problem.details or {}, title)
    response = Response(page, problem.status, content_type="text/html; charset=utf-8")
    response.headers.update(problem.headers)
    return response


# ------------------------------------------------------------------ after the answer


def _send_emails(context: Context, admitted: Admission) -> None:
    """Send the lead's own mails, which were leased to this instance when it was stored."""
    if not admitted.emails:
        return
    services = context.services
    transport = outbox.get_transport(services)
    delivery = outbox.Delivery(services.database.run, transport, utc_now)
    delivery.send_new(admitted.lead.id, admitted.emails, context.now)
    context.add_log_fields(**delivery.stats.as_dict())
    if delivery.stats.error is not None:
        raise delivery.stats.error


def _run_worker(context: Context) -> None:
    settings = context.services.settings
    result = worker.process_pending(
        context.services,
        Recipients(settings.mail_from, settings.mail_sales_to),
        utc_now,
        queue_s=worker.AFTER_RESPONSE_BUDGET_S,
        mails_s=worker.AFTER_RESPONSE_BUDGET_S,
        find_store_fault=find_store_fault,
    )
    for error in result.errors.values():
        context.report(error)
    context.add_log_fields(round=result.as_dict())


app = wsgi_app("leads", cross_origin=True, page=_render_form, POST=post)
