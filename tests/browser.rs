//! The page in a browser: opened in headless Chromium, hovered, clicked, zoomed, stepped by keyboard and slider, in light and dark,
//! and held against stored pictures within a tolerance.
//!
//! Where there is no Chromium the tests are skipped, and reported as skipped. `BLOCKJOB_SIM_PICTURES=new cargo test --test browser` stores pictures anew.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;
#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::base::Json;
use blockjob_sim::base::time;
use blockjob_sim::render::html;
use blockjob_sim::render::read::{RecKind, ShownRun};
use blockjob_sim::trace::{Level, canonical};
use common::{case, path, run};
use harness::{Tool, needing, trials};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

/// How far a picture may be from the stored one: the mean difference of a channel, of 255. Fonts differ from machine to machine.
const TOLERANCE: f64 = 8.0;
const SIZE: (u32, u32) = (1280, 860);

fn main() -> ExitCode {
    let mut all = needing(
        Tool::Chromium,
        trials![the_page_works, two_runs_beside_each_other, a_hundred_thousand_records_stay_usable],
    );
    all.extend(trials![base64_both_ways]);
    harness::main(all)
}

fn chromium() -> PathBuf {
    Tool::Chromium.found().expect("Chromium (apt-get install chromium)")
}

/// A browser with one page, driven over the DevTools protocol.
struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: String,
    next: u64,
    /// Errors that the page told of.
    errors: Vec<String>,
    _profile: tempfile::TempDir,
    dir: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    fn start(program: PathBuf) -> Browser {
        let profile = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={},{}", SIZE.0, SIZE.1))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Chromium starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its messages")).lines();
        let address = loop {
            let line = lines.next().expect("Chromium says where it listens").expect("text");
            if let Some((_, address)) = line.split_once("DevTools listening on ") {
                break address.trim().to_owned();
            }
        };
        // What else it says must be read, or it may block.
        std::thread::spawn(move || lines.for_each(drop));
        let (socket, _) = tungstenite::connect(&address).expect("the DevTools socket");
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let mut browser =
            Browser { child, socket, session: String::new(), next: 0, errors: Vec::new(), _profile: profile, dir };
        let targets = browser.call("Target.getTargets", "{}");
        let list = targets.get("targetInfos").and_then(Json::as_list).expect("targets").to_vec();
        let page = list.iter().find(|t| t.get("type").and_then(Json::as_str) == Some("page")).expect("a page");
        let id = page.get("targetId").and_then(Json::as_str).expect("its id").to_owned();
        let attached = browser.call("Target.attachToTarget", &format!("{{\"targetId\": \"{id}\", \"flatten\": true}}"));
        browser.session = attached.get("sessionId").and_then(Json::as_str).expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), "{}");
        }
        let (width, height) = SIZE;
        let metrics =
            format!("{{\"width\": {width}, \"height\": {height}, \"deviceScaleFactor\": 1, \"mobile\": false}}");
        browser.call("Emulation.setDeviceMetricsOverride", &metrics);
        browser
    }

    fn call(&mut self, method: &str, parameters: &str) -> Json {
        self.next += 1;
        let id = self.next;
        let session =
            if self.session.is_empty() { String::new() } else { format!("\"sessionId\": \"{}\", ", self.session) };
        let text = format!("{{\"id\": {id}, {session}\"method\": \"{method}\", \"params\": {parameters}}}");
        self.socket.send(Message::text(text)).expect("it listens");
        loop {
            let message = self.socket.read().unwrap_or_else(|error| panic!("{method}: {error}"));
            let Message::Text(text) = message else { continue };
            let value = canonical::parse(&text).expect("JSON");
            if value.get("id").and_then(Json::as_u64) == Some(id) {
                assert!(value.get("error").is_none(), "{method}: {text}");
                return value.get("result").cloned().unwrap_or_else(Json::empty);
            }
            let event = value.get("method").and_then(Json::as_str).unwrap_or_default().to_owned();
            let is_error = match &*event {
                "Runtime.exceptionThrown" => true,
                "Log.entryAdded" => text.contains("\"level\":\"error\"") || text.contains("\"level\":\"warning\""),
                "Runtime.consoleAPICalled" => text.contains("\"type\":\"error\""),
                _ => false,
            };
            if is_error {
                self.errors.push(text.to_string());
            }
        }
    }

    /// The value of an expression, as text.
    fn value(&mut self, expression: &str) -> String {
        let mut quoted = String::new();
        canonical::write_str(expression, &mut quoted);
        let result = self.call(
            "Runtime.evaluate",
            &format!("{{\"expression\": {quoted}, \"returnByValue\": true, \"awaitPromise\": true}}"),
        );
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {}", canonical::to_string(&result));
        match result.get("result").and_then(|r| r.get("value")) {
            Some(Json::Str(text)) => text.to_string(),
            Some(other) => canonical::to_string(other),
            None => String::new(),
        }
    }

    /// Seconds that the page's thread had a processor.
    fn busy(&mut self) -> f64 {
        let metrics = self.call("Performance.getMetrics", "{}");
        let list = metrics.get("metrics").and_then(Json::as_list).expect("metrics").to_vec();
        let is = |metric: &&Json| metric.get("name").and_then(Json::as_str) == Some("TaskDuration");
        let value = list.iter().find(is).and_then(|metric| metric.get("value")).expect("a metric");
        canonical::to_string(value).parse().expect("a number")
    }

    /// Opens a page and waits until it has painted. Milliseconds that took.
    fn open(&mut self, page: &str) -> u64 {
        let file = self.dir.path().join("page.html");
        fs::write(&file, page).expect("a file");
        self.call("Page.navigate", &format!("{{\"url\": \"file://{}\"}}", file.display()));
        let start = Instant::now();
        loop {
            let painted = self.value("document.documentElement?.dataset.painted || ''");
            if let Ok(painted) = painted.parse() {
                return painted;
            }
            assert!(start.elapsed() < Duration::from_secs(50), "the page never painted; {:?}", self.errors);
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn mouse(&mut self, kind: &str, x: f64, y: f64, more: &str) {
        let text = format!("{{\"type\": \"{kind}\", \"x\": {x}, \"y\": {y}{more}}}");
        self.call("Input.dispatchMouseEvent", &text);
    }

    fn click(&mut self, x: f64, y: f64) {
        for kind in ["mousePressed", "mouseReleased"] {
            let buttons = u8::from(kind == "mousePressed");
            self.mouse(kind, x, y, &format!(", \"button\": \"left\", \"buttons\": {buttons}, \"clickCount\": 1"));
        }
    }

    fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", &format!("{{\"type\": \"{kind}\", \"key\": \"{key}\"}}"));
        }
    }

    /// Waits for the next frame.
    fn settle(&mut self) {
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))");
    }

    fn colours(&mut self, scheme: &str) {
        let feature = format!("{{\"features\": [{{\"name\": \"prefers-color-scheme\", \"value\": \"{scheme}\"}}]}}");
        self.call("Emulation.setEmulatedMedia", &feature);
    }

    /// Holds what is shown against a stored picture.
    fn picture(&mut self, name: &str) {
        self.settle();
        let shot = self.call("Page.captureScreenshot", "{\"format\": \"png\"}");
        let shot = shot.get("data").and_then(Json::as_str).expect("a picture").to_owned();
        let file = path(&format!("tests/data/page/{name}.png"));
        if std::env::var_os("BLOCKJOB_SIM_PICTURES").is_some() {
            fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
            fs::write(&file, from_base64(&shot)).expect("a file");
            return;
        }
        let stored = to_base64(&fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        let script = format!(
            "(async () => {{ const load = async d => {{ const i = new Image(); i.src = 'data:image/png;base64,' + d; await i.decode(); \
             const c = new OffscreenCanvas(i.width, i.height); const g = c.getContext('2d'); g.drawImage(i, 0, 0); \
             return g.getImageData(0, 0, i.width, i.height); }}; const a = await load('{shot}'), b = await load('{stored}'); \
             if (a.width !== b.width || a.height !== b.height) return 255; let s = 0; \
             for (let i = 0; i < a.data.length; i++) s += Math.abs(a.data[i] - b.data[i]); return s / a.data.length * 4 / 3; }})()"
        );
        let difference: f64 = self.value(&script).parse().expect("a number");
        if difference > TOLERANCE {
            let seen = std::env::temp_dir().join(format!("blockjob-sim-{name}.png"));
            fs::write(&seen, from_base64(&shot)).expect("a file");
            panic!("{name}: differs by {difference:.2} of 255; what was seen is in {}", seen.display());
        }
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let word = part.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let digit = DIGITS[((word >> (18 - 6 * i)) & 63) as usize];
            out.push(if i <= part.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn from_base64(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for part in text.as_bytes().chunks(4) {
        let value = |c: &u8| DIGITS.iter().position(|digit| digit == c).unwrap_or(0) as u32;
        let word = part.iter().fold(0_u32, |word, c| (word << 6) | value(c));
        let bytes = 3 - part.iter().filter(|c| **c == b'=').count();
        out.extend_from_slice(&word.to_be_bytes()[1..=bytes]);
    }
    out
}

fn race(seed: Option<u64>) -> ShownRun {
    let plan = case("transaction-failure-race");
    let schedule = seed.map_or("calm".to_owned(), |seed| format!("seed {seed}"));
    let mut source = ShownRun::of_trace("transaction-failure-race", &schedule, &run(&plan, seed, Level::Io).trace);
    source.outcome = Some("passed".to_owned());
    source
}

fn base64_both_ways() {
    for text in ["", "a", "ab", "abc", "abcd"] {
        assert_eq!(from_base64(&to_base64(text.as_bytes())), text.as_bytes());
    }
    assert_eq!(to_base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
}

fn the_page_works() {
    let mut browser = Browser::start(chromium());
    let source = race(None);
    let start =
        source.records.iter().position(|r| matches!(r.kind, RecKind::Note { .. }) && r.kind.line() == "mark: start");
    browser.colours("light");
    browser.open(&html::draw(&source, None, start));
    browser.picture("race-light");

    // Hovering over a job's band tells of the record there; leaving takes it away.
    let lane = "view.lanes.find(l => l.type === 'job')";
    let y: f64 =
        browser.value(&format!("{lane}.y + 16 - view.top + canvas.getBoundingClientRect().top")).parse().unwrap();
    let waiting = source
        .records
        .iter()
        .position(|r| r.kind.line() == "drive0: running → waiting" && r.time > time::Instant::from_nanos(15_000_000))
        .unwrap();
    let x: f64 =
        browser.value(&format!("xOf(runs[0], {waiting}) + 6 + canvas.getBoundingClientRect().left")).parse().unwrap();
    browser.mouse("mouseMoved", x, y, "");
    assert_eq!(browser.value("$('tip').hidden"), "false");
    assert!(browser.value("$('tip').textContent").contains("running → waiting"));

    // A click selects it, shows what led to it, and moves the slider there.
    browser.click(x, y);
    browser.settle();
    assert_eq!(browser.value("view.at"), waiting.to_string());
    assert_eq!(browser.value("$('slider').value"), waiting.to_string());
    assert!(browser.value("document.querySelectorAll('.chain .cause').length").parse::<u32>().unwrap() > 0);
    assert!(browser.value("$('jobs').textContent").contains("waiting"));
    assert!(browser.value("$('side').textContent").contains("Groups"));

    // Back along the causes, and forth to the next fault by keyboard.
    browser.key("c");
    assert!(browser.value("view.at").parse::<usize>().unwrap() < waiting);
    browser.key("Home");
    browser.key("f");
    let line = browser.value("runs[0].line[view.at]");
    assert!(line.contains("fault by rule"), "{line}");
    browser.key("ArrowRight");
    browser.key("ArrowLeft");
    assert_eq!(browser.value("runs[0].line[view.at]"), line);

    // Zooming by wheel and keyboard keeps what is under the pointer where it is; panning moves.
    let width = |browser: &mut Browser| browser.value("view.to - view.from").parse::<f64>().unwrap();
    let before = width(&mut browser);
    let under: f64 = browser.value(&format!("toU({x} - canvas.getBoundingClientRect().left)")).parse().unwrap();
    browser.mouse("mouseWheel", x, y, ", \"deltaX\": 0, \"deltaY\": -200");
    browser.settle();
    let zoomed = width(&mut browser);
    assert!(zoomed < before * 0.95, "{before} to {zoomed}");
    let now: f64 = browser.value(&format!("toU({x} - canvas.getBoundingClientRect().left)")).parse().unwrap();
    assert!((now - under).abs() < zoomed / 100.0, "{under} became {now}");
    browser.key("+");
    assert!(width(&mut browser) < zoomed);

    // Dragging to the left moves on in the run, and is no click.
    let from: f64 = browser.value("view.from").parse().unwrap();
    let at = browser.value("view.at");
    browser.mouse("mousePressed", x, y, ", \"button\": \"left\", \"buttons\": 1, \"clickCount\": 1");
    browser.mouse("mouseMoved", x - 60.0, y, ", \"button\": \"left\", \"buttons\": 1");
    browser.mouse("mouseReleased", x - 60.0, y, ", \"button\": \"left\", \"clickCount\": 1");
    browser.settle();
    assert!(browser.value("view.from").parse::<f64>().unwrap() > from);
    assert_eq!(browser.value("view.at"), at);
    browser.key("0");
    assert!((width(&mut browser) - browser.value("extent()").parse::<f64>().unwrap()).abs() < 1.0);

    // The slider steps, and the side follows.
    browser.value("$('slider').value = runs[0].n - 1; $('slider').dispatchEvent(new Event('input'))");
    assert!(browser.value("$('side').textContent").contains("Bitmaps"));
    assert_eq!(browser.value("document.querySelector('#jobs')"), "null", "no job is left at the end");

    // True time, and finding.
    browser.key("t");
    assert_eq!(browser.value("view.mode"), "time");
    browser.settle();
    browser.key("t");
    browser.value("$('find').value = 'BLOCK_JOB_CANCELLED'; $('find').dispatchEvent(new Event('input'))");
    assert!(browser.value("runs[0].line[view.at]").contains("BLOCK_JOB_CANCELLED"));

    browser.colours("dark");
    browser.open(&html::draw(&source, None, start));
    browser.key("f");
    browser.picture("race-dark");
    assert!(browser.errors.is_empty(), "{:?}", browser.errors);
}

fn two_runs_beside_each_other() {
    let mut browser = Browser::start(chromium());
    let (a, b) = (race(None), race(Some(3)));
    let difference = html::difference(&a, &b).expect("they differ");
    browser.colours("light");
    browser.open(&html::draw(&a, Some(&b), None));
    browser.key("n");
    assert_eq!(browser.value("view.at"), difference.at[0].min(a.records.len() - 1).to_string());
    assert!(browser.value("document.querySelector('.difference').textContent").contains("first"));
    assert_eq!(browser.value("view.lanes.filter(l => l.type === 'client').length"), "2");
    browser.picture("two-runs");
    assert!(browser.errors.is_empty(), "{:?}", browser.errors);
}

fn a_hundred_thousand_records_stay_usable() {
    let mut browser = Browser::start(chromium());
    // A long run, made from a short one: it happens again and again.
    let one = race(None);
    let mut long = ShownRun { title: "long".to_owned(), ..ShownRun::default() };
    let end = one.records.last().unwrap().time - time::Instant::START;
    for round in 0.. {
        if long.records.len() >= 100_000 {
            break;
        }
        let first = long.records.len();
        long.records.extend(one.records.iter().cloned().map(|mut record| {
            record.time += end * round;
            record.cause = record.cause.map(|cause| cause + first);
            record
        }));
    }
    let page = html::draw(&long, None, None);
    // What counts is the time that the page takes, not what others do on the machine meanwhile.
    browser.call("Performance.enable", "{\"timeDomain\": \"threadTicks\"}");
    let before = browser.busy();
    let painted = browser.open(&page);
    let busy = browser.busy();
    let busy = if busy < before { busy } else { busy - before };
    eprintln!(
        "{} records, {} bytes, first paint after {painted} ms, {busy:.3} s of them its own",
        long.records.len(),
        page.len()
    );
    assert!(busy < 2.0, "first paint after {busy} s");
    // A step and a zoom take less than a tenth of a second each, on the whole.
    let before = browser.busy();
    browser.value("(() => { for (let i = 0; i < 10; i++) { go(i * 9000); zoom(.8); draw(); } return 1; })()");
    let took = (browser.busy() - before) * 100.0;
    eprintln!("a step with a zoom takes {took:.1} ms");
    assert!(took < 300.0, "a step takes {took} ms");
    assert!(browser.errors.is_empty(), "{:?}", browser.errors);
}
