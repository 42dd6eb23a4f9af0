// What the reader does: zoom, pan, hover, click, step; and what stands at the side.
const escapeHtml = t => String(t).replace(/[&<>"]/g, c => ({'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;'})[c]);
const chip = state => `<span class="chip" style="background:${stateColour[state] || '#7a7a7a'};color:${stateInk[state] || '#fff'}">${escapeHtml(state)}</span>`;
let wanted = false;
function redraw() { if (!wanted) { wanted = true; requestAnimationFrame(() => { wanted = false; draw(); }); } }

function clampView() {
  const end = extent(), least = view.mode === 'even' ? 6 : 200;
  let width = Math.min(end, Math.max(least, view.to - view.from));
  view.from = Math.max(0, Math.min(view.from, end - width));
  view.to = view.from + width;
}
function zoom(factor, about = (view.from + view.to) / 2) {
  view.from = about - (about - view.from) * factor;
  view.to = about + (view.to - about) * factor;
  clampView(); redraw();
}
function pan(by) { const d = (view.to - view.from) * by; view.from += d; view.to += d; clampView(); redraw(); }
function all() { view.from = 0; view.to = extent(); redraw(); }
function show(run, i) {
  const u = place(run, i), width = view.to - view.from;
  if (u < view.from + width * .03 || u > view.to - width * .05) { view.from = u - width * .4; view.to = view.from + width; clampView(); }
}

// Steps to a record: the cursor, the slider, the state at the side.
function go(i, run = runs[view.run]) {
  if (!run.n) return;
  view.run = run.index;
  view.at = Math.max(0, Math.min(run.n - 1, i));
  const slider = $('slider');
  slider.max = run.n - 1; slider.value = view.at;
  show(run, view.at);
  $('where').textContent = `${view.at + 1} of ${run.n} · ${millis(run.time[view.at])} ms`;
  $('slider').setAttribute('aria-valuetext', run.line[view.at]);
  $('live').textContent = run.line[view.at];
  side(); redraw();
}
function select(run, i) { view.selected = {run, i}; go(i, run); }
function seek(test, step) {
  const run = runs[view.run];
  for (let i = view.at + step; i >= 0 && i < run.n; i += step) if (test(i)) { select(run, i); return true; }
  return false;
}

function link(run, i, kind) {
  return `<li class="${kind}"><button data-run="${run.index}" data-at="${i}"><time>${millis(run.time[i])}</time>${escapeHtml(run.line[i])}</button></li>`;
}
function side() {
  const run = runs[view.run], i = view.at;
  let html = '';
  if (data.difference) html += `<h2>First difference</h2><div class="difference">${data.difference.text.map(escapeHtml).map((t, k) => `<div><b>${k ? 'second' : 'first'}</b> ${t}</div>`).join('')}</div>`;
  html += `<h2>Record ${i + 1}${runs.length > 1 ? ' of ' + (run.index ? 'the second run' : 'the first run') : ''}</h2><div class="record">${escapeHtml(run.line[i])}`;
  if (run.details[i]) html += `<div class="detail">${escapeHtml(run.details[i])}</div>`;
  html += '</div>';
  const chain = run.chain(i), effects = run.effectsOf(i);
  if (chain.length || effects.length) {
    html += '<h2>What led here, and what came of it</h2><ul class="chain">';
    if (chain.length > 6) html += `<li class="none">… ${chain.length - 6} more</li>`;
    html += chain.slice(0, 6).reverse().map(k => link(run, k, 'cause')).join('') + link(run, i, 'self') + effects.slice(0, 8).map(k => link(run, k, 'effect')).join('');
    if (effects.length > 8) html += `<li class="none">… ${effects.length - 8} more</li>`;
    html += '</ul>';
  }
  html += '<h2>Jobs</h2>';
  const alive = run.jobs.map(job => ({job, state: run.stateAt(job, i)})).filter(j => j.state);
  html += alive.length ? '<table id="jobs">' + alive.map(({job, state}) => {
    const pause = run.last(job.pauses, i), progress = run.last(job.progress, i), group = run.last(job.groups, i);
    const done = progress && progress[2] ? progress[1] / progress[2] : 0;
    return `<tr><td><b>${escapeHtml(job.id)}</b></td><td>${chip(state)}${pause && pause[1] ? ` pause count ${pause[1]}` : ''}` +
      (progress ? `<div class="n">${size(progress[1])} of ${size(progress[2])}</div><div class="meter"><i style="width:${done * 100}%"></i></div>` : '') +
      `</td><td>${group ? 'group ' + group[1] : ''}</td></tr>`;
  }).join('') + '</table>' : '<p class="none">none</p>';
  const groups = new Map();
  for (const {job} of alive) { const g = run.last(job.groups, i); if (g) groups.set(g[1], [...(groups.get(g[1]) || []), job.id]); }
  if (groups.size) html += '<h2>Groups</h2><table>' + [...groups].map(([g, ids]) => `<tr><th>${g}</th><td>${ids.map(escapeHtml).join(', ')}</td></tr>`).join('') + '</table>';
  const bitmaps = run.bitmaps.map(b => ({b, count: run.last(b.counts, i), busy: b.busy.some(s => s[0] <= i && i < s[1])})).filter(x => x.count && x.count[1] !== null);
  if (run.bitmaps.length) html += '<h2>Bitmaps</h2>' + (bitmaps.length ? '<table>' + bitmaps.map(({b, count, busy}) =>
    `<tr><td><b>${escapeHtml(b.name)}</b> <span class="none">on ${escapeHtml(b.node)}</span></td><td class="n">${size(count[1])} dirty</td><td>${busy ? 'in use' : ''}</td></tr>`).join('') + '</table>' : '<p class="none">none</p>');
  if (run.nodes.length) {
    const flying = run.nodes.map(node => ({node, list: run.inFlight(node, i)})).filter(x => x.list.length);
    html += '<h2>Requests in flight</h2>' + (flying.length ? '<table>' + flying.map(({node, list}) =>
      `<tr><td>${escapeHtml(node.name)}</td><td class="n">${list.length}</td><td class="none">${escapeHtml([...new Set(list.map(q => q.op))].join(', '))}</td></tr>`).join('') + '</table>' : '<p class="none">none</p>');
  }
  const graph = run.last(run.graphs, i);
  if (graph) html += `<h2>Node graph</h2><pre class="graph" id="graph">${escapeHtml(graph[1])}</pre>`;
  html += '<h2>Colours</h2><div class="legend">' + data.states.filter(s => runs.some(r => r.jobs.some(j => j.states.some(x => x[2] === s[0])))).map(s => `<span><i style="background:${s[1]}"></i>${s[0]}</span>`).join('') +
    `<span><i style="background:var(--request)"></i>read</span><span><i style="background:var(--request-edge)"></i>write, flush, …</span><span><i style="background:var(--bad)"></i>failed</span></div>`;
  $('side').innerHTML = html;
}
$('side').addEventListener('click', event => {
  const button = event.target.closest('button[data-at]');
  if (button) select(runs[+button.dataset.run], +button.dataset.at);
});

// What lies under the pointer: the record nearest in that lane.
function hit(x, y) {
  if (x < LABEL || y < HEAD) return null;
  const lane = view.lanes.find(l => l.y <= y + view.top && y + view.top < l.y + l.height);
  if (!lane || lane.type === 'title' || !lane.run.n) return null;
  const {run} = lane, row = run.rows.indexOf(lane);
  if (lane.type === 'node') {
    const r = Math.floor((y + view.top - lane.y - 8) / lane.row), list = lane.node.byRow[r];
    if (list) {
      const k = upper(list, toU(x), q => place(run, q.from)) - 1;
      if (k >= 0 && xOf(run, list[k].to) + 2 >= x) return {run, i: list[k].from, end: list[k].to};
    }
  }
  const centre = nearest(run, toU(x));
  for (let d = 0; d < 4000; d++) for (const i of d ? [centre - d, centre + d] : [centre]) {
    if (i < 0 || i >= run.n) continue;
    if (run.of[i] === row) return Math.abs(xOf(run, i) - x) < 14 || lane.type === 'job' || lane.type === 'bitmap' ? {run, i} : null;
    if (d && Math.abs(xOf(run, i) - x) > 400) return null;
  }
  return null;
}
function tip(event) {
  const box = $('tip'), at = hit(event.offsetX, event.offsetY);
  view.hover = at;
  if (!at) { box.hidden = true; return; }
  const {run, i} = at;
  let html = `<time>${millis(run.time[i])} ms</time> ${escapeHtml(run.line[i])}`;
  if (at.end !== undefined) html += at.end < run.n ? `<div>ends ${millis(run.time[at.end])} ms, after ${((run.time[at.end] - run.time[i]) / 1000).toFixed(1)} µs</div>` : '<div>never ends in this trace</div>';
  if (run.cause[i] >= 0) html += `<div class="detail">after: ${escapeHtml(run.line[run.cause[i]])}</div>`;
  if (run.details[i]) html += `<div class="detail">${escapeHtml(run.details[i])}</div>`;
  box.innerHTML = html; box.hidden = false;
  const w = box.offsetWidth, h = box.offsetHeight;
  box.style.left = Math.max(4, Math.min(innerWidth - w - 8, event.clientX + 14)) + 'px';
  box.style.top = (event.clientY + h + 24 > innerHeight ? event.clientY - h - 12 : event.clientY + 16) + 'px';
}

let drag = null;
const pointers = new Map();
canvas.addEventListener('pointerdown', event => {
  pointers.set(event.pointerId, event);
  drag = {x: event.clientX, from: view.from, to: view.to, moved: false};
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener('pointermove', event => {
  if (pointers.size === 2 && pointers.has(event.pointerId)) {
    const [a, b] = [...pointers.values()], before = Math.abs(a.clientX - b.clientX);
    pointers.set(event.pointerId, event);
    const [c, d] = [...pointers.values()], now = Math.abs(c.clientX - d.clientX);
    if (before > 5 && now > 5) zoom(before / now, toU((c.offsetX + d.offsetX) / 2));
    return;
  }
  if (drag && event.buttons) {
    const dx = event.clientX - drag.x;
    if (Math.abs(dx) > 3) drag.moved = true;
    if (drag.moved) {
      const u = dx / (view.width - LABEL - 12) * (drag.to - drag.from);
      view.from = drag.from - u; view.to = drag.to - u; clampView(); redraw(); $('tip').hidden = true;
    }
    return;
  }
  tip(event);
});
canvas.addEventListener('pointerup', event => {
  pointers.delete(event.pointerId);
  if (drag && !drag.moved) { const at = hit(event.offsetX, event.offsetY); if (at) select(at.run, at.i); else { view.selected = null; redraw(); } }
  drag = null;
});
canvas.addEventListener('pointercancel', event => { pointers.delete(event.pointerId); drag = null; });
canvas.addEventListener('pointerleave', () => { $('tip').hidden = true; });
canvas.addEventListener('wheel', event => {
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) { event.preventDefault(); pan((event.deltaX || event.deltaY) / 900); return; }
  if (event.offsetX < LABEL && !event.ctrlKey) return;
  event.preventDefault(); zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 250), toU(Math.max(LABEL, event.offsetX)));
}, {passive: false});
const miniTo = event => { const u = (event.offsetX - LABEL) / (view.width - LABEL - 12) * extent(), w = view.to - view.from; view.from = u - w / 2; view.to = u + w / 2; clampView(); redraw(); };
mini.addEventListener('pointerdown', event => { mini.setPointerCapture(event.pointerId); miniTo(event); });
mini.addEventListener('pointermove', event => { if (event.buttons) miniTo(event); });
$('scroll').addEventListener('scroll', redraw);
addEventListener('resize', redraw);

function axis() {
  const run = runs[view.run], i = run.n ? view.at : 0;
  const share = (view.to - view.from) / extent();
  view.mode = view.mode === 'even' ? 'time' : 'even';
  $('axis').setAttribute('aria-pressed', String(view.mode === 'time'));
  const u = place(run, i), width = share * extent();
  view.from = u - width / 2; view.to = u + width / 2; clampView(); redraw();
}
function theme(name) {
  document.documentElement.dataset.theme = name;
  $('theme').textContent = name === 'dark' ? 'Light' : 'Dark';
  readColours(); redraw();
}
function toDifference() {
  if (!data.difference) return;
  const run = runs[0], i = Math.min(data.difference.at[0], run.n - 1);
  const width = Math.min(view.to - view.from, extent() / 4), u = place(run, i);
  view.from = u - width * .4; view.to = view.from + width; clampView();
  select(run, i);
}
function find(again) {
  const text = $('find').value.toLowerCase();
  if (!text) return;
  const run = runs[view.run], test = i => run.line[i].toLowerCase().includes(text) || (run.details[i] || '').toLowerCase().includes(text);
  if (!again && test(view.at)) return;
  if (!seek(test, 1)) { const at = view.at; view.at = -1; if (!seek(test, 1)) view.at = at; }
}
$('find').addEventListener('keydown', event => { event.stopPropagation(); if (event.key === 'Enter') find(true); if (event.key === 'Escape') { $('find').value = ''; canvas.focus(); } });
$('find').addEventListener('input', () => find(false));
$('slider').addEventListener('input', () => { view.selected = null; go(+$('slider').value); });
$('back').onclick = () => go(view.at - 1);
$('forth').onclick = () => go(view.at + 1);
$('in').onclick = () => zoom(.6);
$('out').onclick = () => zoom(1 / .6);
$('all').onclick = all;
$('axis').onclick = axis;
$('theme').onclick = () => theme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
$('help').onclick = () => $('keys').showModal();
$('fault').onclick = () => seek(i => runs[view.run].isFault(i), 1);
$('difference').onclick = toDifference;
addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || $('keys').open || event.target === $('find')) return;
  const run = runs[view.run], slider = event.target === $('slider');
  const step = event.shiftKey ? 10 : 1;
  const keys = {
    ArrowLeft: () => go(view.at - step), ArrowRight: () => go(view.at + step), Home: () => go(0), End: () => go(run.n - 1),
    j: () => seek(i => run.isJobChange(i), 1), J: () => seek(i => run.isJobChange(i), -1),
    f: () => seek(i => run.isFault(i), 1), F: () => seek(i => run.isFault(i), -1),
    c: () => run.cause[view.at] >= 0 && select(run, run.cause[view.at]), e: () => run.effectsOf(view.at).length && select(run, run.effectsOf(view.at)[0]),
    '+': () => zoom(.6, place(run, view.at)), '=': () => zoom(.6, place(run, view.at)), '-': () => zoom(1 / .6, place(run, view.at)), 0: all,
    a: () => pan(-.2), d: () => pan(.2), t: axis, l: () => $('theme').click(), n: toDifference,
    '/': () => $('find').focus(), '?': () => $('keys').showModal(), Escape: () => { view.selected = null; redraw(); },
    Tab: null,
  };
  const act = keys[event.key];
  if (!act || (slider && event.key.startsWith('Arrow') && !event.shiftKey)) return;
  event.preventDefault(); act();
});

function begin() {
  const first = runs[0];
  $('title').textContent = first.title;
  $('about').textContent = runs.length > 1 ? first.about + '  beside  ' + runs[1].title + ' ' + runs[1].about : first.about;
  if (runs.some(run => run.bad)) $('about').style.color = 'var(--bad)';
  if (!data.difference) $('difference').remove(); else $('difference').hidden = false;
  layout();
  theme(matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  view.to = extent();
  const from = Math.min(data.from, Math.max(0, first.n - 1));
  if (from > 0) { const u = place(first, from); view.from = Math.max(0, u - (view.to - u) * .03); clampView(); }
  draw();
  go(from);
  if (!first.n) side();
  // How long it took until the first picture, for whoever measures.
  requestAnimationFrame(() => requestAnimationFrame(() => { document.documentElement.dataset.painted = Math.round(performance.now()); }));
}
begin();
