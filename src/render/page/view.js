// The drawing: lanes on a canvas, drawn anew from the model at each change.
const canvas = $('view'), mini = $('mini');
const LABEL = 150, HEAD = 26;
const view = {mode: 'even', from: 0, to: 1, run: 0, at: 0, selected: null, hover: null, lanes: [], width: 800, height: 400};
let colours = {};

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ['ground', 'card', 'ink', 'dim', 'line', 'strong', 'bar', 'request', 'request-edge', 'bad', 'bitmap', 'bitmap-edge', 'cursor', 'cause', 'effect', 'difference', 'shade'])
    colours[name] = style.getPropertyValue('--' + name).trim();
}

function layout() {
  const lanes = [];
  let y = HEAD;
  const add = (run, type, height, extra) => { lanes.push({run, type, y, height, ...extra}); y += height; };
  for (const run of runs) {
    const first = lanes.length + (runs.length > 1 ? 1 : 0);
    if (runs.length > 1) add(run, 'title', 26, {});
    add(run, 'client', 60, {label: 'client', about: ''});
    for (const job of run.jobs) {
      const group = job.groups.length ? ', group ' + job.groups[job.groups.length - 1][1] : '';
      add(run, 'job', 36, {label: job.id, about: 'job' + group, job});
    }
    for (const node of run.nodes) {
      const row = node.rows > 12 ? 2 : node.rows > 5 ? 4 : 8;
      const shown = Math.min(node.rows, 40);
      add(run, 'node', Math.max(34, shown * row + 14) + (node.faults.length ? 12 : 0), {label: node.name, about: node.rows > 1 ? 'up to ' + node.rows + ' in flight' : 'requests', node, row});
    }
    for (const bitmap of run.bitmaps) add(run, 'bitmap', 38, {label: bitmap.name, about: 'on ' + bitmap.node + ', ≤ ' + size(bitmap.max), bitmap});
    run.rows = lanes.slice(first);
  }
  view.lanes = lanes;
  view.total = y + 10;
}

function extent() {
  let end = 1;
  for (const run of runs) end = Math.max(end, view.mode === 'even' ? run.even[run.n] : run.span() * 1.01 + 1);
  return end;
}
const place = (run, i) => view.mode === 'even' ? run.even[Math.min(i, run.n)] : (i >= run.n ? run.span() * 1.01 : run.time[i]);
const toX = u => LABEL + (u - view.from) / (view.to - view.from) * (view.width - LABEL - 12);
const toU = x => view.from + (x - LABEL) / (view.width - LABEL - 12) * (view.to - view.from);
const xOf = (run, i) => toX(place(run, i));
// The first record at or after a place on the line.
function recordAt(run, u) {
  let a = 0, b = run.n;
  while (a < b) { const m = (a + b) >> 1; if (place(run, m) >= u) b = m; else a = m + 1; }
  return a;
}
function nearest(run, u) {
  const i = recordAt(run, u);
  if (i <= 0) return 0;
  if (i >= run.n) return run.n - 1;
  return place(run, i) - u < u - place(run, i - 1) ? i : i - 1;
}

function fitCanvas(element, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const w = Math.max(1, Math.round(width * ratio)), h = Math.max(1, Math.round(height * ratio));
  if (element.width !== w || element.height !== h) { element.width = w; element.height = h; element.style.width = width + 'px'; element.style.height = height + 'px'; }
  const g = element.getContext('2d');
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  return g;
}

function draw() {
  const scroll = $('scroll');
  view.width = scroll.clientWidth; view.height = Math.max(120, scroll.clientHeight);
  $('room').style.height = Math.max(0, view.total - view.height) + 'px';
  view.top = scroll.scrollTop;
  const g = fitCanvas(canvas, view.width, view.height);
  g.font = '12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif';
  g.textBaseline = 'middle';
  grid(g);
  g.save();
  g.beginPath(); g.rect(0, HEAD, view.width, view.height - HEAD); g.clip();
  g.translate(0, -view.top);
  for (const lane of view.lanes) {
    if (lane.y + lane.height < view.top || lane.y > view.top + view.height) continue;
    g.fillStyle = colours.line; g.fillRect(0, lane.y + lane.height - 1, view.width, 1);
    g.save(); g.beginPath(); g.rect(LABEL - 1, lane.y, view.width - LABEL + 1, lane.height); g.clip();
    painters[lane.type](g, lane);
    g.restore();
    labels(g, lane);
  }
  differences(g);
  causes(g);
  cursor(g);
  g.restore();
  drawMini();
}

