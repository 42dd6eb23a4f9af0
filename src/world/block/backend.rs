//! Backends: roots of the graph that guests, jobs and the monitor use (`block/block-backend.c`).

use super::edges::{Parent, Role};
use super::graph::OpenFlags;
use super::perms::perm;
use super::request::{self, IoFlags};
use crate::base::errno::Errno;
use crate::base::units::Nanos;
use crate::block::accounting::{Accounting, AcctType};
use crate::block::content::Data;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::{BackendId, ChildId, CoId, Member, NodeId};
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::marks::Place;
use std::sync::Arc;

/// `BlockBackend`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// `drive0`, or empty for one that only QEMU knows.
    pub name: Arc<str>,
    /// The edge to its node.
    pub root: Option<ChildId>,
    /// Permissions it takes.
    pub perm: u8,
    /// Permissions it leaves to others.
    pub shared: u8,
    /// Open drained sections.
    pub quiesce_counter: u32,
    /// Requests under way.
    pub in_flight: u32,
    /// Coroutines whose requests wait for the end of a drained section, oldest first.
    pub queued_requests: Vec<CoId>,
    /// `enable_write_cache`: false makes every write be followed by a flush.
    pub write_cache: bool,
    /// `blk_set_allow_write_beyond_eof`, as of one who formats an image.
    pub allow_write_beyond_eof: bool,
    /// A guest device is attached, by its path or id.
    pub dev: Option<Arc<str>>,
    /// The device's media can be taken out.
    pub removable: bool,
    /// The device has a tray.
    pub tray: bool,
    /// It is open.
    pub tray_open: bool,
    /// The device says how its last request failed (`blk_iostatus_enable`).
    pub iostatus_enabled: bool,
    /// `root_state`: how the last medium was opened.
    pub last_flags: OpenFlags,
    /// What its guest did.
    pub stats: Arc<Accounting>,
}

/// How far a walk over all images got (`BdrvNextIterator`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BdrvNext {
    /// Whether it is at the monitor's nodes.
    pub(super) monitor: bool,
    pub(super) blk: Option<BackendId>,
    pub(super) bs: Option<NodeId>,
}

impl BdrvNext {
    /// The node that was given last.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.bs
    }
}

