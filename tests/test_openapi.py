"""public/openapi.json against the code and against what the running platform really answers."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from dev.build import openapi
from dev.build.openapi import CHALLENGE_FIELD
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.leads import submission
from lib.leads.submission import Submission
from lib.problems import Problem
from tests.conftest import LEAD, eventually
from tests.products.catalogue_data import Database, seeded

ROOT = Path(__file__).parent.parent
DOCUMENT: dict[str, Any] = json.loads((ROOT / "public" / "openapi.json").read_text("utf-8"))
__all__ = ["seeded"]

SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
METHODS = {"get", "head", "post", "put", "patch", "delete", "options", "trace"}

_BASE = "urn:openapi"
_REGISTRY: Registry[Any] = Registry().with_resource(_BASE, DRAFT202012.create_resource(DOCUMENT))


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` within the document leads to; anything else as it is."""
    while "$ref" in node:
        target: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def check(value: object, schema: dict[str, Any]) -> None:
    """ValidationError unless `value` fits a schema of the document."""
    Draft202012Validator(
        _absolute(schema), registry=_REGISTRY, format_checker=FormatChecker()
    ).validate(value)


def _absolute(schema: Any) -> Any:
    """The schema with its references led to the document, out of which it was taken."""
    if isinstance(schema, dict):
        return {
            key: _BASE + value if key == "$ref" else _absolute(value)
            for key, value in schema.items()
        }
    return [_absolute(each) for each in schema] if isinstance(schema, list) else schema


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, method, operation) of everything documented."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item[method]


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_it_is_served_at_its_address(platform: Platform) -> None:
    answer = httpx.get(f"{platform.url}/openapi.json")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == DOCUMENT


# --- The document and the code.


def test_the_schemas_are_those_of_the_models() -> None:
    text = (ROOT / openapi.FILE).read_text("utf-8")
    assert text == openapi.render(text), "python3 -m dev openapi"


def test_a_lead_has_the_fields_the_code_knows() -> None:
    assert set(SCHEMAS["Lead"]["properties"]) == {*Submission._fields, CHALLENGE_FIELD}
    required = {*Submission._fields} - {*Submission._field_defaults}
    assert set(SCHEMAS["Lead"]["required"]) == required
    for name, field in SCHEMAS["Lead"]["properties"].items():
        assert field["description"], name
        assert (name in required) == ("null" not in field.get("type", [])), name


LIMITS = {"business_name": 255, "contact_name": 255, "city": 80, "monthly_spend_range": 80,
          "message": 2000, "specialization": 200, "utm_source": 200, "referrer": 2048,
          "company": 2000}  # fmt: skip


@pytest.mark.parametrize(("name", "longest"), LIMITS.items())
def test_a_documented_limit_is_the_one_that_is_checked(name: str, longest: int) -> None:
    assert SCHEMAS["Lead"]["properties"][name]["maxLength"] == longest
    submission.parse({**LEAD, name: "a" * longest})
    with pytest.raises(submission.ValidationError):
        submission.parse({**LEAD, name: "a" * (longest + 1)})


def test_no_documented_limit_is_the_documents_alone() -> None:
    """The limits our own checks enforce, which pydantic's schema does not show."""
    domain = ".".join(["d" * 60] * 3) + ".co.id"
    longest = f"{'a' * (254 - len(domain) - 1)}@{domain}"
    assert len(longest) == SCHEMAS["Lead"]["properties"]["email"]["maxLength"]
    chairs = SCHEMAS["Lead"]["properties"]["chair_count"]
    valid: list[dict[str, object]] = [
        {"email": longest},
        {"chair_count": chairs["minimum"]},
        {"chair_count": chairs["maximum"]},
        {"chair_count": str(chairs["maximum"])},
    ]
    for accepted in valid:
        submission.parse({**LEAD, **accepted})
    refused: list[dict[str, object]] = [
        {"email": f"a{longest}"},
        {"chair_count": chairs["minimum"] - 1},
        {"chair_count": chairs["maximum"] + 1},
    ]
    for refusal in refused:
        with pytest.raises(submission.ValidationError):
            submission.parse({**LEAD, **refusal})


