"use strict";
// The explorer's charts: every node of a site, and the distributions of the classes at the chosen one.
Object.assign(Explorer, (() => {
  const {element, data, state, unpack, variable, number, className, colourOf, standout, shown, short} = Explorer;
  const plots = {};
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const find = (plot, name) => plots[plot].document.get_model_by_name(name);

  async function embed() {
    for (const name of ["nodes", "classes"]) {
      const views = await Bokeh.embed.embed_item({...data.charts[name], target_id: `explorer-${name}`});
      plots[name] = views.roots[0].model;
    }
    plots.nodes.on_event("tap", (event) => nearest(event, (node) => Explorer.act(() => Explorer.choose(node))));
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
      chosen.about,
      chosen.neutral === null ? "" : `${shown(chosen.neutral)} says nothing; nodes far ${chosen.below ? "below" : "from"} it stand out.`,
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
  function zoom(by) {
    const {x_range} = plots.nodes, [first, last] = state.span;
    const width = Math.min((x_range.end - x_range.start) * by, last - first);
    const middle = by > 1 ? (x_range.start + x_range.end) / 2 : state.place[state.node];
    const start = Math.min(Math.max(middle - width / 2, first), last - width);
    if (Number.isFinite(start)) x_range.setv({start, end: start + width});
  }

  return {embed, paint, drawNodes, drawMark, drawClasses, nameRows, zoom};
})());
