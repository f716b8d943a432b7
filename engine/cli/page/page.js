// What the reader does: one current event, which the chart, the slider and the panels all show.

const slider = document.getElementById("slider");
const filter = document.getElementById("filter");
const hint = document.getElementById("hint");

// Make the event number `count` (from 1; 0 is before the first) the current one.
function choose(count, { reveal = true } = {}) {
  chosen.count = Math.min(Math.max(count, 0), events.length);
  chosen.world = worldAfter(chosen.count);
  const event = current();
  if (event && reveal) {
    showTime(event.at);
    showRow(event.row);
  }
  showMoment();
  showEvent();
  showState();
  redraw();
  window.clearTimeout(choose.timer);
  choose.timer = window.setTimeout(() => history.replaceState(null, "", event ? `#${event.position}` : "#0"), 250);
}

function toggleCommand() {
  const event = current();
  chosen.command = !event || chosen.command === event.command ? null : event.command;
  const button = document.getElementById("family");
  if (button) button.setAttribute("aria-pressed", String(chosen.command !== null));
  redraw();
}

function narrow() {
  view.rows = rows.map((row, index) => index).filter((index) => {
    const row = rows[index];
    if (row.store) return row.events.length > 0 && !wanted();
    return fits(row) || row.names.some((name) => name.toLowerCase().includes(wanted()));
  });
  plot.scrollTop = 0;
  fitPlot();
  showState();
}

function step(way) {
  const event = current();
  if (!event) return choose(way > 0 ? 1 : 0);
  const list = rows[event.row].events;
  const next = list[list.indexOf(event) + way];
  return next && choose(next.index + 1);
}

function climb(way) {
  const event = current();
  const slot = event ? view.rows.indexOf(event.row) : -1;
  for (let to = slot + way; to >= 0 && to < view.rows.length; to += way) {
    const list = rows[view.rows[to]].events;
    if (!list.length) continue;
    const after = firstFrom(list, event ? event.at : 0);
    const near = [list[after - 1], list[after]].filter(Boolean);
    near.sort((a, b) => Math.abs(a.at - event.at) - Math.abs(b.at - event.at));
    return choose(near[0].index + 1);
  }
  return undefined;
}

// -- the pointer ------------------------------------------------------------------------------------------

const pointers = new Map();
let dragged = 0;
let pinch = 0;

canvas.addEventListener("wheel", (event) => {
  if (event.shiftKey || event.offsetX < view.left) return; // the rows scroll
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : 1;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(event.deltaX * lines);
  else zoom(Math.exp(Math.max(Math.min(event.deltaY * lines, 240), -240) * 0.0022), event.offsetX);
}, { passive: false });

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  dragged = 0;
  pinch = distance();
  hint.hidden = true;
});

canvas.addEventListener("pointermove", (event) => {
  if (!pointers.has(event.pointerId)) return hover(event);
  const [x, y] = pointers.get(event.pointerId);
  pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  dragged += Math.abs(event.offsetX - x) + Math.abs(event.offsetY - y);
  if (pointers.size === 2) {
    const now = distance();
    const middle = [...pointers.values()].reduce((sum, point) => sum + point[0], 0) / 2;
    if (pinch && now) zoom(pinch / now, middle);
    pinch = now;
    return undefined;
  }
  if (dragged > 4) {
    canvas.style.cursor = "grabbing";
    pan(x - event.offsetX);
    plot.scrollTop += y - event.offsetY;
  }
  return undefined;
});

function distance() {
  const [a, b] = [...pointers.values()];
  return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0;
}

canvas.addEventListener("pointerup", (event) => {
  pointers.delete(event.pointerId);
  canvas.style.cursor = "";
  if (dragged > 4) return;
  const found = eventsAt(event.offsetX, event.offsetY);
  if (found.length) {
    // Again on the same spot: the next of those that are there.
    const at = found.indexOf(current());
    choose(found[(at + 1) % found.length].index + 1, { reveal: false });
    return;
  }
  const index = rowAt(event.offsetY);
  const list = index === null ? [] : rows[index].events;
  if (event.offsetX < view.left && list.length) choose(list.at(-1).index + 1);
});

canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
canvas.addEventListener("dblclick", (event) => event.offsetX > view.left && zoom(0.25, event.offsetX));
canvas.addEventListener("pointerleave", () => {
  hint.hidden = true;
  chosen.hover = null;
  redraw();
});

function hover(event) {
  const row = rowAt(event.offsetY);
  if (row !== chosen.hover) {
    chosen.hover = row;
    redraw();
  }
  const found = eventsAt(event.offsetX, event.offsetY);
  canvas.style.cursor = found.length ? "pointer" : event.offsetX > view.left ? "grab" : "default";
  hint.hidden = !found.length;
  if (!found.length) return;
  const lines = found.slice(0, 6).map((each) => `${clock(each.at)}  ${title(each.tag)}${each.details ? `: ${printable(each.details).slice(0, 90)}` : ""}`);
  if (found.length > 6) lines.push(`and ${found.length - 6} more`);
  hint.textContent = lines.join("\n");
  const box = hint.getBoundingClientRect();
  hint.style.left = `${Math.min(event.clientX + 14, window.innerWidth - box.width - 12)}px`;
  hint.style.top = `${Math.min(event.clientY + 16, window.innerHeight - box.height - 12)}px`;
}

