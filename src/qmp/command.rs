//! Commands with their arguments read and checked.

use std::sync::Arc;

use super::declare::commands;
use super::error::{ErrorClass, QmpError};
use super::names::find_command;
use super::types::{
    BitmapAdd, BitmapMerge, BitmapRef, BlockCommit, BlockExportAdd, BlockIoThrottle, BlockJobChange, BlockStream,
    BlockdevBackup, BlockdevCreate, BlockdevMirror, BlockdevOptions, BlockdevSnapshot, BlockdevSnapshotInternal,
    BlockdevSnapshotSync, ChangeMedium, DriveBackup, DriveMirror, DriveName, MachineCommand, NbdServerAdd,
    NbdServerStart, ObjectOptions, QmpCapability, RemoveMode, Transaction,
};
use super::visit::{InputVisitor, ValueAt};
use crate::base::Json;

commands! {
    /// A command ready to be run. Variants are QEMU's commands of the same names.
    #[allow(missing_docs, reason = "variants and fields are the commands and arguments of the same names")]
    pub enum Command {
        "qmp_capabilities" => QmpCapabilities { enable: Option<Vec<QmpCapability>> },
        "query-version" => QueryVersion,
        "query-commands" => QueryCommands,
        "query-name" => QueryName,
        "query-status" => QueryStatus,
        "stop" => Stop,
        "cont" => Cont,
        "quit" => Quit,
        "system_reset" => SystemReset,
        "add-fd" => AddFd { fdset_id: Option<i64>, opaque: Option<Arc<str>> },
        "remove-fd" => RemoveFd { fdset_id: i64, fd: Option<i64> },
        "getfd" => Getfd { fdname: Arc<str> },
        "closefd" => Closefd { fdname: Arc<str> },
        "eject" => Eject { drive: DriveName [flat], force: Option<bool> },
        "blockdev-open-tray" => BlockdevOpenTray { drive: DriveName [flat], force: Option<bool> },
        "blockdev-close-tray" => BlockdevCloseTray(DriveName),
        "blockdev-remove-medium" => BlockdevRemoveMedium { id: Arc<str> },
        "blockdev-insert-medium" => BlockdevInsertMedium { id: Arc<str>, node_name: Arc<str> },
        "blockdev-change-medium" => BlockdevChangeMedium(Box<ChangeMedium>),
        "device_del" => DeviceDel { id: Arc<str> },
        "human-monitor-command" => HumanMonitorCommand { command_line: Arc<str>, cpu_index: Option<i64> },
        "query-block" => QueryBlock,
        "query-named-block-nodes" => QueryNamedBlockNodes { flat: Option<bool> },
        "query-block-jobs" => QueryBlockJobs,
        "query-jobs" => QueryJobs,
        "query-blockstats" => QueryBlockstats { query_nodes: Option<bool> },
        "x-debug-query-block-graph" => XDebugQueryBlockGraph,
        "blockdev-del" => BlockdevDel { node_name: Arc<str> },
        "blockdev-reopen" => BlockdevReopen { options: Vec<BlockdevOptions> },
        "blockdev-set-active" => BlockdevSetActive { node_name: Option<Arc<str>>, active: bool },
        /// `size` is in bytes.
        "block_resize" => BlockResize { device: Option<Arc<str>>, node_name: Option<Arc<str>>, size: i64 },
        "block-dirty-bitmap-add" => BlockDirtyBitmapAdd(BitmapAdd),
        "block-dirty-bitmap-remove" => BlockDirtyBitmapRemove(BitmapRef),
        "block-dirty-bitmap-clear" => BlockDirtyBitmapClear(BitmapRef),
        "block-dirty-bitmap-enable" => BlockDirtyBitmapEnable(BitmapRef),
        "block-dirty-bitmap-disable" => BlockDirtyBitmapDisable(BitmapRef),
        "block-dirty-bitmap-merge" => BlockDirtyBitmapMerge(BitmapMerge),
        "x-debug-block-dirty-bitmap-sha256" => XDebugBlockDirtyBitmapSha256(BitmapRef),
        "transaction" => Transaction(Transaction),
        "blockdev-backup" => BlockdevBackup(Box<BlockdevBackup>),
        "drive-backup" => DriveBackup(Box<DriveBackup>),
        "blockdev-create" => BlockdevCreate(Box<BlockdevCreate>),
        "block-job-cancel" => BlockJobCancel { device: Arc<str>, force: Option<bool> },
        "block-job-pause" => BlockJobPause { device: Arc<str> },
        "block-job-resume" => BlockJobResume { device: Arc<str> },
        "block-job-complete" => BlockJobComplete { device: Arc<str> },
        /// `speed` is in bytes per second.
        "block-job-set-speed" => BlockJobSetSpeed { device: Arc<str>, speed: i64 },
        "block-job-finalize" => BlockJobFinalize { id: Arc<str> },
        "block-job-dismiss" => BlockJobDismiss { id: Arc<str> },
        "block-job-change" => BlockJobChange(BlockJobChange),
        "job-pause" => JobPause { id: Arc<str> },
        "job-resume" => JobResume { id: Arc<str> },
        "job-cancel" => JobCancel { id: Arc<str> },
        "job-complete" => JobComplete { id: Arc<str> },
        "job-dismiss" => JobDismiss { id: Arc<str> },
        "job-finalize" => JobFinalize { id: Arc<str> },
        "block_set_io_throttle" => BlockSetIoThrottle(Box<BlockIoThrottle>),
        /// `write_threshold` is in bytes, 0 for none.
        "block-set-write-threshold" => BlockSetWriteThreshold { node_name: Arc<str>, write_threshold: u64 [with |at| at.uint()] },
        "blockdev-snapshot" => BlockdevSnapshot(BlockdevSnapshot),
        "blockdev-snapshot-sync" => BlockdevSnapshotSync(Box<BlockdevSnapshotSync>),
        "blockdev-snapshot-internal-sync" => BlockdevSnapshotInternalSync(BlockdevSnapshotInternal),
        "blockdev-snapshot-delete-internal-sync" => BlockdevSnapshotDeleteInternalSync { device: Arc<str>, id: Option<Arc<str>>, name: Option<Arc<str>> },
        "blockdev-mirror" => BlockdevMirror(Box<BlockdevMirror>),
        "drive-mirror" => DriveMirror(Box<DriveMirror>),
        "block-commit" => BlockCommit(Box<BlockCommit>),
        "block-stream" => BlockStream(Box<BlockStream>),
        "change-backing-file" => ChangeBackingFile { device: Arc<str>, image_node_name: Arc<str>, backing_file: Arc<str> },
        "x-blockdev-change" => XBlockdevChange { parent: Arc<str>, child: Option<Arc<str>>, node: Option<Arc<str>> },
        "object-del" => ObjectDel { id: Arc<str> },
        "nbd-server-start" => NbdServerStart(Box<NbdServerStart>),
        "nbd-server-add" => NbdServerAdd(Box<NbdServerAdd>),
        "nbd-server-remove" => NbdServerRemove { name: Arc<str>, mode: Option<RemoveMode> },
        "nbd-server-stop" => NbdServerStop,
        "block-export-del" => BlockExportDel { id: Arc<str>, mode: Option<RemoveMode> },
        "query-block-exports" => QueryBlockExports,
        by hand:
        /// Its arguments are the properties of the device.
        DeviceAdd {
            options: Json,
            /// All of them are texts, as the human monitor gives them.
            texts: bool,
        },
        BlockdevAdd(Box<BlockdevOptions>),
        ObjectAdd(Box<ObjectOptions>),
        BlockExportAdd(Box<BlockExportAdd>),
        /// One that has to do with the machine and not with its disks.
        Machine(Box<MachineCommand>),
        /// A command QEMU has and the model has not. Its arguments were not looked at.
        NotSimulated(&'static str),
    }
}

/// QEMU's own copy of a command name.
///
/// # Errors
/// `CommandNotFound` for names QEMU does not know.
pub fn known_command(name: &str) -> Result<&'static str, QmpError> {
    find_command(name)
        .ok_or_else(|| QmpError::new(ErrorClass::CommandNotFound, format!("The command {name} has not been found")))
}

