// The drawing: rows of bars over a time axis on one canvas as large as what can be seen of it.

const ROW = 30;
const AXIS = 44;
const RIGHT = 18;
const LEAST = 0.001; // ms: as far in as it goes
const NEAR = 7;

const plot = document.getElementById("plot");
const tall = document.getElementById("tall");
const canvas = document.getElementById("canvas");
const pen = canvas.getContext("2d");

const span = Math.max(source.end, 1);
const margin = span * 0.012;
const WHOLE = [-margin, span + margin * 1.5];
const view = { from: WHOLE[0], to: WHOLE[1], width: 0, height: 0, left: 190, rows: [] };
const chosen = { count: events.length, command: null, hover: null, world: null };
let colours = {};
let hatches = new Map();

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ground", "surface", "raised", "ink", "soft", "quiet", "line", "hair", "accent", "accent-soft", "bad"];
  for (const name of [...names, ...source.phases, "unknown"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
  colours.sans = style.getPropertyValue("--sans");
  hatches = new Map();
}

const tone = (phase) => colours[phase === null ? "unknown" : phase];

function hatched(colour) {
  if (!hatches.has(colour)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const ink = tile.getContext("2d");
    ink.fillStyle = colour;
    ink.globalAlpha = 0.38;
    ink.fillRect(0, 0, 6, 6);
    ink.globalAlpha = 1;
    ink.strokeStyle = colour;
    ink.lineWidth = 2;
    ink.beginPath();
    for (const at of [-6, 0, 6]) {
      ink.moveTo(at - 1, 7);
      ink.lineTo(at + 7, -1);
    }
    ink.stroke();
    hatches.set(colour, pen.createPattern(tile, "repeat"));
  }
  return hatches.get(colour);
}

// Phases differ in height and fill, too, for whoever does not see the colours apart.
const LOOKS = {
  created: [4, false], starting: [14, true], running: [14, false], paused: [9, true], stopping: [14, true], stopped: [5, false],
  restarting: [7, true],  removing: [5, true], dead: [14, true], unknown: [2, false],
};

function bar(ink, phase, x, width, middle) {
  const [height, pattern] = LOOKS[phase === null ? "unknown" : phase];
  ink.fillStyle = pattern ? hatched(tone(phase)) : tone(phase);
  ink.beginPath();
  ink.roundRect(x, middle - height / 2, width, height, Math.min(3, width / 2, height / 2));
  ink.fill();
}

// -- geometry ---------------------------------------------------------------------------------------------

const across = () => Math.max(view.width - view.left - RIGHT, 10);
const xOf = (at) => view.left + ((at - view.from) / (view.to - view.from)) * across();
const timeAt = (x) => view.from + ((x - view.left) / across()) * (view.to - view.from);
const yOf = (slot) => AXIS + slot * ROW - plot.scrollTop;

function setRange(from, to) {
  const size = Math.min(Math.max(to - from, LEAST), WHOLE[1] - WHOLE[0]);
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(middle - size / 2, WHOLE[0]), WHOLE[1] - size);
  view.to = view.from + size;
  redraw();
}

function zoom(factor, x = view.left + across() / 2) {
  const at = timeAt(x);
  const size = Math.min(Math.max((view.to - view.from) * factor, LEAST), WHOLE[1] - WHOLE[0]);
  const share = (at - view.from) / (view.to - view.from);
  setRange(at - share * size, at + (1 - share) * size);
}

function pan(pixels) {
  const shift = (pixels / across()) * (view.to - view.from);
  setRange(view.from + shift, view.to + shift);
}

function fitPlot() {
  view.width = plot.clientWidth;
  view.height = plot.clientHeight;
  view.left = Math.round(Math.min(Math.max(view.width * 0.16, 110), 210));
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(view.width * scale);
  canvas.height = Math.round(view.height * scale);
  canvas.style.width = `${view.width}px`;
  canvas.style.height = `${view.height}px`;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  tall.style.height = `${Math.max(AXIS + view.rows.length * ROW + 10, view.height)}px`;
  redraw();
}

