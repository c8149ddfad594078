// Policies: what runs, what it decides, what a call costs in time and in fuel.
import { byId, count, duration, h, perSecond, pill, render } from "./dom.js";
import { bars } from "./chart.js";
import { named, quantile } from "./metrics.js";

const DECISIONS = "shield_overseer_decisions_total";
const FAILURES = "shield_overseer_failures_total";
const SECONDS = "shield_wasm_execution_duration_seconds";
const WORDS = {
  allow: "allowed",
  reject: "rejected",
  fail_closed: "no verdict, refused",
  fail_open: "no verdict, let pass",
  monitor: "would have refused",
};

const short = (value) => new Intl.NumberFormat("en-US", { notation: "compact" }).format(value);

/** The least fuel that such a share of the calls kept within, by the buckets. */
function within(buckets, share) {
  const all = buckets.reduce((sum, one) => sum + one.calls, 0);
  let below = 0;
  for (const { at_most: most, calls } of buckets) {
    below += calls;
    if (below >= share * all) return most;
  }
  return null;
}

function fuel({ limit, buckets }) {
  const calls = buckets.reduce((sum, one) => sum + one.calls, 0);
  if (!calls) return h("p", { class: "none" }, `Fuel of a call: none made yet; the limit is ${short(limit)}.`);
  const most = (share) => {
    const value = within(buckets, share);
    return value === null ? `more than ${short(buckets.at(-2).at_most)}` : `at most ${short(value)}`;
  };
  // Empty ends say nothing.
  const [first, last] = [buckets.findIndex((one) => one.calls), buckets.findLastIndex((one) => one.calls)];
  const shown = buckets.slice(Math.max(0, first - 1), last + 2);
  const label = ({ at_most: value }) => (value === null ? "more" : `≤ ${short(value)}`);
  const said = `${short(calls)} calls; half took ${most(0.5)}, 99 % ${most(0.99)}; limit ${short(limit)}`;
  return bars(
    "Fuel of a call",
    said,
    shown.map((one) => ({ label: label(one), value: one.calls })),
  );
}

function candidate(of) {
  if (!of) return null;
  return h(
    "p",
    {},
    pill("candidate", "paused"),
    ` runs beside it: ${count(of.same).textContent} calls the same, `,
    h("b", {}, count(of.differs)),
    ` different${of.failed ? `, ${of.failed} without a verdict` : ""}${of.not_asked ? `, ${of.not_asked} not asked` : ""}`,
    `${of.skipped ? `, ${of.skipped} skipped` : ""}. `,
    h("code", {}, of.sha256.slice(0, 12)),
  );
}

function policy(of, readings) {
  const { last } = readings;
  const module = of.name;
  const decisions = last.by("decision", DECISIONS, { module });
  const seconds = last.histogram(SECONDS, { module });
  const failures = Object.entries(last.by("cause", FAILURES, { module })).filter(([, value]) => value);
  const relaxed = last.sum("shield_overseer_relaxed", { module }) > 0;
  return h(
    "section",
    { class: "card", "data-key": module, "data-policy": module },
    h(
      "h3",
      {},
      module,
      " ",
      of.loaded ? pill(of.mode, of.mode === "enforce" ? "holding" : "paused") : pill("not loaded", "stopped"),
      relaxed && of.mode === "enforce" && pill("fails open", "paused"),
      of.refused.length > 0 && pill("file refused", "stopped"),
    ),
    h(
      "p",
      { class: "small" },
      of.report.source,
      of.sha256 && [", sha256 ", h("code", { title: of.sha256 }, of.sha256.slice(0, 12))],
    ),
    of.refused.map((why) => h("p", { class: "alarm" }, why)),
    h(
      "dl",
      { class: "pairs" },
      Object.entries(WORDS).map(([decision, word]) => [
        h("dt", {}, word),
        h("dd", {}, count(decisions[decision], named(DECISIONS, { module, decision }))),
      ]),
      h("dt", {}, "now"),
      h("dd", {}, perSecond(readings.rate(DECISIONS, { module }))),
      h("dt", {}, "a call, p50"),
      h("dd", {}, duration(quantile(seconds, 0.5))),
      h("dt", {}, "a call, p99"),
      h("dd", {}, duration(quantile(seconds, 0.99))),
    ),
    failures.length > 0 &&
      h(
        "p",
        { class: "marked" },
        "No verdict by cause: ",
        failures.map(([cause, value], at) => [at ? ", " : "", `${cause} `, count(value, named(FAILURES, { module, cause }))]),
      ),
    fuel(of.fuel),
    candidate(of.candidate),
  );
}

export const policies = {
  show({ state, readings }) {
    const all = state.overseer.policies;
    const none = h(
      "p",
      { class: "none" },
      "No policy is configured: every request passes Overseer. Policies are ",
      h("code", {}, "[[platform.overseer.policies]]"),
      " in the configuration.",
    );
    render(byId("policy-list"), all.length ? all.map((of) => policy(of, readings)) : none);
    const { last } = readings;
    const standby = last.by("result", "shield_overseer_standby_total");
    const stood = (standby.hit ?? 0) + (standby.miss ?? 0);
    render(
      byId("standby"),
      stood
        ? `An instance stood by for ${((100 * (standby.hit ?? 0)) / stood).toFixed(1)} % of ${count(stood).textContent} calls.`
        : "",
    );
  },
};
