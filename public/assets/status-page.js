// The status page: read /api/status, show it, read it again. It is a static file, so it stands when
// everything behind it is down; then it says so, and shows what this device saw last.
//
// The rule a newcomer would break: never a blank page, and never an old state shown as a new one.

import { currentIncident, element, key, maintenance, pastIncident, renew, renewChildren, service, sign, signOf } from "./status-parts.js";
import { LOCALE, age, headline, moment, text } from "./status-texts.js";

const COPY = "alfa.status.1"; // the number goes up when the answer's shape changes
const EVERY_MS = 30_000;
const PATIENCE_MS = 10_000; // for one answer
const SLOW_MS = 3000; // until the copy is shown in place of a first answer
const FRESH_MS = 90_000; // a refresh or two may fail before it is worth a word
const OLD_MS = 15 * 60_000; // of the figures
const PAST_MS = 14 * 86_400_000;
const OVER = ["resolved", "postmortem"];

const find = (name) => document.querySelector(`[data-${name}]`);
let seen = kept(); // {at, body}: the last good answer
let failing = false;
let asking = false;
let asked = 0;
let picked = null; // {id, day}: what is being read of the bars
const open = new Set(); // services whose table is

function translate() {
  document.documentElement.lang = LOCALE;
  document.title = text("document");
  for (const place of document.querySelectorAll("[data-t]")) place.textContent = text(place.dataset.t) ?? place.textContent;
  const other = find("language");
  other.textContent = text("other_language");
  other.lang = other.hreflang = LOCALE === "id" ? "en" : "id";
  if (LOCALE === "en") {
    other.href = "/status";
    find("home").href = "/en";
  }
  find("legend").replaceChildren(...key());
}

// ---------------------------------------------------------------- reading

function kept() {
  try {
    const copy = JSON.parse(localStorage.getItem(COPY));
    return Array.isArray(copy?.body?.components) ? copy : null;
  } catch {
    return null; // forbidden, or not ours
  }
}

function keep() {
  try {
    localStorage.setItem(COPY, JSON.stringify(seen));
  } catch {} // it would only have been for later
}

