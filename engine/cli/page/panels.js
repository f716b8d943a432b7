// What is said in words: the legend, the facts, one event, and the state of everything at a moment.
// Text from the history is only ever set as text.

const MOST_ROWS = 100;
const detail = document.getElementById("detail");

function node(name, words = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(words)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
}

const number = (count) => count.toLocaleString("en-GB");
const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
const shortId = (id) => id.replace(/^sha256:/, "").slice(0, 12);
const familiar = (name) => printable(name.replace(/^docker\.io\/(library\/)?/, ""));
const tagged = (image) => image.tags.filter((name) => !name.includes("@"));  // the others are digests
const title = (tag) => {
  const [kind, what] = tag.split(".");
  const said = (kind === "container" ? what : `${kind} ${what}`).replaceAll("-", " ");
  return said.charAt(0).toUpperCase() + said.slice(1);
};

function fillHead() {
  document.getElementById("store").textContent = printable(source.root);
  document.getElementById("store").title = printable(source.root);
  document.title = `${printable(source.root) || "Store"} – timeline`;
  const facts = [
    ["containers", number(rows.length - 1)], ["events", number(events.length)], ["long", spanText(span)],
  ];
  document.getElementById("facts").replaceChildren(
    ...facts.map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", {}, value))),
  );
}

function fillLegend() {
  const present = new Set(rows.flatMap((row) => row.segments.map((segment) => segment[0] ?? "unknown")));
  const kinds = [...source.phases, "unknown"].filter((phase) => present.has(phase));
  const sample = (paint) => {
    const small = node("canvas", { width: 44, height: 28, "aria-hidden": "true" });
    const ink = small.getContext("2d");
    ink.scale(2, 2);
    paint(ink);
    return small;
  };
  const items = kinds.map((phase) =>
    node("li", {}, sample((ink) => bar(ink, phase === "unknown" ? null : phase, 0, 22, 7)), phase),
  );
  if (failures.length) {
    items.push(node("li", {}, sample((ink) => {
      ink.fillStyle = colours.bad;
      ink.arc(11, 7, 5.5, 0, 2 * Math.PI);
      ink.fill();
      ink.strokeStyle = colours.surface;
      ink.lineWidth = 1.5;
      ink.beginPath();
      for (const way of [-1, 1]) {
        ink.moveTo(11 - 2.2, 7 - 2.2 * way);
        ink.lineTo(11 + 2.2, 7 + 2.2 * way);
      }
      ink.stroke();
    }), "ended in failure"));
  }
  items.push(node("li", {}, sample((ink) => {
    ink.beginPath();
    ink.arc(11, 7, 3.4, 0, 2 * Math.PI);
    ink.strokeStyle = colours.ink;
    ink.lineWidth = 1.3;
    ink.stroke();
  }), "event"));
  document.getElementById("legend").replaceChildren(...items);
}

// -- one event --------------------------------------------------------------------------------------------

function showEvent() {
  const event = current();
  if (!event) {
    detail.replaceChildren(
      node("p", { class: "eyebrow" }, "Before the first event"),
      node("h3", {}, source.before.position ? `As of position ${number(source.before.position)}` : "Nothing yet"),
      node("p", { class: "what" }, events.length ? "Move the slider, or click on a dot, to see what happened." : "No event is in this window."),
    );
    return;
  }
  const row = rows[event.row];
  const family = byCommand.get(event.command);
  const cause = byPosition.get(event.cause);
  const facts = [
    ["Position", String(event.position)],
    ["UTC", utcText(event.time), "mono"],
    ["Local", localText(event.time)],
    ["Who", printable(event.actor)],
    ["Cause", cause ? node("button", { class: "link", type: "button", onclick: () => choose(cause.index + 1) }, `${cause.position}, ${title(cause.tag).toLowerCase()}`) : event.cause ? String(event.cause) : "none"],
    ["Command", event.command, "mono"],
  ];
  detail.replaceChildren(
    node("p", { class: "eyebrow" }, node("span", { class: "tag" }, event.tag), `${number(event.index + 1)} of ${number(events.length)}`),
    node("h3", {}, title(event.tag)),
    node("p", { class: "what" }, row.store ? printable(event.subject || event.stream) : nameOf(row), ...(event.details ? [node("br"), printable(event.details)] : [])),
    list(facts),
    node(
      "button",
      { class: "wide", id: "family", type: "button", "aria-pressed": String(chosen.command === event.command), onclick: toggleCommand },
      node("span", {}, family.length === 1 ? "The only event of this command" : `All ${number(family.length)} of this command`),
      node("kbd", {}, "c"),
    ),
    node("h4", {}, "Fields"),
    tree(event.data),
    node("h4", {}, "Record"),
    list([
      ["Stream", printable(event.stream), "mono"], ["Version", String(event.version)], ["Event id", event.event_id, "mono"],
      ["Chain", event.chain, "mono"],
    ]),
  );
}