@pytest.mark.parametrize(
    "value",
    [1, 3.0, 1e4, 10_000, 0, -1, 3.5, 10_001.0, True, "1", "00010", "10000", "9999", "", None, "0",
     "00000", "000001", "10001", "3.0", "enam", "+6", [6]],
)  # fmt: skip
def test_the_document_and_the_code_take_the_same_numbers_of_chairs(value: object) -> None:
    documented = Draft202012Validator(SCHEMAS["Lead"]["properties"]["chair_count"])
    try:
        submission.parse({**LEAD, "chair_count": value})
        taken = True
    except submission.ValidationError:
        taken = False
    assert taken == documented.is_valid(value)


def test_a_form_has_the_same_fields_and_may_say_where_to_go_next() -> None:
    form, lead = SCHEMAS["LeadForm"], SCHEMAS["Lead"]
    assert set(form["properties"]) == {*lead["properties"], "redirect"}
    assert form["required"] == lead["required"]
    assert {*form["properties"]["consent"]["enum"]} == set(submission.CHECKBOX_VALUES)
    for name in set(lead["properties"]) - {"consent"}:
        assert resolved(form["properties"][name]) is lead["properties"][name]


def functions() -> dict[str, set[str]]:
    """`/api/<name>` -> the methods its file gives to `wsgi_app`, in lower case."""
    methods_by_address = {}
    for file in sorted((ROOT / "api").rglob("*.py")):
        address = "/" + file.relative_to(ROOT).with_suffix("").as_posix()
        calls = (
            node
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("wsgi_app")
        )
        given = {str(word.arg) for call in calls for word in call.keywords}
        methods = {name.lower() for name in given if name.isupper()}
        methods_by_address[address] = (
            methods | {"options"} | ({"head"} if "get" in methods else set())
        )
    return methods_by_address


def addresses() -> dict[str, str]:
    """Public address -> function's address. A function that rewrites lead to has theirs alone."""
    rewrites = {
        re.sub(r":(\w+)", r"{\1}", rule["source"]): rule["destination"].partition("?")[0]
        for rule in json.loads((ROOT / "vercel.json").read_text("utf-8"))["rewrites"]
    }
    # An address below the function's own is one more, not another in its place.
    behind = {inner for public, inner in rewrites.items() if not public.startswith(f"{inner}/")}
    return rewrites | {address: address for address in functions() if address not in behind}


def test_every_address_is_documented_with_exactly_its_methods() -> None:
    documented = {path: METHODS & set(item) for path, item in DOCUMENT["paths"].items()}
    assert documented == {public: functions()[inner] for public, inner in addresses().items()}


def problems() -> dict[str, int]:
    """Code -> status of every Problem there is."""
    return {kind.code: kind.status for kind in Problem.__subclasses__()}


def test_the_problems_are_those_of_the_code() -> None:
    documented = {
        code: branch["properties"]["status"]["const"]
        for branch in SCHEMAS["Problem"]["oneOf"]
        for code in branch["properties"]["error"]["enum"]
    }
    assert documented == problems()
    for code, status in problems().items():
        assert f"`{code}` ({status})" in SCHEMAS["Problem"]["properties"]["error"]["description"]


def test_every_answer_names_problems_of_its_own_status() -> None:
    for path, method, operation in operations():
        for status, response in operation["responses"].items():
            content = resolved(response).get("content", {}).get("application/problem+json")
            if content is not None:
                stated = content["schema"]["allOf"][1]["properties"]
                where = f"{method} {path} {status}"
                assert str(stated["status"]["const"]) == status, where
                assert {problems()[code] for code in stated["error"]["enum"]} == {int(status)}, (
                    where
                )
                assert set(content["examples"]) == set(stated["error"]["enum"]), where


def test_every_answer_has_a_request_id() -> None:
    for path, method, operation in operations():
        for status, response in operation["responses"].items():
            assert "X-Request-Id" in resolved(response)["headers"], f"{method} {path} {status}"


def test_every_example_is_valid() -> None:
    for path, _, operation in operations():
        for content in resolved(operation.get("requestBody", {})).get("content", {}).values():
            for example in content.get("examples", {}).values():
                check(example["value"], content["schema"])
                if path == "/api/leads":
                    submission.parse(example["value"])
        for response in operation["responses"].values():
            for content in resolved(response).get("content", {}).values():
                for example in content.get("examples", {}).values():
                    check(example["value"], content["schema"])
    for name, field in SCHEMAS["Lead"]["properties"].items():
        for example in field.get("examples", []):
            check(example, field)
            submission.parse({**LEAD, name: example})


