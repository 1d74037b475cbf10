"""UptimeRobot's monitors brought to a file: what changes, what never does, network faults."""

import json
import re
import time
import tomllib
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from dev.platform.local_platform import Platform
from dev.vendors.uptimerobot import CONTACTS, UptimeRobot
from ops import cli, connections
from ops.incidents import monitor_plan
from tests.products.catalogue_data import Database, seeded

__all__ = ["seeded"]

type Printed = pytest.CaptureFixture[str]

NAMES = ["health", "form page", "products", "watch"]


@pytest.fixture
def robot(platform: Platform) -> Iterator[UptimeRobot]:
    """The account, empty and without a rate limit."""
    platform.uptimerobot.ok()
    platform.uptimerobot.forget()
    account = cast("UptimeRobot", platform.uptimerobot.vendor)
    account.requests = 1000
    yield account
    platform.uptimerobot.ok()
    platform.uptimerobot.forget()


def run(platform: Platform, *words: str, **environ: str | None) -> int:
    variables = {**platform.environment, **environ}
    environment = {name: text for name, text in variables.items() if text is not None}
    return cli.main(["monitors", *words], environment)


def named(platform: Platform, name: str) -> str:
    return monitor_plan.name_prefix(platform.url) + name


def writes(platform: Platform) -> list[str]:
    return [
        f"{request['method']} {request['path'].removeprefix('/v3')}"
        for request in platform.uptimerobot.received()
        if request["method"] != "GET"
    ]


def monitor_named(robot: UptimeRobot, name: str) -> dict[str, Any]:
    [monitor] = [m for m in robot.monitors.values() if m["friendlyName"].endswith(name)]
    return monitor


