"""Whether production is in maintenance: what the site itself says, whoever switched it.

Three may hold a window open, and each is asked: the deployment that serves, by the variable it
was built with; the switch in Redis; and, for the next deployment, the variable at Vercel.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from lib import maintenance
from lib.maintenance import Switch
from lib.problems import CacheDown, NotConfigured
from lib.services import Services
from lib.settings import maintenance_word
from ops.vendors.http import Refused
from ops.vendors.vercel import Vercel

VARIABLE = "MAINTENANCE_MODE"
NOT_IN = "not in maintenance: "


@dataclass(frozen=True, slots=True)
class Found:
    """site: what the deployment that serves was built with. switch: the one in Redis. next_mode:
    what the next deployment gets. Each is a mode, `off`, or why it is not known."""

    site: str
    deployment: str
    switch: Switch | None
    switch_word: str
    next_mode: str

    @property
    def mode(self) -> str:
        """What holds: the variable wins; `unknown` where neither says that it is off."""
        if self.site in maintenance.MODES:
            return self.site
        if self.switch is not None:
            return self.switch.mode
        known = self.well or self.site.startswith(NOT_IN)
        return "off" if known and self.switch_word == "off" else "unknown"

    @property
    def well(self) -> bool:
        """No window is open, and nobody meant one to be."""
        return (self.site, self.switch_word) == ("off", "off")

    @property
    def until(self) -> datetime | None:
        """When it ends by itself; None where only a redeployment ends it, or nothing is on."""
        held_by_switch = self.site not in maintenance.MODES and self.switch is not None
        return self.switch.until if held_by_switch and self.switch else None


def ask(services: Services, now: datetime) -> Found:
    site, deployment = _site(services.settings.site_url)
    switch, word = _switch(services, now)
    return Found(site, deployment, switch, word, _next(services))


def _site(url: str) -> tuple[str, str]:
    headers = {"Accept": "application/health+json", "Cache-Control": "no-cache"}
    try:
        answer = httpx.get(f"{url}/api/health", headers=headers, timeout=5, trust_env=False)
        said: dict[str, Any] = answer.json()
        held = said.get("maintenance")
        deployment = str(said["serviceId"])
        if said.get("notes") and held is None:
            return f"{NOT_IN}{'; '.join(said['notes'])}", deployment
        if held and held["set_by"] == "variable":
            return str(held["mode"]), deployment
        return "off", deployment
    except (httpx.TransportError, ValueError, LookupError, TypeError, AttributeError) as fault:
        return f"the site does not say ({type(fault).__name__})", ""


def _switch(services: Services, now: datetime) -> tuple[Switch | None, str]:
    try:
        found = maintenance.read(services.cache.run("GET", maintenance.KEY), now)
    except (CacheDown, NotConfigured) as fault:
        return None, f"Redis cannot be asked ({fault or type(fault).__name__})"
    return found, "off" if found is None else found.mode


def _next(services: Services) -> str:
    try:
        vercel = Vercel(services.settings)
    except NotConfigured as fault:
        return f"not asked: {fault}"
    try:
        text = vercel.variable(VARIABLE)
    except Refused as refused:
        return f"Vercel does not say: {refused}"
    finally:
        vercel.close()
    if text in (None, ""):
        return "off"
    if text == "?":
        return "set; its value cannot be read"
    try:
        return maintenance_word(text)
    except ValueError:
        return "MISSPELT: the next build is refused"
