// The history that the page holds, and the fold that gives the state of everything after any of its events.

const source = JSON.parse(document.getElementById("data").textContent);
const BASE = BigInt(source.base);
const STEP = Math.max(500, Math.ceil(source.events.length / 64));

const events = source.events.map((list, index) => {
  const event = Object.fromEntries(source.fields.map((name, at) => [name, list[at]]));
  event.index = index;
  event.tag = source.tags[event.tag];
  event.stream = source.streams[event.stream];
  event.actor = source.actors[event.actor];
  event.command = source.commands[event.command];
  const slash = event.stream.indexOf("/");
  event.kind = slash < 0 ? event.stream : event.stream.slice(0, slash);
  event.subject = slash < 0 ? "" : event.stream.slice(slash + 1);
  return event;
});

// Row 0 is the store's own: images, layers, tags.
const rows = [
  { id: "", name: "store and images", store: true, names: [], image_name: "", labels: {}, segments: [], outcomes: [] },
  ...source.rows,
];
const rowOf = new Map(rows.map((row, index) => [row.id, index]));
const byCommand = new Map();
const byPosition = new Map();
for (const row of rows) row.events = [];
for (const event of events) {
  event.row = event.kind === "container" ? rowOf.get(event.subject) : 0;
  rows[event.row].events.push(event);
  byPosition.set(event.position, event);
  if (!byCommand.has(event.command)) byCommand.set(event.command, []);
  byCommand.get(event.command).push(event);
}

// What ended in failure, and nobody had asked for it.
const failures = rows.flatMap((row) => row.outcomes.filter(([code, failed, asked]) => failed || (code !== null && code !== 0 && !asked)));
const failed = new Set(failures.map((outcome) => outcome[4]));

// -- the fold ---------------------------------------------------------------------------------------------
//
// What events.container.evolve and events.views.project do, by the table that the data has. A container whose
// beginning is not in the log has phase null until an event tells it. States are replaced, never changed, so a
// copy of a map is a whole world.

const { lifecycle, certain } = source.tables;
const has = (table, key) => Object.prototype.hasOwnProperty.call(table, key);

function folded(world, event) {
  const data = event.data;
  if (event.kind === "container") foldContainer(world, event, data);
  else if (event.tag === "image.added") {
    const known = world.images.get(data.image);
    world.images.set(data.image, { id: data.image, tags: known ? known.tags : [] });
  } else if (event.tag === "tag.set") {
    const left = world.images.get(world.tags.get(data.name));
    if (left && left.id !== data.image) {
      world.images.set(left.id, { ...left, tags: left.tags.filter((tag) => tag !== data.name) });
    }
    const now = world.images.get(data.image);
    if (now && !now.tags.includes(data.name)) {
      world.images.set(now.id, { ...now, tags: [...now.tags, data.name].sort(byCodePoint) });
    }
    world.tags.set(data.name, data.image);
  } else if (event.tag === "tag.removed") {
    const left = world.images.get(data.image);
    if (left) world.images.set(left.id, { ...left, tags: left.tags.filter((tag) => tag !== data.name) });
    world.tags.delete(data.name);
  } else if (event.tag === "image.removed") world.images.delete(data.image);
}

function foldContainer(world, event, data) {
  const state = world.containers.get(event.subject);
  const table = state ? (state.phase === null ? null : lifecycle[state.phase]) : has(lifecycle[""], event.tag) ? lifecycle[""] : null;
  let phase = null;
  if (table) {
    if (!has(table, event.tag)) return;
    phase = table[event.tag];
  } else if (has(certain, event.tag)) phase = certain[event.tag];
  if (phase === "deleted") {
    world.containers.delete(event.subject);
    return;
  }
  const before = state || {
    id: event.subject, name: "", phase: null, image: "", image_name: "", exit_code: null, run: 0, error: "",
    created_at: "0", started_at: "0", finished_at: "0",
  };
  world.containers.set(event.subject, { ...before, phase, since: phase === before.phase ? before.since : event.at, ...told(event, data) });
}

function told(event, data) {
  switch (event.tag) {
    case "container.created":
      return {
        id: data.container, name: data.name, image: data.spec.image, image_name: data.spec.image_name, created_at: event.time,
      };
    case "container.start-requested":
      return { run: data.run, error: "" };
    case "container.started":
      return { started_at: event.time, exit_code: null };
    case "container.start-failed":
      return { exit_code: data.exit_code, error: data.why };
    case "container.exited": {
      const at = String(data.at);
      return { exit_code: data.exit_code, finished_at: at === "0" ? event.time : at, error: data.why };
    }
    case "container.renamed":
      return { name: data.new };
    case "container.remove-failed":
      return { error: data.why };
    default:
      return {};
  }
}

function byCodePoint(a, b) {
  const left = Array.from(a, (char) => char.codePointAt(0));
  const right = Array.from(b, (char) => char.codePointAt(0));
  for (let index = 0; index < Math.min(left.length, right.length); index += 1) {
    if (left[index] !== right[index]) return left[index] - right[index];
  }
  return left.length - right.length;
}

const copied = (world) => ({
  containers: new Map(world.containers), images: new Map(world.images), tags: new Map(world.tags),
});
const worlds = [
  {
    containers: new Map(source.before.containers.map((state) => [state.id, state])),
    images: new Map(source.before.images.map(([id, tags]) => [id, { id, tags }])),
    tags: new Map(source.before.tags),
  },
];

// The world after the first `count` events. One in STEP is kept, so that no answer folds more than STEP of them.
function worldAfter(count) {
  while (worlds.length * STEP <= count) {
    const next = copied(worlds[worlds.length - 1]);
    const from = (worlds.length - 1) * STEP;
    for (let index = from; index < from + STEP; index += 1) folded(next, events[index]);
    worlds.push(next);
  }
  const nearest = Math.floor(count / STEP);
  const world = copied(worlds[nearest]);
  for (let index = nearest * STEP; index < count; index += 1) folded(world, events[index]);
  return world;
}

// -- times ------------------------------------------------------------------------------------------------

const settings = { utc: false };
const BASE_MS = Number(BASE / 1000000n) + Number(BASE % 1000000n) / 1e6;
const moment = (at) => new Date(BASE_MS + at);

function utcText(nanoseconds) {
  const whole = BigInt(nanoseconds);
  const text = new Date(Number(whole / 1000000n)).toISOString();
  return `${text.slice(0, 19).replace("T", " ")}.${String(whole % 1000000000n).padStart(9, "0")}`;
}

function localText(nanoseconds) {
  const date = new Date(Number(BigInt(nanoseconds) / 1000000n));
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
}

function shown(at, options) {
  return moment(at).toLocaleString("en-GB", settings.utc ? { timeZone: "UTC", ...options } : options);
}
const clock = (at) => shown(at, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = (at) => shown(at, { day: "numeric", month: "short" });

function spanText(ms) {
  const units = [["d", 86400000], ["h", 3600000], ["min", 60000], ["s", 1000], ["ms", 1]];
  for (const [index, [unit, size]] of units.entries()) {
    if (ms < size && unit !== "ms") continue;
    const whole = Math.floor(ms / size);
    const next = units[index + 1];
    const rest = next && index < 3 ? Math.floor((ms - whole * size) / next[1]) : 0;
    if (unit === "s" && whole < 10) return `${(ms / 1000).toFixed(1)} s`;
    return rest ? `${whole} ${unit} ${rest} ${next[0]}` : `${unit === "ms" ? Number(ms.toPrecision(3)) : whole} ${unit}`;
  }
  return "0 s";
}
