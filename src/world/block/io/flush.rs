//! Flushing a node and what is below it (`block/io.c:bdrv_co_flush`).

use crate::base::errno::Ret;
use crate::block::event::BlkdebugEvent;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::NodeId;
use crate::world::block::backend::BdrvNext;
use crate::world::block::driver::DriverFrame;
use crate::world::block::driver::blkdebug::BlkdebugFrame;
use crate::world::block::driver::rows::FlushTo;
use crate::world::block::graph::GraphFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::feed::Seen;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum FlushFrame {
    FlushAll,
    FlushNext(BdrvNext),
    BdrvCoFlush(NodeId),
    FlushTurn { node: NodeId, generation: u64 },
    FlushToDisk { node: NodeId, generation: u64 },
    FlushChildren { node: NodeId, index: u32, ret: Ret },
    FlushEnd { node: NodeId, generation: u64 },
}

impl FlushFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            FlushFrame::FlushAll => w.flush_all(),
            FlushFrame::FlushNext(it) => w.flush_next(it),
            FlushFrame::BdrvCoFlush(node) => w.bdrv_co_flush(node),
            FlushFrame::FlushTurn { node, generation } => w.flush_turn(node, generation),
            FlushFrame::FlushToDisk { node, generation } => w.flush_to_disk(node, generation),
            FlushFrame::FlushChildren { node, index, ret } => w.flush_children(node, index, ret),
            FlushFrame::FlushEnd { node, generation } => w.flush_end(node, generation),
        }
    }
}

impl World {
    /// `bdrv_flush_all`
    pub(in crate::world) fn flush_all(&mut self) -> Flow {
        self.seq([FlushFrame::FlushNext(BdrvNext::default()).into()])
    }

    /// `bdrv_flush_all`, one node further. Flushing polls, and jobs may end meanwhile: the node is held, and the next one is looked for
    /// when it is its turn.
    fn flush_next(&mut self, mut it: BdrvNext) -> Flow {
        let old = it.node();
        let next = self.graph.bdrv_next(&mut it);
        if let Some(node) = next {
            self.bdrv_ref(node);
            self.push(FlushFrame::FlushNext(it).into());
            self.push(Frame::RunCo(Box::new(FlushFrame::BdrvCoFlush(node).into())));
        }
        match old {
            Some(old) => self.seq([GraphFrame::BdrvUnref(old).into()]),
            None => Flow::Go,
        }
    }

    /// `bdrv_co_flush`
    fn bdrv_co_flush(&mut self, node: NodeId) -> Flow {
        if self.graph.nodes[node].driver.is_none()
            || !self.graph.is_inserted(node)
            || !self.graph.nodes[node].flags.rdwr
        {
            return self.ret(Val::Ret(Ok(())));
        }
        self.node_inc_in_flight(node);
        let generation = self.graph.nodes[node].write_gen;
        self.seq([FlushFrame::FlushTurn { node, generation }.into()])
    }

    /// `bdrv_co_flush`, once no other flush is under way.
    fn flush_turn(&mut self, node: NodeId, generation: u64) -> Flow {
        let co = self.aio.current;
        let n = &mut self.graph.nodes[node];
        if n.active_flush {
            n.flush_queue.push(co.expect("flushes run in coroutines"));
            self.push(FlushFrame::FlushTurn { node, generation }.into());
            return Flow::Yield(Wait::Queue("another flush"));
        }
        n.active_flush = true;
        self.push(FlushFrame::FlushEnd { node, generation }.into());
        let to = match self.graph.nodes[node].drv().row().flush {
            FlushTo::OwnCaches => {
                return self.seq([
                    BlkdebugFrame::ChildEvent { node, event: BlkdebugEvent::FlushToOs }.into(),
                    DriverFrame::DriverFlushToOs(node).into(),
                    Frame::if_ok([FlushFrame::FlushToDisk { node, generation }.into()]),
                ]);
            }
            FlushTo::AllBelow => return self.quorum_flush(node),
            FlushTo::Below => self.graph.filter_bs(node),
            FlushTo::Test => self.blkverify_test(node),
        };
        match to {
            Some(to) => self.seq([FlushFrame::BdrvCoFlush(to).into()]),
            // A filter that is being dropped has no node below any more.
            None => self.ret(Val::Ret(Ok(()))),
        }
    }

    /// `bdrv_co_flush`, after the driver's own caches.
    pub(in crate::world) fn flush_to_disk(&mut self, node: NodeId, generation: u64) -> Flow {
        let n = &self.graph.nodes[node];
        if n.flags.no_flush || n.flushed_gen == generation {
            if self.feed.on && !n.flags.no_flush {
                let name = n.node_name.clone();
                self.feed.seen.push(Seen::FlushSkipped { node, name, generation });
            }
            return self.seq([FlushFrame::FlushChildren { node, index: 0, ret: Ok(()) }.into()]);
        }
        self.seq([
            BlkdebugFrame::ChildEvent { node, event: BlkdebugEvent::FlushToDisk }.into(),
            DriverFrame::DriverFlushToDisk(node).into(),
            Frame::if_ok([FlushFrame::FlushChildren { node, index: 0, ret: Ok(()) }.into()]),
        ])
    }

    /// `bdrv_co_flush`, the children that are written to.
    fn flush_children(&mut self, node: NodeId, index: u32, ret: Ret) -> Flow {
        let ret = if index > 0 { ret.and(self.take_ret()) } else { ret };
        let n = &self.graph.nodes[node];
        match n.children.get(index as usize) {
            None => self.ret(Val::Ret(ret)),
            Some(child) => {
                let c = &self.graph.children[*child];
                let below = c.bs;
                let written = c.perm
                    & (crate::world::block::perms::perm::WRITE | crate::world::block::perms::perm::WRITE_UNCHANGED)
                    != 0;
                self.push(FlushFrame::FlushChildren { node, index: index + 1, ret }.into());
                if written { self.seq([FlushFrame::BdrvCoFlush(below).into()]) } else { self.ret(Val::Ret(Ok(()))) }
            }
        }
    }

    /// The end of `bdrv_co_flush`.
    fn flush_end(&mut self, node: NodeId, generation: u64) -> Flow {
        let ret = self.take_ret();
        let n = &mut self.graph.nodes[node];
        let own = n.flushed_gen != generation;
        if ret.is_ok() || self.quirks.has(Quirk::FlushFailedMarksClean) {
            n.flushed_gen = generation;
        }
        self.see(|| Seen::Flushed { node, generation, ok: ret.is_ok(), own });
        let n = &mut self.graph.nodes[node];
        n.active_flush = false;
        if !n.flush_queue.is_empty() {
            let next = n.flush_queue.remove(0);
            self.aio_co_wake(next);
        }
        self.node_dec_in_flight(node);
        self.ret(Val::Ret(ret))
    }
}
