"use strict";
const $ = (id) => document.getElementById(id);
let language = (localStorage.getItem("language") || navigator.language || "en").startsWith("zh") ? "zh" : "en";
let models = [];
let last = null;
let recorder = null;
let recorded = null;

const say = (key) => WORDS[language][key];
const model = () => models.find((one) => one.name === $("model").value);
const hears = (task) => task.startsWith("audio-") || task === "automatic-speech-recognition";
const SHAPES = {
  "tensors": "", "tabular-classification": '{"price": 12.5, "month": "Nov"}', "next-item": '["sku-1", "sku-2"]',
  "text-ranking": '{"query": "oat milk", "texts": ["Oat drink 1 l", "Whole milk 1 l"]}',
};
const kind = () => (!model() ? "text" : model().task.startsWith("image-") ? "picture" : hears(model().task) ? "sound" : model().task in SHAPES ? "tensors" : "text");
const nameOf = (label) => ((model().display_names || {})[language] || {})[label] || label;

function headers(more) {
  const token = $("token").value.trim();
  return Object.assign(token ? { Authorization: "Bearer " + token } : {}, more);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Error(say("offline"));
  }
  if (response.status === 401) {
    $("for-token").hidden = false;
    $("token").focus();
    throw new Error(say("locked"));
  }
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail || String(response.status));
  return body;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function translate() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of document.querySelectorAll("[data-language]")) {
    node.setAttribute("aria-pressed", String(node.dataset.language === language));
  }
  $("examples").replaceChildren(...say("samples").map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => { $("text").value = text; send(); });
    return button;
  }));
  if (last) show(last);
}

function choose() {
  for (const one of ["text", "picture", "sound", "tensors"]) $("for-" + one).hidden = kind() !== one;
  document.querySelector(".check").hidden = Boolean(model()) && model().task === "tensors";
  $("json").placeholder = (model() && SHAPES[model().task]) || "";
  $("answer").hidden = true;
  last = null;
  trouble("");
}

function bodyOf() {
  if (kind() === "picture" || kind() === "sound") {
    const file = kind() === "sound" ? recorded : $("file").files[0];
    if (!file) return null;
    const form = new FormData();
    form.append("items", file, file.name || "command.wav");
    return { body: form, headers: headers({}) };
  }
  const text = kind() === "tensors" ? $("json").value : $("text").value;
  if (!text.trim()) return null;
  let item = text.trim();
  if (kind() === "tensors") {
    try { item = JSON.parse(text); } catch (error) { throw new Error(say("badJson")); }
  }
  return { body: JSON.stringify({ items: [item] }), headers: headers({ "Content-Type": "application/json" }) };
}

async function send() {
  trouble("");
  try {
    if (!model()) await load();
    const request = bodyOf();
    if (!request) return trouble(say("empty"));
    $("send").disabled = true;
    const path = "v1/models/" + encodeURIComponent(model().name);
    const start = performance.now();
    const answer = await ask(path + ":predict", { method: "POST", ...request });
    const all = performance.now() - start;
    const isExplained = answer.results[0].scores || ["text-ranking", "next-item"].includes(model().task);
    const item = kind() === "text" ? $("text").value.trim() : null;
    last = { answer, all, item, because: null };
    show(last);
    if ($("explain").checked && isExplained) {
      last.because = (await ask(path + ":explain", { method: "POST", ...request })).results[0];
      show(last);
    }
  } catch (error) {
    $("answer").hidden = true;
    trouble(error.message);
  } finally {
    $("send").disabled = false;
  }
}

/** What a result lists: labels, ranked things or spans of a text, each with its score. */
function rowsOf(result) {
  if (model().task === "tensors") return [];
  const percent = (score) => (100 * score).toFixed(1) + " %";
  if (result.hits) {
    return result.hits.map(({ id, fields, score }) => ({ said: fields.name || fields.title || fields.text || id, score, number: score.toFixed(3) }));
  }
  if (result.spans) return result.spans.map(({ text, label, score }) => ({ said: `${text} · ${nameOf(label)}`, score, number: percent(score) }));
  return (result.scores || []).map(({ label, score }) => ({ said: nameOf(label), score, number: percent(score) }));
}

