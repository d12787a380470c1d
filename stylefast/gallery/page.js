// SPDX-License-Identifier: Apache-2.0
"use strict";

const meta = JSON.parse(document.getElementById("meta").textContent);
const find = (id) => document.getElementById(id);
const KINDS = ["targets", "parts", "references", "queries"];
const names = Object.fromEntries(KINDS.map((kind) => [kind, []]));
const numbers = Object.fromEntries(KINDS.map((kind) => [kind, new Map()]));
const scripts = []; // the data of each script, with its first edit and its numbers of names translated to those of all
const CONTEXT = 1.3; // width and height of the zoomed region relative to the box of the part
let total = 0;
let edits = {}; // columns of all edits
let order = []; // the edits that pass the filters, sorted
let page = 0;
let shown = -1; // position in `order` of the edit in the large view

// Called by the scripts in gallery/data, each of which has its own lists of names.
function addEdits(data) {
  const translated = {};
  for (const kind of KINDS) {
    translated[kind] = data.names[kind].map((name) => {
      if (!numbers[kind].has(name)) numbers[kind].set(name, names[kind].push(name) - 1);
      return numbers[kind].get(name);
    });
  }
  scripts.push({ first: total, data, translated });
  total += data.columns.shown.length;
}

function joinColumns() {
  for (const kind of KINDS) edits[kind] = new Uint32Array(total);
  for (const name of ["inside", "outside", "ratio"]) edits[name] = new Float64Array(total).fill(NaN);
  for (const { first, data, translated } of scripts) {
    const columns = data.columns;
    for (const kind of KINDS) columns[kind].forEach((n, i) => { edits[kind][first + i] = translated[kind][n]; });
    for (const name of ["inside", "outside", "ratio"]) {
      columns[name].forEach((value, i) => { if (value !== null) edits[name][first + i] = value; });
    }
  }
  for (let i = 0; i < total; i++) { // the manifest has no infinite numbers
    if (Number.isNaN(edits.ratio[i]) && edits.outside[i] === 0 && edits.inside[i] > 0) edits.ratio[i] = Infinity;
  }
}

function describe(i) {
  const { first, data } = scripts.findLast((script) => script.first <= i);
  const at = i - first, columns = data.columns;
  const [target, part, reference, query] = KINDS.map((kind) => names[kind][edits[kind][i]]);
  const stem = data.files[at] ?? `${target}_${part}_${reference}_${data.labels[columns.label[at]]}`;
  const format = meta.suffixes[columns.suffix[at]], n = meta.suffixes.length;
  const original = (kind, name, number) =>
    number === 0 ? null : `originals/${kind}/${encodeURIComponent(name)}.${meta.suffixes[number]}`;
  return {
    target, part, reference, query, isShown: columns.shown[at] === 1,
    box: columns.boxes[at] === 0 ? null : columns.boxes[at].map((edge) => edge / 1000),
    file: `${stem}.${format}`,
    url: `${encodeURIComponent(stem)}.${format}`,
    preview: `gallery/previews/${format}/${encodeURIComponent(stem)}.jpg`,
    targetUrl: original("targets", target, Math.floor(columns.originals[at] / n)),
    referenceUrl: original("references", reference, columns.originals[at] % n),
    figures: [edits.inside[i], edits.outside[i], edits.ratio[i]],
  };
}

const figure = (value) => Number.isNaN(value) ? "–" : value === Infinity ? "∞" : value.toFixed(value < 100 ? 2 : 0);

function fillFigures(list, edit) {
  list.querySelectorAll("dd").forEach((cell, i) => { cell.textContent = figure(edit.figures[i]); });
}

function cut(compare) {
  const range = compare.querySelector("input");
  compare.style.setProperty("--cut", `${range.value}%`);
  range.oninput = () => compare.style.setProperty("--cut", `${range.value}%`);
}

function card(i, position) {
  const edit = describe(i), node = find("card").content.cloneNode(true).firstElementChild;
  const compare = node.querySelector(".compare"), open = node.querySelector(".open");
  const text = `${edit.part} of ${edit.target} from ${edit.reference}, ${edit.query}`;
  node.querySelector("strong").textContent = edit.part;
  const pair = node.querySelector(".what span"), query = node.querySelector(".query");
  pair.title = pair.textContent = `${edit.target} ← ${edit.reference}`;
  query.title = query.textContent = edit.query;
  fillFigures(node.querySelector("dl"), edit);
  if (!edit.isShown) {
    compare.remove();
    open.remove();
    node.querySelector(".missing").hidden = false;
    return node;
  }
  for (const image of node.querySelectorAll("img")) { image.decoding = "async"; image.src = edit.preview; }
  node.querySelector(".edit").alt = `The part after the edit: ${text}`;
  node.querySelector(".target").alt = `The part in the target ${edit.target}`;
  node.querySelector("input").setAttribute("aria-label", `Boundary of target and edit in percent, ${text}`);
  open.setAttribute("aria-label", `Enlarge ${text}`);
  open.title = "Enlarge";
  open.onclick = () => enlarge(position);
  if (edit.referenceUrl === null) node.querySelector(".donor").remove();
  compare.classList.toggle("alone", edit.targetUrl === null);
  compare.classList.toggle("heat", isHeat() && edit.targetUrl !== null);
  cut(compare);
  return node;
}

