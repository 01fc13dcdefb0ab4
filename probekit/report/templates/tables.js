"use strict";
// Tables sort by a click on a heading, and long ones filter. Without scripts they are plain tables.
const Tables = (() => {
  const LONG = 10;  // rows from which a table has a filter

  // Which of two values comes first; missing ones come last, whichever way it is sorted.
  const missing = (value) => value === "" || Number.isNaN(value);
  function order(a, b, turn) {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    if (typeof a === "string" || typeof b === "string")
      return turn * String(a).localeCompare(String(b), undefined, {numeric: true});
    return turn * (a - b);
  }

  // The test of a row that a filter stands for, or null where it isn't a filter. Columns have a `name` and `of` a row the
  // value; `named` gives the test, or null, for a part that compares nothing.
  function testOf(filter, columns, named) {
    const tests = filter.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean).map((part) => {
      const found = part.match(/^(.+?)\s*(<=|>=|<|>|=)\s*(-?[\d.]+(?:e[-+]?\d+)?)$/);
      const column = found && columns.find((each) => each.name.toLowerCase() === found[1].trim());
      if (!column) return found ? null : named(part);
      const [, , sign, text] = found, limit = Number(text);
      return (row) => {
        const value = Number(column.of(row));
        return {"<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit}[sign];
      };
    });
    return tests.includes(null) ? null : (row) => tests.every((test) => test(row));
  }

  function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function valueOf(cell) {
    const text = cell.textContent.trim();
    if (text === "–") return NaN;
    return cell.classList.contains("num") ? Number(cell.dataset.value ?? text) : text;
  }
  function improve(figure) {
    const {tHead: head, tBodies: [body]} = figure.querySelector("table"), rows = [...body.rows];
    const heads = [...head.querySelectorAll("th[rowspan]"), ...head.rows[head.rows.length - 1].querySelectorAll("th:not([rowspan])")];
    if (rows.length < 2 || rows.some((row) => row.cells.length !== heads.length)) return;
    const columns = heads.map((each, at) => ({name: each.textContent.trim(), of: (row) => valueOf(row.cells[at])}));
    sortable(heads, columns, rows, body);
    if (rows.length >= LONG) filterable(figure, columns, rows);
  }
  // A heading sorts one way, then the other, then as it was.
  function sortable(heads, columns, rows, body) {
    let by = null, turn = 0;
    heads.forEach((heading, at) => {
      if (!columns[at].name) return;
      const first = heading.classList.contains("num") ? -1 : 1;
      const sort = () => {
        turn = by !== at || turn === 0 ? first : turn === first ? -first : 0;
        by = at;
        heads.forEach((each) => { each.ariaSort = each !== heading || turn === 0 ? "none" : turn > 0 ? "ascending" : "descending"; });
        body.append(...(turn ? [...rows].sort((a, b) => order(columns[at].of(a), columns[at].of(b), turn)) : rows));
      };
      heading.replaceChildren(make("button", {type: "button", textContent: columns[at].name, onclick: sort}));
    });
  }
  function filterable(figure, columns, rows) {
    const input = make("input", {type: "search", autocomplete: "off"}), said = make("span", {className: "note", role: "status"});
    const number = columns.find((each) => rows.some((row) => typeof each.of(row) === "number"));
    input.placeholder = `a text${number ? `, or ${number.name} < 0.5` : ""}`;
    const has = (part) => (row) => [...row.cells].some((cell) => cell.textContent.toLowerCase().includes(part));
    input.addEventListener("input", () => {
      const test = testOf(input.value, columns, has), kept = rows.filter((row) => test && test(row));
      rows.forEach((row) => { row.hidden = !kept.includes(row); });
      said.textContent = test ? `${kept.length} of ${rows.length} rows.`
        : `That isn't a filter. Write a part of a text, or a column with < > or =: ${columns.map((each) => each.name).join(", ")}.`;
    });
    figure.querySelector(".scroll").before(make("p", {className: "row tools"}, make("label", {}, "Filter ", input), " ", said));
  }

  document.querySelectorAll("figure.table").forEach(improve);
  return {make, order, testOf};
})();
