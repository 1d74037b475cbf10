"""The same job with FastAPI, the usual way: everything at the top, a connection a request,
the mail before the answer."""

import os
import uuid
from typing import Literal

import psycopg
import resend
from fastapi import FastAPI, HTTPException, Request, Response
from psycopg.rows import dict_row
from pydantic import BaseModel, EmailStr, Field
from upstash_redis import Redis

app = FastAPI()
redis = Redis(os.environ["UPSTASH_REDIS_REST_URL"], os.environ["UPSTASH_REDIS_REST_TOKEN"])
resend.api_key = os.environ["RESEND_API_KEY"]


class Lead(BaseModel):
    business_name: str = Field(min_length=2, max_length=255)
    contact_name: str = Field(min_length=2, max_length=255)
    phone_whatsapp: str = Field(pattern=r"^\+?[0-9]{10,15}$")
    city: str = Field(min_length=2, max_length=80)
    salon_type: Literal["SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER"]
    consent: Literal[True]
    email: EmailStr | None = None
    message: str | None = Field(default=None, max_length=2000)


class Vital(BaseModel):
    id: str = Field(max_length=128)
    name: Literal["LCP", "CLS", "INP", "FCP", "TTFB"]
    value: float = Field(ge=0, le=600_000)


@app.get("/api/health")
def health():
    return {"status": "ok"}


@app.get("/api/products")
def products():
    cached = redis.get("competitor:products")
    if cached is not None:
        return Response(cached, media_type="application/json")
    with psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row) as connection:
        return connection.execute("select slug, name from products order by name").fetchall()


@app.post("/api/leads")
def leads(lead: Lead, request: Request):
    key = f"competitor:limit:{request.headers.get('x-forwarded-for')}"
    if redis.incr(key) > 5:
        raise HTTPException(429)
    redis.expire(key, 60)
    lead_id = str(uuid.uuid4())
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute(
            "insert into bench.leads (id, business_name, phone) values (%s, %s, %s)",
            (lead_id, lead.business_name, lead.phone_whatsapp),
        )
    resend.Emails.send(
        {
            "from": os.environ["MAIL_FROM"],
            "to": [os.environ["MAIL_SALES_TO"]],
            "subject": f"New Lead: {lead.business_name}",
            "text": lead.model_dump_json(indent=1),
        }
    )
    return {"success": True, "id": lead_id}


@app.post("/api/rum", status_code=204)
def rum(vitals: list[Vital]):
    for vital in vitals:
        redis.hincrby("competitor:rum", f"{vital.name}:{int(vital.value)}", 1)
