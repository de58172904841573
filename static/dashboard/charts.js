// The four charts: load, share, requests, pages.

import { $, el, recall, remember, text } from "./dom.js";
import { Plot } from "./plot.js";
import { percent, rate, ratio } from "./units.js";

const RANGE = "overspill.range";
/** Lines differ by dash as well as by colour. */
const DASHES = [[], [9, 4], [2, 3], [10, 3, 2, 3], [5, 2], [14, 4]];
const OUTCOMES = [
  ["served", "series-1", []],
  ["offloaded", "offload", [9, 4]],
  ["redirected", "series-3", [2, 3]],
  ["throttled", "throttle", [10, 3, 2, 3]],
  ["dropped", "drop", [5, 2]],
  ["bypassed", "ink-2", [1, 3]],
];
const LIMITS = ["offload", "throttle", "drop"];
/** Loads above this are cut off in the chart, else one of 30 would flatten all the rest; the legend tells them. */
const HIGHEST_LOAD = 2;

export class Charts {
  #history;
  #plots;
  #load;
  /** The signals that are on; the names of those that are off. */
  #signals = [];
  #off = new Set();
  #known = "";
  /** The signal whose thresholds are drawn, where they differ. */
  #of = "";

  constructor(history) {
    this.#history = history;
    this.#load = new Plot($("load-chart"), history, {
      title: "Load",
      series: () => this.#signalSeries(),
      lines: () => this.#lines(),
      format: ratio,
      axis: (value) => value.toFixed(1),
      // Above the highest line there is room for the levels' names.
      top: (highest, lines) =>
        Math.max(1.15, ...lines.map(({ value }) => value * 1.15), Math.min(HIGHEST_LOAD, highest * 1.1)),
      bands: true,
    });
    const share = new Plot($("share-chart"), history, {
      title: "Share",
      series: () => [
        { name: "offloaded", column: "share", colour: "offload", dash: [] },
        { name: "turned away", column: "throttled", colour: "throttle", dash: [10, 3, 2, 3] },
        { name: "of these unanswered", column: "dropped", colour: "drop", dash: [5, 2] },
      ],
      format: percent,
      axis: (value) => `${Math.round(value * 100)} %`,
      top: () => 1.15,
      bands: true,
    });
    const requests = new Plot($("requests-chart"), history, {
      title: "Requests a second",
      series: () => OUTCOMES.map(([name, colour, dash]) => ({ name, column: `requests.${name}`, colour, dash })),
      format: rate,
      axis: axisCount,
      top: (highest) => Math.max(1, highest * 1.25),
      bands: true,
    });
    const pages = new Plot($("pages-chart"), history, {
      title: "Pages rewritten a second",
      series: () => [
        { name: "spliced", label: "spliced by a plan", column: "pages.spliced", colour: "series-1", dash: [] },
        { name: "scanned", label: "scanned", column: "pages.scanned", colour: "series-2", dash: [9, 4] },
      ],
      format: rate,
      axis: axisCount,
      top: (highest) => Math.max(1, highest * 1.1),
      bands: false,
    });
    this.#plots = [this.#load, share, requests, pages];
    this.#start();
  }

  #start() {
    const range = $("range");
    const kept = range.querySelector(`input[value="${Number(recall("localStorage", RANGE))}"]`);
    if (kept) kept.checked = true;
    const choose = () => {
      const chosen = range.querySelector("input:checked").value;
      for (const plot of this.#plots) plot.range(Number(chosen));
      this.describe();
      remember("localStorage", RANGE, chosen);
    };
    range.addEventListener("change", choose);
    choose();
    $("thresholds-of").addEventListener("change", (event) => {
      this.#of = event.target.value;
      this.#load.draw();
      this.#load.describe();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") for (const plot of this.#plots) plot.catchUp();
    });
    setInterval(() => this.describe(), 10_000);
  }

  draw() {
    for (const plot of this.#plots) plot.draw();
  }

  describe() {
    for (const plot of this.#plots) plot.describe();
  }

  /** Takes the signals of a status: their thresholds, and which are off. */
  signals(signals) {
    const on = signals.filter(({ off }) => off == null);
    const known = JSON.stringify(signals.map((it) => [it.name, it.off, ...LIMITS.map((limit) => it[limit])]));
    if (known === this.#known) return;
    this.#known = known;
    this.#signals = on;
    this.#off = new Set(signals.filter(({ off }) => off != null).map(({ name }) => name));
    const shared = new Set(on.map((signal) => JSON.stringify(LIMITS.map((limit) => signal[limit])))).size <= 1;
    const names = on.map(({ name }) => name);
    if (!names.includes(this.#of)) this.#of = nearest(on);
    $("thresholds-pick").hidden = shared;
    $("thresholds-of").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    $("thresholds-of").value = this.#of;
    const off = signals.filter((signal) => signal.off != null);
    $("signals-off").replaceChildren(
      ...off.map((signal) => el("li", {}, el("span", { class: "tag" }, "off"), el("strong", {}, signal.name), `: ${signal.off}`)),
    );
    this.#load.draw();
    this.#load.describe();
  }

  #signalSeries() {
    const on = this.#signals.map(({ name }) => name);
    // A signal that was switched off a while ago still has a past to show.
    const past = this.#history
      .names("signals")
      .filter((name) => !on.includes(name) && !(this.#off.has(name) && this.#empty(name)));
    return [...on, ...past].map((name, at) => ({
      name,
      column: `signals.${name}`,
      colour: `series-${(at % 4) + 1}`,
      dash: DASHES[at % DASHES.length],
    }));
  }

  #empty(name) {
    return this.#history.column(`signals.${name}`).every((value) => value === null);
  }

  #lines() {
    const signal = this.#signals.find(({ name }) => name === this.#of) ?? this.#signals[0];
    if (!signal) return [];
    return LIMITS.filter((limit) => typeof signal[limit] === "number").map((limit) => ({
      value: signal[limit],
      label: `${limit} ${ratio(signal[limit])}`,
      level: limit,
    }));
  }

  /** For tests: the values of the threshold lines, and the names of the load chart's lines. */
  get thresholds() {
    return this.#load.lines.map(({ value }) => value);
  }

  get series() {
    return this.#signalSeries().map(({ name }) => name);
  }
}

/** The signal that is nearest to its first threshold. */
function nearest(signals) {
  const part = ({ load, offload }) => (load ?? 0) / (offload ?? Infinity);
  return [...signals].sort((a, b) => part(b) - part(a))[0]?.name ?? "";
}

const axisCount = (value) => (value >= 1000 ? `${value / 1000}k` : String(Math.round(value * 10) / 10));

const REASONS = {
  memory: "page too large to scan",
  tag_size: "a tag too large",
  encoding: "encoding",
  csp_meta: "a policy within the page",
  amp: "AMP page",
  markup: "markup",
  changed: "page changed since its plan",
};

/** How pages were rewritten, since the start. */
export function showPages(status, count) {
  const servers = status.servers ?? [];
  const sum = (key) => servers.reduce((all, server) => all + (server[key] ?? 0), 0);
  const bails = (status.bail_outs ?? []).filter(([, number]) => number > 0);
  const rows = [
    ["Spliced by a plan", count(sum("pages_spliced"))],
    ["Scanned", count(sum("pages_scanned"))],
    ["Scanned ahead of need", count(status.pages_scanned_ahead)],
    ["Links moved", count(sum("links"))],
    ["Given up, went out as they came", count(bails.reduce((all, [, number]) => all + number, 0))],
    ...bails.map(([reason, number]) => [`– ${REASONS[reason] ?? reason}`, count(number)]),
  ];
  const list = $("pages-list");
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) list.append(el("div", {}, el("dt"), el("dd", { class: "num" })));
  rows.forEach(([name, value], at) => {
    text(list.children[at].firstChild, name);
    text(list.children[at].lastChild, value);
  });
}