/// A request that a backend sends to its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlkRequest {
    /// `blk_co_preadv`
    Read {
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// `blk_co_pwritev`
    Write {
        /// First byte.
        offset: u64,
        /// What to write; `None` with `ZERO_WRITE`.
        data: Option<Data>,
        /// Length.
        bytes: u64,
        /// Flags.
        flags: IoFlags,
    },
    /// `blk_co_pdiscard`
    Discard {
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// `blk_co_flush`
    Flush,
}

impl BlkRequest {
    fn range(&self) -> (u64, u64) {
        match self {
            BlkRequest::Read { offset, bytes }
            | BlkRequest::Discard { offset, bytes }
            | BlkRequest::Write { offset, bytes, .. } => (*offset, *bytes),
            BlkRequest::Flush => (0, 0),
        }
    }
}

impl World {
    /// `blk_new`
    pub fn blk_new(&mut self, name: Arc<str>, perm: u8, shared: u8) -> BackendId {
        self.graph.backends.insert(Backend {
            name,
            root: None,
            perm,
            shared,
            quiesce_counter: 0,
            in_flight: 0,
            queued_requests: Vec::new(),
            write_cache: true,
            allow_write_beyond_eof: false,
            dev: None,
            removable: false,
            tray: false,
            tray_open: false,
            iostatus_enabled: false,
            last_flags: crate::world::block::graph::OpenFlags::default(),
            stats: Arc::default(),
        })
    }

    /// `blk_insert_bs`, as frames: write lock, attach, unlock. Leaves `Val::Done`.
    pub(in crate::world) fn blk_insert_bs(&mut self, blk: BackendId, bs: NodeId) -> Flow {
        self.seq([Frame::GraphWrlock, Frame::BlkAttach(blk, bs), Frame::KeepOver(Box::new(Frame::GraphWrunlock))])
    }

    /// The attaching itself.
    pub(in crate::world) fn blk_attach(&mut self, blk: BackendId, bs: NodeId) -> Flow {
        let backend = &self.graph.backends[blk];
        let (perm, shared) = (backend.perm, backend.shared);
        let result = self.attach_child(bs, "root", Role::Root, Parent::Backend(blk), perm, shared);
        let done = result.map(|child| self.graph.backends[blk].root = Some(child));
        self.ret(Val::Done(done))
    }

    /// `blk_set_perm`
    ///
    /// # Errors
    /// The permission conflict; the backend then keeps what it had.
    pub fn blk_set_perm(&mut self, blk: BackendId, perm: u8, shared: u8) -> Result<(), QmpError> {
        if let Some(root) = self.graph.backends[blk].root {
            let child = &mut self.graph.children[root];
            let old = (child.perm, child.shared);
            (child.perm, child.shared) = (perm, shared);
            let bs = child.bs;
            if let Err(err) = self.perms_of(&[bs]) {
                let child = &mut self.graph.children[root];
                (child.perm, child.shared) = old;
                return Err(err);
            }
        }
        let backend = &mut self.graph.backends[blk];
        (backend.perm, backend.shared) = (perm, shared);
        Ok(())
    }

    /// `blk_unref` of the last reference: `blk_remove_bs`, then gone.
    pub(in crate::world) fn blk_unref(&mut self, blk: BackendId) -> Flow {
        if self.graph.backends[blk].root.is_none() {
            self.graph.backends.remove(blk);
            return Flow::Go;
        }
        // `blk_drain`
        let bs = self.graph.blk_bs(blk).expect("it has a root");
        self.bdrv_ref(bs);
        let idle = Frame::Poll(crate::world::aio::step::Cond::Backend(blk));
        // Both `blk_unref` and `blk_remove_bs` drain.
        self.seq([
            Frame::DrainedBegin(bs),
            idle.clone(),
            Frame::DrainedEnd(bs),
            Frame::DrainedBegin(bs),
            idle,
            Frame::DrainedEnd(bs),
            Frame::BdrvUnref(bs),
            Frame::GraphWrlock,
            Frame::BlkDetach(blk),
            Frame::GraphWrunlock,
        ])
    }

    /// The detaching itself.
    pub(in crate::world) fn blk_detach(&mut self, blk: BackendId) -> Flow {
        let root = self.graph.backends[blk].root.take().expect("it has a root");
        self.root_unref_child(root);
        self.graph.backends.remove(blk);
        Flow::Go
    }

    /// `blk_new_with_bs`, with all shared. Leaves `Val::Backend`.
    pub(in crate::world) fn blk_new_with_bs(&mut self, bs: NodeId, perm: u8, beyond_eof: bool) -> Flow {
        let blk = self.blk_new("".into(), perm, perm::ALL);
        self.graph.backends[blk].allow_write_beyond_eof = beyond_eof;
        self.seq([Frame::BlkInsertBs(blk, bs), Frame::BlkNewAttached(blk)])
    }

    /// The end of `blk_new_with_bs`.
    pub(in crate::world) fn blk_new_attached(&mut self, blk: BackendId) -> Flow {
        let done = self.take_done();
        if done.is_err() {
            self.graph.backends.remove(blk);
        }
        self.ret(Val::Backend(done.map(|()| blk)))
    }

    /// `blk_new_open`, once the node is open or not. Leaves `Val::Backend`.
    pub(in crate::world) fn blk_new_opened(&mut self, perm: u8) -> Flow {
        match std::mem::take(&mut self.reg) {
            Val::Node(Ok(bs)) => self.seq([
                Frame::BlkNewWithBs { bs, perm, beyond_eof: false },
                Frame::KeepOver(Box::new(Frame::BdrvUnref(bs))),
            ]),
            Val::Node(Err(err)) => self.ret(Val::Backend(Err(err))),
            other => unreachable!("a node or an error, not {other:?}"),
        }
    }

    /// `blk_co_do_*`: counts the request, waits for the end of a drained section, checks the range.
    pub(in crate::world) fn blk_co(&mut self, blk: BackendId, request: Box<BlkRequest>) -> Flow {
        let co = self.current();
        let backend = &mut self.graph.backends[blk];
        if backend.quiesce_counter > 0 {
            backend.queued_requests.push(co);
            self.reach(Place::DrainedRequestWaits);
            self.stack.push(Frame::BlkCo { blk, request });
            return Flow::Yield(Wait::Queue("the end of a drained section"));
        }
        backend.in_flight += 1;
        let write_through = !backend.write_cache;
        let beyond_eof = backend.allow_write_beyond_eof;
        if !beyond_eof {
            self.see_guest(blk, &request);
        }
        let throttled = self.throttling.group_of(Member::Backend(blk)).is_some();
        self.stack.push(Frame::BlkCoDone(blk));
        let Some(node) = self.graph.available(blk) else { return self.ret(Val::err(Errno::ENOMEDIUM)) };
        let (offset, bytes) = request.range();
        let length = self.bdrv_getlength(node);
        let checked = !beyond_eof && !matches!(*request, BlkRequest::Flush);
        if checked && (offset > length || length - offset < bytes) {
            return self.ret(Val::err(Errno::EIO));
        }
        let frame = match *request {
            BlkRequest::Read { offset, bytes } => Frame::Preadv { node, offset, bytes },
            BlkRequest::Discard { offset, bytes } => Frame::Pdiscard { node, offset, bytes },
            BlkRequest::Flush => Frame::BdrvCoFlush(node),
            BlkRequest::Write { offset, data, bytes, mut flags } => {
                if write_through {
                    flags |= IoFlags::FUA;
                }
                Frame::Pwritev(match data {
                    Some(data) => request::write(node, offset, data, flags),
                    None => request::write_zeroes(node, offset, bytes, flags),
                })
            }
        };
        let limited = match &frame {
            Frame::Preadv { .. } => Some(false),
            Frame::Pwritev(_) => Some(true),
            _ => None,
        };
        match limited.filter(|_| throttled) {
            Some(write) => {
                let wait = Frame::ThrottleWait { who: Member::Backend(blk), write, bytes };
                self.seq([Frame::Rdlock, wait, frame, Frame::Rdunlock])
            }
            None => self.seq([Frame::Rdlock, frame, Frame::Rdunlock]),
        }
    }

    /// `blk_dec_in_flight`
    pub(in crate::world) fn blk_co_done(&mut self, blk: BackendId) -> Flow {
        self.graph.backends[blk].in_flight -= 1;
        Flow::Go
    }

    /// `block_acct_done`, `block_acct_failed`
    pub(in crate::world) fn account(
        &mut self,
        blk: BackendId,
        kind: AcctType,
        bytes: u64,
        start: Nanos,
        failed: bool,
    ) -> Flow {
        let now = self.now;
        if let Some(backend) = self.graph.backends.get_mut(blk) {
            Arc::make_mut(&mut backend.stats).done(kind, bytes, start, now, failed);
        }
        Flow::Go
    }

    /// `blk_co_truncate`. Leaves `Val::Done`.
    pub(in crate::world) fn blk_co_truncate(&mut self, blk: BackendId, size: u64) -> Flow {
        match self.graph.available(blk) {
            Some(node) => self.seq([Frame::Rdlock, Frame::Truncate { node, size }, Frame::Rdunlock]),
            None => self.ret(Val::Done(Err(QmpError::generic("No medium inserted")))),
        }
    }
}
