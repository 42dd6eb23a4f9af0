//! Drives, images and targets.

use super::draw::{Draw, Part};
use super::knobs::{ClientKind, Knobs};
use crate::base::Json;
use crate::base::units::{KIB, MIB};
use crate::scenario::plan::{Backing, FileOp, ImageFormat, Qcow2Options, StepKind, WriteData};
use crate::trace::canonical;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A source of backups.
#[derive(Clone, Debug)]
pub(super) struct Drive {
    /// What commands call it: the device where it has one, or the node.
    pub name: Arc<str>,
    /// Whether `name` is a device's.
    pub is_device: bool,
    /// The node name of its root.
    pub node: Arc<str>,
    /// Node name of the blkdebug filter above its file, if it has one.
    pub debug: Option<Arc<str>>,
    pub size: u64,
    /// Images that exist for backups of it: file and format.
    pub spare: Vec<(Arc<str>, &'static str)>,
    /// Bitmaps that are believed to be there.
    pub bitmaps: Vec<Arc<str>>,
    /// Whether it can store bitmaps.
    pub stores_bitmaps: bool,
    /// Whether discards go through.
    pub unmap: bool,
    /// Its images, from the uppermost to the lowest.
    pub layers: Vec<Layer>,
}

/// An image of a chain.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Its node, where it has a name.
    pub node: Option<Arc<str>>,
    pub file: Arc<str>,
    pub format: &'static str,
}

/// A node to copy to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub node: Arc<str>,
    /// The drive that it is made for.
    pub drive: usize,
    /// How to add it; it is there from the start if `added`.
    pub options: Json,
    pub added: bool,
    /// Its image holds data of its own.
    pub is_old: bool,
    /// The number of the job that is believed to use it.
    pub job: Option<usize>,
}

/// Everything that is there before the first command.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    pub files: Vec<FileOp>,
    pub args: Vec<Arc<str>>,
    pub drives: Vec<Drive>,
    pub targets: Vec<Target>,
    /// Definitions of nodes that the program's first commands add: they have fault rules, whose events count from there.
    pub first: Vec<Json>,
    /// Some fault rule fires again and again.
    pub faults_stay: bool,
}

const SIZES: [u64; 12] = [
    64 * KIB,
    128 * KIB,
    192 * KIB,
    256 * KIB,
    320 * KIB,
    512 * KIB,
    MIB,
    MIB + 64 * KIB,
    2 * MIB,
    4 * MIB,
    100 * KIB,
    65 * KIB,
];
const CLUSTERS: [Option<u64>; 8] =
    [None, None, None, Some(4 * KIB), Some(16 * KIB), Some(128 * KIB), Some(512), Some(2 * MIB)];

impl Shape {
    pub(super) fn draw(knobs: &Knobs, seed: u64) -> Shape {
        let mut d = Draw::new(seed, Part::Shape);
        let mut faults = Draw::new(seed, Part::Faults);
        let mut traps = Draw::new(seed, Part::Traps);
        let mut shape = Shape::default();
        for number in 0..knobs.drives {
            let empty = traps.one_in(knobs.empty_disk_one_in);
            shape.drive(number, empty, knobs, &mut d, &mut faults);
        }
        for number in 0..knobs.drives {
            for _ in 0..d.range(1, 2) {
                shape.target(number, knobs, &mut d, &mut faults, &mut traps);
            }
            shape.spare_images(number, knobs, &mut d, &mut traps);
        }
        shape
    }

