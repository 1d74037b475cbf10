"""Writes lib/incidents/days_off.json from the `holidays` library: `python -m dev.build.days_off`.

The library is 13 MB and takes 0.4 s to import, in a function's first minute of trouble; its days of
some years are 6 KB. Joint leave is decreed a year ahead: run this again once a newer release of the
library knows the next decree (a test holds the file to the library that is installed).
"""

import json
from pathlib import Path

from holidays import country_holidays

FILE = Path(__file__).resolve().parents[2] / "lib" / "incidents" / "days_off.json"
FIRST_YEAR, LAST_YEAR = 2026, 2035


def render() -> str:
    """The whole file. The names do not depend on LANG."""
    years = range(FIRST_YEAR, LAST_YEAR + 1)
    leave = country_holidays("ID", years=years, language="id", categories=("government",))
    public = country_holidays("ID", years=years, language="id", categories=("public",))
    names = {**leave, **public}
    document = {
        "last_year": LAST_YEAR,
        "last_year_of_joint_leave": max(day.year for day in leave),
        "names": {str(day): names[day] for day in sorted(names)},
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
