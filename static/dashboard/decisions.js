// The last decisions in words, newest first.

import { json } from "./api.js";
import { $, el, icon, text } from "./dom.js";
import { count, moment } from "./units.js";

const LIMIT = 1000;
const LEVELS = ["normal", "offload", "throttle", "drop"];

/** By number and time: numbers begin anew when the server does, and what was before stays on the page. */
const held = new Map();
let redraw = null;

/** The last decision about the level that is known. */
export let lastLevel = null;

export function start(say) {
  const kind = $("decisions-kind");
  // Not remembered: a filter of yesterday must not hide a change of level today. (Some browsers fill it in.)
  kind.value = "";
  kind.addEventListener("change", filter);
  $("decisions-older").addEventListener("click", async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      const answer = await json(`api/decisions?limit=${LIMIT}`);
      for (const decision of answer.decisions ?? []) add(decision);
    } catch (error) {
      say(`The decisions could not be loaded: ${error.message}`, true);
    } finally {
      button.disabled = false;
    }
  });
}

/** Takes one decision; many that come together are drawn together. */
export function add(decision) {
  if (!Number.isFinite(decision?.time)) return;
  const key = `${decision.id}@${decision.time}`;
  if (held.has(key)) return;
  held.set(key, { ...decision, key, item: null });
  if (decision.kind === "level" && decision.time >= (lastLevel?.time ?? 0)) lastLevel = decision;
  // Not by requestAnimationFrame: that does not run in a tab that is not seen.
  redraw ??= setTimeout(draw);
}

function draw() {
  redraw = null;
  const list = $("decisions");
  const all = [...held.values()].sort((a, b) => a.time - b.time || a.id - b.id);
  for (const old of all.splice(0, Math.max(0, all.length - LIMIT))) {
    held.delete(old.key);
    old.item?.remove();
  }
  // From the newest down: an item that stands already is not touched, so what the operator reads does not move.
  let above = null;
  for (const decision of all.reverse()) {
    const next = above ? above.nextSibling : list.firstChild;
    if (!decision.item) decision.item = item(decision);
    if (decision.item !== next) list.insertBefore(decision.item, next);
    above = decision.item;
  }
  filter();
}

function item(decision) {
  const to = decision.kind === "level" ? decision.details?.to ?? /→ (\w+)/.exec(decision.text)?.[1] : null;
  const level = LEVELS.includes(to) ? to : null;
  const time = new Date(decision.time * 1000);
  return el(
    "li",
    { "data-kind": decision.kind, "data-to": level },
    el("time", { datetime: time.toISOString() }, moment(decision.time)),
    el("span", { class: "tag" }, level ? icon(level, "icon tag-icon") : null, decision.kind),
    el("span", { class: "said" }, decision.text ?? ""),
  );
}

function filter() {
  const kind = $("decisions-kind").value;
  let shown = 0;
  for (const { item, kind: its } of held.values()) {
    if (!item) continue;
    item.hidden = kind !== "" && its !== kind;
    if (!item.hidden) shown += 1;
  }
  $("decisions-empty").hidden = shown > 0;
  text($("decisions-empty"), kind && held.size ? `No decision of the kind “${kind}” among those loaded.` : "Nothing was decided yet.");
  text($("decisions-count"), shown ? `${count(shown)} shown` : "");
}