# --- The document and the running platform.


def conforms(answer: httpx.Response, path: str) -> None:
    """Fail unless the answer's status, headers, type and body are documented for its request."""
    method = answer.request.method.lower()
    item = DOCUMENT["paths"][path]
    # A method that is none of the address's is described where its callers would look.
    operation = item.get(method) or item.get("post") or item["get"]
    status = str(answer.status_code)
    assert status in operation["responses"], f"{method} {path} may answer {status} undocumented"
    response = resolved(operation["responses"][status])
    for name, header in response.get("headers", {}).items():
        header = resolved(header)
        assert name in answer.headers or not header.get("required"), f"{status} without {name}"
        if name in answer.headers:
            text = answer.headers[name]
            number = header["schema"].get("type") == "integer"
            check(int(text) if number else text, header["schema"])
    content = response.get("content", {})
    if method == "head" or not content:
        assert answer.content == b""
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in content, f"{method} {path} {status} is {kind}"
    body = answer.text if kind.startswith("text/") else answer.json()
    check(body, content[kind]["schema"])


NO_DATABASE: dict[str, str | None] = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}
NO_REDIS: dict[str, str | None] = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
NO_MAIL: dict[str, str | None] = {"RESEND_API_URL": "http://127.0.0.1:1"}
NO_TOKEN: dict[str, str | None] = {"HEALTH_CHECK_TOKEN": None}

FORM = {**{name: str(value) for name, value in LEAD.items()}, "consent": "on"}
BROWSER = {"Accept": "text/html"}
FAULTY = {**LEAD, "phone_whatsapp": "12", "colour": "red", "consent": False}

