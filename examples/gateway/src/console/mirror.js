// The mirror's books: sampled = mirrored + dropped by reason + in flight.
import { byId, bytes, count, h, percent, pill, render, table } from "./dom.js";
import { parts } from "./chart.js";
import { named } from "./metrics.js";

/** Not the mirror's failures: the primary refused, or its client went away. */
export const EXPECTED = new Set(["primary_rejected", "cancelled"]);

const term = (label, value, series) => h("div", { class: "term" }, h("b", {}, count(value, series)), h("span", {}, label));
const sign = (text) => h("span", { class: "sign" }, text);

function books(of) {
  const dropped = Object.values(of.dropped).reduce((sum, value) => sum + value, 0);
  const balanced = of.sampled === of.mirrored + dropped + of.in_flight;
  return [
    h(
      "div", { class: "books" }, term("sampled", of.sampled), sign("="), term("mirrored", of.mirrored), sign("+"),
      term("dropped", dropped), sign("+"), term("in flight", of.in_flight, "shield_mirror_in_flight"),
      balanced ? pill("the books balance", "holding") : pill("the books do not balance", "stopped"),
    ),
    parts(`mirrored ${of.mirrored}, dropped ${dropped}, in flight ${of.in_flight}`, [
      { kind: "one", value: of.mirrored }, { kind: "three", value: dropped }, { kind: "two", value: of.in_flight },
    ]),
  ];
}

function drops(of) {
  const all = Object.entries(of.dropped);
  const rows = all.filter(([, value]) => value).sort(([, a], [, b]) => b - a);
  const others = all.length - rows.length;
  return [
    table("Dropped by reason", ["reason", "count", "meaning"], rows.map(([reason, value]) => [
      reason, count(value, named("shield_mirror_dropped_total", { reason })), EXPECTED.has(reason) ? "as meant" : "lost",
    ]), "Nothing was dropped."),
    rows.length > 0 && h("p", { class: "small" }, `The other ${others} reasons: 0.`),
  ];
}

function rules(of) {
  const rows = of.rules.map((one) => [
    h("th", { scope: "row" }, h("code", {}, one.prefix)), percent(one.percent * 100), h("td", { class: one.effective < one.percent ? "marked" : undefined }, percent(one.effective * 100)),
    count(one.sampled, named("shield_mirror_sampled_total", { rule: one.prefix })), count(one.mirrored, named("shield_mirror_traffic_total", { rule: one.prefix })),
  ]);
  return table("Rules", ["subjects", "share", "in effect", "sampled", "mirrored"], rows, "No rule: nothing is mirrored. Rules are [[platform.mirroring.rules]].");
}

function differences({ last }) {
  const fields = Object.entries(last.by("field", "shield_mirror_divergence_total")).filter(([, value]) => value);
  const rows = fields.map(([field, value]) => [field, count(value, named("shield_mirror_divergence_total", { field }))]);
  return rows.length > 0 && table("Answers of the shadow that differ", ["field", "count"], rows);
}

export const mirror = {
  show({ state: { mirroring: of }, readings }) {
    const { last } = readings;
    const keys = Object.entries(last.by("source", "shield_mirror_key_source_total")).filter(([, value]) => value);
    render(
      byId("mirror-books"),
      !of.enabled && h("p", {}, pill("off", "paused"), " Nothing is mirrored until it is enabled."),
      books(of),
      of.kept < 1 && h("p", { class: "alarm" }, `Overload is being shed: ${percent(of.kept * 100)} of each rule's sample is kept, whole traces at a time.`),
      rules(of), drops(of),
      h("p", { class: "small" }, `Waiting: ${of.queue_messages} copies; held: ${bytes(of.queue_bytes)}. Not part of the sum: `, count(of.no_key, "shield_mirror_no_key_total"),
        " without a key, ", count(of.loops, "shield_mirror_loop_total"), " copies that came in themselves. Keys: ",
        keys.length ? keys.map(([source, value]) => `${source} ${count(value).textContent}`).join(", ") : "none yet", "."),
      differences(readings),
      of.comparison && h("p", { class: "small" }, h("a", { href: "/divergence" }, "What the candidate answers differently"), ", field by field, over time."),
    );
  },
};
