"""GET, HEAD /terima-kasih and /en/thank-you: the thank-you page with the lead's reference.

200 always: an invalid reference is left out. No service is asked.
"""

from lib.app import Context, Response, wsgi_app
from lib.leads import form_pages, reference
from lib.leads.whatsapp import chat_link
from lib.problems import NotConfigured
from lib.settings import Settings

CHAT_TEXT = {
    "id": "Halo Alfa Beauty, saya baru mengirim formulir kemitraan. Kode saya {ref}.",
    "en": "Hello Alfa Beauty, I have just sent the partnership form. My reference is {ref}.",
}


def get(context: Context) -> Response:
    locale = "en" if context.request.args.get("locale") == "en" else "id"
    parameter = context.request.args.get("ref", "")
    ref = parameter if reference.is_valid(parameter) else None
    page = form_pages.render_thank_you(locale, ref, _chat_url(locale, ref))
    return Response(page, content_type="text/html; charset=utf-8")


def _chat_url(locale: str, ref: str | None) -> str | None:
    try:
        sales = Settings().sales_whatsapp
    except NotConfigured:
        return None
    return ref and chat_link(sales, CHAT_TEXT[locale].format(ref=ref))


app = wsgi_app("thanks", GET=get)
