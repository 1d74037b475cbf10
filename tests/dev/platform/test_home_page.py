"""The page of the local platform that leads to everything, and its forms."""

import re

import httpx

from dev.platform.home_page import format_addresses
from dev.platform.local_platform import Platform


def test_the_page_and_the_table_lead_to_every_part(platform: Platform) -> None:
    state = platform.state()
    addresses = [vendor["url"] for vendor in state["stand_ins"].values()]
    addresses += [state["url"], state["admin_database_url"], state["redis_url"]]
    addresses += [f"{state['url']}/api/leads", f"{state['url']}/status", f"{state['url']}/vitals"]
    page = httpx.get(platform.control_url).text
    table = format_addresses(state)
    assert len(state["stand_ins"]) == 9
    assert [address for address in addresses if address not in page] == []
    assert [address for address in addresses if address not in table] == []
    assert page.count('action="/switch"') == 9
    assert {cron["path"] for cron in platform.crons()} <= set(
        re.findall(r'value="(/api.*?)"', page)
    )


def test_a_fault_is_set_and_removed_by_a_form(platform: Platform) -> None:
    def post(**fields: str) -> str:
        return httpx.post(f"{platform.control_url}/switch", data=fields).text

    try:
        assert "Slack: stall" in post(vendor="slack", mode="stall", times="2")
        assert (platform.slack.fault()["mode"], platform.slack.fault()["times"]) == ("stall", 2)
        assert "Nothing was changed" in post(vendor="slack", mode="stall", times="two")
        assert "Nothing was changed" in post(vendor="slack", mode="explode")
        assert "no such vendor" in post(vendor="nobody", mode="ok")
        assert platform.slack.fault()["mode"] == "stall"
        post(vendor="slack", mode="ok")
        assert platform.slack.fault()["mode"] == "ok"
    finally:
        platform.slack.ok()


def test_a_cron_is_run_by_its_button(platform: Platform, database: object) -> None:
    response = httpx.post(
        f"{platform.control_url}/cron", data={"path": "/api/cron/deliver"}, timeout=60
    )
    assert response.headers["content-type"].startswith("text/html")
    assert "&quot;status&quot;: 200" in response.text
