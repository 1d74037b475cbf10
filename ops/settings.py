"""The variables that operators' commands alone read, beside the functions' in lib/settings.py.

No deployment needs one of them. As a program (`python3 -m ops.settings`) it prints every variable
of the project as JSON, for the local platform and for docs/settings.md.
"""

import json
from typing import Any

from lib.services import Services
from lib.settings import Setting, Settings, all_settings, encryption_keys, http_url, postgres_url


class OperatorSettings(Settings):
    """Typed reading of an operator's environment."""

    database_direct_url = Setting(
        postgres_url,
        "Postgres for backup and restore, as the tables' owner: a direct or session connection "
        "(Supabase: port 5432), never the transaction pooler.",
        secret=True,
    )
    backup_encryption_key = Setting(
        encryption_keys,
        "Seals our own backups: 32 bytes as URL-safe base64, kept where the backups are not. "
        "Several separated by commas: the first seals, all open.",
        secret=True,
    )
    backup_directory = Setting(str, "The folder our own backups are kept in, off this machine.")
    supabase_access_token = Setting(str, "Supabase's management API: an access token.", secret=True)
    supabase_project_ref = Setting(str, "The project's reference at Supabase.")
    supabase_api_url = Setting(http_url, "Supabase's management API.", "https://api.supabase.com")
    vercel_api_token = Setting(
        str,
        "Vercel's API token: an import of products purges the CDN. Empty: it expires by itself.",
        "",
        secret=True,
    )
    vercel_api_url = Setting(http_url, "Vercel's API.", "https://api.vercel.com")
    vercel_project_id = Setting(str, "The project's id or name; set by Vercel in functions.", "")
    vercel_team_id = Setting(str, "The team's id, where the project is a team's.", "")
    supabase_url = Setting(http_url, "The project's own address at Supabase.", "")
    supabase_secret_key = Setting(
        str,
        "Supabase's secret key (sb_secret_…), for tools beside the functions, which use Postgres.",
        "",
        secret=True,
    )
    resend_admin_key = Setting(
        str, "Resend's key with full access: makes and deletes others.", secret=True
    )
    upstash_api_url = Setting(http_url, "Upstash's developer API.", "https://api.upstash.com")
    upstash_email = Setting(str, "The account of UPSTASH_API_KEY.")
    upstash_api_key = Setting(str, "Upstash's developer API key.", secret=True)
    upstash_database_id = Setting(str, "The Redis database's id at Upstash.")
    uptimerobot_api_key = Setting(
        str, "UptimeRobot's account API key, for `ops monitors`; functions need none.", secret=True
    )
    uptimerobot_api_url = Setting(http_url, "UptimeRobot's API.", "https://api.uptimerobot.com/v3")


class OperatorServices(Services):
    """The services of a command, from an operator's environment."""

    settings: OperatorSettings

    def __init__(self, settings: OperatorSettings) -> None:
        super().__init__(settings)


def _to_fields(setting: Setting[Any]) -> dict[str, Any]:
    return {
        "name": setting.name,
        "meaning": setting.description,
        "default": setting.default,
        "secret": setting.secret,
        "operators_only": setting.name.lower() in vars(OperatorSettings),
    }


if __name__ == "__main__":
    print(json.dumps([_to_fields(setting) for setting in all_settings(OperatorSettings)]))
