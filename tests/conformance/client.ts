// A caller whose types are made of /openapi.json alone: it reads products, sends a lead with every
// field, and is refused one. `tsc` checks it; each `@ts-expect-error` fails where no error is.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: [string, string, string] };

type Lead = components["schemas"]["Lead"];

const client = createClient<paths>({ baseUrl: process.argv[2] });

const lead: Lead = {
  business_name: "Salon Typescript",
  contact_name: "Rina Wulandari",
  phone_whatsapp: "0812 3456 7891",
  city: "Bandung",
  salon_type: "SALON",
  consent: true,
  email: "rina@example.com",
  chair_count: 4,
  locale: "en",
};

// @ts-expect-error: consent is required
export const withoutConsent: Lead = { ...lead, consent: undefined };
// @ts-expect-error: no such kind of salon
export const unknownKind: Lead = { ...lead, salon_type: "KIOSK" };
// @ts-expect-error: no such field
export const unknownField: Lead = { ...lead, colour: "red" };

const products = await client.GET("/api/products", { params: { query: { limit: 1, total: "1" } } });
if (!products.data || !("items" in products.data)) throw new Error("no page of products");

const stored = await client.POST("/api/leads", {
  body: lead,
  params: { header: { "Idempotency-Key": "typescript-1" } },
});
if (!stored.data) throw new Error(`no lead was stored: ${JSON.stringify(stored.error)}`);

const refused = await client.POST("/api/leads", { body: { ...lead, city: "" } });
const problem = refused.error;
// A browser that navigates gets an error as a page, so it may be text.
if (typeof problem !== "object") throw new Error("a lead without a city was not refused");

console.log(
  JSON.stringify({
    products: products.data.items.map((product) => product.name),
    status: stored.response.status,
    ref: stored.data.ref,
    error: problem.error,
    faults: Object.keys(problem.details ?? {}),
  }),
);
