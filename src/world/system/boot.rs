//! Starting and ending the process: the block options of its command line, and shutdown.

use super::machine::Device;
use crate::base::Json;
use crate::block::accounting::Accounting;
use crate::block::throttle::Limits;
use crate::qmp::drive::{DriveOptions, split_options};
use crate::qmp::error::QmpError;
use crate::qmp::json::parse_one;
use crate::qmp::keyval::parse_keyval;
use crate::qmp::types::{AioOption, BlockdevOptions, ObjectOptions};
use crate::qmp::visit::{InputVisitor, ValueAt};
use crate::world::World;
use crate::world::aio::stack::Between;
use crate::world::arena::BackendId;
use crate::world::arena::NodeId;
use crate::world::block::backend::BackendFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::OpenFlags;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::block::open::unsupported;
use crate::world::block::perms::perm;
use crate::world::blockdev::add_del::BlockdevFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::out::Output;
use crate::world::value::Val;
use std::sync::Arc;

/// Where a drive belongs; its unit among those of virtio, or of no bus; and the name that it gets if it has none.
type PlacedDrive = (DrivePlace, Option<(bool, u64)>, Arc<str>);

/// Where a drive of the command line belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DrivePlace {
    /// `if=none`: a device of the command line takes it.
    None,
    /// A disk of the machine's own IDE bus.
    OnBoard {
        /// `media=cdrom`
        cdrom: bool,
    },
    /// A device of its own.
    Virtio,
    /// One of the two drives of the machine's own floppy controller.
    Floppy {
        /// Which.
        unit: u64,
    },
}

/// The type that `-machine` names, if it names one.
fn machine_type(text: &str) -> Option<Arc<str>> {
    let first = text.split(',').next().unwrap_or_default();
    match first.split_once('=') {
        Some(("type", kind)) => Some(kind.into()),
        Some(_) => None,
        None => Some(first.into()),
    }
}

/// The options of a device, as JSON or as `MODEL,key=value,…`.
pub(in crate::world) fn device_options(text: &str) -> Result<Json, QmpError> {
    if text.starts_with('{') {
        return parse_one(text);
    }
    let mut options = split_options(text);
    let bare = text.split([',', '=']).next().unwrap_or_default();
    if let Some(first) = options.first_mut()
        && !text[bare.len()..].starts_with('=')
    {
        *first = ("driver".to_owned(), bare.to_owned());
    }
    let members = options.into_iter().map(|(key, value)| (Arc::from(key), Json::str(&value)));
    Ok(Json::Dict(Arc::new(members.collect())))
}

/// What is said of options that name neither.
pub(in crate::world) const NOTHING_TO_OPEN: &str = "Must specify either driver or file";

/// A drive whose medium is still to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriveBegun {
    /// Its backend, without a name.
    pub blk: BackendId,
    /// Where it belongs.
    pub place: DrivePlace,
    /// What to open; `None`: it stays without a medium.
    pub spec: Option<Arc<OpenSpec>>,
    id: Arc<str>,
    limits: Limits,
    group: Option<Arc<str>>,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BootFrame {
    DriveOpened { blk: BackendId },
}

impl BootFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BootFrame::DriveOpened { blk } => w.drive_opened(blk),
        }
    }
}

impl World {
    /// Carries out the block options of a command line, as QEMU does before it listens to anybody: every `-blockdev`, then every
    /// `-drive`, then every `-device`, which attaches a guest device to a drive.
    ///
    /// # Errors
    /// The option that is wrong, with what QEMU says about it.
    pub fn boot(&mut self, args: &[Arc<str>]) -> Result<(), String> {
        let booted = self.boot_with(args, &mut |_| false);
        self.out.clear();
        booted
    }

