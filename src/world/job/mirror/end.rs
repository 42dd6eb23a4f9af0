//! The end of a mirror: the target takes the place of the source, or does not, and the filter goes
//! (`block/mirror.c:mirror_exit_common`).

use super::{BackingMode, MirrorFrame};
use crate::base::errno::{Errno, Ret};
use crate::qmp::error::QmpError;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::drain::DrainFrame;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::reopen::Reopen;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::job::block_job::BlockJobFrame;
use crate::world::value::Val;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum EndStage {
    /// The target's backend is gone, filter and target are drained.
    Stopped,
    /// The target's backing file was seen to.
    Backed,
    /// The target is as writable as what it replaces.
    Writable,
    /// What it replaces is drained, and the graph locked.
    Replace,
    /// It stands in its place, or does not.
    Replaced,
    /// The job has no nodes any more, and the graph is locked.
    DropTop,
    /// The filter is gone.
    Dropped,
    /// All that is left are drained sections and references.
    End,
}

/// `mirror_exit_common`, and how far it got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exit {
    job: JobId,
    /// The node below the filter.
    src: NodeId,
    top: NodeId,
    target: NodeId,
    /// The job failed or was cancelled by force.
    abort: bool,
    ret: Ret,
    at: EndStage,
}

impl World {
    /// `mirror_exit_common`: `prepare`, or `abort` where there was none. Leaves `Val::Ret`.
    pub(super) fn mirror_exit_common(&mut self, job: JobId) -> Flow {
        if self.mirror(job).prepared {
            if self.quirks.has(Quirk::MirrorExitTwice) {
                let subject = format!("job {}", self.jobs[job].id);
                Self::qemu_aborts(subject, "mirror_exit_common: it runs again, and the job's target is gone");
            }
            return self.ret(Val::Ret(Ok(())));
        }
        let (src, target) = (self.mirror_source(job), self.mirror_target(job));
        let abort = self.jobs[job].ret.is_some();
        let s = self.mirror(job);
        s.prepared = true;
        let top = s.top;
        let blk = s.target.take().expect("it is there until here");
        self.mirror_release_bitmap(job);
        if self.graph.chain_contains(src, target) {
            self.graph.unfreeze_backing_chain(top, Some(target));
        }
        for bs in [src, top, target] {
            self.bdrv_ref(bs);
        }
        let exit = Box::new(Exit { job, src, top, target, abort, ret: Ok(()), at: EndStage::Stopped });
        self.seq([
            BackendFrame::BlkUnref(blk).into(),
            DrainFrame::DrainedBegin(top).into(),
            DrainFrame::DrainedBegin(target).into(),
            MirrorFrame::Exit(exit).into(),
        ]);
        // It is drained since the coroutine ended, but with `Quirk::MirrorSwitchWindow`.
        if !std::mem::replace(&mut self.mirror(job).in_drain, true) {
            self.push(DrainFrame::DrainedBegin(src).into());
        }
        Flow::Go
    }

    /// One step of `mirror_exit_common`.
    pub(super) fn mirror_exit(&mut self, exit: Box<Exit>) -> Flow {
        match exit.at {
            EndStage::Stopped => self.mirror_exit_stopped(exit),
            EndStage::Backed => self.mirror_exit_backed(exit),
            EndStage::Writable => self.mirror_exit_writable(exit),
            EndStage::Replace => self.mirror_exit_replace(exit),
            EndStage::Replaced => self.mirror_exit_replaced(exit),
            EndStage::DropTop => self.mirror_exit_drop_top(exit),
            EndStage::Dropped => self.mirror_exit_dropped(exit),
            EndStage::End => self.mirror_exit_end(&exit),
        }
    }

    /// The filter gives up what it has of the source; the target gets its backing file.
    fn mirror_exit_stopped(&mut self, mut exit: Box<Exit>) -> Flow {
        self.mirror_top(exit.top).stop = true;
        self.perms_of(&[exit.top]).expect("giving up permissions cannot cause a conflict");
        let s = self.jobs[exit.job].mirror();
        let (mode, none, base) = (s.backing_mode, s.is_none_mode, s.base);
        exit.at = EndStage::Backed;
        let target = self.graph.skip_filters(exit.target);
        self.leave(Val::None);
        match mode {
            BackingMode::Source if !exit.abort => {
                let backing = if none { Some(exit.src) } else { base };
                if backing.is_some_and(|backing| self.graph.nodes.get(backing).is_none()) {
                    let reason =
                        "mirror_exit_common: the backing file that the source had is gone, and the target gets it";
                    Self::qemu_is_known_to_use_freed("base-taken-from-a-mirror", format!("{base:?}"), reason);
                }
                match backing.filter(|backing| self.graph.cow_bs(target) != Some(*backing)) {
                    Some(backing) => self
                        .seq([EdgesFrame::SetBackingHd { bs: target, backing }.into(), MirrorFrame::Exit(exit).into()]),
                    None => self.mirror_exit_backed(exit),
                }
            }
            BackingMode::Open if !exit.abort => {
                self.seq([OpenFrame::OpenBackingFile(target).into(), MirrorFrame::Exit(exit).into()])
            }
            _ => self.mirror_exit_backed(exit),
        }
    }

