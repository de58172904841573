import assert from "node:assert/strict";
import { test } from "node:test";
import * as units from "../../static/dashboard/units.js";

// The space between a number and its unit does not break.
const said = (text) => text.replaceAll("\u00a0", " ");

function table(format, rows) {
  for (const [value, expected] of rows) assert.equal(said(format(value)), expected, `of ${value}`);
}

test("what is not a number is a dash", () => {
  for (const format of ["ratio", "percent", "bitRate", "bits", "bytes", "count", "rate", "money", "duration", "clock"]) {
    for (const value of [null, undefined, NaN, Infinity, "1"]) assert.equal(units[format](value), "–", format);
  }
});

test("bytes a second are shown in bits", () => {
  table(units.bitRate, [[0, "0 bit/s"], [125, "1.00 kbit/s"], [14_750_000, "118 Mbit/s"], [125e6, "1.00 Gbit/s"]]);
});

test("a number that rounds up takes the next unit or one decimal less", () => {
  table(units.bytes, [[999, "999 B"], [1000, "1.00 kB"], [9_996, "10.0 kB"], [99_960, "100 kB"], [999_600, "1.00 MB"], [12_345_678, "12.3 MB"], [1e18, "1000 PB"]]);
});

test("parts", () => {
  table(units.percent, [[0, "0 %"], [0.0001, "<0.1 %"], [0.042, "4.2 %"], [0.0996, "10 %"], [0.42, "42 %"], [1, "100 %"]]);
});

test("loads, rates, money, counts", () => {
  table(units.ratio, [[0.926, "0.93"], [1.5, "1.50"]]);
  table(units.rate, [[0, "0.0/s"], [12.34, "12.3/s"], [99.97, "100/s"], [1234.5, "1,235/s"]]);
  table(units.money, [[0, "0.00"], [0.0042, "0.0042"], [12.4, "12.40"]]);
  table(units.count, [[1234567, "1,234,567"]]);
});

test("durations have two units at most", () => {
  table(units.duration, [[-1, "0 s"], [0.4, "0 s"], [23, "23 s"], [59.7, "1 min"], [250, "4 min 10 s"], [3600, "1 h"], [7500, "2 h 5 min"], [86400 * 3 + 4 * 3600 + 59, "3 d 4 h"]]);
});

test("clock times are local, with the date where it is another", () => {
  const at = new Date(2026, 2, 5, 14, 2, 11).getTime() / 1000;
  assert.equal(units.clock(at), "14:02:11");
  assert.equal(units.clock(at, false), "14:02");
  assert.equal(units.moment(at, at + 60), "14:02:11");
  assert.equal(units.moment(at, at + 86400), "2026-03-05 14:02:11");
});
