"""What is compared: which function of which build, and what it is asked."""

import json
from dataclasses import dataclass

FLOOR, EMPTY, INSERT = "empty WSGI", "empty werkzeug", "empty + one INSERT"
JOBS = ("health", "products", "leads", "rum")
COMPETITORS = ("fastapi", "flask", "hono")

LEAD = {
    "business_name": "Barber Maju @NUMBER@",
    "contact_name": "Andi Saputra",
    "phone_whatsapp": "+62812@NUMBER@",
    "city": "Medan",
    "salon_type": "BARBER",
    "consent": True,
    "email": "andi@example.com",
    "message": "Tertarik bermitra, nomor @NUMBER@. Mohon info harga.",
}
VITALS = [
    {"name": name, "value": value, "id": f"v6-{name}-@NUMBER@"}
    for name, value in (("LCP", 1900.5), ("CLS", 0.04), ("TTFB", 420.0))
]


@dataclass(frozen=True, slots=True)
class MeasuredFunction:
    """name: as it is printed. build: ours, a commit, or a competitor's name. job: one of JOBS, or
    none for a floor. cold: whether its start is measured too; if not, another has the same."""

    name: str
    build: str
    function: str
    request: str
    job: str = ""
    cold: bool = True


def _request(method: str, path: str, body: object = None, **headers: str) -> str:
    text = "" if body is None else json.dumps(body)
    sent = {
        "Host": "alfabeauty.co.id",
        "Accept": "*/*",
        "User-Agent": "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Mobile Safari/537.36",
        "x-forwarded-for": "@ADDRESS@",
        "x-forwarded-proto": "https",
        "x-vercel-internal-invocation-id": "bench",
        "x-vercel-internal-request-id": "1",
        **headers,
    }
    if body is not None:
        # As long as it will be: @NUMBER@ becomes 8 digits.
        sent |= {"Content-Type": "application/json", "Content-Length": str(len(text))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n{text}"


REQUESTS = {
    "health": _request("GET", "/api/health"),
    "products": _request("GET", "/api/products"),
    "leads": _request("POST", "/api/leads", LEAD),
    "rum": _request("POST", "/api/rum", VITALS),
}


def floors() -> list[MeasuredFunction]:
    request = REQUESTS["health"]
    return [
        MeasuredFunction(FLOOR, "wsgi", "api/index", request),
        MeasuredFunction(EMPTY, "werkzeug", "api/index", request),
        MeasuredFunction(INSERT, "insert", "api/index", request),
    ]


def ours(jobs: tuple[str, ...], build: str, etag: str) -> list[MeasuredFunction]:
    """Our functions in one build. etag: of the whole list, for the answer that it has not
    changed."""
    mark = "" if build == "ours" else f" @{build}"
    functions = [
        MeasuredFunction(f"{job}{mark}", build, f"api/{job}", REQUESTS[job], job) for job in jobs
    ]
    if "products" in jobs:
        same = _request("GET", "/api/products", **{"If-None-Match": f'"{etag}"'})
        unchanged = MeasuredFunction(f"products 304{mark}", build, "api/products", same, cold=False)
        functions.insert(
            functions.index(next(s for s in functions if s.job == "products")) + 1, unchanged
        )
    return functions


def competitors(jobs: tuple[str, ...]) -> list[MeasuredFunction]:
    return [
        MeasuredFunction(f"{job}, {name}", name, "api/index", REQUESTS[job], job)
        for job in jobs
        for name in COMPETITORS
    ]
