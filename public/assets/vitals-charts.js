// The vitals page's charts, as SVG. Good, needs improvement and poor are told apart by place, by
// word and by hatching, so that colour alone never carries a meaning.

import { day, figure, percent, text, tick } from "./vitals-texts.js";

const SVG = "http://www.w3.org/2000/svg";
export const RATINGS = ["good", "needs_improvement", "poor"];
const HEIGHT = 300;
const EDGE = { top: 30, right: 12, bottom: 34, left: 52 };
const DAY_MS = 86400e3;
const WIB_MS = 7 * 3600e3; // days are Indonesia's, moments are UTC's

/** An element: mark("path", {d: "…"}, child, "text"). */
export function mark(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Hatchings of the ratings: none, one way, both ways. `id` keeps charts of a page apart. */
function hatchings(id) {
  const lines = { needs_improvement: "M0 8 L8 0", poor: "M0 8 L8 0 M0 0 L8 8" };
  return mark("defs", {}, ...RATINGS.map((rating) =>
    mark("pattern", { id: `${id}-${rating}`, class: rating, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      mark("rect", { width: 8, height: 8, class: "ground" }),
      mark("path", { d: lines[rating] ?? "", class: "hatch" }))));
}

function canvas(place, id, title) {
  const width = Math.max(280, Math.round(place.clientWidth));
  const drawn = mark("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": title });
  drawn.append(hatchings(id));
  place.replaceChildren(drawn);
  return { drawn, width, left: EDGE.left, right: width - EDGE.right, top: EDGE.top, bottom: HEIGHT - EDGE.bottom };
}

/** Round numbers from 0 up to `most`, about five of them. */
function ticks(most) {
  const rough = most / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
}

function label(x, y, words, attributes = {}) {
  return mark("text", { x, y, ...attributes }, words);
}

/** p75 by day: bands, interval, line, releases. read(group) is told which day is pointed at. */
export function trend(place, { metric, scale, groups, releases, from, to, read }) {
  const last = groups.at(-1);
  const values = groups.map((group) => group.p75);
  const title = text("summary", {
    metric, from: day(from), to: day(to),
    least: figure(Math.min(...values), scale.unit), most: figure(Math.max(...values), scale.unit),
    last: figure(last.p75, scale.unit), rating: text(last.rating).toLowerCase(),
  });
  const chart = canvas(place, "trend", title);
  const { drawn, left, right, top, bottom } = chart;
  const highest = Math.max(scale.good * 1.35, ...groups.map((group) => (group.high ?? group.p75) * 1.08));
  const start = Date.parse(from);
  const days = Math.round((Date.parse(to) - start) / DAY_MS) + 1;
  const x = (moment) => left + ((moment - start) / DAY_MS / days) * (right - left);
  const noon = (iso) => x(Date.parse(iso) + DAY_MS / 2);
  const y = (value) => bottom - (Math.min(value, highest) / highest) * (bottom - top);
  const covered = groups.map((group) => [noon(group.day), y(group.high ?? group.p75) - 6, y(group.low ?? group.p75) + 6]);
  drawBands(drawn, chart, scale, highest, y, covered);
  for (const value of apart([0, scale.good, scale.poor, ...ticks(highest)], y, highest)) {
    drawn.append(label(left - 8, y(value) + 4, tick(value, scale.unit), { class: "tick end" }));
  }
  for (const moment of spaced(from, days, (right - left) / 64)) {
    drawn.append(label(noon(moment), bottom + 20, day(moment), { class: "tick middle" }));
  }
  drawReleases(drawn, releases, x, top, bottom);
  const sure = groups.filter((group) => group.high !== null);
  for (const run of runs(sure)) {
    const there = run.map((group) => `${noon(group.day)},${y(group.high)}`);
    const back = run.map((group) => `${noon(group.day)},${y(group.low)}`).reverse();
    drawn.append(mark("polygon", { class: "interval", points: [...there, ...back].join(" ") }));
  }
  for (const run of runs(groups)) {
    drawn.append(mark("polyline", { class: "line", points: run.map((group) => `${noon(group.day)},${y(group.p75)}`).join(" ") }));
  }
  for (const group of groups) drawn.append(dot(noon(group.day), y(group.p75), group.rating, days > 40 ? 2.5 : 4));
  point(drawn, groups, (group) => [noon(group.day), y(group.p75)], top, bottom, read);
}

function drawBands(drawn, { left, right, bottom }, scale, highest, y, covered) {
  const limits = [0, scale.good, scale.poor, Infinity];
  RATINGS.forEach((rating, index) => {
    if (limits[index] >= highest) return;
    const high = y(Math.min(limits[index + 1], highest));
    const low = y(limits[index]);
    drawn.append(mark("rect", { x: left, y: high, width: right - left, height: low - high, class: "band", fill: `url(#trend-${rating})` }));
    if (limits[index + 1] < highest) {
      drawn.append(mark("line", { x1: left, x2: right, y1: high, y2: high, class: "limit" }));
    }
    const free = nook(text(rating).length * 7 + 12, { left, right, high, low }, covered);
    if (free) drawn.append(label(free.x, free.y, text(rating), { class: `name ${free.side} ${rating}` }));
  });
  drawn.append(mark("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }));
}

/** A corner of a band where a name of that width covers no day's figures; none: the key has it. */
function nook(width, { left, right, high, low }, covered) {
  if (low - high < 18) return null;
  const corners = [[left, high + 14], [right, high + 14], [left, low - 6], [right, low - 6]];
  const clear = corners.find(([edge, y]) => !covered.some(([x, above, below]) =>
    Math.abs(x - edge) < width && above < y + 4 && below > y - 12));
  return clear && { x: clear[0] === left ? left + 6 : right - 6, y: clear[1], side: clear[0] === left ? "start" : "end" };
}

/** Of these values those with room for a label, the first ones first. */
function apart(values, y, highest) {
  const kept = [];
  for (const value of values.filter((each) => each <= highest)) {
    if (kept.every((each) => Math.abs(y(each) - y(value)) >= 22)) kept.push(value);
  }
  return kept;
}

function drawReleases(drawn, releases, x, top, bottom) {
  releases.forEach((release) => {
    const at = x(Date.parse(release.first_at) + WIB_MS);
    drawn.append(
      mark("line", { x1: at, x2: at, y1: top - 6, y2: bottom, class: "release" }),
      mark("circle", { cx: at, cy: top - 14, r: 9, class: "flag" }, mark("title", {}, release.release)),
      label(at, top - 10, String(release.number), { class: "flag-number middle" }));
  });
}

/** Days next to each other: a line over days without figures would be invented. */
function runs(groups) {
  const found = [];
  for (const group of groups) {
    const before = found.at(-1)?.at(-1);
    const next = before && Date.parse(group.day) - Date.parse(before.day) <= DAY_MS;
    if (next) found.at(-1).push(group);
    else found.push([group]);
  }
  return found;
}

function spaced(from, days, most) {
  const step = Math.max(1, Math.ceil(days / Math.max(2, Math.floor(most))));
  return Array.from({ length: Math.ceil(days / step) }, (_, index) =>
    new Date(Date.parse(from) + index * step * DAY_MS).toISOString().slice(0, 10));
}

/** A shape a rating: circle, triangle, square. */
function dot(x, y, rating, size) {
  if (rating === "good") return mark("circle", { cx: x, cy: y, r: size, class: `dot ${rating}` });
  const shapes = {
    needs_improvement: `M${x} ${y - size * 1.4} L${x + size * 1.3} ${y + size} L${x - size * 1.3} ${y + size} Z`,
    poor: `M${x - size} ${y - size} H${x + size} V${y + size} H${x - size} Z`,
  };
  return mark("path", { d: shapes[rating], class: `dot ${rating}` });
}

/** The sign that stands for a rating in texts and tables. */
export function sign(rating) {
  return mark("svg", { viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true", class: "sign" }, dot(7, 7, rating, 4.5));
}

/** A cursor that follows the pointer and the arrow keys. */
function point(drawn, groups, where, top, bottom, read) {
  const cursor = mark("line", { y1: top, y2: bottom, class: "cursor" });
  const ring = mark("circle", { r: 8, class: "ring" });
  let chosen = groups.length - 1;
  const choose = (index) => {
    chosen = Math.max(0, Math.min(groups.length - 1, index));
    const [x, y] = where(groups[chosen]);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    drawn.append(cursor, ring);
    read(groups[chosen]);
  };
  drawn.setAttribute("tabindex", "0");
  drawn.addEventListener("pointermove", follow);
  drawn.addEventListener("pointerdown", follow);
  drawn.addEventListener("focus", () => choose(chosen));
  drawn.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: chosen - 1, ArrowRight: chosen + 1, Home: 0, End: groups.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(moves[event.key]);
  });
  function follow(event) {
    const at = event.clientX - drawn.getBoundingClientRect().left;
    const away = groups.map((group) => Math.abs(where(group)[0] - at));
    choose(away.indexOf(Math.min(...away)));
  }
}

/** The distribution: bars of equal width in ratio, as far as 99 of 100 visits. */
export function spread(place, { metric, scale, group }) {
  const shares = Object.fromEntries(RATINGS.map((rating) => [rating, percent(group[rating])]));
  const title = text("spread_summary", { metric, ...shares, p75: figure(group.p75, scale.unit) });
  const chart = canvas(place, "spread", title);
  const { drawn, left, right, top, bottom, width } = chart;
  const bars = binned(group.histogram, scale, width < 480 ? 18 : 30, reach(group));
  const highest = Math.max(...bars.map((bar) => bar.n)) / group.n;
  const end = bars.at(-1).to;
  const x = (value) => left + (Math.min(value, end) / end) * (right - left);
  const y = (share) => bottom - (share / highest) * (bottom - top - 10);
  for (const value of ticks(highest).slice(1)) {
    drawn.append(
      mark("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
      label(left - 8, y(value) + 4, percent(value), { class: "tick end" }));
  }
  for (const bar of bars.filter((each) => each.n > 0)) {
    const high = y(bar.n / group.n);
    const note = `${figure(bar.from, scale.unit)} – ${figure(bar.to, scale.unit)}: ${percent(bar.n / group.n)}`;
    drawn.append(mark("rect", {
      x: x(bar.from) + 0.75, y: high, width: Math.max(1, x(bar.to) - x(bar.from) - 1.5), height: bottom - high,
      class: `bar ${bar.rating}`, fill: `url(#spread-${bar.rating})`,
    }, mark("title", {}, note)));
  }
  drawn.append(mark("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }));
  const limits = [scale.good, scale.poor].filter((each) => each < end);
  const room = [0, ...limits, ...ticks(end)].filter((each) => x(each) < right - 14);
  for (const value of room.filter((each, index) => room.slice(0, index).every((other) => Math.abs(x(other) - x(each)) > 44))) {
    drawn.append(label(x(value), bottom + 20, tick(value, scale.unit), { class: "tick middle" }));
  }
  for (const limit of limits) {
    drawn.append(mark("line", { x1: x(limit), x2: x(limit), y1: top, y2: bottom, class: "limit" }));
  }
  drawP75(drawn, x(group.p75), figure(group.p75, scale.unit), chart);
  return { slower: Math.round(group.n - bars.reduce((sum, bar) => sum + bar.n, 0)), end };
}

function drawP75(drawn, at, words, { left, right, top, bottom }) {
  const side = at > (left + right) / 2 ? "end" : "start";
  drawn.append(
    mark("line", { x1: at, x2: at, y1: top - 6, y2: bottom, class: "p75" }),
    label(at + (side === "end" ? -6 : 6), top + 2, `p75 ${words}`, { class: `p75-name ${side}` }));
}

/** Up to where to draw: 99 of 100 visits, and past the first limit. */
function reach({ histogram, n }) {
  let seen = 0;
  return histogram.find((bucket) => (seen += bucket.n) >= n * 0.99).to;
}

/** Buckets as bars of equal width, none of which crosses a limit. */
function binned(histogram, scale, most, end) {
  const least = Math.max(end, scale.good * 1.2);
  const width = scale.good / Math.max(1, Math.round((scale.good / least) * most));
  const bars = [];
  for (let from = 0; from < least; ) {
    const limit = [scale.good, scale.poor].find((each) => each > from + width * 0.01) ?? Infinity;
    const to = Math.min(from + width, limit - from - width < width * 0.3 ? limit : from + width, limit);
    const rating = from >= scale.poor * 0.9999 ? "poor" : from >= scale.good * 0.9999 ? "needs_improvement" : "good";
    bars.push({ from, to, rating, n: 0 });
    from = to;
  }
  // A bucket may be wider than a bar, or lie across two: its visits are spread over them evenly.
  for (const { from, to, n } of histogram) {
    for (const bar of bars) {
      const shared = Math.min(to, bar.to) - Math.max(from, bar.from);
      if (shared > 0) bar.n += (n * shared) / (to - from);
    }
  }
  return bars;
}
