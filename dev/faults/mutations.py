"""Ways to break the code on purpose: proof that the oracle sees what it is there to see.

Each is a small change to the source. One that no longer fits fails loudly (PatchDoesNotApply)
and is then brought up to date.
"""

from dev.build.source_tree import Patch

MUTATIONS: dict[str, tuple[Patch, ...]] = {
    "no-dedupe": (
        Patch(
            "lib/leads/lead.py",
            'identity = _sha256("key", key) if key is not None else _sha256("content", *words)',
            'identity = _sha256("key", __import__("secrets").token_hex())',
        ),
    ),
    "acknowledge-before-write": (
        Patch(
            "api/leads.py",
            "        admitted = service.persist(services, lead, recipients.for_lead(lead),"
            " conditions)\n",
            '        admitted = Admission(lead, "stored")\n'
            "        context.after_response("
            "lambda: service.persist(services, lead, recipients) and None)\n",
        ),
    ),
    "no-deadline": (
        Patch(
            "lib/db.py",
            "left_s = max(0.001, self.deadline - time.monotonic())",
            "left_s = 3600.0",
        ),
    ),
    "pop-before-store": (
        Patch(
            "lib/leads/queue.py",
            "            lead = Lead.from_json(services.cipher.decrypt(sealed))\n",
            '            execute("HDEL", QUEUE, field)\n'
            "            lead = Lead.from_json(services.cipher.decrypt(sealed))\n",
        ),
    ),
    "mail-without-a-key": (
        Patch(
            "lib/mail.py",
            'SendOptions = {"idempotency_key": idempotency_key}',
            "SendOptions = {}",
        ),
    ),
    "names-in-the-log": (
        Patch(
            "api/leads.py",
            "    context.add_log_fields(lead=str(admitted.lead.id), closed=",
            "    context.add_log_fields(lead=lead.submission.business_name, closed=",
        ),
    ),
    "falls-through-on-outages-alone": (
        Patch(
            "lib/leads/service.py",
            "        except Exception as error:  # noqa: BLE001 - whatever it is,"
            " the next store may take the lead\n",
            "        except OUTAGE_ERRORS as error:\n",
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
