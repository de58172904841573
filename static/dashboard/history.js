// What the charts show: an hour of points, one a second, in columns of equal length.

const GROUPS = ["signals", "requests", "pages"];
const SINGLE = ["level", "share", "throttled", "dropped"];

export class History {
  /** The most points held. */
  #limit;
  time = [];
  /** Columns by name: "share", "signals.cpu", "requests.served". */
  #columns = new Map();

  constructor(limit = 3600) {
    this.#limit = limit;
  }

  get length() {
    return this.time.length;
  }

  /** The time of the last point, or nothing. */
  get last() {
    return this.time.at(-1);
  }

  /** Puts a whole history, as `/api/history` gives it, in the place of what is held. */
  replace(history) {
    const time = numbers(history.time);
    const from = Math.max(0, time.length - this.#limit);
    const columns = new Map();
    const take = (name, values) => {
      const column = numbers(values).slice(from, time.length);
      while (column.length < time.length - from) column.push(null);
      columns.set(name, column);
    };
    for (const name of SINGLE) take(name, history[name]);
    for (const group of GROUPS) {
      for (const [name, values] of Object.entries(history[group] ?? {})) take(`${group}.${name}`, values);
    }
    this.time = time.slice(from);
    this.#columns = columns;
  }

  /** Adds one point. One of a moment that is held replaces what is held from there on: a clock was set back. */
  push(point) {
    if (!Number.isFinite(point.time)) return;
    while (this.length > 0 && this.last >= point.time) this.#truncate(this.length - 1);
    const values = new Map(SINGLE.map((name) => [name, point[name]]));
    for (const group of GROUPS) {
      for (const [name, value] of Object.entries(point[group] ?? {})) values.set(`${group}.${name}`, value);
    }
    for (const name of values.keys()) {
      if (!this.#columns.has(name)) this.#columns.set(name, new Array(this.length).fill(null));
    }
    this.time.push(point.time);
    for (const [name, column] of this.#columns) column.push(number(values.get(name)));
    if (this.length > this.#limit) {
      this.time.shift();
      for (const column of this.#columns.values()) column.shift();
    }
  }

  #truncate(length) {
    this.time.length = length;
    for (const column of this.#columns.values()) column.length = length;
  }

  /** The names of a group's columns, without the group. */
  names(group) {
    return [...this.#columns.keys()]
      .filter((name) => name.startsWith(`${group}.`))
      .map((name) => name.slice(group.length + 1));
  }

  /** A column; of nothing known where there is none. */
  column(name) {
    return this.#columns.get(name) ?? new Array(this.length).fill(null);
  }

  /** The last value of a column. */
  latest(name) {
    return this.#columns.get(name)?.at(-1) ?? null;
  }

  /** The index of the first point at or after a time. */
  since(time) {
    let [low, high] = [0, this.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.time[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const numbers = (values) => (Array.isArray(values) ? values.map(number) : []);
