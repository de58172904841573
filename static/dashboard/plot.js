// One chart: uPlot, and what it lacks: bands for the levels, threshold lines with words, a legend that can be
// operated by keyboard, a summary in words, and the numbers as a table.

import uPlot from "./vendor/uPlot.esm.js";
import { el, lineSample, text } from "./dom.js";
import { clock } from "./units.js";

export const LEVELS = ["normal", "offload", "throttle", "drop"];

/** The table shows so much, at such steps (seconds). */
const TABLE_SPAN = 300;
const TABLE_STEP = 10;
/** Points further apart than this (seconds) are not joined: nothing is known of the time between. */
const GAP = 5;
/** The shortest time shown (seconds). */
const SHORTEST = 60;

const colours = () => {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
};

export class Plot {
  #box;
  #options;
  #history;
  #u = null;
  #drawn = "";
  #hidden = new Set();
  #legend;
  /** Where the legend shows the value of each line. */
  #values = [];
  #table;
  #range = 900;
  /** The ends of the scales. */
  #x = [0, 1];
  #y = [0, 1];
  #dirty = true;
  lines = [];

  /**
   * `options`: `title`, `series` (a function that gives `[{name, column, colour, dash, label}]`), `format` of a
   * value, `top` (from the highest value shown to the scale's upper end), `axis` of a value, `bands`, `lines`
   * (a function that gives `[{value, label, level}]`).
   */
  constructor(box, history, options) {
    this.#box = box;
    this.#history = history;
    this.#options = options;
    this.canvas = el("div", { class: "plot", role: "img", "aria-label": `${options.title}: no data yet` });
    this.#legend = el("ul", { class: "legend", "aria-label": `Lines of the chart ${options.title}` });
    this.#table = el("details", { class: "as-table" }, el("summary", {}, "Show as table"));
    this.#table.addEventListener("toggle", () => this.describe());
    box.append(this.canvas, this.#legend, this.#table);
    new ResizeObserver(() => this.#fit()).observe(this.canvas);
    document.addEventListener("themechange", () => {
      this.#drawn = "";
      this.draw();
    });
  }

  range(seconds) {
    this.#range = seconds;
    this.draw();
  }

  /** Draws what is held now; later, where nobody looks. */
  draw() {
    this.lines = this.#options.lines?.() ?? [];
    this.#dirty = true;
    if (document.visibilityState === "visible") this.#render();
  }

  /** Draws what was put off. */
  catchUp() {
    if (this.#dirty) this.#render();
  }

  #render() {
    this.#dirty = false;
    const history = this.#history;
    const series = this.#options.series();
    const shape = JSON.stringify(series.map(({ name, colour, dash }) => [name, colour, dash]));
    if (shape !== this.#drawn) this.#build(series, shape);
    const end = history.last ?? Date.now() / 1000;
    // A young server's few points are not pressed into the last pixels of an hour.
    const span = Math.min(this.#range, Math.max(SHORTEST, end - (history.time[0] ?? end)));
    const from = history.since(end - span);
    const time = history.time.slice(from);
    const data = [time, ...series.map(({ column }) => history.column(column).slice(from))];
    this.levels = history.column("level").slice(from);
    this.#x = [end - span, end];
    this.#y = [0, this.#options.top(highest(data.slice(1)), this.lines)];
    this.#u.setData(withGaps(data));
    this.#read(this.#u.cursor.idx);
  }

  #build(series, shape) {
    this.#drawn = shape;
    this.#u?.destroy();
    const colour = colours();
    const narrow = this.#box.clientWidth < 480;
    const axis = {
      stroke: colour("ink-2"),
      font: "11px system-ui, sans-serif",
      ticks: { show: false },
      grid: { stroke: colour("grid"), width: 1 },
    };
    const options = {
      width: Math.max(200, this.canvas.clientWidth),
      height: Math.max(100, this.canvas.clientHeight),
      padding: [8, this.#options.lines ? (narrow ? 80 : 92) : 20, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, sync: { key: "overspill" }, y: false, points: { size: 6 } },
      scales: { x: { time: true, range: () => this.#x }, y: { range: () => this.#y } },
      axes: [
        {
          ...axis,
          size: 26,
          space: 64,
          values: (u, splits, at, space, step) => splits.map((split) => clock(split, step < 60)),
        },
        { ...axis, size: 46, space: 28, values: (u, splits) => splits.map(this.#options.axis) },
      ],
      series: [
        {},
        ...series.map(({ name, colour: own, dash }) => ({
          label: name,
          show: !this.#hidden.has(name),
          stroke: colour(own),
          width: 2,
          dash,
          // One lonely point makes no line, and in the page's first second there is no more.
          points: { show: (u) => u.data[0].length < 3, size: 5, fill: colour(own) },
        })),
      ],
      hooks: {
        drawAxes: [(u) => this.#options.bands && this.#drawBands(u, colour)],
        draw: [(u) => this.#drawLines(u, colour)],
        setCursor: [(u) => this.#read(u.cursor.idx)],
      },
    };
    this.#u = new uPlot(options, [[], ...series.map(() => [])], this.canvas);
    this.#buildLegend(series, colour);
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.#u || width < 50 || (width === this.#u.width && height === this.#u.height)) return;
    this.#u.setSize({ width, height });
  }

  // === legend ===

  #buildLegend(series, colour) {
    this.#values = [];
    this.#legend.replaceChildren(
      ...series.map(({ name, label, column, colour: own, dash }, at) => {
        const value = el("span", { class: "num value" });
        const button = el(
          "button",
          { type: "button", class: "legend-item", "aria-pressed": String(!this.#hidden.has(name)), title: "Show or hide this line" },
          lineSample(colour(own), dash ?? []),
          el("span", {}, label ?? name),
          value,
        );
        button.addEventListener("click", () => {
          const hide = !this.#hidden.has(name);
          if (hide) this.#hidden.add(name);
          else this.#hidden.delete(name);
          button.setAttribute("aria-pressed", String(!hide));
          this.#u.setSeries(at + 1, { show: !hide });
        });
        this.#values.push({ value, column });
        return el("li", {}, button);
      }),
      el("li", { class: "legend-time num quiet" }),
    );
  }

  /** Writes the values at the cursor, or the last ones. */
  #read(at) {
    const u = this.#u;
    if (!u) return;
    text(this.#legend.lastChild, at == null ? "now" : clock(u.data[0][at]));
    this.#values.forEach(({ value, column }, index) => {
      const shown = at == null ? this.#history.latest(column) : u.data[index + 1]?.[at];
      text(value, this.#options.format(shown));
    });
  }

  // === bands and thresholds ===

  #drawBands(u, colour) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio || 1;
    const runs = runsOf(this.#history.time.slice(-this.levels.length), this.levels);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.font = `600 ${10 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    for (const { level, from, to } of runs) {
      const name = LEVELS[level];
      if (!name) continue;
      const left = Math.max(bbox.left, u.valToPos(from, "x", true));
      const right = Math.min(bbox.left + bbox.width, u.valToPos(to, "x", true));
      if (right <= left) continue;
      if (level > 0) {
        ctx.fillStyle = colour(`band-${name}`);
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
        ctx.fillStyle = hatch(ctx, level, colour(`hatch-${name}`), ratio);
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
        ctx.fillStyle = colour(name);
        ctx.fillRect(left, bbox.top, right - left, 3 * ratio);
      }
      const width = ctx.measureText(name).width;
      if (right - left > width + 10 * ratio) {
        ctx.fillStyle = colour(level > 0 ? name : "ink-2");
        ctx.fillText(name, left + 5 * ratio, bbox.top + 7 * ratio);
      }
    }
    ctx.restore();
  }

  #drawLines(u, colour) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio || 1;
    const drawn = this.lines
      .map((line) => ({ ...line, y: u.valToPos(line.value, "y", true) }))
      .filter(({ y }) => y >= bbox.top - 1)
      .sort((a, b) => b.y - a.y);
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    // Labels of near thresholds are moved apart, from the lowest up.
    let free = Infinity;
    const right = bbox.left + bbox.width;
    for (const { y, label, level } of drawn) {
      ctx.strokeStyle = ctx.fillStyle = colour(level);
      ctx.lineWidth = 1.25 * ratio;
      ctx.setLineDash([7 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(right, y);
      ctx.stroke();
      const labelY = Math.min(y, free - 13 * ratio);
      free = labelY;
      ctx.setLineDash([]);
      ctx.beginPath();
      ctx.moveTo(right, y);
      ctx.lineTo(right + 5 * ratio, labelY);
      ctx.stroke();
      ctx.fillText(label, right + 8 * ratio, labelY);
    }
    ctx.restore();
  }

  // === in words and numbers ===

  /** Brings the summary and, where it is open, the table up to date. Seldom: else a screen reader would not rest. */
  describe() {
    const history = this.#history;
    const series = this.#options.series();
    if (history.length === 0) return;
    const from = history.since(history.last - this.#range);
    const said = series.map(({ name, label, column }) => {
      const values = history.column(column).slice(from).filter((value) => value !== null);
      const now = this.#options.format(history.latest(column));
      return `${label ?? name} ${now}, highest ${this.#options.format(values.length ? highest([values]) : null)}`;
    });
    const lines = this.lines.map(({ label }) => label);
    const level = LEVELS[history.latest("level")];
    this.canvas.setAttribute(
      "aria-label",
      `${this.#options.title}, last ${this.#range / 60} minutes: ${said.join("; ")}.` +
        (lines.length ? ` Thresholds: ${lines.join(", ")}.` : "") +
        (level ? ` Level ${level}.` : ""),
    );
    if (this.#table.open) this.#fill(series);
  }

  #fill(series) {
    const history = this.#history;
    const columns = series.map(({ column }) => history.column(column));
    const levels = history.column("level");
    const rows = [];
    for (let at = history.length - 1, next = Infinity; at >= 0 && history.last - history.time[at] <= TABLE_SPAN; at -= 1) {
      if (history.time[at] > next) continue;
      next = history.time[at] - TABLE_STEP + 0.5;
      rows.push(
        el(
          "tr",
          {},
          el("th", { scope: "row" }, clock(history.time[at])),
          el("td", {}, LEVELS[levels[at]] ?? "–"),
          ...columns.map((column) => el("td", {}, this.#options.format(column[at]))),
        ),
      );
    }
    const head = ["Time", "Level", ...series.map(({ name, label }) => label ?? name)];
    const table = el(
      "table",
      { class: "plain num" },
      el("caption", {}, `${this.#options.title}, the last 5 minutes, every ${TABLE_STEP} s, newest first`),
      el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows),
    );
    const old = this.#table.querySelector(".scroll");
    const box = old ?? el("div", { class: "scroll table-box", tabindex: "0", role: "region", "aria-label": `${this.#options.title} as a table` });
    const place = box.scrollTop;
    box.replaceChildren(table);
    if (!old) this.#table.append(box);
    box.scrollTop = place;
  }
}

function highest(columns) {
  let most = 0;
  for (const column of columns) for (const value of column) if (value !== null && value > most) most = value;
  return most;
}

/** Puts a moment without values into every gap, so that no line is drawn over it. */
function withGaps(data) {
  const [time] = data;
  if (!time.some((at, index) => index > 0 && at - time[index - 1] > GAP)) return data;
  const out = data.map(() => []);
  time.forEach((at, index) => {
    if (index > 0 && at - time[index - 1] > GAP) out.forEach((column, which) => column.push(which ? null : at - 1));
    out.forEach((column, which) => column.push(data[which][index]));
  });
  return out;
}

/** Stretches of one level. */
export function runsOf(time, levels) {
  const runs = [];
  for (let at = 0; at < levels.length; at += 1) {
    const run = runs.at(-1);
    const joined = run && time[at] - run.to <= GAP;
    if (joined) run.to = time[at];
    if (!joined || run.level !== levels[at]) runs.push({ level: levels[at], from: time[at], to: time[at] });
  }
  return runs;
}

const hatches = new Map();

/** A pattern for a level: wide lines for `offload`, close ones for `throttle`, crossed ones for `drop`. */
function hatch(ctx, level, colour, ratio) {
  const key = `${level} ${colour} ${ratio}`;
  if (!hatches.has(key)) {
    const size = Math.round([0, 14, 8, 8][level] * ratio);
    const canvas = el("canvas", { width: size, height: size });
    const pen = canvas.getContext("2d");
    pen.strokeStyle = colour;
    pen.lineWidth = ratio;
    pen.beginPath();
    // Drawn past the corners, so that the tiles join.
    for (const shift of [-size, 0, size]) {
      pen.moveTo(shift - 1, size + 1);
      pen.lineTo(shift + size + 1, -1);
      if (level === 3) {
        pen.moveTo(shift - 1, -1);
        pen.lineTo(shift + size + 1, size + 1);
      }
    }
    pen.stroke();
    hatches.set(key, ctx.createPattern(canvas, "repeat"));
  }
  return hatches.get(key);
}
