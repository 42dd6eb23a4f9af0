//! The human monitor's `commit`: an image is written into its backing file and emptied, while nothing else goes on
//! (`block/commit.c:bdrv_commit`, `block/block-backend.c:blk_commit_all`).

use super::driver::Driver;
use super::graph::{Node, OpenFlags};
use super::io::request::IoFlags;
use super::io::status::StatusReq;
use super::open::reopen::Reopen;
use super::perms::perm;
use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::block::qcow2::Qcow2Call;
use crate::qmp::hmp::{error_reply, report_reply};
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::backend::BlkRequest;
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::status::StatusFrame;
use crate::world::block::open::reopen::ReopenFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// `COMMIT_BUF_SIZE`: the most that is copied at once, in bytes.
const COMMIT_BUF_SIZE: u64 = 1024 * 1024;

/// A `commit` of the human monitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BdrvCommit {
    /// As it was asked for: a device, or `all`.
    device: Arc<str>,
    /// Backends that are looked at after this one, the next one last.
    left: Vec<BackendId>,
    /// What errors were told so far.
    reports: String,
    bs: NodeId,
    backing_file_bs: NodeId,
    commit_top_bs: Option<NodeId>,
    src: BackendId,
    backing: BackendId,
    /// The backing file was read-only before.
    ro: bool,
    length: u64,
    offset: u64,
    /// How much is being copied.
    n: u64,
}

/// What comes next for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommitStage {
    /// The backing file is writable, or can't be made so.
    Writable,
    /// The image has its backend.
    SrcAttached,
    /// The graph is locked: the filter gets its node, or the image its filter, or its backing file again.
    SetBacking(NodeId, NodeId),
    /// `commit_top_bs` stands between the image and its backing file.
    FilterInPlace,
    /// The backing file has its backend.
    BackingAttached,
    /// It is large enough.
    Grown,
    /// What the next piece holds is known.
    Known,
    /// It was read.
    HasRead,
    /// It was written.
    Written,
    /// The image was emptied.
    Emptied,
    /// All is flushed.
    Flushed,
    /// All is as before.
    Done(Ret),
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BdrvCommitFrame {
    /// The rest of `bdrv_commit`, from this stage on.
    BdrvCommit(Box<BdrvCommit>, CommitStage),
}

impl BdrvCommitFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BdrvCommitFrame::BdrvCommit(commit, stage) => w.bdrv_commit_stage(commit, stage),
        }
    }
}

impl World {
    /// `hmp_commit`. Leaves `Val::Json`.
    pub(in crate::world) fn hmp_commit(&mut self, device: &str) -> Flow {
        if device == "all" {
            let left: Vec<BackendId> = self.graph.backends.iter().map(|(blk, _)| blk).collect();
            return self.commit_next(device.into(), left.into_iter().rev().collect());
        }
        let tell = |w: &mut World, text: String| {
            let text = w.commit_reply(&text);
            w.ret(Val::Json(Ok(text.into())))
        };
        let Some(blk) = self.graph.blk_by_name(device) else {
            return tell(self, format!("Device '{device}' not found"));
        };
        let Some(bs) = self.graph.available(blk) else {
            return tell(self, format!("Device '{device}' has no medium"));
        };
        let bs = self.graph.skip_implicit_filters(bs);
        self.bdrv_commit(device.into(), bs, Vec::new())
    }

    /// What `commit` prints of an error.
    fn commit_reply(&self, text: &str) -> String {
        if self.quirks.since(Change::MonitorErrors) { error_reply(text) } else { report_reply(text) }
    }

    /// `blk_commit_all`: the next device that has something to commit.
    fn commit_next(&mut self, device: Arc<str>, mut left: Vec<BackendId>) -> Flow {
        while let Some(blk) = left.pop() {
            if let Some(bs) = self.graph.blk_bs(blk) {
                let bs = self.graph.skip_filters(bs);
                if self.graph.cow_child(bs).is_some() {
                    return self.bdrv_commit(device, bs, left);
                }
            }
        }
        self.ret(Val::Json(Ok(Json::str(""))))
    }

