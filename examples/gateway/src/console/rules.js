// The rules of the alerts, from the state and from what the counters did within the last minute: those of
// docs/alerts/arqon.rules.yml, as far as one gateway can know; what to do stands in docs/runbook.md under the same name.
import { count, span } from "./dom.js";
import { EXPECTED } from "./mirror.js";

const WITHIN = 60;

const names = (all) => (all.length > 4 ? `${all.slice(0, 4).join(", ")} and ${all.length - 4} more` : all.join(", "));
const sum = (counts) => Object.values(counts).reduce((so_far, value) => so_far + value, 0);

/** Everything that is not as it should be: `{ key, level, text, todo, section }`. */
export function found({ state, readings }) {
  const all = [];
  const tell = (level, key, section, text, todo) => all.push({ level, key, section, text, todo });
  const grew = (name, where) => readings.growth(WITHIN, name, where);

  for (const check of state.checks.filter((one) => !one.ok)) {
    if (check.advisory)
      tell(
        "soon",
        `check ${check.name}`,
        "health",
        `${check.name}: ${check.reason}`,
        "requests are served as well; mend it before the next change",
      );
    else
      tell(
        "now",
        `check ${check.name}`,
        "health",
        `Not ready, ${check.name}: ${check.reason}`,
        "balancers take requests elsewhere while it lasts",
      );
  }
  for (const task of state.crashed)
    tell(
      "now",
      `task ${task.service}`,
      "health",
      `Task ${task.service} died: ${task.reason}`,
      "restart this gateway; what it did no longer happens",
    );
  if (grew("shield_gateway_panics_total"))
    tell(
      "now",
      "panics",
      "health",
      `${count(grew("shield_gateway_panics_total")).textContent} requests ended in a panic within a minute`,
      "the log names the place; they were answered 500",
    );
  if (state.config.refused)
    tell(
      "soon",
      "config",
      "health",
      `The configuration was refused, version ${state.config.version} goes on: ${state.config.refused}`,
      "mend the file; it is read when it changes",
    );

  of_traffic(tell, grew);
  of_policies(tell, grew, state.overseer.policies, readings);
  of_contracts(tell, grew, state.registry);
  of_mirror(tell, grew, state.mirroring, readings);
  of_rollouts(tell, grew, state.rollout);
  return all;
}

function of_traffic(tell, grew) {
  const [all, failed] = [grew("shield_gateway_requests_total"), grew("shield_gateway_requests_total", { status: "5xx" })];
  if (failed) {
    const share = (100 * failed) / all;
    tell(
      share >= 5 ? "now" : "soon",
      "failed",
      "traffic",
      `${share < 0.1 ? "< 0.1" : share.toFixed(1)} % of the requests of the last minute failed (5xx)`,
      "the table of problem codes says with what",
    );
  }
  const shed = grew("shield_edge_shed_total");
  if (shed)
    tell(
      "now",
      "shed",
      "layers",
      `${shed} requests or sessions were shed within a minute`,
      "too much is under way: gateway.max_requests, gateway.max_requests_bytes",
    );
  const limited = grew("shield_tenant_limited_total");
  if (limited)
    tell(
      "soon",
      "limited",
      "layers",
      `${limited} requests were over their tenant's limits within a minute`,
      "gateway.rate_limit, gateway.tenant_concurrency",
    );
  const overflow = grew("bus_overflow_dropped_total");
  if (overflow)
    tell(
      "soon",
      "bus",
      "health",
      `A subscriber of the bus lost ${overflow} events within a minute`,
      "it reads the state again; bus.capacity",
    );
  if (grew("shield_auth_refresh_total", { result: "failed" }))
    tell("soon", "keys", "health", "A key set could not be fetched within the last minute", "the last good keys stay in force");
}

function of_policies(tell, grew, policies, readings) {
  for (const of of policies) {
    if (!of.loaded)
      tell(
        "now",
        `policy ${of.name}`,
        "policies",
        `Policy ${of.name} is not loaded`,
        "its requests are refused, or pass unseen where it fails open",
      );
    if (of.refused.length)
      tell(
        "soon",
        `file ${of.name}`,
        "policies",
        `The file of policy ${of.name} was refused, the last good module goes on: ${of.refused[0]}`,
        "arqon policy check FILE names everything",
      );
    const before = readings.before(WITHIN);
    const causes = Object.entries(readings.last.by("cause", "shield_overseer_failures_total", { module: of.name }))
      .map(([cause, value]) => [
        cause,
        before ? value - before.sum("shield_overseer_failures_total", { module: of.name, cause }) : 0,
      ])
      .filter(([, value]) => value > 0);
    if (causes.length)
      tell(
        "now",
        `verdict ${of.name}`,
        "policies",
        `Policy ${of.name} gave no verdict within the last minute: ${causes.map(([cause, value]) => `${cause} ${value}`).join(", ")}`,
        "fuel, deadline: raise the limit or mend it; trap: roll it back; pool: raise concurrency",
      );
  }
}

