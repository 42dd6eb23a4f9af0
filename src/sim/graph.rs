//! The node graph as text, and how it changes in a run: for pictures and for whoever steps through one.

use super::Sim;
use super::look;
use super::outcome::RunOptions;
use crate::base::units::size_text;
use crate::choice::Choose;
use crate::job::status::JobStatus;
use crate::scenario::plan::Plan;
use crate::world::World;
use crate::world::arena::{ChildId, JobId, NodeId};
use crate::world::block::driver::Driver;
use crate::world::block::edges::Parent;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a picture shows of a run beside its trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// By name: driver, and for nodes that open a file its name.
    pub about: BTreeMap<Arc<str>, String>,
    /// The node graph ([`lines`]), each time that it is another one: the number of records before, and its text.
    pub graphs: Vec<(usize, String)>,
}

/// The node graph of a process, from the top: drives, jobs and nodes of the monitor, each with the nodes below it, an edge a line under
/// QEMU's name for it. A node that several edges lead to is written out once.
#[must_use]
pub fn lines(world: &World) -> Vec<String> {
    let mut tree = Tree { world, lines: Vec::new(), seen: BTreeSet::new() };
    let edges = |wanted: &dyn Fn(Parent) -> bool| -> Vec<ChildId> {
        world.graph.children.iter().filter(|(_, child)| wanted(child.parent)).map(|(id, _)| id).collect()
    };
    for (blk, backend) in world.graph.backends.iter() {
        let dev = backend.dev.as_ref().map_or(String::new(), |dev| format!(" (device {dev})"));
        match (backend.name.is_empty(), backend.dev.is_some()) {
            (false, _) => tree.lines.push(format!("drive {}{dev}", backend.name)),
            (true, true) => tree.lines.push(format!("drive without a name{dev}")),
            (true, false) => continue,
        }
        tree.below(&edges(&|parent| parent == Parent::Backend(blk)), 1);
    }
    for job in world.jobs.list.iter().rev() {
        let j = &world.jobs[*job];
        tree.lines.push(format!("job {} ({})", j.id, j.status.name()));
        tree.below(&edges(&|parent| parent == Parent::Job(*job)), 1);
    }
    // Nodes that no other node is above first, so that what is below them stands there.
    let all: Vec<NodeId> = world.graph.nodes.iter().map(|(id, _)| id).collect();
    let is_top = |bs: &NodeId| {
        let parents = &world.graph.nodes[*bs].parents;
        !parents.iter().any(|edge| matches!(world.graph.children[*edge].parent, Parent::Node(_)))
    };
    for bs in all.iter().filter(|bs| is_top(bs)).chain(&all) {
        if !tree.seen.contains(bs) {
            tree.lines.push("node".to_owned());
            tree.node("", *bs, 1);
        }
    }
    tree.lines
}

struct Tree<'a> {
    world: &'a World,
    lines: Vec<String>,
    seen: BTreeSet<NodeId>,
}

impl Tree<'_> {
    fn below(&mut self, edges: &[ChildId], depth: usize) {
        for edge in edges {
            let child = &self.world.graph.children[*edge];
            let frozen = if child.frozen { " (frozen)" } else { "" };
            self.node(&format!("{}{frozen} → ", child.name), child.bs, depth);
        }
    }

    fn node(&mut self, edge: &str, bs: NodeId, depth: usize) {
        let Some(node) = self.world.graph.nodes.get(bs) else { return };
        let mut line = format!("{:indent$}{edge}{}", "", node.node_name, indent = 2 * depth);
        let again = !self.seen.insert(bs);
        match &node.driver {
            _ if again => line.push_str(" (written out above)"),
            Some(Driver::File(file)) => line.push_str(&format!(" · file {}", file.path)),
            Some(driver) => line.push_str(&format!(" · {}, {}", driver.format_name(), size_text(node.size))),
            None => line.push_str(" · not open"),
        }
        self.lines.push(line);
        if !again {
            let edges: Vec<ChildId> = node.children.iter().rev().copied().collect();
            self.below(&edges, depth + 1);
        }
    }
}

/// Edges with the node below, jobs with their status.
type Shape = (Vec<(ChildId, Parent, NodeId)>, Vec<(JobId, JobStatus)>);

/// What [`lines`] depends on, in a form that is cheap to compare after each step: edges and the jobs' statuses.
fn shape(world: &World) -> Shape {
    let edges = world.graph.children.iter().map(|(id, child)| (id, child.parent, child.bs)).collect();
    let jobs = world.jobs.list.iter().map(|job| (*job, world.jobs[*job].status)).collect();
    (edges, jobs)
}

/// Runs a scenario and looks at its nodes. The trace has to be of the level of the picture, whose records are counted.
#[must_use]
pub fn nodes(plan: &Plan, choose: &mut dyn Choose, options: &RunOptions) -> Nodes {
    let mut seen = Nodes::default();
    let Ok(mut sim) = Sim::new(plan, options) else { return seen };
    seen.about = look::nodes(&sim.world);
    let mut last = None;
    loop {
        let now = shape(&sim.world);
        if last.as_ref() != Some(&now) {
            seen.graphs.push((sim.world.trace.len(), lines(&sim.world).join("\n")));
            seen.about.extend(look::nodes(&sim.world));
            last = Some(now);
        }
        if sim.step_caught(choose).is_some() || choose.diverged().is_some() {
            return seen;
        }
    }
}
