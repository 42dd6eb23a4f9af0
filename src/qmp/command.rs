//! Commands with their arguments read and checked.

use std::sync::Arc;

use super::error::{ErrorClass, QmpError};
use super::names::find_command;
use super::types::{
    BitmapAdd, BitmapMerge, BitmapRef, BlockCommit, BlockExportAdd, BlockIoThrottle, BlockJobChange, BlockStream,
    BlockdevBackup, BlockdevCreate, BlockdevMirror, BlockdevOptions, BlockdevSnapshot, BlockdevSnapshotInternal,
    BlockdevSnapshotSync, ChangeMedium, DriveBackup, DriveMirror, DriveName, MachineCommand, NbdServerAdd,
    NbdServerStart, ObjectOptions, QmpCapability, RemoveMode, Transaction,
};
use super::visit::{At, Mode, Visit, Visitor};
use crate::base::Json;

/// A command ready to be run. Variants are QEMU's commands of the same names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "variants and fields are the commands and arguments of the same names")]
pub enum Command {
    QmpCapabilities {
        enable: Vec<QmpCapability>,
    },
    QueryVersion,
    QueryCommands,
    QueryName,
    QueryStatus,
    Stop,
    Cont,
    Quit,
    SystemReset,
    AddFd {
        fdset_id: Option<i64>,
        opaque: Option<Arc<str>>,
    },
    RemoveFd {
        fdset_id: i64,
        fd: Option<i64>,
    },
    Getfd {
        fdname: Arc<str>,
    },
    Closefd {
        fdname: Arc<str>,
    },
    Eject {
        drive: DriveName,
        force: Option<bool>,
    },
    BlockdevOpenTray {
        drive: DriveName,
        force: Option<bool>,
    },
    BlockdevCloseTray(DriveName),
    BlockdevRemoveMedium(DriveName),
    BlockdevInsertMedium {
        drive: DriveName,
        node_name: Arc<str>,
    },
    BlockdevChangeMedium(Box<ChangeMedium>),
    /// Its arguments are the properties of the device.
    DeviceAdd {
        options: Json,
        /// All of them are texts, as the human monitor gives them.
        texts: bool,
    },
    DeviceDel {
        id: Arc<str>,
    },
    HumanMonitorCommand {
        command_line: Arc<str>,
        cpu_index: Option<i64>,
    },
    QueryBlock,
    QueryNamedBlockNodes {
        flat: Option<bool>,
    },
    QueryBlockJobs,
    QueryJobs,
    QueryBlockstats {
        query_nodes: Option<bool>,
    },
    XDebugQueryBlockGraph,
    BlockdevAdd(Box<BlockdevOptions>),
    BlockdevDel {
        node_name: Arc<str>,
    },
    BlockdevReopen {
        options: Vec<BlockdevOptions>,
    },
    BlockdevSetActive {
        node_name: Option<Arc<str>>,
        active: bool,
    },
    /// `size` is in bytes.
    BlockResize {
        device: Option<Arc<str>>,
        node_name: Option<Arc<str>>,
        size: i64,
    },
    BlockDirtyBitmapAdd(BitmapAdd),
    BlockDirtyBitmapRemove(BitmapRef),
    BlockDirtyBitmapClear(BitmapRef),
    BlockDirtyBitmapEnable(BitmapRef),
    BlockDirtyBitmapDisable(BitmapRef),
    BlockDirtyBitmapMerge(BitmapMerge),
    XDebugBlockDirtyBitmapSha256(BitmapRef),
    Transaction(Transaction),
    BlockdevBackup(Box<BlockdevBackup>),
    DriveBackup(Box<DriveBackup>),
    BlockdevCreate(Box<BlockdevCreate>),
    BlockJobCancel {
        device: Arc<str>,
        force: Option<bool>,
    },
    BlockJobPause {
        device: Arc<str>,
    },
    BlockJobResume {
        device: Arc<str>,
    },
    BlockJobComplete {
        device: Arc<str>,
    },
    /// `speed` is in bytes per second.
    BlockJobSetSpeed {
        device: Arc<str>,
        speed: i64,
    },
    BlockJobFinalize {
        id: Arc<str>,
    },
    BlockJobDismiss {
        id: Arc<str>,
    },
    BlockJobChange(BlockJobChange),
    JobPause {
        id: Arc<str>,
    },
    JobResume {
        id: Arc<str>,
    },
    JobCancel {
        id: Arc<str>,
    },
    JobComplete {
        id: Arc<str>,
    },
    JobDismiss {
        id: Arc<str>,
    },
    JobFinalize {
        id: Arc<str>,
    },
    BlockSetIoThrottle(Box<BlockIoThrottle>),
    /// `write_threshold` is in bytes, 0 for none.
    BlockSetWriteThreshold {
        node_name: Arc<str>,
        write_threshold: u64,
    },
    BlockdevSnapshot(BlockdevSnapshot),
    BlockdevSnapshotSync(Box<BlockdevSnapshotSync>),
    BlockdevSnapshotInternalSync(BlockdevSnapshotInternal),
    BlockdevSnapshotDeleteInternalSync {
        device: Arc<str>,
        id: Option<Arc<str>>,
        name: Option<Arc<str>>,
    },
    BlockdevMirror(Box<BlockdevMirror>),
    DriveMirror(Box<DriveMirror>),
    BlockCommit(Box<BlockCommit>),
    BlockStream(Box<BlockStream>),
    ChangeBackingFile {
        device: Arc<str>,
        image_node_name: Arc<str>,
        backing_file: Arc<str>,
    },
    XBlockdevChange {
        parent: Arc<str>,
        child: Option<Arc<str>>,
        node: Option<Arc<str>>,
    },
    ObjectAdd(Box<ObjectOptions>),
    ObjectDel {
        id: Arc<str>,
    },
    NbdServerStart(Box<NbdServerStart>),
    NbdServerAdd(Box<NbdServerAdd>),
    NbdServerRemove {
        name: Arc<str>,
        mode: Option<RemoveMode>,
    },
    NbdServerStop,
    BlockExportAdd(Box<BlockExportAdd>),
    BlockExportDel {
        id: Arc<str>,
        mode: Option<RemoveMode>,
    },
    QueryBlockExports,
    /// One that has to do with the machine and not with its disks.
    Machine(Box<MachineCommand>),
    /// A command QEMU has and the model has not. Its arguments were not looked at.
    NotSimulated(&'static str),
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
    let at = At::root(args, Mode::Json);
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
    for family in [plain, query, node, medium, bitmap, job, start, export, machine] {
        if let Some(command) = family(name, &mut v)? {
            v.finish()?;
            return Ok(command);
        }
    }
    v.leave();
    Ok(Command::NotSimulated(name))
}

/// Commands without arguments.
fn plain(name: &'static str, _: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(Some(match name {
        "query-version" => Command::QueryVersion,
        "query-commands" => Command::QueryCommands,
        "query-name" => Command::QueryName,
        "query-status" => Command::QueryStatus,
        "stop" => Command::Stop,
        "cont" => Command::Cont,
        "quit" => Command::Quit,
        "system_reset" => Command::SystemReset,
        "query-block" => Command::QueryBlock,
        "query-block-jobs" => Command::QueryBlockJobs,
        "query-jobs" => Command::QueryJobs,
        "x-debug-query-block-graph" => Command::XDebugQueryBlockGraph,
        _ => return Ok(None),
    }))
}

