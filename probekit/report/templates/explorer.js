"use strict";
// The explorer: what the reader chooses goes to `state`, and each draw* function shows a part of it.
(async () => {
  const {make, element, data, state, unpack, variable, number, position, className, colourOf, standout, shown, options} = Explorer;
  const {embed, paint, drawNodes, drawMark, drawClasses, nameRows, zoom, drawValues, drawPairs, tabulate, afresh, more} = Explorer;
  const FEW = 12;  // classes shown at first

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
  function step(by) {
    const order = state.sorted ? state.ranked : null, count = order ? order.length : state.site.shown;
    const at = order ? order.indexOf(state.node) : state.node;
    const next = ((at + by) % count + count) % count;
    return choose(order ? order[next] : next);
  }
  function nextSelective() {
    return state.ranked.length ? choose(state.ranked[(state.ranked.indexOf(state.node) + 1) % state.ranked.length]) : null;
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
    // What an interval and a null say of a variable stands beside it; p- and q-values may rank nodes.
    const offered = site.variables.filter((each) => !each.of || /_[pq]$/.test(each.name));
    const ranked = offered.filter((each) => each.kind !== "pairs"), pairs = offered.filter((each) => each.kind === "pairs");
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
  on("filter", "input", afresh);
  on("more", "click", more);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  Object.assign(Explorer, {act, choose});
  await embed();
  options(element("site"), data.sites.map((site) => [site.name, site.name]), data.sites[0].name);
  await chooseSite(data.sites[0].name);
  element("form").hidden = false;
  document.getElementById("explorer").dataset.ready = "yes";
  performance.mark("explorer ready");
})();
