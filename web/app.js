// The page: keeps what is known, draws it, and does what is asked.

import { charts } from "./chart.js";
import { deleteVolume, enterToken, newPool, newVolume } from "./dialogs.js";
import { fill, h } from "./format.js";
import { call, follow, hasToken, onTokenNeeded, setToken } from "./source.js";
import { attention, events, head, headline, isTrouble, nodes, tiles } from "./view.js";
import { volumes } from "./volumes.js";

const KEPT = 300;
const EVENTS = 300;

const known = {
  status: null,
  history: { cluster: [], nodes: {}, volumes: {} },
  events: [],
  /** When the last news came, while the connection is lost; else null. */
  lost: null,
  heard: 0,
};
const view = { find: "", open: new Set(), which: "all", at: null, drawing: false };
const part = (id) => document.getElementById(id);

// ---- drawing ----------------------------------------------------------------------------------------------------------

/** Draws with the next frame; many changes become one drawing. */
function draw() {
  if (view.drawing) return;
  view.drawing = true;
  requestAnimationFrame(() => {
    view.drawing = false;
    paint();
  });
  // A tab in the background has no frames, and shall be right when it is looked at.
  if (document.hidden) setTimeout(() => view.drawing && ((view.drawing = false), paint()), 1000);
}

function paint() {
  const { status, history } = known;
  document.body.classList.toggle("stale", known.lost !== null);
  fill(part("live"), [h("span", { class: known.lost ? "off" : "on", "aria-hidden": "true" }), known.lost ? "no connection" : status ? "live" : "connecting"]);
  if (!status) return;
  part("forget").hidden = !hasToken();
  const line = headline(status, known.lost);
  document.title = line.look === "good" ? "Mayastor" : `${line.title} – Mayastor`;
  fill(part("headline"), head(line));
  fill(part("tiles"), tiles(status, history.cluster.at(-1)));
  fill(part("attention"), attention(status));
  fill(part("charts"), charts(history.cluster, view.at));
  fill(part("volume-list"), volumes(status, history, view.find, view.open, view.at));
  fill(part("node-list"), nodes(status, history));
  const list = known.events.filter((e) => view.which === "all" || isTrouble(e));
  fill(part("event-list"), events(list.slice(0, 100)));
  const version = status.nodes.find((n) => n.version)?.version;
  fill(part("version"), [version ? `Mayastor ${version}` : ""]);
}

/** Says something for a moment. */
function say(text, look = "good") {
  const toast = h("div", { class: `toast ${look}` }, text);
  part("toasts").append(toast);
  setTimeout(() => toast.remove(), look === "bad" ? 12_000 : 5000);
}

// ---- what arrives -----------------------------------------------------------------------------------------------------

function push(course, point) {
  course.push(point);
  if (course.length > KEPT) course.shift();
}

onTokenNeeded(enterToken);
follow({
  async open() {
    const [history, past] = await Promise.all([call("GET", "v1/history"), call("GET", `v1/events?last=${EVENTS}`)]);
    known.history = history;
    known.events = past.reverse();
    known.lost = null;
    draw();
  },
  lost() {
    known.lost ??= known.heard || Date.now();
    draw();
  },
  status(status) {
    known.status = status;
    known.heard = Date.now();
    draw();
  },
  event(event) {
    const last = known.events[0];
    if (last && last.time_ms === event.time_ms && last.text === event.text) return;
    known.events.unshift(event);
    known.events.length = Math.min(known.events.length, EVENTS);
    draw();
  },
  sample(sample) {
    const { history } = known;
    push(history.cluster, sample.cluster);
    for (const kind of ["nodes", "volumes"]) {
      for (const [name, point] of Object.entries(sample[kind])) push((history[kind][name] ??= []), point);
    }
    for (const name of Object.keys(history.volumes)) if (!sample.volumes[name]) delete history.volumes[name];
    draw();
  },
});

// ---- what is asked ----------------------------------------------------------------------------------------------------

const volume = (name) => known.status.volumes.find((v) => v.name === name);
const path = (name, verb) => `v1/volumes/${encodeURIComponent(name)}/${verb}`;

const actions = {
  "new-volume": () => newVolume(known.status, say),
  "new-pool": ({ node }) => newPool(node, say),
  delete: (data) => deleteVolume(volume(data.volume), say),
  publish: async (data) => {
    await call("POST", path(data.volume, "publish"), {});
    say(`Volume ${data.volume} is published.`);
  },
  unpublish: async (data) => {
    if (!confirm(`Hosts cannot reach ${data.volume} any more. Its data stays. Go on?`)) return;
    await call("POST", path(data.volume, "unpublish"));
    say(`Volume ${data.volume} is not published any more.`);
  },
  more: (data) => call("PUT", path(data.volume, "replicas"), { replicas: volume(data.volume).replicas_wanted + 1 }),
  fewer: (data) => call("PUT", path(data.volume, "replicas"), { replicas: volume(data.volume).replicas_wanted - 1 }),
  copy: async (data) => {
    await navigator.clipboard.writeText(data.text);
    say("Copied.");
  },
  open: ({ uuid }) => {
    if (!view.open.delete(uuid)) view.open.add(uuid);
    draw();
  },
  events: ({ which }) => {
    view.which = which;
    for (const button of document.querySelectorAll("[data-action=events]")) {
      button.setAttribute("aria-pressed", String(button.dataset.which === which));
    }
    draw();
  },
  forget: () => {
    setToken(null);
    location.reload();
  },
  theme: () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
    wear(now === "dark" ? "light" : "dark");
  },
};

function wear(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // A browser that keeps nothing asks the system again next time.
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button || button.disabled || (!known.status && !["theme", "forget"].includes(button.dataset.action))) return;
  button.setAttribute("aria-busy", "true");
  try {
    await actions[button.dataset.action](button.dataset);
  } catch (error) {
    say(error.message, "bad");
  }
  button.removeAttribute("aria-busy");
});

part("find").addEventListener("input", (event) => {
  view.find = event.target.value;
  draw();
});

// The pointer over any chart shows the values of that moment in all of them.
document.addEventListener("pointermove", (event) => {
  const plot = event.target.closest?.("[data-plot]");
  const before = view.at;
  if (plot) {
    const box = plot.getBoundingClientRect();
    view.at = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  } else {
    view.at = null;
  }
  if (view.at !== before) draw();
});

try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // See `wear`.
}
paint();