/// The monitor itself and queries with arguments.
fn query(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(Some(match name {
        "qmp_capabilities" => {
            Command::QmpCapabilities { enable: v.opt_list("enable", |at| at.enumeration())?.unwrap_or_default() }
        }
        "human-monitor-command" => {
            Command::HumanMonitorCommand { command_line: v.str("command-line")?, cpu_index: v.opt_int("cpu-index")? }
        }
        "add-fd" => Command::AddFd { fdset_id: v.opt_int("fdset-id")?, opaque: v.opt_str("opaque")? },
        "remove-fd" => Command::RemoveFd { fdset_id: v.int("fdset-id")?, fd: v.opt_int("fd")? },
        "getfd" => Command::Getfd { fdname: v.str("fdname")? },
        "closefd" => Command::Closefd { fdname: v.str("fdname")? },
        "query-named-block-nodes" => Command::QueryNamedBlockNodes { flat: v.opt_bool("flat")? },
        "query-blockstats" => Command::QueryBlockstats { query_nodes: v.opt_bool("query-nodes")? },
        _ => return Ok(None),
    }))
}

/// Nodes and objects.
fn node(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(Some(match name {
        "blockdev-del" => Command::BlockdevDel { node_name: v.str("node-name")? },
        "blockdev-reopen" => Command::BlockdevReopen { options: v.list("options", BlockdevOptions::visit)? },
        "blockdev-set-active" => {
            Command::BlockdevSetActive { node_name: v.opt_str("node-name")?, active: v.bool("active")? }
        }
        "blockdev-create" => Command::BlockdevCreate(Box::new(BlockdevCreate::visit(v)?)),
        "block_resize" => Command::BlockResize {
            device: v.opt_str("device")?,
            node_name: v.opt_str("node-name")?,
            size: v.int("size")?,
        },
        "block_set_io_throttle" => Command::BlockSetIoThrottle(Box::new(BlockIoThrottle::visit(v)?)),
        "block-set-write-threshold" => Command::BlockSetWriteThreshold {
            node_name: v.str("node-name")?,
            write_threshold: v.with("write-threshold", |at| at.uint())?,
        },
        "change-backing-file" => Command::ChangeBackingFile {
            device: v.str("device")?,
            image_node_name: v.str("image-node-name")?,
            backing_file: v.str("backing-file")?,
        },
        "x-blockdev-change" => {
            Command::XBlockdevChange { parent: v.str("parent")?, child: v.opt_str("child")?, node: v.opt_str("node")? }
        }
        "device_del" => Command::DeviceDel { id: v.str("id")? },
        "object-del" => Command::ObjectDel { id: v.str("id")? },
        _ => return Ok(None),
    }))
}