function grid(g) {
  const run = runs[0];
  let free = LABEL, shown = '';
  g.fillStyle = colours.dim; g.fillText('ms', 10, HEAD / 2);
  const label = (x, text) => {
    g.fillStyle = colours.line; g.fillRect(Math.round(x), HEAD - 6, 1, view.height);
    if (text !== shown) { g.fillStyle = colours.dim; g.fillText(text, x + 3, HEAD / 2); shown = text; }
  };
  if (view.mode === 'time') {
    const step = 10 ** Math.ceil(Math.log10((view.to - view.from) / 8));
    for (const fine of [step / 5, step / 2, step]) if ((view.to - view.from) / fine <= 9) {
      for (let u = Math.ceil(view.from / fine) * fine; u <= view.to; u += fine) label(toX(u), String(+(u / 1e6).toFixed(6)));
      return;
    }
    return;
  }
  for (let i = recordAt(run, view.from); i < run.n && place(run, i) <= view.to;) {
    const x = xOf(run, i);
    if (x >= free && x < view.width - 40) { label(x, (run.time[i] / 1e6).toFixed(3)); free = x + 92; }
    // Go on with the record that has room again.
    i = Math.max(i + 1, recordAt(run, toU(Math.max(free, x + 1))));
  }
}

function labels(g, lane) {
  if (!lane.label) return;
  const y = lane.y + (lane.type === 'client' ? 16 : 13);
  g.font = '600 12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif';
  g.fillStyle = colours.ink; g.fillText(cut(g, lane.label, LABEL - 18), 10, y);
  g.font = '12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif';
  if (lane.about) { g.fillStyle = colours.dim; g.font = '10.5px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif'; g.fillText(cut(g, lane.about, LABEL - 18), 10, y + 14); g.font = '12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif'; }
}
function cut(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  while (text.length > 1 && g.measureText(text + '…').width > width) text = text.slice(0, -1);
  return text + '…';
}

