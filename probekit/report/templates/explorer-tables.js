"use strict";
// The explorer's tables: a node's values by class and by pair of classes, and all nodes.
Object.assign(Explorer, (() => {
  const {make, element, state, unpack, flag, variable, number, className, apart, standout, pair, shown, short} = Explorer;
  const ROWS = 25;  // shown at first

  function cell(text, properties = {}) {
    return make("td", {className: "num", textContent: text, ...properties});
  }
  function heading(c) {
    return make("th", {scope: "row", title: className(c), textContent: short(className(c))});
  }
  // The chosen variable, then what an interval and a null say of it, then the others.
  const place = (each) => each.name === state.variable ? 0 : each.of === state.variable ? 1 : 2;
  const inPlace = (a, b) => place(a) - place(b) || flag(a) - flag(b);
  async function drawValues() {
    const shownOnes = state.site.variables.filter((each) => each.kind === "class").sort(inPlace), nodes = state.site.shown;
    const columns = await Promise.all(shownOnes.map((each) => unpack(each.values)));
    const head = make("tr", {}, make("th", {scope: "col", textContent: "class"}),
      ...shownOnes.map((each) => make("th", {scope: "col", className: "num", textContent: each.name})));
    const rows = state.classes.map((c) => make("tr", {}, heading(c), ...columns.map((values, at) =>
      cell(shown(values[c * nodes + state.node], shownOnes[at].values.kind)))));
    element("values").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    element("values-part").hidden = !shownOnes.length;
  }
  async function drawPairs() {
    const chosen = variable(element("pair").value);
    element("pairs-part").hidden = !chosen;
    if (!chosen) return;
    const values = await unpack(chosen.values), rows = state.classes;
    const ends = ["low", "high"].map((end) => variable(`${chosen.name}_${end}`)).filter(Boolean);
    const unpackedEnds = await Promise.all(ends.map((each) => unpack(each.values)));
    const interval = (a, b) => !ends.length || a === b ? "" : `: ${ends.map((each, at) =>
      shown(Number(pair(unpackedEnds[at], each.values.mirror, a, b, state.node).toPrecision(3)))).join(" to ")}`;
    const table = rows.map((a) => rows.map((b) => pair(values, chosen.values.mirror, a, b, state.node)));
    const others = table.flatMap((row, a) => row.filter((value, b) => a !== b && Number.isFinite(value)));
    const distances = others.map((value) => apart(value, chosen)), most = Math.max(...distances);
    const least = chosen.neutral === null ? Math.min(...distances) : 0;
    const strength = (value) => Math.max(0, (apart(value, chosen) - least) / (most - least || 1));
    const head = make("tr", {}, make("td"), ...rows.map((c) =>
      make("th", {scope: "col", className: "num", title: className(c), textContent: short(className(c))})));
    const body = rows.map((a, i) => make("tr", {}, heading(a), ...rows.map((b, j) => {
      const made = cell(shown(Number(table[i][j].toPrecision(3))), {title: `${className(a)}, ${className(b)}${interval(a, b)}`});
      if (i !== j && Number.isFinite(table[i][j]))
        made.style.setProperty("--strength", `${Math.round(45 * Math.min(strength(table[i][j]), 1))}%`);
      return made;
    })));
    element("pairs").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  }

  // The table of all nodes: the value that ranks them, its class, and what else there is of a node.
  async function tabulate() {
    const chosen = variable(state.variable), values = await unpack(chosen.values);
    const of = state.site.variables.filter((each) => chosen.kind === "class" && each.kind === "class" && each.of === chosen.name);
    const more = [...of, ...state.site.variables.filter((each) => each.kind === "node" && each.name !== chosen.name).sort(inPlace)];
    const columns = await Promise.all(more.map((each) => unpack(each.values)));
    const where = (each, node) => {  // among its values: at the class that stands out, where it has some of classes
      const {class: c} = standout(values, chosen, node);
      return each.kind === "node" ? node : c === null ? -1 : c * state.site.shown + node;
    };
    state.columns = [
      {name: "node", of: number, text: (node) => String(number(node))},
      {name: chosen.name, of: (node) => standout(values, chosen, node).value, kind: chosen.values.kind},
      ...(chosen.kind === "class"
        ? [{name: "class", of: (node) => { const {class: c} = standout(values, chosen, node); return c === null ? "" : className(c); }}]
        : []),
      ...more.map((each, at) => ({name: each.name, of: (node) => columns[at][where(each, node)] ?? NaN, kind: each.values.kind})),
    ];
    state.by = null;
    state.rows = ROWS;
    drawTable();
  }
  function matches(filter) {
    const named = state.columns.find((each) => each.name === "class");
    return Tables.testOf(filter, state.columns, (part) => {
      if (/^\d+$/.test(part)) return (node) => number(node) === Number(part);
      return named ? (node) => named.of(node).toLowerCase().includes(part) : null;
    });
  }
  function drawTable() {
    const test = matches(element("filter").value), {by} = state;
    const every = Array.from({length: state.site.shown}, (_, node) => node);
    const ranked = new Set(state.ranked);
    const found = by === null ? [...ranked, ...every.filter((node) => !ranked.has(node))] : every;
    const kept = test ? found.filter(test) : [];
    if (by !== null) {
      const keys = new Map(kept.map((node) => [node, state.columns[by].of(node)]));
      kept.sort((a, b) => Tables.order(keys.get(a), keys.get(b), state.turn) || a - b);
    }
    const head = make("tr", {}, ...state.columns.map((column, at) => {
      const sorted = by === at ? (state.turn > 0 ? "ascending" : "descending") : "none";
      return make("th", {scope: "col", ariaSort: sorted, className: column.name === "class" ? "" : "num"},
        make("button", {type: "button", textContent: column.name, onclick: () => sortBy(at)}));
    }));
    const rows = kept.slice(0, state.rows).map((node) => make("tr", {className: node === state.node ? "chosen" : ""},
      ...state.columns.map((column, at) => {
        const value = column.of(node);
        if (at === 0) return make("td", {className: "num"}, make("button", {type: "button", textContent: String(value),
          ariaLabel: `Choose node ${value}`, onclick: () => Explorer.act(() => Explorer.choose(node))}));
        return typeof value === "string" ? make("td", {textContent: value}) : cell(shown(value, column.kind));
      })));
    element("table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    const names = state.columns.map((column) => column.name).join(", ");
    element("matching").textContent = test ? `${kept.length} of ${state.site.total} nodes.`
      : `That isn't a filter. Write a node's number, a part of a class's name, or a column with < > or =: ${names}.`;
    element("more").hidden = kept.length <= state.rows;
  }
  function sortBy(at) {
    state.turn = state.by === at ? -state.turn : at === 0 || state.columns[at].name === "class" ? 1 : -1;
    state.by = at;
    drawTable();
    element("table").querySelectorAll("thead button")[at].focus();
  }
  const afresh = () => { state.rows = ROWS; drawTable(); };
  const more = () => { state.rows += 4 * ROWS; drawTable(); };

  return {drawValues, drawPairs, tabulate, afresh, more};
})());
