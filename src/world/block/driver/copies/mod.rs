//! Drivers over several nodes that hold the same: one request becomes one to each of them, each in a coroutine of its own
//! (`block/quorum.c`, `block/blkverify.c`).

pub mod blkverify;
pub mod quorum;

use super::Driver;
use crate::base::errno::Ret;
use crate::block::content::Data;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::queue::Ctx;
use crate::world::arena::{CoId, NodeId};
use crate::world::block::driver::copies::quorum::QuorumFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::request::{IoFlags, WriteReq};
use crate::world::block::io::write::WriteFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

/// What is asked of all copies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CopiesRequest {
    /// `bdrv_co_preadv`
    Read,
    /// `bdrv_co_pwritev`
    Write,
    /// What the copies agreed on is written to those that hold something else, and then is what was read.
    Rewrite(Data),
}

/// A request that was sent to several nodes (`QuorumAIOCB`, `BlkverifyRequest`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fan {
    id: u32,
    /// The coroutine that waits for all.
    co: CoId,
    kind: CopiesRequest,
    offset: u64,
    bytes: u64,
    /// What came of each; a write gives no data.
    results: Vec<Option<Ret<Data>>>,
}

/// Requests of a node that were sent to several others, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fans {
    fans: Vec<Fan>,
    next: u32,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum CopiesFrame {
    ChildDone { node: NodeId, id: u32, index: usize },
    Joined { node: NodeId, id: u32 },
    Quorum(QuorumFrame),
}

impl CopiesFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            CopiesFrame::ChildDone { node, id, index } => w.copies_child_done(node, id, index),
            CopiesFrame::Joined { node, id } => w.copies_joined(node, id),
            CopiesFrame::Quorum(frame) => frame.run(w),
        }
    }
}

impl World {
    fn fans(&mut self, node: NodeId) -> &mut Fans {
        match self.graph.nodes[node].driver.as_mut() {
            Some(Driver::Quorum(quorum)) => &mut quorum.fans,
            Some(Driver::Blkverify(fans)) => fans,
            other => unreachable!("{other:?} has one child"),
        }
    }

    /// Sends a request to each of these nodes, in order, and waits for all.
    fn fan_out(&mut self, node: NodeId, kind: CopiesRequest, range: (u64, u64), requests: Vec<Frame>) -> Flow {
        let (co, (offset, bytes)) = (self.current(), range);
        let fans = self.fans(node);
        let id = fans.next;
        fans.next = fans.next.wrapping_add(1);
        fans.fans.push(Fan { id, co, kind, offset, bytes, results: vec![None; requests.len()] });
        for (index, request) in requests.into_iter().enumerate() {
            let child = self.co_create([CopiesFrame::ChildDone { node, id, index }.into(), request]);
            self.co_enter(child, Ctx::Main);
        }
        self.seq([CopiesFrame::Joined { node, id }.into()])
    }

    /// A read of all of these nodes.
    fn read_all(&mut self, node: NodeId, children: &[NodeId], offset: u64, bytes: u64) -> Flow {
        let read = |child: &NodeId| IoFrame::Preadv { node: *child, offset, bytes, flags: IoFlags::NONE }.into();
        self.fan_out(node, CopiesRequest::Read, (offset, bytes), children.iter().map(read).collect())
    }

    /// A write to all of these nodes.
    fn write_all(&mut self, req: &WriteReq, kind: CopiesRequest, children: &[NodeId]) -> Flow {
        let flags = req.flags.without(IoFlags::SERIALISING).without(IoFlags::FUA);
        let write = |child: &NodeId| {
            let (node, tracked, unpadded) = (*child, 0, None);
            WriteFrame::Pwritev(Box::new(WriteReq { node, flags, tracked, unpadded, ..req.clone() })).into()
        };
        self.fan_out(req.node, kind, (req.offset, req.bytes), children.iter().map(write).collect())
    }

    /// One of the requests is done; the last one wakes who waits.
    fn copies_child_done(&mut self, node: NodeId, id: u32, index: usize) -> Flow {
        let val = self.take_val();
        let fan = self.fans(node).fans.iter_mut().find(|fan| fan.id == id).expect("it is under way");
        let result = match val {
            Val::Data(data) => data,
            Val::Ret(ret) => ret.map(|()| Data::new()),
            other => unreachable!("a request leaves {other:?}"),
        };
        let error = result.as_ref().err().copied().filter(|_| !matches!(fan.kind, CopiesRequest::Rewrite(_)));
        fan.results[index] = Some(result);
        let (co, all) = (fan.co, fan.results.iter().all(Option::is_some));
        let (is_read, offset, bytes) = (fan.kind == CopiesRequest::Read, fan.offset, fan.bytes);
        if let (Some(errno), true) = (error, self.is_quorum(node)) {
            let child = self.quorum_children(node)[index];
            self.quorum_report_bad(if is_read { "read" } else { "write" }, offset, bytes, child, Some(errno));
        }
        if all && !self.cos[co].running {
            self.aio_co_wake(co);
        }
        Flow::Go
    }

    /// Waits for all of them.
    fn copies_joined(&mut self, node: NodeId, id: u32) -> Flow {
        let fans = &mut self.fans(node).fans;
        let at = fans.iter().position(|fan| fan.id == id).expect("it is under way");
        if fans[at].results.iter().any(Option::is_none) {
            self.push(CopiesFrame::Joined { node, id }.into());
            return Flow::Yield(Wait::Queue("the requests to its copies"));
        }
        let fan = fans.remove(at);
        let results: Vec<Ret<Data>> = fan.results.into_iter().flatten().collect();
        let range = (fan.offset, fan.bytes);
        match (fan.kind, self.is_quorum(node)) {
            (CopiesRequest::Rewrite(data), _) => self.ret(Val::Data(Ok(data))),
            (CopiesRequest::Read, true) => self.quorum_vote(node, range, results),
            (CopiesRequest::Write, true) => self.quorum_written(node, range, &results),
            (kind, false) => self.blkverify_compare(&kind, range, results),
        }
    }
}
