// Asks for `/v1/state` and `/metrics` each second and gives both to the views. A view is `{ show(seen) }` with
// `seen = { state, readings, now }`, and may have `forget()` for a gateway that began anew.
import { alerts } from "./alerts.js";
import { contracts } from "./contracts.js";
import { byId, reachScrolling, say, span } from "./dom.js";
import { events } from "./events.js";
import { health } from "./health.js";
import { layers } from "./layers.js";
import { Reading, Readings } from "./metrics.js";
import { mirror } from "./mirror.js";
import { policies } from "./policies.js";
import { rollout } from "./rollout.js";
import { stop } from "./stop.js";
import { traffic } from "./traffic.js";

const EVERY_MS = 1000;
/** In a tab that nobody sees, whose title still tells. */
const UNSEEN_EVERY_MS = 15_000;
const PATIENCE_MS = 5000;
const views = [alerts, traffic, layers, policies, contracts, mirror, rollout, health, stop];
const readings = new Readings();

let uptime = 0;
let heard = null;
let paused = false;
let waiting = null;

/** What keeps the state from being known, for people. */
class Trouble extends Error {}

async function ask(path) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    throw new Trouble("The gateway does not answer.");
  }
  if (answer.status === 401 || answer.status === 403) {
    throw new Trouble(
      `Not authorised (${answer.status}): something before this listener asks who you are. Sign in there and load this page again.`,
    );
  }
  if (!answer.ok) throw new Trouble(`/${path} is answered with ${answer.status} ${answer.statusText}.`);
  return answer;
}

async function look() {
  const [state, metrics] = await Promise.all([
    ask("v1/state")
      .then((answer) => answer.json())
      .catch((error) => {
        throw error instanceof SyntaxError ? new Trouble("What answers here is no gateway: /v1/state is not JSON.") : error;
      }),
    ask("metrics").then((answer) => answer.text()),
  ]);
  const now = Date.now();
  if (state.uptime_seconds < uptime) {
    readings.forget();
    for (const view of views) view.forget?.();
  }
  uptime = state.uptime_seconds;
  readings.add(new Reading(metrics, now));
  return { state, readings, now };
}

function trouble(text) {
  const lost = byId("lost");
  const since = heard ? ` What is below is of ${new Date(heard).toLocaleTimeString()}.` : "";
  say(lost, text ? text + since : "");
  lost.hidden = !text;
  document.body.classList.toggle("old", Boolean(text));
  if (!text) return;
  // What was known is not known any more.
  say(byId("ready"), "not known");
  byId("ready").className = "state paused";
  document.title = "(!) Arqon";
}

function head({ state }) {
  const ready = byId("ready");
  // A live region is only touched when it changes, or it is read aloud each time.
  say(ready, state.ready ? "ready" : "not ready");
  ready.className = `state ${state.ready ? "holding" : "stopped"}`;
  // "node" is what a node is called that nobody named.
  const named = state.node === "node" ? "" : `, node ${state.node}`;
  say(byId("about"), `${location.host}${named}, version ${state.version}, ${state.engine}, up ${span(state.uptime_seconds)}`);
}

async function show() {
  clearTimeout(waiting);
  try {
    const seen = await look();
    heard = seen.now;
    head(seen);
    let failed = "";
    // One part that fails, in front of a gateway of another version, takes none of the others with it.
    for (const view of views) {
      try {
        view.show(seen);
      } catch (error) {
        failed = "A part of this page could not show what the gateway said: is the gateway of another version? Load it again.";
        console.error(error);
      }
    }
    trouble(failed);
    reachScrolling();
  } catch (error) {
    trouble(error instanceof Trouble ? error.message : "This page could not show what the gateway said.");
    if (!(error instanceof Trouble)) console.error(error);
  }
  clearTimeout(waiting);
  if (!paused) waiting = setTimeout(show, document.hidden ? UNSEEN_EVERY_MS : EVERY_MS);
}

// Whoever reads may make it stand still.
function go() {
  events.listen(!paused && !document.hidden);
  byId("still").hidden = !paused;
  if (paused) {
    clearTimeout(waiting);
    say(byId("still"), `Paused: what is below is of ${new Date(heard ?? Date.now()).toLocaleTimeString()}.`);
  } else {
    show();
  }
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  document.body.classList.toggle("paused", paused);
  go();
});
document.addEventListener("visibilitychange", go);
addEventListener("resize", reachScrolling);
stop.after(show);
go();
