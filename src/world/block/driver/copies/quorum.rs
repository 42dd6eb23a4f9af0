//! `quorum`: several nodes that should hold the same; what enough of them say counts (`block/quorum.c`).

use super::{CopiesFrame, CopiesRequest, Fans};
use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::base::units::SECTOR;
use crate::block::content::Data;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{ChildId, NodeId};
use crate::world::block::driver::Driver;
use crate::world::block::edges::Parent;
use crate::world::block::edges::Role;
use crate::world::block::graph::Node;
use crate::world::block::io::IoFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::io::request::{self, IoFlags, WriteReq};
use crate::world::block::io::status::{StatusFrame, StatusReq};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::{BlockStatus, Val};

/// Names of children by their numbers. QEMU has no such limit.
const NAMES: [&str; 32] = [
    "children.0",
    "children.1",
    "children.2",
    "children.3",
    "children.4",
    "children.5",
    "children.6",
    "children.7",
    "children.8",
    "children.9",
    "children.10",
    "children.11",
    "children.12",
    "children.13",
    "children.14",
    "children.15",
    "children.16",
    "children.17",
    "children.18",
    "children.19",
    "children.20",
    "children.21",
    "children.22",
    "children.23",
    "children.24",
    "children.25",
    "children.26",
    "children.27",
    "children.28",
    "children.29",
    "children.30",
    "children.31",
];

/// What a quorum was told (`quorum_open`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuorumConfig {
    /// `vote-threshold`
    pub threshold: i64,
    /// `blkverify`
    pub blkverify: bool,
    /// `rewrite-corrupted`
    pub rewrite: bool,
    /// `read-pattern=fifo`
    pub fifo: bool,
}

/// `BDRVQuorumState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quorum {
    config: QuorumConfig,
    /// `children`
    pub children: Vec<ChildId>,
    /// `next_child_index`
    next_child_index: usize,
    pub(super) fans: Fans,
}

/// A query or a flush, child by child.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuorumWalk {
    node: NodeId,
    offset: u64,
    bytes: u64,
    want_zero: bool,
    /// The child whose answer comes next.
    index: usize,
    zero: u64,
    data: u64,
    errors: Vec<Errno>,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum QuorumFrame {
    FifoDone { node: NodeId, offset: u64, bytes: u64, index: usize },
    FlushDone(Box<QuorumWalk>),
    StatusDone(Box<QuorumWalk>),
}

impl From<QuorumFrame> for Frame {
    fn from(frame: QuorumFrame) -> Frame {
        CopiesFrame::Quorum(frame).into()
    }
}

impl QuorumFrame {
    /// Runs the frame.
    pub(super) fn run(self, w: &mut World) -> Flow {
        match self {
            QuorumFrame::FifoDone { node, offset, bytes, index } => w.quorum_fifo_done(node, offset, bytes, index),
            QuorumFrame::FlushDone(walk) => w.quorum_flush_done(walk),
            QuorumFrame::StatusDone(walk) => w.quorum_status_done(walk),
        }
    }
}

/// `quorum_child_perm`
pub(in crate::world::block::driver) fn child_perm(node: &Node, _: Role, taken: u8, shared: u8) -> (u8, u8) {
    let Driver::Quorum(quorum) = node.drv() else { unreachable!("it is its driver's hook") };
    let own = if quorum.config.rewrite { perm::WRITE } else { 0 };
    (taken | own, shared & (perm::CONSISTENT_READ | perm::WRITE_UNCHANGED))
}

impl Quorum {
    /// A quorum without children yet.
    #[must_use]
    pub fn new(config: QuorumConfig) -> Quorum {
        Quorum { config, children: Vec::new(), next_child_index: 0, fans: Fans::default() }
    }

    /// What is wrong with these options (`quorum_valid_threshold`, `quorum_open`).
    #[must_use]
    pub fn refused(config: QuorumConfig, children: usize) -> Option<&'static str> {
        if children < 1 {
            return Some("Number of provided children must be 1 or more");
        }
        if config.threshold < 1 {
            return Some("Parameter 'vote-threshold' expects a value >= 1");
        }
        if config.threshold > i64::try_from(children).unwrap_or(i64::MAX) {
            return Some("threshold may not exceed children count");
        }
        if !config.fifo && config.blkverify && (children != 2 || config.threshold != 2) {
            return Some("blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
        }
        if !config.fifo && config.rewrite && config.blkverify {
            return Some("rewrite-corrupted=on cannot be used with blkverify=on");
        }
        (children > NAMES.len()).then_some("not simulated: quorum of more than 32 children")
    }

    fn threshold(&self) -> usize {
        usize::try_from(self.config.threshold).unwrap_or(usize::MAX)
    }
}

