"""Named steps of a restore or a drill: announced, timed, and never passed when they did not run."""

import pytest

from ops import steps
from ops.command import Failed
from ops.steps import Printer, Step

type Printed = pytest.CaptureFixture[str]


def test_a_step_is_announced_on_standard_error_before_it_runs(capsys: Printed) -> None:
    printed_before: list[str] = []

    def run() -> str:
        printed_before.append(capsys.readouterr().err)
        return "3 rows"

    [outcome] = steps.run_steps([Step("load", run)], Printer(quiet=False))
    assert printed_before == ["load …\n"]
    assert outcome.verdict == steps.PASS
    assert capsys.readouterr().out.endswith("3 rows\n")


def test_a_program_that_reads_json_gets_no_lines_between(capsys: Printed) -> None:
    steps.run_steps([Step("load", lambda: "3 rows")], Printer(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_after_a_required_step_failed_the_next_is_not_run_and_says_why() -> None:
    def fail() -> str:
        raise Failed("no room")

    first, second = steps.run_steps(
        [Step("load", fail, required=True), Step("canary", lambda: "sent")], Printer(quiet=True)
    )
    assert (first.verdict, first.words) == (steps.FAIL, "no room")
    assert (second.verdict, second.words) == (
        steps.COULD_NOT_VERIFY,
        "not run: step load failed",
    )
