"""The register of people's requests: instructions, deadline, receipt."""

from datetime import datetime, timedelta

import psycopg
from psycopg.rows import DictRow

from lib.privacy import erasure, requests
from lib.services import Services
from ops.privacy import register
from tests.conftest import both_majors
from tests.privacy.person_data import BY_EMAIL, MINUTE, erase, make_lead, now, store_lead

type Rows = psycopg.Connection[DictRow]

pytestmark = both_majors


def test_a_request_is_finished_when_every_instruction_was_followed(
    services: Services, database: Rows
) -> None:
    run = services.database.run
    store_lead(services, make_lead())
    number = erase(services)["receipt"]
    erasure.run_pending(services, now() + 3 * MINUTE)
    assert register.complete_step(run, number, "sales_mailbox", now())
    assert not register.complete_step(run, number, "sales_mailbox", now())
    assert not register.complete_step(run, number, "logs", now())
    receipt = requests.load_receipt(run, number)
    assert receipt is not None
    assert receipt["finished_at"] is None
    assert register.complete_step(run, number, "sentry", now())
    receipt = requests.load_receipt(run, number)
    assert receipt is not None
    assert receipt["finished_at"] is not None
    assert all(line["ids"] == [] for line in receipt["places"]), "no id outlives its use"


def test_the_deadline_counts_from_when_the_person_asked(services: Services) -> None:
    run = services.database.run
    received_at = now() - timedelta(hours=71)
    hashes = BY_EMAIL.tombstone_hashes(services.erasure_keys)
    number = register.register(run, "erasure", hashes, received_at)
    assert requests.list_due(run, now()) == []
    (soon,) = requests.list_due(run, now(), within=timedelta(hours=2))
    assert (soon.receipt, soon.kind) == (number, "erasure")
    (late,) = requests.list_due(run, now() + timedelta(hours=2))
    assert late.due_at == received_at + timedelta(hours=72)
    receipt = erase(services)
    assert receipt["receipt"] == number, "the erasure answers the open request"
    assert datetime.fromisoformat(receipt["received_at"]) == received_at
    (late,) = requests.list_due(run, now() + timedelta(hours=2))
    assert late.places == ("sales_mailbox",)
    register.complete_step(run, number, "sales_mailbox", now())
    erasure.run_pending(services, now() + 3 * MINUTE)
    assert requests.list_due(run, now() + timedelta(days=9)) == []


def test_an_access_request_is_closed_once_by_its_receipt_number(services: Services) -> None:
    run, hashes = services.database.run, BY_EMAIL.tombstone_hashes(services.erasure_keys)
    number = register.register(run, "access", hashes, now())
    assert number.startswith("ACCESS-")
    assert len(requests.list_due(run, now() + timedelta(hours=73))) == 1
    assert register.finish_access_request(run, number, now())
    assert not register.finish_access_request(run, number, now())
    assert requests.list_due(run, now() + timedelta(hours=73)) == []
