"""schemathesis' short form; `python3 -m dev conform` is the long one."""

import httpx
import pytest

from dev.conformance import fuzzing
from dev.platform.local_platform import Platform
from tests.conftest import ROOT


@pytest.mark.slow
def test_hundreds_of_requests_find_no_answer_that_is_not_documented(
    platform: Platform, database: object
) -> None:
    report = fuzzing.run(
        ROOT, platform.url, platform.environment, 320, 1, "--phases", "examples,fuzzing"
    )
    assert report["complete"]
    assert report["test_cases"]["generated"] >= 300
    assert not report["failures"], fuzzing.render(report)


@pytest.mark.parametrize("path", ["/api/leads", "/api/health", "/api/products", "/api/status"])
def test_a_method_nobody_offers_is_refused_with_those_that_are(
    site: httpx.Client, path: str
) -> None:
    """What schemathesis found: the local router knew some methods alone."""
    for method in ("TRACE", "PATCH", "QUERY"):
        answer = site.request(method, path)
        assert answer.status_code == 405
        assert "OPTIONS" in answer.headers["Allow"]
        assert answer.json()["error"] == "method_not_allowed"
