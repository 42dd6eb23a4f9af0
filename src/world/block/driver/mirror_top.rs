//! The filter that a mirror, and a commit of the active layer, put above their source (`block/mirror.c:bdrv_mirror_top`).

use super::Driver;
use crate::base::units::{align_down, align_up};
use crate::bitmap::DirtyBitmap;
use crate::qmp::types::MirrorCopyMode;
use crate::quirk::{KnownCause, Quirk};
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{JobId, NodeId};
use crate::world::block::backend::BlkRequest;
use crate::world::block::driver::DriverFrame;
use crate::world::block::edges::Role;
use crate::world::block::graph::Node;
use crate::world::block::io::request::{IoFlags, WriteReq};
use crate::world::block::perms::perm;
use crate::world::frame::Flow;
use crate::world::job::block_job::ErrorAction;
use crate::world::job::hooks::JobDriver;
use crate::world::job::mirror::MirrorFrame;
use crate::world::value::Val;

/// `MirrorBDSOpaque`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MirrorTop {
    /// The job, from the end of its initial scan to its end.
    pub job: Option<JobId>,
    /// `stop`: the job is at its end, and the filter takes no permissions any more.
    pub stop: bool,
    /// `is_commit`: it belongs to a commit of the active layer.
    pub is_commit: bool,
}

/// A guest's write that goes to source and target (`bdrv_mirror_top_do_write` with `copy_to_target`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopWrite {
    /// The request, as it came to the filter.
    req: Box<WriteReq>,
    /// The mirror whose filter it is.
    job: JobId,
    /// Number of the operation in the job's list (`MirrorOp`).
    op: u32,
}

/// `bdrv_mirror_top_child_perm`: what the filter's users ask is passed on. Under a commit nobody above the base may count on consistent
/// reads, and the base is written to.
pub(super) fn child_perm(node: &Node, _: Role, taken: u8, shared: u8) -> (u8, u8) {
    let Driver::MirrorTop(top) = node.drv() else { unreachable!("it is its driver's hook") };
    match (top.stop, top.is_commit) {
        (true, _) => (0, perm::ALL),
        (false, true) => (taken & !perm::CONSISTENT_READ, shared | perm::WRITE),
        (false, false) => (taken, shared),
    }
}

impl World {
    /// The filter's state.
    ///
    /// # Panics
    /// If the node is none.
    pub(in crate::world) fn mirror_top(&mut self, node: NodeId) -> &mut MirrorTop {
        match self.graph.nodes[node].driver.as_mut() {
            Some(Driver::MirrorTop(top)) => top,
            other => panic!("{node:?} is no mirror_top filter: {other:?}"),
        }
    }

    /// `should_copy_to_target`
    fn should_copy_to_target(&mut self, node: NodeId) -> Option<JobId> {
        let job = self.mirror_top(node).job?;
        let j = &self.jobs[job];
        let s = j.mirror();
        let copies = s.ret.is_ok() && !j.force_cancel && s.copy_mode == MirrorCopyMode::WriteBlocking;
        copies.then_some(job)
    }

    /// `bdrv_mirror_top_do_write`: a write, or a write of zeroes. Leaves `Val::Ret`.
    pub(super) fn mirror_top_write(&mut self, req: Box<WriteReq>) -> Flow {
        let (node, offset, bytes) = (req.node, req.offset, req.bytes);
        match self.should_copy_to_target(node) {
            None => {
                let written = MirrorFrame::TopWritten { node, offset, bytes };
                self.seq([DriverFrame::PassWrite { req, shift: 0 }.into(), written.into()])
            }
            Some(job) => {
                // `active_write_prepare`
                let s = self.mirror(job);
                s.in_active_write_counter += 1;
                let op = s.push_op(offset, bytes);
                op.is_active_write = true;
                op.is_in_flight = true;
                let op = op.id;
                self.mirror_top_free(Box::new(TopWrite { req, job, op }))
            }
        }
    }

