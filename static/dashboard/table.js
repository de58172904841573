// A table whose rows stay and whose cells change in place: with 200 servers, building it anew each second would
// take the operator's scroll place, selection and focus away.

import { attribute, el, text } from "./dom.js";

export class Table {
  #table;
  #columns;
  #rows = new Map();
  #sort;
  #body;
  #heads = [];
  #order = "";

  /**
   * `columns`: `[{name, title, rank(item), cell(td, item), make?(td), num, wide}]`, the first of which heads its row;
   * `rank` gives what is sorted by. `first(item)` ranks before the chosen column. `row(tr, item)` marks the row.
   */
  constructor(table, columns, { key, row = () => {}, sort = null } = {}) {
    this.#table = table;
    this.#columns = columns;
    this.key = key;
    this.mark = row;
    this.#sort = sort;
    // Roles are said because the narrow layout takes the table's display, and with it its meaning, away.
    const head = el("tr", { role: "row" });
    for (const column of columns) {
      const title = column.rank ? el("button", { type: "button", class: "sort" }, column.title) : column.title;
      const cell = el("th", { scope: "col", role: "columnheader", class: column.num ? "num" : null }, title);
      if (column.rank) title.addEventListener("click", () => this.#sortBy(column));
      head.append(cell);
      this.#heads.push(cell);
    }
    table.tHead.setAttribute("role", "rowgroup");
    table.tHead.append(head);
    this.#body = table.tBodies[0];
    this.#body.setAttribute("role", "rowgroup");
    this.#showSort();
  }

  #sortBy(column) {
    const same = this.#sort?.column === column.name;
    this.#sort = { column: column.name, down: same ? !this.#sort.down : !!column.num };
    this.#showSort();
    this.show(this.items);
  }

  #showSort() {
    this.#columns.forEach((column, at) => {
      if (!column.rank) return;
      const chosen = this.#sort?.column === column.name;
      attribute(this.#heads[at], "aria-sort", chosen ? (this.#sort.down ? "descending" : "ascending") : "none");
    });
  }

  show(items) {
    this.items = items;
    const gone = new Set(this.#rows.keys());
    for (const item of items) {
      const key = this.key(item);
      gone.delete(key);
      let row = this.#rows.get(key);
      if (!row) this.#rows.set(key, (row = this.#make(key)));
      this.mark(row.tr, item);
      this.#columns.forEach((column, at) => column.cell(row.cells[at], item));
    }
    for (const key of gone) {
      this.#rows.get(key).tr.remove();
      this.#rows.delete(key);
    }
    this.#arrange(items);
  }

  #make() {
    const cells = this.#columns.map((column, at) => {
      const cell = el(at === 0 ? "th" : "td", {
        scope: at === 0 ? "row" : null,
        role: at === 0 ? "rowheader" : "cell",
        class: [column.num && "num", column.class].filter(Boolean).join(" ") || null,
        "data-label": column.title,
      });
      column.make?.(cell);
      return cell;
    });
    return { tr: el("tr", { role: "row" }, ...cells), cells };
  }

  #arrange(items) {
    const column = this.#columns.find(({ name }) => name === this.#sort?.column);
    let sorted = items;
    if (column) {
      const sign = this.#sort.down ? -1 : 1;
      // Those of which nothing is known stand last, whichever way it is sorted.
      sorted = items
        .map((item, at) => ({ item, at, rank: column.rank(item) }))
        .sort((a, b) => {
          if (a.rank == null || b.rank == null) return (a.rank == null) - (b.rank == null) || a.at - b.at;
          const order = typeof a.rank === "string" ? a.rank.localeCompare(b.rank, "en", { numeric: true }) : a.rank - b.rank;
          return sign * order || a.at - b.at;
        })
        .map(({ item }) => item);
    }
    const keys = sorted.map(this.key);
    const order = JSON.stringify(keys);
    if (order === this.#order) return;
    this.#order = order;
    keys.forEach((key, at) => {
      const { tr } = this.#rows.get(key);
      const there = this.#body.children[at];
      if (there !== tr) this.#body.insertBefore(tr, there ?? null);
    });
  }
}

/** A cell of plain text. */
export const plain = (say) => (cell, item) => text(cell, say(item));
