// What a reader does: pointing, picking, moving with keys, and playing the film from there.
const FILM = DATA.film, film = $("film");

// What belongs to an item: for a clip, itself in all rows and each row's texts; for a text, each row's clips.
function related(item) {
  if (item.text !== undefined) {
    return {text: (r, j) => j === item.text, clip: (r, i) => ROWS[r].links[i].includes(item.text)};
  }
  const any = new Set(ROWS.flatMap(row => row.links[item.clip]));
  return {text: (r, j) => r < 0 ? any.has(j) : ROWS[r].links[item.clip].includes(j), clip: (r, i) => i === item.clip};
}
function mark() {
  const item = hover || picked, track = $("track");
  track.classList.toggle("picked", !!item);
  const is = item && related(item);
  for (const node of track.querySelectorAll(".clip, .text, .bar, path")) {
    const x = node.item;
    let on = false;
    if (is && x.first !== undefined) {
      on = item.text !== undefined ? x.text === item.text : is.text(x.row, x.text) && x.first <= item.clip
        && item.clip <= x.last;
    } else if (is) on = x.clip !== undefined ? is.clip(x.row, x.clip) : is.text(x.row, x.text);
    node.classList.toggle("on", !!on);
    node.classList.toggle("cursor", !!item && x.first === undefined && x.row === item.row && x.clip === item.clip
      && x.text === item.text);
  }
  describe(item);
}
function chip(j, parent) {
  const node = make("span", "chip", parent, j + 1);
  node.style.background = colour(j)[0];
  node.style.color = colour(j)[1];
}
function describe(item) {
  const box = $("detail");
  box.replaceChildren();
  if (!item) {
    make("div", "soft", box, playable() ? "Click or tap a clip or a text: the film plays from there."
      : "Nothing selected. Point at or tap a clip or a text to see its partners.");
    return;
  }
  const head = make("div", "", box);
  if (item.clip !== undefined) describeClip(item.clip, head, box);
  else describeText(item.text, head, box);
}
function describeClip(i, head, box) {
  make("b", "", head, `Clip ${i + 1} of ${CLIPS.length}`);
  head.append(" · " + span(CLIPS[i]));
  ROWS.forEach((row, r) => {
    const line = make("div", "", box), texts = row.links[i];
    if (ROWS.length > 1) make("b", "", line, row.name + ": ");
    if (!texts.length) line.append("unmatched, no text belongs to it ");
    for (const j of texts) {
      chip(j, line);
      line.append(` ${TEXTS[j].text} ` + (TIMED ? `(${range(TEXTS[j].start, TEXTS[j].end)}) ` : ""));
    }
    if (row.confidence) line.append(`· ${percent(row.confidence[i])} sure `);
    if (TIMED && r !== GOLD) {
      const agrees = same(r, i);
      make("span", agrees ? "yes" : "no", line, (agrees ? "✓ as in " : "✗ not as in ") + REFERENCE);
    }
  });
}
function describeText(j, head, box) {
  const x = TEXTS[j];
  chip(j, head);
  make("b", "", head, ` Text ${j + 1} of ${TEXTS.length}`);
  if (TIMED) head.append(" · " + span(x) + (x.matched ? "" : ` · has no video in ${REFERENCE}`));
  make("div", "", box, "“" + x.text + "”");
  ROWS.forEach((row, r) => {
    const line = make("div", "", box), own = CLIPS_OF[r][j], parts = runs(row.links).filter(([text]) => text === j);
    if (ROWS.length > 1) make("b", "", line, row.name + ": ");
    const places = parts.map(([, a, b]) => (a === b ? `clip ${a + 1}` : `clips ${a + 1}–${b + 1}`)
      + ` (${range(CLIPS[a].start, CLIPS[b].end)})`);
    line.append((places.join(", ") || "no clip shows it")
      + (row.confidence && own.length ? ` · ${percent(mean(own.map(i => row.confidence[i])))} sure` : "")
      + (TIMED ? ` · IoU ${row.ious[j].toFixed(0)} %` : ""));
  });
}

function reveal(item) {
  const [left, right] = extent(item), box = $("scroll");
  if (left < box.scrollLeft || right > box.scrollLeft + box.clientWidth) {
    box.scrollLeft = (left + right) / 2 - box.clientWidth / 2;
  }
}
function leaveRoom() { document.body.style.setProperty("--dock", $("dock").offsetHeight + "px"); }
function pick(item) {
  hover = null;
  picked = item;
  if (item) reveal(item);
  mark();
  leaveRoom();  // before it scrolls: what is said of the item may have made the dock higher
  $("track").querySelector(".cursor")?.scrollIntoView({block: "nearest", inline: "nearest"});
}
function nearest(count, at, place) {
  const off = n => Math.max(place(n)[0] - at, at - place(n)[1], 0);
  let best = 0;
  for (let n = 1; n < count; n++) if (off(n) < off(best)) best = n;
  return best;
}
function move(key) {
  if (!picked) return TEXTS.length ? {row: -1, text: 0} : {row: SHOWN, clip: 0};
  const {row, clip, text} = picked, at = clip ?? text;
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const last = (clip !== undefined ? CLIPS : TEXTS).length - 1;
    const next = Math.min(last, Math.max(0, at + (key === "ArrowRight" ? 1 : -1)));
    return clip !== undefined ? {row, clip: next} : {row, text: next};
  }
  const to = text !== undefined && row >= 0 ? row + (key === "ArrowDown" ? 0 : -1)
    : Math.min(ROWS.length - 1, Math.max(-1, row + (key === "ArrowDown" ? 1 : -1)));
  const [left, right] = extent(picked), centre = (left + right) / 2;
  if (to < 0) {
    const own = TIMED || clip === undefined ? undefined : ROWS[SHOWN].links[clip][0];
    return {row: to, text: text ?? own ?? nearest(TEXTS.length, centre, textExtent)};
  }
  const own = TIMED || text === undefined ? undefined : CLIPS_OF[to][text][0];
  return {row: to, clip: clip ?? own ?? nearest(CLIPS.length, centre, clipExtent)};
}

