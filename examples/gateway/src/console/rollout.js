// Rollouts: state, share over time, cohorts, guard, who decided what. Every text goes through textContent: a reason somebody
// signed is never markup.

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
function curve(points, served, name) {
  const SVG = "http://www.w3.org/2000/svg";
  const draw = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const figure = make("figure");
  const now = percent(served);
  const svg = draw("svg", {
    viewBox: "0 0 1000 104", preserveAspectRatio: "none", role: "img", "aria-label": `${name}: share over time, now ${now}`,
  });
  for (const y of [2, 52, 102]) svg.append(draw("line", { class: "grid", x1: 0, x2: 1000, y1: y, y2: y }));
  const first = points[0]?.at_us ?? Date.now() * 1000;
  if (points.length) {
    const span = Math.max(Date.now() * 1000 - first, 1);
    const steps = [];
    let last = 0;
    for (const point of points) {
      const x = (1000 * (point.at_us - first)) / span;
      steps.push(`${x},${102 - last}`, `${x},${102 - point.percent}`);
      last = point.percent;
    }
    steps.push(`1000,${102 - last}`, `1000,${102 - served}`);
    svg.append(draw("polygon", { class: "area", points: `0,102 ${steps.join(" ")} 1000,102` }));
    svg.append(draw("polyline", { class: "share", points: steps.join(" ") }));
  }
  const caption = make("figcaption", undefined, "small");
  caption.append(make("span", time(first)), make("span", "share served here, 0 to 100 %"), make("span", `now ${now}`));
  figure.append(svg, caption);
  return figure;
}

function guard(figures) {
  const table = make("table");
  table.append(make("caption", `Guard, last window: ${figures.verdict}`, figures.verdict));
  table.append(head("side", "answers", "errors", "p50", "p99"));
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
  if (of.since_us) section.append(make("p", `since ${time(of.since_us)}${by}${of.reason ? `: ${of.reason}` : ""}`));
  const flags = [];
  if (of.latched) flags.push(`${of.phase} on this node, ahead of the log`);
  if (of.durable === false) flags.push("not on disk: it would not survive a restart of this gateway");
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
  section.append(curve(of.history, of.percent, of.scope || "whole tenant"));
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
    table.append(make("caption", "Waiting for an approval"));
    table.append(head("proposal", "variant", "proposed by", "why", "digest"));
    for (const one of of.pending) {
      table.append(row(one.id, one.variant ?? "parameters", one.issuer, one.reason, make("td", one.digest, "small")));
    }
    part.append(table);
  }
  if (of.decisions.length) {
    const table = make("table");
    table.append(make("caption", "Decided"));
    table.append(head("when", "what", "by", "about", "why"));
    for (const one of of.decisions.slice(-12).reverse()) {
      table.append(row(time(one.at_us), one.kind, one.by.join(" and "), one.proposal_id ?? one.scope, one.reason));
    }
    part.append(table);
  }
  return part;
}

let shown = "";
let shown_at = 0;

export const rollout = {
  show({ engine, rollout: state }) {
    const held = document.getElementById("held");
    held.hidden = !state.hold;
    const why = state.hold ? `Shares are held: ${state.hold}` : "";
    if (held.textContent !== why) held.textContent = why;
    const age = state.contact_age_us;
    const read = age === null ? "not read yet" : `read ${(age / 1e6).toFixed(1)} s ago`;
    document.getElementById("node").textContent = `${engine}, position ${state.seq} of the log, ${read}, `
      + `${state.reports_waiting} reports wait`;
    // What has not moved stays, with the reader's selection in it; the curve moves on every few seconds.
    const now = JSON.stringify(state.tenants);
    if (now === shown && Date.now() - shown_at < 5000) return;
    [shown, shown_at] = [now, Date.now()];
    const all = state.tenants.length ? state.tenants.map(tenant) : [make("p", "There are no rollouts here.")];
    document.getElementById("tenants").replaceChildren(...all);
  },
};