const painters = {
  title(g, lane) {
    g.fillStyle = colours.shade; g.fillRect(LABEL, lane.y, view.width, lane.height);
    g.fillStyle = colours.ink; g.font = '600 12px system-ui,sans-serif';
    // Out of the way of the mark at the first difference.
    const difference = data.difference && xOf(lane.run, Math.min(data.difference.at[lane.run.index], lane.run.n));
    const right = data.difference && difference < (LABEL + view.width) / 2;
    g.textAlign = right ? 'right' : 'left';
    g.fillText(lane.run.title + ' · ' + lane.run.about, right ? view.width - 8 : LABEL + 6, lane.y + lane.height / 2);
    g.textAlign = 'left';
    g.font = '12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif';
  },
  client(g, lane) {
    const {run} = lane, y = lane.y + 8;
    let drawn = -1, free = 0;
    for (let k = Math.max(0, upper(run.commands, recordAt(run, view.from), c => c[0]) - 1); k < run.commands.length; k++) {
      const [from, to, name, bad] = run.commands[k];
      const x = xOf(run, from), end = xOf(run, to);
      if (x > view.width) break;
      if (end < LABEL || end - drawn < .7) continue;
      g.fillStyle = bad ? colours.bad : colours.bar;
      g.fillRect(x, y, Math.max(2, end - x - 1), 15);
      drawn = end;
      const left = Math.max(x, LABEL) + 4, room = end - left - 4;
      if (room > 30) { g.fillStyle = colours.card; g.fillText(cut(g, name, room), left, y + 8); }
    }
    drawn = -9; let last = -9;
    for (let k = upper(run.events, recordAt(run, view.from) - 1, e => e[0]); k < run.events.length; k++) {
      const [i, state, name, bad] = run.events[k];
      const x = xOf(run, i);
      if (x > view.width) break;
      if (state) {
        if (x - drawn < .7) continue;
        g.fillStyle = stateColour[state] || colours.dim; g.fillRect(x - 1, y + 19, 2.5, 9); drawn = x;
      } else {
        if (x - last < 1) continue;
        last = x;
        g.fillStyle = bad ? colours.bad : colours.ink;
        g.beginPath(); g.moveTo(x, y + 18); g.lineTo(x + 5, y + 28); g.lineTo(x - 5, y + 28); g.fill();
        const width = g.measureText(name).width, left = Math.max(LABEL + 2, Math.min(x - 5, view.width - 4 - width));
        if (left >= free) { g.fillText(name, left, y + 39); free = left + width + 10; }
      }
    }
  },
  job(g, lane) {
    const {run, job} = lane, y = lane.y + 6;
    let drawn = -1;
    for (let k = Math.max(0, upper(job.states, recordAt(run, view.from), s => s[0]) - 2); k < job.states.length; k++) {
      const [from, to, state] = job.states[k];
      const x = xOf(run, from), end = xOf(run, to);
      if (x > view.width) break;
      if (end < LABEL || (end - drawn < .5 && end - x < .5)) continue;
      g.fillStyle = stateColour[state] || colours.dim;
      g.fillRect(x, y, Math.max(1, end - x - (end - x > 3 ? 1 : 0)), 22);
      drawn = end;
      const left = Math.max(x, LABEL) + 5, room = end - left - 3;
      if (room > 14) {
        g.fillStyle = stateInk[state] || '#fff';
        const whole = g.measureText(state).width <= room;
        if (whole || room > 34) g.fillText(whole ? state : cut(g, state, room), left, y + 11.5);
      }
    }
    for (const [from, group] of job.groups) {
      const k = upper(job.states, from, s => s[0]) - 1;
      let end = from;
      for (let s = Math.max(0, k); s < job.states.length && (s === k || job.states[s][0] === end); s++) end = job.states[s][1];
      g.strokeStyle = colours.dim; g.lineWidth = 2; g.setLineDash([2, 3]);
      g.beginPath(); g.moveTo(xOf(run, from), y + 25.5); g.lineTo(xOf(run, end), y + 25.5); g.stroke(); g.setLineDash([]);
    }
  },
  node(g, lane) {
    const {run, node, row} = lane;
    for (let r = 0; r < node.byRow.length && r < 40; r++) {
      const list = node.byRow[r], y = lane.y + 8 + r * row;
      let drawn = -1;
      for (let k = Math.max(0, upper(list, recordAt(run, view.from), q => q.from) - 1); k < list.length; k++) {
        const q = list[k], x = xOf(run, q.from), end = Math.max(x + 1, xOf(run, q.to));
        if (x > view.width) break;
        if (end < LABEL || (end - drawn < .7 && !q.failed)) continue;
        g.fillStyle = q.failed ? colours.bad : q.op === 'read' ? colours.request : colours['request-edge'];
        g.fillRect(x, y, Math.max(1, end - x - (end - x > 3 ? 1 : 0)), row - 1);
        drawn = end;
        if (row >= 8 && node.rows === 1 && end - x > 36) { g.fillStyle = colours.dim; g.fillText(cut(g, q.op, end - x), Math.max(x, LABEL) + 2, y + 15); }
      }
    }
    let free = 0, last = -9;
    for (const i of node.faults) {
      const x = xOf(run, i), y = lane.y + 8 + row / 2 + 2;
      if (x < LABEL - 5 || x > view.width || x - last < 1) continue;
      last = x;
      g.strokeStyle = colours.bad; g.lineWidth = 2.5;
      g.beginPath(); g.moveTo(x - 5, y - 5); g.lineTo(x + 5, y + 5); g.moveTo(x + 5, y - 5); g.lineTo(x - 5, y + 5); g.stroke();
      if (x > free) { g.fillStyle = colours.bad; const text = 'fault: ' + run.line[i].split(': ').pop(); g.fillText(text, Math.min(x - 5, view.width - 4 - g.measureText(text).width), lane.y + lane.height - 10); free = x + 16 + g.measureText(text).width; }
    }
  },
  bitmap(g, lane) {
    const {run, bitmap} = lane, base = lane.y + lane.height - 10, room = lane.height - 17;
    const list = bitmap.counts;
    let drawn = -9;
    for (let k = Math.max(0, upper(list, recordAt(run, view.from), c => c[0]) - 2); k < list.length; k++) {
      const [i, count] = list[k];
      if (count === null) continue;
      const x = Math.max(LABEL - 2, xOf(run, i)), end = xOf(run, k + 1 < list.length ? list[k + 1][0] : run.n);
      if (x > view.width) break;
      if (end < LABEL || end - drawn < .5) continue;
      drawn = end;
      const h = bitmap.max ? count / bitmap.max * room : 0;
      g.fillStyle = colours.bitmap; g.fillRect(x, base - h, end - x, h);
      g.fillStyle = colours['bitmap-edge']; g.fillRect(x, base - h - 1, end - x, 1.5);
      if (end - x > 60) { g.fillStyle = colours.ink; g.fillText(size(count), x + 4, base - Math.max(h / 2, 7)); }
    }
    g.fillStyle = colours['bitmap-edge'];
    for (const [from, to] of bitmap.busy) { const x = xOf(run, from); g.fillRect(x, base + 3, Math.max(1, xOf(run, to) - x), 3); }
  },
};

