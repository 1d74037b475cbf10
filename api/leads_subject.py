"""GET, HEAD, DELETE /api/leads/subject: what is held about a person; erase it. For operators.

`Authorization: Bearer $LEADS_ADMIN_TOKEN` or `X-Admin-Token`. Parameters: `email`, `phone` (one, or
both for either), normalised as in a lead; for DELETE `dry_run=1`, which only counts. In a query
string a + is written %2B: DELETE refuses a number that may have lost it, or that can be read as
two.
GET 200: everything held, as JSON; `not_searched` names the stores that were down, `other_readings`
the numbers that may have been meant instead.
DELETE 200: a receipt with a line per place. `waiting` is done by a later cron job, `instruction` by
a person before `due_at`, `expires` by itself. With Redis down its places wait.
400 validation_error; 401 unauthorized; 503 service_not_configured without a token or ERASURE_KEY,
temporarily_unavailable without Postgres.
"""

from lib import query_parameters
from lib.app import Context, Response, json_response, wsgi_app
from lib.authorization import require_operator_token
from lib.leads import submission
from lib.privacy import data_subject, erasure, requests
from lib.problems import Invalid


def get(context: Context) -> Response:
    require_operator_token(context)
    person, _ = _parse(context)
    context.after_response(context.services.probe_open_breakers)
    data = data_subject.export_all(context.services, data_subject.from_person(person), context.now)
    counts = {name: len(rows) for name, rows in data.items() if isinstance(rows, list)}
    context.add_log_fields(
        decision="shown", held=counts, not_searched=list(data["not_searched"]) or None
    )
    return json_response({**data, "other_readings": person.other_phones})


def delete(context: Context) -> Response:
    require_operator_token(context)
    person, dry_run = _parse(context, erasing=True)
    subject = data_subject.from_person(person)
    context.after_response(context.services.probe_open_breakers)
    if dry_run:
        data = data_subject.export_all(context.services, subject, context.now)
        context.add_log_fields(decision="counted")
        lines = requests.dry_run_lines(data_subject.count(data))
        return json_response({"dry_run": True, "places": lines})
    request_id = erasure.erase(context.services, subject, context.now, asked_by="api")
    receipt = requests.load_receipt(context.services.database.run, request_id) or {}
    # Keyed hashes, no personal data: the log is one more copy of the tombstones.
    context.add_log_fields(
        decision="erased",
        receipt=receipt.get("receipt"),
        tombstones=subject.tombstone_hashes(context.services.erasure_keys),
    )
    return json_response({"dry_run": False, **receipt})


def _parse(context: Context, *, erasing: bool = False) -> tuple[submission.Person, bool]:
    """Who is meant, and `dry_run`, which is for an erasure. Raises Invalid with every error."""
    sent = context.request.args.to_dict(flat=False)
    values_by_name = query_parameters.drop_empty(sent)
    errors: dict[str, list[tuple[str, dict[str, object]]]] = {
        name: [("repeated", {})] for name, values in values_by_name.items() if len(values) > 1
    }
    parameters = {name: values[0] for name, values in values_by_name.items()}
    dry_run: bool | None = False
    if erasing:
        dry_run = query_parameters.parse_flag(parameters.pop("dry_run", "0"))
        # `dry_run` without a value must not erase.
        if dry_run is None or ("dry_run" in sent and not any(sent["dry_run"])):
            errors["dry_run"] = [("flag", {})]
    try:
        person = submission.parse_person(parameters, certain=erasing)
    except submission.ValidationError as error:
        errors = {**error.error_types, **errors}
    if errors:
        raise Invalid(submission.ValidationError(errors).details(context.locale)) from None
    return person, bool(dry_run)


app = wsgi_app("leads_subject", GET=get, DELETE=delete)
