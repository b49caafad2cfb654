// The cluster at a glance: the headline, the numbers, what needs attention, nodes with their pools, events.

import { spark } from "./chart.js";
import { bytes, clock, count, h, latency, many, percent, sentence, span } from "./format.js";

/** How grave a state is: 0 well, 1 worth a look, 2 bad. */
export function gravity(state) {
  if (["faulted", "offline"].includes(state)) return 2;
  return state === "online" || state === "retired" ? 0 : 1;
}
const LOOK = ["good", "warn", "bad"];
const SIGN = ["✓", "▲", "✕"];

/** A state as a word with a sign; never by colour alone. */
export function badge(state, label = state) {
  const grave = state === "deleting" ? 1 : gravity(state);
  return h("span", { class: `badge ${LOOK[grave]}` }, h("span", { "aria-hidden": "true" }, SIGN[grave]), ` ${label}`);
}

/** The rebuilds that run: [volume, replica]. */
function rebuilds(status) {
  return status.volumes.flatMap((v) => v.replicas.filter((r) => r.rebuild && r.state === "rebuilding").map((r) => [v, r]));
}

/** One sentence about everything. */
export function headline(status, lost) {
  const { nodes, volumes, pools } = status;
  const dead = volumes.filter((v) => gravity(v.state) === 2);
  const thin = volumes.filter((v) => v.state === "degraded");
  const away = nodes.filter((n) => n.state !== "online");
  const ill = pools.filter((p) => ["degraded", "faulted"].includes(p.state));
  const running = rebuilds(status);
  const eta = Math.max(0, ...running.map(([, r]) => r.rebuild.eta_ms));
  const helpless = thin.filter((v) => v.needed.length > 0);
  const copies = volumes.reduce((n, v) => n + v.replicas.filter((r) => r.state === "online").length, 0);
  if (lost) return { look: "stale", title: "The control plane does not answer", text: `What you see is from ${clock(lost)}. Reads and writes go on without it.` };
  if (nodes.length === 0) return { look: "warn", title: "No node yet", text: "Start one: mayastor engine --control HOST:10125" };
  if (dead.length) {
    const text = dead.length === 1 ? `${dead[0].name}: ${dead[0].reason || dead[0].state}` : dead.map((v) => v.name).slice(0, 5).join(", ");
    return { look: "bad", title: `${many(dead.length, "volume")} cannot serve`, text };
  }
  if (thin.length) {
    const rest = running.length
      ? `Repair is under way${eta ? `, about ${span(eta)} left` : ""}. All data is there and in use.`
      : helpless.length
        ? "Repair needs you: see below. All data is there and in use."
        : "Repair begins by itself. All data is there and in use.";
    return { look: "warn", title: `${many(thin.length, "volume")} ${thin.length === 1 ? "has" : "have"} fewer copies than wanted`, text: rest };
  }
  if (away.length) return { look: "warn", title: `${away.map((n) => n.id).slice(0, 3).join(", ")} ${away.length === 1 ? "is" : "are"} away`, text: "Every volume has all its copies in sync." };
  if (ill.length) return { look: "warn", title: `${many(ill.length, "pool")} ${ill.length === 1 ? "is" : "are"} not well`, text: ill.map((p) => `${p.node}/${p.name}: ${p.reason}`).slice(0, 3).join("; ") };
  const pending = volumes.filter((v) => v.state !== "online").length;
  if (pending) return { look: "good", title: "All is well", text: `${many(pending, "volume")} ${pending === 1 ? "is" : "are"} being made or removed.` };
  if (volumes.length === 0) return { look: "good", title: "Ready", text: `${many(nodes.length, "node")}, ${many(pools.length, "pool")}, no volume yet.` };
  return { look: "good", title: "All is well", text: `${many(volumes.length, "volume")} with ${many(copies, "copy", "copies")} in sync on ${many(nodes.length, "node")}.` };
}

/** The headline as an element. */
export function head(line) {
  return [
    h(
      "div",
      { class: `head ${line.look}` },
      h("span", { class: "sign", "aria-hidden": "true" }, { good: "✓", warn: "!", bad: "✕", stale: "…" }[line.look]),
      h("div", null, h("h1", null, line.title), h("p", null, line.text)),
    ),
  ];
}