/// Where two buffers of one length differ first.
#[must_use]
pub fn first_difference(a: &Data, b: &Data) -> Option<u64> {
    let (a, b) = (a.to_bytes(), b.to_bytes());
    a.iter().zip(&b).position(|(a, b)| a != b).map(|at| at as u64)
}

/// `quorum_get_vote_winner`: among versions with equally many votes, the one that was met last.
fn winner<T: PartialEq>(votes: impl Iterator<Item = T>) -> Option<(T, usize)> {
    let mut versions: Vec<(T, usize)> = Vec::new();
    for vote in votes {
        match versions.iter_mut().find(|(version, _)| *version == vote) {
            Some((_, count)) => *count += 1,
            None => versions.insert(0, (vote, 1)),
        }
    }
    let most = versions.iter().map(|(_, count)| *count).max()?;
    versions.into_iter().find(|(_, count)| *count == most)
}

impl World {
    pub(super) fn is_quorum(&self, node: NodeId) -> bool {
        matches!(self.graph.nodes[node].driver, Some(Driver::Quorum(_)))
    }

    fn quorum(&self, node: NodeId) -> &Quorum {
        match self.graph.nodes[node].driver.as_ref() {
            Some(Driver::Quorum(quorum)) => quorum,
            other => unreachable!("{other:?} is no quorum"),
        }
    }

    fn quorum_mut(&mut self, node: NodeId) -> &mut Quorum {
        match self.graph.nodes[node].driver.as_mut() {
            Some(Driver::Quorum(quorum)) => quorum,
            other => unreachable!("{other:?} is no quorum"),
        }
    }

    /// Its nodes, in order.
    pub(in crate::world) fn quorum_children(&self, node: NodeId) -> Vec<NodeId> {
        self.quorum(node).children.iter().map(|edge| self.graph.bs(*edge)).collect()
    }

