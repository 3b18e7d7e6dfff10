// What is on the page: the data, their places in pixels, and the drawing.
const DATA = JSON.parse(document.getElementById("data").textContent);
const CLIPS = DATA.clips.map(([id, start, end]) => ({id, start, end}));
const TEXTS = DATA.snippets.map(([id, text, start, end, matched]) => ({id, text, start, end, matched}));
// GOLD: the row that the texts' own times make, -1 where they have none; SHOWN: the row that has the pictures.
const ROWS = DATA.rows, GOLD = DATA.gold, TIMED = GOLD >= 0, SHOWN = GOLD === 0 && ROWS.length > 1 ? 1 : 0;
const REFERENCE = TIMED ? `the ${ROWS[GOLD].name}` : "";
const SPANS = TIMED ? [...CLIPS, ...TEXTS] : CLIPS;
const FROM = SPANS.reduce((t, x) => Math.min(t, x.start), Infinity), TO = SPANS.reduce((t, x) => Math.max(t, x.end), 0);
const SURE = ROWS.some(row => row.confidence), PICTURES = DATA.pictures.length > 0;
// Okabe and Ito's colours, in an order in which neighbours also differ in lightness; second entry: ink on top.
const COLOURS = [["#e69f00", "#000"], ["#0072b2", "#fff"], ["#f0e442", "#000"], ["#d55e00", "#000"],
  ["#56b4e9", "#000"], ["#cc79a7", "#000"], ["#009e73", "#000"]];
const LEVELS = [[0, "under 50 %"], [.5, "50 to 80 %"], [.8, "80 to 95 %"], [.95, "95 % or more"]];
const LINK = 34, LABEL = PICTURES ? 18 : 30, PICTURE = 64, TEXT_WIDTH = 112;
const colour = j => COLOURS[j % COLOURS.length];
const level = sure => LEVELS.findLastIndex(([from]) => sure >= from);
const percent = share => (100 * share).toFixed(0) + " %";
const $ = id => document.getElementById(id);
// The clips of each text in each row, in order.
const CLIPS_OF = ROWS.map(row => {
  const found = TEXTS.map(() => []);
  row.links.forEach((texts, i) => texts.forEach(j => found[j].push(i)));
  return found;
});
let scale = 1, hover = null, picked = null, boxes = [], strip = [];

