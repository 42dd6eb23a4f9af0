//! Block status: what a node holds, through its chain (`block/io.c:bdrv_co_do_block_status`).

use crate::base::errno::Errno;
use crate::base::errno::Ret;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::frame::Flow;
use crate::world::value::{BlockStatus, Val};

/// A status query through a chain (`bdrv_co_common_block_status_above`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatusReq {
    /// The node that is asked next.
    pub node: NodeId,
    /// The end of the chain, not asked; `None` asks to its bottom.
    pub base: Option<NodeId>,
    /// Byte offset.
    pub offset: u64,
    /// Length in bytes, as far as all layers so far agree.
    pub bytes: u64,
    /// Whether zeroes are looked for where that takes time; else a host file counts as data (`want_zero`).
    pub(in crate::world) want_zero: bool,
    /// Where the top layer ends, if within the range.
    eof: Option<u64>,
    /// Whether this is the top layer.
    top: bool,
    /// Layers that were asked.
    depth: u32,
}

impl StatusReq {
    /// A query that begins at `node`.
    #[must_use]
    pub fn new(node: NodeId, base: Option<NodeId>, offset: u64, bytes: u64, want_zero: bool) -> Box<StatusReq> {
        Box::new(StatusReq { node, base, offset, bytes, want_zero, eof: None, top: true, depth: 0 })
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum StatusFrame {
    Status {
        node: NodeId,
        offset: u64,
        bytes: u64,
        want_zero: bool,
    },
    StatusDone {
        node: NodeId,
        offset: u64,
        bytes: u64,
        want_zero: bool,
    },
    StatusRecursed {
        node: NodeId,
        offset: u64,
        status: Box<BlockStatus>,
    },
    StatusAbove(Box<StatusReq>),
    StatusAboveNext(Box<StatusReq>),
    /// Turns a plain result into the answer of a status query.
    StatusVal,
}

impl StatusFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            StatusFrame::Status { node, offset, bytes, want_zero } => w.block_status(node, offset, bytes, want_zero),
            StatusFrame::StatusDone { node, offset, bytes, want_zero } => w.status_done(node, offset, bytes, want_zero),
            StatusFrame::StatusRecursed { node, offset, status } => w.status_recursed(node, offset, *status),
            StatusFrame::StatusAbove(req) => w.status_above(req),
            StatusFrame::StatusAboveNext(req) => w.status_above_next(req),
            StatusFrame::StatusVal => {
                if let Val::Ret(Err(errno)) = *w.peek() {
                    w.leave(Val::Status(Err(errno)));
                }
                Flow::Go
            }
        }
    }
}