    /// `bdrv_commit`, up to the backends.
    fn bdrv_commit(&mut self, device: Arc<str>, bs: NodeId, left: Vec<BackendId>) -> Flow {
        let refuse = |w: &mut World, errno: Errno| {
            let text = w.commit_reply(&format!("'commit' error for '{device}': {errno}"));
            w.ret(Val::Json(Ok(text.into())))
        };
        if self.graph.nodes[bs].dropped {
            return refuse(self, Errno::ENOMEDIUM);
        }
        let Some(backing_file_bs) = self.graph.cow_bs(bs) else { return refuse(self, Errno::ENOTSUP) };
        let blocked = self.op_blocked(bs).or_else(|| self.op_blocked_by_job(backing_file_bs));
        if blocked.is_some() {
            return refuse(self, Errno::EBUSY);
        }
        let ro = !self.graph.nodes[backing_file_bs].flags.rdwr;
        let src = self.blk_new("".into(), perm::CONSISTENT_READ | perm::WRITE_UNCHANGED, perm::ALL);
        let backing = self.blk_new("".into(), perm::WRITE | perm::RESIZE, perm::ALL);
        for blk in [src, backing] {
            // Nobody has them quiet, and what they send is no guest's.
            self.graph.backends[blk].disable_request_queuing = true;
        }
        let commit = Box::new(BdrvCommit {
            device,
            left,
            reports: String::new(),
            bs,
            backing_file_bs,
            commit_top_bs: None,
            src,
            backing,
            ro,
            length: 0,
            offset: 0,
            n: 0,
        });
        self.push(BdrvCommitFrame::BdrvCommit(commit, CommitStage::Writable).into());
        if ro {
            let writable = Reopen::set_read_only(self, backing_file_bs, false);
            self.push(ReopenFrame::Reopen(Box::new(writable)).into());
        }
        Flow::Go
    }

    /// One stage of `bdrv_commit`. Leaves `Val::Json` in the end.
    fn bdrv_commit_stage(&mut self, mut c: Box<BdrvCommit>, stage: CommitStage) -> Flow {
        let next = |c, stage| BdrvCommitFrame::BdrvCommit(c, stage).into();
        match stage {
            CommitStage::Writable => {
                if self.take_done().is_err() {
                    self.graph.backends.remove(c.src);
                    self.graph.backends.remove(c.backing);
                    return self.commit_done(*c, Err(Errno::EACCES));
                }
                let (src, bs) = (c.src, c.bs);
                self.seq([BackendFrame::BlkInsertBs(src, bs).into(), next(c, CommitStage::SrcAttached)])
            }
            CommitStage::SrcAttached => match self.take_done() {
                Err(err) => self.commit_reports(c, &err.desc, Errno::EPERM),
                Ok(()) => self.commit_put_filter(c),
            },
            CommitStage::SetBacking(bs, below) => {
                self.set_backing_hd_drained(bs, Some(below))
                    .expect("a filter without permissions conflicts with nobody");
                Flow::Go
            }
            CommitStage::FilterInPlace => {
                let (backing, bs) = (c.backing, c.backing_file_bs);
                self.seq([BackendFrame::BlkInsertBs(backing, bs).into(), next(c, CommitStage::BackingAttached)])
            }
            CommitStage::BackingAttached => match self.take_done() {
                Err(err) => self.commit_reports(c, &err.desc, Errno::EPERM),
                Ok(()) => {
                    c.length = self.bdrv_getlength(c.bs);
                    let (blk, size) = (c.backing, c.length);
                    let grows = size > self.bdrv_getlength(c.backing_file_bs);
                    self.push(next(c, CommitStage::Grown));
                    if grows {
                        self.push(Frame::RunCo(Box::new(BackendFrame::BlkTruncate { blk, size }.into())));
                    }
                    Flow::Go
                }
            },
            CommitStage::Grown => match self.take_done() {
                Err(err) => self.commit_reports(c, &err.desc, err.errno.unwrap_or(Errno::EIO)),
                Ok(()) => self.commit_turn(c),
            },
            CommitStage::Known => self.commit_piece_known(c),
            CommitStage::HasRead => match self.take_data() {
                Err(errno) => self.commit_cleanup(c, Err(errno)),
                Ok(data) => {
                    let (blk, offset, bytes, flags) = (c.backing, c.offset, c.n, IoFlags::NONE);
                    let write = BlkRequest::Write { offset, data: Some(data), bytes, flags };
                    self.commit_request(blk, write, next(c, CommitStage::Written))
                }
            },
            CommitStage::Written => match self.take_ret() {
                Err(errno) => self.commit_cleanup(c, Err(errno)),
                Ok(()) => {
                    c.offset += c.n;
                    self.commit_turn(c)
                }
            },
            CommitStage::Emptied => match self.take_ret() {
                Err(errno) if errno != Errno::ENOTSUP => self.commit_cleanup(c, Err(errno)),
                _ => {
                    // Whether flushing works is not asked.
                    let flush = |blk| {
                        Frame::RunCo(Box::new(BackendFrame::BlkCo { blk, request: Box::new(BlkRequest::Flush) }.into()))
                    };
                    let (src, backing) = (flush(c.src), flush(c.backing));
                    self.seq([src, Frame::Give(Box::new(Val::None)), backing, next(c, CommitStage::Flushed)])
                }
            },
            CommitStage::Flushed => {
                self.leave(Val::None);
                self.commit_cleanup(c, Ok(()))
            }
            CommitStage::Done(ret) => self.commit_done(*c, ret),
        }
    }

