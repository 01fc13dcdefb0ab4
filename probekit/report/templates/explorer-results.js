"use strict";
// The explorer's results: unpacked where they are needed, and what a reader chose of them, in `state`. All texts reach the
// page as text, never as HTML.
const Explorer = (() => {
  const {make} = Tables;
  const element = (name) => document.getElementById(`explorer-${name}`);
  const data = JSON.parse(element("data").textContent);
  const NAME = 18;  // characters of a name in a chart
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

  // How far a value is from the one that says nothing; of an overlap, how far below it. The value, where there is no such.
  const apart = (value, {neutral, below}) =>
    neutral === null ? value : below ? neutral - value : Math.abs(value - neutral);

  // The value of a node: of its own, or of the chosen class that stands out most; with the class, and what ranks it.
  function standout(values, chosen, node) {
    const {kind} = chosen, nodes = state.site.shown, classes = kind === "class" ? state.classes : [0];
    let best = {value: NaN, key: -Infinity, class: null};
    for (const c of classes) {
      const value = values[c * nodes + node], key = apart(value, chosen);
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

  return {
    make, element, data, state, unpack, flag, variable, number, position, className, colourOf, apart, standout, pair, shown, short,
    options,
  };
})();
