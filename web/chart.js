// Charts of the last ten minutes, drawn as SVG, and small ones for the lists.

import { bytes, clock, count, h, latency } from "./format.js";

const WIDTH = 600;
const HEIGHT = 150;
const LEFT = 4;
const BOTTOM = 18;

/** What is drawn: a title, the lines (their names and values) and how values are said. */
const CHARTS = [
  {
    id: "iops",
    title: "Requests",
    unit: "/s",
    say: count,
    lines: [
      { name: "reads", of: (p) => p.reads },
      { name: "writes", of: (p) => p.writes },
    ],
  },
  {
    id: "throughput",
    title: "Throughput",
    unit: "/s",
    say: bytes,
    lines: [
      { name: "read", of: (p) => p.read_bytes },
      { name: "written", of: (p) => p.written_bytes },
    ],
  },
  {
    id: "latency",
    title: "Latency",
    unit: "",
    note: "p99",
    say: latency,
    lines: [
      { name: "reads", of: (p) => p.read_p99_us },
      { name: "writes", of: (p) => p.write_p99_us },
    ],
  },
];

/** How many minutes are shown: as many as there is something to see in. */
function minutes(points, now) {
  const begun = points.find((p) => p.reads + p.writes + p.errors > 0)?.time_ms ?? now;
  return [2, 5, 10].find((m) => now - begun < m * 57_000) ?? 10;
}

/** The three charts of a course; `at` is where the pointer is (0 to 1), or null. */
export function charts(points, at, prefix = "") {
  return CHARTS.map((chart) => draw(chart, points, at, prefix));
}

function draw(chart, points, at, prefix) {
  const now = Math.max(points.at(-1)?.time_ms ?? 0, Date.now() - 4000);
  const shownMinutes = minutes(points, now);
  const from = now - shownMinutes * 60_000;
  const shown = points.filter((p) => p.time_ms >= from);
  const values = shown.flatMap((p) => chart.lines.map((l) => l.of(p) ?? 0));
  const top = nice(Math.max(1, ...values), chart.id === "throughput");
  const x = (p) => LEFT + ((p.time_ms - from) / (now - from)) * (WIDTH - LEFT);
  const y = (v) => 8 + (1 - v / top) * (HEIGHT - BOTTOM - 8);
  const focus = at === null ? shown.at(-1) : nearest(shown, from + at * (now - from));
  const legend = chart.lines.map((line, i) => {
    const value = focus ? line.of(focus) : 0;
    const text = value == null ? "–" : chart.say(value) + chart.unit;
    return h("span", { class: `key line-${i}` }, h("i", { "aria-hidden": "true" }), `${line.name} `, h("b", null, text));
  });
  const summary = chart.lines
    .map((l) => `${l.name} ${focus && l.of(focus) != null ? chart.say(l.of(focus)) + chart.unit : "none"}`)
    .join(", ");
  const svg = h(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "data-chart": chart.id, "aria-label": `${chart.title}: ${summary}. Highest in ${shownMinutes} minutes: ${chart.say(Math.max(0, ...values))}${chart.unit}.` },
    [0, 0.5, 1].map((part) => h("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(top * part), y2: y(top * part) })),
    chart.lines.flatMap((line, i) => [
      h("path", { class: `area line-${i}`, d: path(shown, line, x, y, y(0)) }),
      h("path", { class: `stroke line-${i}`, d: path(shown, line, x, y, null) }),
    ]),
    at !== null && focus && h("line", { class: "cursor", x1: x(focus), x2: x(focus), y1: 0, y2: HEIGHT - BOTTOM }),
  );
  return h(
    "figure",
    { class: "chart", "data-key": prefix + chart.id },
    h("figcaption", null, h("h3", null, chart.title, chart.note && h("small", null, ` ${chart.note}`)), h("div", { class: "legend" }, legend)),
    h("div", { class: "plot", "data-plot": "" }, svg, h("span", { class: "most" }, chart.say(top) + chart.unit)),
    h("div", { class: "axis", "aria-hidden": "true" }, h("span", null, `${shownMinutes} min ago`), h("span", null, at !== null && focus ? clock(focus.time_ms) : ""), h("span", null, "now")),
  );
}

/** A line through the points; where there is no value it is interrupted. With a floor: the area under it. */
function path(points, line, x, y, floor) {
  let text = "";
  let begun = null;
  let last = null;
  const end = () => {
    if (begun !== null && floor !== null) text += `L${last} ${floor}L${begun} ${floor}Z`;
    begun = null;
  };
  for (const point of points) {
    const value = line.of(point);
    if (value == null) {
      end();
      continue;
    }
    const at = x(point).toFixed(1);
    text += `${begun === null ? "M" : "L"}${at} ${y(value).toFixed(1)}`;
    begun ??= at;
    last = at;
  }
  end();
  return text;
}

function nearest(points, time) {
  let best = points.at(-1);
  for (const p of points) if (best === undefined || Math.abs(p.time_ms - time) < Math.abs(best.time_ms - time)) best = p;
  return best;
}

/** A round number not below n. */
function nice(n, binary) {
  const base = binary ? 1024 ** Math.floor(Math.log(n) / Math.log(1024)) : 1;
  const value = n / base;
  const scale = 10 ** Math.floor(Math.log10(value));
  return base * scale * [1, 2, 5, 10].find((step) => step * scale >= value);
}

/** A small course of requests without words. */
export function spark(points) {
  const values = (points ?? []).slice(-60).map((p) => p.reads + p.writes);
  const top = Math.max(1, ...values);
  const text = values.map((v, i) => `${i ? "L" : "M"}${(((i + 60 - values.length) / 59) * 100).toFixed(1)} ${(23 - (v / top) * 21).toFixed(1)}`).join("");
  return h("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, h("path", { d: text }));
}
