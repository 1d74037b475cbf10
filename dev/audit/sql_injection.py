"""sqlmap on every GET parameter and POST field of a site on this machine, bounded in time.

It is shown an injectable site first: a run that finds nothing there says nothing about ours.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from dev.audit import injectable_site
from dev.audit.outcome import Outcome
from dev.audit.source_code import ToolFailed
from dev.edge.http_server import Server

OPERATOR, HEALTH = "LEADS_ADMIN_TOKEN", "HEALTH_CHECK_TOKEN"
LEAD = {
    "business_name": "Salon Melati",
    "contact_name": "Rina Wulandari",
    "phone_whatsapp": "081234567890",
    "city": "Bandung",
    "salon_type": "SALON",
    "consent": "true",
    "email": "rina@example.com",
    "chair_count": "3",
    "specialization": "coloring",
    "current_brands_used": "Kemon",
    "monthly_spend_range": "5 juta",
    "message": "Halo",
    "page_url_initial": "https://alfabeauty.co.id/",
    "page_url_current": "https://alfabeauty.co.id/partner",
    "referrer": "https://example.com/",
    "utm_source": "newsletter",
    "utm_medium": "email",
    "utm_campaign": "november",
    "utm_term": "salon",
    "utm_content": "top",
    "locale": "en",
    "consent_version": "2026-01",
    "cf-turnstile-response": "token",
    "redirect": "/en/thank-you",
}
SHORT_LEAD = {name: LEAD[name] for name in list(LEAD)[:6]}
TIME_LIMIT_S = 240
"""Of one target; the slowest takes a quarter of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A request whose parameters are tried one by one.

    path: a `*` in it is one of them; token: the variable that holds the bearer token.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str = ""


# A phone excludes an e-mail, and a slug every filter: each has a request of its own.
TARGETS = (
    Target(
        "/api/products",
        {
            "brand": "Kemon",
            "category": "shampoo",
            "function": "repair",
            "audience": "SALON",
            "q": "oil",
            "sort": "name",
            "limit": "5",
            "facets": "1",
            "total": "1",
            "fields": "slug,name",
            "locale": "en",
        },
    ),
    Target("/api/products", {"slug": "barber-beard-oil"}),
    Target("/api/products", {"cursor": "eyJ2IjoxfQ"}),
    Target("/api/products/barber-beard-oil*"),
    Target("/terima-kasih", {"ref": "ALFA-7KQ2M"}),
    Target(
        "/api/rum",
        {
            "from": "2026-11-01",
            "to": "2026-11-23",
            "path": "/en",
            "device": "mobile",
            "metric": "LCP",
            "release": "a",
            "by": "day",
            "compare": "latest",
            "histogram": "1",
        },
    ),
    Target("/api/rum", {"days": "28"}),
    Target("/api/health", {"deep": "true"}, token=HEALTH),
    Target(
        "/api/leads/export", {"limit": "5", "before": "2026-11-01", "excel": "1"}, token=OPERATOR
    ),
    Target("/api/leads/subject", {"email": "rina@example.com"}, token=OPERATOR),
    Target("/api/leads/subject", {"phone": "081234567890"}, token=OPERATOR),
    Target("/api/leads", form=LEAD),
    Target("/api/leads", json={**SHORT_LEAD, "consent": True, "chair_count": 3}),
    Target("/api/leads", form={**SHORT_LEAD, "company": "Melati"}),
    Target("/api/leads", form=LEAD, headers={"Idempotency-Key": "melati-1*"}),
    Target("/api/rum", json={"name": "LCP", "value": 1200, "id": "v5-1", "page": "/en"}),
)


def run(programs: Path, url: str, environ: Mapping[str, str]) -> Outcome:
    """Every target of the site at `url`. environ: what its functions are given. ToolFailed."""
    report = Report()
    finds_planted_parameter = run_on_injectable_site(programs)
    for target in TARGETS:
        report.add(target.path, try_target(programs, url, target, environ))
    figures = (
        f"the planted parameter was found; {report.parameters} parameters of {len(TARGETS)} "
        f"requests tried, {report.requests} requests made"
    )
    if not finds_planted_parameter:
        return Outcome("SQL injection (sqlmap)", "nothing", not_asked="it missed the planted one")
    return Outcome("SQL injection (sqlmap)", figures, report.findings)


