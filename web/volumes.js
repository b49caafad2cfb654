// The volumes: each with its copies drawn, and what can be done with it.

import { charts, spark } from "./chart.js";
import { bytes, count, h, many, percent, sentence, span } from "./format.js";
import { badge, gravity } from "./view.js";

const SHOWN = 100;

/** The list. `open` are the uuids of those that are shown in full. */
export function volumes(status, history, find, open, at) {
  const wanted = find.trim().toLowerCase();
  const found = status.volumes.filter((v) => !wanted || v.name.includes(wanted) || v.uuid.startsWith(wanted) || v.replicas.some((r) => r.node === wanted));
  found.sort((a, b) => gravity(b.state) - gravity(a.state) || a.name.localeCompare(b.name));
  if (status.volumes.length === 0) {
    return [
      h(
        "div",
        { class: "empty", "data-key": "none" },
        h("p", null, "No volume yet. A volume is a disk that is kept in several copies on different nodes."),
        h("p", null, h("button", { type: "button", class: "primary", "data-action": "new-volume", disabled: status.pools.length === 0 }, "Make the first volume")),
        status.pools.length === 0 && h("p", { class: "faint" }, "It needs a pool: add one to a node."),
      ),
    ];
  }
  const cards = found.slice(0, SHOWN).map((v) => volume(v, history.volumes[v.uuid], open.has(v.uuid), at));
  if (found.length === 0) cards.push(h("p", { class: "empty", "data-key": "none" }, `No volume fits “${find}”.`));
  if (found.length > SHOWN) cards.push(h("p", { class: "faint", "data-key": "more" }, `and ${found.length - SHOWN} more: find them by name`));
  return cards;
}

function volume(v, course, open, at) {
  const point = course?.at(-1);
  const whole = v.replicas.filter((r) => r.state === "online").length;
  const busy = point && point.reads + point.writes > 0;
  const id = `volume-${v.uuid}`;
  return h(
    "article",
    { class: `volume ${open ? "open" : ""}`, "data-key": v.uuid, id, "data-state": v.state },
    h(
      "header",
      null,
      h(
        "h3",
        null,
        h("button", { type: "button", class: "name", "data-action": "open", "data-uuid": v.uuid, "aria-expanded": String(open), "aria-controls": `${id}-more` }, h("span", { class: "turn", "aria-hidden": "true" }, "›"), v.name),
      ),
      h("span", { class: "size" }, bytes(v.size), v.thin && h("small", null, " thin")),
      badge(v.state),
      h("span", { class: "io" }, spark(course), h("small", null, busy ? `${count(point.reads + point.writes)}/s` : "idle")),
    ),
    h("ul", { class: "copies", "aria-label": `${whole} of ${many(v.replicas_wanted, "copy", "copies")} in sync` }, v.replicas.map((r) => copy(r, v)), missing(v)),
    v.reason && !open && h("p", { class: "reason" }, v.reason),
    open && more(v, course, at, id),
  );
}

/** Copies that are wanted and not even begun. */
function missing(v) {
  const n = v.replicas_wanted - v.replicas.filter((r) => !["retired", "faulted", "unreachable"].includes(r.state)).length;
  return Array.from({ length: Math.max(0, n) }, () => h("li", { class: "copy none" }, h("b", null, "missing"), h("small", null, "no copy yet")));
}

const WORD = { online: "in sync", "out-of-sync": "out of sync", retired: "not needed" };

function copy(r, v) {
  const running = r.state === "rebuilding" && r.rebuild;
  const part = running ? percent(r.rebuild) : r.state === "online" ? 100 : 0;
  const eta = running && r.rebuild.eta_ms ? `, ${span(r.rebuild.eta_ms + 999)} left` : "";
  const text = running ? `${part} %${eta}` : (WORD[r.state] ?? r.state);
  const serves = v.target_node === r.node;
  const label = `Copy on ${r.node}, pool ${r.pool}: ${running ? `rebuilding, ${text}` : text}${r.reason ? `, ${r.reason}` : ""}${serves ? "; the volume is served from here" : ""}`;
  return h(
    "li",
    { class: `copy ${r.state}`, "data-key": r.uuid, "data-state": r.state, vars: { part: `${part}%` }, title: label },
    h("span", { class: "hidden" }, label),
    h("b", { "aria-hidden": "true" }, r.node, serves && h("span", { class: "serves", title: "served from here" }, " ⇄")),
    h("small", { "aria-hidden": "true" }, text),
  );
}

function more(v, course, at, id) {
  const list = (title, texts, kind) => texts.length > 0 && h("div", { class: kind }, h("h4", null, title), h("ul", null, texts.map((t) => h("li", null, sentence(t)))));
  const act = (action, text, kind = "quiet", extra = {}) => h("button", { type: "button", class: kind, "data-action": action, "data-volume": v.name, ...extra }, text);
  const going = v.state === "deleting";
  return h(
    "div",
    { class: "more", id: `${id}-more` },
    h("div", { class: "reasons" }, list("Why", v.why, "why"), list("What is being done", v.doing, "doing"), list("What you can do", v.needed, "needed")),
    h(
      "dl",
      { class: "facts" },
      h("div", null, h("dt", null, "Address"), h("dd", null, v.device_uri ? [h("code", null, v.device_uri), act("copy", "Copy", "quiet small", { "data-text": v.device_uri })] : "not published")),
      h("div", null, h("dt", null, "Served from"), h("dd", null, v.target_node || "–")),
      h("div", null, h("dt", null, "Copies wanted"), h("dd", null, act("fewer", "−", "quiet small", { "aria-label": "One copy less", disabled: going || v.replicas_wanted <= 1 }), h("b", null, ` ${v.replicas_wanted} `), act("more", "+", "quiet small", { "aria-label": "One copy more", disabled: going || v.replicas_wanted >= 16 }))),
      h("div", null, h("dt", null, "Identity"), h("dd", null, h("code", null, v.uuid))),
    ),
    course ? h("div", { class: "charts" }, charts(course, at, v.uuid)) : h("p", { class: "faint" }, "Nothing was read or written in the last ten minutes."),
    h(
      "div",
      { class: "acts" },
      v.device_uri || v.target_node ? act("unpublish", "Unpublish") : act("publish", "Publish", "primary", { disabled: going }),
      act("delete", "Delete…", "danger", { disabled: going }),
    ),
  );
}
