"""GET, HEAD, DELETE /api/leads/subject: what is held of a person; erase it. For operators.

`Authorization: Bearer $LEADS_ADMIN_TOKEN` or `X-Admin-Token`. Parameters: `email`, `phone` (one, or
both for either), normalised as in a lead; for DELETE `dry_run=1`, which only counts. In a query
string a + is written %2B: a number that may have lost it, or that can be read as two, is refused by
DELETE.
GET 200: everything held, as JSON; `not_searched` names what was down, `other_readings` the numbers
that may have been meant instead.
DELETE 200: a receipt with a line per place. `waiting` is done by a later round, `instruction` by a
person before `due_at`, `expires` by itself. With Redis down its places wait.
400 validation_error; 401 unauthorized; 503 service_not_configured without a token or ERASURE_KEY,
temporarily_unavailable without Postgres.
"""

from lib import app as lib_app
from lib import query_parameters
from lib.app import Context, Response
from lib.leads import submission
from lib.privacy import data_subject, erasure, requests
from lib.problems import Invalid


def get(call: Context) -> Response:
    lib_app.require_operator_token(call)
    person, _ = _parse(call, ())
    call.after_response(call.services.probe_open_breakers)
    found = data_subject.export_all(call.services, data_subject.from_person(person), call.now)
    shown = {name: len(rows) for name, rows in found.items() if isinstance(rows, list)}
    call.add_log_fields(
        decision="shown", held=shown, not_searched=list(found["not_searched"]) or None
    )
    return lib_app.json_response({**found, "other_readings": person.other_phones})


def delete(call: Context) -> Response:
    lib_app.require_operator_token(call)
    person, dry_run = _parse(call, ("dry_run",), certain=True)
    whom = data_subject.from_person(person)
    call.after_response(call.services.probe_open_breakers)
    if dry_run:
        counts = data_subject.count_all(call.services, whom)
        call.add_log_fields(decision="counted")
        return lib_app.json_response({"dry_run": True, "places": requests.dry_run_lines(counts)})
    request = erasure.erase(call.services, whom, call.now, asked_by="api")
    receipt = requests.load_receipt(call.services.database.run, request)
    # Marks are keyed hashes: the log is one more place from which a tombstone can be had again.
    call.add_log_fields(decision="erased", receipt=receipt and receipt["receipt"],
              tombstones=whom.tombstone_hashes(call.services.erasure_keys))  # fmt: skip
    return lib_app.json_response({"dry_run": False, **(receipt or {})})


def _parse(
    call: Context, flags: tuple[str, ...], *, certain: bool = False
) -> tuple[submission.Person, bool]:
    """Who is meant, and whether only to count. Raises Invalid with every fault."""
    sent = call.request.args.to_dict(flat=False)
    # `dry_run` without a value was not left out: who writes it means anything but "erase".
    unsaid = "dry_run" in sent and not any(sent["dry_run"])
    given = query_parameters.drop_empty(sent)
    kinds: dict[str, list[tuple[str, dict[str, object]]]] = {
        name: [("repeated", {})] for name, values in given.items() if len(values) > 1
    }
    said = {name: values[0] for name, values in given.items()}
    dry_run = query_parameters.parse_flag(said.pop("dry_run", "0") if "dry_run" in flags else "0")
    if dry_run is None or (unsaid and "dry_run" in flags):
        kinds["dry_run"] = [("flag", {})]
    try:
        person = submission.parse_person(said, certain=certain)
    except submission.ValidationError as faulty:
        raise Invalid(
            submission.ValidationError({**faulty.error_types, **kinds}).details(call.locale)
        ) from None
    if kinds:
        raise Invalid(submission.ValidationError(kinds).details(call.locale))
    return person, bool(dry_run)


app = lib_app.wsgi_app("leads_subject", GET=get, DELETE=delete)
