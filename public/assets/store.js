// What is kept on this device, so that a closed tab or an empty battery costs no lead. Every value
// is an object with `until` (epoch ms), and gone after it: a borrowed phone must not remember.
// Where storage is forbidden or full, the page's memory takes its place.

const memory = new Map();
let disk;
try {
  disk = localStorage;
} catch {} // even naming it may be forbidden; each use below then fails, and is caught

export function get(name) {
  if (memory.has(name)) return memory.get(name);
  try {
    const value = JSON.parse(disk.getItem(name));
    if (value?.until > Date.now()) return value;
    disk.removeItem(name);
  } catch {}
  return null;
}

export function set(name, value) {
  try {
    disk.setItem(name, JSON.stringify(value)); // in one stroke: other tabs are watching
    memory.delete(name);
  } catch {
    remove(name); // or an older copy would come back
    memory.set(name, value);
  }
}

export function remove(name) {
  memory.delete(name);
  try {
    disk.removeItem(name);
  } catch {}
}

export function names(start) {
  const kept = [...memory.keys()];
  try {
    kept.push(...Object.keys(disk));
  } catch {}
  return kept.filter((name) => name.startsWith(start));
}

/** Whether it would be lost with this page. */
export const isFleeting = (name) => memory.has(name);
