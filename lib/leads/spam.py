"""Whether a submission looks like spam, without asking anybody. It decides where a lead is kept,
never whether: everything found here can be restored. A flood is no sign of spam: a real lead that
comes in one is stored as a lead, for a person to look at (`review`).

One mark is not enough, for each is also left by honest people in a hurry.
"""

from lib.leads.submission import Submission

MIN_SIGNALS = 2  # marks
MIN_FILL_S = 3  # nobody fills eight fields faster
SUSPICIOUS_LINKS = 2
MAX_REPEATS = 5  # the same message from anyone within a day
# Of the challenge: honest people without JavaScript, or everybody while Turnstile is down.
INCONCLUSIVE_CHALLENGES = ("unchallenged", "challenge_down")


def classify(submission: Submission, *, seconds_to_fill: int | None, repeats: int) -> str | None:
    """Why it goes to the spam box (codes joined by `+`); None when it is a lead."""
    if submission.company is not None:
        return "honeypot"
    found = {
        "hasty": seconds_to_fill is not None and seconds_to_fill < MIN_FILL_S,
        "links": _count_links(submission) >= SUSPICIOUS_LINKS,
        "link_in_name": _has_link_in_name(submission),
        "disposable_address": False,
        "repeated_text": repeats > MAX_REPEATS,
    }
    if sum(found.values()) >= MIN_SIGNALS - 1:  # else the list, dear to load, decides nothing
        found["disposable_address"] = _is_disposable(submission.email)
    marks = [name for name, there in found.items() if there]
    return "+".join(marks) if len(marks) >= MIN_SIGNALS else None


def _count_links(submission: Submission) -> int:
    texts = (submission.message, submission.specialization, submission.current_brands_used)
    return sum((text or "").lower().count("http") for text in texts)


def _has_link_in_name(submission: Submission) -> bool:
    names = (submission.business_name, submission.contact_name, submission.city)
    return any("http" in name.lower() or "www." in name.lower() for name in names)


def _is_disposable(email: str | None) -> bool:
    if email is None:
        return False
    from disposable_email_domains import blocklist  # 6 ms that few pay

    return email.rpartition("@")[2] in blocklist
