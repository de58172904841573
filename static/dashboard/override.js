// The operator's hand: hold a level, let it go, reload the configuration.

import { json } from "./api.js";
import { $, text } from "./dom.js";
import { duration } from "./units.js";

const WHAT = {
  normal: "Nobody is offloaded and nobody turned away, whatever the load.",
  offload: "The fixed share of the visitors is offloaded, or everyone where the share is “auto”, whatever the load.",
  throttle: "Every new visitor gets the 503 page. Who is in stays in.",
  drop: "Every request is closed without an answer, also those of visitors who are in.",
};
/** Levels that turn visitors away. */
const GRAVE = ["throttle", "drop"];

/** Shows the outcome of an action, in words. */
export function say(words, failed = false) {
  const message = $("message");
  message.classList.toggle("failed", failed);
  // Said anew even where it is the same: the operator pressed anew.
  message.textContent = "";
  message.textContent = words;
}

export function start() {
  const level = $("override-level");
  const length = $("override-for");
  const presets = [...document.querySelectorAll("[data-for]")];
  const describe = () => {
    text($("override-hint"), WHAT[level.value]);
    for (const preset of presets) {
      preset.setAttribute("aria-pressed", String(preset.dataset.for === length.value.trim()));
    }
  };
  describe();
  level.addEventListener("change", describe);
  length.addEventListener("input", describe);
  for (const preset of presets) {
    preset.addEventListener("click", () => {
      length.value = preset.dataset.for;
      describe();
    });
  }
  $("override-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    say("");
    const order = { level: level.value, for: length.value.trim() };
    if (order.for === "") {
      say("Say for how long: “90s”, “5m”, “1h”.", true);
      return length.focus();
    }
    if (GRAVE.includes(order.level) && !(await confirmed(order))) return say("Nothing was changed.");
    await act($("hold"), async () => {
      const held = await json("api/override", order);
      return `Held at ${held.level} for ${duration(held.seconds)}.`;
    });
  });
  $("release").addEventListener("click", () =>
    act($("release"), async () => {
      await json("api/override", { level: null });
      return "Let go: the load decides again.";
    }),
  );
  $("reload").addEventListener("click", () => act($("reload"), async () => reloaded(await json("api/reload", {}))));
}

async function act(button, work) {
  // Not `disabled`, which would throw the keyboard's focus away.
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    say(await work());
  } catch (error) {
    say(`Not done: ${error.message}`, true);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function reloaded({ changed = [], restart_needed: waiting = [] }) {
  const lines = [changed.length ? `Reloaded. Changed: ${changed.join(", ")}.` : "Reloaded. Nothing was changed."];
  if (waiting.length) lines.push(`Only after a restart: ${waiting.join(", ")}.`);
  return lines.join("\n");
}

/** Asks before visitors are turned away. */
function confirmed({ level, for: length }) {
  const dialog = $("confirm-dialog");
  const yes = $("confirm-yes");
  text($("confirm-heading"), `Hold ${level} for ${length}?`);
  text($("confirm-text"), WHAT[level]);
  text(yes, `Hold ${level}`);
  dialog.showModal();
  // The safe answer is the one that Enter gives.
  $("confirm-no").focus();
  return new Promise((resolve) => {
    const done = new AbortController();
    const on = (target, type, act) => target.addEventListener(type, act, { signal: done.signal });
    const finish = (answer) => {
      done.abort();
      if (dialog.open) dialog.close();
      resolve(answer);
    };
    on(yes, "click", () => finish(true));
    on($("confirm-no"), "click", () => finish(false));
    on($("confirm-form"), "submit", (event) => event.preventDefault());
    // The event comes with the next frame: that of the last question may come while this one is asked.
    on(dialog, "close", () => dialog.open || finish(false));
  });
}
