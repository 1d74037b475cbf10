// Words of the status page in both languages, and moments, ages and figures as people write them.
// Texts of incidents come from the API, in English, and are shown as they are.

export const LOCALE = new URLSearchParams(location.search).get("lang") === "en" ? "en" : "id";

const TEXTS = {
  id: {
    document: "Status layanan · Alfa Beauty",
    other_language: "English",
    none: "Semua layanan berjalan normal.",
    minor: "Sebagian layanan lebih lambat atau kurang andal dari biasanya.",
    major: "Sebagian layanan terganggu. Kami sedang menanganinya.",
    critical: "Layanan kami sedang terganggu. Kami sedang menanganinya.",
    maintenance: "Sedang dalam pemeliharaan.",
    forms_later: "Formulir tetap dapat dikirim: kami menyimpannya dan menjawab sesudahnya.",
    forms_refused: "Formulir sedang tidak dapat kami terima: perangkat Anda menyimpannya dan mengirimnya nanti.",
    unsure: "Kami sedang tidak dapat memastikan keadaannya, dan sebagian layanan terganggu.",
    unreadable: "Status terkini sedang tidak dapat dibaca.",
    offline: "Perangkat Anda sedang luring.",
    updated: "Diperbarui {at}, {age}.",
    kept: "Di bawah ini yang terakhir dilihat perangkat ini: {at}, {age}. Halaman ini mencoba lagi sendiri.",
    no_copy: "Perangkat ini belum menyimpan salinan. Halaman ini mencoba lagi sendiri. Formulir kemitraan tetap boleh dicoba: bila belum terkirim, perangkat Anda menyimpannya dan mengirimnya nanti.",
    source_copy: "Angka-angka dibaca dari salinan ({at}).",
    source_none: "Angka-angkanya belum tersedia.",
    source_old: "Angka-angka terakhir dihitung {at}.",
    now: "baru saja",
    operational: "Normal", degraded_performance: "Melambat", partial_outage: "Terganggu sebagian",
    major_outage: "Terganggu", under_maintenance: "Pemeliharaan", unknown: "Tidak diketahui",
    leads: "Formulir kemitraan", products: "Daftar produk", health: "Pemeriksaan situs", rum: "Pengukuran kecepatan halaman",
    met: "Baik", missed: "Meleset", outage: "Gangguan", few: "Terlalu sedikit", no_data: "Tanpa data",
    key_met: "Baik: 95 % dalam SLA, galat di bawah 5 %", key_missed: "Meleset dari itu",
    key_outage: "Lebih dari separuh galat", key_few: "Di bawah 20 permintaan", key_no_data: "Tanpa data",
    summary: "{known} dari {days} hari diketahui",
    summary_share: "{share} dalam SLA",
    days_met: "{n} hari baik", days_missed: "{n} meleset", days_outage: "{n} dengan gangguan", days_few: "{n} terlalu sedikit permintaan",
    bars: "{name}: {days} hari terakhir. Tombol panah membaca tiap hari.",
    read: "{day}: {verdict}",
    read_share: "{share} dalam SLA", read_errors: "{share} galat", read_n: "{n} permintaan",
    first: "{days} hari lalu", today: "hari ini",
    "1h": "1 jam", "24h": "24 jam", "30d": "30 hari",
    window: "Rentang", within: "Dalam {sla}", p95: "p95", errors: "Galat", n: "Jumlah", verdict: "Putusan", sla: "SLA {sla}", no_sla: "tanpa SLA waktu",
    verdict_met: "Terpenuhi", verdict_breached: "Meleset", verdict_insufficient: "Data belum cukup",
    table: "Tiap hari sebagai tabel", day: "Hari",
    since: "sejak {at}", lasted: "{from}, selama {duration}", still: "belum selesai", affects: "Menyangkut: {names}",
    investigating: "Diselidiki", identified: "Diketahui sebabnya", monitoring: "Dipantau", resolved: "Selesai", postmortem: "Ditinjau",
    impact_minor: "Dampak kecil", impact_major: "Dampak sedang", impact_critical: "Dampak besar",
    current: "Gangguan sekarang",
    quiet: "Tidak ada gangguan.",
    under_way: "Pemeliharaan", under_way_until: "Pemeliharaan, paling lambat sampai {until}", planned: "Pemeliharaan direncanakan",
    from_on: "Sejak {from}.", from_until: "{from} sampai {until}.",
    intake: "Formulir tetap dapat dikirim: kami menyimpannya dan menjawab sesudahnya.",
    read_only: "Formulir tetap dapat dikirim: kami menyimpannya dan menjawab sesudahnya. Daftar produk tetap dapat dibaca; isinya mungkin sedikit lebih lama dari biasanya.",
  },
  en: {
    document: "Service status · Alfa Beauty",
    other_language: "Bahasa Indonesia",
    skip: "Skip to the services", title: "Service status", services: "Services", past: "The last 14 days",
    colophon: "Measured on the server with every request; shares within the SLA are counted exactly, p95 is estimated within the interval shown. Under 20 requests nothing is decided. Times and days are those of western Indonesia.",
    data: "Data",
    none: "All services are working.",
    minor: "Some services are slower or less reliable than usual.",
    major: "Some services are disrupted. We are working on it.",
    critical: "Our services are disrupted. We are working on it.",
    maintenance: "Maintenance is under way.",
    forms_later: "Send the form as usual: we keep it and reply afterwards.",
    forms_refused: "We cannot take forms just now: your device keeps yours and sends it later.",
    unsure: "We cannot tell just now how things are, and some services are disrupted.",
    unreadable: "The current status cannot be read just now.",
    offline: "Your device is offline.",
    updated: "Updated {at}, {age}.",
    kept: "Below is what this device last saw: {at}, {age}. This page tries again by itself.",
    no_copy: "This device has kept no copy yet. This page tries again by itself. Do try the partnership form: if it cannot be sent, your device keeps it and sends it later.",
    source_copy: "The figures are read from a copy ({at}).",
    source_none: "There are no figures yet.",
    source_old: "The figures were last counted {at}.",
    now: "just now",
    operational: "Working", degraded_performance: "Slow", partial_outage: "Partly disrupted",
    major_outage: "Disrupted", under_maintenance: "Maintenance", unknown: "Unknown",
    leads: "Partnership form", products: "Product list", health: "Site check", rum: "Page speed measurements",
    met: "Met", missed: "Missed", outage: "Outage", few: "Too few", no_data: "No data",
    key_met: "Met: 95% within the SLA, errors under 5%", key_missed: "Missed that",
    key_outage: "More than half failed", key_few: "Under 20 requests", key_no_data: "No data",
    summary: "{known} of {days} days known",
    summary_share: "{share} within the SLA",
    days_met: "{n} met", days_missed: "{n} missed", days_outage: "{n} with an outage", days_few: "{n} with too few requests",
    bars: "{name}: the last {days} days. Arrow keys read each day.",
    read: "{day}: {verdict}",
    read_share: "{share} within the SLA", read_errors: "{share} errors", read_n: "{n} requests",
    first: "{days} days ago", today: "today",
    "1h": "1 hour", "24h": "24 hours", "30d": "30 days",
    window: "Window", within: "Within {sla}", p95: "p95", errors: "Errors", n: "Requests", verdict: "Verdict", sla: "SLA {sla}", no_sla: "no SLA on time",
    verdict_met: "Met", verdict_breached: "Breached", verdict_insufficient: "Insufficient data",
    table: "Each day, as a table", day: "Day",
    since: "since {at}", lasted: "{from}, for {duration}", still: "not over", affects: "Affects: {names}",
    investigating: "Investigating", identified: "Identified", monitoring: "Monitoring", resolved: "Resolved", postmortem: "Reviewed",
    impact_minor: "Minor impact", impact_major: "Major impact", impact_critical: "Critical impact",
    current: "Current incidents",
    quiet: "No incidents.",
    under_way: "Maintenance", under_way_until: "Maintenance, until {until} at the latest", planned: "Maintenance planned",
    from_on: "Since {from}.", from_until: "{from} until {until}.",
    intake: "Send the form as usual: we keep it and reply afterwards.",
    read_only: "Send the form as usual: we keep it and reply afterwards. The product list can still be read; it may be a little older than usual.",
  },
};