/// Reads the command `name` with its arguments (`args` is the `arguments` object).
///
/// # Errors
/// `CommandNotFound` for names QEMU does not know, otherwise what QEMU says about the arguments.
pub fn parse_command(name: &str, args: &Json) -> Result<Command, QmpError> {
    let name = known_command(name)?;
    let at = ValueAt::root(args, InputVisitor::Json);
    if name == "blockdev-add" {
        return Ok(Command::BlockdevAdd(Box::new(BlockdevOptions::visit(at)?)));
    }
    if name == "block-export-add" {
        return Ok(Command::BlockExportAdd(Box::new(BlockExportAdd::visit(at)?)));
    }
    if name == "object-add" {
        return Ok(Command::ObjectAdd(Box::new(ObjectOptions::visit(at)?)));
    }
    if name == "device_add" {
        return Ok(Command::DeviceAdd { options: args.clone(), texts: false });
    }
    if name == "migrate-set-parameters" {
        return Ok(Command::Machine(Box::new(MachineCommand::MigrateSetParameters(args.clone()))));
    }
    let mut v = at.object()?;
    let declared = match declared(name, &mut v)? {
        None => MachineCommand::visit(name, &mut v)?.map(|command| Command::Machine(Box::new(command))),
        found => found,
    };
    if let Some(command) = declared {
        v.finish()?;
        return Ok(command);
    }
    v.leave();
    Ok(Command::NotSimulated(name))
}
