// "Why?": what one visitor would get now, and why each server was taken or left out.

import { json } from "./api.js";
import { $, el, icon } from "./dom.js";
import { percent, ratio } from "./units.js";

const OUTCOMES = {
  serve: "served by the primary",
  offload: "offloaded",
  redirect: "redirected",
  throttle: "503 page",
  drop: "no answer",
  bypass: "exempt",
};

export function start() {
  const answer = $("explain-answer");
  $("explain-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const client = $("explain-client").value.trim();
    const path = $("explain-path").value.trim() || "/";
    if (client === "") {
      answer.replaceChildren(el("p", { class: "error" }, "Type the visitor's address."));
      return $("explain-client").focus();
    }
    const query = new URLSearchParams({ path, client });
    const identity = $("explain-identity").value.trim();
    if (identity) query.set("identity", identity);
    try {
      answer.replaceChildren(...parts(await json(`api/explain?${query}`)));
    } catch (error) {
      answer.replaceChildren(el("p", { class: "error" }, `No answer: ${error.message}`));
    }
  });
}

function parts(said) {
  const facts = [
    ["Share", said.share == null ? null : `${ratio(said.share)}; this visitor's place is ${ratio(said.place)}: ${said.in_share ? "in" : "not in"}`],
    ["Admission", admission(said.admission)],
    ["Rule", said.rule ? `number ${said.rule.index + 1}: only ${said.rule.servers.join(", ")}` : "none: any server"],
    ["Level, mode", `${said.level}, ${said.mode}`],
  ];
  const list = el("dl", { class: "list said-list" });
  for (const [name, value] of facts) {
    if (value != null) list.append(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  }
  const outcome = OUTCOMES[said.outcome] ?? said.outcome;
  const verdict = el("p", { class: "verdict" }, el("strong", {}, said.server ? `${outcome} (${said.server})` : outcome), " ", said.text ?? "");
  return [verdict, list, servers(said.servers ?? [])].filter(Boolean);
}

function admission(it) {
  if (!it) return null;
  const away = it.throttled > 0 ? `${percent(it.throttled)} of the new visitors are turned away` : "nobody is turned away";
  const drop = it.dropped > 0 ? `, ${percent(it.dropped)} without an answer` : "";
  const place = it.place == null ? "" : `; this visitor's place is ${ratio(it.place)}`;
  return `${away}${drop}${place}${it.class ? `; class “${it.class}”` : ""}`;
}

function servers(all) {
  if (all.length === 0) return el("p", { class: "quiet" }, "There is no offload server.");
  const rank = (server) => (server.chosen ? 0 : server.considered ? 1 : 2);
  const rows = [...all].sort((a, b) => rank(a) - rank(b)).map((server) =>
    el(
      "tr",
      { role: "row", "data-chosen": String(!!server.chosen) },
      el("th", { scope: "row", role: "rowheader" }, server.name),
      el("td", { role: "cell", "data-label": "Taken" }, el("span", { class: "state" }, server.chosen ? icon("yes") : null, server.chosen ? "chosen" : server.considered ? "considered" : "left out")),
      el("td", { role: "cell", "data-label": "Why" }, server.why ?? ""),
    ),
  );
  const head = el("tr", { role: "row" }, ...["Server", "Taken", "Why"].map((name) => el("th", { scope: "col", role: "columnheader" }, name)));
  const table = el("table", { class: "cards", role: "table", "aria-label": "Servers considered" }, el("thead", { role: "rowgroup" }, head), el("tbody", { role: "rowgroup" }, ...rows));
  return el("div", { class: "scroll explain-box", tabindex: "0", role: "region", "aria-label": "Servers considered" }, table);
}
