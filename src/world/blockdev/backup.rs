//! `blockdev-backup` and `drive-backup`: from arguments to a job (`blockdev.c`).

use super::transaction::{ActionState, JobAction};
use crate::bitmap::CheckFlags;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::types::{
    BackupCommon, BackupPerf, BitmapSyncMode, BlockdevBackup, DriveBackup, NewImageMode, OnCbwError, OnError, SyncMode,
    TransactionAction,
};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::arena::JobId;
use crate::world::arena::{NodeId, TranId, TxnId};
use crate::world::block::create::{ImgCreateFrame, NewImage};
use crate::world::block::drain::DrainFrame;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::OpenFlags;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFlags;
use crate::world::job::JobFrame;
use crate::world::job::backup::BackupArgs;
use crate::world::job::commands::{HmpJobCommand, JobActions, JobCommands, copy_arguments};
use crate::world::value::Val;
use std::sync::Arc;

/// `qmp_blockdev_backup`, `qmp_drive_backup`, `hmp_drive_backup`
pub(super) const COMMANDS: JobCommands = JobCommands {
    qmp: |w, command| {
        Ok(w.blockdev_do_action(match command {
            Command::BlockdevBackup(args) => TransactionAction::BlockdevBackup(args),
            Command::DriveBackup(args) => TransactionAction::DriveBackup(args),
            other => return Err(other),
        }))
    },
    hmp: &[HmpJobCommand { name: "drive_backup", arguments: copy_arguments }],
    actions: Some(JobActions {
        names: &["blockdev-backup", "drive-backup"],
        prepare: |w, (tran, index), action, txn| match action {
            TransactionAction::BlockdevBackup(args) => w.blockdev_backup_action(tran, index, args, txn),
            TransactionAction::DriveBackup(args) => w.drive_backup_action(tran, index, args, txn),
            other => unreachable!("{} starts no backup", other.name()),
        },
    }),
    listed_as: None,
};

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BackupCommandFrame {
    BackupIfBacked { common: Box<BackupCommon>, source: NodeId, target: NodeId, txn: Option<TxnId> },
    BackupCommon { common: Box<BackupCommon>, source: NodeId, target: NodeId, txn: Option<TxnId> },
    DriveBackupDrained { args: Box<DriveBackup>, bs: NodeId, txn: Option<TxnId> },
    DriveBackupCreated { args: Box<DriveBackup>, bs: NodeId, txn: Option<TxnId> },
    DriveBackupOpened { args: Box<DriveBackup>, bs: NodeId, txn: Option<TxnId> },
    TranJob(TranId, usize),
}

impl BackupCommandFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BackupCommandFrame::BackupIfBacked { common, source, target, txn } => match w.take_done() {
                Ok(()) => w.seq([BackupCommandFrame::BackupCommon { common, source, target, txn }.into()]),
                Err(err) => w.ret(Val::Job(Err(err))),
            },
            BackupCommandFrame::BackupCommon { common, source, target, txn } => {
                w.do_backup_common(&common, source, target, txn)
            }
            BackupCommandFrame::DriveBackupDrained { args, bs, txn } => w.drive_backup_drained(args, bs, txn),
            BackupCommandFrame::DriveBackupCreated { args, bs, txn } => w.drive_backup_created(args, bs, txn),
            BackupCommandFrame::DriveBackupOpened { args, bs, txn } => w.drive_backup_opened(args, bs, txn),
            BackupCommandFrame::TranJob(tran, index) => w.tran_job(tran, index),
        }
    }
}