// The point of a record in its lane, for lines of cause and effect.
function point(run, i) {
  const lane = run.of[i] < 0 ? null : run.rows[run.of[i]];
  if (!lane) return null;
  return [xOf(run, i), lane.y + (lane.type === 'client' ? 16 : lane.type === 'job' ? 17 : lane.height / 2)];
}
function curve(g, a, b) {
  if (!a || !b) return;
  const m = (a[1] + b[1]) / 2, flat = Math.abs(a[1] - b[1]) < 4;
  g.beginPath(); g.moveTo(a[0], a[1]);
  if (flat) g.quadraticCurveTo((a[0] + b[0]) / 2, a[1] - 14, b[0], b[1]); else g.bezierCurveTo(a[0], m, b[0], m, b[0], b[1]);
  g.stroke();
  g.beginPath(); g.arc(b[0], b[1], 3, 0, 7); g.fill();
}
function causes(g) {
  if (!view.selected) return;
  const {run, i} = view.selected;
  g.save(); g.beginPath(); g.rect(LABEL, 0, view.width, view.total); g.clip();
  g.lineWidth = 2; g.strokeStyle = g.fillStyle = colours.cause;
  let to = i;
  for (const from of run.chain(i)) {
    const a = point(run, from);
    if (!a) continue;
    curve(g, a, point(run, to)); to = from;
  }
  g.strokeStyle = g.fillStyle = colours.effect;
  for (const effect of run.effectsOf(i).slice(0, 60)) curve(g, point(run, i), point(run, effect));
  const own = point(run, i);
  if (own) { g.lineWidth = 2.5; g.strokeStyle = colours.cursor; g.beginPath(); g.arc(own[0], own[1], 6, 0, 7); g.stroke(); }
  g.restore();
}
function cursor(g) {
  const run = runs[view.run];
  if (!run.n) return;
  const x = xOf(run, view.at);
  if (x >= LABEL - 1) { g.fillStyle = colours.cursor; g.fillRect(x - .75, view.top + HEAD - 4, 1.5, view.height); }
}
function differences(g) {
  if (!data.difference) return;
  for (const run of runs) {
    const i = data.difference.at[run.index];
    const x = xOf(run, Math.min(i, run.n));
    const own = view.lanes.filter(l => l.run === run), top = own[0].y, last = own[own.length - 1];
    if (x < LABEL) continue;
    g.fillStyle = colours.difference; g.globalAlpha = .055; g.fillRect(x, top, view.width, last.y + last.height - top); g.globalAlpha = 1;
    g.fillRect(x - 1, top, 2, last.y + last.height - top);
    const text = 'first difference'; const w = g.measureText(text).width + 10;
    const left = Math.min(x, view.width - w);
    g.fillRect(left, top + 4, w, 18); g.fillStyle = colours.card; g.fillText(text, left + 5, top + 13);
  }
}

function drawMini() {
  const width = $('left').clientWidth, height = 34;
  const g = fitCanvas(mini, width, height);
  const run = runs[0], end = extent(), x = u => LABEL + u / end * (width - LABEL - 12);
  g.fillStyle = colours.card; g.fillRect(0, 0, width, height);
  g.font = '10.5px system-ui,sans-serif'; g.textBaseline = 'middle'; g.fillStyle = colours.dim; g.fillText('whole run', 10, height / 2);
  const rows = Math.max(1, run.jobs.length), h = Math.max(2, Math.floor((height - 8) / rows));
  run.jobs.forEach((job, r) => {
    let drawn = -1;
    for (const [from, to, state] of job.states) {
      const a = x(place(run, from)), b = x(place(run, to));
      if (b - drawn < .5) continue;
      g.fillStyle = stateColour[state] || colours.dim; g.fillRect(a, 4 + r * h, Math.max(1, b - a), Math.max(1, h - 1)); drawn = b;
    }
  });
  g.fillStyle = colours.bad;
  for (const node of run.nodes) for (const i of node.faults) g.fillRect(x(place(run, i)) - 1, 0, 2, 4);
  g.fillStyle = colours.cursor; if (run.n) g.fillRect(x(place(runs[view.run], view.at)) - .5, 0, 1.5, height);
  g.strokeStyle = colours.strong; g.lineWidth = 1.5; g.strokeRect(x(view.from) + .5, .75, Math.max(3, x(view.to) - x(view.from)), height - 1.5);
}
