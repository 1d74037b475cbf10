"""Where a lead is stored: with the leads, among spam, or with the leads for a person to review.

Nothing is refused here, and all of it can be restored. One signal is not enough, for honest people
in a hurry leave each of them. A flood is no signal: a lead that comes in one is kept for review by
the store that takes it.
"""

from lib.interfaces import Services
from lib.leads.lead import Lead
from lib.leads.submission import Submission
from lib.problems import TurnstileDown

MIN_SIGNALS = 2
MIN_FILL_S = 3  # nobody fills eight fields faster
SUSPICIOUS_LINKS = 2
MAX_REPEATS = 5  # of the same message from anyone within a day


def screen(
    services: Services,
    lead: Lead,
    *,
    seconds_to_fill: int | None,
    repeats: int,
    challenge_token: str,
) -> Lead:
    """The lead with `spam` or `review` set to the reason, if there is one."""
    signals = classify(lead.submission, seconds_to_fill=seconds_to_fill, repeats=repeats)
    if signals is not None:
        return lead._replace(spam=signals)
    turnstile = services.turnstile
    if turnstile is None:
        return lead
    if not challenge_token:
        return lead._replace(review="unchallenged")  # a browser without JavaScript
    try:
        passed = turnstile.verify(challenge_token, lead.ip_address, str(lead.id))
    except TurnstileDown:
        return lead._replace(review="challenge_down")
    return lead if passed else lead._replace(spam="challenge_failed")


def classify(submission: Submission, *, seconds_to_fill: int | None, repeats: int) -> str | None:
    """Why it is spam (signals joined by `+`); None when it is not."""
    if submission.company is not None:
        return "honeypot"
    signals = {
        "hasty": seconds_to_fill is not None and seconds_to_fill < MIN_FILL_S,
        "links": _count_links(submission) >= SUSPICIOUS_LINKS,
        "link_in_name": _has_link_in_name(submission),
        "disposable_address": False,
        "repeated_text": repeats > MAX_REPEATS,
    }
    if sum(signals.values()) >= MIN_SIGNALS - 1:  # else the list, slow to load, decides nothing
        signals["disposable_address"] = _is_disposable(submission.email)
    present = [name for name, is_present in signals.items() if is_present]
    return "+".join(present) if len(present) >= MIN_SIGNALS else None


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
