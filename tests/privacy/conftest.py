from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.services import Services
from lib.settings import Settings

type Rows = psycopg.Connection[DictRow]


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with closing(Services(Settings(platform.environment))) as services:
        yield services


@pytest.fixture
def operator(platform: Platform) -> dict[str, str]:
    """The headers of a request by an operator."""
    return {"Authorization": f"Bearer {platform.environment['LEADS_ADMIN_TOKEN']}"}