    /// [`World::boot`]; `between` is called before each step, to bring files of the real host in, and what servers of it send. What it
    /// prints stays in [`World::out`].
    ///
    /// # Errors
    /// As [`World::boot`].
    pub fn boot_with(&mut self, args: &[Arc<str>], between: &mut dyn FnMut(&mut World) -> bool) -> Result<(), String> {
        let mut found = Vec::new();
        let mut args = args.iter();
        while let Some(option) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{option}: requires an argument"));
            match &**option {
                "-blockdev" | "-drive" | "-device" | "-object" => found.push((&**option, value()?)),
                "-machine" | "-M" => {
                    let value = value()?;
                    self.machine.kind = machine_type(value).or(self.machine.kind.take());
                    Arc::make_mut(&mut self.machine.board).option(option, value)?;
                }
                "-accel" | "-cpu" | "-display" | "-m" | "-smp" | "-spice" | "-vnc" => {
                    Arc::make_mut(&mut self.machine.board).option(option, value()?)?;
                }
                "-nodefaults" | "-S" => {}
                other => return Err(format!("{other}: invalid option")),
            }
        }
        let of = |kind: &'static str| found.iter().filter(move |(option, _)| *option == kind).map(|(_, value)| *value);
        for value in of("-object") {
            self.add_object(value, true).map_err(|err| format!("-object {value}: {err}"))?;
        }
        for value in of("-blockdev") {
            let from = self.out.len();
            let opened = self.boot_blockdev(value, between);
            self.reports_of("-blockdev", value, from);
            opened.map_err(|err| format!("-blockdev {value}: {}", self.with_hint(err, value)))?;
        }
        // `if=virtio` stands for a `-device` behind all others.
        let mut implied = Vec::new();
        let mut floppies = Vec::new();
        let is_floppy = |value: &&Arc<str>| split_options(value).iter().any(|(key, to)| key == "if" && to == "floppy");
        let drives = of("-drive").filter(is_floppy).count() as u64;
        for value in of("-drive") {
            let from = self.out.len();
            let opened = self.boot_drive(value, between);
            self.reports_of("-drive", value, from);
            let attached = opened.and_then(|(blk, place)| match place {
                DrivePlace::None => Ok(()),
                DrivePlace::OnBoard { cdrom } => {
                    if !cdrom {
                        self.boot_look(&Device::new("ide-hd".into()), blk, between);
                    }
                    self.attach_on_board(blk, cdrom, drives)
                }
                DrivePlace::Virtio => {
                    implied.push(blk);
                    Ok(())
                }
                DrivePlace::Floppy { unit } => {
                    floppies.push((unit, blk));
                    Ok(())
                }
            });
            attached.map_err(|err| format!("-drive {value}: {}", self.with_hint(err, value)))?;
        }
        floppies.sort_unstable();
        for (n, (_, blk)) in (0..).zip(floppies) {
            self.attach_floppy(blk, n)?;
        }
        for value in of("-device") {
            let attached = self.boot_device(value, between);
            attached.map_err(|err| format!("-device {value}: {}", self.with_hint(err, value)))?;
        }
        for blk in implied {
            let device = Device::new("virtio-blk".into());
            self.boot_look(&device, blk, between);
            self.device_attach(device, Some(blk))?;
        }
        self.set_clock(crate::base::time::Instant::START);
        Ok(())
    }

    fn with_hint(&self, text: String, said: &str) -> String {
        match self.lock_hint(&text, said) {
            Some(hint) => format!("{text}\n{hint}"),
            None => text,
        }
    }

    /// Messages since `from` begin with the option that is being read (`print_loc`).
    fn reports_of(&mut self, option: &str, value: &str, from: usize) {
        for output in self.out.iter_mut().skip(from) {
            if let Output::Report(text) = output {
                *text = format!("{option} {value}: {text}").into();
            }
        }
    }

    fn boot_blockdev(&mut self, text: &str, between: Between<'_>) -> Result<(), String> {
        let options = BlockdevOptions::from_option(text, self.quirks.version()).map_err(|err| err.desc.to_string())?;
        if options.node_name.is_none() {
            return Err("'node-name' must be specified for the root node".to_owned());
        }
        let spec = Arc::new(OpenSpec::from_options(&options, None));
        match self.run_to_end(vec![OpenFrame::BdrvOpen(spec).into(), BlockdevFrame::BlockdevAdded.into()], between) {
            Val::Done(done) => done.map_err(|err| err.desc.to_string()),
            other => unreachable!("blockdev-add ends with {other:?}"),
        }
    }

    /// `drive_new`: the backend, and where it belongs.
    fn boot_drive(&mut self, text: &str, between: Between<'_>) -> Result<(BackendId, DrivePlace), String> {
        let drive = self.drive_begun(text)?;
        if let Some(spec) = &drive.spec {
            let frames =
                vec![OpenFrame::BdrvOpen(spec.clone()).into(), BootFrame::DriveOpened { blk: drive.blk }.into()];
            match self.run_to_end(frames, between) {
                Val::Done(done) => done.map_err(|err| err.desc.to_string())?,
                other => unreachable!("-drive ends with {other:?}"),
            }
        }
        self.drive_named(&drive)?;
        Ok((drive.blk, drive.place))
    }

    /// `drive_new`, up to where the medium is opened: the backend, and where it belongs.
    ///
    /// # Errors
    /// What is wrong with the options.
    pub(in crate::world) fn drive_begun(&mut self, text: &str) -> Result<DriveBegun, String> {
        let drive = DriveOptions::parse(text).map_err(|err| err.desc.to_string())?;
        let (place, unit, name) = self.drive_place(&drive)?;
        let id = drive.id.clone().unwrap_or(name);
        if self.graph.blk_by_name(&id).is_some() {
            return Err(format!("Duplicate ID '{id}' for drive"));
        }
        let has_medium = drive.file.is_some() || drive.node.as_dict().is_some_and(|options| !options.is_empty());
        if let Some(name) = unsupported::drive_option(&drive) {
            return Err(format!("not simulated: {name}"));
        }
        if has_medium && !drive.open_something() {
            return Err(NOTHING_TO_OPEN.to_owned());
        }
        let (rdwr, copy_on_read) = (!drive.read_only, drive.copy_on_read);
        let flags = OpenFlags { rdwr, copy_on_read, ..OpenFlags::default() };
        let limits = crate::world::blockdev::throttle::drive_limits(&drive.throttling)?;
        let spec = if has_medium {
            let mut spec = OpenSpec::from_drive(&drive, flags).map_err(|err| err.desc.to_string())?;
            if drive.aio == Some(AioOption::Native) {
                spec.access_natively();
            }
            Some(Arc::new(spec))
        } else {
            None
        };
        let blk = self.blk_new("".into(), perm::CONSISTENT_READ, perm::ALL);
        self.graph.backends[blk].drive_unit = unit;
        self.graph.backends[blk].write_cache = drive.writeback;
        let [account_invalid, account_failed] = drive.account;
        self.graph.backends[blk].stats = Accounting::new(account_invalid, account_failed).into();
        self.graph.backends[blk].last_flags = flags;
        Ok(DriveBegun { blk, place, id, spec, limits, group: drive.throttling_group })
    }

    /// The end of `drive_new`: `monitor_add_blk`, and the limits.
    ///
    /// # Errors
    /// What stands in the way.
    pub(in crate::world) fn drive_named(&mut self, drive: &DriveBegun) -> Result<(), String> {
        if self.graph.find_node(&drive.id).is_some() {
            return Err(format!("Device name '{}' conflicts with an existing node name", drive.id));
        }
        self.graph.backends[drive.blk].name = drive.id.clone();
        if drive.limits.enabled() {
            self.set_drive_limits(drive.blk, drive.limits, drive.group.as_ref()).map_err(|err| err.desc.to_string())?;
        }
        Ok(())
    }

    /// Which bus a drive goes to, its unit there, and the name it gets there if it has none.
    fn drive_place(&self, drive: &DriveOptions) -> Result<PlacedDrive, String> {
        let interface = match &drive.interface {
            Some(interface) => interface.clone(),
            None if self.machine.is_pc() => "ide".into(),
            None => "none".into(),
        };
        let taken = |name: &str| self.graph.backends.iter().any(|(_, b)| *b.name == *name);
        let [bus, unit, index] = drive.place;
        match &*interface {
            "ide" => {
                let units = if self.machine.is_q35() { 1 } else { 2 };
                let at = |n: u64, kind: &str| format!("ide{}-{kind}{}", n / units, n % units);
                let free = |n: &u64| !taken(&at(*n, "hd")) && !taken(&at(*n, "cd"));
                let given = index.or_else(|| Some(bus.unwrap_or(0).saturating_mul(units).saturating_add(unit?)));
                let place = given.or_else(|| (0..).find(free)).unwrap_or(0);
                if given.is_some() && !free(&place) {
                    let (bus, unit) = (place / units, place % units);
                    return Err(format!("drive with bus={bus}, unit={unit} (index={place}) exists"));
                }
                let kind = if drive.cdrom { "cd" } else { "hd" };
                Ok((DrivePlace::OnBoard { cdrom: drive.cdrom }, None, at(place, kind).into()))
            }
            "virtio" | "none" => {
                let virtio = &*interface == "virtio";
                let free = |n: &u64| self.graph.backends.iter().all(|(_, b)| b.drive_unit != Some((virtio, *n)));
                let place = index.or(unit).or_else(|| (0..).find(free)).unwrap_or(0);
                if !free(&place) {
                    let index = index.map_or("-1".to_owned(), |index| index.to_string());
                    return Err(format!("drive with bus=0, unit={place} (index={index}) exists"));
                }
                let place_of = if virtio { DrivePlace::Virtio } else { DrivePlace::None };
                Ok((place_of, Some((virtio, place)), format!("{interface}{place}").into()))
            }
            "floppy" if self.machine.is_pc() => {
                let free = |n: &u64| !taken(&format!("floppy{n}"));
                let place = index.or(unit).or_else(|| (0..).find(free)).unwrap_or(0);
                let bus = bus.unwrap_or(0);
                if bus > 0 || place > 1 {
                    return Err(format!("machine type does not support if=floppy,bus={bus},unit={place}"));
                }
                if !free(&place) {
                    return Err(format!("drive with bus=0, unit={place} (index={place}) exists"));
                }
                Ok((DrivePlace::Floppy { unit: place }, None, format!("floppy{place}").into()))
            }
            "pflash" => Err(format!("not simulated: if={interface}")),
            other => {
                let (bus, unit) = (bus.unwrap_or(0), unit.or(index).unwrap_or(0));
                Err(format!("machine type does not support if={other},bus={bus},unit={unit}"))
            }
        }
    }

    /// `blk_new_open`, after the node was opened. Leaves `Val::Done`.
    fn drive_opened(&mut self, blk: BackendId) -> Flow {
        let opened: Result<NodeId, QmpError> = self.take();
        match opened {
            Err(err) => {
                self.graph.backends.remove(blk);
                self.ret(Val::Done(Err(err)))
            }
            Ok(bs) => self.seq([
                BackendFrame::BlkInsertBs(blk, bs).into(),
                Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(bs).into())),
            ]),
        }
    }

    /// `user_creatable_add_from_str`; with `unique`, as the command line has it, where ids are looked at first.
    pub(in crate::world) fn add_object(&mut self, text: &str, unique: bool) -> Result<(), String> {
        let json = text.starts_with('{');
        let options = if json { parse_one(text) } else { parse_keyval(text, Some("qom-type")) };
        let done = options.and_then(|options| {
            let object = ObjectOptions::visit(ValueAt::root(
                &options,
                if json { InputVisitor::Json } else { InputVisitor::Keyval },
                self.quirks.version(),
            ))?;
            if unique && self.machine.object(&object.id).is_some() {
                return Err(QmpError::generic(format!("Duplicate ID '{}' for object", object.id)));
            }
            self.object_add(&object)
        });
        done.map_err(|err| {
            let unexpected = err.desc.strip_prefix("Parameter '").and_then(|rest| rest.strip_suffix("' is unexpected"));
            match unexpected.filter(|_| !json) {
                Some(key) => format!("Invalid parameter '{key}'"),
                None => err.desc.to_string(),
            }
        })
    }

    fn boot_device(&mut self, text: &str, between: Between<'_>) -> Result<(), String> {
        let options = device_options(text).map_err(|err| err.desc.to_string())?;
        if let Some(id) = options.get("id").and_then(Json::as_str).filter(|id| self.machine.device(id).is_some()) {
            return Err(format!("Duplicate ID '{id}' for device"));
        }
        let (device, drive) = self.device_new(&options, !text.starts_with('{'))?;
        let Some(drive) = drive else { return self.device_attach(device, None) };
        if let Some(blk) = self.graph.blk_by_name(&drive) {
            self.boot_look(&device, blk, between);
            return self.device_attach(device, Some(blk));
        }
        let bs = self.graph.find_node(&drive).expect("it was there when the device was looked at");
        let blk = self.blk_new("".into(), 0, perm::ALL);
        match self.run_to_end(vec![BackendFrame::BlkInsertBs(blk, bs).into()], between) {
            Val::Done(done) => done.map_err(|err| err.desc.to_string())?,
            other => unreachable!("attaching ends with {other:?}"),
        }
        self.boot_look(&device, blk, between);
        self.device_attach(device, Some(blk))
    }

    /// A device looks at its disk. Where it is refused then, the process ends.
    fn boot_look(&mut self, device: &Device, blk: BackendId, between: Between<'_>) {
        if let Some(look) = self.first_look(device, blk) {
            self.run_to_end(vec![look], between);
        }
    }
}
