// Charts: lines over the last minutes, bars of a histogram. Drawn as SVG, said as text; colours are not all that tells them
// apart, and nothing moves but by new figures.
import { h, s } from "./dom.js";

const TOP = 16;
const HEIGHT = 100;

/** Scales: where between 0 and 1 a value lies, and the lines of the grid. */
export const linear = (most) => {
  const step = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  const top = [1, 2, 5, 10].map((times) => times * step).find((one) => one >= most) ?? 10 * step;
  return { place: (value) => value / top, grid: [0, top / 2, top] };
};
export const decades = (least, most) => {
  const low = Math.floor(Math.log10(least));
  const high = Math.max(Math.ceil(Math.log10(most)), low + 1);
  const place = (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low);
  return { place, grid: Array.from({ length: high - low + 1 }, (_, at) => 10 ** (low + at)) };
};

/**
 * Lines over time. `points` are `{ at, <key>: value or null }`, `lines` are `{ key, label, kind }`; without a value the line
 * is broken.
 */
export function timeline({ label, points, lines, scale, format, now }) {
  const first = points[0]?.at ?? now;
  const width = Math.max(now - first, 60_000);
  const from = now - width;
  const y = (value) => TOP + (HEIGHT - TOP - 2) * (1 - scale.place(value));
  const x = (at) => (1000 * (at - from)) / width;
  const drawn = lines.map(({ key, kind }) => {
    const runs = [[]];
    for (const point of points) {
      if (point[key] === null || point[key] === undefined) runs.push([]);
      else runs.at(-1).push(`${x(point.at).toFixed(1)},${y(point[key]).toFixed(2)}`);
    }
    const drawable = runs.filter((run) => run.length);
    return s(
      "g",
      { class: kind },
      drawable.map((run) =>
        s("polyline", {
          points: (run.length > 1 ? run : [run[0], run[0].replace(/^[^,]*/, (at) => Number(at) + 2)]).join(" "),
        }),
      ),
    );
  });
  const grid = scale.grid.map((value) => s("line", { class: "grid", x1: 0, x2: 1000, y1: y(value), y2: y(value) }));
  const shown = scale.grid.length > 5 ? scale.grid.filter((_, at) => at % 2 === 0) : scale.grid;
  const marks = shown.map((value) => s("text", { x: 4, y: `${y(value)}%`, dy: -3 }, format(value)));
  const last = points.at(-1) ?? {};
  const said = lines.map((line) => `${line.label} ${format(last[line.key])}`).join(", ");
  const ago = Math.round(width / 60_000);
  return h(
    "figure",
    { class: "chart" },
    h(
      "figcaption",
      {},
      h("strong", {}, label),
      h(
        "ul",
        { class: "legend" },
        lines.map((line) =>
          h(
            "li",
            {},
            s(
              "svg",
              { class: `key ${line.kind}`, viewBox: "0 0 24 8", "aria-hidden": "true" },
              s("polyline", { points: "0,4 24,4" }),
            ),
            `${line.label} `,
            h("b", {}, format(last[line.key])),
          ),
        ),
      ),
    ),
    s(
      "svg",
      { class: "plot", role: "img", "aria-label": `${label}, the last ${ago} min; now ${said}` },
      s("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", width: "100%", height: "100%" }, grid, drawn),
      marks,
    ),
    h("p", { class: "ends", "aria-hidden": "true" }, h("span", {}, `${ago} min ago`), h("span", {}, "now")),
  );
}

/** Bars of a histogram: `bars` are `{ label, value }`. */
export function bars(label, said, all) {
  const most = Math.max(...all.map((one) => one.value), 1);
  const width = 1000 / Math.max(all.length, 1);
  return h(
    "figure",
    { class: "bars" },
    h("figcaption", {}, h("strong", {}, label), h("span", { class: "small" }, said)),
    s(
      "svg",
      { class: "plot", viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${said}` },
      s("line", { class: "grid", x1: 0, x2: 1000, y1: 99, y2: 99 }),
      all.map((one, at) => {
        const height = one.value ? Math.max(3, (96 * one.value) / most) : 0;
        return s(
          "rect",
          {
            x: (at * width + width * 0.08).toFixed(1),
            width: (width * 0.84).toFixed(1),
            y: (99 - height).toFixed(1),
            height: height.toFixed(1),
          },
          s("title", {}, `${one.label}: ${one.value}`),
        );
      }),
    ),
    h("p", { class: "ends", "aria-hidden": "true" }, h("span", {}, all[0]?.label ?? ""), h("span", {}, all.at(-1)?.label ?? "")),
  );
}

/** One bar of parts that add up to a whole: `parts` are `{ kind, value }`. */
export function parts(label, all) {
  const sum = all.reduce((so_far, one) => so_far + one.value, 0);
  let at = 0;
  return s(
    "svg",
    { class: "parts", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("rect", { class: "rest", x: 0, y: 0, width: 1000, height: 10 }),
    sum
      ? all.map((one) => {
          const width = (1000 * one.value) / sum;
          const rect = s("rect", { class: one.kind, x: at.toFixed(1), y: 0, width: width.toFixed(1), height: 10 });
          at += width;
          return rect;
        })
      : [],
  );
}