REQUESTS: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "lead as json": (200, "POST", "/api/leads", {"json": LEAD}),
    "lead as a form": (200, "POST", "/api/leads", {"data": FORM}),
    "lead as multipart": (
        200,
        "POST",
        "/api/leads",
        {"files": {name: (None, value) for name, value in FORM.items()}},
    ),
    "lead from a browser": (303, "POST", "/api/leads", {"data": FORM, "headers": BROWSER}),
    "faulty lead": (400, "POST", "/api/leads", {"json": FAULTY}),
    "faulty lead in english": (
        400,
        "POST",
        "/api/leads",
        {"json": FAULTY, "headers": {"Accept-Language": "en"}},
    ),
    "faulty lead from a browser": (
        400,
        "POST",
        "/api/leads",
        {"data": {**FORM, "city": ""}, "headers": BROWSER},
    ),
    "no json": (
        400,
        "POST",
        "/api/leads",
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
    ),
    "a list": (400, "POST", "/api/leads", {"json": [LEAD]}),
    "lead from another site": (
        403,
        "POST",
        "/api/leads",
        {"json": LEAD, "headers": {"Origin": "https://example.com"}},
    ),
    "lead with its key": (
        200,
        "POST",
        "/api/leads",
        {"json": LEAD, "headers": {"Idempotency-Key": "k-1", "X-Form-Seconds": "48"}},
    ),
    "lead with a challenge": (200, "POST", "/api/leads", {"json": {**LEAD, CHALLENGE_FIELD: "x"}}),
    "lead with too long a key": (
        400,
        "POST",
        "/api/leads",
        {"json": LEAD, "headers": {"Idempotency-Key": "k" * 256}},
    ),
    "lead with a false signature": (
        401,
        "POST",
        "/api/leads",
        {"json": LEAD, "headers": {"X-Alfa-Canary": "1.0"}},
    ),
    "status": (200, "GET", "/api/status", {}),
    "watch without its token": (401, "GET", "/api/cron/watch", {}),
    "lead by get": (405, "GET", "/api/leads", {}),
    "lead too large": (413, "POST", "/api/leads", {"json": {**LEAD, "message": "x" * 110_000}}),
    "lead as text": (
        415,
        "POST",
        "/api/leads",
        {"content": b"hello", "headers": {"Content-Type": "text/plain"}},
    ),
    "lead options": (204, "OPTIONS", "/api/leads", {}),
    "products": (200, "GET", "/api/products", {}),
    "a page of products": (
        200,
        "GET",
        "/api/products",
        {"params": {"limit": "2", "facets": "1", "total": "1", "locale": "en"}},
    ),
    "one product": (200, "GET", "/api/products", {"params": {"slug": "barber-beard-oil"}}),
    "some fields": (200, "GET", "/api/products", {"params": {"fields": "slug,name"}}),
    "no such product": (404, "GET", "/api/products", {"params": {"slug": "nothing"}}),
    "faulty products": (400, "GET", "/api/products", {"params": {"limit": "0", "page": "2"}}),
    "products head": (200, "HEAD", "/api/products", {}),
    "products options": (204, "OPTIONS", "/api/products", {}),
    "products by post": (405, "POST", "/api/products", {}),
    "health": (200, "GET", "/api/health", {}),
    "health as health+json": (
        200,
        "GET",
        "/api/health",
        {"headers": {"Accept": "application/health+json"}},
    ),
    "health head": (200, "HEAD", "/api/health", {}),
    "deep health without its token": (401, "GET", "/api/health", {"params": {"deep": "true"}}),
    "deep head without its token": (401, "HEAD", "/api/health", {"params": {"deep": "true"}}),
    "health options": (204, "OPTIONS", "/api/health", {}),
    "health by post": (405, "POST", "/api/health", {}),
    "deliver without its token": (401, "GET", "/api/cron/deliver", {}),
    "deliver head without its token": (401, "HEAD", "/api/cron/deliver", {}),
    "deliver options": (204, "OPTIONS", "/api/cron/deliver", {}),
    "deliver by post": (405, "POST", "/api/cron/deliver", {}),
    "prune without its token": (401, "GET", "/api/cron/prune", {}),
    "prune head without its token": (401, "HEAD", "/api/cron/prune", {}),
    "prune options": (204, "OPTIONS", "/api/cron/prune", {}),
    "prune by post": (405, "POST", "/api/cron/prune", {}),
    "export without its token": (401, "GET", "/api/leads/export", {}),
    "export head without its token": (401, "HEAD", "/api/leads/export", {}),
    "export options": (204, "OPTIONS", "/api/leads/export", {}),
    "export by post": (405, "POST", "/api/leads/export", {}),
    "subject without its token": (401, "GET", "/api/leads/subject", {}),
    "subject head without its token": (401, "HEAD", "/api/leads/subject", {}),
    "erasure without its token": (401, "DELETE", "/api/leads/subject", {}),
    "subject options": (204, "OPTIONS", "/api/leads/subject", {}),
    "subject by post": (405, "POST", "/api/leads/subject", {}),
    "vitals": (204, "POST", "/api/rum", {"json": []}),
    "vitals of an unsigned drain": (
        403,
        "POST",
        "/api/rum",
        {"json": [], "headers": {"x-vercel-signature": "0"}},
    ),
    "read vitals": (200, "GET", "/api/rum", {"params": {"by": "day", "compare": "latest"}}),
    "read vitals head": (200, "HEAD", "/api/rum", {}),
    "read vitals by nothing": (400, "GET", "/api/rum", {"params": {"by": "", "colour": "red"}}),
    "vitals options": (204, "OPTIONS", "/api/rum", {}),
    "vitals by put": (405, "PUT", "/api/rum", {}),
    "thanks": (200, "GET", "/terima-kasih", {"params": {"ref": "ALFA-7KQ2M"}}),
    "thanks in english": (200, "GET", "/en/thank-you", {}),
    "thanks head": (200, "HEAD", "/terima-kasih", {}),
    "thanks options": (204, "OPTIONS", "/en/thank-you", {}),
    "thanks by post": (405, "POST", "/terima-kasih", {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_real_answer_is_as_documented(
    site: httpx.Client, name: str, request: pytest.FixtureRequest
) -> None:
    status, method, path, options = REQUESTS[name]
    if name == "one product":
        request.getfixturevalue("seeded")
    answer = site.request(method, path, **options)
    assert answer.status_code == status, answer.text
    conforms(answer, path)


def test_one_products_own_address_answers_as_documented(
    site: httpx.Client, seeded: Database
) -> None:
    answer = site.get("/api/products/barber-beard-oil")
    assert answer.status_code == 200
    conforms(answer, "/api/products/{slug}")
    condition = {"If-None-Match": answer.headers["ETag"]}
    again = site.get("/api/products/barber-beard-oil", headers=condition)
    assert again.status_code == 304
    conforms(again, "/api/products/{slug}")


@pytest.mark.parametrize("path", ["/api/cron/deliver", "/api/cron/watch", "/api/cron/prune"])
def test_a_job_answers_as_documented(site: httpx.Client, platform: Platform, path: str) -> None:
    token = platform.environment["CRON_SECRET"]
    for method in ("GET", "HEAD"):
        headers = {"Authorization": f"Bearer {token}"}
        answer = site.request(method, path, headers=headers, timeout=60)
        assert answer.status_code == 200
        conforms(answer, path)


def test_maintenance_answers_as_documented(site: httpx.Client, platform: Platform) -> None:
    switched = {"MAINTENANCE_MODE": "on"}
    headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    files = ("health", "cron/deliver", "cron/prune", "status")
    for file, accept in (*((file, "*/*") for file in files), ("health", "application/health+json")):
        with platform.function(f"api/{file}.py", **switched) as function:
            request_headers = {**headers, "Accept": accept}
            answer = httpx.get(f"{function.url}/api/{file}", headers=request_headers, timeout=20)
            assert answer.status_code == 200
            assert "maintenance" in answer.text
            conforms(answer, f"/api/{file}")


OPERATORS: list[tuple[int, str, str, dict[str, str]]] = [
    (200, "GET", "/api/leads/export", {}),
    (200, "GET", "/api/leads/export", {"limit": "1", "before": "2030-01-01T00:00:00Z"}),
    (200, "HEAD", "/api/leads/export", {"limit": "1"}),
    (400, "GET", "/api/leads/export", {"limit": "0"}),
    (400, "HEAD", "/api/leads/export", {"page": "2"}),
    (200, "GET", "/api/leads/subject", {"email": "andi@example.com"}),
    (200, "HEAD", "/api/leads/subject", {"phone": "081234567890"}),
    (200, "DELETE", "/api/leads/subject", {"phone": "081234567890", "dry_run": "1"}),
    (200, "DELETE", "/api/leads/subject", {"phone": "081234567890"}),
    (400, "GET", "/api/leads/subject", {}),
    (400, "HEAD", "/api/leads/subject", {}),
    (400, "DELETE", "/api/leads/subject", {"email": "andi"}),
]


@pytest.mark.parametrize(("status", "method", "path", "params"), OPERATORS)
def test_operators_are_answered_as_documented(
    site: httpx.Client,
    platform: Platform,
    status: int,
    method: str,
    path: str,
    params: dict[str, str],
) -> None:
    for number in range(2):
        site.post("/api/leads", json={**LEAD, "message": f"Nomor {number}"})
    headers = {"X-Admin-Token": platform.environment["LEADS_ADMIN_TOKEN"]}
    answer = site.request(method, path, params=params, headers=headers)
    assert answer.status_code == status, answer.text
    conforms(answer, path)


def send(at: Platform | Function, **request: Any) -> httpx.Response:
    """A lead, whose answer is as documented."""
    answer = httpx.post(f"{at.url}/api/leads", **{"json": LEAD, "timeout": 20, **request})
    conforms(answer, "/api/leads")
    return answer


def test_a_lead_that_has_to_wait_is_answered_as_documented(
    site: httpx.Client, platform: Platform
) -> None:
    with platform.function("api/leads.py", **NO_DATABASE) as function:
        assert send(function).status_code == 202
    headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    answer = site.get("/api/cron/deliver", headers=headers)
    assert answer.json()["queue"]["stored"] == 1
    conforms(answer, "/api/cron/deliver")


def test_a_cron_run_without_redis_answers_as_documented(
    site: httpx.Client, platform: Platform
) -> None:
    headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    with platform.function("api/cron/deliver.py", **NO_REDIS) as function:
        answer = httpx.get(f"{function.url}/api/cron/deliver", headers=headers, timeout=20)
    assert answer.json()["queue"] is None
    conforms(answer, "/api/cron/deliver")


@pytest.mark.parametrize("browser", [False, True], ids=["program", "browser"])
def test_what_is_refused_for_now_is_answered_as_documented(
    site: httpx.Client, platform: Platform, browser: bool
) -> None:
    """422, 429 and 503, as a program and as a browser's form."""
    kind: dict[str, Any] = {"json": None, "data": FORM} if browser else {}
    headers = BROWSER if browser else {}

    def form(**fields: str) -> dict[str, Any]:
        return {"data": {**FORM, **fields}} if browser else {"json": {**LEAD, **fields}}

    keyed = {"headers": {**headers, "Idempotency-Key": "k-1"}}
    assert send(platform, **kind, **keyed).status_code == (303 if browser else 200)
    assert send(platform, **{**kind, **keyed, **form(city="Binjai")}).status_code == 422
    statuses = [
        send(platform, **{**kind, "headers": headers, **form(message=f"{n}")}).status_code
        for n in range(6)
    ]
    assert statuses[-1] == 429
    with platform.function("api/leads.py", **NO_DATABASE, **NO_REDIS, **NO_MAIL) as function:
        assert send(function, **{**kind, "headers": headers}).status_code == 503


def test_a_deep_health_check_answers_as_documented(site: httpx.Client, platform: Platform) -> None:
    headers = {"Authorization": f"Bearer {platform.environment['HEALTH_CHECK_TOKEN']}"}
    address = "/api/health?deep=true"
    for method in ("GET", "HEAD"):
        eventually(lambda: site.get(address, headers=headers).status_code == 200)
        conforms(site.request(method, address, headers=headers), "/api/health")
    nothing = dict.fromkeys(("DATABASE_URL", "UPSTASH_REDIS_REST_URL", "LEADS_ENCRYPTION_KEY"))
    for broken, status in ((NO_DATABASE | NO_REDIS, 503), (nothing, 503), (NO_TOKEN, 403)):
        with platform.function("api/health.py", **broken) as function:
            for method in ("GET", "HEAD"):
                answer = httpx.request(method, function.url + address, headers=headers)
                assert answer.status_code == status
                conforms(answer, "/api/health")


def test_vitals_of_visits_are_read_as_documented(site: httpx.Client) -> None:
    report = {"name": "LCP", "value": 1200.5, "page": "/en?x=1"}
    site.post("/api/rum", json=[{**report, "id": f"page-{number}"} for number in range(6)])
    params = {"by": "day,path,device,metric,release", "histogram": "1"}
    answer = eventually(
        lambda: (
            response if (response := site.get("/api/rum", params=params)).json()["groups"] else None
        )
    )
    assert answer is not None
    conforms(answer, "/api/rum")


def test_a_preflight_of_this_site_answers_as_documented(site: httpx.Client) -> None:
    headers = {"Origin": str(site.base_url).rstrip("/"), "Access-Control-Request-Method": "POST"}
    answer = site.options("/api/leads", headers=headers)
    conforms(answer, "/api/leads")
    documented = resolved(DOCUMENT["paths"]["/api/leads"]["options"]["responses"]["204"])
    assert set(documented["headers"]) <= {name.title() for name in answer.headers} | {
        "X-Request-Id"
    }


def test_an_unconfigured_function_answers_as_documented(platform: Platform) -> None:
    nothing = dict.fromkeys(platform.environment)
    requests = {
        "api/leads.py": ("POST", "/api/leads", {"json": LEAD}),
        "api/rum.py": ("GET", "/api/rum", {}),
        "api/cron/deliver.py": ("GET", "/api/cron/deliver", {}),
        "api/cron/prune.py": ("GET", "/api/cron/prune", {}),
        "api/leads_export.py": ("GET", "/api/leads/export", {}),
        "api/leads_subject.py": ("DELETE", "/api/leads/subject", {}),
    }
    for entrypoint, (method, path, request) in requests.items():
        with platform.function(entrypoint, **nothing) as function:
            answer = httpx.request(method, function.url + path, **request)  # type: ignore[arg-type]
        assert answer.status_code == 503
        conforms(answer, path)
