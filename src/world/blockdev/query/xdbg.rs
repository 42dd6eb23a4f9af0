//! `x-debug-query-block-graph` (`block.c:bdrv_get_xdbg_block_graph`).

use crate::base::Json;
use crate::world::World;
use crate::world::arena::{BackendId, ChildId, JobId, NodeId};
use crate::world::block::perms::perm;
use std::sync::Arc;

/// `BlockPermission`, in the order of the replies: the last one first.
const PERMISSIONS: [(u8, &str); 4] = [
    (perm::RESIZE, "resize"),
    (perm::WRITE_UNCHANGED, "write-unchanged"),
    (perm::WRITE, "write"),
    (perm::CONSISTENT_READ, "consistent-read"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Thing {
    Backend(BackendId),
    Job(JobId),
    Node(NodeId),
}

/// `XDbgBlockGraphConstructor`
#[derive(Default)]
struct Drawing {
    seen: Vec<Thing>,
    nodes: Vec<Json>,
    edges: Vec<Json>,
}

impl Drawing {
    /// Things are numbered as they are come upon, from 1.
    fn number(&mut self, thing: Thing) -> u64 {
        let at = self.seen.iter().position(|t| *t == thing).unwrap_or_else(|| {
            self.seen.push(thing);
            self.seen.len() - 1
        });
        at as u64 + 1
    }

    fn node(&mut self, thing: Thing, kind: &str, name: &Arc<str>) {
        let id = self.number(thing);
        self.nodes.push(Json::dict(vec![("id", id.into()), ("type", kind.into()), ("name", Json::Str(name.clone()))]));
    }

    fn edge(&mut self, world: &World, parent: Thing, child: ChildId) {
        let child = &world.graph.children[child];
        let (parent, below) = (self.number(parent), self.number(Thing::Node(child.bs)));
        let names = |bits: u8| {
            let named = PERMISSIONS.iter().filter(|(bit, _)| bits & bit != 0);
            Json::list(named.map(|(_, name)| (*name).into()).collect())
        };
        self.edges.push(Json::dict(vec![
            ("parent", parent.into()),
            ("child", below.into()),
            ("name", child.name.into()),
            ("perm", names(child.perm)),
            ("shared-perm", names(child.shared)),
        ]));
    }
}

impl World {
    /// `x-debug-query-block-graph`
    #[must_use]
    pub(in crate::world) fn query_block_graph(&self) -> Json {
        let mut drawing = Drawing::default();
        for (id, blk) in self.graph.backends.iter() {
            let name = if blk.name.is_empty() { blk.dev.clone().unwrap_or_default() } else { blk.name.clone() };
            drawing.node(Thing::Backend(id), "block-backend", &name);
            if let Some(root) = blk.root {
                drawing.edge(self, Thing::Backend(id), root);
            }
        }
        for id in &self.jobs.list {
            let job = &self.jobs[*id];
            if job.job_type.is_block_job() {
                drawing.node(Thing::Job(*id), "block-job", &job.id);
                for child in &job.nodes {
                    drawing.edge(self, Thing::Job(*id), *child);
                }
            }
        }
        for id in &self.graph.named {
            let node = &self.graph.nodes[*id];
            drawing.node(Thing::Node(*id), "block-driver", &node.node_name);
            for child in &node.children {
                drawing.edge(self, Thing::Node(*id), *child);
            }
        }
        let Drawing { mut nodes, mut edges, .. } = drawing;
        nodes.reverse();
        edges.reverse();
        Json::dict(vec![("nodes", Json::list(nodes)), ("edges", Json::list(edges))])
    }
}
