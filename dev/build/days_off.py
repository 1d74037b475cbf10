"""Writes lib/incidents/days_off.py from the `holidays` library: `python -m dev.build.days_off`.

The library is 13 MB and takes 0.4 s to import, in a function's first minute of trouble; its days of
some years are 6 KB. Joint leave is decreed a year ahead: run this again once a newer release of the
library knows the next decree (a test holds the file to the library that is installed).
"""

from pathlib import Path

from holidays import country_holidays

FILE = Path(__file__).resolve().parents[2] / "lib" / "incidents" / "days_off.py"
FIRST_YEAR, LAST_YEAR = 2026, 2035
HEAD = '''"""Indonesia's public holidays and joint leave, written by `python -m dev.build.days_off`.

The library computes the holidays of later years, those by the Islamic calendar as an estimate;
joint leave is known up to the last decree.
"""

LAST_YEAR = {last_year}
LAST_YEAR_OF_JOINT_LEAVE = {last_decree}
NAMES = {{
'''


def render() -> str:
    """The whole module. The names do not depend on LANG."""
    years = range(FIRST_YEAR, LAST_YEAR + 1)
    leave = country_holidays("ID", years=years, language="id", categories=("government",))
    public = country_holidays("ID", years=years, language="id", categories=("public",))
    names = {**leave, **public}
    head = HEAD.format(last_year=LAST_YEAR, last_decree=max(day.year for day in leave))
    lines = (f'    "{day}": "{names[day].replace(chr(34), chr(39))}",\n' for day in sorted(names))
    return head + "".join(lines) + "}\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
