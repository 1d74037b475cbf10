"""Whether production is in maintenance, whoever switched it on.

Three sources are read: the deployment that serves (the variable it was built with), the switch in
Redis, and the variable at Vercel, which the next deployment gets.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx

from lib import maintenance
from lib.maintenance import MaintenanceWindow
from lib.problems import CacheDown, NotConfigured
from lib.settings import parse_maintenance_mode
from ops import connections
from ops.settings import OperatorServices
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

VARIABLE = "MAINTENANCE_MODE"
MISSPELT_PREFIX = "not in maintenance: "


@dataclass(frozen=True, slots=True)
class MaintenanceStatus:
    """deployed_mode: of the deployment that serves. window, window_mode: the switch in Redis.
    next_mode: of the next deployment. Each is a mode, `off`, or why it is not known."""

    deployed_mode: str
    deployment: str
    window: MaintenanceWindow | None
    window_mode: str
    next_mode: str

    @property
    def mode(self) -> str:
        """The deployment's wins; `unknown` where neither says that it is off."""
        if self.deployed_mode in maintenance.MODES:
            return self.deployed_mode
        if self.window is not None:
            return self.window.mode
        is_known_off = self.is_off or self.deployed_mode.startswith(MISSPELT_PREFIX)
        return "off" if is_known_off and self.window_mode == "off" else "unknown"

    @property
    def is_off(self) -> bool:
        """Nobody meant it to be on, either."""
        return (self.deployed_mode, self.window_mode) == ("off", "off")

    @property
    def until(self) -> datetime | None:
        """When it ends by itself; None where only a redeployment ends it, or nothing is on."""
        if self.window is None or self.deployed_mode in maintenance.MODES:
            return None
        return self.window.until


def load(services: OperatorServices, now: datetime) -> MaintenanceStatus:
    return replace(load_serving(services, now), next_mode=_load_variable(services))


def load_serving(services: OperatorServices, now: datetime) -> MaintenanceStatus:
    """As load, without next_mode: Vercel, which may be slow, is not asked."""
    deployed_mode, deployment = _load_deployed(services.settings.site_url)
    window, window_mode = _load_window(services, now)
    return MaintenanceStatus(deployed_mode, deployment, window, window_mode, "not asked")


def _load_deployed(url: str) -> tuple[str, str]:
    headers = {"Accept": "application/health+json", "Cache-Control": "no-cache"}
    try:
        response = httpx.get(f"{url}/api/health", headers=headers, timeout=5, trust_env=False)
        health: dict[str, Any] = response.json()
        window, deployment = health.get("maintenance"), str(health["serviceId"])
        if health.get("notes") and window is None:
            return f"{MISSPELT_PREFIX}{'; '.join(health['notes'])}", deployment
        if window and window["set_by"] == "variable":
            return str(window["mode"]), deployment
        return "off", deployment
    except (httpx.TransportError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"unknown: {connections.explain_reason(error)}", ""


def _load_window(services: OperatorServices, now: datetime) -> tuple[MaintenanceWindow | None, str]:
    try:
        window = maintenance.parse_window(services.cache.execute("GET", maintenance.KEY), now)
    except (CacheDown, NotConfigured) as error:
        why = str(error) if isinstance(error, NotConfigured) else connections.explain(error)
        return None, f"unknown: {why}"
    return window, "off" if window is None else window.mode


def _load_variable(services: OperatorServices) -> str:
    try:
        vercel = Vercel(services.settings)
    except NotConfigured as error:
        return f"unknown: {error}"
    try:
        text = vercel.get_variable(VARIABLE)
    except ApiError as error:
        return f"unknown: {error}"
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
