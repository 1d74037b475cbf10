"""Ways to break the code on purpose: proof that the oracle sees what it is there to see.

Each is a small change to the source. One that no longer fits fails loudly (tree.AnchorMissing)
and is then brought up to date.
"""

from dev.build.source_tree import Patch

MUTATIONS: dict[str, tuple[Patch, ...]] = {
    "no-dedupe": (
        Patch(
            "lib/leads/repository.py",
            'identity = _sha256("key", key) if key is not None else _sha256("content", *said)',
            'identity = _sha256("key", __import__("secrets").token_hex())',
        ),
    ),
    "acknowledge-before-write": (
        Patch(
            "api/leads.py",
            "        kept = intake.keep(\n"
            "            call.services, offered, desk, spam=spam_reason, "
            "closed=window is not None\n"
            "        )\n",
            '        kept = Kept(offered, "stored")\n'
            "        call.later("
            "lambda: intake.keep(call.services, offered, desk, spam=spam_reason))\n",
        ),
    ),
    "no-deadline": (
        Patch(
            "lib/db.py",
            "left = max(0.001, self.deadline - time.monotonic())",
            "left = 3600.0",
        ),
    ),
    "pop-before-store": (
        Patch(
            "lib/leads/queue.py",
            "            lead = copies.from_json(vault.open(sealed))\n",
            '            command("HDEL", QUEUE, field)\n'
            "            lead = copies.from_json(vault.open(sealed))\n",
        ),
    ),
    "mail-without-a-key": (
        Patch(
            "lib/mail.py",
            'key = {"Idempotency-Key": idempotency_key}',
            "key: dict[str, str] = {}",
        ),
    ),
    "names-in-the-log": (
        Patch(
            "api/leads.py",
            "    call.note(lead=str(lead.id))\n",
            "    call.note(lead=str(lead.id), business=lead.submission.business_name)\n",
        ),
    ),
    "falls-through-on-outages-alone": (
        Patch(
            "lib/leads/service.py",
            "        except Exception as fault:  # noqa: BLE001 - whatever it is,"
            " the next store may take the lead\n",
            "        except (CacheDown, DatabaseDown, MailDelayed, MailRefused, NotConfigured)"
            " as fault:\n",
        ),
    ),
    "reference-of-its-own": (
        Patch(
            "api/leads.py",
            '"id": str(lead.id), "ref": lead.ref}',
            '"id": str(lead.id), "ref": "ALFA-" + __import__("secrets").token_hex(3).upper()}',
        ),
    ),
}