function showRow(index) {
  const slot = view.rows.indexOf(index);
  if (slot < 0) return;
  const top = slot * ROW;
  if (top < plot.scrollTop) plot.scrollTop = top;
  else if (top + ROW > plot.scrollTop + view.height - AXIS) plot.scrollTop = top + ROW - view.height + AXIS + 10;
}

function showTime(at) {
  const size = view.to - view.from;
  if (at < view.from || at > view.to) setRange(at - size / 2, at + size / 2);
}

// -- drawing ----------------------------------------------------------------------------------------------

let waiting = false;

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function draw() {
  pen.fillStyle = colours.surface;
  pen.fillRect(0, 0, view.width, view.height);
  pen.textBaseline = "middle";
  const marks = axisMarks();
  const first = Math.max(Math.floor(plot.scrollTop / ROW), 0);
  const last = Math.min(first + Math.ceil((view.height - AXIS) / ROW) + 1, view.rows.length);
  drawGrid(marks, first, last);
  pen.save();
  pen.beginPath();
  pen.rect(view.left, AXIS, view.width - view.left, view.height - AXIS);
  pen.clip();
  for (let slot = first; slot < last; slot += 1) drawBars(rows[view.rows[slot]], yOf(slot) + ROW / 2);
  drawPlayhead();
  for (let slot = first; slot < last; slot += 1) drawMarks(rows[view.rows[slot]], yOf(slot) + ROW / 2);
  pen.restore();
  for (let slot = first; slot < last; slot += 1) drawName(rows[view.rows[slot]], yOf(slot) + ROW / 2);
  drawAxis(marks);
  if (!view.rows.some((index) => index > 0)) {
    pen.fillStyle = colours.quiet;
    pen.font = `14px ${colours.sans}`;
    pen.textAlign = "center";
    pen.fillText(rows.length > 1 ? "No container fits the filter" : "No container lived then", view.width / 2, AXIS + 70);
  }
  document.getElementById("range").textContent = `${spanText(view.to - view.from)} in view`;
}

const current = () => (chosen.count > 0 ? events[chosen.count - 1] : null);

function drawGrid(marks, first, last) {
  const event = current();
  for (let slot = first; slot < last; slot += 1) {
    const y = yOf(slot);
    if (event && view.rows[slot] === event.row) {
      pen.fillStyle = colours["accent-soft"];
      pen.globalAlpha = 0.55;
      pen.fillRect(0, y, view.width, ROW);
      pen.globalAlpha = 1;
    } else if (view.rows[slot] === chosen.hover) {
      pen.fillStyle = colours.raised;
      pen.fillRect(0, y, view.width, ROW);
    }
    pen.fillStyle = colours.hair;
    pen.fillRect(0, y + ROW - 1, view.width, 1);
  }
  pen.fillStyle = colours.hair;
  for (const mark of marks) pen.fillRect(Math.round(xOf(mark.at)), AXIS, 1, view.height);
}

function drawBars(row, middle) {
  for (const [phase, start, end] of row.segments) {
    const from = start === null ? view.left - 9 : xOf(start);
    const to = end === null ? Math.min(xOf(span), view.width + 9) : xOf(end);
    if (to < view.left || from > view.width) continue;
    const left = Math.max(from, view.left - 9);
    bar(pen, phase, left, Math.max(Math.min(to, view.width + 9) - left, 1.5), middle);
  }
  const last = row.segments.at(-1);
  if (last && last[2] !== null) {
    const x = xOf(last[2]);
    if (x > view.left - 40 && x < view.width) {
      pen.fillStyle = colours.quiet;
      pen.font = `11.5px ${colours.sans}`;
      pen.textAlign = "left";
      const outcome = row.outcomes.at(-1);
      const words = !outcome ? "removed" : outcome[1] ? `removed, failed ${outcome[0]}` : `removed, exit ${outcome[0] ?? "unknown"}`;
      pen.fillText(words, x + 12, middle + 0.5);
    }
  }
}

