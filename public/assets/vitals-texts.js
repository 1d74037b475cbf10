// Words of the vitals page in both languages, and figures as people write them.

export const LOCALE = new URLSearchParams(location.search).get("lang") === "en" ? "en" : "id";

const TEXTS = {
  id: {
    document: "Kecepatan halaman · Alfa Beauty",
    other_language: "English",
    failed: "Angkanya tidak dapat dimuat. Coba lagi sebentar lagi.",
    nothing: "Belum ada cukup kunjungan untuk pilihan ini (sedikitnya 5).",
    incomplete: "Beberapa menit terakhir belum termasuk.",
    visits: "kunjungan",
    good: "Baik", needs_improvement: "Perlu perbaikan", poor: "Buruk",
    few: "terlalu sedikit",
    trend: "{metric}: persentil ke-75 per hari",
    spread: "Tiap batang satu rentang nilai. {good} baik, {needs_improvement} perlu perbaikan, {poor} buruk.",
    tail: "{n} kunjungan lebih lambat dari {value} tidak digambar.",
    band: "Rentang 95 %",
    read: "{day}: p75 {p75}, {rating}; rentang 95 % {low} – {high}; {n} kunjungan",
    read_few: "{day}: p75 {p75}, {rating}; {n} kunjungan",
    hint: "Ketuk grafik, atau pakai tombol panah kiri dan kanan.",
    release: "rilis {release}, {day}",
    summary: "{metric}, p75 per hari dari {from} sampai {to}. Terendah {least}, tertinggi {most}, terakhir {last} ({rating}).",
    spread_summary: "Sebaran {metric}: {good} baik, {needs_improvement} perlu perbaikan, {poor} buruk; p75 {p75}.",
    day: "Hari", value: "Nilai", rating: "Penilaian", n: "Kunjungan", range: "Rentang 95 %", share: "Bagian",
    difference_range: "Selisih, rentang 99 %", path: "Halaman", metric: "Ukuran", verdict: "Putusan",
    worse: "Memburuk", better: "Membaik", "no clear difference": "Tidak jelas berbeda",
    compared: "{release} dibandingkan dengan {before}. Disebut memburuk atau membaik hanya bila rentang 99 % selisihnya tidak memuat nol.",
    not_compared: "Belum ada dua rilis dengan cukup kunjungan.",
    LCP: "Isi terbesar tampil", INP: "Tanggapan atas sentuhan", CLS: "Pergeseran tata letak",
    FCP: "Isi pertama tampil", TTFB: "Bita pertama dari server",
  },
  en: {
    document: "Page speed · Alfa Beauty",
    other_language: "Bahasa Indonesia",
    skip: "Skip to the charts", title: "Page speed",
    lede: "As real visitors have it, measured on their devices. No personal data.",
    page: "Page", all_pages: "All pages", device: "Device", all_devices: "All devices",
    mobile: "Phone", tablet: "Tablet", desktop: "Computer", period: "Period",
    days_7: "7 days", days_28: "28 days", days_90: "90 days", loading: "Loading …",
    metrics: "Metric", table: "As a table", distribution: "How visits are spread",
    change: "The last release and the one before", by_page: "By page",
    colophon: "75th percentile, merged and never averaged; groups under 5 visits are hidden. Days are those of western Indonesia.",
    data: "Data", service_status: "Service status",
    failed: "The figures could not be loaded. Try again shortly.",
    nothing: "Not enough visits yet for this choice (at least 5).",
    incomplete: "The last minutes are not in it yet.",
    visits: "visits",
    good: "Good", needs_improvement: "Needs improvement", poor: "Poor",
    few: "too few",
    trend: "{metric}: 75th percentile by day",
    spread: "Each bar is a range of values. {good} good, {needs_improvement} need improvement, {poor} poor.",
    tail: "{n} visits slower than {value} are not drawn.",
    band: "95 % interval",
    read: "{day}: p75 {p75}, {rating}; 95 % interval {low} – {high}; {n} visits",
    read_few: "{day}: p75 {p75}, {rating}; {n} visits",
    hint: "Tap the chart, or use the left and right arrow keys.",
    release: "release {release}, {day}",
    summary: "{metric}, p75 by day from {from} to {to}. Lowest {least}, highest {most}, last {last} ({rating}).",
    spread_summary: "Spread of {metric}: {good} good, {needs_improvement} need improvement, {poor} poor; p75 {p75}.",
    day: "Day", value: "Value", rating: "Rating", n: "Visits", range: "95 % interval", share: "Share",
    difference_range: "Difference, 99 % interval", path: "Page", metric: "Metric", verdict: "Verdict",
    worse: "Worse", better: "Better", "no clear difference": "No clear difference",
    compared: "{release} against {before}. Called worse or better only when the 99 % interval of the difference leaves out zero.",
    not_compared: "There are not two releases with enough visits yet.",
    LCP: "Largest content shown", INP: "Response to a touch", CLS: "Layout shift",
    FCP: "First content shown", TTFB: "First byte from the server",
  },
};

/** The text of a key, with {names} filled in; undefined when the page's own words stand. */
export function text(key, values = {}) {
  return TEXTS[LOCALE][key]?.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const number = (digits) => new Intl.NumberFormat(LOCALE, { maximumFractionDigits: digits });
const [WHOLE, TENTHS, HUNDREDTHS, THOUSANDTHS] = [0, 1, 2, 3].map(number);
const PERCENT = new Intl.NumberFormat(LOCALE, { style: "percent", maximumFractionDigits: 0 });
const DAY = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "short", timeZone: "UTC" });

export const count = (n) => WHOLE.format(n);
export const percent = (share) => PERCENT.format(share);
export const day = (iso) => DAY.format(new Date(`${iso.slice(0, 10)}T00:00:00Z`));

/** A value with its unit: 1,84 s, 96 ms, 0,021. */
export function figure(value, unit) {
  if (value === null) return text("few");
  if (unit !== "ms") return THOUSANDTHS.format(value);
  // No break between a number and its unit.
  return Math.abs(value) >= 1000 ? `${HUNDREDTHS.format(value / 1000)}\u00a0s` : `${WHOLE.format(value)}\u00a0ms`;
}

/** The same for an axis: as short as can be. */
export function tick(value, unit) {
  if (unit !== "ms") return HUNDREDTHS.format(value);
  return value >= 1000 ? `${TENTHS.format(value / 1000)} s` : `${WHOLE.format(value)} ms`;
}