async function load() {
  if (asking) return;
  asking = true;
  asked = Date.now();
  try {
    const answer = await fetch("/api/status", { cache: "no-store", signal: AbortSignal.timeout?.(PATIENCE_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = { at: Date.now(), body: await answer.json() };
    piecesOf(fresh, false); // an answer that cannot be shown is no answer
    seen = fresh;
    failing = false;
    keep();
  } catch {
    failing = true;
  }
  asking = false;
  show();
}

// ---------------------------------------------------------------- showing

function show() {
  if (!seen && !failing) return; // the page's own word: loading
  const stale = failing && !(seen && Date.now() - seen.at < FRESH_MS);
  let made;
  try {
    made = piecesOf(seen, stale);
  } catch {
    seen = null; // a copy that is damaged
    made = piecesOf(null, stale);
  }
  find("services-section").hidden = find("past-section").hidden = !seen;
  document.querySelector("main").classList.toggle("stale", stale);
  for (const [name, children] of Object.entries(made)) renewChildren(find(name), children);
  find("overall").className = `status-overall ${signOf(stale ? "unknown" : seen.body.status.indicator)}`;
}

/** What stands in each place, all of it made before any of it is shown. */
function piecesOf(from, stale) {
  if (!from) return { overall: overallOf(from, stale), announcements: [], current: [], services: [], past: [] };
  const { components, incidents, page, scheduled_maintenances: planned } = from.body;
  const zone = page.time_zone;
  const current = incidents.filter((each) => !OVER.includes(each.status));
  const past = incidents.filter((each) => OVER.includes(each.status) && Date.now() - new Date(each.started_at) < PAST_MS);
  return {
    overall: overallOf(from, stale),
    announcements: planned.map((each) => maintenance(each, components, zone)),
    current: current.length === 0 ? [] : [
      element("h2", {}, text("current")), ...current.map((each) => currentIncident(each, components, zone))],
    services: components.map(serviceNow),
    past: past.length === 0 ? [element("p", { class: "status-note" }, text("quiet"))]
      : past.map((each) => pastIncident(each, components, zone)),
  };
}

const serviceNow = (component) =>
  service(component, picked?.id === component.id ? picked.day : null, open.has(component.id));

function overallOf(from, stale) {
  const lost = text(navigator.onLine === false ? "offline" : "unreadable");
  const sentence = stale ? lost : headline(from.body.status);
  const indicator = stale ? "unknown" : from.body.status.indicator;
  return [
    element("p", { class: "status-sentence", role: "status", "data-sentence": "" }, sign(indicator), element("span", {}, sentence)),
    element("p", { class: "status-when", "data-when": "" }, whenOf(from, stale)),
  ];
}

function whenOf(from, stale) {
  if (!from) return text("no_copy");
  const { data, page } = from.body;
  const said = [text(stale ? "kept" : "updated", { at: moment(from.at, page.time_zone), age: age(Date.now() - from.at) })];
  const at = data.as_of && moment(data.as_of, page.time_zone);
  if (data.source === "none") said.push(text("source_none"));
  else if (data.source === "copy" && at) said.push(text("source_copy", { at }));
  else if (at && from.at - new Date(data.as_of) > OLD_MS) said.push(text("source_old", { at }));
  return said.join(" ");
}

// ---------------------------------------------------------------- reading the bars

function pick(id, day) {
  if (picked?.id === id && picked.day === day) return;
  const before = picked?.id;
  picked = day ? { id, day } : null;
  for (const each of new Set([before, id])) {
    const component = seen.body.components.find((one) => one.id === each);
    const card = component && find("services").querySelector(`[data-key="${each}"]`);
    if (card) renew(card, serviceNow(component));
  }
}

function daysOf(svg) {
  return seen.body.components.find((one) => one.id === svg.dataset.bars).days;
}

function point(event) {
  const svg = event.target.closest("[data-bars]");
  if (!svg) return;
  const { left, width } = svg.getBoundingClientRect();
  const days = daysOf(svg);
  const index = Math.floor(((event.clientX - left) / width) * days.length);
  pick(svg.dataset.bars, days[Math.min(days.length - 1, Math.max(0, index))].day);
}

function leave(event) {
  const svg = event.target.closest("[data-bars]");
  if (svg && !svg.contains(event.relatedTarget) && document.activeElement !== svg) pick(svg.dataset.bars, null);
}

function step(event) {
  const svg = event.target.closest("[data-bars]");
  if (!svg) return;
  if (event.key === "Escape") return pick(svg.dataset.bars, null);
  const days = daysOf(svg);
  const last = days.length - 1;
  const at = picked?.id === svg.dataset.bars ? days.findIndex((one) => one.day === picked.day) : last + 1;
  const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
    PageUp: at + 7, PageDown: at - 7, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  pick(svg.dataset.bars, days[Math.min(last, Math.max(0, to))].day);
}

const services = find("services");
services.addEventListener("pointermove", point);
services.addEventListener("pointerdown", point);
services.addEventListener("pointerout", leave);
services.addEventListener("keydown", step);
services.addEventListener("focusout", (event) => event.target.closest("[data-bars]") && pick(event.target.dataset.bars, null));
services.addEventListener("toggle", ({ target }) => {
  if (target.open) open.add(target.dataset.days);
  else open.delete(target.dataset.days);
  show();
}, true);

const due = () => {
  if (!document.hidden && Date.now() - asked >= EVERY_MS - 500) load();
};
setInterval(due, EVERY_MS);
setInterval(() => document.hidden || show(), 10_000); // ages grow
document.addEventListener("visibilitychange", due);
addEventListener("online", load);
addEventListener("offline", show);
translate();
load();
setTimeout(() => {
  if (!asking || !seen) return;
  failing = true;
  show();
}, SLOW_MS);
