//! Children of a node that is being opened, beside the one that it is about: the nodes of a quorum, the target of a copy-before-write
//! filter, the node that blkverify tests.

use super::open::{OpenFrame, OpenStage, Opening};
use super::spec::DriverSpec;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::block::driver::copy_before_write::CopyBeforeWriteFrame;
use crate::world::block::edges::{EdgesFrame, Role};
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::frame::{Flow, Frame};

impl World {
    /// The next child of a quorum; after the last one it is open.
    pub(super) fn open_copies(&mut self, o: Box<Opening>, index: usize) -> Flow {
        let DriverSpec::Quorum { children, .. } = &o.spec.driver else { unreachable!("only it has numbers") };
        match children.get(index).cloned() {
            Some(child) => {
                self.seq([OpenFrame::BdrvOpen(child).into(), OpenFrame::Open(o, OpenStage::CopyOpened(index)).into()])
            }
            None => match self.quorum_length(o.bs) {
                Ok(size) => {
                    self.graph.nodes[o.bs].size = size;
                    self.open_done(o)
                }
                Err(errno) => {
                    let text = format!("Could not refresh total sector count: {errno}");
                    self.driver_open_failed(o, QmpError::generic(text))
                }
            },
        }
    }

    pub(super) fn open_copy_opened(&mut self, o: Box<Opening>, index: usize) -> Flow {
        let bs = match self.take_node() {
            Ok(bs) => bs,
            Err(err) => return self.driver_open_failed(o, err),
        };
        let parent = o.bs;
        if let DriverSpec::Quorum { children, .. } = &o.spec.driver {
            self.inherits(bs, parent, Some(&children[index]));
        }
        let name = self.quorum_next_name(parent).expect("there are not more");
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            EdgesFrame::AttachToNode { parent, name, role: Role::Data, bs }.into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(bs).into())),
            OpenFrame::Open(o, OpenStage::CopyAttached(index)).into(),
        ])
    }

    /// The target of a copy-before-write filter is there, or not.
    pub(super) fn open_target_opened(&mut self, o: Box<Opening>) -> Flow {
        match self.take_node() {
            Err(err) => self.driver_open_failed(o, err),
            Ok(target) => {
                let parent = o.bs;
                let (spec, name) = match &o.spec.driver {
                    DriverSpec::CopyBeforeWrite { target, .. } => (target, "target"),
                    DriverSpec::Blkverify { test } => (test, "test"),
                    other => unreachable!("{other:?} has no second child"),
                };
                self.inherits(target, parent, Some(spec));
                self.seq([
                    GraphLockFrame::GraphWrlock.into(),
                    EdgesFrame::AttachToNode { parent, name, role: Role::Data, bs: target }.into(),
                    Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
                    Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(target).into())),
                    OpenFrame::Open(o, OpenStage::TargetAttached).into(),
                ])
            }
        }
    }

    pub(super) fn open_target_attached(&mut self, o: Box<Opening>) -> Flow {
        if let Err(err) = self.take_done() {
            return self.driver_open_failed(o, err);
        }
        let DriverSpec::CopyBeforeWrite { min_cluster, .. } = &o.spec.driver else {
            self.refresh_total_sectors(o.bs);
            return self.open_done(o);
        };
        let (cbw, discard_source, min_cluster) = (o.bs, false, *min_cluster);
        self.seq([
            CopyBeforeWriteFrame::CbwOpened { cbw, discard_source, min_cluster }.into(),
            OpenFrame::Open(o, OpenStage::CbwOpened).into(),
        ])
    }
}