/** The numbers. */
export function tiles(status, point) {
  const capacity = status.pools.reduce((n, p) => n + p.capacity, 0);
  const used = status.pools.reduce((n, p) => n + p.used, 0);
  const online = status.nodes.filter((n) => n.state === "online").length;
  const well = status.volumes.filter((v) => v.state === "online").length;
  const running = rebuilds(status).length;
  const slow = Math.max(point?.read_p99_us ?? 0, point?.write_p99_us ?? 0);
  const tile = (name, value, text) => h("div", { class: "tile", "data-key": name }, h("dt", null, name), h("dd", null, h("b", null, value), h("small", null, text)));
  return [
    h(
      "dl",
      null,
      tile("Nodes", `${online} / ${status.nodes.length}`, "online"),
      tile("Volumes", `${well} / ${status.volumes.length}`, running ? `well, ${many(running, "rebuild")} running` : "well"),
      tile("Space", capacity ? `${Math.round((used / capacity) * 100)} %` : "–", `${bytes(used)} of ${bytes(capacity)} used`),
      tile("Requests", `${count((point?.reads ?? 0) + (point?.writes ?? 0))}/s`, `${bytes((point?.read_bytes ?? 0) + (point?.written_bytes ?? 0))}/s`),
      tile("Latency", latency(slow || null), "99 of 100 requests are faster"),
    ),
  ];
}

/** Everything that is not well: why, what is being done, what is needed. */
export function attention(status) {
  const cards = [
    ...status.volumes.filter((v) => v.state !== "online" || v.why.length).map((v) => ({ kind: "Volume", name: v.name, state: v.state, volume: v, ...v })),
    ...status.nodes.filter((n) => n.state !== "online" || n.service === "draining").map((n) => ({ kind: "Node", name: n.id, ...n, state: n.state === "online" ? n.service : n.state })),
    ...status.pools
      .filter((p) => ["degraded", "faulted"].includes(p.state))
      .map((p) => ({ kind: "Pool", name: `${p.node}/${p.name}`, state: p.state, why: [p.reason], doing: ["copies in it that fail are replaced elsewhere"], needed: ["look at its disks, and at the log of its engine"] })),
  ];
  // What serves no data comes first; then what lacks a copy; then the nodes and pools behind it.
  const rank = (c) => (c.kind === "Volume" ? 10 : 0) + gravity(c.state);
  cards.sort((a, b) => rank(b) - rank(a) || (b.needed.length > 0) - (a.needed.length > 0) || a.name.localeCompare(b.name));
  if (cards.length === 0) return [];
  const more = cards.length - 12;
  return [
    h("h2", null, "What needs attention"),
    h("div", { class: "cards" }, cards.slice(0, 12).map(card)),
    more > 0 && h("p", { class: "faint" }, `and ${more} more`),
  ].filter(Boolean);
}

function card(c) {
  const list = (title, texts, kind) => texts.length > 0 && h("div", { class: kind }, h("h4", null, title), h("ul", null, texts.map((t) => h("li", null, sentence(t)))));
  const running = (c.volume?.replicas ?? []).filter((r) => r.rebuild && r.state === "rebuilding");
  return h(
    "article",
    { class: `card ${LOOK[gravity(c.state)]}`, "data-key": `${c.kind}/${c.name}`, "aria-label": `${c.kind} ${c.name}, ${c.state}` },
    h("header", null, h("h3", null, h("small", null, `${c.kind} `), c.name), badge(c.state)),
    list("Why", c.why, "why"),
    list("What is being done", c.doing, "doing"),
    running.map((r) => progress(r)),
    list("What you can do", c.needed, "needed"),
  );
}

