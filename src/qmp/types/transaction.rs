//! Arguments of `transaction` and of the snapshot commands.

use std::sync::Arc;

use super::bitmap::{BitmapAdd, BitmapMerge, BitmapRef};
use super::enums::{ActionCompletionMode, NewImageMode};
use super::jobs::{BlockdevBackup, DriveBackup};
use crate::qmp::declare::{Members, members, values};
use crate::qmp::visit::{QapiEnum, ValueAt, Visit, Visitor};

members! {
    /// `blockdev-snapshot` (`BlockdevSnapshot`).
    pub struct BlockdevSnapshot {
        /// Node or device to put the overlay on.
        node: Arc<str>,
        /// The overlay, a node or device.
        overlay: Arc<str>,
    }
}

members! {
    /// `blockdev-snapshot-sync` (`BlockdevSnapshotSync`).
    pub struct BlockdevSnapshotSync {
        /// The device to put the overlay on.
        device: Option<Arc<str>>,
        /// The node to put the overlay on.
        node_name: Option<Arc<str>>,
        /// File name of the overlay.
        snapshot_file: Arc<str>,
        /// Node name of the overlay.
        snapshot_node_name: Option<Arc<str>>,
        /// Format of the overlay; default qcow2.
        format: Option<Arc<str>>,
        /// Default absolute-paths.
        mode: Option<NewImageMode>,
    }
}

members! {
    /// `blockdev-snapshot-internal-sync` (`BlockdevSnapshotInternal`).
    pub struct BlockdevSnapshotInternal {
        /// Node or device.
        device: Arc<str>,
        /// Name of the snapshot.
        name: Arc<str>,
    }
}

/// Actions: the variant, its name in QMP, and what its `data` is.
macro_rules! actions {
    ($($variant:ident $(($data:ty))? = $name:literal,)+) => {
        /// One action of a transaction (`TransactionAction`).
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum TransactionAction {
            $(#[doc = concat!("`", $name, "`")] $variant $(($data))?,)+
        }

        /// `TransactionActionKind`
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        struct ActionKind(usize);

        impl QapiEnum for ActionKind {
            const TABLE: &'static [(ActionKind, &'static str)] = &{
                let mut table = [$((ActionKind(0), $name),)+];
                let mut i = 0;
                while i < table.len() {
                    table[i].0 = ActionKind(i);
                    i += 1;
                }
                table
            };
        }

        impl TransactionAction {
            /// All types in QMP.
            pub const NAMES: &'static [&'static str] = &[$($name,)+];

            /// The action's type in QMP.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(TransactionAction::$variant { .. } => $name,)+
                }
            }

            /// Reads the members of `data`.
            fn visit_data(kind: ActionKind, v: &mut Visitor<'_>) -> Visit<TransactionAction> {
                Ok(match ActionKind::TABLE[kind.0].1 {
                    $($name => TransactionAction::$variant $((<$data as Members>::members(v)?))?,)+
                    other => unreachable!("{other} is an action"),
                })
            }
        }
    };
}

actions! {
    Abort = "abort",
    BitmapAdd(BitmapAdd) = "block-dirty-bitmap-add",
    BitmapRemove(BitmapRef) = "block-dirty-bitmap-remove",
    BitmapClear(BitmapRef) = "block-dirty-bitmap-clear",
    BitmapEnable(BitmapRef) = "block-dirty-bitmap-enable",
    BitmapDisable(BitmapRef) = "block-dirty-bitmap-disable",
    BitmapMerge(BitmapMerge) = "block-dirty-bitmap-merge",
    BlockdevBackup(Box<BlockdevBackup>) = "blockdev-backup",
    Snapshot(BlockdevSnapshot) = "blockdev-snapshot",
    SnapshotInternalSync(BlockdevSnapshotInternal) = "blockdev-snapshot-internal-sync",
    SnapshotSync(Box<BlockdevSnapshotSync>) = "blockdev-snapshot-sync",
    DriveBackup(Box<DriveBackup>) = "drive-backup",
}

impl TransactionAction {
    fn visit(at: ValueAt<'_>) -> Visit<TransactionAction> {
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
}

values!(TransactionAction);

members! {
    /// `TransactionProperties`
    #[derive(Copy, Default)]
    pub struct TransactionProperties {
        /// Default individual.
        completion_mode: Option<ActionCompletionMode>,
    }

    /// `transaction`.
    pub struct Transaction {
        /// The actions, in order.
        actions: Vec<TransactionAction>,
        /// What holds for all of them.
        properties: Option<TransactionProperties>,
    }
}
