// Joins the parts: the stream's events go to whatever shows them.

import { Charts, showPages } from "./charts.js";
import { showClasses } from "./classes.js";
import * as decisions from "./decisions.js";
import { $ } from "./dom.js";
import * as explain from "./explain.js";
import { History } from "./history.js";
import * as override from "./override.js";
import { Servers } from "./servers.js";
import { Stream } from "./stream.js";
import * as summary from "./summary.js";
import { count } from "./units.js";

const history = new History();
const charts = new Charts(history);
const servers = new Servers();
let status = null;
let connection = { kind: "connecting" };

/** All requests of the last second. */
function requestRate() {
  const rates = history.names("requests").map((name) => history.latest(`requests.${name}`));
  const known = rates.filter((rate) => rate !== null);
  return known.length ? known.reduce((all, rate) => all + rate, 0) : null;
}

function showStatus() {
  if (!status) return;
  summary.show(status, decisions.lastLevel, requestRate());
  charts.signals(status.signals ?? []);
  servers.show(status.servers ?? [], status.discovery ?? []);
  showClasses(status.classes ?? []);
  showPages(status, count);
}

const handlers = {
  history(data) {
    history.replace(data);
    charts.draw();
    charts.describe();
  },
  point(data) {
    history.push(data);
    charts.draw();
  },
  status(data) {
    status = data;
    showStatus();
  },
  decision: (data) => decisions.add(data),
};

const stream = new Stream(
  // Events of other kinds are for later versions of this page.
  (type, data) => handlers[type]?.(data),
  (state) => {
    connection = state;
    summary.showConnection(state);
  },
);
setInterval(() => summary.showConnection(connection), 1000);
$("connect-now").addEventListener("click", () => stream.connect());

new IntersectionObserver((seen) => {
  document.body.dataset.scrolled = String(!seen.at(-1).isIntersecting);
}).observe(document.querySelector(".hero-level"));

override.start();
explain.start();
decisions.start(override.say);
stream.start();

// For tests of the page from outside.
window.overspill = Object.freeze({
  points: () => history.length,
  thresholds: () => charts.thresholds,
  series: () => charts.series,
});
