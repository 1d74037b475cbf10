"""What every column holds, and what ends it: the record that a test compares with the schema.

A new column goes here first. Of a person: under the retention class that ends it (retention.py,
or one of ENDED_ELSEWHERE). Of nobody: under `other`. `rows` says what ends the rows themselves.
"""

from dataclasses import dataclass, field

ENDED_ELSEWHERE = {
    "round": "a round of the cron, within minutes (lib/privacy/erasure.py, redis_erasure.py)",
    "fold": "the fold of vitals (lib/vitals/rollup.py)",
    "request": "its request's end",
    "kept": "nothing: it is of nobody, and does not grow with traffic",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """rows: the class that ends rows. personal: columns by class. other: columns of nobody."""

    rows: str
    other: str
    personal: dict[str, str] = field(default_factory=dict)

    def columns(self) -> list[str]:
        named = [*self.other.split()]
        for names in self.personal.values():
            named += names.split()
        return named


HOLDINGS = {
    "leads": Holding(
        "leads",
        "id ref created_at salon_type locale consent_at consent_version consent_locale"
        " consent_sha256 same_until arrival journaled canary key_span corrections corrected_at"
        " review",
        {
            "leads": "business_name contact_name phone_whatsapp city email chair_count"
            " specialization current_brands_used monthly_spend_range message page_url_initial"
            " page_url_current referrer utm_source utm_medium utm_campaign utm_term utm_content"
            " identity body_sha256 content_identity",
            "origins": "ip_address user_agent",
        },
    ),
    "outbox": Holding(
        "mails",
        "id lead_id kind sender created_at attempts first_attempt_at next_attempt_at leased_until"
        " uncertain sent_at provider_id dead_at last_error",
        {"mails": "recipients reply_to subject body_text body_html"},
    ),
    "mail_pace": Holding("kept", "one next_at held_until held_for"),
    "spam": Holding(
        "spam",
        "id ref received_at reason locale",
        {"spam": "submission ip_address user_agent"},
    ),
    "mailed_leads": Holding(
        "mailed",
        "lead_id ref accepted_at marks registered_at dismissed_at dismissed_by",
        {"mailed": "reason"},
    ),
    "erasure_requests": Holding(
        "requests",
        "id receipt kind asked_by marks received_at due_at answered_at sweep_at finished_at",
    ),
    "erasure_steps": Holding("request", "request_id place state count due_at done_at facts"),
    "erasure_tombstones": Holding("tombstones", "mark erased_at"),
    "erasure_remains": Holding(
        "round",
        "lead_id request_id ref provider_ids deleted_at",
        {"round": "email phone identity text_sha256 client content_identity"},
    ),
    "incidents": Holding(
        "kept",
        "number id area severity state title rules started_at detected_at acknowledged_at"
        " acknowledged_by contained_at resolved_at closed_at deployment facts rca clean_ticks"
        " version told tell_at remind_at slack_channel slack_ts",
    ),
    "incident_events": Holding(
        "kept",
        "incident_id seq at kind actor facts note_sha256 previous hash",
        {"notes": "note"},
    ),
    "metric_minutes": Holding("minutes", "minute service deployment class bucket n"),
    "metric_hours": Holding("hours", "hour service deployment class bucket n"),
    "service_days": Holding("days", "day service n errors within_sla"),
    "job_runs": Holding("kept", "job first_run_at finished_at facts"),
    "leases": Holding("kept", "job holder until"),
    "backups": Holding("backups", "source taken_at status facts"),
    "drills": Holding("drills", "id kind at verdict facts"),
    "deployments": Holding(
        "kept",
        "deployment commit schema_min schema_max maintenance_mode first_seen_at last_seen_at"
        " canary_passed canary_at asked_at fault",
    ),
    "key_rotations": Holding(
        "kept",
        "id name reason step started_at old_fingerprint new_fingerprint deployed_at revoked_at"
        " finished_at facts",
    ),
    "key_sightings": Holding("sightings", "name fingerprint deployment first_seen_at last_seen_at"),
    "rum_hours": Holding("fold", "hour path device metric release buckets counts"),
    "rum_days": Holding("kept", "day path device metric release buckets counts"),
    "rum_releases": Holding("kept", "release first_at"),
    "rum_folds": Holding("fold", "batch at"),
    "rum_lasts": Holding(
        "fold", "id at hour path device metric release bucket bucket_before seen_at"
    ),
    "brands": Holding("kept", "name position"),
    "categories": Holding("kept", "code label_id label_en position"),
    "functions": Holding("kept", "code label_id label_en position"),
    "synonyms": Holding("kept", "term same_as"),
    "products": Holding(
        "kept",
        "slug name brand audience categories functions summary_id summary_en benefits_id"
        " benefits_en how_to_use_id how_to_use_en image_url image_alt_id image_alt_en"
        " image_caption_id image_caption_en published created_at updated_at name_key brand_key"
        " newness search",
    ),
    "product_groups": Holding("kept", "brand categories functions audience n"),
    "search_words": Holding("kept", "word"),
    "catalogue_state": Holding("kept", "one changed_at"),
}
