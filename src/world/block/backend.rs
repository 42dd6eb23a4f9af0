//! Backends: roots of the graph that guests, jobs and the monitor use (`block/block-backend.c`).

use crate::base::errno::Errno;
use crate::base::time::Instant;
use crate::block::accounting::{Accounting, AcctType};
use crate::block::content::Data;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::{BackendId, ChildId, CoId, ExportId, Member, NodeId};
use crate::world::block::drain::DrainFrame;
use crate::world::block::driver::throttle::ThrottleFrame;
use crate::world::block::edges::{Parent, Role};
use crate::world::block::graph::OpenFlags;
use crate::world::block::graph::{Graph, GraphFrame};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::IoFrame;
use crate::world::block::io::discard::DiscardFrame;
use crate::world::block::io::flush::FlushFrame;
use crate::world::block::io::request::{self, IoFlags};
use crate::world::block::io::write::WriteFrame;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::marks::CodePlace;
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
    /// `blk_set_disable_request_queuing`: its requests do not wait for the end of a drained section, as those of a job that is told to
    /// pause.
    pub disable_request_queuing: bool,
    /// A guest device is attached, by its path or id.
    pub dev: Option<Arc<str>>,
    /// The device's media can be taken out.
    pub removable: bool,
    /// The device has a tray.
    pub tray: bool,
    /// `tray_open`: the guest sees no medium.
    pub tray_open: bool,
    /// The device says how its last request failed (`blk_iostatus_enable`).
    pub iostatus_enabled: bool,
    /// `root_state`: how the last medium was opened.
    pub last_flags: OpenFlags,
    /// Of a drive with `if=none` or `if=virtio`: whether the latter, and its unit (`DriveInfo`).
    pub drive_unit: Option<(bool, u64)>,
    /// The export that it is of (`dev_ops`, `dev_opaque`).
    pub export: Option<ExportId>,
    /// `disable_perm`: its node is inactive, and it takes no permissions.
    pub disable_perm: bool,
    /// Its node may become inactive though it may write.
    pub force_allow_inactivate: bool,
    /// What its guest did.
    pub stats: Arc<Accounting>,
}

crate::base::time::rebase!(Backend {
    moves: stats;
    rest: name, root, perm, shared, quiesce_counter, in_flight, queued_requests, write_cache, allow_write_beyond_eof,
        disable_request_queuing, dev, removable, tray, tray_open, iostatus_enabled, last_flags, drive_unit, export,
        disable_perm, force_allow_inactivate
});

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

impl Graph {
    /// `bdrv_next`: the roots of backends, then the monitor's own nodes that no backend has. It looks for the latter behind the last of the
    /// former on the monitor's list, and a root that is not on that list has none behind it: where there is a `-drive`, nodes of
    /// `-blockdev` are passed over.
    pub fn bdrv_next(&self, it: &mut BdrvNext) -> Option<NodeId> {
        while !it.monitor {
            let Some((blk, _)) = self.backends.iter().find(|(blk, _)| it.blk.is_none_or(|last| *blk > last)) else {
                it.monitor = true;
                break;
            };
            it.blk = Some(blk);
            match self.blk_bs(blk) {
                Some(node) if self.first_blk(node) == Some(blk) => {
                    it.bs = Some(node);
                    return it.bs;
                }
                _ => {}
            }
        }
        let owned = || self.named.iter().filter(|node| self.nodes[**node].monitor_owned);
        let behind = match it.bs {
            None => 0,
            Some(last) => owned().position(|node| *node == last)? + 1,
        };
        it.bs = owned().skip(behind).find(|node| !self.has_blk(**node)).copied();
        it.bs
    }

