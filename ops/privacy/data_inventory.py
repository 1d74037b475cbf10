"""Data inventory: every column, whether it is personal data, and what ends it.

A test compares it with the schema, so a new column is declared here first: personal data under the
retention class that ends it (lib/privacy/retention.py, or OTHER_RETENTION), the rest as other.
"""

from dataclasses import dataclass, field

OTHER_RETENTION = {
    "round": "a cron job, within minutes (lib/privacy/erasure.py, redis_erasure.py)",
    "fold": "the rollup of vitals (lib/vitals/rollup.py)",
    "request": "its request's end",
    "kept": "nothing: it is no personal data, and does not grow with traffic",
}


@dataclass(frozen=True, slots=True)
class TableInventory:
    """retention_class: ends the rows. Columns: names with spaces between; the personal by class."""

    retention_class: str
    other_columns: str
    personal_columns: dict[str, str] = field(default_factory=dict)

    def columns(self) -> list[str]:
        return " ".join([self.other_columns, *self.personal_columns.values()]).split()


TABLES = {
    "leads": TableInventory(
        "leads",
        "id ref created_at salon_type locale consent_at consent_version consent_locale"
        " consent_sha256 same_until arrival journaled canary key_span corrections corrected_at"
        " review answered_at answered_by",
        {
            "leads": "business_name contact_name phone_whatsapp city email chair_count"
            " specialization current_brands_used monthly_spend_range message page_url_initial"
            " page_url_current referrer utm_source utm_medium utm_campaign utm_term utm_content"
            " identity body_sha256 content_identity",
            "origins": "ip_address user_agent",
        },
    ),
    "outbox": TableInventory(
        "mails",
        "id lead_id kind sender created_at attempts first_attempt_at next_attempt_at leased_until"
        " uncertain sent_at provider_id dead_at last_error",
        {"mails": "recipients reply_to subject body_text body_html"},
    ),
    "mail_pace": TableInventory("kept", "one next_at held_until held_for"),
    "spam": TableInventory(
        "spam",
        "id ref received_at reason locale",
        {"spam": "submission ip_address user_agent"},
    ),
    "mailed_leads": TableInventory(
        "mailed",
        "lead_id ref accepted_at marks registered_at dismissed_at dismissed_by",
        {"mailed": "reason"},
    ),
    "lead_clients": TableInventory("clients", "moments last_at", {"clients": "client"}),
    "maintenance_window": TableInventory("kept", "one mode until"),
    "erasure_requests": TableInventory(
        "requests",
        "id receipt kind asked_by marks received_at due_at answered_at sweep_at finished_at",
    ),
    "erasure_steps": TableInventory("request", "request_id place state count due_at done_at facts"),
    "erasure_tombstones": TableInventory("tombstones", "mark erased_at"),
    "erasure_remains": TableInventory(
        "round",
        "lead_id request_id ref provider_ids deleted_at",
        {"round": "email phone identity text_sha256 client content_identity"},
    ),
    "incidents": TableInventory(
        "kept",
        "number id area severity state title rules started_at detected_at acknowledged_at"
        " acknowledged_by contained_at resolved_at closed_at deployment facts rca clean_ticks"
        " version told tell_at remind_at slack_channel slack_ts",
    ),
    "incident_events": TableInventory(
        "kept",
        "incident_id seq at kind actor facts note_sha256 previous hash",
        {"notes": "note"},
    ),
    "metric_minutes": TableInventory("minutes", "minute service deployment class bucket n"),
    "metric_hours": TableInventory("hours", "hour service deployment class bucket n"),
    "service_days": TableInventory("days", "day service n errors within_sla"),
    "job_runs": TableInventory("kept", "job first_run_at finished_at facts"),
    "leases": TableInventory("kept", "job holder until"),
    "backups": TableInventory("backups", "source taken_at status facts"),
    "drills": TableInventory("drills", "id kind at verdict facts"),
    "deployments": TableInventory(
        "kept",
        "deployment commit schema_min schema_max maintenance_mode first_seen_at last_seen_at"
        " canary_passed canary_at asked_at fault",
    ),
    "key_rotations": TableInventory(
        "kept",
        "id name reason step started_at old_fingerprint new_fingerprint deployed_at revoked_at"
        " finished_at facts",
    ),
    "key_sightings": TableInventory(
        "sightings", "name fingerprint deployment first_seen_at last_seen_at"
    ),
    "rum_hours": TableInventory("fold", "hour path device metric release buckets counts"),
    "rum_days": TableInventory("kept", "day path device metric release buckets counts"),
    "rum_releases": TableInventory("kept", "release first_at"),
    "rum_folds": TableInventory("fold", "batch at"),
    "rum_lasts": TableInventory(
        "fold", "id at hour path device metric release bucket bucket_before seen_at"
    ),
    "brands": TableInventory("kept", "name position"),
    "categories": TableInventory("kept", "code label_id label_en position"),
    "functions": TableInventory("kept", "code label_id label_en position"),
    "synonyms": TableInventory("kept", "term same_as roots"),
    "products": TableInventory(
        "kept",
        "slug name brand audience categories functions summary_id summary_en benefits_id"
        " benefits_en how_to_use_id how_to_use_en image_url image_alt_id image_alt_en"
        " image_caption_id image_caption_en published created_at updated_at name_key brand_key"
        " newness search",
    ),
    "product_groups": TableInventory("kept", "brand categories functions audience n"),
    "search_words": TableInventory("kept", "word roots"),
    "catalogue_state": TableInventory("kept", "one changed_at"),
}
