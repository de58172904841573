// Numbers as people read them. What is not a number is a dash.

export const NONE = "–";
const SPACE = "\u00a0";
const count_ = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Three significant digits, without an exponent: 1.23, 12.3, 123. */
function three(value) {
  const size = Math.abs(value);
  // From where rounding would give a digit more, one decimal less is shown: 9.999 is "10.0", not "10.00".
  const decimals = size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return value.toFixed(decimals);
}

function scaled(value, units) {
  let at = 0;
  while (Math.abs(value) >= 999.5 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  const number = at === 0 ? String(Math.round(value)) : three(value);
  return `${number}${SPACE}${units[at]}`;
}

/** A load: "0.93". */
export const ratio = (value) => (known(value) ? value.toFixed(2) : NONE);

/** A part from 0 to 1: "42 %", below a tenth "4.2 %". */
export function percent(value) {
  if (!known(value)) return NONE;
  const hundred = value * 100;
  if (hundred > 0 && hundred < 0.05) return `<0.1${SPACE}%`;
  const whole = hundred === 0 || hundred >= 9.95;
  return `${hundred.toFixed(whole ? 0 : 1)}${SPACE}%`;
}

/** Bytes a second as bits a second: "118 Mbit/s". */
export const bitRate = (bytes) => (known(bytes) ? bits(bytes * 8) : NONE);

/** Bits a second. */
export const bits = (value) =>
  known(value) ? scaled(value, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]) : NONE;

/** Bytes, in powers of 1000, as prices count them: "12.3 MB". */
export const bytes = (value) =>
  known(value) ? scaled(value, ["B", "kB", "MB", "GB", "TB", "PB"]) : NONE;

/** A number of things: "12,345". */
export const count = (value) => (known(value) ? count_.format(value) : NONE);

/** So many a second: "12.3/s". */
export function rate(value) {
  if (!known(value)) return NONE;
  return `${Math.abs(value) < 99.95 ? value.toFixed(1) : count_.format(value)}/s`;
}

/** An amount of money, whose currency the operator knows: "12.40", small ones "0.0042". */
export function money(value) {
  if (!known(value)) return NONE;
  return value.toFixed(value !== 0 && Math.abs(value) < 0.1 ? 4 : 2);
}

/** Seconds: "23 s", "4 min 10 s", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const whole = Math.max(0, Math.round(seconds));
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first < 0) return `0${SPACE}s`;
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount}${SPACE}${unit}`)
    .join(" ");
}

/** Local clock time of unix seconds: "14:02:11"; without seconds "14:02". */
export function clock(time, seconds = true) {
  if (!known(time)) return NONE;
  const date = new Date(time * 1000);
  const parts = [date.getHours(), date.getMinutes(), date.getSeconds()];
  return parts
    .slice(0, seconds ? 3 : 2)
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
}

/** The clock time, with the date where it is not today's. */
export function moment(time, now = Date.now() / 1000) {
  if (!known(time)) return NONE;
  const date = new Date(time * 1000);
  if (date.toDateString() === new Date(now * 1000).toDateString()) return clock(time);
  const day = [date.getFullYear(), date.getMonth() + 1, date.getDate()];
  return `${day.map((part) => String(part).padStart(2, "0")).join("-")} ${clock(time)}`;
}
