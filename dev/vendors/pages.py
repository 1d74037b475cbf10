"""HTML pages of the stand-ins. Whatever was received is escaped, or shown in a sandbox."""

import html
import time
from collections.abc import Iterable

from dev.edge.http_server import Response, as_text

_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem} article{border:1px solid #8886;border-radius:.5rem;padding:1rem;margin:1rem 0}
h2{font-size:1.05rem;margin:0 0 .5rem} dl{display:grid;grid-template-columns:max-content 1fr;
gap:.1rem 1rem;margin:0 0 .75rem;font-size:.9rem} dt{opacity:.7} dd{margin:0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#8881;padding:.75rem;border-radius:.4rem}
iframe{width:100%;height:24rem;border:1px solid #8886;background:#fff;border-radius:.4rem}
summary{cursor:pointer} .empty{opacity:.7}
.links{list-style:none;margin:0;padding:0} .row{display:flex;flex-wrap:wrap;gap:.5rem;
align-items:center;padding:.5rem 0;border-top:1px solid #8884} .row div{flex:1 1 16rem}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
button,select,input{font:inherit;padding:.3rem .6rem}
"""


def page(title: str, lead: str, articles: Iterable[str]) -> Response:
    """`title` and `lead` are texts; `articles` are made by article()."""
    listed = "\n".join(articles) or '<p class="empty">Nothing yet. Reload to look again.</p>'
    document = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><main><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>"
        f"{listed}</main>"
    )
    response = as_text(document, kind="text/html")
    # Received text is escaped; should that ever fail, it still cannot run or load anything.
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-src 'self' about:"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def article(heading: str, facts: Iterable[tuple[str, str]], *parts: str) -> str:
    """One entry; facts are (name, text) pairs, parts come from the functions below."""
    listed = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts if text
    )
    return f"<article><h2>{html.escape(heading)}</h2><dl>{listed}</dl>{''.join(parts)}</article>"


def text_part(title: str, text: str, *, opened: bool = False) -> str:
    flag = " open" if opened else ""
    escaped = html.escape(text)
    return f"<details{flag}><summary>{html.escape(title)}</summary><pre>{escaped}</pre></details>"


def html_part(title: str, document: str) -> str:
    """A received HTML document in a sandboxed frame: no scripts, no forms, no origin."""
    source, name = html.escape(document, quote=True), html.escape(title, quote=True)
    return (
        f'<details open><summary>{name}</summary><iframe title="{name}" sandbox=""'
        f' referrerpolicy="no-referrer" srcdoc="{source}"></iframe></details>'
    )


def format_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