    /// `active_write_prepare`: waits until nobody works on the range; then the source is written.
    pub(in crate::world) fn mirror_top_free(&mut self, write: Box<TopWrite>) -> Flow {
        let TopWrite { req, job, op } = &*write;
        let (job, op, offset, bytes) = (*job, *op, req.offset, req.bytes);
        self.mirror(job).op(op).waits = false;
        if let Some(wait) = self.mirror_conflict(job, Some(op), offset, bytes) {
            self.push(MirrorFrame::TopFree(write).into());
            return Flow::Yield(wait);
        }
        self.mirror(job).in_flight_bitmap.set(offset, bytes);
        let req = write.req.clone();
        self.seq([DriverFrame::PassWrite { req, shift: 0 }.into(), MirrorFrame::TopSourceWritten(write).into()])
    }

    /// `bdrv_mirror_top_do_write` in background mode: what was written, or was to be, is dirty.
    pub(in crate::world) fn mirror_top_written(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        if let Some(job) = self.mirror_top(node).job
            && self.mirror(job).dirty_bitmap.is_some()
            && bytes > 0
        {
            self.mirror(job).actively_synced = false;
            self.mirror_set_dirty(job, offset, bytes);
        } else if bytes > 0 && self.quirks.since(Change::MirrorBitmapWithFilter) {
            let job = self.jobs.list.iter().find(|job| self.is_starting_above(**job, node)).copied();
            if let Some(job) = job.filter(|job| self.jobs[*job].mirror().dirty_bitmap.is_some()) {
                self.mirror_set_dirty(job, offset, bytes);
            }
        } else if self.feed.on {
            self.see_missed_write(node, offset, bytes);
        }
        Flow::Go
    }

    /// Whether the filter is that of a mirror that has not come to its end.
    fn is_starting_above(&self, job: JobId, node: NodeId) -> bool {
        match &self.jobs[job].driver {
            JobDriver::Mirror(s) | JobDriver::CommitActive(s) => s.top == node && !s.prepared,
            _ => false,
        }
    }

    /// What was written while the job looks for what is allocated ([`Quirk::MirrorStartupMissedWrite`]).
    fn see_missed_write(&mut self, node: NodeId, offset: u64, bytes: u64) {
        let job = self.jobs.list.iter().find(|job| self.is_starting_above(**job, node)).copied();
        let recorded = self.graph.nodes[node].bitmaps.iter().any(DirtyBitmap::enabled);
        if let Some(job) = job.filter(|_| !recorded) {
            self.see_excuse(job, Quirk::MirrorStartupMissedWrite, Some((offset, offset + bytes)));
        }
    }

    /// `bdrv_mirror_top_pdiscard`, which no guest reaches in QEMU 10.0.2 ([`Quirk::FilterSwallowsDiscard`]).
    pub(super) fn mirror_top_discard(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let written = MirrorFrame::TopWritten { node, offset, bytes };
        self.seq([DriverFrame::PassDiscard { node, offset, bytes }.into(), written.into()])
    }

    /// `bdrv_mirror_top_do_write`, after the source was written: the target, if that went well.
    pub(in crate::world) fn mirror_top_source_written(&mut self, write: Box<TopWrite>) -> Flow {
        let TopWrite { req, job, op } = *write;
        let ret = self.take_ret();
        if ret.is_err() {
            self.active_write_settle(job, op);
            return self.ret(Val::Ret(ret));
        }
        self.do_sync_target_write(job, op, *req)
    }

