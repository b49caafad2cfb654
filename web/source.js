// Talks to the control plane: calls, and the stream of what changes.

/** A refusal, with the text that the control plane gave. */
export class Refusal extends Error {}

/** Says that a token is needed; resolves once another one may be tried. Set by whoever can ask for one. */
let askForToken = async () => {};
export const onTokenNeeded = (ask) => { askForToken = ask; };

// The token stays in this tab, and goes with it.
const KEY = "mayastor-token";
let remembered = null;
const token = () => {
  try {
    return sessionStorage.getItem(KEY) ?? remembered;
  } catch {
    return remembered;
  }
};
export function setToken(text) {
  remembered = text || null;
  try {
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  } catch {
    // A browser that keeps nothing asks again after the next reload.
  }
}
export const hasToken = () => token() !== null;

let asking = null;

/** Fetches with the token; without one that is known, asks for it and tries again. */
async function knock(path, options) {
  for (;;) {
    const shown = token();
    const headers = { ...options.headers, ...(shown && { authorization: `Bearer ${shown}` }) };
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401) return response;
    // Another call may have brought a new one meanwhile; only one asks.
    if (token() !== shown) continue;
    asking ??= Promise.resolve(askForToken(shown !== null)).finally(() => { asking = null; });
    await asking;
  }
}

/** Calls a verb of the REST API; its answer as an object, or a Refusal. */
export async function call(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await knock(path, options);
  } catch {
    throw new Refusal("The control plane cannot be reached.");
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Refusal(answer?.detail || `The control plane refused (${response.status}).`);
  return answer;
}

/**
 * Follows /v1/watch for ever. `on.status`, `on.event`, `on.sample` get what arrives; `on.open` is called with each new
 * connection, `on.lost` with the milliseconds until the next attempt.
 */
export async function follow(on) {
  let pause = 500;
  for (;;) {
    try {
      const response = await knock("v1/watch", { headers: { accept: "text/event-stream" } });
      if (!response.ok) throw new Error(String(response.status));
      await on.open();
      pause = 500;
      await read(response.body, on);
    } catch (error) {
      console.debug("the stream ended", error);
    }
    on.lost(pause);
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

async function read(body, on) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    // Something comes every second; a silent connection is a dead one.
    const { value, done } = await within(10_000, reader.read());
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) deliver(part, on);
  }
}

function within(ms, promise) {
  return Promise.race([promise, new Promise((_, fail) => setTimeout(() => fail(new Error("silence")), ms))]);
}

function deliver(part, on) {
  let name = "message";
  let data = "";
  for (const line of part.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data += line.slice(5).trim();
  }
  if (data && on[name]) on[name](JSON.parse(data));
}
