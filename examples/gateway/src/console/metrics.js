// `/metrics` read by the page itself: the text format of Prometheus, rates between two readings, quantiles of histograms.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n", "\\": "\\", '"': '"' };

const labels = (text = "") => {
  const found = {};
  for (const [, name, value] of text.matchAll(LABEL)) found[name] = value.replace(/\\(.)/g, (_, one) => ESCAPED[one] ?? one);
  return found;
};
const number = (text) => (text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text));

/** What `/metrics` said at a time. */
export class Reading {
  constructor(text, at) {
    this.at = at;
    this.names = new Map();
    for (const line of text.split("\n")) {
      if (!line || line.startsWith("#")) continue;
      const [, name, inside, value] = LINE.exec(line) ?? [];
      if (!name) continue;
      if (!this.names.has(name)) this.names.set(name, []);
      this.names.get(name).push({ labels: labels(inside), value: number(value) });
    }
  }

  /** The series of a name whose labels are these, among others. */
  series(name, where = {}) {
    const wanted = Object.entries(where);
    return (this.names.get(name) ?? []).filter((one) => wanted.every(([key, value]) => one.labels[key] === value));
  }

  /** Their sum. */
  sum(name, where) {
    return this.series(name, where).reduce((sum, one) => sum + one.value, 0);
  }

  /** What stands under a label, summed: `{ "2xx": 7, .. }`. */
  by(label, name, where) {
    const sums = {};
    for (const one of this.series(name, where)) sums[one.labels[label]] = (sums[one.labels[label]] ?? 0) + one.value;
    return sums;
  }

  /** A histogram: its bounds and how many lie at or below each, over all series that match. */
  histogram(name, where) {
    const below = new Map();
    for (const one of this.series(`${name}_bucket`, where)) {
      const bound = number(one.labels.le);
      below.set(bound, (below.get(bound) ?? 0) + one.value);
    }
    return [...below].sort(([a], [b]) => a - b).map(([bound, calls]) => ({ bound, calls }));
  }
}

/** What came between two histograms. */
const between = (later, earlier) => later.map(({ bound, calls }, at) => ({ bound, calls: calls - (earlier[at]?.calls ?? 0) }));

/** A quantile, straight within its bucket, as `histogram_quantile` of Prometheus has it; null without observations. */
export function quantile(histogram, q) {
  const all = histogram.at(-1)?.calls ?? 0;
  if (!(all > 0)) return null;
  const rank = q * all;
  const at = histogram.findIndex(({ calls }) => calls >= rank);
  const { bound, calls } = histogram[at];
  const [from, before] = at ? [histogram[at - 1].bound, histogram[at - 1].calls] : [0, 0];
  if (bound === Infinity) return from;
  return from + (bound - from) * ((rank - before) / Math.max(calls - before, 1e-12));
}

/** The series, as `name{label="value"}`: what a number on the page is the sum of. */
export const named = (name, where = {}) => {
  const inside = Object.entries(where).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  return inside.length ? `${name}{${inside.join(",")}}` : name;
};

/** The readings of the last while: enough for rates over a minute. */
export class Readings {
  static KEPT_MS = 65_000;

  constructor() {
    this.all = [];
  }

  get last() {
    return this.all.at(-1);
  }

  /** Takes a reading; one of a gateway that began anew is the first. */
  add(reading) {
    const uptime = "shield_gateway_requests_total";
    if (this.last && reading.sum(uptime) < this.last.sum(uptime)) this.all = [];
    this.all.push(reading);
    while (reading.at - this.all[0].at > Readings.KEPT_MS) this.all.shift();
  }

  forget() {
    this.all = [];
  }

  /** The newest reading that is at least so old, else the oldest there is; null if there is but one. */
  before(seconds) {
    if (this.all.length < 2) return null;
    return this.all.findLast((one) => this.last.at - one.at >= seconds * 1000 - 200) ?? this.all[0];
  }

  /** How much it grew within so many seconds. */
  growth(seconds, name, where) {
    const before = this.before(seconds);
    return before ? Math.max(0, this.last.sum(name, where) - before.sum(name, where)) : 0;
  }

  /** How much it grew a second; null before there are two readings. */
  rate(name, where, seconds = 10) {
    const before = this.before(seconds);
    return before ? this.growth(seconds, name, where) / ((this.last.at - before.at) / 1000) : null;
  }

  /** The histogram of what came within so many seconds. */
  recent(name, where, seconds = 10) {
    const before = this.before(seconds);
    return before ? between(this.last.histogram(name, where), before.histogram(name, where)) : [];
  }
}
