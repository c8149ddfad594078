// The four layers in the order a request passes them: asked, let pass, stopped.
import { byId, count, h, perSecond, render, table } from "./dom.js";
import { named } from "./metrics.js";

const ENTERED = "shield_layer_entered_total";
const PASSED = "shield_layer_passed_total";
const LAYERS = [
  ["overseer", "Overseer", "policies; refuses with 403, or 503 without a verdict", "stopped here"],
  ["schema", "Schema", "contracts; refuses with 400, or 503 without a contract", "stopped here"],
  ["rollout", "Rollout", "chooses a variant; refuses nothing"],
  ["shadow", "Shadow", "mirrors a sample; refuses nothing"],
];

// Between the two counts lies what is under way; where nothing is refused it is all that does.
function stage(readings, [layer, title, what, between = "under way"]) {
  const { last } = readings;
  const [entered, passed] = [last.sum(ENTERED, { layer }), last.sum(PASSED, { layer })];
  const stopped = Math.max(0, entered - passed);
  return h(
    "li",
    { "data-key": layer, "data-layer": layer },
    h("h3", {}, title),
    h("p", { class: "small" }, what),
    h(
      "dl",
      { class: "pairs" },
      h("dt", {}, "asked"),
      h("dd", {}, count(entered, named(ENTERED, { layer }))),
      h("dt", {}, "let pass"),
      h("dd", {}, count(passed, named(PASSED, { layer }))),
      h("dt", {}, between),
      h("dd", { class: stopped && between === "stopped here" ? "marked" : undefined }, count(stopped)),
      h("dt", {}, "now"),
      h("dd", {}, perSecond(readings.rate(ENTERED, { layer }))),
    ),
  );
}

function edge({ last }, auth) {
  const rows = [
    ["over a tenant's limits (429)", "shield_tenant_limited_total"],
    ["shed, too much under way (503)", "shield_edge_shed_total"],
    ["reserved headers taken away", "shield_reserved_headers_total"],
  ].map(([what, name]) => [what, count(last.sum(name), name)]);
  const tokens = last.by("result", "shield_auth_total");
  const held = (tokens.verified ?? 0) + (tokens.remembered ?? 0);
  const refused = last.sum("shield_auth_total") - held;
  if (auth) rows.unshift(["tokens that hold", count(held)], ["tokens refused (401, 403)", count(refused)]);
  return table("Before the layers, since the start", ["what", "count"], rows);
}

function variants(readings) {
  const name = "shield_rollout_decisions_total";
  const rows = Object.entries(readings.last.by("variant", name)).map(([variant, value]) => [
    variant,
    count(value, named(name, { variant })),
    perSecond(readings.rate(name, { variant })),
  ]);
  return table(
    "Requests by the variant they were sent to, since the start",
    ["variant", "count", "now"],
    rows,
    "No rollout has decided yet.",
  );
}

export const layers = {
  show({ state, readings }) {
    render(
      byId("pipeline"),
      LAYERS.map((layer) => stage(readings, layer)),
    );
    render(byId("edge"), edge(readings, state.auth), variants(readings));
  },
};
