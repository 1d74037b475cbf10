"""The audit of dependencies, against a stand-in of OSV that speaks its wire format.

A service that does not answer, or knows nothing, is never taken for one that found nothing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dev import audit
from dev.audit import dependencies
from dev.audit.dependencies import KNOWN_BAD
from dev.audit.outcome import CLEAN, FINDINGS, NOT_ASKED
from dev.edge.http_server import Request, Response, Server, as_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs() -> Path:
    return audit.ensure()


def advisory(package: str) -> dict[str, Any]:
    """As OSV answers (its schema 1.7)."""
    events = [{"introduced": "0"}, {"fixed": "9.9"}]
    return {
        "schema_version": "1.7.3",
        "id": "PYSEC-2026-1",
        "aliases": ["CVE-2026-0001"],
        "details": "It is broken.",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": package},
                "ranges": [{"type": "ECOSYSTEM", "events": events}],
            }
        ],
    }


class AdvisoryService:
    """OSV's `POST /v1/query` on this machine. It knows advisories of `bad`."""

    def __init__(self, bad: set[str], status: int = 200) -> None:
        self._bad = bad
        self._status = status
        self.queries: list[str] = []
        self._server = Server(self._answer)
        self.options = ("-s", "osv", "--osv-url", f"{self._server.url}/v1/query")
        self.close = self._server.close

    def _answer(self, request: Request) -> Response:
        query = request.json()
        package = query["package"]["name"]
        assert query["package"]["ecosystem"] == "PyPI"
        self.queries.append(f"{package}=={query['version']}")
        return as_json({"vulns": [advisory(package)]} if package in self._bad else {}, self._status)


KNOWN = KNOWN_BAD.partition("==")[0]


@pytest.fixture
def service() -> Iterator[Callable[..., AdvisoryService]]:
    made: list[AdvisoryService] = []

    def make(*bad: str, status: int = 200) -> AdvisoryService:
        made.append(AdvisoryService(set(bad), status))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text("httpx==0.28.1  # every vendor\npsycopg[binary]==3.3.9\n")
    return file


def test_a_release_with_an_advisory_is_queried_first_and_then_each_of_ours(
    programs: Path, service: Callable[..., AdvisoryService], requirements: Path
) -> None:
    osv = service(KNOWN)
    outcome = dependencies.run(programs, requirements, [osv.options])
    assert outcome.status == CLEAN, outcome
    assert outcome.figures.startswith("2 packages by osv")
    assert osv.queries == [KNOWN_BAD, "httpx==0.28.1", "psycopg==3.3.9"]


def test_an_advisory_of_ours_is_a_finding(
    programs: Path, service: Callable[..., AdvisoryService], requirements: Path
) -> None:
    outcome = dependencies.run(programs, requirements, [service(KNOWN, "psycopg").options])
    assert outcome.findings == ["psycopg 3.3.9: PYSEC-2026-1, fixed in 9.9"]
    assert outcome.status == FINDINGS


@pytest.mark.parametrize(
    ("status", "reason"), [(200, f"it knows nothing of {KNOWN_BAD}"), (503, "it does not answer")]
)
def test_a_service_that_knows_nothing_or_fails_is_never_green(
    programs: Path,
    service: Callable[..., AdvisoryService],
    requirements: Path,
    status: int,
    reason: str,
) -> None:
    osv = service(status=status)
    outcome = dependencies.run(programs, requirements, [osv.options])
    assert outcome.status == NOT_ASKED
    assert reason in str(outcome)
    assert set(osv.queries) == {KNOWN_BAD}
