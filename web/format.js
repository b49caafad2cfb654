// Numbers, times and elements: small things that everything else uses.

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes as people say them: 1.5 GiB. */
export function bytes(n) {
  let unit = 0;
  while (n >= 1024 && unit < BINARY.length - 1) {
    n /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || n >= 100 || Number.isInteger(n) ? 0 : 1;
  return `${n.toFixed(digits)} ${BINARY[unit]}`;
}

/** A count: 950, 1.2k, 34k, 1.2M. */
export function count(n) {
  if (n < 10 && !Number.isInteger(n)) return n.toFixed(1);
  if (n < 1000) return String(Math.round(n));
  const [value, unit] = n < 1e6 ? [n / 1e3, "k"] : [n / 1e6, "M"];
  return `${value.toFixed(value < 10 ? 1 : 0)}${unit}`;
}

/** Microseconds: 96 µs, 1.5 ms, 2.1 s. */
export function latency(us) {
  if (us == null) return "–";
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${(us / 1000).toFixed(us < 10_000 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(1)} s`;
}

/** Milliseconds as a span of time: 8 s, 3 min, 2 h. */
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} days`;
}

/** Milliseconds since 1970 as a time of day. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

/** 3 volumes, 1 volume. */
export function many(n, one, several = `${one}s`) {
  return `${n} ${n === 1 ? one : several}`;
}

/** How far a rebuild is, 0 to 100. */
export function percent(rebuild) {
  return rebuild.bytes_total === 0 ? 0 : Math.floor((rebuild.bytes_done * 100) / rebuild.bytes_total);
}

/** Texts from the control plane begin with small letters; alone on a line they begin with a capital. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// ---- elements ---------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "line", "circle", "rect", "g", "text", "polyline", "use", "title"]);

/** An element. `props`: attributes; `vars` sets CSS variables; false, null and undefined leave an attribute away. */
export function h(tag, props, ...children) {
  const element = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value == null) continue;
    if (name === "vars") {
      for (const [variable, to] of Object.entries(value)) element.style.setProperty(`--${variable}`, to);
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child !== false && child != null) element.append(child);
  }
  return element;
}

/** Makes `live` like `wanted` in place, so that focus, scrolling and open parts stay as they are. */
export function morph(live, wanted) {
  if (live.nodeType !== wanted.nodeType || live.nodeName !== wanted.nodeName || key(live) !== key(wanted)) {
    live.replaceWith(wanted);
    return;
  }
  if (live.nodeType === Node.TEXT_NODE) {
    if (live.data !== wanted.data) live.data = wanted.data;
    return;
  }
  for (const { name } of [...live.attributes]) {
    if (!wanted.hasAttribute(name) && name !== "open" && name !== "style") live.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== "style" && live.getAttribute(name) !== value) live.setAttribute(name, value);
  }
  if (live.style.cssText !== wanted.style.cssText) live.style.cssText = wanted.style.cssText;
  fill(live, [...wanted.childNodes]);
}

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

/** Makes the children of `parent` like `wanted`; those with a data-key are found again wherever they are. */
export function fill(parent, nodes) {
  const wanted = nodes.map((n) => (typeof n === "string" ? document.createTextNode(n) : n));
  const keyed = new Map();
  for (const child of parent.childNodes) if (key(child)) keyed.set(key(child), child);
  const kept = new Set(wanted.map(key));
  for (const [name, child] of keyed) if (!kept.has(name)) child.remove();
  wanted.forEach((child, at) => {
    const here = parent.childNodes[at];
    const found = key(child) && keyed.get(key(child));
    if (found) {
      if (found !== here) parent.insertBefore(found, here ?? null);
      morph(found, child);
    } else if (here && !key(here)) {
      morph(here, child);
    } else {
      parent.insertBefore(child, here ?? null);
    }
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}
