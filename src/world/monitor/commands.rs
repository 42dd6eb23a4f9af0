//! What each QMP command does. The long ones are in files of their own; those the model lacks say so.

use crate::base::Json;
use crate::bitmap::CheckFlags;
use crate::job::status::JobVerb;
use crate::qmp::command::Command;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::types::{BlockJobChange, BlockdevOptions, TransactionAction};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::open::spec::OpenSpec;
use crate::world::frame::{Flow, Frame};
use crate::world::job::IoStatus;
use crate::world::value::Val;
use std::sync::Arc;

/// What QEMU has and the model lacks.
#[must_use]
pub fn not_simulated(name: &str) -> QmpError {
    QmpError::generic(format!("not simulated: {name}"))
}

impl World {
    /// Runs a command. Leaves its result in the register.
    pub(super) fn run_command(&mut self, client: u32, command: Command) -> Flow {
        use Command as C;
        match command {
            C::QmpCapabilities { enable } => {
                let done = self.negotiate(client, !enable.is_empty());
                self.ret(Val::Done(done))
            }
            C::QueryVersion => self.ret(Val::Json(Ok(crate::world::blockdev::query::version()))),
            C::QueryCommands => self.ret(Val::Json(Ok(crate::world::blockdev::query::commands()))),
            C::QueryName => self.query(World::query_name),
            C::QueryStatus => {
                let status = self.query_status();
                self.ret(Val::Json(Ok(status)))
            }
            C::Stop => self.vm_state(false),
            C::Cont => self.vm_state(true),
            C::Quit => self.shutdown("host-qmp-quit"),
            C::HumanMonitorCommand { command_line, .. } => self.human_monitor_command(&command_line),
            C::QueryBlock => {
                let blocks = self.query_block();
                self.ret(Val::Json(blocks))
            }
            C::QueryNamedBlockNodes { flat } => {
                let nodes = self.query_named_block_nodes(flat.unwrap_or(false));
                self.ret(Val::Json(nodes))
            }
            C::QueryBlockJobs => self.query(World::query_block_jobs),
            C::QueryJobs => self.query(World::query_jobs),
            C::XDebugQueryBlockGraph => self.query(World::query_block_graph),
            C::BlockdevAdd(options) => self.blockdev_add(&options),
            C::BlockdevDel { node_name } => self.blockdev_del(&node_name),
            C::BlockResize { device, node_name, size } => self.run_co(Frame::BlockResize { device, node_name, size }),
            C::BlockSetWriteThreshold { node_name, write_threshold } => {
                self.set_write_threshold(&node_name, write_threshold)
            }
            C::BlockDirtyBitmapAdd(args) => {
                let done = self.bitmap_add(&args).map(drop);
                self.ret(Val::Done(done))
            }
            C::BlockDirtyBitmapRemove(at) => self.bitmap_remove(&at),
            C::BlockDirtyBitmapClear(at) => self.bitmap_simple(&at, CheckFlags::DEFAULT, |b| drop(b.clear())),
            C::BlockDirtyBitmapEnable(at) => self.bitmap_simple(&at, CheckFlags::ALLOW_RO, |b| b.set_enabled(true)),
            C::BlockDirtyBitmapDisable(at) => self.bitmap_simple(&at, CheckFlags::ALLOW_RO, |b| b.set_enabled(false)),
            C::BlockDirtyBitmapMerge(args) => {
                let done = self.bitmap_merge(&args).map(drop);
                self.ret(Val::Done(done))
            }
            C::XDebugBlockDirtyBitmapSha256(at) => self.bitmap_sha256(&at),
            C::Transaction(args) => self.qmp_transaction(&args),
            C::BlockdevBackup(args) => self.blockdev_do_action(TransactionAction::BlockdevBackup(args)),
            C::DriveBackup(args) => self.blockdev_do_action(TransactionAction::DriveBackup(args)),
            C::BlockdevCreate(args) => self.blockdev_create(*args),
            C::BlockdevSnapshot(args) => self.blockdev_do_action(TransactionAction::Snapshot(args)),
            C::BlockdevSnapshotSync(args) => self.blockdev_do_action(TransactionAction::SnapshotSync(args)),
            C::BlockdevSnapshotInternalSync(_) => self.lacking("blockdev-snapshot-internal-sync"),
            C::BlockdevSnapshotDeleteInternalSync { .. } => self.lacking("blockdev-snapshot-delete-internal-sync"),
            C::BlockdevMirror(_) => self.lacking("blockdev-mirror"),
            C::DriveMirror(_) => self.lacking("drive-mirror"),
            C::BlockCommit(_) => self.lacking("block-commit"),
            C::BlockStream(args) => self.block_stream(&args),
            C::ChangeBackingFile { device, image_node_name, backing_file } => {
                self.change_backing_file(&device, &image_node_name, backing_file)
            }
            C::XBlockdevChange { .. } => self.lacking("x-blockdev-change"),
            C::BlockdevReopen { options } => self.blockdev_reopen(&options),
            C::BlockdevSetActive { .. } => self.lacking("blockdev-set-active"),
            C::BlockSetIoThrottle(args) => self.block_set_io_throttle(&args),
            C::QueryBlockstats { query_nodes } => {
                let stats = self.query_blockstats(query_nodes.unwrap_or(false));
                self.ret(Val::Json(Ok(stats)))
            }
            C::ObjectAdd(options) => {
                let done = self.object_add(&options);
                self.ret(Val::Done(done))
            }
            C::ObjectDel { id } => {
                let done = self.object_del(&id);
                self.ret(Val::Done(done))
            }
            C::SystemReset => self.system_reset(),
            C::DeviceAdd { options, texts } => self.device_add(&options, texts),
            C::Eject { drive, force } => self.eject(&drive, force.unwrap_or(false)),
            C::BlockdevOpenTray { drive, force } => self.open_tray(&drive, force.unwrap_or(false)),
            C::BlockdevCloseTray(drive) => self.close_tray(&drive),
            C::BlockdevRemoveMedium(drive) => self.remove_medium(&drive),
            C::BlockdevInsertMedium { drive, node_name } => self.insert_medium(&drive, &node_name),
            C::BlockdevChangeMedium(args) => self.change_medium(&args),
            C::AddFd { fdset_id, opaque } => self.add_fd(fdset_id, opaque),
            C::RemoveFd { fdset_id, fd } => self.remove_fd(fdset_id, fd),
            C::Getfd { fdname } => self.getfd(fdname),
            C::Closefd { fdname } => self.closefd(&fdname),
            C::NotSimulated("query-fdsets") => self.query(World::query_fdsets),
            C::DeviceDel { id } => self.device_del(&id),
            // Nothing is exported, and there are no persistent reservations.
            C::NotSimulated("query-block-exports" | "query-pr-managers") => self.query(|_| Json::list(Vec::new())),
            C::NotSimulated("query-target") => self.query(|_| Json::dict(vec![("arch", "x86_64".into())])),
            C::Machine(command) => self.machine_command(*command),
            C::NotSimulated(name) => self.lacking(name),
            job => self.job_command(job),
        }
    }

