//! Starting and ending the process: the block options of its command line, and shutdown.

use super::arena::BackendId;
use super::frame::{Flow, Frame};
use super::graph::{perm, OpenFlags};
use super::spec::OpenSpec;
use super::value::Val;
use super::World;
use crate::choice::Calm;
use crate::qmp::drive::DriveOptions;
use crate::qmp::types::BlockdevOptions;
use std::sync::Arc;

impl World {
    /// Carries out the block options of a command line, as QEMU does before it listens to anybody: `-blockdev`, `-drive`; `-device`
    /// attaches a guest device to a drive.
    ///
    /// # Errors
    /// The option that is wrong, with what QEMU says about it.
    pub fn boot(&mut self, args: &[Arc<str>]) -> Result<(), String> {
        let mut args = args.iter();
        while let Some(option) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{option}: requires an argument"));
            match &**option {
                "-blockdev" => {
                    let value = value()?;
                    self.boot_blockdev(value).map_err(|err| format!("-blockdev {value}: {err}"))?;
                }
                "-drive" => {
                    let value = value()?;
                    self.boot_drive(value).map_err(|err| format!("-drive {value}: {err}"))?;
                }
                "-device" => {
                    let value = value()?;
                    self.boot_device(value).map_err(|err| format!("-device {value}: {err}"))?;
                }
                "-machine" | "-M" | "-accel" | "-display" => drop(value()?),
                "-nodefaults" | "-S" => {}
                other => return Err(format!("{other}: invalid option")),
            }
        }
        self.now = 0;
        self.out.clear();
        Ok(())
    }

    /// Runs main-thread frames until they are done.
    fn boot_run(&mut self, frames: Vec<Frame>) -> Val {
        self.stack.push(Frame::Idle);
        self.stack.extend(frames.into_iter().rev());
        while self.stack.last() != Some(&Frame::Idle) {
            self.step(&mut Calm);
        }
        self.stack.pop();
        std::mem::take(&mut self.reg)
    }

    fn boot_blockdev(&mut self, text: &str) -> Result<(), String> {
        let options = BlockdevOptions::from_option(text).map_err(|err| err.desc.to_string())?;
        if options.node_name.is_none() {
            return Err("'node-name' must be specified for the root node".to_owned());
        }
        let spec = Arc::new(OpenSpec::from_options(&options, None));
        match self.boot_run(vec![Frame::BdrvOpen(spec), Frame::BlockdevAdded]) {
            Val::Done(done) => done.map_err(|err| err.desc.to_string()),
            other => unreachable!("blockdev-add ends with {other:?}"),
        }
    }

    fn boot_drive(&mut self, text: &str) -> Result<(), String> {
        let drive = DriveOptions::parse(text).map_err(|err| err.desc.to_string())?;
        let id: Arc<str> = drive.id.clone().unwrap_or_else(|| {
            let index = self.graph.backends.len();
            format!("virtio{index}").into()
        });
        if self.graph.blk_by_name(&id).is_some() {
            return Err(format!("Duplicate ID '{id}' for drive"));
        }
        let flags = OpenFlags { rdwr: !drive.read_only, ..OpenFlags::default() };
        let spec = OpenSpec::from_drive(&drive, flags).map_err(|err| err.desc.to_string())?;
        let taken = perm::CONSISTENT_READ | if drive.read_only { 0 } else { perm::WRITE };
        let blk = self.blk_new(id, taken, perm::ALL);
        self.graph.backends[blk].write_cache = drive.writeback;
        if !matches!(drive.interface.as_deref(), Some("none")) {
            self.graph.backends[blk].dev = Some("virtio".into());
        }
        let opened = self.boot_run(vec![Frame::BdrvOpen(Arc::new(spec)), Frame::DriveOpened { blk }]);
        match opened {
            Val::Done(done) => done.map_err(|err| err.desc.to_string()),
            other => unreachable!("-drive ends with {other:?}"),
        }
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

    fn boot_device(&mut self, text: &str) -> Result<(), String> {
        let options = crate::qmp::drive::split_options(text);
        let find = |key: &str| options.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let Some(drive) = find("drive") else { return Ok(()) };
        let id = find("id").unwrap_or_default();
        if let Some(blk) = self.graph.blk_by_name(drive) {
            self.graph.backends[blk].dev = Some(id.into());
            return Ok(());
        }
        let Some(bs) = self.graph.find_node(drive) else {
            return Err(format!("Property 'virtio-blk-device.drive' can't find value '{drive}'"));
        };
        let blk = self.blk_new("".into(), perm::CONSISTENT_READ | perm::WRITE, perm::CONSISTENT_READ | perm::WRITE_UNCHANGED);
        self.graph.backends[blk].dev = Some(id.into());
        match self.boot_run(vec![Frame::BlkInsertBs(blk, bs)]) {
            Val::Done(done) => done.map_err(|err| err.desc.to_string()),
            other => unreachable!("attaching ends with {other:?}"),
        }
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
