// Contracts: schemas, revisions, what breaks them, what the store refused.
import { byId, count, duration, h, perSecond, pill, render, span, table } from "./dom.js";
import { named, quantile } from "./metrics.js";

const VIOLATIONS = "shield_schema_violation_total";
const ORIGINS = { store: "read from the store", copy: "the last known good copy", nowhere: "not read yet" };

function schemas(registry, readings) {
  const pins = (one) => [
    one.pinned && pill("pinned", "paused"),
    one.held_back !== null && ` keeps revision ${one.held_back} out`,
  ];
  const rows = registry.schemas.map((one) => [
    one.id,
    count(one.revision),
    count(one.mappings),
    count(readings.last.sum(VIOLATIONS, { schema_id: one.id }), named(VIOLATIONS, { schema_id: one.id })),
    perSecond(readings.rate(VIOLATIONS, { schema_id: one.id })),
    h("td", {}, pins(one)),
  ]);
  const none = "No schema is known. Contracts are [platform.registry], with a folder or a bucket and mappings.";
  return table("Schemas in force", ["schema", "revision", "mappings", "violations", "now", "pin"], rows, none);
}

function refused(registry) {
  const rows = registry.refused.map((one) => [one.id, count(one.revision), h("td", { class: "wrap" }, one.reason)]);
  return rows.length > 0 && table("Refused updates; the last good revision stays in force", ["schema", "revision", "why"], rows);
}

function notes(registry) {
  const said = [
    registry.unavailable.length && `Mapped and not there, refused with 503: ${registry.unavailable.join(", ")}`,
    registry.lost.length && `Lost by the store, still in force: ${registry.lost.join(", ")}`,
  ];
  return said.filter(Boolean).map((text) => h("p", { class: "alarm" }, text));
}

function counters({ last }) {
  const refusedBy = last.by("reason", "shield_schema_refused_total");
  const alarms = Object.entries(last.by("alarm", "shield_schema_alarms_total")).filter(([, value]) => value);
  const rows = [
    ["payloads that broke a contract (400)", count(last.sum(VIOLATIONS), VIOLATIONS)],
    ["no mapping matched", count(last.sum("shield_schema_unmapped_total"), "shield_schema_unmapped_total")],
    ...Object.entries(refusedBy)
      .sort()
      .map(([reason, value]) => [`refused: ${reason}`, count(value, named("shield_schema_refused_total", { reason }))]),
    ["updates refused", count(last.sum("shield_schema_load_errors_total"), "shield_schema_load_errors_total")],
    ...alarms.map(([alarm, value]) => [`alarm: ${alarm}`, count(value, named("shield_schema_alarms_total", { alarm }))]),
  ];
  return table("Since the start", ["what", "count"], rows);
}

export const contracts = {
  show({ state: { registry }, readings }) {
    const check = readings.last.histogram("shield_schema_validation_duration_seconds");
    const known = registry.schemas.length > 0 || registry.origin !== "nowhere" || registry.unavailable.length > 0;
    render(
      byId("contract-list"),
      known &&
        h(
          "p",
          { class: "small" },
          `Store: ${ORIGINS[registry.origin] ?? registry.origin}, heard of ${span(registry.age_seconds)} ago. ` +
            `A check takes ${duration(quantile(check, 0.5))} (p50), ${duration(quantile(check, 0.99))} (p99).`,
        ),
      notes(registry),
      refused(registry),
      h("div", { class: "columns" }, h("div", {}, schemas(registry, readings)), h("div", {}, counters(readings))),
    );
  },
};