const isHeat = () => document.querySelector("[name=mode]:checked").value === "heat";
const nPages = () => Math.max(1, Math.ceil(order.length / meta.pageSize));

function draw() {
  page = Math.min(Math.max(page, 0), nPages() - 1);
  const begin = page * meta.pageSize, cards = [];
  const end = Math.min(begin + meta.pageSize, order.length);
  for (let position = begin; position < end; position++) cards.push(card(order[position], position));
  find("grid").replaceChildren(...cards);
  find("empty").hidden = order.length > 0;
  const range = order.length === 0 ? "0" : `${(begin + 1).toLocaleString("en")}–${end.toLocaleString("en")}`;
  const all = order.length === total ? "" : ` (${total.toLocaleString("en")} without filters)`;
  find("count").textContent = `${range} of ${order.length.toLocaleString("en")} edits${all}`;
  find("page").value = page + 1;
  find("page").max = nPages();
  find("pages").textContent = nPages().toLocaleString("en");
  find("previous").disabled = page === 0;
  find("next").disabled = page === nPages() - 1;
  document.querySelector(".legend").hidden = !isHeat();
  remember();
}

// The numbers of the names that pass a filter, or null if all pass: the equal name if there is one, else those with it.
function passing(kind, text) {
  if (text === "") return null;
  if (numbers[kind].has(text)) return new Set([numbers[kind].get(text)]);
  const lower = text.toLowerCase();
  return new Set(names[kind].flatMap((name, i) => (name.toLowerCase().includes(lower) ? [i] : [])));
}

function select() {
  const filters = [["parts", "part"], ["queries", "query"], ["targets", "target"], ["references", "reference"]]
    .map(([kind, id]) => [edits[kind], passing(kind, find(id).value.trim())]).filter(([, set]) => set !== null);
  const least = parseFloat(find("inside").value), most = parseFloat(find("outside").value);
  const passed = [];
  for (let i = 0; i < total; i++) {
    if (!filters.every(([column, set]) => set.has(column[i]))) continue;
    if (!Number.isNaN(least) && !(edits.inside[i] >= least)) continue;
    if (!Number.isNaN(most) && !(edits.outside[i] <= most)) continue;
    passed.push(i);
  }
  const [column, direction] = find("sort").value.split("-");
  if (direction) {
    const sign = direction === "up" ? 1 : -1, key = edits[column];
    const value = (i) => Number.isNaN(key[i]) ? Infinity : sign * Math.min(key[i], 1e300); // unmeasured edits last
    const keys = Float64Array.from({ length: total }, (_, i) => value(i));
    passed.sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
  }
  order = passed;
}

function update() { page = 0; select(); draw(); }

const FIELDS = ["sort", "part", "query", "target", "reference", "inside", "outside"];

// The address has the order, the filters and the page, so that it can be kept and reloaded.
function remember() {
  const state = new URLSearchParams(FIELDS.map((id) => [id, find(id).value]).filter(([id, value]) =>
    value !== "" && !(id === "sort" && value === "name")));
  if (isHeat()) state.set("show", "heat");
  if (page > 0) state.set("page", page + 1);
  history.replaceState(null, "", `#${state}`);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const id of FIELDS) if (state.has(id)) find(id).value = state.get(id);
  if (find("sort").value === "") find("sort").value = "name";
  document.querySelector(`[value=${state.get("show") === "heat" ? "heat" : "slider"}]`).checked = true;
  page = (parseInt(state.get("page"), 10) || 1) - 1;
}

function showImage(image, url, alt) {
  image.hidden = url === null;
  if (url === null) image.removeAttribute("src"); else image.src = url;
  image.alt = alt;
}

