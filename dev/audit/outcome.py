"""What one part of the audit looked at, and what it found."""

from dataclasses import dataclass, field

CLEAN, FINDINGS, NOT_ASKED = 0, 1, 2
"""Exit statuses. NOT_ASKED: a part could not look, so nothing is known."""


@dataclass(slots=True)
class Outcome:
    """figures: what was looked at, in numbers; findings: each in words, with its place.

    not_asked: why the part could not look; then it is never clean.
    """

    title: str
    figures: str
    findings: list[str] = field(default_factory=list)
    not_asked: str = ""

    @property
    def status(self) -> int:
        if self.findings:
            return FINDINGS
        return NOT_ASKED if self.not_asked else CLEAN

    def __str__(self) -> str:
        if self.not_asked:
            result = f"NOT ASKED: {self.not_asked}"
        else:
            result = f"{len(self.findings)} findings" if self.findings else "clean"
        return "\n".join(
            [f"{self.title}: {self.figures}: {result}", *(f"  {each}" for each in self.findings)]
        )


def worst(outcomes: list[Outcome]) -> int:
    """A finding counts more than a part that could not look."""
    statuses = {outcome.status for outcome in outcomes}
    return next((status for status in (FINDINGS, NOT_ASKED) if status in statuses), CLEAN)
