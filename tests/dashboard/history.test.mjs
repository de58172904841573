import assert from "node:assert/strict";
import { test } from "node:test";
import { History } from "../../static/dashboard/history.js";
import { runsOf } from "../../static/dashboard/plot.js";
import { pause } from "../../static/dashboard/stream.js";

const point = (time, more = {}) => ({ time, level: 0, share: 0, throttled: 0, dropped: 0, ...more });
const whole = (time, more = {}) => ({ step: 1, time, level: time.map(() => 1), ...more });

test("no more points are held than the limit", () => {
  const history = new History(10);
  history.replace(whole([...Array(25).keys()], { signals: { cpu: [...Array(25).keys()] } }));
  assert.equal(history.length, 10);
  assert.equal(history.time[0], 15);
  for (let time = 25; time < 60; time += 1) history.push(point(time, { signals: { cpu: time } }));
  assert.equal(history.length, 10);
  assert.deepEqual(history.column("signals.cpu"), [...Array(10).keys()].map((at) => at + 50));
});

test("a column that appears late is unknown before, one that ends is unknown after", () => {
  const history = new History();
  history.push(point(1, { signals: { cpu: 0.5 } }));
  history.push(point(2, { signals: { bandwidth: 0.7 } }));
  assert.deepEqual(history.column("signals.cpu"), [0.5, null]);
  assert.deepEqual(history.column("signals.bandwidth"), [null, 0.7]);
  assert.deepEqual(history.names("signals"), ["cpu", "bandwidth"]);
});

test("columns stay as long as the time, whatever comes", () => {
  const history = new History();
  history.replace({ time: [1, 2, 3], level: [0], share: "no", signals: { cpu: [0.1, "x", NaN, 4, 5] } });
  assert.deepEqual(history.column("level"), [0, null, null]);
  assert.deepEqual(history.column("share"), [null, null, null]);
  assert.deepEqual(history.column("signals.cpu"), [0.1, null, null]);
  history.push({ time: "no" });
  assert.equal(history.length, 3);
  assert.deepEqual(history.column("never"), [null, null, null]);
});

test("an empty history is a good one", () => {
  const history = new History();
  history.replace({ step: 1, time: [], level: [], share: [], throttled: [], dropped: [], signals: {}, requests: {}, pages: {} });
  assert.equal(history.length, 0);
  assert.equal(history.latest("share"), null);
  history.push(point(5, { share: 0.3 }));
  assert.equal(history.latest("share"), 0.3);
});

test("times only rise: a point of the same moment replaces, a clock set back takes what was after", () => {
  const history = new History();
  for (const time of [1, 2, 3, 4]) history.push(point(time));
  history.push(point(4, { share: 0.4 }));
  assert.deepEqual(history.time, [1, 2, 3, 4]);
  assert.equal(history.latest("share"), 0.4);
  history.push(point(2.5));
  assert.deepEqual(history.time, [1, 2, 2.5]);
  assert.equal(history.column("share").length, 3);
});

test("the first point of a time range is found", () => {
  const history = new History();
  history.replace(whole([10, 20, 30]));
  assert.deepEqual([5, 10, 11, 30, 31].map((time) => history.since(time)), [0, 0, 1, 2, 3]);
});

test("bands follow the levels and stop where nothing is known", () => {
  assert.deepEqual(runsOf([1, 2, 3, 60, 61], [0, 0, 2, 2, 2]), [
    { level: 0, from: 1, to: 3 },
    { level: 2, from: 3, to: 3 },
    { level: 2, from: 60, to: 61 },
  ]);
  assert.deepEqual(runsOf([], []), []);
});

test("pauses grow from 1 s to 10 s and never leave these bounds", () => {
  for (const random of [0, 0.5, 1]) {
    for (let tries = 0; tries < 2000; tries += 1) {
      const seconds = pause(tries, random);
      assert.ok(seconds >= 1 && seconds <= 10, `${tries}: ${seconds}`);
    }
  }
  assert.equal(pause(10, 1), 10);
  assert.ok(pause(0, 1) < pause(2, 1));
});
