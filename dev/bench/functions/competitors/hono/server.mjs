// The same job with Node: Hono, pg and @upstash/redis, the mail before the answer.
import { randomUUID } from "node:crypto";
import { serve } from "@hono/node-server";
import { Redis } from "@upstash/redis";
import { Hono } from "hono";
import pg from "pg";
import { Resend } from "resend";

const env = process.env;
const app = new Hono();
const pool = new pg.Pool({ connectionString: env.DATABASE_URL });
const redis = new Redis({
  url: env.UPSTASH_REDIS_REST_URL,
  token: env.UPSTASH_REDIS_REST_TOKEN,
  automaticDeserialization: false,
  enableTelemetry: false,
});
const resend = new Resend(env.RESEND_API_KEY, { baseUrl: env.RESEND_API_URL });
const METRICS = new Set(["LCP", "CLS", "INP", "FCP", "TTFB"]);
const TYPES = new Set(["SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER"]);

const text = (value, least, most) =>
  typeof value === "string" && value.length >= least && value.length <= most;

function faults(lead) {
  const found = [];
  if (!text(lead.business_name, 2, 255)) found.push("business_name");
  if (!text(lead.contact_name, 2, 255)) found.push("contact_name");
  if (!/^\+?[0-9]{10,15}$/.test(lead.phone_whatsapp)) found.push("phone_whatsapp");
  if (!text(lead.city, 2, 80)) found.push("city");
  if (!TYPES.has(lead.salon_type)) found.push("salon_type");
  if (lead.consent !== true) found.push("consent");
  return found;
}

app.get("/api/health", (c) => c.json({ status: "ok" }));

app.get("/api/products", async (c) => {
  const cached = await redis.get("competitor:products");
  if (cached !== null) return c.body(cached, 200, { "Content-Type": "application/json" });
  const { rows } = await pool.query("select slug, name from products order by name");
  return c.json(rows);
});

app.post("/api/leads", async (c) => {
  const lead = await c.req.json();
  const wrong = faults(lead);
  if (wrong.length > 0) return c.json({ error: wrong }, 400);
  const key = `competitor:limit:${c.req.header("x-forwarded-for")}`;
  if ((await redis.incr(key)) > 5) return c.json({ error: "rate_limited" }, 429);
  await redis.expire(key, 60);
  const id = randomUUID();
  await pool.query("insert into bench.leads (id, business_name, phone) values ($1, $2, $3)", [
    id,
    lead.business_name,
    lead.phone_whatsapp,
  ]);
  await resend.emails.send({
    from: env.MAIL_FROM,
    to: [env.MAIL_SALES_TO],
    subject: `New Lead: ${lead.business_name}`,
    text: JSON.stringify(lead, null, 1),
  });
  return c.json({ success: true, id });
});

app.post("/api/rum", async (c) => {
  for (const vital of await c.req.json()) {
    if (!METRICS.has(vital.name) || !(vital.value >= 0)) continue;
    await redis.hincrby("competitor:rum", `${vital.name}:${Math.trunc(vital.value)}`, 1);
  }
  return c.body(null, 204);
});

serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" }, (info) => {
  process.stdout.write(`${info.port}\n`);
});
