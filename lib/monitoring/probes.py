"""Probes of the site and its vendors, all at once: the addresses, a synthetic lead, mail, Slack.

A vendor that does not answer is no fault here: alerts about mails and messages that wait tell.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from lib import http_client
from lib.incidents.rules import Facts
from lib.interfaces import Services
from lib.leads import mailed_leads
from lib.monitoring import canary_probe
from lib.problems import DatabaseDown, NotConfigured, SlackError, TransientMailError

TIMEOUT_S = 5.0
ATTEMPTS, PAUSE_S = 2, 0.5


def probe_site(services: Services, facts: Facts, now: datetime) -> dict[str, Any]:
    """Fields of Facts. facts: what is known of the stores."""
    site_url = services.settings.site_url
    with ThreadPoolExecutor(5) as pool:
        mail = pool.submit(_email_fault, services)
        slack = pool.submit(_slack_faults, services, now)
        health = pool.submit(url_fault, f"{site_url}/api/health", b'{"status":"')
        status = pool.submit(url_fault, f"{site_url}/api/status", b'{"page":')
        lead = pool.submit(canary_probe.send_if_due, services, facts, now)
    slack_fault, slack_missing = slack.result()
    canary_fault, canary_effect = lead.result()
    return {
        "health_fault": health.result(),
        "status_fault": status.result(),
        "canary_fault": canary_fault,
        "canary_effect": canary_effect,
        "mail_fault": mail.result(),
        "slack_fault": slack_fault,
        "slack_missing": slack_missing,
        "sentry_missing": _sentry_fault(services),
    }


def url_fault(url: str, prefix: bytes) -> str | None:
    """Why an address failed; None when it answered 200 with this prefix. Tried twice."""
    path = urlsplit(url).path
    fault = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            response = http_client.get(url, connect_s=TIMEOUT_S, response_s=TIMEOUT_S)
            if response.is_success and response.content.startswith(prefix):
                return None
            answer = "something else" if response.is_success else response.status_code
            fault = f"{path} answers {answer}"
        except http_client.RequestFailed as error:
            fault = f"{path} cannot be reached ({type(error).__name__})"
    return fault


def _email_fault(services: Services) -> str | None:
    """Why Resend takes no mail at all: no key, or a refused one."""
    try:
        key_error = services.mailer.api_key_error(timeout_s=TIMEOUT_S)
    except NotConfigured as error:
        return str(error)
    except TransientMailError:
        return None
    return key_error and f"Resend refuses the key: {key_error}"


def _slack_faults(services: Services, now: datetime) -> tuple[str | None, str | None]:
    """Why Slack takes no alert, and which setting is missing.

    Registers, on the way, the mailed leads that only Slack's messages know.
    """
    bot_error = None
    try:
        bot_error = services.slack.bot_error()
        with suppress(DatabaseDown):
            mailed_leads.import_from_slack(services, now)
    except NotConfigured as error:
        return None, str(error)
    except SlackError:
        pass
    return bot_error and f"Slack refuses our bot: {bot_error}", None


def _sentry_fault(services: Services) -> str | None:
    try:
        return services.sentry_dsn and None
    except NotConfigured as error:
        return str(error)
