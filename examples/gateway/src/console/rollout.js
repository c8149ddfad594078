// Rollouts: state, share over time, cohorts, guard, who decided what.
import { byId, count, duration, h, percent, pill, render, s, say, table, time } from "./dom.js";

/** The most tenants that are shown at once; the rest is found by name. */
const SHOWN = 20;
/** The most decisions and scopes of one tenant. */
const DECISIONS = 12;
const SCOPES = 50;
const QUIET = new Set(["idle"]);
const SIDES = [
  ["canary", "the variant"],
  ["baseline", "the baseline"],
];

// The share over time: steps, 0 % at the bottom.
function curve(points, served, name) {
  const now = Date.now() * 1000;
  const first = points[0]?.at_us ?? now;
  const drawn = [];
  if (points.length) {
    const width = Math.max(now - first, 1);
    const steps = [];
    let last = 0;
    for (const point of points) {
      const x = ((1000 * (point.at_us - first)) / width).toFixed(1);
      steps.push(`${x},${102 - last}`, `${x},${102 - point.percent}`);
      last = point.percent;
    }
    steps.push(`1000,${102 - last}`, `1000,${102 - served}`);
    drawn.push(
      s("polygon", { class: "area", points: `0,102 ${steps.join(" ")} 1000,102` }),
      s("polyline", { class: "share", points: steps.join(" ") }),
    );
  }
  const grid = [2, 52, 102].map((y) => s("line", { class: "grid", x1: 0, x2: 1000, y1: y, y2: y }));
  const said = `share served, 0 to 100 %, since ${time(first)}; now ${percent(served)}`;
  return h(
    "figure",
    {},
    s(
      "svg",
      { class: "plot", viewBox: "0 0 1000 104", preserveAspectRatio: "none", role: "img", "aria-label": `${name}: ${said}` },
      grid,
      drawn,
    ),
    h(
      "figcaption",
      { class: "ends" },
      h("span", {}, time(first)),
      h("span", {}, "share served here, 0 to 100 %"),
      h("span", {}, `now ${percent(served)}`),
    ),
  );
}

const guard = (figures) =>
  table(
    `Guard, last window: ${figures.verdict === "no_data" ? "not enough answers of both sides" : figures.verdict}`,
    ["side", "answers", "errors", "p50", "p99"],
    SIDES.map(([side, words]) => {
      const of = figures[side];
      const [errors, p50, p99] = of.requests
        ? [percent(of.error_rate * 100), duration(of.latency_p50), duration(of.latency_p99)]
        : ["–", "–", "–"];
      return [words, count(of.requests), errors, p50, p99];
    }),
  );

function approved(label, rollout) {
  if (!rollout) return [];
  const ramp = rollout.config;
  return [
    h(
      "p",
      {},
      `${label}: ${rollout.proposal_id}, variant ${rollout.variant_name} (${rollout.variant}), ${ramp.initial_percent} % + ` +
        `${ramp.increment_per_minute} a minute to ${ramp.max_percent} %, approved by ${rollout.approved_by.join(" and ")} ${time(rollout.approved_at_us)}`,
    ),
    h("p", { class: "small" }, rollout.digest),
  ];
}

// An order is told once by its tenant; a scope only names those that hold it.
const same = (one, other) => one.brake === other.brake && one.scope === other.scope && one.latched === other.latched;

function scope(of, known) {
  const name = of.scope || "whole tenant";
  const by = of.by.length ? ` by ${of.by.join(" and ")}` : "";
  const flags = [
    of.latched && `${of.phase} on this node, ahead of the log`,
    of.durable === false && "not on disk: it would not survive a restart of this gateway",
    of.guarded && "lowered by the guard",
  ].filter(Boolean);
  const orders = of.held_by.map((held) => {
    const order = known.find((one) => same(one, held)) ?? { ...held, by: [], reason: "", since_us: of.since_us };
    const who = order.by.length ? ` by ${order.by.join(" and ")}` : "";
    const why = order.reason ? `: ${order.reason}` : "";
    return h("p", {}, `${order.brake} for ${order.scope || "the whole tenant"}${who} ${time(order.since_us)}${why}`);
  });
  const sizes = of.cohorts
    ? ["; sent to the variant ", count(of.cohorts.canary), ", to the baseline ", count(of.cohorts.baseline)]
    : [];
  const idle = of.phase === "idle" && !of.history.some((point) => point.percent > 0);
  return h(
    "section",
    { class: "card", "data-key": of.scope, "data-scope": of.scope },
    h("h4", {}, name, " ", pill(of.phase)),
    of.since_us > 0 && h("p", {}, `since ${time(of.since_us)}${by}${of.reason ? `: ${of.reason}` : ""}`),
    ...orders,
    flags.length > 0 && h("p", { class: "alarm" }, flags.join("; ")),
    approved("runs", of.rollout),
    approved("waits for the resume", of.parked),
    h("p", {}, `served ${percent(of.percent)} (the log says ${percent(of.log_percent)})`, sizes),
    !idle && curve(of.history, of.percent, name),
    of.guard && guard(of.guard),
  );
}

