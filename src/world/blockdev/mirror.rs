//! `blockdev-mirror` and `drive-mirror` (`blockdev.c`).

use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockdevMirror, DriveMirror, MirrorCopyMode, NewImageMode, OnError, SyncMode};
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::create::{ImgCreateFrame, NewImage};
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::OpenFlags;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFlags;
use crate::world::job::commands::{HmpJobCommand, JobCommands, copy_arguments};
use crate::world::job::mirror::{BackingMode, MirrorArgs, MirrorFrame};
use crate::world::value::Val;
use std::sync::Arc;

/// What a mirror's granularity may be, in bytes.
const GRANULARITY: std::ops::RangeInclusive<u64> = 512..=64 << 20;

/// `qmp_blockdev_mirror`, `qmp_drive_mirror`, `hmp_drive_mirror`
pub(super) const COMMANDS: JobCommands = JobCommands {
    qmp: |w, command| match command {
        Command::BlockdevMirror(args) => Ok(w.blockdev_mirror(args)),
        Command::DriveMirror(args) => Ok(w.drive_mirror(args)),
        other => Err(other),
    },
    hmp: &[HmpJobCommand { name: "drive_mirror", arguments: copy_arguments }],
    actions: None,
    listed_as: None,
};

/// What `blockdev-mirror` and `drive-mirror` have in common, as it was given: the arguments of `blockdev_mirror_common`, which knows the
/// defaults.
struct Arguments<'a> {
    job_id: &'a Option<Arc<str>>,
    replaces: &'a Option<Arc<str>>,
    sync: SyncMode,
    backing_mode: BackingMode,
    zero_target: bool,
    target_is_zero: bool,
    speed: Option<i64>,
    granularity: Option<u32>,
    buf_size: Option<i64>,
    on_source_error: Option<OnError>,
    on_target_error: Option<OnError>,
    unmap: Option<bool>,
    filter_node_name: &'a Option<Arc<str>>,
    copy_mode: Option<MirrorCopyMode>,
    auto_finalize: Option<bool>,
    auto_dismiss: Option<bool>,
}

