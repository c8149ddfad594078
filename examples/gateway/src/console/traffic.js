// What comes in: figures of now, requests and latency over the last minutes, protocols, refusals by code.
import { byId, count, duration, h, perSecond, render, table } from "./dom.js";
import { decades, linear, timeline } from "./chart.js";
import { named, quantile } from "./metrics.js";

const REQUESTS = "shield_gateway_requests_total";
const SECONDS = "shield_gateway_request_duration_seconds";
const PROTOCOLS = ["http/1.1", "h2", "ws", "nats"];
const CLASSES = ["1xx", "2xx", "3xx", "4xx", "5xx", "cancelled"];
const KEPT_MS = 600_000;

/** A point every reading, of the last ten minutes. */
let history = [];

const where = (protocol) => (protocol ? { protocol } : {});

function point(readings) {
  const rate = (...classes) => classes.reduce((sum, status) => sum + (readings.rate(REQUESTS, { status }) ?? 0), 0);
  const latency = {};
  for (const protocol of ["", ...PROTOCOLS]) {
    const recent = readings.recent(SECONDS, where(protocol));
    latency[protocol] = { p50: quantile(recent, 0.5), p99: quantile(recent, 0.99) };
  }
  return {
    at: readings.last.at,
    answered: rate("1xx", "2xx", "3xx"),
    refused: rate("4xx"),
    failed: rate("5xx"),
    gone: rate("cancelled"),
    latency,
  };
}

const tile = (label, value, note, kind = "") =>
  h("div", { class: `tile ${kind}` }, h("dt", {}, label), h("dd", {}, h("b", {}, value), note && h("small", {}, note)));

function tiles(readings, state, last) {
  const all = last && last.answered + last.refused + last.failed + last.gone;
  const share = (part) => (all ? `${((100 * part) / all).toFixed(1)} % of them` : "of none");
  const gauge = (name, where) => readings.last.sum(name, where);
  return h(
    "dl",
    { class: "tiles" },
    tile("Requests", perSecond(last && all), "the last 10 s"),
    tile("Refused (4xx)", perSecond(last?.refused), share(last?.refused ?? 0)),
    tile("Failed (5xx)", perSecond(last?.failed), share(last?.failed ?? 0), last?.failed ? "bad" : ""),
    tile("Latency p50", duration(last?.latency[""].p50), "to the answer's head"),
    tile("Latency p99", duration(last?.latency[""].p99), "to the answer's head"),
    tile(
      "In flight",
      count(gauge("shield_gateway_requests_in_flight"), "shield_gateway_requests_in_flight"),
      `${gauge("shield_gateway_sessions")} WebSocket sessions`,
    ),
  );
}

function requests(now) {
  const most = Math.max(...history.flatMap((one) => [one.answered, one.refused, one.failed]), 1);
  return timeline({
    label: "Requests a second",
    points: history,
    now,
    scale: linear(most),
    format: perSecond,
    lines: [
      { key: "answered", label: "answered", kind: "one" },
      { key: "refused", label: "refused (4xx)", kind: "two" },
      { key: "failed", label: "failed (5xx)", kind: "three" },
    ],
  });
}

function latency(now) {
  const protocol = byId("latency-of").value;
  const points = history.map(({ at, latency: of }) => ({ at, ...of[protocol] }));
  const seen = points.flatMap((one) => [one.p50, one.p99]).filter((one) => one !== null);
  const scale = seen.length ? decades(Math.min(...seen), Math.max(...seen)) : decades(1e-4, 1e-2);
  return timeline({
    label: "Latency",
    points,
    now,
    scale,
    format: duration,
    lines: [
      { key: "p50", label: "p50", kind: "one" },
      { key: "p99", label: "p99", kind: "two" },
    ],
  });
}

function protocols({ last }) {
  // A class that nothing was ever answered with needs no column.
  const classes = CLASSES.filter((status) => ["2xx", "4xx", "5xx"].includes(status) || last.sum(REQUESTS, { status }));
  const rows = PROTOCOLS.map((protocol) => {
    const of = last.by("status", REQUESTS, { protocol });
    const quantiles = last.histogram(SECONDS, { protocol });
    return [
      protocol,
      ...classes.map((status) => count(of[status], named(REQUESTS, { protocol, status }))),
      duration(quantile(quantiles, 0.5)),
      duration(quantile(quantiles, 0.99)),
    ];
  });
  return table(
    "Since the start, by protocol and class of status",
    ["protocol", ...classes.map((status) => (status === "cancelled" ? "gave up" : status)), "p50", "p99"],
    rows,
  );
}

function refusals(readings) {
  const codes = Object.entries(readings.last.by("code", "shield_gateway_problems_total")).filter(([, value]) => value > 0);
  codes.sort(([, a], [, b]) => b - a);
  const rows = codes.map(([code, value]) => [
    code,
    count(value, named("shield_gateway_problems_total", { code })),
    perSecond(readings.rate("shield_gateway_problems_total", { code })),
  ]);
  return table("Refusals by problem code, since the start", ["code", "count", "now"], rows, "Nothing was refused so far.");
}

let shown = null;

export const traffic = {
  show({ state, readings, now }) {
    // Ten seconds of zeros before the second reading would be made up.
    if (readings.all.length > 1) history.push(point(readings));
    history = history.filter((one) => now - one.at <= KEPT_MS);
    shown = { state, readings };
    render(byId("figures"), tiles(readings, state, history.at(-1)));
    render(byId("requests-chart"), requests(now));
    render(byId("latency-chart"), latency(now));
    render(byId("protocols"), protocols(readings));
    render(byId("refusals"), refusals(readings));
  },
  forget() {
    history = [];
  },
};

byId("latency-of").addEventListener("change", () => {
  if (shown) render(byId("latency-chart"), latency(Date.now()));
});