function tenant(of) {
  const pending = of.pending.map((one) => [
    one.id,
    String(one.variant ?? "parameters"),
    one.issuer,
    h("td", { class: "wrap" }, one.reason),
    h("td", { class: "small wrap" }, one.digest),
  ]);
  const decided = of.decisions
    .slice(-DECISIONS)
    .reverse()
    .map((one) => [
      h("td", {}, time(one.at_us)),
      one.kind,
      one.by.join(" and "),
      one.proposal_id ?? (one.scope || "whole tenant"),
      h("td", { class: "wrap" }, one.reason),
    ]);
  return h(
    "div",
    { class: "tenant", "data-key": of.tenant, "data-tenant": of.tenant },
    h("h3", {}, `Tenant ${of.tenant}`),
    h(
      "p",
      { class: "small" },
      `key set ${of.epoch}, catalog ${of.catalog_version}` +
        `${of.parked_catalog_version ? `, catalog ${of.parked_catalog_version} waits for the resume` : ""}`,
    ),
    of.alone > 0 &&
      h(
        "p",
        { class: "alarm" },
        count(of.alone),
        " stops or pauses hold on this gateway alone: the log has not taken them",
      ),
    of.scopes.length
      ? h(
          "div",
          { class: "scopes" },
          of.scopes.slice(0, SCOPES).map((one) => scope(one, of.orders)),
        )
      : h("p", { class: "none" }, "Nothing is rolled out: everyone gets the baseline."),
    of.scopes.length > SCOPES && h("p", { class: "small" }, `${of.scopes.length - SCOPES} more scopes: arqon gov status`),
    pending.length > 0 && table("Waiting for an approval", ["proposal", "variant", "proposed by", "why", "digest"], pending),
    decided.length > 0 && table("Decided, the newest first", ["when", "what", "by", "about", "why"], decided),
  );
}

/** Those where something goes on come first; the others keep their order. */
function sorted(tenants) {
  const busy = (of) => of.pending.length > 0 || of.scopes.some((one) => !QUIET.has(one.phase));
  return [...tenants.filter(busy), ...tenants.filter((of) => !busy(of))];
}

function list(tenants) {
  const wanted = byId("tenant-filter").value.trim().toLowerCase();
  const found = sorted(tenants).filter((of) => of.tenant.toLowerCase().includes(wanted));
  byId("tenant-find").hidden = tenants.length <= 3;
  const few = Math.min(found.length, SHOWN);
  say(
    byId("tenant-count"),
    `${few} of ${tenants.length} shown${found.length > few ? ", those where something goes on first" : ""}`,
  );
  const none = tenants.length ? "No tenant has that in its name." : "There are no rollouts here: platform.rollout is off.";
  render(byId("tenants"), few ? found.slice(0, SHOWN).map(tenant) : h("p", { class: "none" }, none));
}

let tenants = [];

export const rollout = {
  show({ state }) {
    const of = state.rollout;
    ({ tenants } = of);
    const age = of.contact_age_us;
    const read = age === null ? "not read yet" : `read ${(age / 1e6).toFixed(1)} s ago`;
    byId("node").hidden = !tenants.length;
    say(byId("node"), `Position ${of.seq} of the control log, ${read}; ${of.reports_waiting} reports wait to be sent.`);
    list(tenants);
  },
};

byId("tenant-filter").addEventListener("input", () => list(tenants));
