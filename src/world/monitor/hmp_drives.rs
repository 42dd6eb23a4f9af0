//! `drive_add` and `drive_del` of the human monitor (`block/monitor/block-hmp-cmds.c`).

use crate::qmp::command::Command;
use crate::qmp::drive::DriveOptions;
use crate::qmp::error::QmpError;
use crate::qmp::hmp::report_reply;
use crate::world::World;
use crate::world::aio::step::Cond;
use crate::world::arena::BackendId;
use crate::world::block::backend::BackendFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::graph::{GraphFrame, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::block::open::unsupported::not_simulated;
use crate::world::blockdev::add_del::BlockdevFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::system::boot::{BootFrame, DriveBegun, DrivePlace, NOTHING_TO_OPEN};
use crate::world::value::Val;
use std::sync::Arc;

/// Buses of drives that are none of the machine's here, by their number (`BlockInterfaceType`).
const OTHER_BUSES: [(&str, u32); 4] = [("scsi", 2), ("mtd", 5), ("sd", 6), ("xen", 8)];

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum HmpDrivesFrame {
    DriveAdded(Box<DriveBegun>, Arc<str>),
    DriveGone(BackendId),
    Reported { said: Arc<str> },
}

impl HmpDrivesFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            HmpDrivesFrame::DriveAdded(drive, said) => w.hmp_drive_added(&drive, said),
            HmpDrivesFrame::DriveGone(blk) => w.hmp_drive_gone(blk),
            HmpDrivesFrame::Reported { said } => w.hmp_reported(&said),
        }
    }
}

impl World {
    fn report(&mut self, text: &str) -> Flow {
        let reply = if text.is_empty() { String::new() } else { report_reply(text) };
        self.ret(Val::Json(Ok(reply.into())))
    }

    /// What `error_report_err` says of a command that has ended; `said` is what was asked for.
    fn hmp_reported(&mut self, said: &str) -> Flow {
        let Some(err) = self.take_val().error() else { return self.report("") };
        let hint = self.lock_hint(&err.desc, said).map(|hint| format!("\r\n{hint}"));
        self.report(&format!("{}{}", err.desc, hint.unwrap_or_default()))
    }

    /// `hmp_drive_add`
    pub(super) fn hmp_drive_add(&mut self, node: bool, options: &str) -> Flow {
        if node {
            return self.hmp_drive_add_node(options);
        }
        let interface = DriveOptions::parse(options).ok().and_then(|drive| drive.interface);
        let other = interface.and_then(|name| OTHER_BUSES.iter().find(|(known, _)| *known == &*name));
        if let Some((_, number)) = other {
            return self.report(&format!("Can't hot-add drive to type {number}"));
        }
        let drive = match self.drive_begun(options) {
            Ok(drive) => drive,
            Err(text) => match text.strip_prefix("not simulated: ") {
                Some(name) => return self.ret(Val::Json(Err(not_simulated(name)))),
                None => return self.report(&text),
            },
        };
        let (blk, spec) = (drive.blk, drive.spec.clone());
        self.push(HmpDrivesFrame::DriveAdded(Box::new(drive), options.into()).into());
        match spec {
            Some(spec) => self.seq([OpenFrame::BdrvOpen(spec).into(), BootFrame::DriveOpened { blk }.into()]),
            None => self.ret(Val::Done(Ok(()))),
        }
    }

    /// The medium is there, or the backend is gone.
    fn hmp_drive_added(&mut self, drive: &DriveBegun, said: Arc<str>) -> Flow {
        if self.graph.backends.get(drive.blk).is_none() {
            return self.hmp_reported(&said);
        }
        if let Some(err) = self.take_val().error() {
            self.leave(Val::Done(Err(err)));
            return self.seq([
                Frame::KeepOver(Box::new(BackendFrame::BlkUnref(drive.blk).into())),
                HmpDrivesFrame::Reported { said }.into(),
            ]);
        }
        let text = match (self.drive_named(drive), drive.place) {
            (Err(text), _) => text,
            (Ok(()), DrivePlace::None) => return self.report("OK"),
            (Ok(()), DrivePlace::OnBoard { .. }) => "Can't hot-add drive to type 1".to_owned(),
            (Ok(()), DrivePlace::Floppy { .. }) => "Can't hot-add drive to type 3".to_owned(),
            (Ok(()), DrivePlace::Virtio) => "Can't hot-add drive to type 7".to_owned(),
        };
        // `monitor_remove_blk`
        self.graph.backends[drive.blk].name = "".into();
        let reply = Val::Json(Ok(report_reply(&text).into()));
        self.seq([BackendFrame::BlkUnref(drive.blk).into(), Frame::Give(Box::new(reply))])
    }

    /// `hmp_drive_add_node`
    fn hmp_drive_add_node(&mut self, options: &str) -> Flow {
        let spec = DriveOptions::parse(options).and_then(|drive| {
            let rdwr = !drive.read_only;
            let named = drive.node.get("node-name").is_some();
            if !named {
                return Ok(None);
            }
            if !drive.open_something() {
                return Err(QmpError::generic(NOTHING_TO_OPEN));
            }
            OpenSpec::from_drive(&drive, OpenFlags { rdwr, ..OpenFlags::default() }).map(Some)
        });
        match spec {
            Ok(Some(spec)) => {
                self.push(HmpDrivesFrame::Reported { said: options.into() }.into());
                self.seq([OpenFrame::BdrvOpen(Arc::new(spec)).into(), BlockdevFrame::BlockdevAdded.into()])
            }
            Ok(None) => self.report("'node-name' needs to be specified"),
            Err(err) => self.report(&err.desc),
        }
    }

    /// `hmp_drive_del`
    pub(super) fn hmp_drive_del(&mut self, id: &str) -> Flow {
        if self.graph.find_node(id).is_some() {
            self.push(HmpDrivesFrame::Reported { said: id.into() }.into());
            return self.run_command(0, Command::BlockdevDel { node_name: id.into() });
        }
        let Some(blk) = self.graph.blk_by_name(id) else { return self.report(&format!("Device '{id}' not found")) };
        let Some(bs) = self.graph.blk_bs(blk) else { return self.hmp_drive_gone(blk) };
        if let Some(err) = self.op_blocked(bs) {
            return self.report(&err.desc);
        }
        self.graph.backends[blk].last_flags = self.graph.nodes[bs].flags;
        self.exports_eject(blk);
        self.bdrv_ref(bs);
        self.seq([
            DrainFrame::DrainedBegin(bs).into(),
            Frame::Poll(Cond::Backend(blk)),
            DrainFrame::DrainedEnd(bs).into(),
            GraphFrame::BdrvUnref(bs).into(),
            GraphLockFrame::GraphWrlock.into(),
            HmpDrivesFrame::DriveGone(blk).into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
        ])
    }

    /// The end of `blk_remove_bs`, and of `hmp_drive_del`: a device that is attached keeps the backend, which has no name and no medium.
    fn hmp_drive_gone(&mut self, blk: BackendId) -> Flow {
        if let Some(root) = self.graph.backends[blk].root.take() {
            self.root_unref_child(root);
        }
        let backend = &mut self.graph.backends[blk];
        backend.name = "".into();
        // Its error policy is `report` from then on, and there is nothing to tell.
        backend.iostatus_enabled = false;
        if backend.dev.is_none() {
            self.graph.backends.remove(blk);
        }
        self.report("")
    }
}
