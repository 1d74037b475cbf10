"""The services of an instance are shared by its threads."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from lib.services import Services
from lib.settings import Settings


class SlowSettings:
    """Takes a while to say where Postgres is, as the first import of psycopg does."""

    readings = 0

    @property
    def database_url(self) -> str:
        self.readings += 1
        time.sleep(0.05)
        return "postgresql://nobody@127.0.0.1:1/none"


def test_threads_that_ask_at_once_get_one_database() -> None:
    settings = SlowSettings()
    services = Services(cast("Settings", cast("Any", settings)))
    with ThreadPoolExecutor(8) as pool:
        databases = list(pool.map(lambda _: services.database, range(8)))
    assert len({id(database) for database in databases}) == 1
    assert settings.readings == 1