/// The machine around the disks.
fn machine(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(MachineCommand::visit(name, v)?.map(|command| Command::Machine(Box::new(command))))
}

/// Media of removable drives.
fn medium(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    let by_id = |v: &mut Visitor<'_>| Ok(DriveName { device: None, id: Some(v.str("id")?) });
    Ok(Some(match name {
        "eject" => Command::Eject { drive: DriveName::visit(v)?, force: v.opt_bool("force")? },
        "blockdev-open-tray" => Command::BlockdevOpenTray { drive: DriveName::visit(v)?, force: v.opt_bool("force")? },
        "blockdev-close-tray" => Command::BlockdevCloseTray(DriveName::visit(v)?),
        "blockdev-remove-medium" => Command::BlockdevRemoveMedium(by_id(v)?),
        "blockdev-insert-medium" => Command::BlockdevInsertMedium { drive: by_id(v)?, node_name: v.str("node-name")? },
        "blockdev-change-medium" => Command::BlockdevChangeMedium(Box::new(ChangeMedium::visit(v)?)),
        _ => return Ok(None),
    }))
}

/// Exports and the NBD server.
fn export(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(Some(match name {
        "nbd-server-start" => Command::NbdServerStart(Box::new(NbdServerStart::visit(v)?)),
        "nbd-server-add" => Command::NbdServerAdd(Box::new(NbdServerAdd::visit(v)?)),
        "nbd-server-remove" => Command::NbdServerRemove { name: v.str("name")?, mode: v.opt_enum("mode")? },
        "nbd-server-stop" => Command::NbdServerStop,
        "block-export-del" => Command::BlockExportDel { id: v.str("id")?, mode: v.opt_enum("mode")? },
        "query-block-exports" => Command::QueryBlockExports,
        _ => return Ok(None),
    }))
}