function enlarge(position) {
  if (position < 0 || position >= order.length) return;
  shown = position;
  const edit = describe(order[position]), dialog = find("large"), compare = dialog.querySelector(".compare");
  find("large-title").textContent = `${edit.part} of ${edit.target} from ${edit.reference}`;
  find("large-query").textContent = edit.query;
  find("reference-name").textContent = edit.referenceUrl ? `Reference ${edit.reference}` : "There is no reference image.";
  find("large-file").textContent = edit.file;
  find("large-file").href = edit.url;
  fillFigures(find("large-figures"), edit);
  const label = edit.isShown ? `Edit: ${edit.part} of ${edit.target}` : "The image of the edit is missing or damaged.";
  showImage(compare.querySelector(".edit"), edit.url, label);
  showImage(compare.querySelector(".target"), edit.targetUrl, `Target ${edit.target}`);
  showImage(find("large-reference"), edit.referenceUrl, `Reference ${edit.reference}`);
  compare.classList.toggle("alone", edit.targetUrl === null);
  compare.classList.toggle("heat", find("large-heat").checked && edit.targetUrl !== null);
  find("large-heat").disabled = edit.targetUrl === null;
  find("zoom").disabled = edit.box === null;
  find("back").disabled = position === 0;
  find("forth").disabled = position === order.length - 1;
  cut(compare);
  if (!dialog.open) dialog.showModal();
  zoom(edit.box);
}

// Scale the images so that the box of the part fills its pane, or show them whole.
function zoom(box) {
  for (const image of find("large").querySelectorAll("img")) {
    const { clientWidth: w, clientHeight: h } = image.parentElement;
    const [x, y] = [image.naturalWidth || 1, image.naturalHeight || 1];
    const fit = Math.min(w / x, h / y), [left, top] = [(w - fit * x) / 2, (h - fit * y) / 2];
    if (box === null || !find("zoom").checked) { image.style.transform = "none"; continue; }
    const [width, height] = [(box[2] - box[0]) * fit * x, (box[3] - box[1]) * fit * y];
    const scale = Math.max(1, Math.min(w / width, h / height) / CONTEXT);
    const centre = [left + (box[0] + box[2]) / 2 * fit * x, top + (box[1] + box[3]) / 2 * fit * y];
    image.style.transform = `translate(${w / 2 - scale * centre[0]}px, ${h / 2 - scale * centre[1]}px) scale(${scale})`;
  }
}

const zoomAgain = () => { if (shown >= 0 && find("large").open) zoom(describe(order[shown]).box); };

function listen() {
  const controls = find("controls");
  controls.addEventListener("input", (event) => (event.target.name === "mode" ? draw() : update()));
  controls.addEventListener("reset", () => setTimeout(update));
  controls.addEventListener("submit", (event) => event.preventDefault());
  const turn = (to) => { page = to; draw(); scrollTo(0, 0); };
  find("previous").onclick = () => turn(page - 1);
  find("next").onclick = () => turn(page + 1);
  find("page").onchange = () => turn((parseInt(find("page").value, 10) || 1) - 1);
  find("back").onclick = () => enlarge(shown - 1);
  find("forth").onclick = () => enlarge(shown + 1);
  find("close").onclick = () => find("large").close();
  find("zoom").onchange = find("large-heat").onchange = () => enlarge(shown);
  find("large").addEventListener("close", () => {
    const wanted = Math.floor(shown / meta.pageSize);
    if (wanted !== page) turn(wanted);
    find("grid").children[shown % meta.pageSize]?.querySelector(".open")?.focus();
  });
  find("large").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined || event.target.type === "range") return;
    event.preventDefault();
    enlarge(shown + step);
  });
  for (const image of find("large").querySelectorAll("img")) image.addEventListener("load", zoomAgain);
  addEventListener("resize", zoomAgain);
  addEventListener("hashchange", () => { recall(); const wanted = page; select(); page = wanted; draw(); });
}

function start() {
  joinColumns();
  find("name").textContent = meta.name;
  const notes = [];
  if (meta.withoutTarget > 0) {
    const which = meta.withoutTarget === total ? "the targets" : `the targets of ${meta.withoutTarget.toLocaleString("en")} edits`;
    notes.push(`There are no images of ${which}: run the same stylefast edit command with --originals, then stylefast gallery again.`);
  }
  if (meta.unmeasured > 0 && meta.unmeasured === total) {
    notes.push("The edits were not measured: stylefast edit with --measure records their figures and where their parts are.");
  }
  find("notes").textContent = notes.join("\n");
  find("problems").hidden = meta.nProblems === 0;
  find("problems").querySelector("summary").textContent = meta.nProblems === 1
    ? "1 image cannot be shown" : `${meta.nProblems.toLocaleString("en")} images cannot be shown`;
  const items = meta.problems.map(([file, reason]) => Object.assign(document.createElement("li"), { textContent: `${file}: ${reason}` }));
  find("problems").querySelector("ul").replaceChildren(...items);
  const options = (kind) => [...names[kind]].sort().slice(0, 1000).map((name) => new Option(name, name));
  find("part").append(...options("parts"));
  find("query").append(...options("queries"));
  find("target-names").append(...options("targets"));
  find("reference-names").append(...options("references"));
  listen();
  recall();
  select();
  draw();
}
