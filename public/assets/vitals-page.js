// The vitals page: what is chosen, fetched from /api/rum, and drawn. The address keeps the choice.

import { RATINGS, sign, spread, trend } from "./vitals-charts.js";
import { LOCALE, count, day, figure, percent, text } from "./vitals-texts.js";

const METRICS = ["LCP", "INP", "CLS", "FCP", "TTFB"];
const find = (name) => document.querySelector(`[data-${name}]`);
const form = find("choices");
const address = new URLSearchParams(location.search);
let metric = METRICS.includes(address.get("metric")) ? address.get("metric") : "LCP";
let found = null;
let asked = 0;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------- the choice

function translate() {
  document.documentElement.lang = LOCALE;
  document.title = text("document");
  for (const place of document.querySelectorAll("[data-t]")) {
    place.textContent = text(place.dataset.t) ?? place.textContent;
  }
  const other = find("language");
  other.textContent = text("other_language");
  other.lang = other.hreflang = LOCALE === "id" ? "en" : "id";
  if (LOCALE === "en") find("service").href = "/status?lang=en";
}

function choice() {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
}

function restore() {
  for (const name of ["path", "device", "days"]) {
    const value = address.get(name);
    if (value === null) continue;
    if (name === "path") form.elements.path.append(new Option(value, value));
    form.elements[name].value = value;
  }
  form.elements.days.value ||= "28";
}

function remember() {
  const kept = new URLSearchParams({ ...choice(), metric });
  const other = new URLSearchParams(kept);
  if (LOCALE === "en") kept.set("lang", "en");
  else other.set("lang", "en");
  history.replaceState(null, "", `?${kept}`);
  find("language").href = `/vitals?${other}`;
}

// ---------------------------------------------------------------- the figures