def test_a_plan_says_what_is_missing_and_changes_nothing(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    for words in (["plan"], ["apply", "--dry-run"]):
        assert run(platform, *words) == 1
        output = capsys.readouterr().out
        for name in NAMES:
            assert f"+ {named(platform, name)}: does not exist yet" in output
    assert robot.monitors == {}
    assert writes(platform) == []


def test_applying_twice_does_it_once(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    assert run(platform, "apply", "--yes") == 0
    assert [monitor["friendlyName"] for monitor in robot.monitors.values()] == [
        named(platform, name) for name in NAMES
    ]
    first = writes(platform)
    assert first == ["POST /monitors"] * len(NAMES)
    assert run(platform, "apply", "--yes") == 0
    assert writes(platform) == first
    capsys.readouterr()
    assert run(platform, "plan") == 0
    assert capsys.readouterr().out == "every monitor is as monitors.toml declares it\n"


def test_a_new_monitor_searches_the_body_and_notifies_every_contact(
    platform: Platform, robot: UptimeRobot
) -> None:
    run(platform, "apply", "--yes")
    health, watch = monitor_named(robot, "health"), monitor_named(robot, "watch")
    assert health["url"] == f"{platform.url}/api/health"
    assert (health["type"], health["httpMethodType"]) == ("KEYWORD", "GET")
    assert (health["keywordType"], health["keywordCaseType"]) == ("ALERT_NOT_EXISTS", 0)
    contacts = [contact["alertContactId"] for contact in health["assignedAlertContacts"]]
    assert contacts == list(CONTACTS)
    token = platform.environment["WATCH_TOKEN"]
    assert watch["customHttpHeaders"] == {"Authorization": f"Bearer {token}"}
    assert (watch["type"], watch["interval"]) == ("HTTP", 300)
    assert health["customHttpHeaders"] is None, "the token goes to the watch alone"


def test_the_site_answers_with_every_keyword(platform: Platform, seeded: Database) -> None:
    """Every keyword is in what the running site says; health's outlives maintenance."""
    for entry in tomllib.loads(monitor_plan.FILE.read_text("utf-8"))["monitor"]:
        if "keyword" in entry:
            answer = httpx.get(platform.url + entry["path"])
            assert answer.status_code == 200
            assert entry["keyword"] in answer.text, entry["name"]
    [health] = [entry for entry in tomllib.loads(monitor_plan.FILE.read_text("utf-8"))["monitor"]
                if entry["name"] == "health"]  # fmt: skip
    for status in ("ok", "maintenance"):
        assert json.dumps({"status": status}, separators=(",", ":")).startswith(health["keyword"])
    assert health["keyword"] not in httpx.get(f"{platform.url}/api/health?deep=true").text


def test_drift_is_shown_and_corrected(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    run(platform, "apply", "--yes")
    health, form = monitor_named(robot, "health"), monitor_named(robot, "form page")
    health |= {"interval": 3600, "keywordValue": "ok", "assignedAlertContacts": []}
    form["status"] = "PAUSED"
    capsys.readouterr()
    assert run(platform, "plan") == 1
    output = capsys.readouterr().out
    assert f"~ {named(platform, 'health')}: differs" in output
    assert "interval: 3600 -> 300" in output
    assert "assignedAlertContacts: 'nobody' -> 'everybody'" in output
    assert f"> {named(platform, 'form page')}: is paused" in output
    assert run(platform, "apply", "--yes") == 0
    assert monitor_named(robot, "health")["interval"] == 300
    assert monitor_named(robot, "health")["assignedAlertContacts"]
    assert monitor_named(robot, "form page")["status"] == "STARTED"
    assert writes(platform)[4:] == [
        f"PATCH /monitors/{health['id']}",
        f"POST /monitors/{form['id']}/start",
    ]


def test_contacts_and_undeclared_fields_stay_as_people_set_them(
    platform: Platform, robot: UptimeRobot
) -> None:
    run(platform, "apply", "--yes")
    health = monitor_named(robot, "health")
    health |= {
        "interval": 60,
        "assignedAlertContacts": [{"alertContactId": 9, "threshold": 5, "recurrence": 0}],
        "customHttpHeaders": {"X-Theirs": "1"},
    }
    assert run(platform, "apply", "--yes") == 0
    health = monitor_named(robot, "health")
    assert [contact["alertContactId"] for contact in health["assignedAlertContacts"]] == [9]
    assert health["customHttpHeaders"] == {"X-Theirs": "1"}


@pytest.mark.parametrize("words", [["apply", "--yes"], ["apply", "--prune", "--yes"]], ids=" ".join)
def test_monitors_of_others_are_never_touched(
    platform: Platform, robot: UptimeRobot, words: list[str]
) -> None:
    theirs = [
        robot.add(friendlyName="health", url=f"{platform.url}/api/health"),
        robot.add(friendlyName="[ops other.example] health", url="https://other.example"),
        robot.add(friendlyName=f"x {named(platform, 'health')}"),
        robot.add(status="PAUSED"),
    ]
    before = {number: dict(robot.monitors[number]) for number in theirs}
    assert run(platform, *words) == 0
    assert {number: robot.monitors[number] for number in theirs} == before
    assert len(robot.monitors) == len(theirs) + len(NAMES)
    assert not any(str(number) in line for number in theirs for line in writes(platform))


def test_an_undeclared_monitor_of_ours_is_removed_by_prune_only(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    old = robot.add(friendlyName=named(platform, "old"))
    assert run(platform, "apply", "--yes") == 0
    assert old in robot.monitors
    assert run(platform, "plan") == 1
    assert "? " + named(platform, "old") in capsys.readouterr().out
    assert run(platform, "apply", "--yes", "--prune") == 0
    assert old not in robot.monitors


def test_duplicates_are_removed(platform: Platform, robot: UptimeRobot) -> None:
    """As two runs at once may leave them."""
    run(platform, "apply", "--yes")
    first = monitor_named(robot, "health")
    second = robot.add(**{name: first[name] for name in ("friendlyName", "type", "url")})
    assert run(platform, "apply", "--yes") == 0
    assert second not in robot.monitors
    assert monitor_named(robot, "health")["id"] == first["id"]


def test_all_pages_of_monitors_are_read(platform: Platform, robot: UptimeRobot) -> None:
    for _ in range(205):
        robot.add()
    assert run(platform, "apply", "--yes") == 0
    assert run(platform, "apply", "--yes") == 0
    assert len(robot.monitors) == 205 + len(NAMES)


def test_without_a_watch_token_its_monitor_is_neither_created_nor_changed(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    assert run(platform, "apply", "--yes", WATCH_TOKEN=None) == 0
    assert "Skipped a monitor: WATCH_TOKEN is not set" in capsys.readouterr().out
    assert len(robot.monitors) == len(NAMES) - 1
    run(platform, "apply", "--yes")
    assert run(platform, "apply", "--yes", "--prune", WATCH_TOKEN=None) == 0
    assert monitor_named(robot, "watch")


def test_a_new_watch_token_is_sent_and_never_shown(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    run(platform, "apply", "--yes")
    fresh = "another-token-of-the-watch"
    for words in (["plan"], ["plan", "--json"], ["apply", "--yes", "--json"]):
        assert run(platform, *words, WATCH_TOKEN=fresh) == (0 if words[0] == "apply" else 1)
        output = "".join(capsys.readouterr())
        assert "customHttpHeaders" in output
        assert fresh not in output
        assert platform.environment["WATCH_TOKEN"] not in output
    assert monitor_named(robot, "watch")["customHttpHeaders"] == {
        "Authorization": f"Bearer {fresh}"
    }


def test_a_token_in_an_error_message_is_not_shown(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    """The stand-in, like many a server, says what it did not like."""
    assert run(platform, "apply", "--yes", WATCH_TOKEN="sixteen\nor-more-of-it") == 1
    output = "".join(capsys.readouterr())
    assert "400" in output
    assert "or-more-of-it" not in output


# --- Network faults.


def test_a_lost_reply_does_not_make_a_second_monitor(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    platform.uptimerobot.switch("lose_reply", match="form page", times=1)
    assert run(platform, "apply", "--yes") == 0
    output = capsys.readouterr().out
    fault = "POST /monitors: UptimeRobot cannot be used"
    assert f"+ {named(platform, 'form page')}: does not exist yet: {fault}" in output
    assert output.endswith("every monitor is as monitors.toml declares it\n")
    assert len(robot.monitors) == len(NAMES)
    assert writes(platform) == ["POST /monitors"] * len(NAMES)


def test_a_success_that_changes_nothing_is_reported(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    robot.pretend = True
    assert run(platform, "apply", "--yes") == 1
    output = capsys.readouterr().out
    assert output.count(": done") == len(NAMES)
    assert "still different" in output
    robot.pretend = False
    assert run(platform, "apply", "--yes") == 0


def test_the_rate_limit_is_waited_out(platform: Platform, robot: UptimeRobot) -> None:
    robot.requests, robot.window_s = 3, 1.0
    started = time.monotonic()
    assert run(platform, "apply", "--yes") == 0
    assert time.monotonic() - started > 1
    assert len(robot.monitors) == len(NAMES)
    refused = [r for r in platform.uptimerobot.received() if r["outcome"] == "refused"]
    assert refused, "the limit was met"


def test_waiting_for_the_rate_limit_is_bounded(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    platform.uptimerobot.switch("rate_limit", retry_after_s=40)
    started = time.monotonic()
    assert run(platform, "plan", "--wait", "5") == 1
    assert time.monotonic() - started < 5
    assert "too many requests; try again in 40 s" in capsys.readouterr().err


def test_a_long_wait_for_the_rate_limit_says_how_long(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    platform.uptimerobot.switch("rate_limit", retry_after_s=7, times=1)
    run(platform, "plan")
    assert re.search(r"^  5 s: UptimeRobot's rate limit: [12] s are left$",
                     capsys.readouterr().err, re.M)  # fmt: skip


def test_a_silent_api_times_out(
    platform: Platform, robot: UptimeRobot, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ops.vendors.uptimerobot.TIMEOUT_S", 1
    )  # the real one is ten seconds of waiting
    platform.uptimerobot.switch("stall")
    assert run(platform, "plan") == 1
    assert f"UptimeRobot cannot be used: {connections.SILENT}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"UPTIMEROBOT_API_KEY": "wrong"}, "401, Unauthorized"),
        ({"UPTIMEROBOT_API_URL": "http://127.0.0.1:1/v3"}, "it is stopped"),
    ],
)
def test_an_error_names_its_cause(
    platform: Platform, robot: UptimeRobot, capsys: Printed, environ: dict[str, str], words: str
) -> None:
    assert run(platform, "apply", "--yes", **environ) == 1
    assert words in capsys.readouterr().err


def test_an_outage_of_the_api_exits_one(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    platform.uptimerobot.switch("fail", status=500, match="health")
    assert run(platform, "apply", "--yes") == 1
    assert "500, Internal server error" in capsys.readouterr().out
    platform.uptimerobot.ok()
    assert run(platform, "apply", "--yes") == 0


def test_without_a_key_the_command_names_it(
    platform: Platform, robot: UptimeRobot, capsys: Printed
) -> None:
    assert run(platform, "plan", UPTIMEROBOT_API_KEY=None) == 2
    assert "UPTIMEROBOT_API_KEY" in capsys.readouterr().err


def test_json_has_the_same_steps(platform: Platform, robot: UptimeRobot, capsys: Printed) -> None:
    run(platform, "apply", "--yes")
    monitor_named(robot, "products")["timeout"] = 5
    capsys.readouterr()
    assert run(platform, "apply", "--yes", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["left"] == []
    [step] = document["steps"]
    assert (step["action"], step["outcome"]) == ("change", "done")
    assert step["differences"] == [{"field": "timeout", "current": 5, "desired": 30}]
