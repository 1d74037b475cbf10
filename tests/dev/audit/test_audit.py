"""`python3 -m dev audit`: each tool finds what is planted, and our source holds none of it.

The long form is the command: every commit, the build, every parameter of the API.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from dev import audit
from dev.audit import injectable_site, secret_scan, source_code, sql_injection
from dev.audit.outcome import CLEAN, FINDINGS, NOT_ASKED, Outcome, worst
from dev.audit.sql_injection import TARGETS, Target
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

BANDIT_FAULTS = """
import subprocess
import tempfile
import yaml

def start(name):
    subprocess.run(f"echo {name}", shell=True)  # B602
    yaml.load(name)  # B506
    tempfile.mktemp()  # B306
    eval(name)  # B307
"""

# Each line that holds a fault ends in the rule's name.
OUR_FAULTS = """
import hmac
import http.client
import socket
import urllib.request

import httpx
import psycopg
from psycopg import sql

from lib import log

SELECT = "select * from leads where id = "


def built(connection, name, column):
    connection.execute(f"select 1 from leads where city = '{name}'")  # sql-built-from-values
    query = "select 1 from leads where city = '%s'" % name
    connection.execute(query)  # sql-built-from-values
    connection.execute("select '{}'".format(name))  # sql-built-from-values
    connection.execute(SELECT + name)  # sql-built-from-values
    connection.executemany("select '" + name + "'", [])  # sql-built-from-values
    connection.execute(sql.SQL(f"select {column}"))  # sql-built-from-values
    connection.execute("select 1 from leads where city = %(city)s", {"city": name})
    connection.execute(sql.SQL("select {}").format(sql.Identifier(column)))
    connection.execute("GET", f"lead:{name}")


def logged(context, lead, services):
    log.write("lead", what=lead.email)  # personal-data-in-log
    name = lead.contact_name
    context.add_log_fields(what=f"lead of {name}")  # personal-data-in-log
    services.slack.post(lead["phone_whatsapp"])  # personal-data-in-log
    services.reporter.alert(f"no {lead.business_name}", request_id="1")  # personal-data-in-log
    log.write("lead", email="a")  # personal-data-by-name-in-log
    log.write("lead", id=lead.id, has_email=lead.email is not None)


def asked(address):
    httpx.get(address)  # outside-call-without-deadline
    httpx.Client(timeout=None)  # outside-call-without-deadline
    urllib.request.urlopen(address)  # outside-call-without-deadline
    psycopg.connect(address)  # outside-call-without-deadline
    socket.create_connection((address, 80))  # outside-call-without-deadline
    http.client.HTTPSConnection(address)  # outside-call-without-deadline
    httpx.get(address, timeout=5)
    http.client.HTTPSConnection(address, timeout=5)
    psycopg.connect(address, connect_timeout=5)


def compared(token, wanted, settings, body):
    if token == wanted:  # secret-compared-with-equals
        return True
    if wanted != settings.cron_secret:  # secret-compared-with-equals
        return True
    if hmac.new(b"", body, "sha256").hexdigest() == wanted:  # secret-compared-with-equals
        return True
    return hmac.compare_digest(token, wanted) and token == ""