// -- the keyboard -----------------------------------------------------------------------------------------

const KEYS = {
  "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), 0: () => setRange(...WHOLE), c: toggleCommand,
  Escape: () => chosen.command !== null && toggleCommand(),
};
const CHART_KEYS = {
  ArrowLeft: (event) => (event.shiftKey ? pan(-across() / 8) : step(-1)),
  ArrowRight: (event) => (event.shiftKey ? pan(across() / 8) : step(1)),
  ArrowUp: () => climb(-1), ArrowDown: () => climb(1), Home: () => choose(1), End: () => choose(events.length),
  PageUp: () => { plot.scrollTop -= view.height - AXIS - ROW; },
  PageDown: () => { plot.scrollTop += view.height - AXIS - ROW; },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === filter) {
    if (event.key === "Escape") {
      filter.value = "";
      narrow();
      canvas.focus();
    }
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    filter.focus();
    return;
  }
  const act = (event.target === canvas && CHART_KEYS[event.key]) || KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act(event);
});

// -- the rest ---------------------------------------------------------------------------------------------

// Above the slider, along the log: how many runs began there, and how many ended in failure.
function drawDensity() {
  const strip = document.getElementById("density");
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [strip.clientWidth, strip.clientHeight];
  strip.width = width * scale;
  strip.height = height * scale;
  const ink = strip.getContext("2d");
  ink.scale(scale, scale);
  const bins = Math.max(Math.min(Math.floor(width / 4), 240), 1);
  const ends = new Array(bins).fill(0);
  const wrong = new Array(bins).fill(0);
  for (const event of events) {
    const bin = Math.min(Math.floor(((event.index + 0.5) / events.length) * bins), bins - 1);
    if (failed.has(event.position)) wrong[bin] += 1;
    else if (event.tag === "container.started") ends[bin] += 1;
  }
  const most = Math.max(...ends, ...wrong, 1);
  const tall = (count) => (count ? Math.max((count / most) * (height - 3), 3) : 0);
  for (let bin = 0; bin < bins; bin += 1) {
    const x = (bin / bins) * width;
    ink.fillStyle = colours.running;
    ink.fillRect(x, height - tall(ends[bin]), width / bins - 1, tall(ends[bin]));
    ink.fillStyle = colours.bad;
    ink.fillRect(x, height - tall(wrong[bin]), width / bins - 1, tall(wrong[bin]));
  }
}

function dress() {
  readColours();
  fillLegend();
  drawDensity();
  redraw();
}

function setZone(utc) {
  settings.utc = utc;
  document.getElementById("utc").setAttribute("aria-pressed", String(utc));
  document.getElementById("local").setAttribute("aria-pressed", String(!utc));
  showMoment();
  showState();
  redraw();
}

function open() {
  const position = Number(window.location.hash.slice(1));
  const event = byPosition.get(position);
  choose(event ? event.index + 1 : window.location.hash === "#0" ? 0 : events.length);
}

slider.max = String(events.length);
let sliding = 0;
slider.addEventListener("input", () => {
  if (!sliding) sliding = requestAnimationFrame(slide); // as often as it is drawn, however fast it moves
});

function slide() {
  sliding = 0;
  choose(Number(slider.value));
}

filter.addEventListener("input", narrow);
plot.addEventListener("scroll", redraw);
document.getElementById("back").addEventListener("click", () => choose(chosen.count - 1));
document.getElementById("on").addEventListener("click", () => choose(chosen.count + 1));
document.getElementById("in").addEventListener("click", () => zoom(0.6));
document.getElementById("out").addEventListener("click", () => zoom(1 / 0.6));
document.getElementById("fit").addEventListener("click", () => setRange(...WHOLE));
document.getElementById("utc").addEventListener("click", () => setZone(true));
document.getElementById("local").addEventListener("click", () => setZone(false));
window.addEventListener("hashchange", open);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
new ResizeObserver(() => {
  fitPlot();
  drawDensity();
}).observe(plot);

canvas.setAttribute("aria-label", `Lives of ${counted(rows.length - 1, "container")}, ${counted(events.length, "event")}`);
fillHead();
readColours();
fillLegend();
chosen.world = worldAfter(chosen.count);
narrow();
open();
drawDensity();

// For the console, and for whoever checks this page against the log.
window.lading = Object.freeze({
  stateAt: (position) => {
    const after = firstPast(position);
    const world = worldAfter(after);
    return { containers: [...world.containers.values()], images: [...world.images.values()], tags: [...world.tags] };
  },
  range: () => [view.from, view.to],
  where: (position) => {
    const event = byPosition.get(position);
    return { x: xOf(event.at), y: yOf(view.rows.indexOf(event.row)) + ROW / 2 };
  },
  current: () => current()?.position ?? 0,
});

function firstPast(position) {
  let count = 0;
  while (count < events.length && events[count].position <= position) count += 1;
  return count;
}
