// What asks before it does: new volume, new pool, deleting.

import { call, setToken } from "./source.js";
import { bytes, h, many } from "./format.js";

const UNITS = { MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };

/** Shows a dialog; `act` gets its form and may throw a Refusal, which is shown. Resolves once it is closed. */
function ask(title, body, label, look, act) {
  const trouble = h("p", { class: "trouble", role: "alert", hidden: true });
  const go = h("button", { type: "submit", class: look }, label);
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "dialog-title" }, title),
    body,
    trouble,
    h("div", { class: "acts" }, h("button", { type: "button", class: "quiet", "data-close": "" }, "Cancel"), go),
  );
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  document.body.append(dialog);
  form.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    go.setAttribute("aria-busy", "true");
    trouble.hidden = true;
    try {
      await act(form);
      dialog.close();
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    }
    go.disabled = false;
    go.removeAttribute("aria-busy");
  });
  dialog.showModal();
  return new Promise((closed) => dialog.addEventListener("close", () => { dialog.remove(); closed(); }));
}

const field = (label, input, hint) => h("label", { class: "field" }, h("span", null, label), input, hint && h("small", null, hint));

/** The token that the control plane wants; `wrong` when the one that was shown is not known. Asks until there is one. */
export async function enterToken(wrong) {
  for (;;) {
    let entered = "";
    const body = [
      h("p", null, wrong ? "That token is not known here, or not any more." : "This control plane answers only those it knows."),
      field("Token", h("input", { name: "token", type: "password", required: true, minlength: 32, autocomplete: "off", autofocus: true, spellcheck: "false" }), "from whoever runs it: mayastor token create NAME --role read. It is kept in this tab only."),
    ];
    await ask("Who are you?", body, "Go on", "primary", async (form) => { entered = form.elements.token.value.trim(); });
    if (entered) return setToken(entered);
  }
}

/** A new volume. */
export function newVolume(status, say) {
  const pools = status.pools.filter((p) => p.state === "online");
  const homes = new Set(pools.map((p) => p.node)).size;
  const free = pools.map((p) => p.capacity - p.committed).sort((a, b) => b - a);
  const most = Math.min(3, Math.max(1, homes));
  const room = free.length ? `${many(homes, "node")} with a pool; the largest has ${bytes(Math.max(0, free[0]))} free` : "no pool is online";
  const body = [
    field("Name", h("input", { name: "name", required: true, pattern: "[a-z0-9.\\-]{1,63}", maxlength: 63, autocomplete: "off", autofocus: true, spellcheck: "false" }), "a to z, 0 to 9, - and ."),
    h("div", { class: "pair" }, field("Size", h("input", { name: "size", type: "number", min: 1, step: "any", value: 1, required: true })), field("Unit", h("select", { name: "unit" }, Object.keys(UNITS).map((u) => h("option", { value: u, selected: u === "GiB" }, u))))),
    field("Copies, each on another node", h("input", { name: "replicas", type: "number", min: 1, max: 16, value: most, required: true }), room),
    h("label", { class: "check" }, h("input", { name: "thin", type: "checkbox" }), h("span", null, "Thin: takes space only as it is written")),
    h("label", { class: "check" }, h("input", { name: "publish", type: "checkbox", checked: true }), h("span", null, "Publish it at once, so that hosts can use it")),
  ];
  return ask("New volume", body, "Make volume", "primary", async (form) => {
    const { name, size, unit, replicas, thin, publish } = form.elements;
    const whole = Math.ceil((Number(size.value) * UNITS[unit.value]) / 4096) * 4096;
    await call("POST", "v1/volumes", { name: name.value, size: whole, replicas: Number(replicas.value), thin: thin.checked });
    if (publish.checked) await call("POST", `v1/volumes/${encodeURIComponent(name.value)}/publish`, {});
    say(`Volume ${name.value} is there.`);
  });
}

/** A new pool on a node. */
export function newPool(node, say) {
  const body = [
    field("Name", h("input", { name: "name", required: true, maxlength: 63, autocomplete: "off", autofocus: true, spellcheck: "false" })),
    field("Disks, one a line", h("textarea", { name: "disks", rows: 3, required: true, spellcheck: "false", placeholder: "/dev/nvme1n1" }), `paths or URIs as ${node} sees them`),
    h("label", { class: "check" }, h("input", { name: "force", type: "checkbox" }), h("span", null, "Overwrite disks that hold something else (never another pool)")),
  ];
  return ask(`New pool on ${node}`, body, "Make pool", "primary", async (form) => {
    const { name, disks, force } = form.elements;
    const list = disks.value.split("\n").map((d) => d.trim()).filter(Boolean);
    await call("POST", `v1/nodes/${encodeURIComponent(node)}/pools`, { name: name.value, disks: list, force: force.checked });
    say(`Pool ${name.value} is there.`);
  });
}

/** Deleting a volume: its name has to be typed. */
export function deleteVolume(volume, say) {
  const body = [
    h("p", null, `All ${bytes(volume.size)} of `, h("b", null, volume.name), " go, in every copy. This cannot be taken back."),
    volume.device_uri && h("p", { class: "trouble" }, "It is published: a host may be using it now."),
    field(`Type ${volume.name} to confirm`, h("input", { name: "confirm", required: true, autocomplete: "off", autofocus: true, spellcheck: "false" })),
  ];
  return ask("Delete volume", body, "Delete for good", "danger", async (form) => {
    if (form.elements.confirm.value !== volume.name) throw new Error("That is not its name.");
    await call("DELETE", `v1/volumes/${encodeURIComponent(volume.name)}`);
    say(`Volume ${volume.name} is gone.`);
  });
}
