'use strict';
// What the page is made from: runs as the simulator wrote them, and where their records stand on the line.
const data = JSON.parse(document.getElementById('data').textContent);
const kinds = data.kinds;
const stateColour = Object.fromEntries(data.states.map(s => [s[0], s[1]]));
const stateInk = Object.fromEntries(data.states.map(s => [s[0], s[2]]));
const $ = id => document.getElementById(id);

// First index whose value is greater than x.
function upper(list, x, get) {
  let a = 0, b = list.length;
  while (a < b) { const m = (a + b) >> 1; if (get(list[m]) > x) b = m; else a = m + 1; }
  return a;
}

class Run {
  constructor(raw, index) {
    Object.assign(this, raw);
    this.index = index;
    this.n = this.kind.length;
    this.time = new Float64Array(this.n);
    let sum = 0;
    for (let i = 0; i < this.n; i++) this.time[i] = sum += this.dt[i];
    this.even = this.spread();
    this.effects = null;
    for (const node of this.nodes) {
      node.byRow = [];
      for (let i = 0; i < node.requests.length; i += 5) {
        const [from, to, row, failed, op] = node.requests.slice(i, i + 5);
        (node.byRow[row] ||= []).push({from, to, failed, op});
      }
      for (let row = 0; row < node.byRow.length; row++) node.byRow[row] ||= [];
    }
  }
  // A record takes room by what it is, and passing time by its logarithm.
  spread() {
    const at = new Float64Array(this.n + 1);
    let sum = 0;
    for (let i = 0; i < this.n; i++) {
      if (i > 0) {
        const micros = Math.floor((this.time[i] - this.time[i - 1]) / 1000);
        sum += (micros === 0 ? 0 : 2 + 3 * Math.floor(Math.log2(Math.max(1, Math.floor(micros / 4))))) + kinds[this.kind[i - 1]].weight;
      }
      at[i] = sum;
    }
    at[this.n] = sum + 14;
    return at;
  }
  span() { return this.n ? this.time[this.n - 1] : 1; }
  stateAt(job, i) {
    const k = upper(job.states, i, s => s[0]) - 1;
    return k >= 0 && i < job.states[k][1] ? job.states[k][2] : null;
  }
  last(list, i) { const k = upper(list, i, s => s[0]) - 1; return k < 0 ? null : list[k]; }
  inFlight(node, i) {
    const found = [];
    for (const row of node.byRow) {
      const k = upper(row, i, r => r.from) - 1;
      if (k >= 0 && i < row[k].to) found.push(row[k]);
    }
    return found;
  }
  effectsOf(i) {
    if (!this.effects) {
      this.effects = new Map();
      for (let k = 0; k < this.n; k++) {
        const c = this.cause[k];
        if (c >= 0) { const list = this.effects.get(c); if (list) list.push(k); else this.effects.set(c, [k]); }
      }
    }
    return this.effects.get(i) || [];
  }
  chain(i) {
    const found = [];
    for (let c = this.cause[i]; c >= 0 && found.length < 200; c = this.cause[c]) found.push(c);
    return found;
  }
  isFault(i) {
    const kind = kinds[this.kind[i]].name;
    return kind === 'fault' || kind === 'error' || kind === 'failed' || kind === 'bad-event';
  }
  isJobChange(i) { return this.isState(i); }
  isState(i) {
    const kind = kinds[this.kind[i]].name;
    return kind === 'status' || (!this.hasStatus && kind === 'status-event');
  }
}

const runs = data.runs.map((raw, i) => new Run(raw, i));
const millis = ns => (ns / 1e6).toFixed(6);
const size = n => { for (const [u, k] of [['G', 2 ** 30], ['M', 2 ** 20], ['K', 1024]]) if (n >= k && n % (k / 1024) === 0) return (n / k >= 10 || n % k === 0 ? Math.round(n / k) : (n / k).toFixed(1)) + u; return String(n); };
