"""Jakarta's time (WIB), in which days are counted: UTC+7, without summer time."""

from datetime import UTC, datetime, timedelta, timezone

WIB = timezone(timedelta(hours=7), "WIB")


def day_start(moment: datetime) -> datetime:
    """The start of its day, in UTC."""
    return moment.astimezone(WIB).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
