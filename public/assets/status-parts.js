// The pieces of the status page, each made anew from the API's answer; `renew` brings what stands on
// the page to them, so that a refresh moves nothing that did not change.

import { between, count, day, duration, errors, figure, moment, share, text } from "./status-texts.js";

const SVG = "http://www.w3.org/2000/svg";
const FEW = 20; // requests under which nothing is decided
const MET = 0.95, ERRORS = 0.05, OUTAGE = 0.5; // as the SLA, Sev2 and Sev1 have it
const HEIGHT = 36;
export const WINDOWS = ["1h", "24h", "30d"];
export const KINDS = ["met", "missed", "outage", "few", "no_data"];

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

const drawn = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Bring `old` to `fresh`, touching only what differs. Children with a data-key keep their node. */
export function renew(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  renewChildren(old, [...fresh.childNodes]);
}

export function renewChildren(old, fresh) {
  const keyed = new Map([...old.children].map((child) => [child.dataset.key, child]));
  let place = old.firstChild;
  for (const child of fresh) {
    const key = child.dataset?.key;
    const alike = place?.nodeName === child.nodeName && !place?.dataset?.key ? place : null;
    const twin = key ? keyed.get(key) : alike;
    if (!twin) {
      old.insertBefore(child, place);
      continue;
    }
    if (twin === place) place = place.nextSibling;
    else old.insertBefore(twin, place);
    renew(twin, child);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

// ---------------------------------------------------------------- signs: told apart by shape

const SHAPES = {
  good: ["M8 1a7 7 0 1 0 0 14a7 7 0 1 0 0-14z", "M4.5 8.2l2.4 2.4l4.6-5"],
  slow: ["M8 .8L15.2 8L8 15.2L.8 8z", "M8 4.6v4.2M8 11v.4"],
  part: ["M8 1.2L15.4 14.6H.6z", "M8 6v4M8 12.2v.4"],
  down: ["M5 1h6l4 4v6l-4 4H5l-4-4V5z", "M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2"],
  pause: ["M8 1a7 7 0 1 0 0 14a7 7 0 1 0 0-14z", "M6.2 5v6M9.8 5v6"],
  unknown: ["M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13z", "M6.2 6.4a1.9 1.9 0 1 1 2.6 1.8c-.6.3-.8.6-.8 1.2M8 11.6v.4"],
};

const SIGN_OF = {
  operational: "good", degraded_performance: "slow", partial_outage: "part", major_outage: "down", under_maintenance: "pause",
  none: "good", minor: "slow", major: "part", critical: "down", maintenance: "pause",
};

export const signOf = (state) => SIGN_OF[state] ?? "unknown";

export function sign(state) {
  const kind = signOf(state);
  const [ground, mark] = SHAPES[kind];
  return drawn("svg", { class: `sign ${kind}`, viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
    drawn("path", { class: "ground", d: ground }), drawn("path", { class: "mark", d: mark }));
}

const stateOf = (state) =>
  element("span", { class: `state ${signOf(state)}` }, sign(state), text(state) ?? text("unknown"));

// ---------------------------------------------------------------- days

export function kindOf({ n, within_sla: within, error_rate: wrong }) {
  if (!n) return "no_data";
  if (n < FEW) return "few";
  if ((wrong ?? 0) > OUTAGE) return "outage";
  return (within ?? 1) < MET || (wrong ?? 0) > ERRORS ? "missed" : "met";
}

export function readingOf(one) {
  const kind = kindOf(one);
  const facts = [text("read", { day: day(one.day), verdict: text(kind).toLowerCase() })];
  if (one.within_sla !== null && one.n) facts.push(text("read_share", { share: share(one.within_sla) }));
  if (one.error_rate !== null && one.n) facts.push(text("read_errors", { share: errors(one.error_rate) }));
  if (one.n) facts.push(text("read_n", { n: count(one.n) }));
  return facts.join("; ");
}

/** What the bars say, in one sentence: shares are weighed by requests, never averaged over days. */
function summaryOf(days) {
  const known = days.filter((one) => one.n);
  const facts = [text("summary", { known: known.length, days: days.length })];
  const judged = known.filter((one) => one.within_sla !== null);
  const total = judged.reduce((sum, one) => sum + one.n, 0);
  if (total >= FEW) {
    const within = judged.reduce((sum, one) => sum + one.n * one.within_sla, 0) / total;
    facts.push(text("summary_share", { share: share(within) }));
  }
  const kinds = days.map(kindOf);
  for (const kind of ["met", "missed", "outage", "few"]) {
    const n = kinds.filter((each) => each === kind).length;
    if (n) facts.push(text(`days_${kind}`, { n }));
  }
  return facts.join("; ");
}

/** Shapes of a day: whole, cut off, an exclamation mark, hollow, a stroke on the ground. */
function barOf(kind, x, width = 0.72) {
  const rect = (y, height, extra = "") =>
    drawn("rect", { class: `bar ${kind}${extra}`, x: (x + (1 - width) / 2).toFixed(2), y, width, height });
  return {
    met: () => [rect(0, HEIGHT)],
    missed: () => [rect(HEIGHT * 0.45, HEIGHT * 0.55)],
    outage: () => [rect(0, HEIGHT * 0.62), rect(HEIGHT * 0.78, HEIGHT * 0.22)],
    few: () => [rect(0, 4), rect(HEIGHT - 4, 4)],
    no_data: () => [rect(HEIGHT - 3, 3)],
  }[kind]();
}

function bars(component, name, picked) {
  const { days } = component;
  const chosen = days.findIndex((one) => one.day === picked);
  const now = chosen < 0 ? days.length - 1 : chosen;
  return drawn("svg", {
    class: "bars", viewBox: `0 0 ${days.length} ${HEIGHT}`, preserveAspectRatio: "none", tabindex: 0, "data-bars": component.id,
    role: "slider", "aria-label": text("bars", { name, days: days.length }), "aria-describedby": `${component.id}-summary`,
    "aria-valuemin": 1, "aria-valuemax": days.length, "aria-valuenow": now + 1, "aria-valuetext": readingOf(days[now]),
  },
  chosen < 0 ? null : drawn("rect", { class: "chosen", x: chosen, y: 0, width: 1, height: HEIGHT }),
  ...days.flatMap((one, x) => barOf(kindOf(one), x)));
}

export function key() {
  return KINDS.map((kind) => element("li", {},
    drawn("svg", { class: "key-bar", viewBox: `0 0 1 ${HEIGHT}`, preserveAspectRatio: "none", width: 6, height: 18, "aria-hidden": "true" },
      ...barOf(kind, 0, 1)),
    text(`key_${kind}`)));
}

function table(names, rows) {
  return element("table", {},
    element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows.map(([first, ...rest]) => element("tr", {},
      element("th", { scope: "row" }, first), ...rest.map((cell) => element("td", {}, cell))))));
}

function daysTable(component) {
  const part = (value, shown) => (value === null ? "–" : shown(value));
  const names = [text("day"), text("verdict"), ...(component.sla_ms ? [text("summary_share", { share: "%" })] : []), text("errors"), text("n")];
  return table(names, [...component.days].reverse().map((one) => [
    day(one.day), text(kindOf(one)), ...(component.sla_ms ? [part(one.within_sla, share)] : []), part(one.error_rate, errors), count(one.n)]));
}

// ---------------------------------------------------------------- a service

const VERDICTS = { met: ["good", "verdict_met"], breached: ["part", "verdict_breached"] };

function figures({ sla_ms: sla, windows }) {
  const cell = (value, shown) => (value === null || value === undefined ? "–" : shown(value));
  const row = (name, show) => [name, ...WINDOWS.map((each) => show(windows[each] ?? {}))];
  const verdict = ({ verdict: said }) => {
    const [kind, words] = VERDICTS[said] ?? ["unknown", "verdict_insufficient"];
    return element("span", { class: `judged ${kind}` }, text(words));
  };
  const p95 = ({ p95_ms: value, p95_between_ms: range }) => cell(value, () => element("span", {}, figure(value),
    range ? element("small", {}, between(range)) : null));
  return table([text("window"), ...WINDOWS.map((each) => text(each))], [
    row(text("verdict"), verdict),
    ...(sla ? [row(text("within", { sla: figure(sla) }), ({ within_sla: within }) => cell(within, share))] : []),
    ...(sla || WINDOWS.some((each) => windows[each]?.p95_ms != null) ? [row(text("p95"), p95)] : []),
    row(text("errors"), ({ error_rate: wrong }) => cell(wrong, errors)),
    row(text("n"), ({ n }) => cell(n, count)),
  ]);
}

export const nameOf = (component) => text(component.id) ?? component.name;

/** picked: a day of it that is read just now; open: whether its table is. */
export function service(component, picked, open) {
  const { id, days } = component;
  const summary = element("p", { class: "reading", id: `${id}-summary` },
    picked ? readingOf(days.find((one) => one.day === picked)) : summaryOf(days));
  const sla = component.sla_ms ? text("sla", { sla: figure(component.sla_ms) }) : text("no_sla");
  return element("article", { class: "service", "data-key": id, "aria-labelledby": `${id}-name` },
    element("div", { class: "service-head" },
      element("h3", { id: `${id}-name` }, nameOf(component)), stateOf(component.status),
      element("p", { class: "service-about" }, element("code", {}, component.description), ` · ${sla}`)),
    element("div", { class: "service-days" },
      bars(component, nameOf(component), picked),
      element("p", { class: "ends", "aria-hidden": "true" },
        element("span", {}, text("first", { days: days.length })), element("span", {}, text("today"))),
      summary,
      element("details", { "data-days": id }, element("summary", {}, text("table")),
        element("div", { class: "scroll", tabindex: 0, role: "group", "aria-labelledby": `${id}-name` }, ...(open ? [daysTable(component)] : [])))),
    element("div", { class: "service-figures" }, figures(component)));
}

// ---------------------------------------------------------------- incidents and maintenance

const time = (iso, zone) => element("time", { datetime: iso }, moment(iso, zone));

function updates(incident, zone) {
  const newest = [...incident.incident_updates].sort((one, two) => two.created_at.localeCompare(one.created_at));
  return element("ol", { class: "updates" }, ...newest.map((each) => element("li", {},
    element("p", { class: "update-head" }, element("strong", {}, text(each.status) ?? each.status), " ", time(each.created_at, zone)),
    element("p", { lang: "en" }, each.body))));
}

function affected(incident, components) {
  const names = incident.components.map((id) => nameOf(components.find((each) => each.id === id) ?? { id, name: id }));
  return names.length ? element("p", { class: "incident-about" }, text("affects", { names: names.join(", ") })) : null;
}

export function currentIncident(incident, components, zone) {
  const about = [text(`impact_${incident.impact}`), text(incident.status), text("since", { at: moment(incident.started_at, zone) })];
  return element("article", { class: `incident ${signOf(incident.impact)}`, "data-key": incident.id },
    element("h3", { lang: "en" }, sign(incident.impact), element("span", {}, incident.name)),
    element("p", { class: "incident-about" }, about.filter(Boolean).join(" · ")),
    affected(incident, components), updates(incident, zone));
}

export function pastIncident(incident, components, zone) {
  const from = moment(incident.started_at, zone);
  const lasted = incident.resolved_at
    ? text("lasted", { from, duration: duration(new Date(incident.resolved_at) - new Date(incident.started_at)) })
    : `${from}, ${text("still")}`;
  return element("details", { class: "past", "data-key": incident.id },
    element("summary", {}, element("span", { lang: "en" }, incident.name), element("small", {}, `${lasted} · ${text(incident.status)}`)),
    affected(incident, components), updates(incident, zone));
}

/** Whether a form that is sent now is kept, as far as the answer says. */
const taken = (components) => components.find((each) => each.id === "leads")?.status !== "major_outage";

export function maintenance(planned, components, zone) {
  const from = moment(planned.scheduled_for, zone);
  const until = planned.scheduled_until && moment(planned.scheduled_until, zone);
  const ahead = planned.status === "scheduled";
  const title = ahead ? text("planned") : text(until ? "under_way_until" : "under_way", { until });
  const when = text(ahead && until ? "from_until" : "from_on", { from, until });
  return element("section", { class: "announcement", "data-key": planned.id },
    element("h2", {}, sign("maintenance"), element("span", {}, title)),
    element("p", {}, taken(components) ? `${when} ${text(planned.mode) ?? text("intake")}` : when));
}
