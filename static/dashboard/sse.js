// A parser of event streams, by the HTML standard's "Interpreting an event stream". EventSource would do it,
// but cannot send `Authorization`.

/** The most that one event may hold, in characters: more than an hour of history, less than harms the page. */
const LONGEST = 32 * 1024 * 1024;

/** Takes text in pieces cut anywhere and calls `on({type, data, id})` for every whole event. */
export class SseParser {
  #on;
  #rest = "";
  // How far `#rest` was already searched for a line's end: long lines come in many pieces.
  #searched = 0;
  #skipLf = false;
  #started = false;
  #type = "";
  #data = [];
  #size = 0;
  #id = "";

  constructor(on) {
    this.#on = on;
  }

  push(text) {
    if (!this.#started && text !== "") {
      this.#started = true;
      if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
    }
    // A CR ends its line at once, so an LF that comes with the next piece belongs to it.
    if (this.#skipLf && text !== "") {
      this.#skipLf = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    const all = this.#rest + text;
    let start = 0;
    const ends = /\r\n|\r|\n/g;
    ends.lastIndex = this.#searched;
    for (let end = ends.exec(all); end; end = ends.exec(all)) {
      this.#line(all.slice(start, end.index));
      start = ends.lastIndex;
      this.#skipLf = end[0] === "\r" && start === all.length;
    }
    this.#rest = all.slice(start);
    this.#searched = this.#rest.length;
    if (this.#rest.length + this.#size > LONGEST) throw new Error("an event is too long");
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    if (line[0] === ":") return;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "event") this.#type = value;
    else if (field === "data") {
      this.#data.push(value);
      this.#size += value.length + 1;
    } else if (field === "id" && !value.includes("\0")) this.#id = value;
  }

  #dispatch() {
    const event = { type: this.#type || "message", data: this.#data.join("\n"), id: this.#id };
    const some = this.#data.length > 0;
    this.#type = "";
    this.#data = [];
    this.#size = 0;
    if (some) this.#on(event);
  }
}
