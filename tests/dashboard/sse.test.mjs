// Run with: node --test tests/dashboard/
import assert from "node:assert/strict";
import { test } from "node:test";
import { SseParser } from "../../static/dashboard/sse.js";

function parse(...pieces) {
  const events = [];
  const parser = new SseParser((event) => events.push(event));
  for (const piece of pieces) parser.push(piece);
  return events;
}
const data = (events) => events.map((event) => event.data);

test("an event has a type and data, and is a message where it names none", () => {
  assert.deepEqual(parse("event: status\ndata: {}\n\ndata: x\n\n"), [
    { type: "status", data: "{}", id: "" },
    { type: "message", data: "x", id: "" },
  ]);
});

test("lines end with LF, CR or CRLF, mixed as they like", () => {
  for (const end of ["\n", "\r", "\r\n"]) {
    assert.deepEqual(data(parse(["event: a", "data: 1", "data: 2", "", ""].join(end))), ["1\n2"]);
  }
  assert.deepEqual(data(parse("data: 1\r\ndata: 2\rdata: 3\n\r\n")), ["1\n2\n3"]);
});

test("wherever the text is cut, the events are the same", () => {
  const text = "\ufeffevent: a\r\ndata: one\r\ndata: two\r\n\r\n: a comment\rdata:three\r\rid: 7\ndata\ndata: ü→\n\n";
  const whole = parse(text);
  assert.equal(whole.length, 3);
  assert.deepEqual(whole[2], { type: "message", data: "\nü→", id: "7" });
  for (let first = 0; first <= text.length; first += 1) {
    for (let second = first; second <= text.length; second += 1) {
      assert.deepEqual(parse(text.slice(0, first), text.slice(first, second), text.slice(second)), whole);
    }
  }
  assert.deepEqual(parse(...text), whole);
});

test("a CR at a piece's end ends its line at once", () => {
  assert.deepEqual(data(parse("data: x\r", "\r")), ["x"]);
  assert.deepEqual(data(parse("data: x\r", "\n\r")), ["x"]);
});

test("one space after the colon is taken, no more", () => {
  assert.deepEqual(data(parse("data:  two\n\ndata:none\n\ndata:\n\n")), [" two", "none", ""]);
});

test("comments, unknown fields and events without data give nothing, and the type does not stay", () => {
  assert.deepEqual(parse(": hello\n\nevent: a\n\nretry: 10\nfoo: bar\n\ndata: x\n\n"), [
    { type: "message", data: "x", id: "" },
  ]);
});

test("what is not ended is not an event", () => {
  assert.deepEqual(parse("data: x\n"), []);
  assert.deepEqual(parse("data: x"), []);
});

test("an event without an end is refused rather than gathered for ever", () => {
  const piece = "x".repeat(1024 * 1024);
  assert.throws(() => parse("data: ", ...Array(40).fill(piece)), /too long/);
  assert.throws(() => parse(...Array(40).fill(`data: ${piece}\n`)), /too long/);
});
