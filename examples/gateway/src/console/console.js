// Asks for `/v1/state` each second and gives it to the views. A view is `{ show(state) }`.
import { rollout } from "./console/rollout.js";
import { stop } from "./console/stop.js";

const views = [rollout, stop];
const byId = (id) => document.getElementById(id);

async function show() {
  try {
    const answer = await fetch("v1/state", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    const state = await answer.json();
    const ready = byId("ready");
    const said = state.ready ? "ready" : "not ready";
    // A live region is only touched when it changes, or it is read aloud each second.
    if (ready.textContent !== said) ready.textContent = said;
    ready.className = `state ${state.ready ? "holding" : "stopped"}`;
    for (const view of views) view.show(state);
    byId("lost").hidden = true;
  } catch (error) {
    byId("lost").hidden = false;
    if (!(error instanceof TypeError || error instanceof DOMException)) console.error(error);
  }
  setTimeout(show, 1000);
}
show();
