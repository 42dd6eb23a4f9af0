//! Starting and ending the process: the block options of its command line, and shutdown.

use super::World;
use super::arena::BackendId;
use super::frame::{Flow, Frame};
use super::graph::{OpenFlags, perm};
use super::lacking;
use super::spec::OpenSpec;
use super::value::Val;
use crate::choice::Calm;
use crate::qmp::drive::DriveOptions;
use crate::qmp::types::BlockdevOptions;
use std::sync::Arc;

impl World {
    /// Carries out the block options of a command line, as QEMU does before it listens to anybody: every `-blockdev`, then every
    /// `-drive`, then every `-device`, which attaches a guest device to a drive.
    ///
    /// # Errors
    /// The option that is wrong, with what QEMU says about it.
    pub fn boot(&mut self, args: &[Arc<str>]) -> Result<(), String> {
        self.boot_with(args, &mut |_| {})
    }

    /// [`World::boot`]; `between` is called before each step, to bring files of the real host in.
    ///
    /// # Errors
    /// As [`World::boot`].
    pub fn boot_with(&mut self, args: &[Arc<str>], between: &mut dyn FnMut(&mut World)) -> Result<(), String> {
        let mut found = Vec::new();
        let mut args = args.iter();
        while let Some(option) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{option}: requires an argument"));
            match &**option {
                "-blockdev" | "-drive" | "-device" => found.push((&**option, value()?)),
                "-machine" | "-M" | "-accel" | "-display" => drop(value()?),
                "-nodefaults" | "-S" => {}
                other => return Err(format!("{other}: invalid option")),
            }
        }
        let of = |kind: &'static str| found.iter().filter(move |(option, _)| *option == kind).map(|(_, value)| *value);
        for value in of("-blockdev") {
            self.boot_blockdev(value, between).map_err(|err| format!("-blockdev {value}: {err}"))?;
        }
        // `if=virtio` stands for a `-device` behind all others.
        let mut implied = Vec::new();
        for value in of("-drive") {
            implied.extend(self.boot_drive(value, between).map_err(|err| format!("-drive {value}: {err}"))?);
        }
        for value in of("-device") {
            self.boot_device(value, between).map_err(|err| format!("-device {value}: {err}"))?;
        }
        for blk in implied {
            self.attach_device(blk, "virtio-blk", "")?;
        }
        self.now = 0;
        self.out.clear();
        Ok(())
    }

    /// Runs main-thread frames until they are done.
    fn boot_run(&mut self, frames: Vec<Frame>, between: &mut dyn FnMut(&mut World)) -> Val {
        self.stack.push(Frame::Idle);
        self.stack.extend(frames.into_iter().rev());
        while self.stack.last() != Some(&Frame::Idle) {
            between(self);
            self.step(&mut Calm);
        }
        self.stack.pop();
        std::mem::take(&mut self.reg)
    }

    fn boot_blockdev(&mut self, text: &str, between: &mut dyn FnMut(&mut World)) -> Result<(), String> {
        let options = BlockdevOptions::from_option(text).map_err(|err| err.desc.to_string())?;
        if options.node_name.is_none() {
            return Err("'node-name' must be specified for the root node".to_owned());
        }
        let spec = Arc::new(OpenSpec::from_options(&options, None));
        match self.boot_run(vec![Frame::BdrvOpen(spec), Frame::BlockdevAdded], between) {
            Val::Done(done) => done.map_err(|err| err.desc.to_string()),
            other => unreachable!("blockdev-add ends with {other:?}"),
        }
    }

    /// `drive_new`: the backend, if a guest device goes with it.
    fn boot_drive(&mut self, text: &str, between: &mut dyn FnMut(&mut World)) -> Result<Option<BackendId>, String> {
        let drive = DriveOptions::parse(text).map_err(|err| err.desc.to_string())?;
        let id: Arc<str> = drive.id.clone().unwrap_or_else(|| {
            let index = self.graph.backends.len();
            format!("virtio{index}").into()
        });
        if self.graph.blk_by_name(&id).is_some() {
            return Err(format!("Duplicate ID '{id}' for drive"));
        }
        let has_medium = drive.file.is_some() || drive.node.as_dict().is_some_and(|options| !options.is_empty());
        if let Some(name) = lacking::drive_option(&drive, has_medium) {
            return Err(format!("not simulated: {name}"));
        }
        let flags = OpenFlags { rdwr: !drive.read_only, ..OpenFlags::default() };
        let blk = self.blk_new(id, perm::CONSISTENT_READ, perm::ALL);
        self.graph.backends[blk].write_cache = drive.writeback;
        if has_medium {
            let spec = OpenSpec::from_drive(&drive, flags).map_err(|err| err.desc.to_string())?;
            match self.boot_run(vec![Frame::BdrvOpen(Arc::new(spec)), Frame::DriveOpened { blk }], between) {
                Val::Done(done) => done.map_err(|err| err.desc.to_string())?,
                other => unreachable!("-drive ends with {other:?}"),
            }
        }
        Ok((drive.interface.as_deref() != Some("none")).then_some(blk))
    }

    /// A guest disk takes a backend over (`blk_attach_dev`, `blkconf_apply_backend_options`).
    fn attach_device(&mut self, blk: BackendId, driver: &str, id: &str) -> Result<(), String> {
        const ANONYMOUS: &str = "/machine/peripheral-anon/";
        let devices = self.graph.backends.iter().filter_map(|(_, b)| b.dev.as_ref());
        let number = devices.filter(|dev| dev.starts_with(ANONYMOUS)).count();
        let path = match id {
            "" => format!("{ANONYMOUS}device[{number}]"),
            id => format!("/machine/peripheral/{id}"),
        };
        // virtio's disk is a device within the device, and has no id of its own.
        let dev = match (driver.starts_with("virtio-blk"), id) {
            (true, _) => format!("{path}/virtio-backend"),
            (false, "") => path,
            (false, id) => id.to_owned(),
        };
        self.graph.backends[blk].dev = Some(dev.into());
        let writable = self.graph.blk_bs(blk).is_some_and(|bs| self.graph.nodes[bs].flags.rdwr);
        let taken = perm::CONSISTENT_READ | if writable { perm::WRITE } else { 0 };
        let shared = perm::CONSISTENT_READ | perm::WRITE_UNCHANGED | perm::RESIZE;
        self.blk_set_perm(blk, taken, shared).map_err(|err| err.desc.to_string())
    }

    /// `blk_new_open`, after the node was opened. Leaves `Val::Done`.
    pub(super) fn drive_opened(&mut self, blk: BackendId) -> Flow {
        let Val::Node(opened) = std::mem::take(&mut self.reg) else { unreachable!("a node or an error") };
        match opened {
            Err(err) => {
                self.graph.backends.remove(blk);
                self.ret(Val::Done(Err(err)))
            }
            Ok(bs) => self.seq([Frame::BlkInsertBs(blk, bs), Frame::KeepOver(Box::new(Frame::BdrvUnref(bs)))]),
        }
    }

    fn boot_device(&mut self, text: &str, between: &mut dyn FnMut(&mut World)) -> Result<(), String> {
        let options = crate::qmp::drive::split_options(text);
        let find = |key: &str| options.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let Some(drive) = find("drive") else { return Ok(()) };
        let id = find("id").unwrap_or_default();
        let driver = options.first().map(|(driver, _)| driver.clone()).unwrap_or_default();
        if let Some(blk) = self.graph.blk_by_name(drive) {
            return self.attach_device(blk, &driver, id);
        }
        let Some(bs) = self.graph.find_node(drive) else {
            return Err(format!("Property 'virtio-blk-device.drive' can't find value '{drive}'"));
        };
        let blk = self.blk_new("".into(), 0, perm::ALL);
        match self.boot_run(vec![Frame::BlkInsertBs(blk, bs)], between) {
            Val::Done(done) => done.map_err(|err| err.desc.to_string())?,
            other => unreachable!("attaching ends with {other:?}"),
        }
        self.attach_device(blk, &driver, id)
    }

    /// `bdrv_close_all`: after the jobs, every backend and every node that the monitor owns goes.
    pub(super) fn close_all(&mut self) -> Flow {
        let backends: Vec<BackendId> = self.graph.backends.iter().map(|(id, _)| id).collect();
        for node in self.graph.named.clone() {
            if self.graph.nodes[node].monitor_owned {
                self.graph.nodes[node].monitor_owned = false;
                self.stack.push(Frame::BdrvUnref(node));
            }
        }
        for blk in backends {
            self.stack.push(Frame::BlkUnref(blk));
        }
        Flow::Go
    }
}