impl World {
    /// `blockdev_backup_action`
    pub(super) fn blockdev_backup_action(
        &mut self,
        tran: TranId,
        index: usize,
        args: Box<BlockdevBackup>,
        txn: Option<TxnId>,
    ) -> Flow {
        let nodes = self.lookup_bs(&args.common.device).and_then(|bs| Ok((bs, self.lookup_bs(&args.target)?)));
        let (source, target) = match nodes {
            Ok(nodes) => nodes,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        self.trans[tran].states[index] = ActionState::Job(JobAction::draining(source));
        let common = Box::new(args.common);
        let job = self.seq([
            DrainFrame::DrainedBegin(source).into(),
            BackupCommandFrame::BackupCommon { common, source, target, txn }.into(),
            BackupCommandFrame::TranJob(tran, index).into(),
        ]);
        self.try_change_aio_context();
        job
    }

    /// Notes the job of a backup action.
    fn tran_job(&mut self, tran: TranId, index: usize) -> Flow {
        let job: Result<JobId, QmpError> = self.take();
        let early = self.quirks.has(Quirk::TxnStartInPrepare);
        let mut starts = None;
        let done = job.map(|job| {
            if let ActionState::Job(action) = &mut self.trans[tran].states[index] {
                action.job = Some(job);
                // A drained section did not hold up a job's start then.
                starts = action.drained.take_if(|_| early).map(|bs| (bs, job));
            }
        });
        match starts {
            Some((bs, job)) => self.seq([
                DrainFrame::DrainedEnd(bs).into(),
                JobFrame::JobStart(job).into(),
                Frame::Give(Box::new(Val::Done(done))),
            ]),
            None => self.ret(Val::Done(done)),
        }
    }

    /// `do_backup_common`. Leaves `Val::Job`.
    fn do_backup_common(&mut self, common: &BackupCommon, source: NodeId, target: NodeId, txn: Option<TxnId>) -> Flow {
        // A job that ended while its source was drained took its filter with it. Unlike QEMU, which goes on with memory that it freed,
        // the name is then no longer one of a node.
        if let Some(err) = self.vanished(&[source, target], &common.device) {
            return self.ret(Val::Job(Err(err)));
        }
        match self.backup_args(common, source, target, txn) {
            Ok(args) => self.backup_job_create(Box::new(args)),
            Err(err) => self.ret(Val::Job(Err(err))),
        }
    }

    /// The error if one of the nodes is gone.
    fn vanished(&self, nodes: &[NodeId], device: &str) -> Option<QmpError> {
        let gone = nodes.iter().any(|bs| self.graph.nodes.get(*bs).is_none_or(|node| node.driver.is_none()));
        let text = || QmpError::generic(format!("Cannot find device='{device}' nor node-name='{device}'"));
        gone.then(text)
    }

    fn backup_args(
        &self,
        common: &BackupCommon,
        source: NodeId,
        target: NodeId,
        txn: Option<TxnId>,
    ) -> Result<BackupArgs, QmpError> {
        let generic = |text: String| Err(QmpError::generic(text));
        let (mut sync_mode, mut bitmap_mode) = (common.sync, common.bitmap_mode);
        if matches!(sync_mode, SyncMode::Bitmap | SyncMode::Incremental) && common.bitmap.is_none() {
            return generic(format!("must provide a valid bitmap name for '{}' sync mode", sync_mode.name()));
        }
        if sync_mode == SyncMode::Incremental {
            if bitmap_mode.is_some_and(|mode| mode != BitmapSyncMode::OnSuccess) {
                return generic("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'".to_owned());
            }
            sync_mode = SyncMode::Bitmap;
            bitmap_mode = Some(BitmapSyncMode::OnSuccess);
        }
        let mut sync_bitmap = None;
        if let Some(name) = &common.bitmap {
            let Some(id) = self.graph.nodes[source].bitmaps.find(name) else {
                return generic(format!("Bitmap '{name}' could not be found"));
            };
            let Some(mode) = bitmap_mode else {
                return generic("Bitmap sync mode must be given when providing a bitmap".to_owned());
            };
            self.bitmap_check(source, id, CheckFlags::ALLOW_RO)?;
            if sync_mode == SyncMode::None {
                return generic("sync mode 'none' does not produce meaningful bitmap outputs".to_owned());
            }
            if mode == BitmapSyncMode::Never && sync_mode != SyncMode::Bitmap {
                return generic(format!(
                    "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{}'",
                    sync_mode.name()
                ));
            }
            sync_bitmap = Some(id);
        } else if bitmap_mode.is_some() {
            return generic("Cannot specify bitmap sync mode without a bitmap".to_owned());
        }
        let perf = common.x_perf.clone().unwrap_or(BackupPerf {
            use_copy_range: None,
            max_workers: None,
            max_chunk: None,
            min_cluster_size: None,
        });
        Ok(BackupArgs {
            flags: JobFlags {
                id: common.job_id.clone(),
                auto_finalize: common.auto_finalize.unwrap_or(true),
                auto_dismiss: common.auto_dismiss.unwrap_or(true),
                speed: common.speed.unwrap_or(0),
            },
            source,
            target,
            sync_mode,
            sync_bitmap,
            bitmap_mode: bitmap_mode.unwrap_or(BitmapSyncMode::OnSuccess),
            compress: common.compress.unwrap_or(false),
            discard_source: common.discard_source.unwrap_or(false),
            filter_node_name: common.filter_node_name.clone(),
            perf,
            on_source_error: common.on_source_error.unwrap_or(OnError::Report),
            on_target_error: common.on_target_error.unwrap_or(OnError::Report),
            break_snapshot: common.on_cbw_error == Some(OnCbwError::BreakSnapshot),
            txn,
        })
    }

    /// `drive_backup_action`
    pub(super) fn drive_backup_action(
        &mut self,
        tran: TranId,
        index: usize,
        args: Box<DriveBackup>,
        txn: Option<TxnId>,
    ) -> Flow {
        let bs = match self.lookup_bs(&args.common.device) {
            Ok(bs) => bs,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        if !self.graph.nodes[bs].has_drv() {
            return self.ret(Val::Done(Err(QmpError::generic("Device has no medium"))));
        }
        let leaves_drain = self.quirks.has(Quirk::TxnEarlyFailLeavesDrain);
        self.trans[tran].states[index] = ActionState::Job(JobAction { leaves_drain, ..JobAction::draining(bs) });
        self.seq([
            DrainFrame::DrainedBegin(bs).into(),
            BackupCommandFrame::DriveBackupDrained { args, bs, txn }.into(),
            BackupCommandFrame::TranJob(tran, index).into(),
        ])
    }

    /// `drive_backup_action`, in its drained section: makes the target. Leaves `Val::Job`.
    fn drive_backup_drained(&mut self, mut args: Box<DriveBackup>, bs: NodeId, txn: Option<TxnId>) -> Flow {
        if let Some(err) = self.vanished(&[bs], &args.common.device).or_else(|| self.op_blocked_by_job(bs)) {
            return self.ret(Val::Job(Err(err)));
        }
        let existing = args.mode == Some(NewImageMode::Existing);
        if args.format.is_none() && !existing {
            args.format = Some(self.graph.nodes[bs].drv().format_name().into());
        }
        let mut backing = None;
        match args.common.sync {
            SyncMode::Top => match self.graph.cow_bs(self.graph.skip_filters(bs)) {
                Some(below) => backing = Some(below),
                None => args.common.sync = SyncMode::Full,
            },
            SyncMode::None => backing = Some(bs),
            _ => {}
        }
        let next = BackupCommandFrame::DriveBackupCreated { args: args.clone(), bs, txn }.into();
        if existing {
            self.leave(Val::Done(Ok(())));
            return self.seq([next]);
        }
        let format = args.format.clone().expect("just set");
        let backing =
            backing.map(|node| (self.filename_of(node), Arc::from(self.graph.nodes[node].drv().format_name())));
        let size = self.bdrv_getlength(bs);
        let look = args.common.sync != SyncMode::None;
        self.seq([
            ImgCreateFrame::ImgCreate(Box::new(NewImage { path: args.target.clone(), format, backing, look, size }))
                .into(),
            next,
        ])
    }

    /// `drive_backup_action`, after the image was created: opens it.
    fn drive_backup_created(&mut self, args: Box<DriveBackup>, bs: NodeId, txn: Option<TxnId>) -> Flow {
        if let Err(err) = self.take_done() {
            return self.ret(Val::Job(Err(err)));
        }
        let none = args.common.sync == SyncMode::None;
        let flags = OpenFlags {
            rdwr: true,
            unmap: true,
            no_backing: none,
            auto_read_only: false,
            force_share: false,
            ..self.graph.nodes[bs].flags
        };
        // The flags of the source are the target's, and among them that it is a protocol: an existing image is then not probed.
        let mut spec = match (&args.format, self.graph.nodes[bs].drv().has_protocol_name()) {
            (None, true) => OpenSpec::from_protocol_name(&args.target, flags),
            (format, _) => OpenSpec::from_filename(&args.target, format.as_deref(), flags),
        };
        spec.detect_zeroes = crate::world::block::graph::DetectZeroes::Unmap;
        self.seq([
            OpenFrame::BdrvOpen(Arc::new(spec)).into(),
            BackupCommandFrame::DriveBackupOpened { args, bs, txn }.into(),
        ])
    }

    /// `drive_backup_action`, after the target was opened: the job.
    fn drive_backup_opened(&mut self, args: Box<DriveBackup>, bs: NodeId, txn: Option<TxnId>) -> Flow {
        let opened: Result<NodeId, QmpError> = self.take();
        let target = match opened {
            Ok(target) => target,
            Err(err) => return self.ret(Val::Job(Err(err))),
        };
        let common = Box::new(args.common.clone());
        let release = Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(target).into()));
        if self.quirks.has(Quirk::RejectedBackupLeaksTarget)
            && let Some(name) = &args.common.bitmap
            && let Some(id) = self.graph.nodes[bs].bitmaps.find(name)
            && self.bitmap_check(bs, id, CheckFlags::DEFAULT).is_err()
        {
            return self.seq([BackupCommandFrame::BackupCommon { common, source: bs, target, txn }.into()]);
        }
        if args.common.sync == SyncMode::None {
            let backing = EdgesFrame::SetBackingHd { bs: target, backing: bs }.into();
            let job = BackupCommandFrame::BackupIfBacked { common, source: bs, target, txn }.into();
            self.push_all(vec![backing, job, release]);
        } else {
            self.push_all(vec![BackupCommandFrame::BackupCommon { common, source: bs, target, txn }.into(), release]);
        }
        self.try_change_aio_context();
        Flow::Go
    }
}
