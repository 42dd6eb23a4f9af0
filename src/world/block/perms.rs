//! Permissions of edges: what they are, and working them out again (`bdrv_refresh_perms` and around it in `block.c`).

use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{ChildId, JobId, NodeId};
use crate::world::block::edges::{Child, Parent, Role};
use crate::world::block::graph::{Graph, Node};

/// `BLK_PERM_*` bits.
pub mod perm {
    /// `BLK_PERM_CONSISTENT_READ`
    pub const CONSISTENT_READ: u8 = 1;
    /// `BLK_PERM_WRITE`
    pub const WRITE: u8 = 2;
    /// `BLK_PERM_WRITE_UNCHANGED`
    pub const WRITE_UNCHANGED: u8 = 4;
    /// `BLK_PERM_RESIZE`
    pub const RESIZE: u8 = 8;
    /// `BLK_PERM_ALL`
    pub const ALL: u8 = 15;

    const NAMES: [(u8, &str); 4] = [
        (CONSISTENT_READ, "consistent read"),
        (WRITE, "write"),
        (WRITE_UNCHANGED, "write unchanged"),
        (RESIZE, "resize"),
    ];

    /// `bdrv_perm_names`: the names in a message, separated by commas.
    #[must_use]
    pub fn names(perm: u8) -> String {
        let named: Vec<&str> = NAMES.iter().filter(|(bit, _)| perm & bit != 0).map(|(_, name)| *name).collect();
        named.join(", ")
    }
}

/// `bdrv_default_perms`
#[must_use]
pub fn default_child_perm(node: &Node, role: Role, taken: u8, shared: u8) -> (u8, u8) {
    let (mut p, mut s) = (taken, shared);
    match role {
        Role::Filtered | Role::RawImage | Role::Root => {}
        Role::Cow => {
            p &= perm::CONSISTENT_READ;
            s = if shared & perm::WRITE != 0 { perm::WRITE | perm::RESIZE } else { 0 };
            s |= perm::CONSISTENT_READ | perm::WRITE_UNCHANGED;
            if node.flags.inactive {
                s |= perm::WRITE | perm::RESIZE;
            }
        }
        Role::Image | Role::Data => {
            if role == Role::Image {
                if node.flags.writable() {
                    p |= perm::WRITE | perm::RESIZE;
                }
                p |= perm::CONSISTENT_READ;
                s &= !perm::WRITE;
            }
            s &= !perm::RESIZE;
            if p & perm::WRITE_UNCHANGED != 0 {
                p |= perm::WRITE;
            }
            if p & perm::WRITE != 0 {
                p |= perm::RESIZE;
            }
            if node.flags.inactive {
                s |= perm::WRITE | perm::RESIZE;
            }
        }
    }
    (p, s)
}

/// Nodes below one, where it is no long chain: so many find room at once.
const MOST_CHAINS: usize = 8;

impl Graph {
    /// `bdrv_get_cumulative_perm`
    #[must_use]
    pub fn cumulative_perm(&self, node: NodeId) -> (u8, u8) {
        self.nodes[node].parents.iter().fold((0, perm::ALL), |(taken, shared), c| {
            let child = &self.children[*c];
            (taken | child.perm, shared & child.shared)
        })
    }

    /// `bdrv_child_user_desc`
    fn user_desc(&self, child: ChildId, job_desc: &dyn Fn(JobId) -> String) -> String {
        match self.children[child].parent {
            Parent::Node(n) => format!("node '{}'", self.nodes[n].node_name),
            Parent::Job(job) => job_desc(job),
            Parent::Backend(blk) => {
                let b = &self.backends[blk];
                match (&*b.name, &b.dev) {
                    ("", Some(dev)) if !dev.is_empty() => format!("block device '{dev}'"),
                    ("", _) => "an unnamed block device".to_owned(),
                    (name, _) => format!("block device '{name}'"),
                }
            }
        }
    }

    /// `bdrv_parent_perms_conflict`: the text of the first conflict among the users of a node.
    fn parents_conflict(&self, node: NodeId, job_desc: &dyn Fn(JobId) -> String) -> Option<String> {
        let parents = &self.nodes[node].parents;
        for a in parents {
            for b in parents {
                let (user_a, user_b) = (&self.children[*a], &self.children[*b]);
                let missing = user_b.perm & !user_a.shared;
                if a != b && missing != 0 {
                    let name = &self.nodes[node].node_name;
                    return Some(format!(
                        "Permission conflict on node '{name}': permissions '{}' are both required by {} (uses node \
                         '{name}' as '{}' child) and unshared by {} (uses node '{name}' as '{}' child).",
                        perm::names(missing),
                        self.user_desc(*b, job_desc),
                        user_b.name,
                        self.user_desc(*a, job_desc),
                        user_a.name,
                    ));
                }
            }
        }
        None
    }

    /// `bdrv_list_refresh_perms`: recomputes the permissions below the given nodes; on a conflict nothing is changed.
    ///
    /// # Errors
    /// The text of the conflict.
    pub fn refresh_perms(&mut self, roots: &[NodeId], job_desc: &dyn Fn(JobId) -> String) -> Result<(), String> {
        let order = self.topological(roots);
        let mut old = Vec::new();
        for node in &order {
            let result = match self.parents_conflict(*node, job_desc) {
                Some(text) => Err(text),
                None => self.node_refresh_perm(*node, &mut old),
            };
            if let Err(text) = result {
                for (child, perm, shared) in old.into_iter().rev() {
                    let child: &mut Child = &mut self.children[child];
                    child.perm = perm;
                    child.shared = shared;
                }
                return Err(text);
            }
        }
        Ok(())
    }