    /// The filter that allows writing to the backing file (`commit_top`).
    fn commit_put_filter(&mut self, mut c: Box<BdrvCommit>) -> Flow {
        let mut node = Node::new();
        node.flags = OpenFlags { rdwr: true, ..OpenFlags::default() };
        let filter = self.bdrv_new(node);
        self.assign_node_name(filter, None).expect("a made-up name is free");
        self.graph.nodes[filter].driver = Some(Driver::CommitTop);
        self.graph.nodes[filter].size = self.bdrv_getlength(c.backing_file_bs);
        c.commit_top_bs = Some(filter);
        let (bs, below) = (c.bs, c.backing_file_bs);
        self.push(BdrvCommitFrame::BdrvCommit(c.clone(), CommitStage::FilterInPlace).into());
        self.commit_set_backing(&c, bs, filter);
        self.commit_set_backing(&c, filter, below)
    }

    /// `bdrv_set_backing_hd`
    fn commit_set_backing(&mut self, c: &BdrvCommit, bs: NodeId, below: NodeId) -> Flow {
        let drained = self.graph.nodes[bs].backing.map_or(bs, |edge| self.graph.bs(edge));
        self.bdrv_ref(drained);
        self.seq([
            DrainFrame::DrainedBegin(drained).into(),
            GraphLockFrame::GraphWrlock.into(),
            BdrvCommitFrame::BdrvCommit(Box::new(c.clone()), CommitStage::SetBacking(bs, below)).into(),
            GraphLockFrame::GraphWrunlock.into(),
            DrainFrame::DrainedEnd(drained).into(),
            GraphFrame::BdrvUnref(drained).into(),
        ])
    }

    fn commit_request(&mut self, blk: BackendId, request: BlkRequest, then: Frame) -> Flow {
        self.seq([Frame::RunCo(Box::new(BackendFrame::BlkCo { blk, request: Box::new(request) }.into())), then])
    }

    /// The next piece, or all is copied and the image is emptied (`blk_make_empty`).
    fn commit_turn(&mut self, c: Box<BdrvCommit>) -> Flow {
        let (bs, offset) = (c.bs, c.offset);
        if offset < c.length {
            let end = self.graph.cow_bs(bs);
            let status = StatusFrame::StatusAbove(StatusReq::new(bs, end, offset, COMMIT_BUF_SIZE, false)).into();
            return self
                .seq([Frame::RunCo(Box::new(status)), BdrvCommitFrame::BdrvCommit(c, CommitStage::Known).into()]);
        }
        self.push(BdrvCommitFrame::BdrvCommit(c, CommitStage::Emptied).into());
        if !self.graph.nodes[bs].drv().row().has_make_empty {
            return self.ret(Val::err(Errno::ENOTSUP));
        }
        self.leave(Val::None);
        self.seq([Frame::RunCo(Box::new(
            Qcow2Frame::Qcow2Op { node: bs, op: Box::new(Qcow2Call::make_empty()) }.into(),
        ))])
    }

    fn commit_piece_known(&mut self, mut c: Box<BdrvCommit>) -> Flow {
        let Val::Status(status) = self.take_val() else { unreachable!("a status query answers so") };
        match status {
            Err(errno) => self.commit_cleanup(c, Err(errno)),
            Ok(status) if status.allocated => {
                c.n = status.pnum;
                let (blk, read) = (c.src, BlkRequest::Read { offset: c.offset, bytes: c.n });
                self.commit_request(blk, read, BdrvCommitFrame::BdrvCommit(c, CommitStage::HasRead).into())
            }
            Ok(status) => {
                c.offset += status.pnum;
                self.commit_turn(c)
            }
        }
    }

    fn commit_reports(&mut self, mut c: Box<BdrvCommit>, text: &str, errno: Errno) -> Flow {
        c.reports.push_str(&report_reply(text));
        self.commit_cleanup(c, Err(errno))
    }

    /// `bdrv_commit`, from `ro_cleanup` on.
    fn commit_cleanup(&mut self, c: Box<BdrvCommit>, ret: Ret) -> Flow {
        self.push(BdrvCommitFrame::BdrvCommit(c.clone(), CommitStage::Done(ret)).into());
        if c.ro {
            self.push(ReopenFrame::ReopenReadOnly(c.backing_file_bs).into());
        }
        self.push(BackendFrame::BlkUnref(c.src).into());
        if let Some(bs) = c.commit_top_bs {
            self.push(GraphFrame::BdrvUnref(bs).into());
        }
        if self.graph.cow_bs(c.bs) != Some(c.backing_file_bs) {
            self.commit_set_backing(&c, c.bs, c.backing_file_bs);
        }
        self.seq([BackendFrame::BlkUnref(c.backing).into()])
    }

    /// The end, or the next one of all.
    fn commit_done(&mut self, mut c: BdrvCommit, ret: Ret) -> Flow {
        match ret {
            Ok(()) => self.commit_next(c.device, c.left),
            Err(errno) => {
                c.reports.push_str(&report_reply(&format!("'commit' error for '{}': {errno}", c.device)));
                self.ret(Val::Json(Ok(c.reports.into())))
            }
        }
    }
}
