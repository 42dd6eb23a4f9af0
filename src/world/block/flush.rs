//! Flushing a node and what is below it (`block/io.c:bdrv_co_flush`).

use super::driver::Driver;
use super::graph::BdrvNext;
use crate::base::errno::Ret;
use crate::block::event::BlkdebugEvent;
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::Wait;
use crate::world::arena::NodeId;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::feed::Seen;

impl World {
    /// `bdrv_flush_all`
    pub(in crate::world) fn flush_all(&mut self) -> Flow {
        self.seq([Frame::FlushNext(BdrvNext::default())])
    }

    /// `bdrv_flush_all`, one node further. Flushing polls, and jobs may end meanwhile: the node is held, and the next one is looked for
    /// when it is its turn.
    pub(in crate::world) fn flush_next(&mut self, mut it: BdrvNext) -> Flow {
        let old = it.node();
        let next = self.graph.bdrv_next(&mut it);
        if let Some(node) = next {
            self.bdrv_ref(node);
            self.stack.push(Frame::FlushNext(it));
            self.stack.push(Frame::RunCo(Box::new(Frame::BdrvCoFlush(node))));
        }
        match old {
            Some(old) => self.seq([Frame::BdrvUnref(old)]),
            None => Flow::Go,
        }
    }

    /// `bdrv_co_flush`
    pub(in crate::world) fn bdrv_co_flush(&mut self, node: NodeId) -> Flow {
        if self.graph.nodes[node].driver.is_none()
            || !self.graph.is_inserted(node)
            || !self.graph.nodes[node].flags.rdwr
        {
            return self.ret(Val::Ret(Ok(())));
        }
        self.node_inc_in_flight(node);
        let generation = self.graph.nodes[node].write_gen;
        self.seq([Frame::FlushTurn { node, generation }])
    }

    /// `bdrv_co_flush`, once no other flush is under way.
    pub(in crate::world) fn flush_turn(&mut self, node: NodeId, generation: u64) -> Flow {
        let co = self.aio.current;
        let n = &mut self.graph.nodes[node];
        if n.active_flush {
            n.flush_queue.push(co.expect("flushes run in coroutines"));
            self.stack.push(Frame::FlushTurn { node, generation });
            return Flow::Yield(Wait::Queue("another flush"));
        }
        n.active_flush = true;
        self.stack.push(Frame::FlushEnd { node, generation });
        if let Driver::Cbw(_) = n.drv() {
            // A filter that is being dropped has no node below any more.
            return match self.graph.filter_bs(node) {
                Some(below) => self.seq([Frame::BdrvCoFlush(below)]),
                None => self.ret(Val::Ret(Ok(()))),
            };
        }
        self.seq([
            Frame::ChildEvent { node, event: BlkdebugEvent::FlushToOs },
            Frame::DriverFlushToOs(node),
            Frame::StopOnError(1),
            Frame::FlushToDisk { node, generation },
        ])
    }

    /// `bdrv_co_flush`, after the driver's own caches.
    pub(in crate::world) fn flush_to_disk(&mut self, node: NodeId, generation: u64) -> Flow {
        let n = &self.graph.nodes[node];
        if n.flags.no_flush || n.flushed_gen == generation {
            if self.feed.on && !n.flags.no_flush {
                let name = n.node_name.clone();
                self.feed.seen.push(Seen::FlushSkipped { node, name, generation });
            }
            return self.seq([Frame::FlushChildren { node, index: 0, ret: Ok(()) }]);
        }
        self.seq([
            Frame::ChildEvent { node, event: BlkdebugEvent::FlushToDisk },
            Frame::DriverFlushToDisk(node),
            Frame::StopOnError(1),
            Frame::FlushChildren { node, index: 0, ret: Ok(()) },
        ])
    }

    /// `bdrv_co_flush`, the children that are written to.
    pub(in crate::world) fn flush_children(&mut self, node: NodeId, index: u32, ret: Ret) -> Flow {
        let ret = if index > 0 { ret.and(self.take_ret()) } else { ret };
        let n = &self.graph.nodes[node];
        match n.children.get(index as usize) {
            None => self.ret(Val::Ret(ret)),
            Some(child) => {
                let c = &self.graph.children[*child];
                let below = c.bs;
                let written = c.perm & (super::graph::perm::WRITE | super::graph::perm::WRITE_UNCHANGED) != 0;
                self.stack.push(Frame::FlushChildren { node, index: index + 1, ret });
                if written { self.seq([Frame::BdrvCoFlush(below)]) } else { self.ret(Val::Ret(Ok(()))) }
            }
        }
    }

    /// The end of `bdrv_co_flush`.
    pub(in crate::world) fn flush_end(&mut self, node: NodeId, generation: u64) -> Flow {
        let ret = self.take_ret();
        let n = &mut self.graph.nodes[node];
        if ret.is_ok() || self.quirks.has(Quirk::FlushFailedMarksClean) {
            n.flushed_gen = generation;
        }
        self.see(|| Seen::Flushed { node, generation, ok: ret.is_ok() });
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