    /// `do_sync_target_write`: what is dirty already at the ends of the request is left to the background.
    fn do_sync_target_write(&mut self, job: JobId, op: u32, req: WriteReq) -> Flow {
        let granularity = self.mirror(job).granularity;
        let (mut start, mut end) = (req.offset, req.offset + req.bytes);
        let outward = self.quirks.has(Quirk::MirrorUnalignedActiveWrite);
        let bits = self.mirror_bits(job);
        if !outward && !start.is_multiple_of(granularity) && bits.get(start) {
            start = align_up(start, granularity);
        }
        if !outward && start < end && !end.is_multiple_of(granularity) && bits.get(end - 1) {
            end = align_down(end, granularity);
        }
        if start >= end {
            self.active_write_settle(job, op);
            return self.ret(Val::Ret(Ok(())));
        }
        let (from, to) = match outward {
            true => (align_down(start, granularity), align_up(end, granularity)),
            false => (align_up(start, granularity), align_down(end, granularity)),
        };
        if from < to {
            bits.reset(from, to - from);
        }
        let bytes = end - start;
        if self.feed.on {
            self.see_partial_write(job, start, end);
        }
        self.job_progress_increase_remaining(job, bytes);
        self.mirror(job).active_write_bytes_in_flight += bytes;
        let zeroes = req.data.is_none();
        if zeroes && self.mirror(job).reads_as_zeroes(start, bytes) {
            self.leave(Val::Ret(Ok(())));
            return self.mirror_top_target_written(job, op, (start, bytes), false);
        }
        if !zeroes {
            self.mirror(job).no_zeroes_at(start, bytes);
        }
        let data = req.data.map(|data| data.slice(start - req.offset, bytes));
        let flags = req.flags.without(IoFlags::SERIALISING);
        let request = BlkRequest::Write { offset: start, data, bytes, flags };
        self.mirror_to_target(job, request, MirrorFrame::TopTargetWritten { job, op, offset: start, bytes, zeroes })
    }

    /// A write of part of a cluster to a target that gets its backing file later: what the target fills the rest of the cluster with
    /// hides what stands there in the backing file.
    fn see_partial_write(&mut self, job: JobId, start: u64, end: u64) {
        let target = self.mirror_target(job);
        let s = self.mirror(job);
        let (cluster, partial) = (s.target_cluster_size, s.is_none_mode || s.base.is_some());
        if !partial || cluster == 0 || self.graph.backing_chain_next(target).is_some() {
            return;
        }
        for rest in [(align_down(start, cluster), start), (end, align_up(end, cluster))] {
            if rest.0 < rest.1 {
                self.see_excuse(job, KnownCause::Page("partial-write-of-an-active-mirror"), Some(rest));
            }
        }
    }

    /// `do_sync_target_write`, after the target was written. The guest is not told of an error. `zeroes`: whole granules are zero now.
    pub(in crate::world) fn mirror_top_target_written(
        &mut self,
        job: JobId,
        op: u32,
        (offset, bytes): (u64, u64),
        zeroes: bool,
    ) -> Flow {
        let ret = self.take_ret();
        if zeroes && ret.is_ok() {
            let s = self.mirror(job);
            let (from, to) = (align_up(offset, s.granularity), align_down(offset + bytes, s.granularity));
            if let Some(zero) = s.zero_bitmap.as_mut().filter(|_| from < to) {
                zero.set(from, to - from);
            }
        }
        self.mirror(job).active_write_bytes_in_flight -= bytes;
        match ret {
            Ok(()) => self.jobs[job].progress_current += bytes,
            Err(errno) => {
                self.mirror_set_dirty(job, offset, bytes);
                let action = self.mirror_error_action(job, false, errno);
                let s = self.mirror(job);
                if action == ErrorAction::Report && s.ret.is_ok() {
                    s.ret = Err(errno);
                }
            }
        }
        self.active_write_settle(job, op);
        self.ret(Val::Ret(Ok(())))
    }

    /// `active_write_settle`. QEMU's assertion here holds only where nobody but the filter uses the source, and the job does, too.
    fn active_write_settle(&mut self, job: JobId, op: u32) {
        let s = self.mirror(job);
        s.in_active_write_counter -= 1;
        let op = s.remove_op(op);
        let (start, len) = s.granules(op.offset, op.bytes);
        s.in_flight_bitmap.reset(start, len);
        for co in op.waiting {
            self.aio_co_wake(co);
        }
    }
}
