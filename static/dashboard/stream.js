// The live stream: connects, notices when it has died, and connects again by itself.

import { ApiError, request } from "./api.js";
import { SseParser } from "./sse.js";

/** Each second something comes; after so long without an event the stream is dead, whatever the socket says. */
const STALL = 10_000;
const FIRST_PAUSE = 1;
const LONGEST_PAUSE = 10;

/** The pause before try number `tries` (from 0), in seconds: doubled each time, jittered, from 1 to 10. */
export function pause(tries, random = Math.random()) {
  const full = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** tries);
  // A thousand open pages must not come back in the same second.
  return Math.max(FIRST_PAUSE, full * (0.6 + 0.4 * random));
}

/**
 * Calls `onEvent(type, data)` for every event and `onState(state)` when the connection changes:
 * `{kind: "connecting" | "live" | "waiting" | "locked", why, until, since}`, times in ms since the epoch.
 * "locked": the operator gave no token, so nothing is tried until he asks for it.
 */
export class Stream {
  #onEvent;
  #onState;
  #tries = 0;
  #heard = null;
  #abort = null;
  #timer = null;
  #kind = "idle";
  /** Why the last connection ended; nothing while all is well. */
  #why = null;

  constructor(onEvent, onState) {
    this.#onEvent = onEvent;
    this.#onState = onState;
  }

  start() {
    window.addEventListener("online", () => this.#hurry());
    document.addEventListener("tokengiven", () => this.#kind === "locked" && this.connect());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") return;
      // After a sleep the socket may be dead without having said so.
      if (this.#kind === "live" && Date.now() - this.#heard > STALL) this.#abort?.abort();
      this.#hurry();
    });
    this.connect();
  }

  #hurry() {
    if (this.#kind === "waiting") this.connect();
  }

  /** Tries now, whatever pause is left. */
  connect() {
    if (this.#kind === "connecting" || this.#kind === "live") return;
    clearTimeout(this.#timer);
    this.#set("connecting");
    this.#run().then(
      () => this.#wait("the server ended the stream"),
      (error) => this.#failed(error),
    );
  }

  #failed(error) {
    if (error instanceof ApiError && error.status === 401) return this.#set("locked", { why: error.message });
    if (error instanceof ApiError && error.status === 503) {
      return this.#wait("too many watch already", error.retryAfter);
    }
    this.#wait(error.message, error.retryAfter);
  }

  #wait(why, atLeast = null) {
    const seconds = Math.max(pause(this.#tries), Math.min(atLeast ?? 0, 300));
    this.#tries += 1;
    this.#timer = setTimeout(() => this.connect(), seconds * 1000);
    this.#set("waiting", { why, until: Date.now() + seconds * 1000 });
  }

  #set(kind, more = {}) {
    this.#kind = kind;
    this.#why = kind === "live" ? null : more.why ?? this.#why;
    this.#onState({ kind, since: this.#heard, ...more, why: this.#why });
  }

  async #run() {
    const abort = new AbortController();
    this.#abort = abort;
    let since = Date.now();
    // Until the head has come the operator may be typing the token, which may take him long.
    let watch = null;
    try {
      const response = await request("api/events", { headers: { Accept: "text/event-stream" }, signal: abort.signal });
      const type = response.headers.get("Content-Type") ?? "";
      if (!type.startsWith("text/event-stream")) throw new ApiError(0, "the answer is not understood");
      since = Date.now();
      watch = setInterval(() => {
        if (Date.now() - since > STALL) abort.abort();
      }, 1000);
      const parser = new SseParser(({ type, data }) => {
        since = Date.now();
        this.#heard = since;
        this.#onEvent(type, parsed(data));
        if (type !== "status" || this.#kind === "live") return;
        this.#tries = 0;
        this.#set("live");
      });
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read().catch(broken);
        if (done) return;
        parser.push(decoder.decode(value, { stream: true }));
      }
    } catch (error) {
      if (error.name === "AbortError") throw new ApiError(0, `nothing came for ${STALL / 1000} s`);
      if (error instanceof ApiError) throw error;
      // A fault of this page's own must be seen, but must not stop it.
      console.error(error);
      throw new ApiError(0, error.message);
    } finally {
      clearInterval(watch);
      abort.abort();
    }
  }
}

function broken(error) {
  throw error.name === "AbortError" ? error : new ApiError(0, "the connection broke");
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError(0, "an event is not understood");
  }
}
