//! Arguments of `transaction` and of the snapshot commands.

use std::sync::Arc;

use super::bitmap::{BitmapAdd, BitmapMerge, BitmapRef};
use super::enums::{ActionCompletionMode, NewImageMode};
use super::jobs::{BlockdevBackup, DriveBackup};
use crate::qmp::visit::{At, QapiEnum, Visit, Visitor};

/// `blockdev-snapshot` (`BlockdevSnapshot`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockdevSnapshot {
    /// Node or device to put the overlay on.
    pub node: Arc<str>,
    /// The overlay, a node or device.
    pub overlay: Arc<str>,
}

impl BlockdevSnapshot {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockdevSnapshot> {
        Ok(BlockdevSnapshot { node: v.str("node")?, overlay: v.str("overlay")? })
    }
}

/// `blockdev-snapshot-sync` (`BlockdevSnapshotSync`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockdevSnapshotSync {
    /// The device to put the overlay on.
    pub device: Option<Arc<str>>,
    /// The node to put the overlay on.
    pub node_name: Option<Arc<str>>,
    /// File name of the overlay.
    pub snapshot_file: Arc<str>,
    /// Node name of the overlay.
    pub snapshot_node_name: Option<Arc<str>>,
    /// Format of the overlay; default qcow2.
    pub format: Option<Arc<str>>,
    /// Default absolute-paths.
    pub mode: Option<NewImageMode>,
}

impl BlockdevSnapshotSync {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockdevSnapshotSync> {
        Ok(BlockdevSnapshotSync {
            device: v.opt_str("device")?,
            node_name: v.opt_str("node-name")?,
            snapshot_file: v.str("snapshot-file")?,
            snapshot_node_name: v.opt_str("snapshot-node-name")?,
            format: v.opt_str("format")?,
            mode: v.opt_enum("mode")?,
        })
    }
}

/// `blockdev-snapshot-internal-sync` (`BlockdevSnapshotInternal`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockdevSnapshotInternal {
    /// Node or device.
    pub device: Arc<str>,
    /// Name of the snapshot.
    pub name: Arc<str>,
}

impl BlockdevSnapshotInternal {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockdevSnapshotInternal> {
        Ok(BlockdevSnapshotInternal { device: v.str("device")?, name: v.str("name")? })
    }
}

/// One action of a transaction (`TransactionAction`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TransactionAction {
    /// `abort`
    Abort,
    /// `block-dirty-bitmap-add`
    BitmapAdd(BitmapAdd),
    /// `block-dirty-bitmap-remove`
    BitmapRemove(BitmapRef),
    /// `block-dirty-bitmap-clear`
    BitmapClear(BitmapRef),
    /// `block-dirty-bitmap-enable`
    BitmapEnable(BitmapRef),
    /// `block-dirty-bitmap-disable`
    BitmapDisable(BitmapRef),
    /// `block-dirty-bitmap-merge`
    BitmapMerge(BitmapMerge),
    /// `blockdev-backup`
    BlockdevBackup(Box<BlockdevBackup>),
    /// `blockdev-snapshot`
    Snapshot(BlockdevSnapshot),
    /// `blockdev-snapshot-internal-sync`
    SnapshotInternalSync(BlockdevSnapshotInternal),
    /// `blockdev-snapshot-sync`
    SnapshotSync(Box<BlockdevSnapshotSync>),
    /// `drive-backup`
    DriveBackup(Box<DriveBackup>),
}

#[derive(Clone, Copy)]
enum ActionKind {
    Abort,
    BitmapAdd,
    BitmapRemove,
    BitmapClear,
    BitmapEnable,
    BitmapDisable,
    BitmapMerge,
    BlockdevBackup,
    Snapshot,
    SnapshotInternalSync,
    SnapshotSync,
    DriveBackup,
}

