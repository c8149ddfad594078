// The emergency stop: signed here with a key file (Ed25519, DSSE), sent to `/v1/control`. Guarded by typing the tenant's name.

import { byId as by_id, say } from "./dom.js";

const TYPE = "application/vnd.arqon.control.v1+json";
// PKCS#8 around a 32-byte Ed25519 seed (RFC 8410).
const PKCS8 = Uint8Array.from([48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32]);
const VALID_US = 300_000_000;

const byId = (id) => by_id(`stop-${id}`);
const dialog = by_id("stop");
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
const join = (...parts) => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

let tenants = [];
let look_again = () => {};

function seed(text) {
  try {
    const bytes = Uint8Array.from(atob(text.trim()), (one) => one.charCodeAt(0));
    if (bytes.length === 32) return bytes;
  } catch {
    /* said below */
  }
  throw new Error("this is no key file: choose the one that `arqon gov keygen` wrote");
}

// The envelope of `arqon gov stop`, made here.
async function envelope(tenant, scope, reason, keyid, file, after) {
  const now = Date.now() * 1000;
  const message = { type: "enforce", action: { kind: "emergency_stop" }, reason };
  const control = {
    v: 1,
    tenant: tenant.tenant,
    epoch: tenant.epoch,
    counter: Math.max(now, after + 1),
    issued_at_us: now,
    expires_at_us: now + VALID_US,
    ...(scope ? { scope } : {}),
    message,
  };
  const encode = (text) => new TextEncoder().encode(text);
  const payload = encode(JSON.stringify(control));
  const signatures = [];
  if (file) {
    if (!crypto.subtle) throw new Error("this browser signs only on https or loopback: use `arqon gov stop`");
    const key = await crypto.subtle.importKey("pkcs8", join(PKCS8, seed(await file.text())), "Ed25519", false, ["sign"]);
    const signed = join(encode(`DSSEv1 ${TYPE.length} ${TYPE} ${payload.length} `), payload);
    const sig = new Uint8Array(await crypto.subtle.sign("Ed25519", key, signed));
    signatures.push({ keyid, sig: base64(sig) });
  }
  return JSON.stringify({ payload: base64(payload), payloadType: TYPE, signatures });
}

const chosen = () => tenants.find((one) => one.tenant === byId("tenant").value);

function fill(select, choices) {
  const same = choices.length === select.options.length && choices.every(([value], at) => select.options[at].value === value);
  if (same) return;
  const before = select.value;
  select.replaceChildren(...choices.map(([value, label]) => new Option(label, value)));
  if (choices.some(([value]) => value === before)) select.value = before;
  // What was confirmed is gone: the first choice stands in its place, and nobody has confirmed that.
  else byId("confirm").value = "";
}

function guard() {
  const tenant = chosen();
  const scopes = (tenant?.scopes ?? []).map((one) => [one.scope, one.scope || "the whole tenant"]);
  if (!scopes.some(([value]) => value === "")) scopes.unshift(["", "the whole tenant"]);
  fill(byId("scope"), scopes);
  const of = tenant?.scopes.find((one) => one.scope === byId("scope").value);
  const running = of?.rollout ? ` to ${of.rollout.variant_name} (${of.rollout.proposal_id})` : "";
  say(
    byId("effect"),
    of
      ? `Now ${of.phase}: ${of.percent.toFixed(2)} % of its requests go${running || " to a variant"}.`
      : "Nothing is rolled out there now; nothing can be until a resume.",
  );
  byId("send").disabled = !tenant || byId("confirm").value !== tenant.tenant;
}

async function send(event) {
  event.preventDefault();
  const said = byId("said");
  const tenant = chosen();
  if (byId("send").disabled || !tenant) return;
  byId("send").disabled = true;
  said.textContent = "Sending.";
  try {
    const words = [tenant, byId("scope").value, byId("reason").value, byId("keyid").value.trim(), byId("key").files[0]];
    const headers = { authorization: `Bearer ${byId("token").value}`, "content-type": "application/json" };
    const post = async (after) => {
      const body = await envelope(...words, after);
      const answer = await fetch("v1/control", { method: "POST", headers, body, signal: AbortSignal.timeout(15_000) });
      return [answer, await answer.json()];
    };
    let [answer, what] = await post(0);
    // Somebody whose clock is ahead signed with this key: with the next counter it is taken.
    if (answer.status === 409 && what.last_counter) [answer, what] = await post(what.last_counter);
    if (answer.ok) {
      const kept = what.durable === false ? " It is NOT on disk: it would not survive a restart of this gateway." : "";
      const logged =
        what.seq === null ? "the log does not have it yet, the gateway goes on with it" : `position ${what.seq} of the log`;
      const where = what.duplicate ? "it had it already" : logged;
      const names = what.reach?.scopes.map((one) => one || "the whole tenant") ?? [];
      const held = names.length
        ? ` It holds ${names.join(", ")}.`
        : " Nothing is rolled out there; what comes later is held, too.";
      said.textContent = `In force: ${what.state}, ${where}.${kept}${held}`;
      look_again();
    } else {
      said.textContent = `Refused: ${what.reason ?? what.code}: ${what.detail}`;
    }
  } catch (error) {
    said.textContent = `Not sent: ${error.message}`;
  }
  // Another one has to be confirmed anew.
  byId("confirm").value = "";
  guard();
}

by_id("stop-open").addEventListener("click", () => {
  byId("said").textContent = "";
  guard();
  dialog.showModal();
});
byId("cancel").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  // No secret stays in the page.
  for (const id of ["token", "confirm", "reason", "key", "keyid"]) byId(id).value = "";
  guard();
});
by_id("stop-form").addEventListener("submit", send);
for (const id of ["tenant", "scope", "confirm"]) byId(id).addEventListener("input", guard);
byId("key").addEventListener("change", () => {
  const name = byId("key").files[0]?.name ?? "";
  byId("keyid").value = name.replace(/\.[^.]*$/, "");
});

/** Why nothing can be stopped from here, for people; empty where it can. */
function why_not(state) {
  if (!state.rollout.tenants.length) return "There is nothing to stop: rollouts are off on this gateway (platform.rollout).";
  if (state.control) return "";
  return (
    "This gateway takes no orders here: gateway.control_token_file is not set. Stop with `arqon gov stop --nats URL`, through a " +
    "gateway that has one, or with `kill -USR1 PID` on its machine."
  );
}

export const stop = {
  show({ state }) {
    ({ tenants } = state.rollout);
    const off = why_not(state);
    say(byId("off"), off);
    byId("off").hidden = !off;
    for (const id of ["form", "send", "note"]) byId(id).hidden = Boolean(off);
    fill(
      byId("tenant"),
      tenants.map((one) => [one.tenant, one.tenant]),
    );
    guard();
  },
  /** Calls this once something was stopped. */
  after(look) {
    look_again = look;
  },
};