@dataclass(slots=True)
class Attempt:
    """What sqlmap did with one target. parameters: as it names them; failures: statuses of 5xx."""

    parameters: set[str]
    injectable: set[str]
    requests: int
    failures: set[str]
    is_whole: bool


@dataclass(slots=True)
class Report:
    parameters: int = 0
    requests: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, path: str, attempt: Attempt) -> None:
        self.parameters += len(attempt.parameters)
        self.requests += attempt.requests
        self.findings += [f"{path}: {name} is injectable" for name in sorted(attempt.injectable)]
        self.findings += [f"{path}: an answer was {status}" for status in sorted(attempt.failures)]
        if not attempt.is_whole:
            self.findings.append(f"{path}: not all parameters were tried")


def run_on_injectable_site(programs: Path) -> bool:
    """Whether sqlmap finds the planted parameter, and it alone."""
    server = Server(injectable_site.answer)
    try:
        attempts = [
            # By time, it would also be found: by making the server busy for seconds.
            try_target(
                programs, server.url, Target(injectable_site.PATH, query), {}, "--technique=BU"
            )
            for query in ({injectable_site.INJECTABLE: "1"}, {injectable_site.SAFE: "oil"})
        ]
    finally:
        server.close()
    return [attempt.injectable for attempt in attempts] == [{injectable_site.INJECTABLE}, set()]


def try_target(
    programs: Path, url: str, target: Target, environ: Mapping[str, str], *options: str
) -> Attempt:
    """sqlmap on one request of a site on this machine. options: more of its command line."""
    if not url.startswith("http://127.0.0.1:"):
        raise ValueError(f"not a site of this machine: {url}")
    with tempfile.TemporaryDirectory(prefix="sqlmap-") as folder:
        report, traffic = Path(folder, "report.json"), Path(folder, "traffic.txt")
        command = [str(programs / "sqlmap"), *_request(url, target, environ), *options]
        command += ["--batch", "--level=1", "--risk=1", f"--time-limit={TIME_LIMIT_S}"]
        command += ["--timeout=10", "--retries=1", "--ignore-proxy", "--disable-coloring"]
        command += ["--ignore-code=401", "--ignore-redirects", "--output-dir", folder]
        command += ["--report-json", str(report), "-t", str(traffic)]
        answer = subprocess.run(
            command,
            env={**os.environ, "HOME": folder},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S + 60,
            check=False,
        )
        if not report.exists():
            raise ToolFailed(f"sqlmap on {target.path}: {answer.stdout[-2000:]}")
        requests = len(
            re.findall(r"^HTTP request \[#", traffic.read_text("utf-8", "replace"), re.M)
        )
        return read_attempt(answer.stdout, json.loads(report.read_text("utf-8")), requests, target)


def _request(url: str, target: Target, environ: Mapping[str, str]) -> list[str]:
    query = f"?{urlencode(target.query)}" if target.query else ""
    arguments = ["-u", f"{url}{target.path}{query}"]
    headers = dict(target.headers)
    if target.token:
        headers["Authorization"] = f"Bearer {environ[target.token]}"
    if target.json:
        arguments += ["--data", json.dumps(target.json)]
        headers["Content-Type"] = "application/json"
    elif target.form:
        arguments += ["--data", urlencode(target.form)]
    for name, text in headers.items():
        arguments += ["-H", f"{name}: {text}"]
    return arguments


def read_attempt(output: str, report: Mapping[str, Any], requests: int, target: Target) -> Attempt:
    tried = set(re.findall(r"testing for SQL injection on .*?parameter '(.+?)'\s", output))
    injectable = {
        injection["parameter"]
        for part in report["data"]
        if part["type_name"] == "TECHNIQUES"
        for injection in part["value"]
    }
    wanted = len(target.query) + len(target.form) + len(target.json)
    if "*" in target.path or any("*" in text for text in target.headers.values()):
        wanted = 1  # sqlmap tries what is marked, and nothing else
    failures = set(re.findall(r"^(5\d\d) \(.*\) - \d+ times?", output, re.M))
    return Attempt(tried, injectable, requests, failures, len(tried) >= wanted or bool(injectable))
