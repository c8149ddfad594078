// What answers differ in, field by field, over the latest hour. Text goes into the page as text only.
const EVERY = 5000;
const SPAN = 30;
const WIDTH = 960, HEIGHT = 130, LEFT = 54, RIGHT = 12, TOP = 10, BOTTOM = 22;

function made(space, name, attributes = {}, ...children) {
  const element = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const h = (name, ...rest) => made(null, name, ...rest);
const s = (name, ...rest) => made("http://www.w3.org/2000/svg", name, ...rest);
const percent = (share) => `${(share * 100).toLocaleString("en", { maximumSignificantDigits: 3 })} %`;
const clock = (at) => new Date(at * 1000).toISOString().slice(11, 16);
const share = (hits, of) => (of ? hits / of : null);

/** One line through the spans, broken where nothing was compared, with a dot for each span. */
function line(kind, points) {
  const paths = [];
  let path = "", before = null;
  for (const { x, y, at } of points) {
    if (y === null) continue;
    path += before !== null && at - before <= SPAN ? `L${x} ${y}` : `M${x} ${y}`;
    before = at;
    paths.push(s("circle", { class: `${kind}-dot`, cx: x, cy: y, r: 2.5 }));
  }
  return [s("path", { class: kind, d: path }), ...paths];
}

/** The rates of one field over time: the candidate's, and the control's as the noise. */
function picture(name, history) {
  const first = history[0].at, last = Math.max(history.at(-1).at, first + 4 * SPAN);
  const rates = history.map((span) => {
    const field = Object.hasOwn(span.fields, name) ? span.fields[name] : { different: 0, noise: 0 };
    return { at: span.at, different: share(field.different, span.compared), noise: share(field.noise, span.controlled) };
  });
  const most = Math.min(1, Math.max(0.01, ...rates.flatMap((rate) => [rate.different ?? 0, rate.noise ?? 0])) * 1.1);
  const x = (at) => LEFT + (at - first) / (last - first) * (WIDTH - LEFT - RIGHT);
  const y = (rate) => (rate === null ? null : TOP + (1 - rate / most) * (HEIGHT - TOP - BOTTOM));
  const grid = [0, 0.5, 1].flatMap((part) => [
    s("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(part * most), y2: y(part * most) }),
    s("text", { x: LEFT - 6, y: y(part * most) + 4, "text-anchor": "end" }, percent(part * most)),
  ]);
  const times = [first, (first + last) / 2, last].map((at, place) =>
    s("text", { x: x(at), y: HEIGHT - 5, "text-anchor": ["start", "middle", "end"][place] }, `${clock(at)} UTC`));
  const points = (key) => rates.map((rate) => ({ at: rate.at, x: x(rate.at), y: y(rate[key]) }));
  return s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${name}: how often it differed, over time` },
    ...grid, ...times, ...line("noise", points("noise")), ...line("rate", points("different")));
}

function examples(field) {
  const rows = field.examples.map((one) => h("tr", {}, h("td", {}, one.trace), h("td", {}, one.primary), h("td", {}, one.other)));
  const head = h("tr", {}, ...["trace", "primary", "candidate"].map((text) => h("th", { scope: "col" }, text)));
  return h("details", {}, h("summary", {}, rows.length === 1 ? "1 example" : `${rows.length} examples`), h("table", {}, head, ...rows));
}

function section([name, field], history, controlled) {
  const verdict = field.diverges ? "diverges" : field.noise ? "noise" : "too few to say";
  const [low, high] = field.rate.map(percent);
  const noise = controlled ? `; the control in ${percent(field.noise_rate[0])} to ${percent(field.noise_rate[1])} (dashed)` : "; no control";
  return h("section", { class: field.diverges ? "diverges" : "", "data-field": name },
    h("h2", {}, name, h("span", { class: "verdict" }, verdict)),
    h("p", {}, `Differs in ${low} to ${high} of all answers (${field.different.toLocaleString("en")} times)${noise}.`),
    history.length ? picture(name, history) : "",
    examples(field));
}

function show(found) {
  const summary = document.getElementById("summary"), fields = document.getElementById("fields");
  if (!found) {
    summary.textContent = "Nothing is compared: platform.mirroring.compare names no candidate.";
    return fields.replaceChildren();
  }
  const { report, history } = found;
  const known = Object.entries(report.fields);
  const diverging = known.filter(([, field]) => field.diverges).length;
  summary.textContent = `${report.compared.toLocaleString("en")} answers compared, ${report.controlled.toLocaleString("en")} with a control. ` +
    (report.incomplete ? `Of ${report.incomplete.toLocaleString("en")} the bodies could not be compared. ` : "") +
    (known.length ? `${diverging} of ${known.length} fields that ever differed diverge.` : "No field ever differed.");
  const rank = ([, field]) => (field.diverges ? 2 : 0) + field.rate[0];
  const open = new Set([...fields.querySelectorAll("section:has(details[open])")].map((one) => one.dataset.field));
  const sections = known.sort((a, b) => rank(b) - rank(a)).map((field) => section(field, history, report.controlled));
  for (const one of sections) one.querySelector("details").open = open.has(one.dataset.field);
  fields.replaceChildren(...sections);
}

async function read() {
  try {
    const answer = await fetch("/v1/divergence");
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    document.getElementById("summary").textContent = `The gateway does not answer: ${error.message}`;
  }
  setTimeout(read, EVERY);
}
read();