// Of events closer than a few pixels one dot is drawn, as if it were all of them.
function drawMarks(row, middle) {
  const list = row.events;
  const event = current();
  let shown = -Infinity;
  for (let index = firstFrom(list, timeAt(view.left - NEAR)); index < list.length; index += 1) {
    const x = xOf(list[index].at);
    if (x > view.width + NEAR) break;
    const ours = chosen.command !== null && list[index].command === chosen.command;
    if (x - shown < 3.5 && !ours && list[index] !== event) continue;
    shown = x;
    dot(x, middle, list[index], ours);
  }
  for (const [, , , at, position] of row.outcomes) {
    if (at < view.from || at > view.to || !failed.has(position)) continue;
    pen.globalAlpha = chosen.command === null ? 1 : 0.3;
    cross(xOf(at), middle);
    pen.globalAlpha = 1;
  }
  if (event && rows[event.row] === row) {
    const x = xOf(event.at);
    pen.strokeStyle = colours.accent;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, middle, 8, 0, 2 * Math.PI);
    pen.stroke();
  }
}

function dot(x, middle, event, ours) {
  pen.globalAlpha = chosen.command === null || ours ? 1 : 0.22;
  pen.beginPath();
  pen.arc(x, middle, ours ? 5 : 3.2, 0, 2 * Math.PI);
  pen.fillStyle = ours ? colours.accent : colours.surface;
  pen.fill();
  pen.strokeStyle = ours ? colours.surface : colours.ink;
  pen.lineWidth = ours ? 1.5 : 1.3;
  pen.stroke();
  pen.globalAlpha = 1;
}

function cross(x, middle) {
  pen.beginPath();
  pen.arc(x, middle, 6, 0, 2 * Math.PI);
  pen.fillStyle = colours.bad;
  pen.fill();
  pen.strokeStyle = colours.surface;
  pen.lineWidth = 1.6;
  pen.beginPath();
  pen.moveTo(x - 2.3, middle - 2.3);
  pen.lineTo(x + 2.3, middle + 2.3);
  pen.moveTo(x + 2.3, middle - 2.3);
  pen.lineTo(x - 2.3, middle + 2.3);
  pen.stroke();
}

function drawPlayhead() {
  const event = current();
  const x = Math.round(xOf(event ? event.at : 0)) + 0.5;
  pen.strokeStyle = colours.accent;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x, AXIS);
  pen.lineTo(x, view.height);
  pen.stroke();
}

function drawName(row, middle) {
  const state = row.store || !chosen.world ? null : chosen.world.containers.get(row.id);
  pen.fillStyle = state ? tone(state.phase) : colours.line;
  pen.beginPath();
  pen.roundRect(16, middle - 4, 8, 8, 2.5);
  if (!row.store) pen.fill();
  pen.textAlign = "left";
  pen.font = row.store ? `italic 13px ${colours.sans}` : `500 13px ${colours.sans}`;
  pen.fillStyle = state || row.store ? colours.ink : colours.quiet;
  const name = state && state.name ? printable(state.name) : nameOf(row); // as it is called at this moment
  pen.fillText(fitting(name, view.left - (row.store ? 32 : 48)), row.store ? 16 : 33, middle + 0.5);
}

const nameOf = (row) => printable(row.name || row.id.slice(0, 12));

// Controls, and what would turn the direction of the text after it around, are shown as escapes.
const printable = (text) =>
  String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);

const fitted = new Map();

function fitting(text, width) {
  const key = `${width} ${pen.font} ${text}`;
  if (fitted.size > 20000) fitted.clear();
  if (!fitted.has(key)) {
    let cut = text;
    for (let length = text.length; pen.measureText(cut).width > width && length > 1; ) {
      length = Math.min(length - 1, Math.ceil((length * width) / pen.measureText(cut).width));
      cut = `${text.slice(0, length)}…`;
    }
    fitted.set(key, cut);
  }
  return fitted.get(key);
}

// -- the axis ---------------------------------------------------------------------------------------------

