"use strict";
// Shows `/v1/state`. Every text goes through textContent: a reason somebody signed is never markup.

const make = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const time = (us) => (us ? new Date(us / 1000).toLocaleString() : "-");
const percent = (value) => `${(value ?? 0).toFixed(2)} %`;
const row = (...cells) => {
  const line = make("tr");
  for (const cell of cells) line.append(cell instanceof Node ? cell : make("td", String(cell)));
  return line;
};
const head = (...cells) => row(...cells.map((cell) => make("th", cell)));

// The share over time: steps, 0 % at the bottom.
function curve(points) {
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 1000 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `share over time, now ${percent(points.at(-1)?.percent)}`);
  if (points.length) {
    const first = points[0].at_us;
    const span = Math.max(Date.now() * 1000 - first, 1);
    const steps = [];
    let last = 0;
    for (const point of points) {
      const x = (1000 * (point.at_us - first)) / span;
      steps.push(`${x},${100 - last}`, `${x},${100 - point.percent}`);
      last = point.percent;
    }
    steps.push(`1000,${100 - last}`);
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", steps.join(" "));
    svg.append(line);
  }
  return svg;
}

function guard(figures) {
  const table = make("table");
  table.append(head(`guard: ${figures.verdict}`, "answers", "errors", "p50", "p99"));
  for (const side of ["canary", "baseline"]) {
    const of = figures[side];
    const ms = (seconds) => `${(seconds * 1000).toFixed(2)} ms`;
    table.append(row(side, of.requests, percent(of.error_rate * 100), ms(of.latency_p50), ms(of.latency_p99)));
  }
  return table;
}

function scope(of) {
  const section = make("section");
  const title = make("h3", `${of.scope || "whole tenant"} `);
  title.append(make("span", of.phase, `state ${of.phase}`));
  section.append(title);
  const by = of.by.length ? ` by ${of.by.join(" and ")}` : "";
  section.append(make("p", `since ${time(of.since_us)}${by}${of.reason ? `: ${of.reason}` : ""}`));
  const flags = [];
  if (of.latched) flags.push("stopped on this node, beyond the log");
  if (of.guarded) flags.push("lowered by the guard");
  if (flags.length) section.append(make("p", flags.join("; "), "state breach"));
  for (const [label, rollout] of [["runs", of.rollout], ["waits for the resume", of.parked]]) {
    if (!rollout) continue;
    const ramp = rollout.config;
    section.append(make("p", `${label}: ${rollout.proposal_id}, variant ${rollout.variant_name} (${rollout.variant}), `
      + `${ramp.initial_percent} % + ${ramp.increment_per_minute} a minute to ${ramp.max_percent} %, `
      + `approved by ${rollout.approved_by.join(" and ")} ${time(rollout.approved_at_us)}`));
    section.append(make("p", rollout.digest, "small"));
  }
  const sizes = of.cohorts ? `; sent to the variant ${of.cohorts.canary}, to the baseline ${of.cohorts.baseline}` : "";
  section.append(make("p", `served ${percent(of.percent)} (the log says ${percent(of.log_percent)})${sizes}`));
  section.append(curve(of.history));
  if (of.guard) section.append(guard(of.guard));
  return section;
}

function tenant(of) {
  const part = make("div");
  part.append(make("h2", `Tenant ${of.tenant}`));
  part.append(make("p", `key set ${of.epoch}, catalog ${of.catalog_version}`, "small"));
  for (const one of of.scopes) part.append(scope(one));
  if (of.pending.length) {
    const table = make("table");
    table.append(head("pending", "variant", "proposed by", "why", "digest"));
    for (const one of of.pending) {
      table.append(row(one.id, one.variant ?? "parameters", one.issuer, one.reason, make("td", one.digest, "small")));
    }
    part.append(table);
  }
  if (of.decisions.length) {
    const table = make("table");
    table.append(head("decided", "what", "by", "about", "why"));
    for (const one of of.decisions.slice(-12).reverse()) {
      table.append(row(time(one.at_us), one.kind, one.by.join(" and "), one.proposal_id ?? one.scope, one.reason));
    }
    part.append(table);
  }
  return part;
}

async function show() {
  try {
    const answer = await fetch("v1/state", { cache: "no-store" });
    const state = await answer.json();
    const rollout = state.rollout;
    const ready = document.getElementById("ready");
    ready.textContent = state.ready ? "ready" : "not ready";
    ready.className = `state ${state.ready ? "holding" : "stopped"}`;
    const hold = rollout.hold ? `; shares are held: ${rollout.hold}` : "";
    document.getElementById("node").textContent = `${state.engine}, position ${rollout.seq} of the log, `
      + `read ${(rollout.contact_age_us / 1e6).toFixed(1)} s ago, ${rollout.reports_waiting} reports wait${hold}`;
    const all = rollout.tenants.length ? rollout.tenants.map(tenant) : [make("p", "There are no rollouts here.")];
    document.getElementById("tenants").replaceChildren(...all);
    document.getElementById("lost").hidden = true;
  } catch {
    document.getElementById("lost").hidden = false;
  }
  setTimeout(show, 1000);
}
show();