impl World {
    /// `qmp_blockdev_mirror`. Leaves `Val::Done`.
    fn blockdev_mirror(&mut self, args: Box<BlockdevMirror>) -> Flow {
        let nodes = self.qmp_get_root_bs(&args.device).and_then(|bs| Ok((bs, self.lookup_bs(&args.target)?)));
        let (bs, target) = match nodes {
            Ok(nodes) => nodes,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        if !self.quirks.since(Change::GraphLockDrained) {
            return self.blockdev_mirror_moved(&args, bs, target);
        }
        self.push(MirrorFrame::TargetMoved { args, bs, target }.into());
        self.try_change_aio_context();
        Flow::Go
    }

    /// `qmp_blockdev_mirror`, once the target is in the source's context.
    pub(in crate::world) fn blockdev_mirror_moved(
        &mut self,
        args: &BlockdevMirror,
        bs: NodeId,
        target: NodeId,
    ) -> Flow {
        let args = Arguments {
            job_id: &args.job_id,
            replaces: &args.replaces,
            sync: args.sync,
            backing_mode: BackingMode::Leave,
            zero_target: args.sync == SyncMode::Full,
            target_is_zero: args.target_is_zero == Some(true),
            speed: args.speed,
            granularity: args.granularity,
            buf_size: args.buf_size,
            on_source_error: args.on_source_error,
            on_target_error: args.on_target_error,
            unmap: None,
            filter_node_name: &args.filter_node_name,
            copy_mode: args.copy_mode,
            auto_finalize: args.auto_finalize,
            auto_dismiss: args.auto_dismiss,
        };
        self.blockdev_mirror_common(bs, target, &args)
    }

    /// `blockdev_mirror_common`. Leaves `Val::Done`.
    fn blockdev_mirror_common(&mut self, bs: NodeId, target: NodeId, args: &Arguments<'_>) -> Flow {
        let mut mirror = MirrorArgs {
            flags: JobFlags {
                id: args.job_id.clone(),
                auto_finalize: args.auto_finalize.unwrap_or(true),
                auto_dismiss: args.auto_dismiss.unwrap_or(true),
                speed: args.speed.unwrap_or(0),
            },
            bs,
            target,
            replaces: args.replaces.clone(),
            granularity: args.granularity.unwrap_or(0).into(),
            buf_size: args.buf_size.unwrap_or(0),
            backing_mode: args.backing_mode,
            zero_target: args.zero_target,
            target_is_zero: args.target_is_zero,
            on_source_error: args.on_source_error.unwrap_or(OnError::Report),
            on_target_error: args.on_target_error.unwrap_or(OnError::Report),
            unmap: args.unmap.unwrap_or(true),
            is_none_mode: false,
            is_top_mode: args.sync == SyncMode::Top,
            base: None,
            filter_node_name: args.filter_node_name.clone(),
            is_mirror: true,
            copy_mode: args.copy_mode.unwrap_or(MirrorCopyMode::Background),
            base_ro: false,
        };
        if let Err(err) = self.mirror_checks(&mut mirror) {
            return self.ret(Val::Done(Err(err)));
        }
        let whole = args.sync == SyncMode::Top
            && !self.quirks.since(Change::MirrorSkipsZeroes)
            && self.graph.backing_chain_next(bs).is_none();
        self.mirror_start(mirror, if whole { SyncMode::Full } else { args.sync })
    }

    fn mirror_checks(&self, args: &mut MirrorArgs) -> Result<(), QmpError> {
        let expects = |what: &str| Err(QmpError::generic(format!("Parameter 'granularity' expects {what}")));
        if args.granularity != 0 && !GRANULARITY.contains(&args.granularity) {
            return expects("a value in range [512B, 64MB]");
        }
        if args.granularity != 0 && !args.granularity.is_power_of_two() {
            return expects("a power of 2");
        }
        for node in [args.bs, args.target] {
            if let Some(err) = self.op_blocked(node) {
                return Err(err);
            }
        }
        if args.replaces.is_none() {
            // What is mirrored from is the whole, but the filters that nobody named stay.
            let unfiltered = self.graph.skip_implicit_filters(args.bs);
            if unfiltered != args.bs {
                args.replaces = Some(self.graph.nodes[unfiltered].node_name.clone());
            }
        }
        match &args.replaces {
            None => Ok(()),
            Some(name) => self.check_to_replace_node(args.bs, name),
        }
    }

    /// `check_to_replace_node`, and the sizes.
    fn check_to_replace_node(&self, bs: NodeId, name: &str) -> Result<(), QmpError> {
        let Some(node) = self.graph.find_node(name) else {
            return Err(QmpError::generic(format!("Failed to find node with node-name='{name}'")));
        };
        if let Some(err) = self.op_blocked(node) {
            return Err(err);
        }
        if !self.bdrv_recurse_can_replace(bs, node) {
            let parent = &self.graph.nodes[bs].node_name;
            return Err(QmpError::generic(format!(
                "Cannot replace '{name}' by a node mirrored from '{parent}', because it cannot be guaranteed that \
                 doing so would not lead to an abrupt change of visible data"
            )));
        }
        if self.bdrv_getlength(bs) != self.bdrv_getlength(node) {
            return Err(QmpError::generic("cannot replace image with a mirror image of different size"));
        }
        Ok(())
    }

    /// `qmp_drive_mirror`. Leaves `Val::Done`.
    fn drive_mirror(&mut self, mut args: Box<DriveMirror>) -> Flow {
        let bs = match self.qmp_get_root_bs(&args.device) {
            Ok(bs) => bs,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        if let Some(err) = self.op_blocked(bs) {
            return self.ret(Val::Done(Err(err)));
        }
        let existing = args.mode == Some(NewImageMode::Existing);
        if args.format.is_none() && !existing {
            args.format = Some(self.graph.nodes[bs].drv().format_name().into());
        }
        let mut backing = self.graph.cow_bs(self.graph.skip_filters(bs));
        if backing.is_none() && args.sync == SyncMode::Top {
            args.sync = SyncMode::Full;
        }
        if args.sync == SyncMode::None {
            backing = Some(bs);
        }
        if args.replaces.is_some() && args.node_name.is_none() {
            let text = "a node-name must be provided when replacing a named node of the graph";
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        let next = Frame::from(MirrorFrame::DriveCreated { args: args.clone(), bs });
        if existing {
            self.leave(Val::Done(Ok(())));
            return self.seq([next]);
        }
        let backing = backing.filter(|_| args.sync != SyncMode::Full).map(|node| {
            let node = self.graph.skip_implicit_filters(node);
            (self.filename_of(node), Arc::from(self.graph.nodes[node].drv().format_name()))
        });
        let format = args.format.clone().expect("just set");
        let size = self.bdrv_getlength(bs);
        self.seq([
            ImgCreateFrame::ImgCreate(Box::new(NewImage {
                path: args.target.clone(),
                format,
                backing,
                look: false,
                size,
            }))
            .into(),
            next,
        ])
    }

    /// `qmp_drive_mirror`, after the image was created: opens it.
    pub(in crate::world) fn drive_mirror_created(&mut self, args: Box<DriveMirror>, bs: NodeId) -> Flow {
        if let Err(err) = self.take_done() {
            return self.ret(Val::Done(Err(err)));
        }
        let flags = OpenFlags {
            rdwr: true,
            no_backing: true,
            auto_read_only: false,
            force_share: false,
            ..self.graph.nodes[bs].flags
        };
        // The flags of the source are the target's, and among them that it is a protocol: an existing image is then not probed.
        let mut spec = match (&args.format, self.graph.nodes[bs].drv().has_protocol_name()) {
            (None, true) => OpenSpec::from_protocol_name(&args.target, flags),
            (format, _) => OpenSpec::from_filename(&args.target, format.as_deref(), flags),
        };
        spec.name(args.node_name.as_ref());
        self.seq([OpenFrame::BdrvOpen(Arc::new(spec)).into(), MirrorFrame::DriveOpened { args, bs }.into()])
    }

    /// `qmp_drive_mirror`, after the target was opened: the job.
    pub(in crate::world) fn drive_mirror_opened(&mut self, args: Box<DriveMirror>, bs: NodeId) -> Flow {
        let Val::Node(opened) = self.take_val() else { unreachable!("a node or an error") };
        let target = match opened {
            Ok(target) => target,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        self.push(Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(target).into())));
        if !self.quirks.since(Change::GraphLockDrained) {
            return self.drive_mirror_moved(&args, bs, target);
        }
        self.push(MirrorFrame::DriveMoved { args, bs, target }.into());
        self.try_change_aio_context();
        Flow::Go
    }

    /// `qmp_drive_mirror`, once the target is in the source's context: the job.
    pub(in crate::world) fn drive_mirror_moved(&mut self, args: &DriveMirror, bs: NodeId, target: NodeId) -> Flow {
        let existing = args.mode == Some(NewImageMode::Existing);
        let args = Arguments {
            job_id: &args.job_id,
            replaces: &args.replaces,
            sync: args.sync,
            backing_mode: if existing { BackingMode::Open } else { BackingMode::Source },
            // An image that was just made reads as zeroes (`bdrv_has_zero_init`): that holds for all formats and files here.
            zero_target: args.sync == SyncMode::Full && existing,
            target_is_zero: !existing,
            speed: args.speed,
            granularity: args.granularity,
            buf_size: args.buf_size,
            on_source_error: args.on_source_error,
            on_target_error: args.on_target_error,
            unmap: args.unmap,
            filter_node_name: &None,
            copy_mode: args.copy_mode,
            auto_finalize: args.auto_finalize,
            auto_dismiss: args.auto_dismiss,
        };
        self.blockdev_mirror_common(bs, target, &args)
    }
}