    /// `bdrv_first_blk`
    fn first_blk(&self, node: NodeId) -> Option<BackendId> {
        self.nodes[node].parents.iter().find_map(|c| match self.children[*c].parent {
            Parent::Backend(blk) => Some(blk),
            _ => None,
        })
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
    /// `blk_co_preadv` with `BDRV_REQ_PREFETCH`
    Prefetch {
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// `blk_co_preadv` with `BDRV_REQ_COPY_ON_READ` and `BDRV_REQ_PREFETCH`
    Cache {
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
        /// `BDRV_REQ_*`
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
            | BlkRequest::Prefetch { offset, bytes }
            | BlkRequest::Cache { offset, bytes }
            | BlkRequest::Discard { offset, bytes }
            | BlkRequest::Write { offset, bytes, .. } => (*offset, *bytes),
            BlkRequest::Flush => (0, 0),
        }
    }
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BackendFrame {
    BlkNewWithBs { bs: NodeId, perm: u8, beyond_eof: bool },
    BlkNewAttached(BackendId),
    BlkNewOpen { spec: Arc<OpenSpec>, perm: u8 },
    BlkNewOpened { perm: u8 },
    BlkInsertBs(BackendId, NodeId),
    BlkAttach(BackendId, NodeId),
    BlkUnref(BackendId),
    BlkDrain(BackendId),
    BlkDetach(BackendId),
    BlkTruncate { blk: BackendId, size: u64 },
    BlkCo { blk: BackendId, request: Box<BlkRequest> },
    BlkCoDone(BackendId),
}

impl BackendFrame {
    /// Runs the frame.
    #[inline(always)]
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BackendFrame::BlkNewWithBs { bs, perm, beyond_eof } => w.blk_new_with_bs(bs, perm, beyond_eof),
            BackendFrame::BlkNewAttached(blk) => w.blk_new_attached(blk),
            BackendFrame::BlkNewOpen { spec, perm } => {
                w.seq([OpenFrame::BdrvOpen(spec).into(), BackendFrame::BlkNewOpened { perm }.into()])
            }
            BackendFrame::BlkNewOpened { perm } => w.blk_new_opened(perm),
            BackendFrame::BlkInsertBs(blk, bs) => w.blk_insert_bs(blk, bs),
            BackendFrame::BlkAttach(blk, bs) => w.blk_attach(blk, bs),
            BackendFrame::BlkUnref(blk) => w.blk_unref(blk),
            BackendFrame::BlkDrain(blk) => w.blk_drain(blk),
            BackendFrame::BlkDetach(blk) => w.blk_detach(blk),
            BackendFrame::BlkTruncate { blk, size } => w.blk_co_truncate(blk, size),
            BackendFrame::BlkCo { blk, request } => w.blk_co(blk, request),
            BackendFrame::BlkCoDone(blk) => w.blk_co_done(blk),
        }
    }
}