async function ask(parameters) {
  const answer = await fetch(`/api/rum?${new URLSearchParams(parameters)}`);
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

async function load() {
  const mine = ++asked;
  remember();
  find("figures").setAttribute("aria-busy", "true");
  const { days, ...filters } = choice();
  try {
    const [whole, daily, pages] = await Promise.all([
      ask({ days, ...filters, histogram: "1", compare: "latest" }),
      ask({ days, ...filters, by: "day" }),
      ask({ days, ...(filters.device && { device: filters.device }), by: "path" }),
    ]);
    if (mine !== asked) return; // another choice was made meanwhile
    found = { whole, daily, pages };
    show();
  } catch {
    if (mine === asked) tell(text("failed"));
  }
}

function tell(words) {
  find("status").textContent = words;
  find("figures").hidden = true;
}

function show() {
  offerPages();
  if (found.whole.groups.length === 0) return tell(text("nothing"));
  find("status").textContent = found.whole.complete ? "" : text("incomplete");
  find("figures").hidden = false;
  find("figures").removeAttribute("aria-busy");
  if (!of(found.whole)) metric = found.whole.groups[0].metric;
  showMetrics();
  draw();
}

const of = (report) => report.groups.find((group) => group.metric === metric);

function draw() {
  remember();
  showTrend();
  showSpread();
  showChange();
  showPages();
}

function offerPages() {
  const select = form.elements.path;
  const chosen = select.value;
  const paths = new Set(found.pages.groups.map((group) => group.path));
  if (chosen !== "") paths.add(chosen);
  select.replaceChildren(select.options[0], ...[...paths].sort().map((path) => new Option(path, path)));
  select.value = chosen;
}

function showMetrics() {
  const place = find("metrics");
  const focused = place.contains(document.activeElement);
  const cards = METRICS.filter((name) => found.whole.groups.some((group) => group.metric === name)).map(card);
  place.replaceChildren(place.firstElementChild, ...cards);
  if (focused) place.querySelector(":checked")?.focus();
}

function card(name) {
  const group = found.whole.groups.find((each) => each.metric === name);
  const radio = element("input", { type: "radio", name: "metric", value: name });
  radio.checked = name === metric;
  radio.addEventListener("change", () => {
    metric = name;
    draw();
  });
  return element("label", { class: "metric" }, radio,
    element("span", { class: "metric-name" }, name, element("small", {}, text(name))),
    element("strong", { class: "metric-value" }, figure(group.p75, found.whole.metrics[name].unit)),
    element("span", { class: `metric-rating ${group.rating}` }, sign(group.rating), text(group.rating)),
    sharesOf(group));
}

function sharesOf(group) {
  const words = RATINGS.map((rating) => `${text(rating)} ${percent(group[rating])}`).join(", ");
  const bar = element("span", { class: "shares", role: "img", "aria-label": words });
  for (const rating of RATINGS) {
    const part = element("span", { class: `share ${rating}` });
    part.style.flexGrow = String(group[rating]); // by script: the policy forbids it in markup alone
    bar.append(part);
  }
  return bar;
}

// ---------------------------------------------------------------- one metric

function showTrend() {
  const scale = found.daily.metrics[metric];
  const groups = found.daily.groups.filter((group) => group.metric === metric);
  find("trend-title").textContent = text("trend", { metric });
  find("explained").textContent = text(metric);
  find("key").replaceChildren(
    ...RATINGS.map((rating) => element("li", {}, sign(rating), text(rating))),
    element("li", {}, element("span", { class: "interval-sign" }), text("band")));
  const { from, to } = found.daily;
  const releases = found.daily.releases
    .filter((release) => release.first_at.slice(0, 10) >= from && release.first_at.slice(0, 10) <= to)
    .slice(-9)
    .map((release, index) => ({ ...release, number: index + 1 }));
  find("readout").textContent = text("hint");
  if (groups.length > 0) {
    trend(find("trend"), { metric, scale, groups, releases, from, to, read: (group) => read(group, scale) });
  } else {
    find("trend").textContent = text("nothing");
  }
  find("releases").replaceChildren(...releases.map((release) =>
    element("li", {}, text("release", { release: release.release, day: day(release.first_at) }))));
  const range = (group) => (group.high === null ? text("few") : `${figure(group.low, scale.unit)} – ${figure(group.high, scale.unit)}`);
  find("trend-table").replaceChildren(table(
    ["day", "p75", "range", "rating", "n"],
    groups.map((group) => [day(group.day), figure(group.p75, scale.unit), range(group), rated(group.rating), count(group.n)])));
}

function read(group, { unit }) {
  find("readout").textContent = text(group.high === null ? "read_few" : "read", {
    day: day(group.day), p75: figure(group.p75, unit), rating: text(group.rating).toLowerCase(),
    low: figure(group.low, unit), high: figure(group.high, unit), n: count(group.n),
  });
}

function showSpread() {
  const scale = found.whole.metrics[metric];
  const group = of(found.whole);
  const shares = Object.fromEntries(RATINGS.map((rating) => [rating, percent(group[rating])]));
  const { slower, end } = spread(find("spread"), { metric, scale, group });
  const tail = slower > 0 ? ` ${text("tail", { n: count(slower), value: figure(end, scale.unit) })}` : "";
  find("spread-explained").textContent = text("spread", shares) + tail;
  find("spread-table").replaceChildren(table(
    ["rating", "value", "share"],
    RATINGS.map((rating, index) => [rated(rating), limits(scale)[index], shares[rating]])));
}

function limits({ unit, good, poor }) {
  return [`≤ ${figure(good, unit)}`, `≤ ${figure(poor, unit)}`, `> ${figure(poor, unit)}`];
}

function showChange() {
  const compared = found.whole.comparison;
  if (!compared || compared.groups.length === 0) {
    find("change-explained").textContent = text("not_compared");
    find("change").replaceChildren();
    return;
  }
  find("change-explained").textContent = text("compared", compared);
  const rows = METRICS.flatMap((name) => compared.groups.filter((group) => group.metric === name)).map((group) => {
    const { unit } = found.whole.metrics[group.metric];
    const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + figure(Math.abs(value), unit);
    const range = group.low === null ? text("few") : `${signed(group.low)} … ${signed(group.high)}`;
    const mark = { worse: "▲", better: "▼" }[group.verdict] ?? "=";
    const verdict = element("span", { class: `verdict ${group.verdict.split(" ")[0]}` }, `${mark}\u00a0${text(group.verdict)}`);
    const change = `${figure(group.p75_before, unit)} → ${figure(group.p75, unit)}`;
    return [group.metric, verdict, change, element("span", {}, signed(group.difference), element("small", {}, range))];
  });
  find("change").replaceChildren(table(["metric", "verdict", "p75", "difference_range"], rows));
}

function showPages() {
  const { unit } = found.pages.metrics[metric];
  const groups = found.pages.groups.filter((group) => group.metric === metric).sort((one, two) => two.n - one.n);
  find("pages").replaceChildren(table(
    ["path", "p75", "rating", "n"],
    groups.map((group) => [broken(group.path), figure(group.p75, unit), rated(group.rating), count(group.n)])));
}

/** A path that may be broken after its slashes, and nowhere else. */
function broken(path) {
  const parts = path.split(/(?<=\/)/).flatMap((part) => [document.createElement("wbr"), part]);
  return element("span", {}, ...parts);
}

const rated = (rating) => element("span", { class: `rated ${rating}` }, sign(rating), text(rating));

function table(heads, rows) {
  const head = element("tr", {}, ...heads.map((key) => element("th", { scope: "col" }, text(key) ?? key)));
  const body = rows.map(([first, ...rest]) =>
    element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((each) => element("td", /^[^a-z]*(\sm?s)?$/.test(each) ? { class: "figure" } : {}, each))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

// ---------------------------------------------------------------- start

let width = innerWidth;
addEventListener("resize", () => {
  if (found && innerWidth !== width) draw(); // phones resize when their bars hide: not their width
  width = innerWidth;
});
form.addEventListener("change", load);
form.addEventListener("submit", (event) => event.preventDefault());
translate();
restore();
load();