    fn drive(&mut self, number: usize, empty: bool, knobs: &Knobs, d: &mut Draw, faults: &mut Draw) {
        let format = d.weighted(&[(7, "qcow2"), (2, "raw"), (1, "null-co")]);
        let size = d.pick(&SIZES);
        let size = if empty { 0 } else { size };
        let node: Arc<str> = format!("n{number}").into();
        let unmap = d.one_in(2);
        let mut drive = Drive {
            name: node.clone(),
            is_device: false,
            node: node.clone(),
            debug: None,
            size,
            spare: Vec::new(),
            bitmaps: Vec::new(),
            stores_bitmaps: false,
            unmap,
            layers: Vec::new(),
        };
        if format == "null-co" {
            let mut options =
                vec![("driver", "null-co".into()), ("node-name", Json::Str(node)), ("size", Json::uint(size))];
            options.push(("read-zeroes", true.into()));
            if d.one_in(2) {
                options.push(("latency-ns", Json::uint(d.pick(&[1_000, 100_000, 2_000_000]))));
            }
            self.blockdev(&Json::dict(options));
            self.drives.push(drive);
            return;
        }
        let layers = self.images(number, format, size, knobs, d);
        let file = layers[0].file.clone();
        drive.layers = layers;
        drive.stores_bitmaps = format == "qcow2" && !matches!(self.files.iter().rev().find_map(compat), Some(false));
        let zeroes = d.one_in(8).then(|| if unmap { d.pick(&["on", "unmap"]) } else { "on" });
        if faults.one_in(knobs.faulty_drive_one_in) {
            let debug: Arc<str> = format!("dbg{number}").into();
            let mut below = vec![
                ("driver", "blkdebug".into()),
                ("node-name", Json::Str(debug.clone())),
                ("image", file_node(&file, unmap)),
            ];
            below.extend(self.rules(format, "source", faults));
            drive.debug = Some(debug);
            self.first.push(format_node(format, &node, Json::dict(below), unmap, zeroes));
            drive.layers[0].node = Some(node);
        } else if knobs.jobs_in_ten > 0 && drive.layers.len() > 1 {
            self.chain(&mut drive, unmap, zeroes, knobs, d, faults);
        } else if d.one_in(3) {
            self.blockdev(&format_node(format, &node, file_node(&file, unmap), unmap, zeroes));
            drive.layers[0].node = Some(node);
        } else {
            let mut option = format!("if=none,id=drive{number},file={file},format={format},node-name={node}");
            option.push_str(if unmap { ",discard=unmap" } else { "" });
            option.push_str(&zeroes.map(|zeroes| format!(",detect-zeroes={zeroes}")).unwrap_or_default());
            self.args.extend(["-drive".into(), option.into()]);
            (drive.name, drive.is_device) = (format!("drive{number}").into(), true);
            drive.layers[0].node = Some(node);
        }
        self.drives.push(drive);
    }

    /// The image of a drive and those below it, the uppermost first.
    fn images(&mut self, number: usize, format: &'static str, size: u64, knobs: &Knobs, d: &mut Draw) -> Vec<Layer> {
        let mut below: Option<Backing> = None;
        let mut layers = Vec::new();
        let depth = match format {
            "qcow2" if knobs.jobs_in_ten > 0 => d.range(knobs.layers.min(2), knobs.layers) - 1,
            "qcow2" if d.one_in(knobs.backing_one_in) => d.range(1, 2),
            _ => 0,
        };
        for level in (0..=depth).rev() {
            let file: Arc<str> = match level {
                0 => format!("d{number}.{format}").into(),
                level => format!("d{number}.base{level}.img").into(),
            };
            let is_raw = format == "raw" || level == depth && level > 0 && d.one_in(2);
            let own = if is_raw { ImageFormat::Raw } else { ImageFormat::Qcow2 };
            // A shorter backing file reads as zeroes behind its end.
            let size = if level > 0 && d.one_in(6) { size / 2 / 512 * 512 } else { size };
            self.create(&file, own, size, below.take(), d);
            for _ in 0..d.below(knobs.images_written_in + 1) {
                self.write(&file, own, size, d);
            }
            below = Some(Backing { file: file.clone(), format: own });
            let format = if is_raw { "raw" } else { "qcow2" };
            layers.insert(0, Layer { node: None, file, format });
        }
        layers
    }

    pub(super) fn create(
        &mut self,
        file: &Arc<str>,
        format: ImageFormat,
        size: u64,
        backing: Option<Backing>,
        d: &mut Draw,
    ) {
        let mut options = Qcow2Options::default();
        let (mut cluster_size, old, lazy) = (d.pick(&CLUSTERS), d.one_in(8), d.one_in(12));
        if cluster_size == Some(512) && size > 512 * KIB {
            cluster_size = Some(4 * KIB);
        }
        if format == ImageFormat::Qcow2 {
            options.cluster_size = cluster_size;
            options.compat_v3 = old.then_some(false);
            options.lazy_refcounts = (lazy && !old).then_some(true);
        }
        self.files.push(FileOp::Create { file: file.clone(), format, size: Some(size), options, backing });
    }

    fn write(&mut self, file: &Arc<str>, format: ImageFormat, size: u64, d: &mut Draw) {
        // Making an image costs as much as running a program on it: large writes to it show nothing that small ones do not.
        let (offset, length) = super::guest::range_of(&[512, 4 * KIB, 32 * KIB, 64 * KIB, 64 * KIB], size, d);
        let data = match d.below(8) {
            0 => WriteData::Zero,
            _ => WriteData::Pattern(d.range(1, 255) as u8),
        };
        if length > 0 {
            self.files.push(FileOp::Write { file: file.clone(), format, offset, length, data });
        }
    }