function show({ answer, all, item, because }) {
  const result = answer.results[0];
  const rows = rowsOf(result);
  const most = Math.max(1, ...rows.map((row) => Math.abs(row.score)));
  $("label").textContent = result.scores ? (result.label === null ? say("unsure") : nameOf(result.label)) : "";
  $("scores").replaceChildren(...rows.map(({ said, score, number: shown }) => {
    const row = document.createElement("li");
    const name = document.createElement("span");
    const bar = document.createElement("meter");
    const number = document.createElement("span");
    name.className = "name";
    number.className = "number";
    name.textContent = said;
    bar.value = Math.max(0, score) / most;
    bar.setAttribute("aria-label", said);
    number.textContent = shown;
    row.append(name, bar, number);
    return row;
  }));
  const isSaid = typeof result.text === "string" && Array.isArray(result.words);
  if (isSaid) $("label").textContent = result.text || say("silence");
  $("raw").hidden = rows.length > 0 || Boolean(result.scores) || isSaid;
  $("raw").textContent = $("raw").hidden ? "" : JSON.stringify(result, null, 1);
  const chosen = because && (result.hits || []).find((hit) => hit.id === because.label);
  showWhy(because, item || (chosen && chosen.fields.text));
  const times = say("took").replace("{all}", all.toFixed(0)).replace("{model}", answer.ms.toFixed(1));
  $("took").textContent = `${times} · ${say("by")} ${answer.runtime} · ${say("variant")} ${answer.variant} · ${answer.model}, ${say("version")} ${answer.version}`;
  $("answer").hidden = false;
}

function tint(weight, most) {
  const strength = most ? Math.min(1, Math.abs(weight) / most) : 0;
  return strength < 0.05 ? "transparent" : `rgba(var(--${weight > 0 ? "for" : "against"}), ${(0.1 + 0.5 * strength).toFixed(2)})`;
}

function showWhy(because, item) {
  $("because").hidden = !because;
  if (!because) return;
  const parts = because.parts, regions = because.regions, fields = because.fields;
  const spans = because.segments.map((one) => ({ text: one.start.toFixed(2) + " s", weight: one.weight }))
    .concat(fields.map((one) => ({ text: `${one.name}: ${one.value}`, weight: one.weight })))
    .concat(because.steps.map((one) => ({ text: one.id, weight: one.weight })));
  const most = Math.max(0, ...[...parts, ...regions, ...spans].map((part) => Math.abs(part.weight)));
  $("words").hidden = parts.length === 0 && spans.length === 0;
  $("regions").hidden = regions.length === 0;
  const letters = Array.from(parts.length ? item || "" : "");
  const nodes = [];
  let place = 0;
  for (const part of parts) {
    nodes.push(letters.slice(place, part.start).join(""));
    const mark = document.createElement("mark");
    mark.textContent = letters.slice(part.start, part.end).join("");
    mark.style.background = tint(part.weight, most);
    mark.title = part.weight.toFixed(3);
    nodes.push(mark);
    place = part.end;
  }
  nodes.push(letters.slice(place).join(""));
  for (const span of spans) {
    const mark = document.createElement("mark");
    mark.textContent = span.text;
    mark.style.background = tint(span.weight, most);
    mark.title = span.weight.toFixed(3);
    nodes.push(mark, " ");
  }
  $("words").replaceChildren(...nodes);
  $("tiles").replaceChildren(...regions.map((region) => {
    const tile = document.createElement("i");
    for (const side of ["left", "top", "width", "height"]) tile.style[side] = 100 * region[side] + "%";
    tile.style.background = tint(region.weight, most);
    return tile;
  }));
}

async function load() {
  const found = await ask("v1/models", { headers: headers({}) });
  models = found.models;
  $("model").replaceChildren(...models.map((one) => {
    const option = document.createElement("option");
    option.textContent = option.value = one.name;
    return option;
  }));
  document.querySelector(".model").hidden = models.length < 2;
  choose();
}

function picked() {
  const file = $("file").files[0];
  if (!file) return;
  if ($("shown").src) URL.revokeObjectURL($("shown").src);
  $("shown").src = URL.createObjectURL(file);
  send();
}

function wave(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, letters) => { for (let n = 0; n < letters.length; n++) view.setUint8(place + n, letters.charCodeAt(n)); };
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, n) => view.setInt16(44 + 2 * n, 32767 * Math.max(-1, Math.min(1, value)), true));
  return new Blob([view], { type: "audio/wav" });
}

function recording(isOn) {
  $("record").dataset.say = isOn ? "stop" : "record";
  $("record").textContent = say($("record").dataset.say);
  $("record").setAttribute("aria-pressed", String(isOn));
}

async function record() {
  trouble("");
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", async () => {
      recorder = null;
      recording(false);
      for (const track of stream.getTracks()) track.stop();
      const context = new AudioContext();
      try {
        const sound = await context.decodeAudioData(await new Blob(parts).arrayBuffer());
        recorded = wave(sound.getChannelData(0), sound.sampleRate);
        send();
      } catch (error) {
        trouble(error.message);
      } finally {
        context.close();
      }
    });
    recorder.start();
    recording(true);
  } catch (error) {
    recorder = null;
    trouble(say("noMicrophone"));
  }
}

$("record").addEventListener("click", record);
$("sound").addEventListener("change", () => { recorded = $("sound").files[0] || null; if (recorded) send(); });
$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("model").addEventListener("change", choose);
$("file").addEventListener("change", picked);
$("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } });
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) { $("file").files = event.dataTransfer.files; picked(); }
  });
}
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => { language = button.dataset.language; localStorage.setItem("language", language); translate(); });
}
translate();
load().catch((error) => trouble(error.message));
