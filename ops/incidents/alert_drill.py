"""A test alert through Slack, with its verdict and seconds in the table of drills."""

import json
import sys
import time
from datetime import UTC, datetime

from lib.interfaces import Message
from lib.problems import DatabaseDown, NotConfigured, SlackError
from lib.services import Services
from ops import command, connections
from ops.command import Args

TEXT = "*DRILL*: This is a test of the alert channel. No action is needed."
INSERT_DRILL = """
insert into drills (kind, at, verdict, facts) values ('alert', %(at)s, %(verdict)s, %(facts)s)
"""


def run(services: Services, args: Args) -> int:
    now = datetime.now(UTC)
    block = {"type": "section", "text": {"type": "mrkdwn", "text": TEXT}}
    metadata = {"drill": f"{now:%Y%m%d%H%M%S}"}
    message = Message(
        "DRILL: this is a test of the alert channel, no action is needed", (block,), metadata
    )
    if args.dry_run:
        command.print_result(args, {"would_post": message.text}, f"would post: {message.text}")
        return 0
    started = time.monotonic()
    fault = _send(services, message)
    seconds = round(time.monotonic() - started, 2)
    verdict = "FAIL" if fault else "PASS"
    facts = {"seconds": seconds} | ({"reason": fault} if fault else {})
    line = f"{verdict}: {fault or 'the test alert was posted to Slack and read back'} ({seconds} s)"
    command.print_result(args, {"verdict": verdict, **facts}, line)
    values = {"at": now, "verdict": verdict, "facts": json.dumps(facts)}
    try:
        services.database.run_or_down(lambda c: c.execute(INSERT_DRILL, values))
    except (DatabaseDown, NotConfigured) as error:
        reason = connections.explain_missing(error)
        print(f"The drill is not recorded: Postgres cannot be used ({reason}).", file=sys.stderr)
    return 1 if fault else 0


def _send(services: Services, message: Message) -> str | None:
    """Why an alert would not have come as it should; None when it would.

    A refused bot is a fault although the webhook takes the message: alerts are then neither
    edited, nor found again, nor acknowledged in Slack.
    """
    try:
        channel = services.slack
        _, ts = channel.post(message)
        if not channel.can_update:
            return None
        if not ts:
            return (
                f"Slack refuses the bot ({channel.last_bot_error}); the message was sent by webhook"
            )
        channel.post(message, thread=ts)
        if not channel.list_with_metadata("drill"):
            return "Slack accepted the message, but it cannot be read back from the channel"
    except NotConfigured as error:
        return f"Slack is not configured: {error}"
    except SlackError as error:
        return f"Slack did not accept the message: {error.reason}"
    return None