    /// Parents before children.
    fn topological(&self, roots: &[NodeId]) -> Vec<NodeId> {
        fn visit(graph: &Graph, node: NodeId, found: &mut Vec<NodeId>, order: &mut Vec<NodeId>) {
            if found.contains(&node) {
                return;
            }
            found.push(node);
            for child in &graph.nodes[node].children {
                visit(graph, graph.bs(*child), found, order);
            }
            order.push(node);
        }
        let (mut found, mut order) = (Vec::with_capacity(MOST_CHAINS), Vec::with_capacity(MOST_CHAINS));
        for root in roots {
            visit(self, *root, &mut found, &mut order);
        }
        order.reverse();
        order
    }

    /// `bdrv_node_refresh_perm`
    fn node_refresh_perm(&mut self, node: NodeId, old: &mut Vec<(ChildId, u8, u8)>) -> Result<(), String> {
        let (taken, shared) = self.cumulative_perm(node);
        let n = &self.nodes[node];
        let writes = taken & (perm::WRITE | perm::WRITE_UNCHANGED) != 0;
        if writes && !n.flags.writable() {
            if self.reopening.contains(&node) {
                return Err(format!("Read-only block node '{}' cannot support read-write users", n.node_name));
            }
            return Err("Block node is read-only".to_owned());
        }
        if writes && taken & perm::RESIZE == 0 && !n.size.is_multiple_of(n.bl.request_alignment) {
            return Err("Cannot get 'write' permission without 'resize': Image size is not a multiple of request \
                        alignment"
                .to_owned());
        }
        if n.driver.is_none() {
            return Ok(());
        }
        if let Some(file) = n.file_driver()
            && !n.flags.force_share
            && file.locking
            && !n.flags.inactive
            && let Some(text) = self.file_lock_conflict(&file.path, Some(node), taken, shared)
        {
            return Err(text);
        }
        for i in 0..n.children.len() {
            let child = self.nodes[node].children[i];
            let (p, s) = self.child_perm(node, child, taken, shared);
            let c = &self.children[child];
            if (c.perm, c.shared) != (p, s) {
                old.push((child, c.perm, c.shared));
                let c = &mut self.children[child];
                c.perm = p;
                c.shared = s;
            }
        }
        Ok(())
    }

    /// `raw_check_lock_bytes`: what the locks of other nodes with the same host file say against these permissions.
    #[must_use]
    pub fn file_lock_conflict(&self, path: &str, own: Option<NodeId>, taken: u8, shared: u8) -> Option<String> {
        let (mut others_taken, others_unshared) = self.foreign_locks.get(path).copied().unwrap_or((0, 0));
        let mut others_shared = perm::ALL & !others_unshared;
        for (id, node) in self.nodes.iter() {
            if let Some(file) = node.file_driver()
                && Some(id) != own
                && *file.path == *path
                && !node.flags.force_share
                && !node.flags.inactive
                && file.locking
            {
                let (t, s) = self.cumulative_perm(id);
                others_taken |= t;
                others_shared &= s;
            }
        }
        // The first bit in QEMU's order is the one that is named.
        let named = |bits: u8| perm::names(bits & bits.wrapping_neg());
        let (not_shared, not_left) = (taken & !others_shared, others_taken & !shared);
        if not_shared != 0 {
            return Some(format!("Failed to get \"{}\" lock", named(not_shared)));
        }
        if not_left != 0 {
            return Some(format!("Failed to get shared \"{}\" lock", named(not_left)));
        }
        None
    }

    /// What the nodes that have a host file open use of it, and do not share: the bytes that their locks are on.
    #[must_use]
    pub fn file_locks(&self, path: &str) -> (u8, u8) {
        let mut locks = (0, 0);
        for (id, node) in self.nodes.iter() {
            if let Some(file) = node.file_driver()
                && *file.path == *path
                && file.locking
                && !node.flags.force_share
                && !node.flags.inactive
            {
                let (taken, shared) = self.cumulative_perm(id);
                locks = (locks.0 | taken, locks.1 | (perm::ALL & !shared));
            }
        }
        locks
    }

    /// `bdrv_child_perm`: what a node asks of one child.
    fn child_perm(&self, node: NodeId, child: ChildId, taken: u8, shared: u8) -> (u8, u8) {
        let n = &self.nodes[node];
        (n.drv().row().child_perm)(n, self.children[child].role, taken, shared)
    }
}

impl World {
    /// `bdrv_list_refresh_perms`
    pub(in crate::world) fn perms_of(&mut self, roots: &[NodeId]) -> Result<(), QmpError> {
        let jobs = &self.jobs;
        let desc = |job| {
            let j = &jobs[job];
            format!("{} job '{}'", j.job_type.name(), j.id)
        };
        self.graph.refresh_perms(roots, &desc).map_err(QmpError::generic)
    }
}