const STEPS = [
  ...[0.001, 0.01, 0.1, 1, 10, 100].flatMap((unit) => [unit, 2 * unit, 5 * unit]),
  ...[1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200].map((s) => s * 1000),
  ...[1, 2, 7, 14, 30, 91, 182, 365, 730, 1825, 3650].map((days) => days * 86400000),
];

function axisMarks() {
  const most = Math.max(across() / 96, 2);
  const step = STEPS.find((each) => (view.to - view.from) / each <= most) || STEPS.at(-1);
  const offset = settings.utc ? 0 : moment(view.from).getTimezoneOffset() * 60000;
  const origin = BASE_MS - offset;
  const marks = [];
  const first = Math.ceil((origin + view.from) / step) * step - origin;
  for (let at = first, index = 0; at <= view.to && index < 200; index += 1, at = first + index * step) {
    marks.push({ at, step, name: markName(at + 1e-6, step) });
  }
  return marks;
}

function markName(at, step) {
  if (step >= 86400000) return shown(at, { day: "numeric", month: "short", year: step >= 31536000000 ? "numeric" : undefined });
  if (step >= 60000) return shown(at, { hour: "2-digit", minute: "2-digit" });
  if (step >= 1000) return clock(at);
  const digits = step >= 1 ? 3 : 6;
  const ms = (((BASE_MS % 1000) + at) % 1000 + 1000) % 1000;
  const second = shown(at, { second: "2-digit" }).padStart(2, "0");
  return `:${second}.${(digits === 3 ? String(Math.floor(ms + 1e-6)).padStart(3, "0") : ms.toFixed(3).padStart(7, "0"))}`;
}

function drawAxis(marks) {
  pen.fillStyle = colours.surface;
  pen.fillRect(0, 0, view.width, AXIS);
  pen.fillStyle = colours.line;
  pen.fillRect(0, AXIS - 1, view.width, 1);
  pen.textAlign = "center";
  pen.font = `12px ${colours.sans}`;
  let before = "";
  for (const { at, step, name } of marks) {
    const x = Math.round(xOf(at));
    pen.fillStyle = colours.line;
    pen.fillRect(x, AXIS - 7, 1, 6);
    if (x < view.left + 14 || x > view.width - 24) continue;
    pen.fillStyle = colours.soft;
    pen.fillText(name, x, AXIS - 17);
    const date = step >= 86400000 ? "" : step >= 1000 ? day(at + 1e-6) : `${day(at)} ${clock(at).slice(0, 5)}`;
    if (date && date !== before) {
      pen.fillStyle = colours.quiet;
      pen.font = `11px ${colours.sans}`;
      pen.fillText(date, x, AXIS - 33);
      pen.font = `12px ${colours.sans}`;
      before = date;
    }
  }
  const event = current();
  if (!event) return;
  const x = xOf(event.at);
  if (x < view.left || x > view.width) return;
  pen.fillStyle = colours.accent;
  pen.beginPath();
  pen.moveTo(x - 5, AXIS - 7);
  pen.lineTo(x + 6, AXIS - 7);
  pen.lineTo(x + 0.5, AXIS);
  pen.fill();
}

// -- finding ----------------------------------------------------------------------------------------------

function firstFrom(list, at) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].at < at) low = middle + 1;
    else high = middle;
  }
  return low;
}

function rowAt(y) {
  if (y < AXIS) return null;
  const slot = Math.floor((y - AXIS + plot.scrollTop) / ROW);
  return slot < view.rows.length ? view.rows[slot] : null;
}

// The events under the pointer, the nearest in time first; those of one instant in their order.
function eventsAt(x, y) {
  const index = rowAt(y);
  if (index === null || x < view.left - NEAR) return [];
  const list = rows[index].events;
  const found = [];
  for (let at = firstFrom(list, timeAt(x - NEAR)); at < list.length && xOf(list[at].at) <= x + NEAR; at += 1) found.push(list[at]);
  const nearest = Math.min(...found.map((event) => Math.abs(xOf(event.at) - x)));
  return found.filter((event) => Math.abs(xOf(event.at) - x) <= nearest + 3.5);
}