impl World {
    /// `bdrv_co_do_block_status`
    pub(in crate::world) fn block_status(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Flow {
        let n = &self.graph.nodes[node];
        if n.dropped {
            return self.ret(Val::Status(Err(Errno::ENOMEDIUM)));
        }
        let total = n.size;
        if offset >= total {
            return self.ret(Val::Status(Ok(BlockStatus { eof: true, ..BlockStatus::default() })));
        }
        let bytes = bytes.min(total - offset);
        if bytes == 0 {
            return self.ret(Val::Status(Ok(BlockStatus::default())));
        }
        self.node_inc_in_flight(node);
        self.push(StatusFrame::StatusDone { node, offset, bytes, want_zero }.into());
        self.driver_block_status(node, offset, bytes, want_zero)
    }

    /// `bdrv_bsc_invalidate_range`
    pub(in crate::world) fn bsc_invalidate_range(&mut self, node: NodeId, offset: u64, bytes: u64) {
        if let Some((start, end)) = self.graph.nodes[node].block_status_cache
            && offset < end
            && start < offset + bytes
        {
            self.graph.nodes[node].block_status_cache = None;
        }
    }

    /// `bdrv_co_do_block_status`, after the driver.
    fn status_done(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let mut status = match status {
            Ok(status) => status,
            Err(errno) => {
                self.node_dec_in_flight(node);
                return self.ret(Val::Status(Err(errno)));
            }
        };
        status.pnum = status.pnum.min(bytes);
        if self.graph.nodes[node].drv().has_raw_status() {
            // What reads as zeroes because nobody has it is not there for being seen through a filter.
            return self.status_end(node, offset, status);
        }
        if status.data || status.zero {
            status.allocated = true;
        } else if self.graph.nodes[node].drv().supports_backing() {
            match self.graph.cow_bs(node) {
                None => status.zero = true,
                Some(cow) if want_zero && offset >= self.graph.nodes[cow].size => status.zero = true,
                Some(_) => {}
            }
        }
        let file = self.graph.nodes[node].file.map(|c| self.graph.bs(c));
        if want_zero
            && status.recurse
            && status.data
            && !status.zero
            && let (Some(map), Some(file)) = (status.map, file)
        {
            self.push(StatusFrame::StatusRecursed { node, offset, status: Box::new(status) }.into());
            return self.seq([StatusFrame::Status { node: file, offset: map, bytes: status.pnum, want_zero }.into()]);
        }
        self.status_end(node, offset, status)
    }

    /// `bdrv_co_do_block_status`, after asking the file below (`BDRV_BLOCK_RECURSE`).
    fn status_recursed(&mut self, node: NodeId, offset: u64, mut status: BlockStatus) -> Flow {
        let below: Ret<BlockStatus> = self.take();
        if let Ok(below) = below {
            if below.eof && (below.pnum == 0 || below.zero) {
                status.zero = true;
            } else {
                status.pnum = below.pnum;
                status.zero |= below.zero;
            }
        }
        status.recurse = false;
        self.status_end(node, offset, status)
    }

    fn status_end(&mut self, node: NodeId, offset: u64, mut status: BlockStatus) -> Flow {
        self.node_dec_in_flight(node);
        status.eof |= offset + status.pnum == self.graph.nodes[node].size;
        self.ret(Val::Status(Ok(status)))
    }

    /// `bdrv_co_common_block_status_above`: one layer.
    pub(in crate::world) fn status_above(&mut self, req: Box<StatusReq>) -> Flow {
        if req.base == Some(req.node) {
            return self.ret(Val::Status(Ok(BlockStatus { pnum: req.bytes, ..BlockStatus::default() })));
        }
        let (node, offset, bytes, want_zero) = (req.node, req.offset, req.bytes, req.want_zero);
        self.seq([
            StatusFrame::Status { node, offset, bytes, want_zero }.into(),
            StatusFrame::StatusAboveNext(req).into(),
        ])
    }

    /// `bdrv_co_common_block_status_above`: go on below?
    fn status_above_next(&mut self, mut req: Box<StatusReq>) -> Flow {
        let status: Ret<BlockStatus> = self.take();
        let mut status = match status {
            Ok(status) => status,
            Err(errno) => return self.ret(Val::Status(Err(errno))),
        };
        req.depth += 1;
        status.depth = req.depth;
        if req.top {
            if status.pnum == 0 || status.allocated {
                return self.ret(Val::Status(Ok(status)));
            }
            if status.eof {
                req.eof = Some(req.offset + status.pnum);
            }
        } else if status.pnum == 0 {
            // This layer is short: what lies beyond its end reads as zeroes, as if allocated here.
            let depth = req.depth;
            status = BlockStatus { zero: true, allocated: true, depth, pnum: req.bytes, ..BlockStatus::default() };
            return self.status_above_end(&req, status);
        } else if status.allocated {
            status.eof = false;
            return self.status_above_end(&req, status);
        }
        req.top = false;
        req.bytes = status.pnum;
        match self.graph.filter_or_cow_bs(req.node) {
            Some(below) if Some(below) != req.base => {
                req.node = below;
                let (offset, bytes, want_zero) = (req.offset, req.bytes, req.want_zero);
                self.seq([
                    StatusFrame::Status { node: below, offset, bytes, want_zero }.into(),
                    StatusFrame::StatusAboveNext(req).into(),
                ])
            }
            _ => self.status_above_end(&req, status),
        }
    }

    fn status_above_end(&mut self, req: &StatusReq, mut status: BlockStatus) -> Flow {
        if req.eof == Some(req.offset + status.pnum) {
            status.eof = true;
        }
        self.ret(Val::Status(Ok(status)))
    }
}
