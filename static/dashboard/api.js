// Questions to the admin listener. Addresses are relative to the page, so that it works behind a path prefix, too.

import { askToken, token } from "./token.js";

/** How long an answer's head may take. The admin listener answers at once, whatever the crowd. */
const PATIENCE = 10_000;

const address = (path) => new URL(path, document.baseURI);

/** An answer that is not the one asked for, in words; `retryAfter` in seconds where the server says. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/**
 * Fetches, and asks the operator for the token for as long as the answer is 401. Gives the response where it is
 * good, and throws an `ApiError` where it is not, or where the operator gives no token.
 */
export async function request(path, init = {}) {
  for (let shown = token(); ; ) {
    const headers = new Headers(init.headers);
    if (shown) headers.set("Authorization", `Bearer ${shown}`);
    const response = await answer(path, { ...init, headers });
    if (response.ok) return response;
    if (response.status !== 401) throw await refusal(response);
    response.body?.cancel().catch(() => {});
    // Another question may have got a new one meanwhile.
    if (token() !== shown) {
      shown = token();
      continue;
    }
    const given = await askToken(shown ? "That token is not the right one." : "");
    if (given === null) throw new ApiError(401, "a token is needed");
    shown = given;
  }
}

async function answer(path, init) {
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), PATIENCE);
  const signal = init.signal ? AbortSignal.any([init.signal, limit.signal]) : limit.signal;
  try {
    return await fetch(address(path), { ...init, signal, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError" && !limit.signal.aborted) throw error;
    throw new ApiError(0, "the server does not answer");
  } finally {
    clearTimeout(timer);
  }
}

/** The same with JSON in and out. */
export async function json(path, body) {
  const init =
    body === undefined
      ? {}
      : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await request(path, init);
  try {
    return await response.json();
  } catch {
    throw new ApiError(response.status, "the answer is not understood");
  }
}

async function refusal(response) {
  const raw = (await response.text().catch(() => "")).trim();
  let said = raw;
  try {
    const { error } = JSON.parse(raw);
    if (typeof error === "string") said = error;
  } catch {
    // Some refusals are plain lines.
  }
  // A proxy's HTML page would say nothing to an operator.
  if (said === "" || said.startsWith("<") || said.length > 4000) said = `the answer was ${response.status}`;
  const after = Number(response.headers.get("Retry-After"));
  const retryAfter = Number.isFinite(after) && after > 0 ? after : null;
  if (response.status === 429) {
    said = `too many tries with a wrong token; again ${retryAfter ? `in ${retryAfter} s` : "later"}`;
  }
  return new ApiError(response.status, said, retryAfter);
}