    /// The name that the next child has.
    pub(in crate::world) fn quorum_next_name(&mut self, node: NodeId) -> Option<&'static str> {
        let quorum = self.quorum_mut(node);
        let name = NAMES.get(quorum.next_child_index).copied()?;
        quorum.next_child_index += 1;
        Some(name)
    }

    /// `quorum_co_getlength`
    ///
    /// # Errors
    /// Its nodes differ in length.
    pub(in crate::world) fn quorum_length(&self, node: NodeId) -> Ret<u64> {
        let mut lengths = self.quorum_children(node).into_iter().map(|child| self.bdrv_getlength(child));
        let first = lengths.next().unwrap_or(0);
        if lengths.all(|length| length == first) { Ok(first) } else { Err(Errno::EIO) }
    }

    /// `quorum_add_child`
    ///
    /// # Errors
    /// QEMU's reason why not.
    pub(in crate::world) fn quorum_add_child(&mut self, node: NodeId, child: NodeId) -> Result<(), QmpError> {
        if self.quorum(node).config.blkverify {
            return Err(QmpError::generic("Cannot add a child to a quorum in blkverify mode"));
        }
        let Some(name) = self.quorum_next_name(node) else {
            return Err(QmpError::generic("not simulated: quorum of more than 32 children"));
        };
        match self.attach_child(child, name, Role::Data, Parent::Node(node), 0, perm::ALL) {
            Ok(edge) => {
                self.quorum_mut(node).children.push(edge);
                Ok(())
            }
            Err(err) => {
                self.quorum_mut(node).next_child_index -= 1;
                Err(err)
            }
        }
    }

    /// `quorum_del_child`
    ///
    /// # Errors
    /// There would be too few left.
    pub(in crate::world) fn quorum_del_child(&mut self, node: NodeId, edge: ChildId) -> Result<(), QmpError> {
        let quorum = self.quorum(node);
        if quorum.children.len() <= quorum.threshold() {
            let threshold = quorum.config.threshold;
            let text = format!("The number of children cannot be lower than the vote threshold {threshold}");
            return Err(QmpError::generic(text));
        }
        if NAMES.get(quorum.next_child_index.wrapping_sub(1)) == Some(&self.graph.children[edge].name) {
            self.quorum_mut(node).next_child_index -= 1;
        }
        self.root_unref_child(edge);
        Ok(())
    }

    /// `quorum_recurse_can_replace`: a child that nobody else uses.
    pub(in crate::world::block::driver) fn quorum_recurse_can_replace(&self, node: NodeId, to_replace: NodeId) -> bool {
        let edge = self.quorum(node).children.iter().find(|edge| self.graph.bs(**edge) == to_replace);
        edge.is_some_and(|edge| self.graph.nodes[to_replace].parents == [*edge])
    }

    /// The space of all children (`bdrv_sum_allocated_file_size`).
    pub(in crate::world::block::driver) fn quorum_allocated_size(&self, node: NodeId) -> Ret<u64> {
        self.quorum_children(node).into_iter().map(|child| self.allocated_file_size(child)).sum()
    }

    /// `quorum_co_preadv`. Leaves `Val::Data`.
    pub(in crate::world::block::driver) fn quorum_preadv(&mut self, node: NodeId, offset: u64, bytes: u64) -> Flow {
        let children = self.quorum_children(node);
        if self.quorum(node).config.fifo {
            let (read, flags) = (children[0], IoFlags::NONE);
            return self.seq([
                IoFrame::Preadv { node: read, offset, bytes, flags }.into(),
                QuorumFrame::FifoDone { node, offset, bytes, index: 0 }.into(),
            ]);
        }
        self.read_all(node, &children, offset, bytes)
    }

    /// `read_fifo_child`: the next child, if this one can't be read.
    fn quorum_fifo_done(&mut self, node: NodeId, offset: u64, bytes: u64, index: usize) -> Flow {
        let children = self.quorum_children(node);
        let result = self.take_data();
        let Err(errno) = result else { return self.ret(Val::Data(result)) };
        self.quorum_report_bad("read", offset, bytes, children[index], Some(errno));
        match children.get(index + 1).copied() {
            None => self.ret(Val::Data(Err(errno))),
            Some(next) => self.seq([
                IoFrame::Preadv { node: next, offset, bytes, flags: IoFlags::NONE }.into(),
                QuorumFrame::FifoDone { node, offset, bytes, index: index + 1 }.into(),
            ]),
        }
    }

    /// `quorum_vote`
    pub(super) fn quorum_vote(&mut self, node: NodeId, range: (u64, u64), results: Vec<Ret<Data>>) -> Flow {
        if let Err(errno) = self.quorum_enough(node, range, &results) {
            return self.ret(Val::Data(Err(errno)));
        }
        let (offset, bytes) = range;
        let read: Vec<(usize, Vec<u8>)> = results
            .iter()
            .enumerate()
            .filter_map(|(index, result)| Some((index, result.as_ref().ok()?.to_bytes())))
            .collect();
        let of = |index: usize| results[index].clone();
        let (first, rest) = read.split_first().expect("enough were read");
        let Some((_, other)) = rest.iter().find(|(_, bytes)| *bytes != first.1) else {
            return self.ret(Val::Data(of(first.0)));
        };
        if self.quorum(node).config.blkverify {
            let at = first.1.iter().zip(other).position(|(a, b)| a != b).unwrap_or(0) as u64;
            let subject = format!("quorum: offset={offset} bytes={bytes}");
            Self::qemu_aborts(subject, &format!("contents mismatch at offset {}", offset + at));
        }
        let (won, votes) = winner(read.iter().map(|(_, bytes)| bytes)).expect("there are votes");
        if votes < self.quorum(node).threshold() {
            self.quorum_report_failure(node, range);
            return self.ret(Val::Data(Err(Errno::EIO)));
        }
        let children = self.quorum_children(node);
        // Versions that were met last come first, and so do their votes.
        let mut versions: Vec<(&Vec<u8>, Vec<usize>)> = Vec::new();
        for (index, bytes) in &read {
            match versions.iter_mut().find(|(version, _)| *version == bytes) {
                Some((_, who)) => who.insert(0, *index),
                None => versions.insert(0, (bytes, vec![*index])),
            }
        }
        let bad = versions.iter().filter(|(version, _)| *version != won);
        let bad: Vec<NodeId> = bad.flat_map(|(_, who)| who.iter().map(|index| children[*index])).collect();
        let (index, _) = read.iter().find(|(_, bytes)| bytes == won).expect("somebody voted for it");
        let data = of(*index).expect("it was read");
        for child in &bad {
            self.quorum_report_bad("read", offset, bytes, *child, None);
        }
        if self.quorum(node).config.rewrite {
            let req = request::write(node, offset, data.clone(), IoFlags::NONE);
            return self.write_all(&req, CopiesRequest::Rewrite(data), &bad);
        }
        self.ret(Val::Data(Ok(data)))
    }

    /// `quorum_has_too_much_io_failed`
    fn quorum_enough(&mut self, node: NodeId, range: (u64, u64), results: &[Ret<Data>]) -> Ret {
        if results.iter().filter(|result| result.is_ok()).count() >= self.quorum(node).threshold() {
            return Ok(());
        }
        self.quorum_report_failure(node, range);
        winner(results.iter().filter_map(|result| result.as_ref().err())).map_or(Ok(()), |(errno, _)| Err(*errno))
    }

    /// `quorum_co_pwritev`, `quorum_co_pwrite_zeroes`. Leaves `Val::Ret`.
    pub(in crate::world::block::driver) fn quorum_pwritev(&mut self, req: &WriteReq) -> Flow {
        let children = self.quorum_children(req.node);
        self.write_all(req, CopiesRequest::Write, &children)
    }

    /// The end of `quorum_co_pwritev`.
    pub(super) fn quorum_written(&mut self, node: NodeId, range: (u64, u64), results: &[Ret<Data>]) -> Flow {
        let done = self.quorum_enough(node, range, results);
        self.ret(Val::Ret(done))
    }

    fn quorum_walk(&self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Box<QuorumWalk> {
        Box::new(QuorumWalk { node, offset, bytes, want_zero, index: 0, zero: bytes, data: 0, errors: Vec::new() })
    }

    /// `quorum_co_flush`. Leaves `Val::Ret`.
    pub(in crate::world) fn quorum_flush(&mut self, node: NodeId) -> Flow {
        let (child, walk) = (self.quorum_children(node)[0], self.quorum_walk(node, 0, 0, false));
        self.seq([FlushFrame::BdrvCoFlush(child).into(), QuorumFrame::FlushDone(walk).into()])
    }

    fn quorum_flush_done(&mut self, mut walk: Box<QuorumWalk>) -> Flow {
        let children = self.quorum_children(walk.node);
        if let Err(errno) = self.take_ret() {
            self.quorum_report_bad("flush", 0, 0, children[walk.index], Some(errno));
            walk.errors.push(errno);
        }
        walk.index += 1;
        if let Some(next) = children.get(walk.index).copied() {
            return self.seq([FlushFrame::BdrvCoFlush(next).into(), QuorumFrame::FlushDone(walk).into()]);
        }
        let enough = children.len() - walk.errors.len() >= self.quorum(walk.node).threshold();
        let won = winner(walk.errors.into_iter()).filter(|_| !enough);
        self.ret(Val::Ret(won.map_or(Ok(()), |(errno, _)| Err(errno))))
    }

    /// `quorum_co_block_status`: zeroes where all say so, data where one does not. Leaves `Val::Status`.
    pub(in crate::world::block::driver) fn quorum_block_status(
        &mut self,
        node: NodeId,
        offset: u64,
        bytes: u64,
        want_zero: bool,
    ) -> Flow {
        let walk = self.quorum_walk(node, offset, bytes, want_zero);
        self.quorum_status_next(walk)
    }

    fn quorum_status_next(&mut self, walk: Box<QuorumWalk>) -> Flow {
        match self.quorum_children(walk.node).get(walk.index).copied() {
            Some(child) => {
                let req = StatusReq::new(child, None, walk.offset, walk.bytes, walk.want_zero);
                self.seq([StatusFrame::StatusAbove(req).into(), QuorumFrame::StatusDone(walk).into()])
            }
            None => self.quorum_status_end(&walk),
        }
    }

    fn quorum_status_done(&mut self, mut walk: Box<QuorumWalk>) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        match status {
            Err(errno) => {
                let child = self.quorum_children(walk.node)[walk.index];
                self.quorum_report_bad("read", walk.offset, walk.bytes, child, Some(errno));
                walk.data = walk.bytes;
                return self.quorum_status_end(&walk);
            }
            Ok(status) if status.zero => walk.zero = walk.zero.min(status.pnum),
            Ok(status) => walk.data = walk.data.max(status.pnum),
        }
        walk.index += 1;
        self.quorum_status_next(walk)
    }

    fn quorum_status_end(&mut self, walk: &QuorumWalk) -> Flow {
        let status = match walk.data {
            0 => BlockStatus { zero: true, pnum: walk.zero, ..BlockStatus::default() },
            pnum => BlockStatus { data: true, pnum, ..BlockStatus::default() },
        };
        self.ret(Val::Status(Ok(status)))
    }

    /// `quorum_report_bad`
    pub(super) fn quorum_report_bad(&mut self, op: &str, offset: u64, bytes: u64, child: NodeId, errno: Option<Errno>) {
        let mut data = vec![("type", Json::from(op))];
        if let Some(errno) = errno {
            data.push(("error", errno.to_string().as_str().into()));
        }
        data.push(("node-name", Json::Str(self.graph.nodes[child].node_name.clone())));
        data.extend(sectors(offset, bytes));
        self.emit("QUORUM_REPORT_BAD", Json::dict(data));
    }

    /// `quorum_report_failure`
    fn quorum_report_failure(&mut self, node: NodeId, range: (u64, u64)) {
        let mut data = vec![("reference", Json::Str(self.graph.device_or_node_name(node)))];
        data.extend(sectors(range.0, range.1));
        self.emit("QUORUM_FAILURE", Json::dict(data));
    }
}

fn sectors(offset: u64, bytes: u64) -> [(&'static str, Json); 2] {
    let (start, end) = (offset / SECTOR, (offset + bytes).div_ceil(SECTOR));
    [("sector-num", start.into()), ("sectors-count", (end - start).into())]
}
