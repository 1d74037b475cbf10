"""A test alert through Slack, with its verdict and seconds in the table of drills."""

import json
import sys
import time
from datetime import UTC, datetime

from lib.interfaces import Message
from lib.problems import DatabaseDown, NotConfigured, SlackError
from lib.services import Services
from ops import command
from ops.command import Args

TEXT = "*DRILL*: nothing is wrong. Who reads this would have read an alert."
INSERT_DRILL = """
insert into drills (kind, at, verdict, facts) values ('alert', %(at)s, %(verdict)s, %(facts)s)
"""


def run(services: Services, args: Args) -> int:
    now = datetime.now(UTC)
    block = {"type": "section", "text": {"type": "mrkdwn", "text": TEXT}}
    metadata = {"drill": f"{now:%Y%m%d%H%M%S}"}
    message = Message("DRILL: a test alert, nothing is wrong", (block,), metadata)
    if args.dry_run:
        command.print_result(args, {"would_post": message.text}, f"would post: {message.text}")
        return 0
    started = time.monotonic()
    fault = _send(services, message)
    seconds = round(time.monotonic() - started, 2)
    verdict = "FAIL" if fault else "PASS"
    facts = {"seconds": seconds} | ({"reason": fault} if fault else {})
    line = f"{verdict}: {fault or 'the alert came through Slack and was found there'} ({seconds} s)"
    command.print_result(args, {"verdict": verdict, **facts}, line)
    values = {"at": now, "verdict": verdict, "facts": json.dumps(facts)}
    try:
        services.database.run_or_down(lambda c: c.execute(INSERT_DRILL, values))
    except (DatabaseDown, NotConfigured):
        print("the drill is not recorded: Postgres cannot be asked", file=sys.stderr)
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
            return f"Slack refuses the bot ({channel.last_bot_error}); the webhook took it"
        channel.post(message, thread=ts)
        if not channel.list_with_metadata("drill"):
            return "Slack took it, and it cannot be found in the channel again"
    except NotConfigured as error:
        return f"Slack is not configured: {error}"
    except SlackError as error:
        return f"Slack did not take it: {error.reason}"
    return None
