//! The guest runs and stops, the machine is reset, the process ends (`system/runstate.c`, `system/cpus.c`).

use crate::base::Json;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::BackendId;
use crate::world::block::backend::BackendFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::open::active::ActiveFrame;
use crate::world::export::ExportFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::job::block_job::IoStatus;
use crate::world::job::txn::TxnFrame;
use crate::world::system::hotplug::HotplugFrame;
use crate::world::value::Val;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum RunstateFrame {
    ResetDevices,
    ResetDone,
    Runs,
}

impl RunstateFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            RunstateFrame::ResetDevices => w.reset_devices(),
            RunstateFrame::ResetDone => w.reset_done(),
            RunstateFrame::Runs => w.change_state(true),
        }
    }
}

impl World {
    /// `qmp_system_reset`: whoever watches is told when the guest would notice.
    pub(in crate::world) fn system_reset(&mut self) -> Flow {
        self.seq([
            HotplugFrame::UnplugOnReset.into(),
            RunstateFrame::ResetDevices.into(),
            RunstateFrame::ResetDone.into(),
        ])
    }

    /// `scsi_device_purge_requests`, `virtio_blk_reset`: each disk is drained as it is reset.
    fn reset_devices(&mut self) -> Flow {
        let disks = self.machine.as_reset().into_iter().filter(|device| device.drains_on_reset());
        let backends: Vec<BackendId> = disks.filter_map(|device| device.backend).collect();
        for blk in backends.into_iter().rev().filter(|blk| self.graph.backends.get(*blk).is_some()).collect::<Vec<_>>()
        {
            self.push(BackendFrame::BlkDrain(blk).into());
        }
        Flow::Go
    }

    /// The end of `qemu_system_reset`.
    fn reset_done(&mut self) -> Flow {
        self.emit("RESET", Json::dict(vec![("guest", false.into()), ("reason", "host-qmp-system-reset".into())]));
        self.ret(Val::Done(Ok(())))
    }

    /// The guest runs from the start (no `-S`): nobody is told.
    pub fn start(&mut self) {
        self.running = true;
        self.ran = true;
        if self.graph.any_inactive() {
            self.seq([ActiveFrame::ActivateAll.into(), Frame::Give(Box::new(Val::None))]);
        }
    }

    /// `qmp_stop`, `qmp_cont`. A guest that runs has all its images. Leaves `Val::Done`.
    pub(in crate::world) fn vm_state(&mut self, running: bool) -> Flow {
        if running && self.graph.any_inactive() {
            return self.seq([ActiveFrame::ActivateAll.into(), Frame::if_ok([RunstateFrame::Runs.into()])]);
        }
        self.change_state(running)
    }

    fn change_state(&mut self, running: bool) -> Flow {
        if self.running != running {
            self.running = running;
            self.ran |= running;
            self.emit(if running { "RESUME" } else { "STOP" }, Json::empty());
        }
        if !running {
            return self.seq([
                DrainFrame::DrainAll.into(),
                FlushFrame::FlushAll.into(),
                Frame::Give(Box::new(Val::Done(Ok(())))),
            ]);
        }
        // `qmp_cont`: what jobs stopped for is forgotten.
        for job in self.jobs.list.clone() {
            self.jobs[job].iostatus = IoStatus::Ok;
        }
        self.ret(Val::Done(Ok(())))
    }

    /// `qmp_blockdev_*` that only polls for a job: shutdown. `quit` ends with the reply.
    pub(in crate::world) fn shutdown(&mut self, reason: &str) -> Flow {
        self.emit("SHUTDOWN", Json::dict(vec![("guest", false.into()), ("reason", reason.into())]));
        self.quitting = true;
        // Exports go first. `vm_shutdown` drains and flushes; jobs are cancelled in a drained section that is never ended.
        self.seq([TxnFrame::JobCancelSyncAll.into(), GraphFrame::CloseAll.into()]);
        let (stop, hold) =
            ([DrainFrame::DrainAll.into(), FlushFrame::FlushAll.into()], [DrainFrame::DrainAllBegin.into()]);
        let flow = if self.quirks.since(Change::JobsResumedAtShutdown) {
            self.seq(hold);
            self.seq(stop)
        } else {
            self.seq(stop);
            self.seq(hold)
        };
        if !self.exports.list.is_empty() {
            self.push(ExportFrame::CloseAllExports.into());
        }
        flow
    }

    /// A signal asks the process to end. To be called in the main loop; the process has ended when it is there again.
    pub fn host_shutdown(&mut self) {
        assert!(self.in_main_loop());
        self.shutdown("host-signal");
    }
}
