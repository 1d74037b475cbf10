// What the client keeps on this device, so that a closed tab or a dead battery costs no lead.
// Everything in here carries `until`, and is gone after it: a borrowed phone must not remember
// its visitors. Where storage is forbidden (private mode, full disk) the page's own memory takes
// its place, and `lasting` tells, for nobody may be promised what a closed tab would break.

const PREFIX = "alfa.";
const memory = new Map();
const disk = (() => {
  try {
    localStorage.setItem(`${PREFIX}probe`, "");
    localStorage.removeItem(`${PREFIX}probe`);
    return localStorage;
  } catch {
    return null;
  }
})();

/** The object kept under `name`, or null when there is none, or none any more. */
export function get(name) {
  if (memory.has(name)) return memory.get(name);
  try {
    const value = JSON.parse(disk.getItem(PREFIX + name));
    if (value && value.until > Date.now()) return value;
    disk.removeItem(PREFIX + name);
  } catch {} // no disk, or not what we wrote
  return null;
}

/** Keep `value`, an object with `until` (epoch milliseconds). */
export function set(name, value) {
  try {
    disk.setItem(PREFIX + name, JSON.stringify(value));
    memory.delete(name);
  } catch {
    remove(name); // or an older copy would come back
    memory.set(name, value);
  }
}

export function remove(name) {
  memory.delete(name);
  try {
    disk.removeItem(PREFIX + name);
  } catch {}
}

/** Every name that begins with `start`. */
export function names(start) {
  let kept = [];
  try {
    kept = Object.keys(disk).filter((name) => name.startsWith(PREFIX));
  } catch {}
  kept = kept.map((name) => name.slice(PREFIX.length)).concat(...memory.keys());
  return kept.filter((name) => name.startsWith(start));
}

/** Whether it would outlive this page. */
export const lasting = (name) => Boolean(disk) && !memory.has(name);

/** Call `changed` when another tab writes. */
export function watch(changed) {
  addEventListener("storage", ({ key }) => (key === null || key.startsWith(PREFIX)) && changed());
}