/** The bar of a rebuild. */
export function progress(replica) {
  const { rebuild } = replica;
  const done = percent(rebuild);
  const left = rebuild.state === "paused" ? "paused" : rebuild.eta_ms ? `about ${span(rebuild.eta_ms + 999)} left` : "";
  return h(
    "div",
    { class: "progress" },
    h("div", { class: "track", role: "progressbar", "aria-valuenow": done, "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `Rebuild on ${replica.node}`, vars: { part: `${done}%` } }),
    h("small", null, `${replica.node}: ${done} %, ${bytes(rebuild.bytes_per_second)}/s${left && `, ${left}`}`),
  );
}

/** Whether a node is out of service, and how far its drain is. */
function duty(node) {
  const { service, drain } = node;
  if (!service || service === "in-service") return false;
  if (service !== "draining" || !drain) return h("span", { class: "badge warn" }, h("span", { "aria-hidden": "true" }, "▲"), ` ${service}`);
  return badge("draining", `draining: ${many(drain.copies_left, "copy", "copies")} and ${many(drain.targets_left, "target")} left`);
}

/** The nodes with their pools. */
export function nodes(status, history) {
  if (status.nodes.length === 0) return [h("p", { class: "empty" }, "No storage node has registered yet.")];
  return status.nodes.map((node) => {
    const pools = status.pools.filter((p) => p.node === node.id);
    const copies = status.volumes.reduce((n, v) => n + v.replicas.filter((r) => r.node === node.id).length, 0);
    const targets = status.volumes.filter((v) => v.target_node === node.id).length;
    const labels = Object.entries(node.labels ?? {});
    return h(
      "article",
      { class: "node", "data-key": node.id, "aria-label": `Node ${node.id}, ${node.state}` },
      h("header", null, h("h3", null, node.id), badge(node.state), duty(node), spark(history.nodes[node.id])),
      labels.length > 0 && h("p", { class: "faint" }, labels.map(([key, value]) => `${key}=${value}`).join(", ")),
      h("p", { class: "faint" }, node.state === "online" ? `${many(copies, "copy", "copies")}, serves ${many(targets, "volume")}, ${node.grpc_endpoint}` : `last heard of ${span(node.last_seen_ms_ago)} ago, ${node.grpc_endpoint}`),
      pools.map(pool),
      pools.length === 0 && h("p", { class: "faint" }, "no pool"),
      h("button", { type: "button", class: "quiet small", "data-action": "new-pool", "data-node": node.id, disabled: node.state !== "online" }, "Add pool"),
    );
  });
}

function pool(p) {
  const part = (n) => `${p.capacity ? Math.min(100, (n / p.capacity) * 100) : 0}%`;
  const full = p.capacity && p.committed / p.capacity > 0.9;
  const text = `${bytes(p.used)} used, ${bytes(Math.max(0, p.capacity - p.committed))} free of ${bytes(p.capacity)}`;
  return h(
    "div",
    { class: "pool", "data-key": p.name },
    h("div", { class: "line" }, h("span", null, p.name), p.state === "online" ? h("small", null, text) : badge(p.state)),
    h("div", { class: `track ${full ? "full" : ""}`, role: "meter", "aria-label": `Pool ${p.name} of ${p.node}: ${text}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round((p.used / (p.capacity || 1)) * 100), vars: { part: part(p.used), committed: part(p.committed) }, title: `${text}; ${bytes(p.committed)} promised to copies; ${p.disks.join(", ")}` }),
    p.state !== "online" && p.reason && h("small", { class: "faint" }, p.reason),
  );
}

const GRAVE = /fault|unreachable|lost|fail|stopp/;
const GOOD = /completed|online|created|published$/;

/** Whether an event tells of trouble, or of its end. */
export function isTrouble(event) {
  return GRAVE.test(event.kind) || /rebuild|placed|moved|retired/.test(event.kind);
}

/** Events, newest first. */
export function events(list) {
  if (list.length === 0) return [h("li", { class: "empty" }, "Nothing has happened yet.")];
  return list.map((e) => {
    const look = GRAVE.test(e.kind) ? "bad" : GOOD.test(e.kind) ? "good" : "plain";
    return h("li", { class: look, "data-key": `${e.time_ms}-${e.kind}-${e.text}` }, h("time", { datetime: new Date(e.time_ms).toISOString(), title: new Date(e.time_ms).toLocaleString() }, clock(e.time_ms)), h("span", null, e.text, e.actor && h("small", null, ` by ${e.actor}`)));
  });
}