    pub(super) fn blockdev(&mut self, options: &Json) {
        self.args.extend(["-blockdev".into(), canonical::to_string(options).into()]);
    }

    fn target(&mut self, drive: usize, knobs: &Knobs, d: &mut Draw, faults: &mut Draw, traps: &mut Draw) {
        let number = self.targets.len();
        let node: Arc<str> = format!("t{number}").into();
        let size = self.drives[drive].size;
        let format = d.weighted(&[(7, "qcow2"), (3, "raw"), (1, "null-co")]);
        // The first target of a drive is there from the start.
        let added = number == 0 || !d.one_in(4);
        let mut is_old = false;
        let options = if format == "null-co" {
            Json::dict(vec![
                ("driver", "null-co".into()),
                ("node-name", Json::Str(node.clone())),
                ("size", Json::uint(size)),
                ("read-zeroes", true.into()),
            ])
        } else {
            let file: Arc<str> = format!("t{number}.{format}").into();
            let own = if format == "raw" { ImageFormat::Raw } else { ImageFormat::Qcow2 };
            self.create(&file, own, size, None, d);
            is_old = traps.one_in(knobs.old_data_one_in);
            if is_old {
                for _ in 0..traps.range(1, 2) {
                    self.write(&file, own, size, traps);
                }
            }
            let mut below = file_node(&file, false);
            let often = if knobs.late_faults_one_in == 1 { 1 } else { 2 };
            if faults.one_in(knobs.faulty_drive_one_in * often) {
                let mut debug = vec![("driver", "blkdebug".into()), ("image", below)];
                let late = traps.one_in(knobs.late_faults_one_in);
                debug.extend(if late { self.late_rules(format, traps) } else { self.rules(format, "target", faults) });
                below = Json::dict(debug);
            }
            format_node(format, &node, below, d.one_in(4), None)
        };
        if added {
            self.blockdev(&options);
        }
        self.targets.push(Target { node, drive, options, added, is_old, job: None });
    }

    /// Images for backups that name a file: an anchor, and a chain of two on it.
    fn spare_images(&mut self, drive: usize, knobs: &Knobs, d: &mut Draw, traps: &mut Draw) {
        let size = self.drives[drive].size;
        let mut below: Option<Backing> = None;
        for part in ["full", "inc0", "inc1"] {
            let file: Arc<str> = format!("b{drive}.{part}.qcow2").into();
            self.create(&file, ImageFormat::Qcow2, size, below, d);
            self.drives[drive].spare.push((file.clone(), "qcow2"));
            below = Some(Backing { file, format: ImageFormat::Qcow2 });
        }
        if traps.one_in(knobs.missing_backing_one_in) {
            let (file, _) = traps.pick(&self.drives[drive].spare[1..]);
            let backing = Some(Backing { file: "nope.qcow2".into(), format: ImageFormat::Qcow2 });
            self.files.push(FileOp::Rebase { file, backing });
        }
    }

    /// Images that no command names and no node opens are not made, nor are nodes to copy to: programs that differ in what they
    /// leave alone differ in nothing, and each image costs as much as some commands.
    pub(super) fn without_unnamed(&mut self, steps: &[StepKind]) {
        let mut named = BTreeSet::new();
        for step in steps {
            if let StepKind::Qmp { command, .. } = step {
                names_in(command, &mut named);
            }
        }
        let mut needless: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut nodes: Vec<Arc<str>> = Vec::new();
        for target in self.targets.iter().filter(|target| !named.contains(&*target.node)) {
            nodes.push(canonical::to_string(&target.options).into());
            needless.extend(file_of(&target.options));
        }
        let spare = self.drives.iter().flat_map(|drive| {
            // Each stands on the one before it.
            let used = drive.spare.iter().rposition(|(file, _)| named.contains(&**file)).map_or(0, |last| last + 1);
            &drive.spare[used..]
        });
        needless.extend(spare.map(|(file, _)| file.clone()));
        self.files.retain(|op| match op {
            FileOp::Create { file, .. } | FileOp::Write { file, .. } | FileOp::Rebase { file, .. } => {
                !needless.contains(file)
            }
            _ => true,
        });
        let args = std::mem::take(&mut self.args);
        let pairs = args.chunks(2).filter(|pair| !(&*pair[0] == "-blockdev" && nodes.contains(&pair[1])));
        self.args = pairs.flatten().cloned().collect();
    }

