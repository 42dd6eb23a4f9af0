//! A world's clock set to another time, with all that refers to it: worlds which differ only in what time it is become equal.

use super::World;
use super::arena::NodeId;
use super::block::driver::Driver;
use super::block::graph::Node;
use super::frame::Frame;
use super::out::Output;
use crate::base::units::{Nanos, Shift};
use crate::world::block::backend::BackendFrame;
use crate::world::monitor::qemu_io::QemuIoFrame;
use std::sync::Arc;

impl World {
    /// Sets the clock to `base`, and all that refers to it, so that worlds which differ only in what time it is become equal. Does
    /// nothing while something that cannot be moved is under way (a `qemu-io` command that measures its time). `base` must leave room
    /// for what began some time ago: a slice of a rate limit.
    pub fn rebase(&mut self, base: Nanos) {
        let measures = |frame: &Frame| {
            matches!(
                frame,
                Frame::QemuIo(QemuIoFrame::QemuIoReadDone { .. })
                    | Frame::QemuIo(QemuIoFrame::QemuIoWriteDone { .. })
                    | Frame::QemuIo(QemuIoFrame::QemuIoDiscardDone { .. })
                    | Frame::Backend(BackendFrame::QemuIoFlushed { .. })
            )
        };
        let shift = Shift { from: self.now, to: base };
        if shift.from == base || self.frames().chain(self.cos.iter().flat_map(|(_, co)| &co.frames)).any(measures) {
            return;
        }
        self.now = base;
        for timer in &mut self.aio.timers {
            timer.deadline = shift.of(timer.deadline);
        }
        for request in &mut self.aio.in_flight {
            request.sent = base;
        }
        self.aio.rebase_disk(shift);
        for output in &mut self.out {
            if let Output::Event { time, .. } | Output::Reply { time, .. } = output {
                *time = base;
            }
        }
        let accessed = self.graph.backends.iter().filter_map(|(blk, backend)| Some((blk, backend.stats.last_access?)));
        for (blk, last) in accessed.collect::<Vec<_>>() {
            Arc::make_mut(&mut self.graph.backends[blk].stats).last_access = Some(shift.of(last));
        }
        self.rebase_copying(shift);
        self.jobs.rebase(shift);
        self.throttling.groups.iter_mut().for_each(|group| group.state.rebase(shift));
    }

    /// Sets the clock of all copying. A node that is only looked at stays shared with other worlds, and keeps its hash.
    fn rebase_copying(&mut self, shift: Shift) {
        let has_times = |node: &Node| matches!(&node.driver, Some(Driver::Cbw(cbw)) if cbw.bcs.rate_limit.has_times());
        let ids: Vec<NodeId> = self.graph.nodes.iter().filter(|(_, node)| has_times(node)).map(|(id, _)| id).collect();
        for id in ids {
            if let Some(Driver::Cbw(cbw)) = self.graph.nodes[id].driver.as_mut() {
                cbw.bcs.rate_limit.rebase(shift);
            }
        }
    }
}