// The film.
const playable = () => !film.hidden;
function stretchOf(item) {
  if (item.clip !== undefined) return CLIPS[item.clip];
  const row = item.row >= 0 ? item.row : TIMED ? GOLD : SHOWN, own = CLIPS_OF[row][item.text];
  if (TIMED && row === GOLD && TEXTS[item.text].matched) return TEXTS[item.text];
  return own.length ? {start: CLIPS[own[0]].start, end: CLIPS[own.at(-1)].end} : null;
}
function play(item) {
  const stretch = item && playable() ? stretchOf(item) : null;
  if (!stretch) return;
  film.currentTime = stretch.start;
  resume();
}
function resume() {
  film.play().catch(problem => {
    if (problem.name !== "AbortError") say(`The film cannot be played: ${problem.message}`);
  });
}
const covers = (stretch, t) => stretch !== null && stretch.start <= t + .02 && t < stretch.end;
// While it plays, what is picked goes along with it.
function follow() {
  drawPlayhead();
  if (film.paused || film.seeking || (picked && covers(stretchOf(picked), film.currentTime))) return;
  const i = CLIPS.findIndex(x => covers(x, film.currentTime));
  if (i < 0) return;
  picked = {row: SHOWN, clip: i};
  reveal(picked);
  mark();
}
function drawPlayhead() {
  if (!playable()) return;
  const head = $("track").querySelector(".playhead") || make("div", "playhead", $("track"));
  head.style.left = px(film.currentTime) + "px";
}
function say(text) {
  $("missing").textContent = text;
  $("missing").hidden = false;
}
function loadFilm() {
  if (!FILM) return;
  film.addEventListener("loadedmetadata", () => {
    film.hidden = false;
    $("missing").hidden = true;
    mark();
    drawPlayhead();
  });
  film.addEventListener("error", () => {
    film.hidden = true;
    say(`The film does not play here: there is no ${decodeURIComponent(FILM)} beside this page, or this browser cannot `
      + "show its format. All else works without it.");
    mark();
  });
  for (const event of ["timeupdate", "seeked", "playing"]) film.addEventListener(event, follow);
  film.src = FILM;
}

const itemAt = event => event.target.closest(".clip, .text, .bar, .sure")?.item ?? null;
function onKey(event) {
  const tag = event.target.tagName;
  if (tag === "INPUT" || tag === "VIDEO" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { film.pause(); picked = hover = null; mark(); return; }
  if (event.key === "Enter" || event.key === " ") {
    if (tag === "BUTTON" || !playable()) return;
    event.preventDefault();
    if (!film.paused) film.pause();
    else if (picked && !covers(stretchOf(picked), film.currentTime)) play(picked);
    else resume();
    return;
  }
  if (!/^Arrow(Left|Right)$/.test(event.key) && !(picked && /^Arrow(Up|Down)$/.test(event.key))) return;
  event.preventDefault();
  film.pause();
  pick(move(event.key));
}
function onOverview(event) {
  const area = $("overview").getBoundingClientRect(), box = $("scroll");
  box.scrollLeft = (event.clientX - area.left) / area.width * px(TO) - box.clientWidth / 2;
}
function listen() {
  document.addEventListener("keydown", onKey);
  $("track").addEventListener("pointerover", event => {
    if (event.pointerType === "touch" || !film.paused) return;
    const item = itemAt(event);
    if (item !== hover) { hover = item; mark(); }
  });
  $("track").addEventListener("pointerleave", () => { if (hover) { hover = null; mark(); } });
  $("track").addEventListener("click", event => {
    pick(itemAt(event));
    play(picked);
  });
  $("zoom").addEventListener("input", () => zoomTo(fitScale() * ratio() ** ($("zoom").value / 100)));
  $("fit").addEventListener("click", () => zoomTo(fitScale()));
  $("read").addEventListener("click", () => zoomTo(readScale()));
  $("scroll").addEventListener("scroll", () => { overviewWindow(); drawPictures(); });
  $("overview").addEventListener("pointerdown", onOverview);
  $("overview").addEventListener("pointermove", event => { if (event.buttons) onOverview(event); });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    zoomTo(Math.max(scale, fitScale()));
  });
  new ResizeObserver(leaveRoom).observe($("dock"));
}
function start() {
  drawWords();
  drawFigures();
  drawLegend();
  drawOverview();
  scale = readScale();
  zoomTo(scale);
  $("scroll").scrollLeft = TEXTS.length ? textExtent(0)[0] - 60 : 0;
  $("help").textContent = FILM
    ? "A click plays the film from there; arrow keys move, Space plays and pauses, Escape stops."
    : "Point at or tap a clip or text; arrow keys move, Escape lets go.";
  listen();
  loadFilm();
}