function of_contracts(tell, grew, registry) {
  if (registry.unavailable.length)
    tell(
      "now",
      "unavailable",
      "contracts",
      `Messages are refused with 503 for want of a contract: ${names(registry.unavailable)}`,
      "push the schema, or mend the store",
    );
  if (registry.refused.length)
    tell(
      "soon",
      "schema",
      "contracts",
      `An update of a schema was refused, the last good revision stays: ${names(registry.refused.map((one) => `${one.id} (${one.reason})`))}`,
      "push a good one, or roll back",
    );
  if (registry.lost.length)
    tell("soon", "lost", "contracts", `The store lost what is in force: ${names(registry.lost)}`, "push it again");
  if (grew("shield_schema_alarms_total"))
    tell(
      "now",
      "alarm",
      "contracts",
      "The schema store raised an alarm within the last minute",
      "the log and the table of contracts say which",
    );
}

function of_mirror(tell, grew, mirror, readings) {
  const before = readings.before(WITHIN);
  const lost = before
    ? Object.keys(mirror.dropped)
        .filter((reason) => !EXPECTED.has(reason))
        .map((reason) => [reason, grew("shield_mirror_dropped_total", { reason })])
        .filter(([, value]) => value > 0)
    : [];
  const sampled = grew("shield_mirror_sampled_total");
  const sum_lost = lost.reduce((so_far, [, value]) => so_far + value, 0);
  if (sum_lost > 0.01 * sampled)
    tell(
      "soon",
      "mirror",
      "mirror",
      `The mirror drops: ${sum_lost} of ${sampled} copies within a minute (${lost.map(([reason, value]) => `${reason} ${value}`).join(", ")})`,
      "the primary does not feel it; disconnected: NATS is away; queue_full, shed: lower the share",
    );
  else if (mirror.kept < 1)
    tell(
      "soon",
      "shed mirror",
      "mirror",
      `The mirror sheds: ${(100 * mirror.kept).toFixed(0)} % of the sample is kept`,
      "it recovers by itself once the sink keeps up",
    );
  if (mirror.sampled !== mirror.mirrored + sum(mirror.dropped) + mirror.in_flight)
    tell("now", "books", "mirror", "The mirror's books do not balance", "this is a defect: report it with /v1/state");
}

function of_rollouts(tell, grew, rollout) {
  // What holds one tenant is told of that one: the others go on.
  if (rollout.hold && !rollout.hold_of)
    tell("now", "hold", "rollouts", `Shares are held, nothing is loosened: ${rollout.hold}`, "stops and pauses still act");
  for (const { tenant, hold } of rollout.tenants)
    if (hold)
      tell("now", `hold ${tenant}`, "rollouts", `Shares of tenant ${tenant} are held, nothing is loosened: ${hold}`, "stops and pauses still act");
  const scopes = rollout.tenants.flatMap(({ tenant, scopes: of }) =>
    of.map((one) => ({ ...one, name: one.scope ? `${tenant} ${one.scope}` : tenant })),
  );
  const those = (what) => scopes.filter(what).map((one) => one.name);
  const stopped = scopes.filter((one) => one.phase === "stopped");
  if (stopped.length) {
    const since =
      stopped.length === 1 && stopped[0].since_us
        ? `, since ${span(Date.now() / 1000 - stopped[0].since_us / 1e6)}${stopped[0].reason ? `: ${stopped[0].reason}` : ""}`
        : "";
    tell(
      "now",
      `stopped ${names(stopped.map((one) => one.name))}`,
      "rollouts",
      `Stopped: ${names(stopped.map((one) => one.name))}${since}`,
      "everyone is on the baseline until operators sign a resume",
    );
  }
  const breached = those((one) => one.guarded || one.guard?.verdict === "breach");
  if (breached.length)
    tell(
      "now",
      `guard ${names(breached)}`,
      "rollouts",
      `The guard lowered a share: ${names(breached)}`,
      "the variant is worse than the baseline of the same time: look at the figures, then stop or resume",
    );
  const fragile = those((one) => one.durable === false);
  if (fragile.length)
    tell(
      "now",
      "durable",
      "rollouts",
      `A stop is not on disk: ${names(fragile)}`,
      "do not restart this gateway before there is room",
    );
  const paused = those((one) => one.phase === "paused");
  if (paused.length)
    tell("soon", `paused ${names(paused)}`, "rollouts", `Paused: ${names(paused)}`, "the clock stands still until a resume");
  const pending = rollout.tenants.flatMap(({ tenant, pending: of }) => of.map((one) => `${one.id} of ${tenant}`));
  if (pending.length)
    tell("waits", `pending ${names(pending)}`, "rollouts", `Waits for an approval: ${names(pending)}`, "arqon gov approve");
  const refused = grew("shield_rollout_refused_total") - grew("shield_rollout_refused_total", { reason: "duplicate" });
  if (refused > 0)
    tell(
      "soon",
      "control",
      "rollouts",
      `${refused} control messages were refused within a minute`,
      "the reasons are in /metrics and in the audit trail",
    );
}