function list(facts) {
  return node("dl", {}, ...facts.flatMap(([name, value, look]) => [node("dt", {}, name), node("dd", look ? { class: look } : {}, value)]));
}

function tree(value) {
  if (value === null) return node("span", { class: "empty" }, "unknown");
  if (Array.isArray(value)) {
    if (!value.length) return node("span", { class: "empty" }, "none");
    return node("div", {}, ...value.map((each) => node("div", {}, tree(each))));
  }
  if (typeof value === "object") {
    const pairs = Object.entries(value);
    if (!pairs.length) return node("span", { class: "empty" }, "none");
    return list(pairs.map(([key, each]) => [printable(key), tree(each), typeof each === "object" ? "" : "mono"]));
  }
  if (value === "") return node("span", { class: "empty" }, "empty");
  return node("span", {}, typeof value === "boolean" ? (value ? "yes" : "no") : printable(value));
}

// -- the state at a moment --------------------------------------------------------------------------------

function fits(state) {
  const text = wanted();
  return !text || [state.name, state.id, state.image_name].some((each) => each.toLowerCase().includes(text));
}
const wanted = () => document.getElementById("filter").value.trim().toLowerCase();

function phaseWord(phase) {
  const word = node("span", { class: "phase" }, phase ?? "unknown");
  word.style.setProperty("--tone", `var(--${phase ?? "unknown"})`);
  return word;
}

function exitCode(state) {
  if (["created", "starting", "running", "paused", "stopping"].includes(state.phase) || state.phase === null) return "";
  if (state.exit_code !== null) return String(state.exit_code);
  return state.finished_at === "0" ? "" : "unknown";
}

function showState() {
  const world = chosen.world;
  const states = [...world.containers.values()].filter(fits);
  const event = current();
  const lines = states.slice(0, MOST_ROWS).map((state) => {
    const code = exitCode(state);
    const since = state.since === undefined ? "before" : clock(state.since);
    const line = node(
      "tr",
      { "data-id": state.id },
      node("td", { title: printable(state.name) }, printable(state.name || shortId(state.id))),
      node("td", {}, phaseWord(state.phase)),
      node("td", code && code !== "0" ? { class: "wrong" } : {}, code),
      node("td", { title: printable(state.image_name) }, familiar(state.image_name.startsWith("sha256:") ? shortId(state.image_name) : state.image_name)),
      node("td", {}, since),
      node("td", {}, node("span", { class: "mono" }, printable(shortId(state.id)))),
    );
    if (event && event.subject === state.id) line.className = "current";
    return line;
  });
  document.querySelector("#containers tbody").replaceChildren(...lines);
  document.getElementById("how-many").textContent = number(states.length);
  const more = document.getElementById("more");
  more.hidden = states.length <= MOST_ROWS && states.length > 0;
  more.textContent = states.length ? `and ${number(states.length - MOST_ROWS)} more: the filter narrows them` : "none at this moment";
  const images = [...world.images.values()];
  document.querySelector("#images tbody").replaceChildren(
    ...images.slice(0, MOST_ROWS).map((image) =>
      node("tr", { "data-id": image.id }, node("td", { title: printable(image.tags.join(", ")) }, tagged(image).map(familiar).join(", ") || node("span", { class: "empty" }, "untagged")), node("td", {}, node("span", { class: "mono" }, shortId(image.id)))),
    ),
  );
  document.getElementById("how-many-images").textContent = number(images.length);
}

function showMoment() {
  const event = current();
  const now = document.getElementById("now");
  if (!event) now.replaceChildren(node("b", {}, "Before the first event"), node("span", {}, "what was there already"));
  else {
    const words = `${nameOf(rows[event.row])}: ${title(event.tag).toLowerCase()}`;
    now.replaceChildren(node("b", {}, `Position ${number(event.position)}`), ` · ${day(event.at)} ${clock(event.at)}`, node("span", {}, words));
  }
  const slider = document.getElementById("slider");
  slider.value = String(chosen.count);
  slider.setAttribute("aria-valuetext", now.textContent);
}