    /// The commands that act on one job. The two families differ in how they look it up (`find_job`, `find_block_job`).
    fn job_command(&mut self, command: Command) -> Flow {
        use Command as C;
        let (family, name) = match &command {
            C::BlockJobCancel { device, .. }
            | C::BlockJobPause { device }
            | C::BlockJobResume { device }
            | C::BlockJobComplete { device }
            | C::BlockJobSetSpeed { device, .. } => (Family::Block, device.clone()),
            C::BlockJobFinalize { id } | C::BlockJobDismiss { id } => (Family::Block, id.clone()),
            C::BlockJobChange(args) => (Family::Block, args.id.clone()),
            C::JobPause { id }
            | C::JobResume { id }
            | C::JobCancel { id }
            | C::JobComplete { id }
            | C::JobDismiss { id }
            | C::JobFinalize { id } => (Family::Job, id.clone()),
            other => unreachable!("{other:?} is no job command"),
        };
        let job = match self.find_job(family, &name) {
            Ok(job) => job,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        match command {
            C::BlockJobPause { .. } | C::JobPause { .. } => self.job_user_pause(job),
            C::BlockJobResume { .. } | C::JobResume { .. } => self.job_user_resume(job),
            C::BlockJobCancel { force, .. } => self.block_job_cancel(job, &name, force.unwrap_or(false)),
            C::JobCancel { .. } => self.job_user_cancel(job, true),
            C::BlockJobComplete { .. } | C::JobComplete { .. } => self.job_complete(job),
            C::BlockJobSetSpeed { speed, .. } => self.block_job_set_speed(job, speed),
            C::BlockJobFinalize { .. } | C::JobFinalize { .. } => self.job_finalize(job),
            C::BlockJobDismiss { .. } | C::JobDismiss { .. } => self.job_dismiss(job),
            C::BlockJobChange(options) => self.block_job_change(job, &options),
            other => unreachable!("{other:?} is no job command"),
        }
    }

    fn find_job(&self, family: Family, name: &str) -> Result<JobId, QmpError> {
        let found = self.jobs.find(name);
        match family {
            Family::Job => found.ok_or_else(|| QmpError::generic("Job not found")),
            Family::Block => found
                .filter(|job| self.jobs[*job].job_type.is_block_job())
                .ok_or_else(|| QmpError::new(ErrorClass::DeviceNotActive, format!("Block job '{name}' not found"))),
        }
    }

    /// `qmp_system_reset`: whoever watches is told when the guest would notice.
    fn system_reset(&mut self) -> Flow {
        self.seq([Frame::UnplugOnReset, Frame::ResetDone])
    }

    /// The end of `qemu_system_reset`.
    pub(in crate::world) fn reset_done(&mut self) -> Flow {
        self.emit("RESET", Json::dict(vec![("guest", false.into()), ("reason", "host-qmp-system-reset".into())]));
        self.ret(Val::Done(Ok(())))
    }

    fn lacking(&mut self, name: &str) -> Flow {
        self.ret(Val::Json(Err(not_simulated(name))))
    }

    fn query(&mut self, query: fn(&World) -> Json) -> Flow {
        let json = query(self);
        self.ret(Val::Json(Ok(json)))
    }

    /// The plain success or failure that a frame left.
    pub(in crate::world) fn take_done(&mut self) -> Result<(), QmpError> {
        match std::mem::take(&mut self.reg) {
            Val::Done(done) => done,
            Val::None | Val::Ret(Ok(())) => Ok(()),
            Val::Ret(Err(errno)) => Err(QmpError::generic(errno.to_string())),
            other => panic!("expected success or an error, found {other:?}"),
        }
    }

    /// `qmp_qmp_capabilities`
    pub(super) fn negotiate(&mut self, client: u32, oob: bool) -> Result<(), QmpError> {
        let c = &mut self.monitor.clients[client as usize];
        if c.negotiated {
            let text = "Capabilities negotiation is already complete, command ignored";
            return Err(QmpError::new(ErrorClass::CommandNotFound, text));
        }
        c.negotiated = true;
        c.oob = oob;
        Ok(())
    }

    /// The guest runs from the start (no `-S`): nobody is told.
    pub fn start(&mut self) {
        self.running = true;
        self.ran = true;
    }

    fn vm_state(&mut self, running: bool) -> Flow {
        if self.running != running {
            self.running = running;
            self.ran |= running;
            self.emit(if running { "RESUME" } else { "STOP" }, Json::empty());
        }
        if !running {
            return self.seq([Frame::DrainAll, Frame::FlushAll, Frame::Give(Box::new(Val::Done(Ok(()))))]);
        }
        // `qmp_cont`: what jobs stopped for is forgotten.
        for job in self.jobs.list.clone() {
            self.jobs[job].iostatus = IoStatus::Ok;
        }
        self.ret(Val::Done(Ok(())))
    }

    /// `qmp_blockdev_add`
    fn blockdev_add(&mut self, options: &BlockdevOptions) -> Flow {
        if options.node_name.is_none() {
            let text = "'node-name' must be specified for the root node";
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        let spec = Arc::new(OpenSpec::from_options(options, None));
        self.seq([Frame::BdrvOpen(spec), Frame::BlockdevAdded])
    }

    /// The end of `qmp_blockdev_add`.
    pub(in crate::world) fn blockdev_added(&mut self) -> Flow {
        let Val::Node(node) = std::mem::take(&mut self.reg) else { unreachable!("a node or an error") };
        let done = node.map(|bs| self.graph.nodes[bs].monitor_owned = true);
        self.ret(Val::Done(done))
    }

    /// `qmp_blockdev_del`
    fn blockdev_del(&mut self, name: &str) -> Flow {
        let checked = self.blockdev_del_checks(name);
        match checked {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(bs) => {
                self.graph.nodes[bs].monitor_owned = false;
                self.stack.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([Frame::BdrvUnref(bs)])
            }
        }
    }

    fn blockdev_del_checks(&self, name: &str) -> Result<NodeId, QmpError> {
        let Some(bs) = self.graph.find_node(name) else {
            return Err(QmpError::generic(format!("Failed to find node with node-name='{name}'")));
        };
        if self.graph.has_blk(bs) {
            return Err(QmpError::generic(format!("Node {name} is in use")));
        }
        if let Some(err) = self.op_blocked(bs).or_else(|| self.cow_blocked(bs)) {
            return Err(err);
        }
        let n = &self.graph.nodes[bs];
        if !n.monitor_owned {
            return Err(QmpError::generic(format!("Node {name} is not owned by the monitor")));
        }
        if n.refcnt > 1 {
            let name = self.graph.device_or_node_name(bs);
            return Err(QmpError::generic(format!("Block device {name} is in use")));
        }
        Ok(bs)
    }

    /// The blocker that a node whose backing file this is puts on it (`bdrv_backing_attach`).
    pub(in crate::world) fn cow_blocked(&self, bs: NodeId) -> Option<QmpError> {
        let (_, user) = self.graph.nodes[bs].cow_blockers.first()?;
        let name = self.graph.device_or_node_name(bs);
        Some(QmpError::generic(format!("Node '{name}' is busy: node is used as backing hd of '{user}'")))
    }

    fn set_write_threshold(&mut self, name: &str, threshold: u64) -> Flow {
        let done = match self.graph.find_node(name) {
            Some(bs) => {
                self.graph.nodes[bs].write_threshold = threshold;
                Ok(())
            }
            None => Err(QmpError::generic(format!("Device '{name}' not found"))),
        };
        self.ret(Val::Done(done))
    }

    fn bitmap_simple(
        &mut self,
        at: &crate::qmp::types::BitmapRef,
        flags: CheckFlags,
        act: fn(&mut crate::bitmap::DirtyBitmap),
    ) -> Flow {
        let done = self.bitmap_lookup(at).and_then(|(bs, id)| {
            self.bitmap_check(bs, id, flags)?;
            let bitmap = self.graph.nodes[bs].bitmaps.get_mut(id).expect("just found");
            let was = bitmap.enabled();
            act(bitmap);
            if bitmap.enabled() == was && bitmap.bitmap().is_empty() {
                self.see_fresh_bitmap(bs, id);
            } else {
                let name = bitmap.name().cloned();
                self.see_stale_bitmap(bs, name);
            }
            Ok(())
        });
        self.ret(Val::Done(done))
    }

    fn bitmap_sha256(&mut self, at: &crate::qmp::types::BitmapRef) -> Flow {
        let result = self.bitmap_lookup(at).map(|(bs, id)| {
            let hash = crate::base::sha256::of_words(self.bits(bs, id).serialized_words());
            Json::dict(vec![("sha256", hash.into())])
        });
        self.ret(Val::Json(result))
    }

    /// `job_user_pause_locked`
    fn job_user_pause(&mut self, job: JobId) -> Flow {
        let done = self.job_apply_verb(job, JobVerb::Pause).and_then(|()| {
            if self.jobs[job].user_paused {
                return Err(QmpError::generic("Job is already paused"));
            }
            self.jobs[job].user_paused = true;
            self.job_pause(job);
            Ok(())
        });
        self.ret(Val::Done(done))
    }

    /// `job_user_resume_locked`
    fn job_user_resume(&mut self, job: JobId) -> Flow {
        let j = &self.jobs[job];
        if !j.user_paused || j.pause_count == 0 {
            let err = QmpError::generic("Can't resume a job that was not paused");
            return self.ret(Val::Done(Err(err)));
        }
        let done = self.job_apply_verb(job, JobVerb::Resume).map(|()| {
            if let Some(user_resume) = self.job_hooks(job).user_resume {
                user_resume(self, job);
            }
            self.jobs[job].user_paused = false;
            self.job_resume(job);
        });
        self.ret(Val::Done(done))
    }

    /// `qmp_block_job_cancel`
    fn block_job_cancel(&mut self, job: JobId, name: &str, force: bool) -> Flow {
        if self.jobs[job].user_paused && !force {
            let text = format!("The block job for device '{name}' is currently paused");
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        self.job_user_cancel(job, force)
    }

    /// `job_user_cancel_locked`
    fn job_user_cancel(&mut self, job: JobId, force: bool) -> Flow {
        match self.job_apply_verb(job, JobVerb::Cancel) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(()) => {
                self.stack.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([Frame::JobCancel(job, force)])
            }
        }
    }

    /// `job_complete_locked`
    fn job_complete(&mut self, job: JobId) -> Flow {
        if let Err(err) = self.job_apply_verb(job, JobVerb::Complete) {
            return self.ret(Val::Done(Err(err)));
        }
        match self.job_hooks(job).complete.filter(|_| !self.jobs[job].cancelled) {
            Some(complete) => complete(self, job),
            None => {
                let text = format!("The active block job '{}' cannot be completed", self.jobs[job].id);
                self.ret(Val::Done(Err(QmpError::generic(text))))
            }
        }
    }

    /// `block_job_set_speed_locked`
    fn block_job_set_speed(&mut self, job: JobId, speed: i64) -> Flow {
        let done = self.job_apply_verb(job, JobVerb::SetSpeed).and_then(|()| {
            if speed < 0 {
                return Err(QmpError::generic("Parameter 'speed' expects a non-negative value"));
            }
            self.set_speed(job, speed);
            Ok(())
        });
        self.ret(Val::Done(done))
    }

    fn set_speed(&mut self, job: JobId, speed: i64) {
        let j = &mut self.jobs[job];
        let old_speed = std::mem::replace(&mut j.speed, speed);
        j.limit.set_speed(speed.unsigned_abs());
        if let Some(set_speed) = self.job_hooks(job).block.as_ref().and_then(|block| block.set_speed) {
            set_speed(self, job, speed);
        }
        if speed == 0 || speed > old_speed {
            self.job_enter_if_asleep(job);
        }
    }

    /// `block_job_change_locked`
    fn block_job_change(&mut self, job: JobId, options: &BlockJobChange) -> Flow {
        let done = self.job_apply_verb(job, JobVerb::Change).and_then(|()| {
            match self.job_hooks(job).block.as_ref().and_then(|block| block.change) {
                Some(change) => change(self, job, options),
                None => Err(QmpError::generic("Job type does not support change")),
            }
        });
        self.ret(Val::Done(done))
    }

    /// `qmp_job_finalize`
    fn job_finalize(&mut self, job: JobId) -> Flow {
        if self.jobs[job].txn.is_none() && self.quirks.has(Quirk::FinalizeTwiceAssert) {
            Self::qemu_aborts(format!("job {}", self.jobs[job].id), "job_finalize: it is in no group");
        }
        match self.job_apply_verb(job, JobVerb::Finalize) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(()) => {
                self.jobs[job].refcnt += 1;
                self.stack.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([Frame::JobDoFinalize(job), Frame::JobUnref(job)])
            }
        }
    }

    /// `job_dismiss_locked`
    fn job_dismiss(&mut self, job: JobId) -> Flow {
        match self.job_apply_verb(job, JobVerb::Dismiss) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(()) => {
                self.stack.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.job_do_dismiss(job)
            }
        }
    }

    /// The node of a name, for commands that take either a device or a node.
    ///
    /// # Errors
    /// There is neither.
    pub fn lookup_bs(&self, name: &str) -> Result<NodeId, QmpError> {
        self.bdrv_lookup_bs(Some(name), Some(name))
    }

    /// `bdrv_lookup_bs`
    ///
    /// # Errors
    /// There is neither, or the device has no medium.
    pub fn bdrv_lookup_bs(&self, device: Option<&str>, node: Option<&str>) -> Result<NodeId, QmpError> {
        self.graph.lookup(device, node).ok_or_else(|| {
            let (device, node) = (device.unwrap_or_default(), node.unwrap_or_default());
            QmpError::generic(match self.graph.blk_by_name(device) {
                Some(_) => format!("Device '{device}' has no medium"),
                None => format!("Cannot find device='{device}' nor node-name='{node}'"),
            })
        })
    }
}

#[derive(Clone, Copy)]
enum Family {
    Block,
    Job,
}
