//! `blkverify`: a node under test beside one that is trusted; each request goes to both, and the process ends where they differ
//! (`block/blkverify.c`).

use super::CopiesRequest;
use crate::base::errno::Ret;
use crate::block::content::Data;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::filename::{Described, filename};
use crate::world::block::io::request::WriteReq;
use crate::world::frame::Flow;
use crate::world::value::Val;
use std::sync::Arc;

impl World {
    /// The node under test.
    pub(in crate::world) fn blkverify_test(&self, node: NodeId) -> Option<NodeId> {
        let edges = self.graph.nodes[node].children.iter().map(|edge| &self.graph.children[*edge]);
        edges.filter(|edge| edge.name == "test").map(|edge| edge.bs).next()
    }

    /// `blkverify_refresh_filename`
    pub(in crate::world::block::driver) fn blkverify_refresh_filename(
        &self,
        node: NodeId,
        described: Described<'_>,
    ) -> Arc<str> {
        let Some(below) = described.below else { return "".into() };
        let test = self.blkverify_test(node).map(|test| self.exact_filename_of(test)).unwrap_or_default();
        let raw = self.exact_filename_of(below);
        if raw.is_empty() || test.is_empty() { "".into() } else { filename(format!("blkverify:{raw}:{test}")) }
    }

    /// `blkverify_recurse_can_replace`: on either side.
    pub(in crate::world::block::driver) fn blkverify_recurse_can_replace(
        &self,
        node: NodeId,
        to_replace: NodeId,
    ) -> bool {
        let sides = [self.blkverify_test(node), self.graph.filter_bs(node)];
        sides.into_iter().flatten().any(|side| self.bdrv_recurse_can_replace(side, to_replace))
    }

    fn blkverify_both(&self, node: NodeId) -> [NodeId; 2] {
        [self.blkverify_test(node).expect("it is open"), self.below(node)]
    }

    /// `blkverify_co_preadv`. Leaves `Val::Data`.
    pub(in crate::world::block::driver) fn blkverify_preadv(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let both = self.blkverify_both(node);
        self.read_all(node, &both, offset, bytes)
    }

    /// `blkverify_co_pwritev`. Leaves `Val::Ret`.
    pub(in crate::world::block::driver) fn blkverify_pwritev(&mut self, req: &WriteReq) -> Flow {
        let both = self.blkverify_both(req.node);
        self.write_all(req, CopiesRequest::Write, &both)
    }

    /// The end of `blkverify_co_prwv` and of `blkverify_co_preadv`. QEMU prints where the two differ and exits.
    pub(super) fn blkverify_compare(
        &mut self,
        kind: &CopiesRequest,
        range: (u64, u64),
        results: Vec<Ret<Data>>,
    ) -> Flow {
        let (offset, bytes) = range;
        let name = if *kind == CopiesRequest::Read { "read" } else { "write" };
        let differ = |what: &str| -> ! {
            Self::qemu_aborts(format!("blkverify: {name} offset={offset} bytes={bytes}"), what);
        };
        let [test, raw]: [Ret<Data>; 2] = results.try_into().expect("it has two nodes");
        let number = |ret: &Ret<Data>| ret.as_ref().err().map_or(0, |errno| -i64::from(errno.0));
        if number(&test) != number(&raw) {
            differ(&format!("return value mismatch {} != {}", number(&test), number(&raw)));
        }
        match (kind, test, raw) {
            (CopiesRequest::Read, Ok(test), Ok(raw)) => match super::quorum::first_difference(&test, &raw) {
                Some(at) => differ(&format!("contents mismatch at offset {}", offset + at)),
                None => self.ret(Val::Data(Ok(test))),
            },
            (CopiesRequest::Read, test, _) => self.ret(Val::Data(test)),
            (_, test, _) => self.ret(Val::Ret(test.map(drop))),
        }
    }
}
