"""Links that open a WhatsApp chat (wa.me, WhatsApp's click-to-chat addresses)."""

from urllib.parse import quote


def chat_link(phone: str, text: str) -> str:
    """A chat with `phone` (E.164) and a text ready to be sent."""
    return f"https://wa.me/{phone.removeprefix('+')}?text={quote(text)}"