impl QapiEnum for ActionKind {
    const TABLE: &'static [(ActionKind, &'static str)] = &[
        (ActionKind::Abort, "abort"),
        (ActionKind::BitmapAdd, "block-dirty-bitmap-add"),
        (ActionKind::BitmapRemove, "block-dirty-bitmap-remove"),
        (ActionKind::BitmapClear, "block-dirty-bitmap-clear"),
        (ActionKind::BitmapEnable, "block-dirty-bitmap-enable"),
        (ActionKind::BitmapDisable, "block-dirty-bitmap-disable"),
        (ActionKind::BitmapMerge, "block-dirty-bitmap-merge"),
        (ActionKind::BlockdevBackup, "blockdev-backup"),
        (ActionKind::Snapshot, "blockdev-snapshot"),
        (ActionKind::SnapshotInternalSync, "blockdev-snapshot-internal-sync"),
        (ActionKind::SnapshotSync, "blockdev-snapshot-sync"),
        (ActionKind::DriveBackup, "drive-backup"),
    ];
}

impl TransactionAction {
    /// The action's type in QMP.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let kind = match self {
            TransactionAction::Abort => ActionKind::Abort,
            TransactionAction::BitmapAdd(_) => ActionKind::BitmapAdd,
            TransactionAction::BitmapRemove(_) => ActionKind::BitmapRemove,
            TransactionAction::BitmapClear(_) => ActionKind::BitmapClear,
            TransactionAction::BitmapEnable(_) => ActionKind::BitmapEnable,
            TransactionAction::BitmapDisable(_) => ActionKind::BitmapDisable,
            TransactionAction::BitmapMerge(_) => ActionKind::BitmapMerge,
            TransactionAction::BlockdevBackup(_) => ActionKind::BlockdevBackup,
            TransactionAction::Snapshot(_) => ActionKind::Snapshot,
            TransactionAction::SnapshotInternalSync(_) => ActionKind::SnapshotInternalSync,
            TransactionAction::SnapshotSync(_) => ActionKind::SnapshotSync,
            TransactionAction::DriveBackup(_) => ActionKind::DriveBackup,
        };
        ActionKind::TABLE[kind as usize].1
    }

    fn visit(at: At<'_>) -> Visit<TransactionAction> {
        let mut v = at.object()?;
        let kind: ActionKind = v.enum_("type")?;
        let action = v.with("data", |at| {
            let mut v = at.object()?;
            let action = Self::visit_data(kind, &mut v)?;
            v.finish()?;
            Ok(action)
        })?;
        v.finish()?;
        Ok(action)
    }

    fn visit_data(kind: ActionKind, v: &mut Visitor<'_>) -> Visit<TransactionAction> {
        Ok(match kind {
            ActionKind::Abort => TransactionAction::Abort,
            ActionKind::BitmapAdd => TransactionAction::BitmapAdd(BitmapAdd::visit(v)?),
            ActionKind::BitmapRemove => TransactionAction::BitmapRemove(BitmapRef::visit(v)?),
            ActionKind::BitmapClear => TransactionAction::BitmapClear(BitmapRef::visit(v)?),
            ActionKind::BitmapEnable => TransactionAction::BitmapEnable(BitmapRef::visit(v)?),
            ActionKind::BitmapDisable => TransactionAction::BitmapDisable(BitmapRef::visit(v)?),
            ActionKind::BitmapMerge => TransactionAction::BitmapMerge(BitmapMerge::visit(v)?),
            ActionKind::BlockdevBackup => TransactionAction::BlockdevBackup(Box::new(BlockdevBackup::visit(v)?)),
            ActionKind::Snapshot => TransactionAction::Snapshot(BlockdevSnapshot::visit(v)?),
            ActionKind::SnapshotInternalSync => {
                TransactionAction::SnapshotInternalSync(BlockdevSnapshotInternal::visit(v)?)
            }
            ActionKind::SnapshotSync => TransactionAction::SnapshotSync(Box::new(BlockdevSnapshotSync::visit(v)?)),
            ActionKind::DriveBackup => TransactionAction::DriveBackup(Box::new(DriveBackup::visit(v)?)),
        })
    }
}

/// `transaction`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// The actions, in order.
    pub actions: Vec<TransactionAction>,
    /// `properties.completion-mode`; default individual.
    pub completion_mode: Option<ActionCompletionMode>,
}

impl Transaction {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<Transaction> {
        let actions = v.list("actions", TransactionAction::visit)?;
        let completion_mode = v.opt_with("properties", |at| {
            let mut v = at.object()?;
            let mode = v.opt_enum("completion-mode")?;
            v.finish()?;
            Ok(mode)
        })?;
        Ok(Transaction { actions, completion_mode: completion_mode.flatten() })
    }
}
