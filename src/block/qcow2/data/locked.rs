//! Operations that are one procedure under the lock, and those that are little more.

use crate::base::errno::Errno;
use crate::block::content::{Data, Table, WriteTag};
use crate::block::event::BlkdebugEvent as Event;
use crate::block::qcow2::bitmap::{MemoryBitmap, StoreBitmap};
use crate::block::qcow2::cache::Which;
use crate::block::qcow2::exec::{Caught, Cx, Exec, Fault, Res};
use crate::block::qcow2::op::{Qcow2Answer, Qcow2Ask, Qcow2Result, Qcow2Status};
use crate::block::qcow2::open::OpenOptions;
use crate::block::qcow2::refgrow::be64;
use crate::block::qcow2::repair::Repair;
use crate::block::qcow2::state::{ClusterType, DiscardType, INT_MAX, Names, Qcow2};
use std::sync::Arc;

/// The format of a backing file as a header has it: QEMU keeps the name in 16 bytes, and cuts a longer one off (`copy-before-write`).
#[must_use]
pub fn backing_format(name: &str) -> &str {
    &name[..name.floor_char_boundary(15)]
}

/// A procedure that an operation consists of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) enum Locked {
    Open(OpenOptions),
    Close(Arc<[StoreBitmap]>, Box<str>),
    Discard(u64, u64),
    FlushToOs,
    ChangeBacking(Option<Box<str>>, Option<Box<str>>),
    RemoveBitmap(Box<str>),
    MakeEmpty,
    Reopen(OpenOptions, Arc<[StoreBitmap]>),
    BitmapsWritable(Arc<[MemoryBitmap]>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct LockedOp {
    what: Locked,
    at: LockedStage,
    result: Option<Result<Qcow2Result, Fault>>,
    /// What follows on the opening of an image that is marked dirty.
    repair: Option<Box<Repair>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LockedStage {
    Start,
    Asked,
    Locked,
    Unlocked,
}

impl LockedOp {
    pub fn new(what: Locked) -> LockedOp {
        LockedOp { what, at: LockedStage::Start, result: None, repair: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, _got: Qcow2Answer) -> Qcow2Ask {
        loop {
            match self.at {
                LockedStage::Start => {
                    if let Err(errno) = self.precondition(q) {
                        return Qcow2Ask::Done(Err(errno.into()));
                    }
                    self.at = LockedStage::Locked;
                    if self.takes_lock() {
                        return Qcow2Ask::Lock;
                    }
                }
                LockedStage::Asked | LockedStage::Locked => {
                    if let Some(repair) = &mut self.repair {
                        match repair.step(ex, q) {
                            Ok(ask) => return ask,
                            Err(Ok(())) => {}
                            Err(Err(fault)) => self.result = Some(Err(fault)),
                        }
                    } else {
                        let what = &self.what;
                        let Some(result) = ex.run(q, |cx| cx.locked(what)) else { return ex.take_ask() };
                        let dirty = matches!(result, Ok(Qcow2Result::Opened(_))) && q.sc.writable && q.is_dirty();
                        self.result = Some(result);
                        if dirty {
                            self.repair = Some(Box::new(Repair::new()));
                            continue;
                        }
                    }
                    self.at = LockedStage::Unlocked;
                    if self.takes_lock() {
                        return Qcow2Ask::Unlock;
                    }
                }
                LockedStage::Unlocked => return Qcow2Ask::Done(self.result.take().unwrap_or(Ok(Qcow2Result::Done))),
            }
        }
    }

    pub fn takes_error(&self) -> bool {
        !matches!(self.what, Locked::Discard(..) | Locked::FlushToOs)
    }

    fn takes_lock(&self) -> bool {
        !matches!(
            self.what,
            Locked::Close(..)
                | Locked::ChangeBacking(..)
                | Locked::MakeEmpty
                | Locked::Reopen(..)
                | Locked::BitmapsWritable(..)
        )
    }

    /// What `qcow2_co_pdiscard` checks before it takes the lock.
    fn precondition(&self, q: &Qcow2) -> Result<(), Errno> {
        let Locked::Discard(offset, bytes) = self.what else { return Ok(()) };
        let partial = q.sc.offset_into_cluster(offset | bytes) != 0;
        let at_end = q.sc.offset_into_cluster(offset) == 0 && offset + bytes == q.sc.size;
        if (q.sc.version < 3 && q.has_backing) || (partial && !at_end) { Err(Errno::ENOTSUP) } else { Ok(()) }
    }
}

impl Cx<'_> {
    fn locked(&mut self, what: &Locked) -> Res<Qcow2Result> {
        match what {
            Locked::Open(options) => return Ok(Qcow2Result::Opened(self.do_open(options)?)),
            Locked::Close(bitmaps, node) => return Ok(Qcow2Result::Closed(self.close(bitmaps, node)?)),
            Locked::Discard(offset, bytes) => self.cluster_discard(*offset, *bytes, DiscardType::Request, false)?,
            Locked::FlushToOs => self.write_caches_in_steps()?,
            Locked::ChangeBacking(file, format) => self.change_backing(file.as_deref(), format.as_deref())?,
            Locked::RemoveBitmap(name) => self.remove_bitmap(name)?,
            Locked::MakeEmpty => self.make_empty()?,
            Locked::Reopen(options, bitmaps) => self.reopen(options, bitmaps)?,
            Locked::BitmapsWritable(bitmaps) => self.bitmaps_writable(bitmaps)?,
        }
        Ok(Qcow2Result::Done)
    }

    /// `qcow2_inactivate`: what QEMU prints.
    pub fn close(&mut self, bitmaps: &[StoreBitmap], node: &str) -> Res<Vec<String>> {
        let stored = self.store_bitmaps(bitmaps).caught()?;
        let failed = stored.is_err().then_some(Errno::EINVAL);
        let mut messages = self.inactivate(failed)?;
        if let Err(fault) = stored {
            messages.insert(0, format!("Lost persistent bitmaps during inactivation of node '{node}': {fault}"));
        }
        Ok(messages)
    }

    /// `qcow2_reopen_prepare`. Where writing comes to an end, all that must stand in the image is written.
    fn reopen(&mut self, options: &OpenOptions, bitmaps: &[StoreBitmap]) -> Res {
        self.update_options_prepare(options)?;
        if !options.writable && self.q.sc.writable {
            self.store_bitmaps(bitmaps)?;
            self.flush_caches()?;
            self.mark_image_clean()?;
        }
        Ok(())
    }

    /// `qcow2_co_change_backing_file`
    pub fn change_backing(&mut self, file: Option<&str>, format: Option<&str>) -> Res {
        if file.is_some_and(|name| name.len() > 1023) {
            return Cx::fail(Errno::EINVAL);
        }
        let mut names = Names::clone(&self.q.sc.names);
        names.backing_file = file.map(str::to_owned);
        names.backing_format = format.map(|name| backing_format(name).to_owned());
        self.q.sc.names = Arc::new(names);
        self.update_header()
    }

    /// `qcow2_make_empty`
    fn make_empty(&mut self) -> Res {
        let sc = &self.q.sc;
        let l1_clusters = sc.l1_size.div_ceil(sc.cluster_size() / 8);
        if sc.version >= 3 && sc.nb_bitmaps == 0 && 3 + l1_clusters <= sc.refblock_size() {
            return self.make_completely_empty(l1_clusters);
        }
        // QEMU does this in steps of 2 GiB, after each of which it sends the discards.
        self.cluster_discard(0, sc.size, DiscardType::Snapshot, true)
    }

    /// `make_completely_empty`
    fn make_completely_empty(&mut self, l1_clusters: u64) -> Res {
        self.empty_cache(Which::L2)?;
        self.empty_cache(Which::Refcount)?;
        self.mark_image_dirty()?;
        self.event(Event::L1Update);
        let cluster_size = self.q.sc.cluster_size();
        self.write_zeroes(self.q.sc.l1_offset, l1_clusters * cluster_size)?;
        self.replace_l1(triomphe::Arc::new(Table::new(8)));
        self.event(Event::EmptyImagePrepare);
        self.write_zeroes(cluster_size, (2 + l1_clusters) * cluster_size)?;
        self.event(Event::L1Update);
        self.event(Event::ReftableUpdate);
        self.write_sync(40, || {
            let mut bytes = (3 * cluster_size).to_be_bytes().to_vec();
            bytes.extend(cluster_size.to_be_bytes());
            bytes.extend(1u32.to_be_bytes());
            Data::bytes(bytes.into(), WriteTag(0))
        })?;
        self.q.sc.l1_offset = 3 * cluster_size;
        self.q.sc.reft_offset = cluster_size;
        self.q.sc.reft_size = cluster_size / 8;
        self.q.sc.max_reft_index = 0;
        self.replace_reftable(triomphe::Arc::new(Table::new(8)));
        self.event(Event::RefblockAlloc);
        self.write_sync(cluster_size, || be64(&[2 * cluster_size]))?;
        self.set_reftable_entry(0, 2 * cluster_size);
        self.q.sc.free_cluster_index = 0;
        self.alloc_clusters(3 * cluster_size + self.q.sc.l1_size * 8)?;
        self.mark_image_clean()?;
        let size = (3 + l1_clusters) * cluster_size;
        self.ask(|| Qcow2Ask::Truncate { size }).map(drop)
    }
}

/// `qcow2_co_block_status`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct StatusOp {
    offset: u64,
    bytes: u64,
    at: LockedStage,
    result: Option<Result<Qcow2Result, Fault>>,
}

impl StatusOp {
    pub fn new(offset: u64, bytes: u64) -> StatusOp {
        StatusOp { offset, bytes, at: LockedStage::Start, result: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, _got: Qcow2Answer) -> Qcow2Ask {
        loop {
            match self.at {
                LockedStage::Start => {
                    self.at = LockedStage::Asked;
                    return Qcow2Ask::Lock;
                }
                LockedStage::Asked if q.sc.prealloc_checked => self.at = LockedStage::Locked,
                LockedStage::Asked => {
                    let Some(found) = ex.run(q, |cx| cx.detect_preallocation()) else { return ex.take_ask() };
                    q.sc.prealloc = found.unwrap_or(false);
                    q.sc.prealloc_checked = true;
                }
                LockedStage::Locked => {
                    let (offset, bytes) = (self.offset, self.bytes.min(INT_MAX));
                    let Some(host) = ex.run(q, |cx| cx.get_host_offset(offset, bytes)) else { return ex.take_ask() };
                    self.result = Some(host.map(|host| {
                        let mut flags = match host.kind {
                            ClusterType::Unallocated => 0,
                            ClusterType::ZeroPlain => Qcow2Status::ZERO,
                            ClusterType::ZeroAlloc => Qcow2Status::ZERO | Qcow2Status::OFFSET_VALID,
                            ClusterType::Normal => Qcow2Status::DATA | Qcow2Status::OFFSET_VALID,
                            ClusterType::Compressed => Qcow2Status::DATA | Qcow2Status::COMPRESSED,
                        };
                        if q.sc.prealloc && host.kind == ClusterType::Normal {
                            flags |= Qcow2Status::RECURSE;
                        }
                        let map = if flags & Qcow2Status::OFFSET_VALID != 0 { host.offset } else { 0 };
                        Qcow2Result::Status(Qcow2Status { flags, len: host.bytes, map })
                    }));
                    self.at = LockedStage::Unlocked;
                    return Qcow2Ask::Unlock;
                }
                LockedStage::Unlocked => return Qcow2Ask::Done(self.result.take().unwrap_or(Ok(Qcow2Result::Done))),
            }
        }
    }
}

/// `qcow2_co_pwrite_zeroes`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct ZeroesOp {
    offset: u64,
    bytes: u64,
    may_unmap: bool,
    at: ZeroAt,
    result: Option<Result<Qcow2Result, Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ZeroAt {
    Start,
    /// `is_zero` of what lies before, then behind: asked for that range of the guest's disk.
    Head(u64, u64),
    Tail(u64, u64),
    /// The lock is held; the whole cluster, if only a part was asked for.
    Locked(bool),
    Unlocked,
}

impl ZeroesOp {
    pub fn new(offset: u64, bytes: u64, may_unmap: bool) -> ZeroesOp {
        ZeroesOp { offset, bytes, may_unmap, at: ZeroAt::Start, result: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        let (cluster, end) = (q.sc.cluster_size(), self.offset + self.bytes);
        let head = q.sc.offset_into_cluster(self.offset);
        let tail = if end == q.sc.size { 0 } else { q.sc.round_up(end) - end };
        loop {
            match self.at {
                ZeroAt::Start if head == 0 && tail == 0 => {
                    self.at = ZeroAt::Locked(false);
                    return Qcow2Ask::Lock;
                }
                ZeroAt::Start => {
                    got = None;
                    self.at = ZeroAt::Head(self.offset - head, head);
                }
                ZeroAt::Head(at, len) => match is_zero(at, len, got.take()) {
                    Zeroes::All => self.at = ZeroAt::Tail(end, tail.min(q.sc.size.saturating_sub(end))),
                    Zeroes::No => return Qcow2Ask::Done(Err(Errno::ENOTSUP.into())),
                    Zeroes::Ask(at, len) => {
                        self.at = ZeroAt::Head(at, len);
                        return Qcow2Ask::BlockStatusAbove { offset: at, len, want_zero: true };
                    }
                },
                ZeroAt::Tail(at, len) => match is_zero(at, len, got.take()) {
                    Zeroes::All => {
                        self.at = ZeroAt::Locked(true);
                        return Qcow2Ask::Lock;
                    }
                    Zeroes::No => return Qcow2Ask::Done(Err(Errno::ENOTSUP.into())),
                    Zeroes::Ask(at, len) => {
                        self.at = ZeroAt::Tail(at, len);
                        return Qcow2Ask::BlockStatusAbove { offset: at, len, want_zero: true };
                    }
                },
                ZeroAt::Locked(partial) => {
                    let may_unmap = self.may_unmap;
                    let (offset, bytes) =
                        if partial { (self.offset - head, cluster) } else { (self.offset, self.bytes) };
                    let done = ex.run(q, |cx| {
                        if partial && cx.progress() == 0 {
                            let kind = cx.get_host_offset(offset, bytes)?.kind;
                            if matches!(kind, ClusterType::Normal | ClusterType::Compressed) {
                                return Cx::fail(Errno::ENOTSUP);
                            }
                        }
                        cx.zeroize(offset, bytes, may_unmap)
                    });
                    let Some(done) = done else { return ex.take_ask() };
                    self.result = Some(done.map(|()| Qcow2Result::Done));
                    self.at = ZeroAt::Unlocked;
                    return Qcow2Ask::Unlock;
                }
                ZeroAt::Unlocked => return Qcow2Ask::Done(self.result.take().unwrap_or(Ok(Qcow2Result::Done))),
            }
        }
    }
}

/// What is known about a range that should read as zero.
enum Zeroes {
    All,
    No,
    Ask(u64, u64),
}

/// A step of `is_zero`: kinds of zero are not merged, so that it may take several questions.
fn is_zero(at: u64, len: u64, got: Option<Qcow2Answer>) -> Zeroes {
    match got {
        _ if len == 0 => Zeroes::All,
        None => Zeroes::Ask(at, len),
        Some(Qcow2Answer::Status(status)) if status.flags & Qcow2Status::ZERO != 0 && status.len > 0 => {
            match len.saturating_sub(status.len) {
                0 => Zeroes::All,
                rest => Zeroes::Ask(at + status.len, rest),
            }
        }
        Some(_) => Zeroes::No,
    }
}