/** The text of a key, with {names} filled in; undefined when the page's own words stand. */
export function text(key, values = {}) {
  return TEXTS[LOCALE][key]?.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// The API's description says what a visitor gets now (lib/monitoring/status_page.py), in English.
const EFFECTS = [
  ["forms are taken and answered later", "forms_later"],
  ["forms cannot be taken just now", "forms_refused"],
];

/** The headline: the state, and what becomes of a form that is sent now. */
export function headline({ indicator, description }) {
  if (!TEXTS[LOCALE][indicator]) return description;
  if (description.startsWith("We cannot say")) return text("unsure");
  const [, effect] = EFFECTS.find(([end]) => description.endsWith(end)) ?? [];
  // The announcement below says it of a maintenance.
  return effect && indicator !== "maintenance" ? `${text(indicator)} ${text(effect)}` : text(indicator);
}

const TAG = { id: "id-ID", en: "en-GB" }[LOCALE];
const WHOLE = new Intl.NumberFormat(TAG);
const HUNDREDTHS = new Intl.NumberFormat(TAG, { maximumFractionDigits: 2 });
const PERCENT = new Intl.NumberFormat(TAG, { style: "percent", maximumFractionDigits: 2 });
const DAY = new Intl.DateTimeFormat(TAG, { day: "numeric", month: "short", timeZone: "UTC" });
const AGO = new Intl.RelativeTimeFormat(TAG, { numeric: "always" });
const UNITS = [["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];
const ZONES = { "Asia/Jakarta": "WIB" };

export const count = (n) => WHOLE.format(n);
export const day = (iso) => DAY.format(new Date(`${iso}T00:00:00Z`));

/** Never rounded to look better than it is: 99.996 % is not 100 %, nor is 0.001 % of errors none. */
export const share = (part) => PERCENT.format(Math.floor(part * 1e4 + 1e-7) / 1e4);
export const errors = (part) => PERCENT.format(Math.max(0, Math.ceil(part * 1e4 - 1e-7)) / 1e4);

export function figure(ms) {
  return ms >= 1000 ? `${HUNDREDTHS.format(ms / 1000)}\u00a0s` : `${WHOLE.format(ms)}\u00a0ms`;
}

/** An interval in one unit: 160–190 ms. */
export function between([low, high]) {
  return high >= 1000
    ? `${HUNDREDTHS.format(low / 1000)}–${HUNDREDTHS.format(high / 1000)}\u00a0s`
    : `${WHOLE.format(low)}–${WHOLE.format(high)}\u00a0ms`;
}

/** The time, with its day unless that is today's. */
export function moment(iso, timeZone) {
  const at = new Date(iso);
  const on = new Intl.DateTimeFormat(TAG, { day: "numeric", month: "short", timeZone });
  const time = new Intl.DateTimeFormat(TAG, { hour: "2-digit", minute: "2-digit", timeZone }).format(at);
  const date = on.format(at) === on.format(new Date()) ? "" : `${on.format(at)} `;
  return `${date}${time}\u00a0${ZONES[timeZone] ?? timeZone}`;
}

/** How long ago, in one unit. */
export function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 10) return text("now");
  const [unit, size] = UNITS.find(([, least]) => seconds >= least);
  return AGO.format(-Math.floor(seconds / size), unit);
}

/** How long, in one unit or two: 1 hr 20 min. */
export function duration(ms) {
  const minutes = Math.max(1, Math.round(ms / 60_000));
  const parts = [["day", Math.floor(minutes / 1440)], ["hour", Math.floor(minutes / 60) % 24], ["minute", minutes % 60]];
  const shown = (unit, n) => new Intl.NumberFormat(TAG, { style: "unit", unit, unitDisplay: "long" }).format(n);
  return parts.filter(([, n]) => n).slice(0, 2).map(([unit, n]) => shown(unit, n)).join(" ");
}
