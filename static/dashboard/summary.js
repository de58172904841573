// The head of the page: the level and what it means, and the figures around it.

import { $, attribute, text } from "./dom.js";
import { bitRate, bytes, count, duration, moment, NONE, percent, rate } from "./units.js";

const LEVELS = ["normal", "offload", "throttle", "drop"];
const MODE_NOTICES = {
  report: "Report mode: it decides and counts, and changes nothing. Every visitor is served as if Overspill were not there.",
  off: "Off: it measures, and decides and changes nothing.",
};

const LIFECYCLE_NOTICES = {
  starting: "Starting: not ready yet.",
  draining: "Draining: it takes no new connections, and ends when the last request has been answered.",
};

let spoken = null;

/** Shows a status. `why` is the last decision about the level, `requests` the requests a second. */
export function show(status, why, requests) {
  const level = LEVELS.includes(status.level) ? status.level : "unknown";
  document.body.dataset.level = level;
  document.body.dataset.mode = status.mode;
  document.title = `${level} – Overspill`;
  attribute($("level-icon"), "href", `#icon-${level}`);
  attribute($("level-small-icon"), "href", `#icon-${level}`);
  text($("level"), level);
  text($("level-small"), level);
  text($("level-meaning"), meaning(status));
  text($("level-why"), because(status, why));
  text($("mode"), status.mode);
  text($("share"), percent(status.share));
  text($("turned-away"), turnedAway(status));
  text($("hold-left"), status.hold_left > 0 ? duration(status.hold_left) : NONE);
  const held = status.override ?? null;
  text($("override-left"), held === null ? "no" : `${duration(held)} left`);
  text($("request-rate"), rate(requests));
  text($("lifecycle"), status.lifecycle ?? NONE);
  text($("uptime"), duration(status.uptime));
  text($("version"), status.version ?? "");
  text(
    $("traffic"),
    `${count(status.in_flight)} in flight · ${count(status.connections)} connections · ${bitRate(status.assigned)} promised by the primary · ${bytes(status.bytes_sent)} sent`,
  );
  notice($("mode-notice"), MODE_NOTICES[status.mode]);
  notice($("lifecycle-notice"), LIFECYCLE_NOTICES[status.lifecycle]);
  notice($("override-notice"), held === null ? null : `Held at ${level} by hand for ${duration(held)} more, whatever the load. “Let go” ends it.`);
  if (spoken !== null && spoken !== level) text($("announcer"), `Level ${level}. ${meaning(status)}`);
  spoken = level;
}

function notice(element, words) {
  element.hidden = !words;
  text(element, words ?? "");
}

function turnedAway({ throttled, dropped }) {
  if (!(dropped > 0)) return percent(throttled);
  return `${percent(throttled)}, ${percent(dropped)} unanswered`;
}

/** What the level means, in one sentence. */
function meaning({ level, mode, share, throttled, dropped, servers = [] }) {
  const would = mode === "report";
  const usable = servers.filter((server) => server.usable).length;
  const helpers = `${count(usable)} ${usable === 1 ? "offload server" : "offload servers"}`;
  const moved =
    usable === 0 || !(share > 0)
      ? null
      : `${percent(share)} of the visitors ${would ? "would get" : "get"} their pages' objects from ${helpers}`;
  const rest = moved ? `; ${moved}` : usable === 0 ? "; no offload server can help" : "";
  switch (level) {
    case "normal":
      return "The primary serves every visitor by itself.";
    case "offload":
      if (moved) return `${moved}; nobody ${would ? "would be" : "is"} turned away.`;
      return servers.length === 0
        ? "The primary is busy, and there is no offload server that could help. Nobody is turned away."
        : usable === 0
          ? "The primary is busy, and no offload server is usable just now. Nobody is turned away."
          : "The primary is busy, and nobody is offloaded just now.";
    case "throttle":
      return throttled > 0
        ? `${percent(throttled)} of the new visitors ${would ? "would get" : "get"} a 503 page that asks them to come back${rest}.`
        : `The primary is near its limit; nobody is turned away just now${rest}.`;
    case "drop":
      return `${percent(throttled)} of the new visitors ${would ? "would be" : "are"} turned away, ${percent(dropped)} without an answer${rest}.`;
    default:
      return "The level is not known.";
  }
}

function because(status, why) {
  if (!why) return "";
  const ago = (status.time ?? Date.now() / 1000) - why.time;
  return `${moment(why.time)}  ${why.text}  (${duration(ago)} ago)`;
}

/** Shows the connection's state, as `Stream` gives it; called each second, for the countdown. */
export function showConnection(state) {
  const { kind, why, until, since } = state;
  const live = kind === "live";
  document.body.dataset.connected = String(live);
  document.body.dataset.stream = kind;
  const words = {
    live: "live",
    connecting: since ? "reconnecting" : "connecting",
    waiting: `reconnecting in ${Math.max(1, Math.ceil((until - Date.now()) / 1000))} s`,
    locked: "a token is needed",
  };
  text($("connection-text"), words[kind] ?? kind);
  const button = $("connect-now");
  button.hidden = kind !== "waiting" && kind !== "locked";
  text(button, kind === "locked" ? "Enter token" : "Try now");
  const asOf = since ? `No connection since ${moment(since / 1000)}; what is shown is from then.` : "No connection yet.";
  notice($("stale-notice"), live || !why ? null : `${asOf} Cause: ${why}.`);
}
