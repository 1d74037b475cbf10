// Reports how this page was for its visitor, once it is left: LCP, CLS, INP, FCP and TTFB, measured
// by web-vitals. Nothing that names anybody goes along, not even the address's query.

import { onCLS, onFCP, onINP, onLCP, onTTFB } from "./vendor/web-vitals-6.2.3.js";

const ADDRESS = "/api/rum";
const LONGEST_VISIT_MS = 6 * 3600e3; // as long as the server remembers an id, to count it once

const waiting = new Map(); // the last report of each metric's id

function keep({ name, value, id, delta, rating, navigationType }) {
  if (performance.now() > LONGEST_VISIT_MS) return;
  const report = { name, value, id, delta, rating, navigationType };
  waiting.set(`${name} ${id}`, { ...report, page: location.pathname, timestamp: Date.now() });
}

function send() {
  if (waiting.size === 0) return;
  const body = JSON.stringify([...waiting.values()]);
  waiting.clear();
  if (!navigator.sendBeacon?.(ADDRESS, body)) {
    fetch(ADDRESS, { method: "POST", body, keepalive: true }).catch(() => {});
  }
}

// Vercel's own dashboards. Its scripts exist on its servers alone, which are always https.
function feedVercel() {
  const parts = [["va", "vaq", "insights"], ["si", "siq", "speed-insights"]];
  for (const [call, queue, folder] of parts) {
    window[call] ??= (...given) => (window[queue] ??= []).push(given);
    // A query can hold a lead's reference code.
    window[call]("beforeSend", (event) => ({ ...event, url: event.url.split(/[?#]/)[0] }));
    const script = document.createElement("script");
    script.src = `/_vercel/${folder}/script.js`;
    script.defer = true;
    document.head.append(script);
  }
}

if (!navigator.webdriver) {
  for (const listen of [onCLS, onFCP, onINP, onLCP, onTTFB]) listen(keep);
  // On the window: web-vitals hears it first, on the document, and makes its last reports. It is
  // the last event that phones are sure to fire, when a page is left, closed or put aside.
  addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") send();
  });
  if (location.protocol === "https:") feedVercel();
}
