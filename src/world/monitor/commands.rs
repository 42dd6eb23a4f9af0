//! What each QMP command does. The long ones are in files of their own; those the model lacks say so.
//! Those that start a job stand in a table of its type ([`JOB_COMMANDS`]).

use crate::base::Json;
use crate::bitmap::CheckFlags;
use crate::qmp::command::Command;
use crate::qmp::types::{DriveName, TransactionAction};
use crate::world::World;
use crate::world::block::open::unsupported::not_simulated;
use crate::world::blockdev::JOB_COMMANDS;
use crate::world::blockdev::resize::ResizeFrame;
use crate::world::frame::Flow;
use crate::world::value::Val;

impl World {
    /// Runs a command. Leaves its result in the register.
    pub(super) fn run_command(&mut self, client: u32, command: Command) -> Flow {
        use Command as C;
        match command {
            C::QmpCapabilities { enable } => {
                let done = self.negotiate(client, enable.is_some_and(|list| !list.is_empty()));
                self.ret(Val::Done(done))
            }
            C::QueryVersion => self.ret(Val::Json(Ok(crate::world::blockdev::query::version(self.quirks.version())))),
            C::QueryCommands => self.ret(Val::Json(Ok(crate::world::blockdev::query::commands(self.quirks.version())))),
            C::QueryName => self.query(World::query_name),
            C::QueryStatus => {
                let status = self.query_status();
                self.ret(Val::Json(Ok(status)))
            }
            C::Stop => self.vm_state(false),
            C::Cont => self.vm_state(true),
            C::Quit => self.shutdown("host-qmp-quit"),
            C::HumanMonitorCommand { command_line, .. } => self.human_monitor_command(&command_line),
            C::QueryBlock { flat } => {
                let blocks = self.query_block(flat.unwrap_or(false));
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
            C::BlockResize { device, node_name, size } => {
                self.run_co(ResizeFrame::BlockResize { device, node_name, size }.into())
            }
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
            C::BlockdevSnapshot(args) => self.blockdev_do_action(TransactionAction::Snapshot(args)),
            C::BlockdevSnapshotSync(args) => self.blockdev_do_action(TransactionAction::SnapshotSync(args)),
            C::BlockdevSnapshotInternalSync(_) => self.lacking("blockdev-snapshot-internal-sync"),
            C::BlockdevSnapshotDeleteInternalSync { .. } => self.lacking("blockdev-snapshot-delete-internal-sync"),
            C::ChangeBackingFile { device, image_node_name, backing_file } => {
                self.change_backing_file(&device, &image_node_name, backing_file)
            }
            C::XBlockdevChange { parent, child, node } => self.x_blockdev_change(parent, child, node),
            C::BlockdevReopen { options } => self.blockdev_reopen(&options),
            C::BlockdevSetActive { node_name, active } => self.blockdev_set_active(node_name.as_deref(), active),
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
            C::BlockdevRemoveMedium { id } => self.remove_medium(&DriveName::of_device(id)),
            C::BlockdevInsertMedium { id, node_name } => self.insert_medium(&DriveName::of_device(id), &node_name),
            C::BlockdevChangeMedium(args) => self.change_medium(&args),
            C::AddFd { fdset_id, opaque } => self.add_fd(fdset_id, opaque),
            C::RemoveFd { fdset_id, fd } => self.remove_fd(fdset_id, fd),
            C::Getfd { fdname } => self.getfd(fdname),
            C::Closefd { fdname } => self.closefd(&fdname),
            C::NotSimulated("query-fdsets") => self.query(World::query_fdsets),
            C::NbdServerStart(args) => self.nbd_server_start(&args),
            C::NbdServerAdd(args) => self.nbd_server_add(&args),
            C::NbdServerRemove { name, mode } => self.block_export_del(&name, mode),
            C::NbdServerStop => self.nbd_server_stop(),
            C::BlockExportAdd(args) => self.block_export_add(&args),
            C::BlockExportDel { id, mode } => self.block_export_del(&id, mode),
            C::QueryBlockExports => self.query(World::query_block_exports),
            C::DeviceDel { id } => self.device_del(&id),
            // Nothing is exported, and there are no persistent reservations.
            C::NotSimulated("query-block-exports" | "query-pr-managers") => self.query(|_| Json::list(Vec::new())),
            C::NotSimulated("query-target") => self.query(|_| Json::dict(vec![("arch", "x86_64".into())])),
            C::Machine(command) => self.machine_command(*command),
            C::NotSimulated(name) => self.lacking(name),
            job => self.start_job(job),
        }
    }

    /// A command that starts a job, or one about a job.
    fn start_job(&mut self, mut command: Command) -> Flow {
        for of_type in JOB_COMMANDS {
            command = match (of_type.qmp)(self, command) {
                Ok(flow) => return flow,
                Err(other) => other,
            };
        }
        self.job_command(command)
    }

    fn lacking(&mut self, name: &str) -> Flow {
        self.ret(Val::Json(Err(not_simulated(name))))
    }

    fn query(&mut self, query: fn(&World) -> Json) -> Flow {
        let json = query(self);
        self.ret(Val::Json(Ok(json)))
    }
}