    /// Rules of a target that fails a while after it was flushed first, as a mirror does when it is READY.
    fn late_rules(&mut self, format: &str, d: &mut Draw) -> Vec<(&'static str, Json)> {
        let event = if format == "qcow2" { d.pick(&["write_aio", "write_aio", "l2_update"]) } else { "pwritev" };
        let once = !d.one_in(6);
        self.faults_stay |= !once;
        let rule = vec![
            ("event", event.into()),
            ("errno", Json::Int(d.pick(&[5, 5, 28]))),
            ("once", once.into()),
            ("immediately", d.one_in(2).into()),
            ("state", Json::Int(2)),
        ];
        let set = vec![("event", "flush_to_disk".into()), ("state", Json::Int(1)), ("new_state", Json::Int(2))];
        let one = |members| Json::list(vec![Json::dict(members)]);
        vec![("inject-error", one(rule)), ("set-state", one(set))]
    }

    /// Fault rules: what fails, after what, and how often.
    pub(super) fn rules(&mut self, format: &str, role: &str, d: &mut Draw) -> Vec<(&'static str, Json)> {
        let events: &[&str] = match (format, role) {
            ("qcow2", "source") => {
                &["read_aio", "read_aio", "read_aio", "write_aio", "cow_read", "flush_to_disk", "l2_load"]
            }
            ("qcow2", _) => {
                &["write_aio", "write_aio", "cluster_alloc", "l2_update", "refblock_update_part", "flush_to_disk"]
            }
            (_, "source") => &["none", "pwritev", "flush_to_disk"],
            (_, _) => &["pwritev", "pwritev", "pwritev_zero", "flush_to_disk"],
        };
        let mut inject = Vec::new();
        let armed = d.one_in(3);
        for _ in 0..d.range(1, 2) {
            let event = d.pick(events);
            let (errno, once) = (d.pick(&[5, 5, 28]), !d.one_in(4));
            self.faults_stay |= !once;
            let mut rule = vec![("event", event.into()), ("errno", Json::Int(errno)), ("once", once.into())];
            rule.push(("immediately", d.one_in(2).into()));
            if armed {
                rule.push(("state", Json::Int(2)));
            }
            if event == "none" {
                rule.push(("iotype", d.pick(&["read", "write", "flush"]).into()));
            }
            if d.one_in(4) {
                rule.push(("sector", Json::uint(d.pick(&[0, 128, 512, 640, 1024]))));
            }
            inject.push(Json::dict(rule));
        }
        let mut rules = vec![("inject-error", Json::list(inject))];
        if armed {
            let event = d.pick(&["flush_to_disk", "flush_to_disk", "write_aio"]);
            let set = vec![("event", event.into()), ("state", Json::Int(1)), ("new_state", Json::Int(2))];
            rules.push(("set-state", Json::list(vec![Json::dict(set)])));
        }
        rules
    }
}

/// All texts in a command.
fn names_in<'a>(json: &'a Json, names: &mut BTreeSet<&'a str>) {
    match json {
        Json::Str(text) => {
            names.insert(text);
        }
        Json::List(items) => items.iter().for_each(|item| names_in(item, names)),
        Json::Dict(members) => members.iter().for_each(|(_, value)| names_in(value, names)),
        _ => {}
    }
}

/// The file at the bottom of a node's definition.
fn file_of(options: &Json) -> Option<Arc<str>> {
    if let Some(Json::Str(file)) = options.get("filename") {
        return Some(file.clone());
    }
    ["file", "image"].iter().find_map(|below| file_of(options.get(below)?))
}

/// `compat` of an image that is made.
fn compat(op: &FileOp) -> Option<bool> {
    match op {
        FileOp::Create { options, .. } => Some(options.compat_v3.unwrap_or(true)),
        _ => None,
    }
}

/// The host's file below a node.
pub(super) fn file_node(file: &str, unmap: bool) -> Json {
    let mut options = vec![("driver", "file".into()), ("filename", file.into())];
    if unmap {
        options.push(("discard", "unmap".into()));
    }
    Json::dict(options)
}

pub(super) fn format_node(format: &str, node: &Arc<str>, below: Json, unmap: bool, zeroes: Option<&str>) -> Json {
    let mut options = vec![("driver", format.into()), ("node-name", Json::Str(node.clone()))];
    if unmap {
        options.push(("discard", "unmap".into()));
    }
    if let Some(zeroes) = zeroes {
        options.push(("detect-zeroes", zeroes.into()));
    }
    options.push(("file", below));
    Json::dict(options)
}

/// Whether a program of this kind may do without waiting.
pub(super) fn waits(kind: ClientKind) -> bool {
    kind != ClientKind::Racing
}
