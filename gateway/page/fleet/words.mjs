// Figures as people read them. The figures themselves are the server's.

export const NOT_KNOWN = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function count(value) {
  if (!isNumber(value)) { return NOT_KNOWN; }
  if (value >= 10e6) { return `${(value / 1e6).toFixed(1)} M`; }
  if (value >= 10e3) { return `${(value / 1e3).toFixed(1)} k`; }
  return value.toFixed(0);
}

export function rate(value) {
  if (!isNumber(value)) { return NOT_KNOWN; }
  return value < 100 ? value.toFixed(1) : count(value);
}

export function bytes(value) {
  if (!isNumber(value)) { return NOT_KNOWN; }
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit + 1 < units.length) {
    left /= 1024;
    unit += 1;
  }
  return `${left.toFixed(left < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

export function share(value, digits = 0) {
  return isNumber(value) ? `${(100 * value).toFixed(digits)} %` : NOT_KNOWN;
}

export function duration(seconds) {
  if (!isNumber(seconds)) { return NOT_KNOWN; }
  if (seconds < 10) { return `${seconds.toFixed(1)} s`; }
  const whole = Math.floor(seconds);
  const padded = (number) => String(number).padStart(2, "0");
  if (whole < 60) { return `${whole} s`; }
  if (whole < 3600) { return `${Math.floor(whole / 60)} m ${padded(whole % 60)} s`; }
  if (whole < 86400) { return `${Math.floor(whole / 3600)} h ${padded(Math.floor(whole / 60) % 60)} m`; }
  return `${Math.floor(whole / 86400)} d ${padded(Math.floor(whole / 3600) % 24)} h`;
}

/** A server's moment by this browser's clock. */
export function time(unixSeconds) {
  return isNumber(unixSeconds) ? new Date(1000 * unixSeconds).toLocaleTimeString() : NOT_KNOWN;
}