    /// A failure with the backing file is the job's, and yet the target takes the source's place.
    fn mirror_exit_backed(&mut self, mut exit: Box<Exit>) -> Flow {
        if let Err(err) = self.take_done() {
            self.console_error(&err.desc);
            let opened = self.jobs[exit.job].mirror().backing_mode == BackingMode::Open;
            exit.ret = Err(if opened { Errno::EINVAL } else { Errno::EPERM });
            if !self.quirks.has(Quirk::MirrorFailedPivot) {
                return self.mirror_exit_replaced(exit);
            }
            self.see_excuse(exit.job, Quirk::MirrorFailedPivot, None);
        }
        let soft = self.jobs[exit.job].cancelled && self.quirks.has(Quirk::SeededCancelledMirrorPivots);
        if exit.abort || !(soft || self.mirror(exit.job).should_complete) {
            return self.mirror_exit_replaced(exit);
        }
        let to_replace = self.mirror_to_replace(&exit);
        let rdwr = self.graph.nodes[to_replace].flags.rdwr;
        exit.at = EndStage::Writable;
        if rdwr != self.graph.nodes[exit.target].flags.rdwr {
            let reopen = Reopen::set_read_only(self, exit.target, !rdwr);
            return self.seq([ReopenFrame::Reopen(Box::new(reopen)).into(), MirrorFrame::Exit(exit).into()]);
        }
        self.mirror_exit_writable(exit)
    }

    fn mirror_to_replace(&self, exit: &Exit) -> NodeId {
        self.jobs[exit.job].mirror().to_replace.unwrap_or(exit.src)
    }

    /// Nobody is told where the target can't be made so.
    fn mirror_exit_writable(&mut self, mut exit: Box<Exit>) -> Flow {
        self.leave(Val::None);
        let to_replace = self.mirror_to_replace(&exit);
        assert!(self.mirror(exit.job).in_drain, "the source is drained since the job's coroutine ended");
        exit.at = EndStage::Replace;
        self.seq([
            DrainFrame::DrainedBegin(to_replace).into(),
            GraphLockFrame::GraphWrlockOnly.into(),
            MirrorFrame::Exit(exit).into(),
        ])
    }

    /// The target takes the place of what it replaces.
    fn mirror_exit_replace(&mut self, mut exit: Box<Exit>) -> Flow {
        let to_replace = self.mirror_to_replace(&exit);
        let done = if self.bdrv_recurse_can_replace(exit.src, to_replace) {
            self.replace_node(to_replace, exit.target, false)
        } else {
            let (from, to) = (&self.graph.nodes[to_replace].node_name, &self.graph.nodes[exit.target].node_name);
            Err(QmpError::generic(format!(
                "Can no longer replace '{from}' by '{to}', because it can no longer be guaranteed that doing so would \
                 not lead to an abrupt change of visible data"
            )))
        };
        match done {
            Ok(()) => {
                self.trace_pivot(to_replace, exit.target);
                self.see_pivot(exit.job, exit.target);
            }
            Err(err) => {
                self.console_error(&err.desc);
                exit.ret = Err(Errno::EPERM);
            }
        }
        exit.at = EndStage::Replaced;
        self.seq([
            GraphLockFrame::GraphWrunlock.into(),
            DrainFrame::DrainedEnd(to_replace).into(),
            MirrorFrame::Exit(exit).into(),
        ])
    }

    /// The job gives up its nodes.
    fn mirror_exit_replaced(&mut self, mut exit: Box<Exit>) -> Flow {
        let job = exit.job;
        exit.at = EndStage::DropTop;
        self.push(MirrorFrame::Exit(exit).into());
        self.push_all(vec![
            GraphLockFrame::GraphWrlock.into(),
            BlockJobFrame::JobRemoveAllBdrv(job).into(),
            GraphLockFrame::GraphWrunlock.into(),
            GraphLockFrame::GraphWrlockOnly.into(),
        ]);
        if let Some(replaced) = self.mirror(job).to_replace.take() {
            self.graph.nodes[replaced].replace_blockers.retain(|other| *other != job);
            return self.seq([GraphFrame::BdrvUnref(replaced).into()]);
        }
        Flow::Go
    }

    /// `mirror_exit_common`: what was above the filter stands on the node below it again.
    fn mirror_exit_drop_top(&mut self, mut exit: Box<Exit>) -> Flow {
        let below = self.graph.filter_bs(exit.top).expect("the filter is in place");
        if let Err(err) = self.replace_node(exit.top, below, false) {
            let reason = format!("mirror_exit_common: the filter can't be taken away: {}", err.desc);
            Self::qemu_is_known_to_abort(
                "qemu-io-as-a-commit-ends",
                format!("job {}", self.jobs[exit.job].id),
                &reason,
            );
        }
        exit.at = EndStage::Dropped;
        self.seq([GraphLockFrame::GraphWrunlock.into(), MirrorFrame::Exit(exit).into()])
    }

    /// A base that was read-only is so again, unless it is the active layer now.
    fn mirror_exit_dropped(&mut self, mut exit: Box<Exit>) -> Flow {
        exit.at = EndStage::End;
        let writable = self.graph.nodes[exit.target].flags.rdwr;
        let forgotten = self.quirks.has(Quirk::CommitLeavesBaseWritable);
        if exit.abort && self.mirror(exit.job).base_ro && writable && !forgotten {
            let reopen = Reopen::set_read_only(self, exit.target, true);
            return self.seq([ReopenFrame::Reopen(Box::new(reopen)).into(), MirrorFrame::Exit(exit).into()]);
        }
        self.mirror_exit_end(&exit)
    }

    /// The drained sections end.
    fn mirror_exit_end(&mut self, exit: &Exit) -> Flow {
        let (src, top, target, ret) = (exit.src, exit.top, exit.target, exit.ret);
        self.mirror_top(top).job = None;
        self.mirror(exit.job).in_drain = false;
        self.seq([
            DrainFrame::DrainedEnd(target).into(),
            GraphFrame::BdrvUnref(target).into(),
            DrainFrame::DrainedEnd(src).into(),
            DrainFrame::DrainedEnd(top).into(),
            GraphFrame::BdrvUnref(top).into(),
            GraphFrame::BdrvUnref(src).into(),
            Frame::Give(Box::new(Val::Ret(ret))),
        ])
    }
}
