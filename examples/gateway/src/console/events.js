// `/v1/events`: what happened while this page was open, the newest first.
import { byId, h, render, say } from "./dom.js";

const KEPT = 100;
const AGAIN_MS = 10_000;
const WORDS = {
  health: ({ service, ok }) => `${service} is ${ok ? "well" : "not well"}`,
  config_updated: ({ version }) => `configuration ${version} is in force`,
  service_crashed: ({ service, reason }) => `task ${service} died: ${reason}`,
  shutdown: () => "this gateway shuts down",
  policy_reloaded: ({ policy, revision, ok }) =>
    `policy ${policy} ${ok ? "runs another module" : "refused a module"} (load ${revision})`,
  schema_changed: ({ schema_id: id, revision }) => `schema ${id} is at revision ${revision}`,
  rollout_changed: ({ rollout, basis_points: points, seq }) =>
    `rollout ${rollout} serves ${(points / 100).toFixed(2)} % (position ${seq})`,
  mirror_degraded: ({ reason, dropped }) => `the mirror drops: ${reason}, ${dropped} so far`,
  resync: ({ lost }) => `${lost} facts were missed; the state above is whole`,
};

let source = null;
let again = null;
let seen = [];

function take(kind, data) {
  const bad = data.ok === false || ["service_crashed", "mirror_degraded", "resync"].includes(kind);
  seen = [{ at: new Date(), kind, text: WORDS[kind](data), bad }, ...seen].slice(0, KEPT);
  show();
}

function show() {
  render(
    byId("event-list"),
    seen.map(({ at, kind, text, bad }) =>
      h(
        "li",
        { class: bad ? "bad" : undefined },
        h("time", { datetime: at.toISOString() }, at.toLocaleTimeString()),
        " ",
        h("code", {}, kind),
        " ",
        text,
      ),
    ),
  );
}

const status = (text) => say(byId("events-said"), text);

function open() {
  source = new EventSource("v1/events");
  source.addEventListener("open", () => status("What happens from now on, the newest first."));
  source.addEventListener("error", () => {
    status("Not connected to /v1/events; trying again.");
    // A refusal is final for the browser.
    if (source?.readyState === EventSource.CLOSED) {
      close();
      again = setTimeout(open, AGAIN_MS);
    }
  });
  for (const kind of Object.keys(WORDS)) source.addEventListener(kind, (event) => take(kind, JSON.parse(event.data)));
}

function close() {
  clearTimeout(again);
  source?.close();
  source = null;
}

export const events = {
  /** A stream takes one of the few connections that a browser has for a host: only while somebody looks. */
  listen(wanted) {
    if (wanted && !source) open();
    if (!wanted) {
      close();
      status("Not listening while this page stands still.");
    }
  },
};
