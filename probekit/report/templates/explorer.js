"use strict";
// The explorer: what the reader chose is in `state`; each draw* function shows a part of it. All texts reach the page as
// text, never as HTML.
(async () => {
  const element = (name) => document.getElementById(`explorer-${name}`);
  const data = JSON.parse(element("data").textContent);
  const FEW = 12, ROWS = 25, NAME = 18;  // classes shown at first, rows of a table, characters of a name in a chart
  const plots = {};
  const state = {};  // site, order (of nodes), ranks, classes (numbers in the site), variable, node (position), sorted

  // Results, unpacked when they are needed.
  const unpacked = new Map();
  const unpack = (packed) => {
    if (!unpacked.has(packed)) unpacked.set(packed, inflate(packed));
    return unpacked.get(packed);
  };
  async function inflate({kind, data}) {
    const text = atob(data), bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const plain = new Uint8Array(await new Response(stream).arrayBuffer());
    if (kind === "u1") return plain;
    const count = plain.length / 4, whole = new Uint8Array(plain.length);
    for (let byte = 0; byte < 4; byte++)
      for (let i = 0; i < count; i++) whole[4 * i + byte] = plain[byte * count + i];
    return new Float32Array(whole.buffer);
  }
  const flag = (each) => each.values.kind === "u1";  // of yes and no; last in tables
  const variable = (name) => state.site.variables.find((each) => each.name === name);
  const number = (position) => state.site.nodes ? state.site.nodes[position] : position;
  const position = (node) => state.site.nodes ? state.site.nodes.indexOf(node) : node;
  const className = (c) => data.classes[state.site.classes[c]];
  const colourOf = (c) => state.site.classes[c];

  // The value of a node: of its own, or of the chosen class that stands out most; with the class, and what ranks it.
  function standout(values, {kind, neutral}, node) {
    const nodes = state.site.shown, classes = kind === "class" ? state.classes : [0];
    let best = {value: NaN, key: -Infinity, class: null};
    for (const c of classes) {
      const value = values[c * nodes + node], key = neutral === null ? value : Math.abs(value - neutral);
      if (key > best.key) best = {value, key, class: kind === "class" ? c : null};
    }
    return best;
  }
  function pair(values, mirror, a, b, node) {
    const nodes = state.site.shown, classes = state.site.classes.length;
    if (mirror === "none") return values[(a * classes + b) * nodes + node];
    const [low, high] = a <= b ? [a, b] : [b, a];
    const value = values[(low * classes - low * (low - 1) / 2 + high - low) * nodes + node];
    if (a <= b || mirror === "same") return value;
    return mirror === "complement" ? 1 - value : -value;
  }

  // Small parts of a page.
  function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }
  function shown(value, kind) {
    if (kind === "u1") return value ? "yes" : "no";
    if (Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
    return text.replace("-", "−");
  }
  const short = (name) => name.length > NAME ? `${name.slice(0, NAME - 1)}…` : name;
  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([value, text]) => make("option", {value, textContent: text})));
    select.value = chosen;
  }
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const find = (plot, name) => plots[plot].document.get_model_by_name(name);

  // Charts.
  async function embed() {
    for (const name of ["nodes", "classes"]) {
      const views = await Bokeh.embed.embed_item({...data.charts[name], target_id: `explorer-${name}`});
      plots[name] = views.roots[0].model;
    }
    plots.nodes.on_event("tap", (event) => nearest(event, (node) => act(() => choose(node))));
    plots.nodes.on_event("mousemove", (event) => nearest(event, point));
  }
  function paint() {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;
    const colours = data.colours[dark ? "dark" : "light"];
    const ink = css("--ink"), soft = css("--soft"), rule = css("--rule");
    for (const plot of Object.values(plots)) {
      for (const axis of [...plot.below, ...plot.left])
        axis.setv({major_label_text_color: soft, axis_line_color: rule, major_tick_line_color: rule});
      for (const grid of plot.center.filter((each) => each.type === "Grid")) grid.grid_line_color = rule;
      for (const mapper of plot.document.all_models) if (mapper.name === "colours") mapper.palette = colours;
    }
    find("nodes", "mark").line_color = ink;
    find("nodes", "ring").glyph.line_color = {value: ink};
    element("classes-chosen").querySelectorAll("input").forEach((box) =>
      box.style.setProperty("accent-color", colours[box.dataset.colour]));
    element("classes-chosen").querySelectorAll("i").forEach((swatch) =>
      swatch.style.setProperty("background", colours[swatch.dataset.colour]));
  }

  async function drawNodes() {
    const chosen = variable(state.variable), values = await unpack(chosen.values), nodes = state.site.shown;
    const best = Array.from({length: nodes}, (_, node) => standout(values, chosen, node));
    state.ranked = best.map((_, node) => node).filter((node) => best[node].key > -Infinity)
      .sort((a, b) => best[b].key - best[a].key || a - b);
    const place = state.place = new Float64Array(nodes).fill(NaN);
    if (state.sorted) state.ranked.forEach((node, at) => { place[node] = at + 1; });
    else for (let node = 0; node < nodes; node++) place[node] = number(node);
    const x = [], y = [], c = [], node = [];
    let low = Infinity, high = -Infinity;
    for (const each of chosen.kind === "class" ? state.classes : [null])
      for (let i = 0; i < nodes; i++) {
        const value = values[(each ?? 0) * nodes + i];
        if (!Number.isFinite(value) || Number.isNaN(place[i])) continue;
        x.push(place[i]); y.push(value); c.push(each === null ? 0 : colourOf(each)); node.push(i);
        low = Math.min(low, value); high = Math.max(high, value);
      }
    state.dots = {x, y, c, node};
    const margin = 0.05 * (high - low) || 0.5;
    plots.nodes.y_range.setv(low <= high ? {start: low - margin, end: high + margin} : {start: 0, end: 1});
    state.span = state.sorted ? [0, state.ranked.length + 1] : [number(0) - 1, number(nodes - 1) + 1];
    plots.nodes.x_range.setv({start: state.span[0], end: state.span[1]});
    find("nodes", "dots").data = {x, y, c};
    find("nodes", "dots").change.emit();
    const glyph = find("nodes", "points").glyph;
    glyph.size = {value: x.length > 20000 ? 2 : x.length > 2000 ? 3 : x.length > 400 ? 6 : 9};
    element("variable-shown").textContent = state.variable;
    element("nodes-shown").textContent = [
      state.sorted ? "Nodes in order, those that stand out most first." : "Nodes by number.",
      chosen.large ? `Large values: ${chosen.large}.` : "",
      chosen.neutral === null ? "" : `${shown(chosen.neutral)} says nothing; nodes far from it stand out.`,
    ].join(" ");
    drawMark();
  }
  function drawMark() {
    const {x, y, c, node} = state.dots, at = [];
    node.forEach((each, i) => { if (each === state.node) at.push(i); });
    find("nodes", "chosen").data = {x: at.map((i) => x[i]), y: at.map((i) => y[i]), c: at.map((i) => c[i])};
    const place = state.place[state.node];
    find("nodes", "mark").setv({location: place, visible: !Number.isNaN(place)});
  }

  async function drawClasses() {
    const cells = state.site.cells, nodes = state.site.shown, node = state.node, rows = state.classes;
    const outlines = {xs: [], ys: [], c: []}, stems = {x: [], y0: [], y1: [], c: []};
    let low = Infinity, high = -Infinity;
    if (cells) {
      const [edges, heights, atoms, shares] =
        await Promise.all([cells.edges, cells.heights, cells.values, cells.shares].map(unpack));
      const edge = edges.subarray(node * (cells.bins + 1), (node + 1) * (cells.bins + 1)).filter((x) => !Number.isNaN(x));
      const atom = atoms.subarray(node * cells.atoms, (node + 1) * cells.atoms).filter((x) => !Number.isNaN(x));
      for (const x of [...edge, ...atom]) { low = Math.min(low, x); high = Math.max(high, x); }
      rows.forEach((c, row) => {
        const base = rows.length - 1 - row, xs = [], ys = [], first = (c * nodes + node) * cells.bins;
        for (let bin = 0; bin + 1 < edge.length; bin++) {
          const top = base + 1.4 * heights[first + bin] / 255;
          xs.push(edge[bin], edge[bin + 1]); ys.push(top, top);
        }
        if (xs.length) {
          outlines.xs.push([edge[0], ...xs, edge[edge.length - 1]]);
          outlines.ys.push([base, ...ys, base]);
          outlines.c.push(colourOf(c));
        }
        atom.forEach((x, at) => {
          const share = shares[(c * nodes + node) * cells.atoms + at];
          if (share > 0) { stems.x.push(x); stems.y0.push(base); stems.y1.push(base + 0.9 * share); stems.c.push(colourOf(c)); }
        });
      });
    }
    const margin = low < high ? 0.04 * (high - low) : 0.5;
    plots.classes.x_range.setv(low <= high ? {start: low - margin, end: high + margin} : {start: 0, end: 1});
    find("classes", "outlines").data = outlines;
    find("classes", "stems").data = stems;
    const nothing = !cells ? "The metric histogram wasn't measured, so there are no distributions to draw."
      : low <= high ? "" : "This node has infinite values, or none: there is no distribution to draw.";
    element("nothing").textContent = nothing;
    element("nothing").hidden = !nothing;
  }
  // The classes' names along the axis; PlainText, since Bokeh would take dollar signs for a formula.
  function nameRows() {
    const rows = state.classes, every = Math.ceil(rows.length / 40), plain = Bokeh.Models.get("PlainText");
    const named = rows.map((c, row) => [rows.length - 1 - row, className(c)]).filter((_, row) => row % every === 0);
    const axis = plots.classes.left[0];
    axis.ticker.ticks = named.map(([at]) => at);
    axis.major_label_overrides = new Map(named.map(([at, name]) => [at, new plain({text: short(name)})]));
    plots.classes.y_range.setv({start: -0.3, end: Math.max(rows.length, 1) + 0.6});
    plots.classes.height = Math.min(760, 90 + 30 * Math.max(rows.length, 2));
  }

  // Tables.
  function cell(text, properties = {}) {
    return make("td", {className: "num", textContent: text, ...properties});
  }
  function heading(c) {
    return make("th", {scope: "row", title: className(c), textContent: short(className(c))});
  }
  async function drawValues() {
    const shownOnes = state.site.variables.filter((each) => each.kind === "class")
      .sort((a, b) => (b.name === state.variable) - (a.name === state.variable) || flag(a) - flag(b)), nodes = state.site.shown;
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
    const table = rows.map((a) => rows.map((b) => pair(values, chosen.values.mirror, a, b, state.node)));
    const others = table.flatMap((row, a) => row.filter((value, b) => a !== b && Number.isFinite(value)));
    const least = Math.min(...others), most = Math.max(...others);
    const strength = (value) => chosen.neutral === null ? (value - least) / (most - least || 1)
      : Math.abs(value - chosen.neutral) / (Math.max(Math.abs(most - chosen.neutral), Math.abs(least - chosen.neutral)) || 1);
    const head = make("tr", {}, make("td"), ...rows.map((c) =>
      make("th", {scope: "col", className: "num", title: className(c), textContent: short(className(c))})));
    const body = rows.map((a, i) => make("tr", {}, heading(a), ...rows.map((b, j) => {
      const made = cell(shown(Number(table[i][j].toPrecision(3))), {title: `${className(a)}, ${className(b)}`});
      if (i !== j && Number.isFinite(table[i][j]))
        made.style.setProperty("--strength", `${Math.round(45 * Math.min(strength(table[i][j]), 1))}%`);
      return made;
    })));
    element("pairs").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  }

  // The table of all nodes: the value that ranks them, its class, and what else there is of a node.
  async function tabulate() {
    const chosen = variable(state.variable), values = await unpack(chosen.values);
    const more = state.site.variables.filter((each) => each.kind === "node" && each.name !== chosen.name)
      .sort((a, b) => flag(a) - flag(b));
    const columns = await Promise.all(more.map((each) => unpack(each.values)));
    state.columns = [
      {name: "node", of: number, text: (node) => String(number(node))},
      {name: chosen.name, of: (node) => standout(values, chosen, node).value, kind: chosen.values.kind},
      ...(chosen.kind === "class"
        ? [{name: "class", of: (node) => { const {class: c} = standout(values, chosen, node); return c === null ? "" : className(c); }}]
        : []),
      ...more.map((each, at) => ({name: each.name, of: (node) => columns[at][node], kind: each.values.kind})),
    ];
    state.by = null;
    state.rows = ROWS;
    drawTable();
  }
  function matches(filter) {
    const tests = filter.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean).map((part) => {
      const found = part.match(/^(.+?)\s*(<=|>=|<|>|=)\s*(-?[\d.]+(?:e[-+]?\d+)?)$/);
      const column = found && state.columns.find((each) => each.name.toLowerCase() === found[1].trim());
      if (column) {
        const [, , sign, text] = found, limit = Number(text);
        return (node) => {
          const value = Number(column.of(node));
          return {"<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit}[sign];
        };
      }
      if (found) return null;
      if (/^\d+$/.test(part)) return (node) => number(node) === Number(part);
      const named = state.columns.find((each) => each.name === "class");
      return named ? (node) => named.of(node).toLowerCase().includes(part) : null;
    });
    return tests.includes(null) ? null : (node) => tests.every((test) => test(node));
  }
  function drawTable() {
    const test = matches(element("filter").value), {by} = state;
    const every = Array.from({length: state.site.shown}, (_, node) => node);
    const ranked = new Set(state.ranked);
    const found = by === null ? [...ranked, ...every.filter((node) => !ranked.has(node))] : every;
    const kept = test ? found.filter(test) : [];
    if (by !== null) {
      const keys = new Map(kept.map((node) => [node, state.columns[by].of(node)]));
      kept.sort((a, b) => state.turn * compare(keys.get(a), keys.get(b), state.turn) || a - b);
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
          ariaLabel: `Choose node ${value}`, onclick: () => act(() => choose(node))}));
        return typeof value === "string" ? make("td", {textContent: value}) : cell(shown(value, column.kind));
      })));
    element("table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    const names = state.columns.map((column) => column.name).join(", ");
    element("matching").textContent = test ? `${kept.length} of ${state.site.total} nodes.`
      : `That isn't a filter. Write a node's number, a part of a class's name, or a column with < > or =: ${names}.`;
    element("more").hidden = kept.length <= state.rows;
  }
  // Missing values come last, whichever way it is sorted.
  function compare(a, b, turn) {
    if (typeof a === "string") return a.localeCompare(b);
    if (Number.isNaN(a) || Number.isNaN(b)) return turn * (Number.isNaN(a) - Number.isNaN(b));
    return a - b;
  }
  function sortBy(at) {
    state.turn = state.by === at ? -state.turn : at === 0 || state.columns[at].name === "class" ? 1 : -1;
    state.by = at;
    drawTable();
    element("table").querySelectorAll("thead button")[at].focus();
  }

  // Choices, one after the other: none begins while results are unpacked for another.
  let last = Promise.resolve();
  const act = (then) => { last = last.catch(() => {}).then(then); };
  const on = (name, event, then) => element(name).addEventListener(event, () => act(then));
  async function choose(node) {
    state.node = node;
    element("node").value = number(node);
    drawMark();
    await Promise.all([drawClasses(), drawValues(), drawPairs()]);
    element("table").querySelectorAll("tbody tr").forEach((row) =>
      row.classList.toggle("chosen", row.querySelector("button").textContent === String(number(node))));
    const rank = state.ranked.indexOf(node), values = await unpack(variable(state.variable).values);
    const best = standout(values, variable(state.variable), node);
    element("status").textContent = `Node ${number(node)} of ${state.site.name}: ` + (rank < 0
      ? `${state.variable} has no value here.`
      : `${state.variable} ${shown(best.value, variable(state.variable).values.kind)}` +
        `${best.class === null ? "" : ` for ${className(best.class)}`}, rank ${rank + 1} of ${state.ranked.length}.`);
    element("of-node").textContent = `node ${number(node)} of ${state.site.name}`;
  }
  function nearest(event, then) {
    const {x_range, y_range, inner_width, inner_height} = plots.nodes, {x, y, c, node} = state.dots;
    const wide = inner_width / (x_range.end - x_range.start), high = inner_height / (y_range.end - y_range.start);
    let best = null, least = Infinity;
    for (let i = 0; i < x.length; i++) {
      const distance = ((x[i] - event.x) * wide) ** 2 + ((y[i] - event.y) * high) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    if (best !== null) then(node[best], y[best], c[best]);
  }
  function point(node, value, c) {
    const of = variable(state.variable).kind === "class" ? `, ${data.classes[c]}` : "";
    element("pointed").textContent = `node ${number(node)}${of}: ${shown(value)}`;
  }
  function step(by) {
    const order = state.sorted ? state.ranked : null, count = order ? order.length : state.site.shown;
    const at = order ? order.indexOf(state.node) : state.node;
    const next = ((at + by) % count + count) % count;
    return choose(order ? order[next] : next);
  }
  function nextSelective() {
    return state.ranked.length ? choose(state.ranked[(state.ranked.indexOf(state.node) + 1) % state.ranked.length]) : null;
  }
  function zoom(by) {
    const {x_range} = plots.nodes, [first, last] = state.span;
    const width = Math.min((x_range.end - x_range.start) * by, last - first);
    const middle = by > 1 ? (x_range.start + x_range.end) / 2 : state.place[state.node];
    const start = Math.min(Math.max(middle - width / 2, first), last - width);
    if (Number.isFinite(start)) x_range.setv({start, end: start + width});
  }
  async function redraw() {
    await drawNodes();
    await tabulate();
    await choose(state.node);
  }
  function chooseClasses(classes) {
    state.classes = classes;
    element("classes-chosen").querySelectorAll("input").forEach((box) => { box.checked = classes.includes(Number(box.value)); });
    nameRows();
    return redraw();
  }
  function chooseSite(name) {
    const previous = state.site, kept = new Set(previous ? state.classes.map(className) : []);
    const site = state.site = data.sites.find((each) => each.name === name);
    const every = site.classes.map((_, c) => c);
    const known = every.filter((c) => kept.has(className(c)));
    const classes = known.length ? known : every.slice(0, every.length <= FEW ? FEW : 10);
    const ranked = site.variables.filter((each) => each.kind !== "pairs"), pairs = site.variables.filter((each) => each.kind === "pairs");
    state.variable = ranked.some((each) => each.name === state.variable) ? state.variable : site.first;
    options(element("variable"), ranked.map((each) => [each.name, each.name]), state.variable);
    options(element("pair"), pairs.map((each) => [each.name, each.name]), (pairs[0] ?? {name: ""}).name);
    element("node").max = number(site.shown - 1);
    element("count").textContent = site.nodes ? `of ${site.total}; ${site.shown} are here` : `0 to ${site.total - 1}`;
    element("classes-chosen").replaceChildren(...every.map((c) => make("label", {},
      Object.assign(make("input", {type: "checkbox", value: c}), {onchange: () => act(tick)}), make("i"), className(c))));
    element("classes-chosen").querySelectorAll("label").forEach((label, c) => {
      label.querySelector("input").dataset.colour = label.querySelector("i").dataset.colour = colourOf(c);
    });
    element("classes-part").hidden = every.length < 2;
    state.node = null;
    state.classes = classes;
    paint();
    return first(classes);
  }
  // The site's most selective node, once its order is known.
  async function first(classes) {
    state.node = 0;
    await drawNodes();
    state.node = state.ranked[0] ?? 0;
    return chooseClasses(classes);
  }
  function tick() {
    const boxes = [...element("classes-chosen").querySelectorAll("input")];
    return chooseClasses(boxes.filter((box) => box.checked).map((box) => Number(box.value)));
  }
  function typed() {
    const node = element("node").value === "" ? -1 : Number(element("node").value);
    const at = Number.isInteger(node) && node >= 0 && node < state.site.total ? position(node) : -1;
    if (at >= 0) return choose(at);
    element("status").textContent = `${state.site.name} has no node ${element("node").value} here. It has ${element("count").textContent}.`;
  }

  element("form").addEventListener("submit", (event) => event.preventDefault());
  on("site", "change", () => chooseSite(element("site").value));
  on("variable", "change", () => { state.variable = element("variable").value; return redraw(); });
  on("sorted", "change", () => { state.sorted = element("sorted").checked; return drawNodes(); });
  on("pair", "change", drawPairs);
  on("node", "change", typed);
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("selective", "click", nextSelective);
  on("every", "click", () => chooseClasses(state.site.classes.map((_, c) => c)));
  on("none", "click", () => chooseClasses([]));
  on("closer", "click", () => zoom(1 / 3));
  on("farther", "click", () => zoom(3));
  on("filter", "input", () => { state.rows = ROWS; drawTable(); });
  on("more", "click", () => { state.rows += 4 * ROWS; drawTable(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  await embed();
  options(element("site"), data.sites.map((site) => [site.name, site.name]), data.sites[0].name);
  await chooseSite(data.sites[0].name);
  element("form").hidden = false;
  document.getElementById("explorer").dataset.ready = "yes";
  performance.mark("explorer ready");
})();
