// The token: held in memory, and in the tab's own storage only where the operator ticks that.

import { $, recall, remember } from "./dom.js";

const KEY = "overspill.token";
let held = recall("sessionStorage", KEY) ?? "";
let asking = null;

/** The token that is shown to the server; empty where there is none. */
export const token = () => held;

/** Asks the operator. Gives the token, or null where none is given. Who asks meanwhile gets the same answer. */
export function askToken(error) {
  asking ??= ask(error).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(error) {
  const dialog = $("token-dialog");
  const field = $("token");
  const form = $("token-form");
  $("token-error").textContent = error;
  $("token-keep").checked = recall("sessionStorage", KEY) !== null;
  // What was not right must not be shown again at every load of the page.
  remember("sessionStorage", KEY, null);
  field.value = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    const done = new AbortController();
    const on = (target, type, act) => target.addEventListener(type, act, { signal: done.signal });
    const finish = (given) => {
      done.abort();
      field.value = "";
      if (given !== null) {
        held = given;
        remember("sessionStorage", KEY, $("token-keep").checked ? given : null);
      }
      if (dialog.open) dialog.close();
      resolve(given);
      // Whoever had given up for want of it tries again.
      if (given !== null) document.dispatchEvent(new Event("tokengiven"));
    };
    on(form, "submit", (event) => {
      event.preventDefault();
      const given = field.value.trim();
      // Header values are bytes: what fits in none can't be a token.
      if (given === "" || /[^\x20-\x7e]/.test(given)) {
        $("token-error").textContent =
          given === "" ? "Type the token, or cancel." : "A token has no letters beyond ASCII.";
        field.focus();
        return;
      }
      finish(given);
    });
    on($("token-cancel"), "click", () => finish(null));
    on(dialog, "cancel", (event) => {
      event.preventDefault();
      finish(null);
    });
    // The event comes with the next frame: that of the last question may come while this one is asked.
    on(dialog, "close", () => dialog.open || finish(null));
  });
}
