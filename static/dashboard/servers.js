// The offload servers.

import { $, attribute, el, icon, text } from "./dom.js";
import { plain, Table } from "./table.js";
import { bitRate, bits, bytes, count, money, NONE, percent, ratio } from "./units.js";

/** From so many servers on there is a field to find one. */
const MANY = 8;

const SOURCES = { configuration: "the configuration", file: "a file", srv: "SRV records" };

const COLUMNS = [
  {
    name: "name",
    title: "Server",
    rank: ({ name }) => name,
    make: (cell) => {
      for (const name of ["name", "sub url", "sub"]) cell.append(el("span", { class: name }));
    },
    cell: (cell, { name, url, source }) => {
      const [first, second, third] = cell.children;
      text(first, name);
      text(second, url);
      text(third, source ? `from ${SOURCES[source] ?? source}` : "");
    },
  },
  {
    name: "state",
    title: "State",
    // Those in trouble first.
    rank: ({ usable, reason, name }) => `${usable ? (reason ? 1 : 2) : 0} ${name}`,
    class: "wide",
    make: (cell) => {
      const state = el("span", { class: "state" }, el("span", { class: "state-icon" }), el("span"));
      cell.append(state, el("span", { class: "sub" }), el("span", { class: "sub" }));
    },
    cell: (cell, { usable, reason, ramp }) => {
      const [state, why, back] = cell.children;
      if (state.usable !== usable) {
        state.usable = usable;
        state.firstChild.replaceChildren(icon(usable ? "yes" : "no"));
      }
      text(state.lastChild, usable ? "usable" : "not usable");
      text(why, reason ?? "");
      text(back, usable && ramp < 1 ? `ramp: gets ${percent(ramp)} of its room` : "");
    },
  },
  { name: "health", title: "Health", rank: ({ health }) => health, cell: plain(({ health }) => health ?? NONE) },
  {
    name: "load",
    title: "Load",
    num: true,
    rank: ({ load }) => load,
    class: "wide load",
    make: makeMeter,
    cell: showMeter,
  },
  {
    name: "assigned",
    title: "Promised now",
    num: true,
    rank: ({ assigned }) => assigned,
    make: twoLines,
    cell: (cell, { assigned, capacity }) => {
      text(cell.firstChild, bitRate(assigned));
      text(cell.lastChild, capacity ? `of ${bits(capacity)}` : "");
    },
  },
  { name: "total", title: "In all", num: true, rank: (it) => it.assigned_bytes, cell: plain((it) => bytes(it.assigned_bytes)) },
  { name: "price", title: "Price/GB", num: true, rank: ({ price }) => price, cell: plain(({ price }) => money(price)) },
  { name: "cost", title: "Cost", num: true, rank: ({ cost }) => cost, cell: plain(({ cost }) => money(cost)) },
  {
    name: "budget",
    title: "Budget spent",
    num: true,
    rank: ({ budget, spent }) => (budget ? spent / budget.amount : null),
    make: twoLines,
    cell: (cell, { budget, spent }) => {
      text(cell.firstChild, budget ? `${money(spent)} of ${money(budget.amount)}` : NONE);
      text(cell.lastChild, budget ? `${percent(spent / budget.amount)} of this ${budget.per}'s` : "");
    },
  },
  {
    name: "pages",
    title: "Pages",
    num: true,
    rank: ({ pages }) => pages,
    make: twoLines,
    cell: (cell, { pages, links }) => {
      text(cell.firstChild, count(pages));
      text(cell.lastChild, `${count(links)} links`);
    },
  },
];

export class Servers {
  #table = new Table($("servers"), COLUMNS, {
    key: ({ name }) => name,
    sort: { column: "state", down: false },
    row: (tr, { name, usable }) => {
      attribute(tr, "data-server", name);
      attribute(tr, "data-usable", String(!!usable));
    },
  });
  #all = [];

  constructor() {
    $("servers-find").addEventListener("input", () => this.#find());
  }

  show(servers, discovery) {
    this.#all = servers;
    $("servers-box").hidden = servers.length === 0;
    $("servers-empty").hidden = servers.length > 0;
    attribute($("servers-box"), "data-many", String(servers.length >= MANY));
    $("servers-find-label").hidden = servers.length < MANY && $("servers-find").value === "";
    text($("servers-summary"), summary(servers));
    this.#find();
    showDiscovery(discovery);
  }

  #find() {
    const wanted = $("servers-find").value.trim().toLowerCase();
    const fits = ({ name, url, reason, health }) => [name, url, reason, health].join(" ").toLowerCase().includes(wanted);
    this.#table.show(wanted ? this.#all.filter(fits) : this.#all);
  }
}

function summary(servers) {
  if (servers.length === 0) return "";
  const usable = servers.filter((server) => server.usable).length;
  const sum = (key) => servers.reduce((all, server) => all + (server[key] ?? 0), 0);
  return `${count(usable)} of ${count(servers.length)} usable · ${bitRate(sum("assigned"))} promised now · ${bytes(sum("assigned_bytes"))} in all · cost ${money(sum("cost"))}`;
}

function twoLines(cell) {
  cell.append(el("span"), el("span", { class: "sub" }));
}

function makeMeter(cell) {
  const [fill, resume, threshold] = ["fill", "tick tick-resume", "tick tick-threshold"].map((name) => el("span", { class: name }));
  const bar = el("span", { class: "meter", role: "meter", "aria-label": "Load", "aria-valuemin": "0" }, fill, resume, threshold);
  const figure = el("span", { class: "figure" });
  const sub = el("span", { class: "sub" });
  const report = el("span", { class: "sub" });
  cell.append(el("span", { class: "meter-row" }, figure, bar), sub, report);
  cell.parts = { bar, fill, resume, threshold, figure, sub, report };
}

function showMeter({ parts }, { load, reported, threshold, resume }) {
  const full = Math.max(1, threshold * 1.1);
  const known = typeof load === "number";
  const zone = !known ? "none" : load >= threshold ? "over" : load >= resume ? "near" : "room";
  text(parts.figure, ratio(load));
  const limits = `full at ${ratio(threshold)}, back below ${ratio(resume)}`;
  text(parts.sub, limits);
  text(parts.report, typeof reported === "number" ? `reports ${ratio(reported)}` : "");
  attribute(parts.bar, "data-zone", zone);
  attribute(parts.bar, "aria-valuemax", String(full));
  attribute(parts.bar, "aria-valuenow", String(known ? Math.min(load, full) : 0));
  attribute(parts.bar, "aria-valuetext", known ? `${ratio(load)}, ${limits}` : "not known");
  style(parts.fill, "width", known ? Math.min(1, load / full) : 0);
  style(parts.threshold, "left", threshold / full);
  style(parts.resume, "left", resume / full);
}

function style(element, property, part) {
  const value = `${(part * 100).toFixed(1)}%`;
  if (element.style[property] !== value) element.style[property] = value;
}

function showDiscovery(sources) {
  const list = $("discovery");
  list.hidden = sources.length === 0;
  const known = JSON.stringify(sources);
  if (list.known === known) return;
  list.known = known;
  list.replaceChildren(
    ...sources.map(({ source, what, servers, error }) =>
      el(
        "li",
        { class: error ? "failed" : null },
        el("span", { class: "tag" }, source),
        `${what}: ${count(servers)} ${servers === 1 ? "server" : "servers"}`,
        error ? ` – ${error}; what was known last holds` : "",
      ),
    ),
  );
}
