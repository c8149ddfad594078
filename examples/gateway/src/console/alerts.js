// What needs an operator, the most urgent first: shown, told aloud once, and counted in the tab's title.
import { byId, h, render, say } from "./dom.js";
import { found } from "./rules.js";

const LEVELS = { now: "Now", soon: "Soon", waits: "Waits" };

let told = null;

export const alerts = {
  show(seen) {
    const all = found(seen);
    const order = Object.keys(LEVELS);
    all.sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level));
    render(
      byId("alert-list"),
      all.length
        ? all.map((one) =>
            h(
              "li",
              { "data-key": one.key, class: one.level },
              h("span", { class: "level" }, LEVELS[one.level]),
              h(
                "div",
                {},
                h("p", {}, one.text),
                h(
                  "p",
                  { class: "small" },
                  `${one.todo}. `,
                  h("a", { href: `#${one.section}` }, `See ${one.section === "health" ? "gateway" : one.section}`),
                ),
              ),
            ),
          )
        : h("li", { class: "none" }, "Nothing needs you."),
    );
    const urgent = all.filter((one) => one.level !== "waits").length;
    document.title = urgent ? `(${urgent}) Arqon` : "Arqon";
    // Said once for each new set, not each time that a number in it moves.
    const keys = all
      .map((one) => one.key)
      .sort()
      .join("\n");
    if (keys === told) return;
    const first = told === null;
    told = keys;
    if (first && !all.length) return;
    say(
      byId("alerts-said"),
      all.length
        ? `${all.length} ${all.length === 1 ? "thing needs" : "things need"} you. ${all[0].text}`
        : "Nothing needs you any more.",
    );
  },
};
