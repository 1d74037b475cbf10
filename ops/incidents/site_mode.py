"""Whether production is in maintenance: what the site itself says, whoever switched it.

Three may hold a window open, and each is asked: the deployment that serves, by the variable it
was built with; the switch in Redis; and, for the next deployment, the variable at Vercel.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from lib import maintenance
from lib.maintenance import MaintenanceWindow
from lib.problems import CacheDown, NotConfigured
from lib.services import Services
from lib.settings import parse_maintenance_mode
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

VARIABLE = "MAINTENANCE_MODE"
MISSPELT_PREFIX = "not in maintenance: "


@dataclass(frozen=True, slots=True)
class MaintenanceStatus:
    """site: what the deployment that serves was built with. switch: the one in Redis. next_mode:
    what the next deployment gets. Each is a mode, `off`, or why it is not known."""

    deployed_mode: str
    deployment: str
    window: MaintenanceWindow | None
    window_mode: str
    next_mode: str

    @property
    def mode(self) -> str:
        """What holds: the variable wins; `unknown` where neither says that it is off."""
        if self.deployed_mode in maintenance.MODES:
            return self.deployed_mode
        if self.window is not None:
            return self.window.mode
        known = self.is_off or self.deployed_mode.startswith(MISSPELT_PREFIX)
        return "off" if known and self.window_mode == "off" else "unknown"

    @property
    def is_off(self) -> bool:
        """No window is open, and nobody meant one to be."""
        return (self.deployed_mode, self.window_mode) == ("off", "off")

    @property
    def until(self) -> datetime | None:
        """When it ends by itself; None where only a redeployment ends it, or nothing is on."""
        held_by_switch = self.deployed_mode not in maintenance.MODES and self.window is not None
        return self.window.until if held_by_switch and self.window else None


def load(services: Services, now: datetime) -> MaintenanceStatus:
    site, deployment = _load_deployed(services.settings.site_url)
    switch, word = _load_window(services, now)
    return MaintenanceStatus(site, deployment, switch, word, _load_variable(services))


def _load_deployed(url: str) -> tuple[str, str]:
    headers = {"Accept": "application/health+json", "Cache-Control": "no-cache"}
    try:
        answer = httpx.get(f"{url}/api/health", headers=headers, timeout=5, trust_env=False)
        said: dict[str, Any] = answer.json()
        held = said.get("maintenance")
        deployment = str(said["serviceId"])
        if said.get("notes") and held is None:
            return f"{MISSPELT_PREFIX}{'; '.join(said['notes'])}", deployment
        if held and held["set_by"] == "variable":
            return str(held["mode"]), deployment
        return "off", deployment
    except (httpx.TransportError, ValueError, LookupError, TypeError, AttributeError) as fault:
        return f"the site does not say ({type(fault).__name__})", ""


def _load_window(services: Services, now: datetime) -> tuple[MaintenanceWindow | None, str]:
    try:
        found = maintenance.parse_window(services.cache.execute("GET", maintenance.KEY), now)
    except (CacheDown, NotConfigured) as fault:
        return None, f"Redis cannot be asked ({fault or type(fault).__name__})"
    return found, "off" if found is None else found.mode


def _load_variable(services: Services) -> str:
    try:
        vercel = Vercel(services.settings)
    except NotConfigured as fault:
        return f"not asked: {fault}"
    try:
        text = vercel.get_variable(VARIABLE)
    except ApiError as refused:
        return f"Vercel does not say: {refused}"
    finally:
        vercel.close()
    if text in (None, ""):
        return "off"
    if text == "?":
        return "set; its value cannot be read"
    try:
        return parse_maintenance_mode(text)
    except ValueError:
        return "MISSPELT: the next build is refused"