impl World {
    /// `blk_new`
    pub(in crate::world) fn blk_new(&mut self, name: Arc<str>, perm: u8, shared: u8) -> BackendId {
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
            disable_request_queuing: false,
            dev: None,
            removable: false,
            tray: false,
            tray_open: false,
            iostatus_enabled: false,
            last_flags: crate::world::block::graph::OpenFlags::default(),
            drive_unit: None,
            export: None,
            disable_perm: false,
            force_allow_inactivate: false,
            stats: Arc::default(),
        })
    }

    /// `blk_insert_bs`, as frames: write lock, attach, unlock. Leaves `Val::Done`.
    fn blk_insert_bs(&mut self, blk: BackendId, bs: NodeId) -> Flow {
        self.seq([
            GraphLockFrame::GraphWrlock.into(),
            BackendFrame::BlkAttach(blk, bs).into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
        ])
    }

    /// `blk_insert_bs`, once the graph is locked.
    fn blk_attach(&mut self, blk: BackendId, bs: NodeId) -> Flow {
        let backend = &self.graph.backends[blk];
        let (mut perm, mut shared) = (backend.perm, backend.shared);
        if self.graph.is_inactive(bs) && self.graph.can_inactivate(blk) {
            self.graph.backends[blk].disable_perm = true;
            (perm, shared) = (0, perm::ALL);
        }
        let result = self.attach_child(bs, "root", Role::Root, Parent::Backend(blk), perm, shared);
        let done = result.map(|child| self.graph.backends[blk].root = Some(child));
        self.ret(Val::Done(done))
    }

    /// `blk_set_perm`
    ///
    /// # Errors
    /// The permission conflict; the backend then keeps what it had.
    pub(in crate::world) fn blk_set_perm(&mut self, blk: BackendId, perm: u8, shared: u8) -> Result<(), QmpError> {
        if let (Some(root), false) = (self.graph.backends[blk].root, self.graph.backends[blk].disable_perm) {
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

    /// `blk_drain`
    fn blk_drain(&mut self, blk: BackendId) -> Flow {
        let Some(bs) = self.graph.blk_bs(blk) else { return Flow::Go };
        self.bdrv_ref(bs);
        self.seq([
            DrainFrame::DrainedBegin(bs).into(),
            Frame::Poll(crate::world::aio::step::Cond::Backend(blk)),
            DrainFrame::DrainedEnd(bs).into(),
            GraphFrame::BdrvUnref(bs).into(),
        ])
    }

    /// `blk_unref` of the last reference: `blk_remove_bs`, then gone.
    fn blk_unref(&mut self, blk: BackendId) -> Flow {
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
            DrainFrame::DrainedBegin(bs).into(),
            idle.clone(),
            DrainFrame::DrainedEnd(bs).into(),
            DrainFrame::DrainedBegin(bs).into(),
            idle,
            DrainFrame::DrainedEnd(bs).into(),
            GraphFrame::BdrvUnref(bs).into(),
            GraphLockFrame::GraphWrlock.into(),
            BackendFrame::BlkDetach(blk).into(),
            GraphLockFrame::GraphWrunlock.into(),
        ])
    }

    /// `blk_remove_bs`, once the graph is locked.
    fn blk_detach(&mut self, blk: BackendId) -> Flow {
        let root = self.graph.backends[blk].root.take().expect("it has a root");
        self.root_unref_child(root);
        self.graph.backends.remove(blk);
        Flow::Go
    }

    /// `blk_new_with_bs`, with all shared. Leaves `Val::Backend`.
    fn blk_new_with_bs(&mut self, bs: NodeId, perm: u8, beyond_eof: bool) -> Flow {
        let blk = self.blk_new("".into(), perm, perm::ALL);
        self.graph.backends[blk].allow_write_beyond_eof = beyond_eof;
        self.seq([BackendFrame::BlkInsertBs(blk, bs).into(), BackendFrame::BlkNewAttached(blk).into()])
    }

    /// The end of `blk_new_with_bs`.
    fn blk_new_attached(&mut self, blk: BackendId) -> Flow {
        let done = self.take_done();
        if done.is_err() {
            self.graph.backends.remove(blk);
        }
        self.ret(Val::Backend(done.map(|()| blk)))
    }

    /// `blk_new_open`, once the node is open or not. Leaves `Val::Backend`.
    fn blk_new_opened(&mut self, perm: u8) -> Flow {
        let opened: Result<NodeId, QmpError> = self.take();
        match opened {
            Ok(bs) => self.seq([
                BackendFrame::BlkNewWithBs { bs, perm, beyond_eof: false }.into(),
                Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(bs).into())),
            ]),
            Err(err) => self.ret(Val::Backend(Err(err))),
        }
    }

    /// `blk_co_do_*`: counts the request, waits for the end of a drained section, checks the range.
    fn blk_co(&mut self, blk: BackendId, request: Box<BlkRequest>) -> Flow {
        let co = self.current();
        let backend = &mut self.graph.backends[blk];
        if backend.quiesce_counter > 0 && !backend.disable_request_queuing {
            backend.queued_requests.push(co);
            self.reach(CodePlace::DrainedRequestWaits);
            self.push(BackendFrame::BlkCo { blk, request }.into());
            return Flow::Yield(Wait::Queue("the end of a drained section"));
        }
        backend.in_flight += 1;
        let write_through = !backend.write_cache;
        let beyond_eof = backend.allow_write_beyond_eof;
        let is_guest = !beyond_eof && !backend.disable_request_queuing;
        if is_guest {
            self.see_guest(blk, &request);
        }
        let throttled = self.throttling.group_of(Member::Backend(blk)).is_some();
        self.push(BackendFrame::BlkCoDone(blk).into());
        let Some(node) = self.graph.available(blk) else { return self.ret(Val::err(Errno::ENOMEDIUM)) };
        let (offset, bytes) = request.range();
        let length = self.bdrv_getlength(node);
        let checked = !beyond_eof && !matches!(*request, BlkRequest::Flush);
        if checked && (offset > length || length - offset < bytes) {
            return self.ret(Val::err(Errno::EIO));
        }
        let frame = match *request {
            BlkRequest::Read { offset, bytes } => IoFrame::Preadv { node, offset, bytes, flags: IoFlags::NONE }.into(),
            BlkRequest::Prefetch { offset, bytes } => {
                IoFrame::Preadv { node, offset, bytes, flags: IoFlags::PREFETCH }.into()
            }
            BlkRequest::Cache { offset, bytes } => {
                IoFrame::Preadv { node, offset, bytes, flags: IoFlags::COPY_ON_READ | IoFlags::PREFETCH }.into()
            }
            BlkRequest::Discard { offset, bytes } => DiscardFrame::Pdiscard { node, offset, bytes }.into(),
            BlkRequest::Flush => FlushFrame::BdrvCoFlush(node).into(),
            BlkRequest::Write { offset, data, bytes, mut flags } => {
                if write_through {
                    flags |= IoFlags::FUA;
                }
                Frame::Write(WriteFrame::Pwritev(match data {
                    Some(data) => request::write(node, offset, data, flags),
                    None => request::write_zeroes(node, offset, bytes, flags),
                }))
            }
        };
        let limited = match &frame {
            Frame::Io(IoFrame::Preadv { .. }) => Some(false),
            Frame::Write(WriteFrame::Pwritev(_)) => Some(true),
            _ => None,
        };
        match limited.filter(|_| throttled) {
            Some(write) => {
                let wait = ThrottleFrame::ThrottleWait { who: Member::Backend(blk), write, bytes }.into();
                self.seq([GraphLockFrame::Rdlock.into(), wait, frame, GraphLockFrame::Rdunlock.into()])
            }
            None => self.seq([GraphLockFrame::Rdlock.into(), frame, GraphLockFrame::Rdunlock.into()]),
        }
    }

    /// `blk_dec_in_flight`
    fn blk_co_done(&mut self, blk: BackendId) -> Flow {
        self.graph.backends[blk].in_flight -= 1;
        Flow::Go
    }

    /// `block_acct_done`, `block_acct_failed`
    pub(in crate::world) fn account(
        &mut self,
        blk: BackendId,
        kind: AcctType,
        bytes: u64,
        start: Instant,
        failed: bool,
    ) -> Flow {
        let now = self.now;
        if let Some(backend) = self.graph.backends.get_mut(blk) {
            Arc::make_mut(&mut backend.stats).done(kind, bytes, start, now, failed);
        }
        Flow::Go
    }

    /// `blk_co_truncate`. Leaves `Val::Done`.
    fn blk_co_truncate(&mut self, blk: BackendId, size: u64) -> Flow {
        match self.graph.available(blk) {
            Some(node) => self.seq([
                GraphLockFrame::Rdlock.into(),
                DiscardFrame::Truncate { node, size }.into(),
                GraphLockFrame::Rdunlock.into(),
            ]),
            None => self.ret(Val::Done(Err(QmpError::generic("No medium inserted")))),
        }
    }
}
