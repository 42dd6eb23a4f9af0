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
enum Kind {
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

impl QapiEnum for Kind {
    const TABLE: &'static [(Kind, &'static str)] = &[
        (Kind::Abort, "abort"),
        (Kind::BitmapAdd, "block-dirty-bitmap-add"),
        (Kind::BitmapRemove, "block-dirty-bitmap-remove"),
        (Kind::BitmapClear, "block-dirty-bitmap-clear"),
        (Kind::BitmapEnable, "block-dirty-bitmap-enable"),
        (Kind::BitmapDisable, "block-dirty-bitmap-disable"),
        (Kind::BitmapMerge, "block-dirty-bitmap-merge"),
        (Kind::BlockdevBackup, "blockdev-backup"),
        (Kind::Snapshot, "blockdev-snapshot"),
        (Kind::SnapshotInternalSync, "blockdev-snapshot-internal-sync"),
        (Kind::SnapshotSync, "blockdev-snapshot-sync"),
        (Kind::DriveBackup, "drive-backup"),
    ];
}

impl TransactionAction {
    /// The action's type in QMP.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let kind = match self {
            TransactionAction::Abort => Kind::Abort,
            TransactionAction::BitmapAdd(_) => Kind::BitmapAdd,
            TransactionAction::BitmapRemove(_) => Kind::BitmapRemove,
            TransactionAction::BitmapClear(_) => Kind::BitmapClear,
            TransactionAction::BitmapEnable(_) => Kind::BitmapEnable,
            TransactionAction::BitmapDisable(_) => Kind::BitmapDisable,
            TransactionAction::BitmapMerge(_) => Kind::BitmapMerge,
            TransactionAction::BlockdevBackup(_) => Kind::BlockdevBackup,
            TransactionAction::Snapshot(_) => Kind::Snapshot,
            TransactionAction::SnapshotInternalSync(_) => Kind::SnapshotInternalSync,
            TransactionAction::SnapshotSync(_) => Kind::SnapshotSync,
            TransactionAction::DriveBackup(_) => Kind::DriveBackup,
        };
        Kind::TABLE[kind as usize].1
    }

    fn visit(at: At<'_>) -> Visit<TransactionAction> {
        let mut v = at.object()?;
        let kind: Kind = v.enum_("type")?;
        let action = v.with("data", |at| {
            let mut v = at.object()?;
            let action = Self::visit_data(kind, &mut v)?;
            v.finish()?;
            Ok(action)
        })?;
        v.finish()?;
        Ok(action)
    }

    fn visit_data(kind: Kind, v: &mut Visitor<'_>) -> Visit<TransactionAction> {
        Ok(match kind {
            Kind::Abort => TransactionAction::Abort,
            Kind::BitmapAdd => TransactionAction::BitmapAdd(BitmapAdd::visit(v)?),
            Kind::BitmapRemove => TransactionAction::BitmapRemove(BitmapRef::visit(v)?),
            Kind::BitmapClear => TransactionAction::BitmapClear(BitmapRef::visit(v)?),
            Kind::BitmapEnable => TransactionAction::BitmapEnable(BitmapRef::visit(v)?),
            Kind::BitmapDisable => TransactionAction::BitmapDisable(BitmapRef::visit(v)?),
            Kind::BitmapMerge => TransactionAction::BitmapMerge(BitmapMerge::visit(v)?),
            Kind::BlockdevBackup => TransactionAction::BlockdevBackup(Box::new(BlockdevBackup::visit(v)?)),
            Kind::Snapshot => TransactionAction::Snapshot(BlockdevSnapshot::visit(v)?),
            Kind::SnapshotInternalSync => TransactionAction::SnapshotInternalSync(BlockdevSnapshotInternal::visit(v)?),
            Kind::SnapshotSync => TransactionAction::SnapshotSync(Box::new(BlockdevSnapshotSync::visit(v)?)),
            Kind::DriveBackup => TransactionAction::DriveBackup(Box::new(DriveBackup::visit(v)?)),
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
