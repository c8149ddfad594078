// The gateway itself: readiness, tasks, configuration, connections, the bus.
import { byId, count, h, pill, render, table } from "./dom.js";
import { named } from "./metrics.js";

function checks(state) {
  const rows = state.checks.map((one) => [
    one.name,
    h("td", {}, one.ok ? pill("ok", "holding") : pill(one.advisory ? "look" : "not ready", one.advisory ? "paused" : "stopped")),
    h("td", { class: "wrap" }, one.reason ?? one.note ?? (one.advisory ? "shown only, takes no traffic away" : "")),
  ]);
  return table("Readiness", ["check", "state", "why"], rows);
}

function tasks(state) {
  const rows = state.crashed.map((one) => [one.service, h("td", { class: "wrap" }, one.reason)]);
  return rows.length > 0 && table("Tasks that died", ["task", "why"], rows);
}

function connections({ last }) {
  const rows = ["public", "admin"].map((listener) => [
    listener,
    count(last.sum("shield_gateway_connections", { listener }), named("shield_gateway_connections", { listener })),
    count(last.sum("shield_gateway_connections_total", { listener }), named("shield_gateway_connections_total", { listener })),
  ]);
  return table("Connections", ["listener", "open", "since the start"], rows);
}

function counters({ last }) {
  const rows = [
    ["panics, answered 500", "shield_gateway_panics_total"],
    ["connections that could not be accepted", "shield_gateway_accept_errors_total"],
    ["WebSocket sessions closed by the gateway", "shield_websocket_closed_total"],
    ["messages taken off NATS", "shield_nats_served_total"],
    ["NATS said we are too slow", "shield_nats_slow_consumers_total"],
    ["recorded traces", "shield_trace_requests_total"],
    ["log lines held back", "shield_gateway_log_held_back_total"],
    ["facts that readers of the feed lost", "shield_gateway_events_lost_total"],
    ["reloads of the configuration", "shield_gateway_reloads_total"],
    ["bus: events lost by slow subscribers", "bus_overflow_dropped_total"],
  ].map(([what, name]) => [what, count(last.sum(name), name)]);
  return table("Since the start", ["what", "count"], rows);
}

function about(state) {
  const auth = state.auth
    ? [pill("on", "holding"), ` tokens of ${state.auth.issuers.join(", ")}`]
    : [
        pill("off", "paused"),
        " nobody is authenticated, every request is of tenant ",
        h("code", {}, "default"),
        "; the listener is loopback only",
      ];
  const control = state.control
    ? [pill("on", "holding"), " with the token of ", h("code", {}, "gateway.control_token_file")]
    : [pill("off", "paused"), " set ", h("code", {}, "gateway.control_token_file"), " to upload policies and to stop from here"];
  const config = state.config.refused
    ? [`version ${state.config.version} runs; `, pill("refused", "stopped"), ` ${state.config.refused}`]
    : [`version ${state.config.version} runs`];
  const rows = [
    ["clients", state.listeners.public],
    ["operators", state.listeners.admin],
    ["messages go to", state.engine === "nats" ? "NATS" : "memory (embedded)"],
    ["authentication", h("td", { class: "wrap" }, auth)],
    ["control routes", h("td", { class: "wrap" }, control)],
    ["configuration", h("td", { class: "wrap" }, config)],
    ["bus", `${state.bus.subscribers} listening, ${state.bus.capacity} places`],
  ];
  return table("This gateway", ["what", "is"], rows);
}

export const health = {
  show({ state, readings }) {
    render(
      byId("health-list"),
      h(
        "div",
        { class: "columns" },
        h("div", {}, checks(state), tasks(state), about(state)),
        h("div", {}, connections(readings), counters(readings)),
      ),
    );
  },
};
