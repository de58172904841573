// The classes of visitors.

import { $ } from "./dom.js";
import { plain, Table } from "./table.js";
import { count, percent } from "./units.js";

let table = null;

const COLUMNS = [
  { name: "name", title: "Class", cell: plain(({ name }) => name) },
  { name: "priority", title: "Priority", num: true, cell: plain(({ priority }) => String(priority)) },
  { name: "part", title: "Part", num: true, cell: plain(({ part }) => percent(part)) },
  { name: "throttled", title: "Turned away", num: true, cell: plain(({ throttled }) => percent(throttled)) },
  { name: "dropped", title: "Unanswered", num: true, cell: plain(({ dropped }) => percent(dropped)) },
  { name: "got503", title: "503s", num: true, cell: plain((it) => count(it.turned_away?.throttled)) },
  { name: "closed", title: "Closed", num: true, cell: plain((it) => count(it.turned_away?.dropped)) },
];

export function showClasses(classes) {
  $("classes-panel").hidden = classes.length === 0;
  table ??= new Table($("classes"), COLUMNS, { key: ({ name }) => name });
  table.show(classes);
}