function make(tag, cls, parent, text) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}
function svg(tag, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}
function clock(t) {
  const tenths = Math.round(t * 10), s = Math.floor(tenths / 10);
  const two = n => String(n).padStart(2, "0");
  const hours = Math.floor(s / 3600), minutes = Math.floor(s / 60) % 60;
  return (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(s % 60) + "." + tenths % 10;
}
const range = (a, b) => `${clock(a)} – ${clock(b)}`;
const span = x => `${range(x.start, x.end)} (${(x.end - x.start).toFixed(1)} s)`;
const same = (r, i) => String(ROWS[r].links[i]) === String(ROWS[GOLD].links[i]);
const agreeing = r => CLIPS.filter((_, i) => same(r, i)).length;
const mean = values => values.reduce((sum, x) => sum + x, 0) / values.length;
const shown = j => TIMED ? TEXTS[j].matched : CLIPS_OF[SHOWN][j].length > 0;

// Places, in pixels from the track's left.
const px = t => (t - FROM) * scale;
const clipExtent = i => [px(CLIPS[i].start), px(CLIPS[i].end)];
const textExtent = j => [boxes[j][0], boxes[j][0] + boxes[j][1]];
const extent = item => item.clip !== undefined ? clipExtent(item.clip) : textExtent(item.text);

// Texts with times stand where those are. Others stand above their clips, each wide enough to be read, in order, as
// near to their clips as their neighbours leave room: least squares, by pooling neighbours that would overlap.
function layOut() {
  if (TIMED) return TEXTS.map(x => [px(x.start), (x.end - x.start) * scale]);
  const whole = px(TO), least = Math.min(TEXT_WIDTH, whole / TEXTS.length);
  let at = 0;
  const wanted = CLIPS_OF[SHOWN].map(own => {
    if (!own.length) return [at, at];
    const [left, right] = [clipExtent(own[0])[0], clipExtent(own.at(-1))[1]];
    at = right;
    return [left, right];
  });
  let widths = wanted.map(([left, right]) => Math.max(least, right - left));
  const sum = widths.reduce((a, b) => a + b, 0), spare = sum - least * widths.length;
  if (sum > whole) {
    const kept = spare > 0 ? (whole - least * widths.length) / spare : 0;
    widths = widths.map(w => least + (w - least) * kept);
  }
  const pools = [];
  let before = 0;
  wanted.forEach(([left, right], j) => {
    pools.push({value: (left + right - widths[j]) / 2 - before, count: 1});
    before += widths[j];
    while (pools.length > 1 && pools.at(-2).value > pools.at(-1).value) {
      const b = pools.pop(), a = pools.pop(), count = a.count + b.count;
      pools.push({value: (a.value * a.count + b.value * b.count) / count, count});
    }
  });
  const starts = pools.flatMap(pool => Array(pool.count).fill(pool.value));
  let offset = 0;
  return widths.map((w, j) => {
    const left = Math.min(Math.max(starts[j], 0), whole - before) + offset;
    offset += w;
    return [left, w];
  });
}

function paint(node, texts) {
  if (!texts.length) { node.classList.add("none"); return; }
  const parts = texts.map((j, k) => `${colour(j)[0]} ${100 * k / texts.length}% ${100 * (k + 1) / texts.length}%`);
  node.style.background = `linear-gradient(${parts.join(",")})`;
  node.style.color = colour(texts[0])[1];
}
const label = texts => texts.map(j => j + 1).join("+");
function block(cls, parent, [left, right], item, text) {
  const node = make("div", cls, parent);
  node.style.left = left + "px";
  node.style.width = Math.max(1, right - left) + "px";
  if (text) make("span", "", node, right - left > 8 + 6 * text.length ? text : "");
  node.item = item;
  return node;
}

function draw() {
  const track = $("track");
  track.replaceChildren();
  boxes = layOut();
  strip = [];
  track.style.setProperty("--view", $("scroll").clientWidth + "px");
  track.style.width = Math.ceil(px(TO)) + "px";
  const axis = make("div", "lane", track);
  axis.style.height = "20px";
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800].find(s => s * scale >= 70) || 3600;
  for (let t = Math.ceil(FROM / step) * step; t < TO; t += step) {
    make("div", "tick", axis, clock(t).slice(0, -2)).style.left = px(t) + "px";
  }
  make("div", "head", track, TIMED ? `Texts, at the times of ${REFERENCE}` : "Texts of the script, in order");
  const lane = make("div", "lane", track);
  lane.style.height = "106px";
  TEXTS.forEach((x, j) => {
    const node = block("text" + (shown(j) ? "" : " novideo"), lane, textExtent(j), {row: -1, text: j});
    const wide = boxes[j][1];
    node.style.borderColor = colour(j)[0];
    if (wide > 14 + 6 * String(j + 1).length) {
      make("b", "", node, shown(j) || wide < 60 ? j + 1 : `${j + 1} · no video`);
    }
    if (wide > 45) node.append(x.text);
    node.title = x.text;
  });
  ROWS.forEach((row, r) => drawRow(track, row, r));
  mark();
  overviewWindow();
  drawPictures();
  drawPlayhead();
}
function rowHead(row, r) {
  const facts = [];
  if (TIMED) facts.push(`video accuracy ${row.score[0].toFixed(1)}`, `text IoU ${row.score[1].toFixed(1)}`);
  if (TIMED && r !== GOLD) facts.push(`${agreeing(r)} of ${CLIPS.length} clips as in ${REFERENCE}`);
  if (row.confidence) facts.push(`${percent(mean(row.confidence))} sure on average`);
  return facts.map(fact => " · " + fact).join("");
}
function drawRow(track, row, r) {
  const bars = TIMED || r > 0, above = bars ? 15 : 0, top = above + LINK;
  if (bars) {
    const head = make("div", "head", track);
    make("b", "", head, row.name);
    head.append(rowHead(row, r));
  }
  const lane = make("div", "lane", track), pictures = PICTURES && r === SHOWN;
  const links = svg("svg", {class: "links", height: LINK}, lane);
  links.style.top = above + "px";
  if (bars) TEXTS.forEach((x, j) => {
    const node = block("bar", lane, textExtent(j), {row: r, text: j}, String(j + 1));
    node.style.background = colour(j)[0];
    node.style.color = colour(j)[1];
  });
  runs(row.links).forEach(([j, first, last]) => drawBand(links, row, r, j, first, last));
  const height = pictures ? LABEL + PICTURE : 30;
  CLIPS.forEach((x, i) => {
    const node = block("clip", lane, clipExtent(i), {row: r, clip: i}, label(row.links[i]) || " ");
    node.style.top = top + "px";
    node.style.height = height + "px";
    node.style.lineHeight = (pictures ? LABEL : 30) + "px";
    const apart = (x.end - x.start) * scale > 4 ? " apart" : "";
    node.className += apart;
    paint(node, row.links[i]);
    if (pictures) strip.push(node);
    if (row.confidence) {
      const sign = block(`sure c${level(row.confidence[i])}${apart}`, lane, clipExtent(i), {row: r, clip: i});
      sign.style.top = top + height + 2 + "px";
    }
    if (!TIMED || r === GOLD) return;
    const sign = block(same(r, i) ? "good" : "miss", lane, clipExtent(i));
    sign.style.top = top + height + (row.confidence ? 11 : 2) + "px";
  });
  lane.style.height = top + height + (row.confidence ? 9 : 0) + (TIMED && r !== GOLD ? 14 : 8) + "px";
}
function drawBand(links, row, r, j, first, last) {
  const [x, y] = textExtent(j).map(at => at.toFixed(1)), half = LINK / 2;
  const [a, b] = [clipExtent(first)[0], clipExtent(last)[1]].map(at => at.toFixed(1));
  const d = `M${x} 0 C${x} ${half} ${a} ${half} ${a} ${LINK} L${b} ${LINK} C${b} ${half} ${y} ${half} ${y} 0 Z`;
  const path = svg("path", {d}, links);
  if (row.confidence) path.setAttribute("class", `band c${level(mean(row.confidence.slice(first, last + 1)))}`);
  else if (SURE) path.setAttribute("class", "plain");
  else path.setAttribute("fill", colour(j)[0]);
  path.item = {row: r, text: j, first, last};
}
// Neighbouring clips of one text share a band: [text, first clip, last clip].
function runs(links) {
  const found = [], open = new Map();
  links.forEach((texts, i) => {
    for (const j of [...open.keys()]) if (!texts.includes(j)) open.delete(j);
    for (const j of texts) {
      if (!open.has(j)) { open.set(j, [j, i, i]); found.push(open.get(j)); }
      open.get(j)[2] = i;
    }
  });
  return found;
}
// Pictures are made where they can be seen: a long film has thousands.
function drawPictures() {
  const box = $("scroll"), from = box.scrollLeft - box.clientWidth, to = box.scrollLeft + 2 * box.clientWidth;
  strip.forEach((node, i) => {
    const [left, right] = clipExtent(i);
    if (node.pictured || !DATA.pictures[i] || right - left < 10 || right < from || left > to) return;
    node.pictured = true;
    const image = make("img", "", node);
    image.alt = "";
    image.src = "data:image/jpeg;base64," + DATA.pictures[i];
  });
}