/// Dirty bitmaps and transactions.
fn bitmap(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(Some(match name {
        "block-dirty-bitmap-add" => Command::BlockDirtyBitmapAdd(BitmapAdd::visit(v)?),
        "block-dirty-bitmap-remove" => Command::BlockDirtyBitmapRemove(BitmapRef::visit(v)?),
        "block-dirty-bitmap-clear" => Command::BlockDirtyBitmapClear(BitmapRef::visit(v)?),
        "block-dirty-bitmap-enable" => Command::BlockDirtyBitmapEnable(BitmapRef::visit(v)?),
        "block-dirty-bitmap-disable" => Command::BlockDirtyBitmapDisable(BitmapRef::visit(v)?),
        "block-dirty-bitmap-merge" => Command::BlockDirtyBitmapMerge(BitmapMerge::visit(v)?),
        "x-debug-block-dirty-bitmap-sha256" => Command::XDebugBlockDirtyBitmapSha256(BitmapRef::visit(v)?),
        "transaction" => Command::Transaction(Transaction::visit(v)?),
        _ => return Ok(None),
    }))
}

/// Steering jobs.
fn job(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(Some(match name {
        "job-pause" => Command::JobPause { id: v.str("id")? },
        "job-resume" => Command::JobResume { id: v.str("id")? },
        "job-cancel" => Command::JobCancel { id: v.str("id")? },
        "job-complete" => Command::JobComplete { id: v.str("id")? },
        "job-dismiss" => Command::JobDismiss { id: v.str("id")? },
        "job-finalize" => Command::JobFinalize { id: v.str("id")? },
        "block-job-cancel" => Command::BlockJobCancel { device: v.str("device")?, force: v.opt_bool("force")? },
        "block-job-pause" => Command::BlockJobPause { device: v.str("device")? },
        "block-job-resume" => Command::BlockJobResume { device: v.str("device")? },
        "block-job-complete" => Command::BlockJobComplete { device: v.str("device")? },
        "block-job-set-speed" => Command::BlockJobSetSpeed { device: v.str("device")?, speed: v.int("speed")? },
        "block-job-finalize" => Command::BlockJobFinalize { id: v.str("id")? },
        "block-job-dismiss" => Command::BlockJobDismiss { id: v.str("id")? },
        "block-job-change" => Command::BlockJobChange(BlockJobChange::visit(v)?),
        _ => return Ok(None),
    }))
}

/// Starting jobs and taking snapshots.
fn start(name: &'static str, v: &mut Visitor<'_>) -> Visit<Option<Command>> {
    Ok(Some(match name {
        "blockdev-backup" => Command::BlockdevBackup(Box::new(BlockdevBackup::visit(v)?)),
        "drive-backup" => Command::DriveBackup(Box::new(DriveBackup::visit(v)?)),
        "blockdev-mirror" => Command::BlockdevMirror(Box::new(BlockdevMirror::visit(v)?)),
        "drive-mirror" => Command::DriveMirror(Box::new(DriveMirror::visit(v)?)),
        "block-commit" => Command::BlockCommit(Box::new(BlockCommit::visit(v)?)),
        "block-stream" => Command::BlockStream(Box::new(BlockStream::visit(v)?)),
        "blockdev-snapshot" => Command::BlockdevSnapshot(BlockdevSnapshot::visit(v)?),
        "blockdev-snapshot-sync" => Command::BlockdevSnapshotSync(Box::new(BlockdevSnapshotSync::visit(v)?)),
        "blockdev-snapshot-internal-sync" => Command::BlockdevSnapshotInternalSync(BlockdevSnapshotInternal::visit(v)?),
        "blockdev-snapshot-delete-internal-sync" => Command::BlockdevSnapshotDeleteInternalSync {
            device: v.str("device")?,
            id: v.opt_str("id")?,
            name: v.opt_str("name")?,
        },
        _ => return Ok(None),
    }))
}