"""

# In parts: this file is scanned too.
PLANTED_KEY = "AKIA" + "QZ7XW2LMN4PRT6VY"
PLANTED_LINE = f'AWS_KEY = "{PLANTED_KEY}"\n'


@pytest.fixture(scope="module")
def programs() -> Path:
    return audit.ensure()


# ------------------------------------------------------------------ the source


def test_bandit_finds_what_is_planted_and_nothing_in_the_source(
    programs: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(BANDIT_FAULTS)
    outcome = source_code.run_bandit(programs, ROOT, [*source_code.FOLDERS, str(planted)])
    assert findings_of(outcome, planted) == marked(BANDIT_FAULTS)
    assert [each for each in outcome.findings if str(planted) not in each] == []
    assert int(outcome.figures.split()[0]) > 150, "files"


def test_our_rules_find_what_is_planted_and_nothing_in_the_source(
    programs: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(OUR_FAULTS)
    outcome = source_code.run_own_rules(programs, ROOT, [*source_code.FOLDERS, str(planted)])
    assert findings_of(outcome, planted) == marked(OUR_FAULTS)
    assert [each for each in outcome.findings if str(planted) not in each] == []
    assert {rule for _, rule in marked(OUR_FAULTS)} == set(source_code.rule_names())


def test_a_file_that_cannot_be_read_is_a_finding(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    assert source_code.run_bandit(programs, tmp_path, ["."]).findings


def marked(text: str) -> set[tuple[int, str]]:
    """The lines that hold a fault, with the rule that finds it."""
    lines = enumerate(text.splitlines(), 1)
    marks = [(number, re.search(r"  # (B\d+|[a-z]+(?:-[a-z]+)+)$", line)) for number, line in lines]
    return {(number, mark[1]) for number, mark in marks if mark is not None}


def findings_of(outcome: Outcome, planted: Path) -> set[tuple[int, str]]:
    pattern = re.compile(rf"(\S+) {re.escape(str(planted))}:(\d+): ")
    matches = [match for each in outcome.findings if (match := pattern.match(each))]
    return {(int(match[2]), match[1]) for match in matches}


# ------------------------------------------------------------------ secrets


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A key was committed, and removed by the commit after it."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    for text in (PLANTED_LINE, "AWS_KEY = None\n"):
        (folder / "keys.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", "a commit")
    return folder


def test_a_secret_is_found_in_the_history_after_it_was_removed(
    programs: Path, repository: Path, tmp_path: Path
) -> None:
    places = [secret_scan.tree(repository), secret_scan.history(repository)]
    of_tree, of_history = secret_scan.run(programs, places)
    assert of_tree.findings == []
    assert len(of_history.findings) == 1
    assert "keys.py" in of_history.findings[0]
    assert "2 commits" in str(of_history)
    assert PLANTED_KEY not in str(of_history), "a report is kept and sent around"
    hashed = of_history.findings[0].rpartition("(")[2].rstrip(")")
    allowed = tmp_path / "allowed.txt"
    allowed.write_text(f"{hashed} keys.py: planted\n")
    assert [each.status for each in secret_scan.run(programs, places, allowed)] == [CLEAN, CLEAN]


def test_a_secret_is_found_in_a_built_function_in_public_and_in_a_binary_file(
    programs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "project" / ".vercel" / "output"
    function = output / "functions" / "api" / "x.func"
    function.mkdir(parents=True)
    (function / ".vc-config.json").write_text('{"filePathMap": {"lib/settings.py": "settings.py"}}')
    (tmp_path / "project" / "settings.py").write_text(PLANTED_LINE)
    public = tmp_path / "public"
    public.mkdir()
    (public / "picture.png").write_bytes(b"\x89PNG\0\0\1" + PLANTED_KEY.encode() + b"\0")
    places = [secret_scan.built_functions(output), secret_scan.folder("public/", public)]
    of_functions, of_public = secret_scan.run(programs, places)
    assert "api/x.func/lib/settings.py" in of_functions.findings[0]
    assert "picture.png" in of_public.findings[0]


def test_public_holds_no_secret(programs: Path) -> None:
    (outcome,) = secret_scan.run(programs, [secret_scan.folder("public/", ROOT / "public")])
    assert outcome.status == CLEAN, outcome


def test_every_allowed_value_has_a_reason() -> None:
    text = secret_scan.ALLOWED.read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[0-9a-f]{40} \S+.*: .{5,}", line) for line in lines)
    assert len(secret_scan.allowed_hashes(secret_scan.ALLOWED)) == len(lines)


# ------------------------------------------------------------------ SQL injection


def test_sqlmap_finds_the_planted_parameter_alone(programs: Path) -> None:
    assert sql_injection.run_on_injectable_site(programs)


def test_an_injectable_parameter_a_failed_answer_and_one_not_tried_are_findings() -> None:
    injection = {"type_name": "TECHNIQUES", "value": [{"place": "GET", "parameter": "id"}]}
    output = (
        "testing for SQL injection on GET parameter 'id'\n500 (Internal Server Error) - 3 times"
    )
    target = Target(injectable_site.PATH, {"id": "1", "name": "oil"})
    report = sql_injection.Report()
    report.add("/a", sql_injection.read_attempt(output, {"data": [injection]}, 9, target))
    assert report.findings == ["/a: id is injectable", "/a: an answer was 500"]
    report.add("/b", sql_injection.read_attempt(output, {"data": []}, 9, target))
    assert report.findings[2:] == ["/b: an answer was 500", "/b: not all parameters were tried"]
    assert report.requests == 18


def test_no_other_machine_is_a_target(programs: Path) -> None:
    with pytest.raises(ValueError, match="not a site of this machine"):
        sql_injection.try_target(programs, "http://127.0.0.1.example.com:80", TARGETS[0], {})


def test_every_parameter_and_field_of_the_api_is_tried() -> None:
    document = json.loads((ROOT / "public" / "openapi.json").read_text("utf-8"))
    described = {
        (path, parameter["name"])
        for path, item in document["paths"].items()
        for parameter in item.get("get", {}).get("parameters", [])
        if parameter.get("in") == "query"
    }
    queries = {(target.path, name) for target in TARGETS for name in target.query}
    # The same function as another address.
    aliases = ("/en/thank-you", "/api/products/{slug}")
    assert {each for each in described if each[0] not in aliases} <= queries
    fields = set(document["components"]["schemas"]["LeadForm"]["properties"])
    assert {name for target in TARGETS for name in target.form} == fields


# ------------------------------------------------------------------ the command


def test_a_finding_counts_more_than_a_skipped_part() -> None:
    clean, failed = Outcome("a", "1 file"), Outcome("b", "1 file", ["x"])
    not_asked = Outcome("c", "no package", not_asked="no service answers")
    assert [each.status for each in (clean, failed, not_asked)] == [CLEAN, FINDINGS, NOT_ASKED]
    assert worst([clean, not_asked, failed]) == FINDINGS
    assert worst([clean, not_asked]) == NOT_ASKED
    assert worst([clean]) == CLEAN
    assert "NOT ASKED: no service answers" in str(not_asked)


def test_an_unknown_part_of_the_audit_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(ROOT, ["sources"]) == NOT_ASKED
    assert "no part sources: source, secrets, dependencies, injection" in capsys.readouterr().err