function fitScale() { return Math.max(1, $("scroll").clientWidth) / (TO - FROM); }
const middle = values => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
// Wide enough that the middle text can be read in its box, and never less than the whole movie.
function readScale() {
  const wanted = TIMED ? 110 / middle(TEXTS.map(x => x.end - x.start)) : TEXT_WIDTH * TEXTS.length / (TO - FROM);
  const pictures = PICTURES ? 72 / middle(CLIPS.map(x => x.end - x.start)) : 0;
  return Math.max(fitScale(), pictures, TEXTS.length ? wanted : 0);
}
const ratio = () => Math.max(1.01, 2 * readScale() / fitScale());
function zoomTo(next) {
  const box = $("scroll"), centre = (box.scrollLeft + box.clientWidth / 2) / scale;
  scale = next;
  draw();
  box.scrollLeft = centre * scale - box.clientWidth / 2;
  $("zoom").value = 100 * Math.log(scale / fitScale()) / Math.log(ratio());
  overviewWindow();
}
function overviewWindow() {
  const box = $("scroll"), whole = px(TO);
  $("window").style.left = 100 * box.scrollLeft / whole + "%";
  $("window").style.width = Math.min(100, 100 * box.clientWidth / whole) + "%";
}
function drawOverview() {
  const picture = $("overview").firstElementChild, height = 12 * ROWS.length;
  picture.setAttribute("viewBox", `${FROM} 0 ${TO - FROM} ${height}`);
  picture.style.height = height + "px";
  ROWS.forEach((row, r) => CLIPS.forEach((x, i) => {
    const fill = row.links[i].length ? colour(row.links[i][0])[0] : "#8886";
    svg("rect", {x: x.start, y: 12 * r + 1, width: x.end - x.start, height: 10, fill}, picture);
  }));
}
function drawLegend() {
  const entry = (text, style) => {
    const line = make("span", "", $("legend"));
    style(make("i", "key", line));
    line.append(text);
  };
  const css = text => node => { node.style.cssText = text; };
  entry("same colour and number = same text", css("background: linear-gradient(90deg, #e69f00 0 50%, #0072b2 50%)"));
  entry("clip left unmatched", node => node.classList.add("none"));
  const alone = TIMED ? `text without video in ${REFERENCE}` : "text that no clip shows";
  entry(alone, css("border-top: 7px dashed #e69f00"));
  if (SURE) LEVELS.forEach(([, text], number) => entry((number ? "" : "how sure the model is: ") + text, node => {
    svg("path", {class: `band c${number}`, d: "M1 1 H29 V15 H1 Z"}, svg("svg", {width: 30, height: 16}, node));
  }));
  if (!TIMED || ROWS.length < 2) return;
  entry(`clip as in ${REFERENCE}`, node => css("left: 0; right: 0; top: 6px")(make("i", "good", node)));
  entry(`clip not as in ${REFERENCE}`, node => css("left: 0; right: 0; top: 5px")(make("i", "miss", node)));
}
function drawFigures() {
  const set = DATA.figures, sets = Object.keys(set).length > 0, table = $("figures");
  $("scores").hidden = !TIMED;
  if (!TIMED) return;
  const line = (tag, cells) => { const tr = make("tr", "", table); cells.forEach(c => make(tag, "", tr, c)); };
  line("th", ["Method", "Video accuracy, this movie", "Text IoU, this movie",
    ...(sets ? ["Video accuracy, mean of the set", "Text IoU, mean of the set"] : [])]);
  const show = pair => pair ? pair.map(x => x.toFixed(1)) : ["–", "–"];
  for (const name of new Set([...ROWS.map(row => row.name), ...Object.keys(set)])) {
    const own = ROWS.find(row => row.name === name), all = Object.hasOwn(set, name) ? set[name] : null;
    line("td", [name, ...show(own && own.score), ...(sets ? show(all) : [])]);
  }
}
function drawWords() {
  const base = ROWS[TIMED ? GOLD : SHOWN], there = TIMED ? ` in ${REFERENCE}` : "";
  const clips = base.links.filter(texts => !texts.length).length, texts = TEXTS.filter((_, j) => !shown(j)).length;
  const sure = SURE && !TIMED ? ` The model is ${percent(mean(base.confidence))} sure, on average, of a clip.` : "";
  $("size").textContent = `Movie ${DATA.movie}: ${clock(TO - FROM)} long, ${CLIPS.length} clips (${clips} unmatched`
    + `${there}), ${TEXTS.length} texts (${texts} without video${there}).${sure}`;
  const timed = `The coloured bars on top of each row are the texts, at the times of ${REFERENCE}; below are the `
    + "video clips. A band joins each text to the clips that the row's method gave it: a band that falls straight "
    + "down is right in time, a slanted one is off.";
  const untimed = "On top are the texts of the script, below them the film, clip by clip. A band joins each text to "
    + "the clips that were found to show it.";
  const purple = " The stronger the purple of a band, and of the line below a clip, the surer the model is of it.";
  $("guide").textContent = "Time runs from left to right. " + (TIMED ? timed : untimed) + (SURE ? purple : "");
  $("order").textContent = (ROWS.length > 1 ? `From top to bottom: ${ROWS.map(row => row.name).join(", ")}. ` : "")
    + "Grey is unmatched. The frame is the part shown below; tap or drag to go elsewhere.";
  for (const node of document.querySelectorAll(".reference")) node.textContent = REFERENCE;
}
