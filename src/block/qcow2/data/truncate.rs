//! Changing the size of the disk (block/qcow2.c:qcow2_co_truncate).

use crate::base::errno::Errno;
use crate::block::content::Data;
use crate::block::qcow2::bitmap::BitmapCheck;
use crate::block::qcow2::exec::{Caught, Cx, Exec, Fault, Res};
use crate::block::qcow2::op::{Qcow2Answer, Qcow2Ask, Qcow2Result};
use crate::block::qcow2::refgrow::be64;
use crate::block::qcow2::state::{DiscardType, Qcow2};
use crate::block::qcow2::write::WriteOp;
use std::sync::Arc;

/// `qcow2_co_truncate`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct TruncateOp {
    size: u64,
    zero: bool,
    bitmaps: Arc<[BitmapCheck]>,
    at: TruncateStage,
    write: Option<Box<WriteOp>>,
    result: Option<Result<Qcow2Result, Fault>>,
    stage: usize,
}

type Stage = fn(&mut Cx<'_>, &TruncateOp) -> Res;

/// What growing and shrinking consist of, before the size itself is changed.
const GROW: [Stage; 3] = [|cx, op| cx.check_for_resize(op), |cx, op| cx.grow(op), |cx, op| cx.zero_new_area(op)];
const SHRINK: [Stage; 6] = [
    |cx, op| cx.check_for_resize(op),
    |cx, op| cx.discard_cropped(op),
    |cx, op| cx.clear_cropped_l1(op),
    |cx, op| cx.free_cropped_l2(op),
    |cx, op| cx.drop_refblocks(op),
    |cx, op| cx.cut_file(op),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TruncateStage {
    Start,
    Tables,
    Head,
    HeadWrite,
    Finish,
    Unlocked,
}

impl TruncateOp {
    pub fn new(size: u64, zero: bool, bitmaps: Arc<[BitmapCheck]>) -> TruncateOp {
        TruncateOp { size, zero, bitmaps, at: TruncateStage::Start, write: None, result: None, stage: 0 }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Qcow2Answer) -> Qcow2Ask {
        let mut got = Some(got);
        let size = self.size;
        loop {
            match self.at {
                TruncateStage::Start if !size.is_multiple_of(512) => {
                    let text = "The new size must be a multiple of 512";
                    return Qcow2Ask::Done(Err(Fault::new(Errno::EINVAL, text)));
                }
                TruncateStage::Start => {
                    self.at = TruncateStage::Tables;
                    return Qcow2Ask::Lock;
                }
                TruncateStage::Tables => {
                    let stages = if size < q.sc.size { &SHRINK[..] } else { &GROW[..] };
                    let Some(stage) = stages.get(self.stage) else {
                        self.at = TruncateStage::Head;
                        continue;
                    };
                    match ex.run(q, |cx| stage(cx, self)) {
                        None => return ex.take_ask(),
                        Some(Ok(())) => self.stage += 1,
                        Some(Err(fault)) => return self.over(Err(fault)),
                    }
                }
                TruncateStage::Head => {
                    let head = q.sc.round_up(q.sc.size).min(size).saturating_sub(q.sc.size);
                    self.at = TruncateStage::Finish;
                    if self.zero && head > 0 {
                        self.write = Some(Box::new(WriteOp::new(q.sc.size, Data::zeroes(head))));
                        self.at = TruncateStage::HeadWrite;
                        return Qcow2Ask::Unlock;
                    }
                }
                TruncateStage::HeadWrite => {
                    match self.write.as_mut().map(|op| op.step(ex, q, got.take().unwrap_or(Qcow2Answer::Done))) {
                        Some(Qcow2Ask::Done(result)) => {
                            self.write = None;
                            self.result = result
                                .err()
                                .map(|fault| Err(Fault::of(fault.errno, "Failed to zero out the new area")));
                            return Qcow2Ask::Lock;
                        }
                        Some(ask) => return ask,
                        None => match self.result.take() {
                            Some(failed) => return self.over(failed),
                            None => self.at = TruncateStage::Finish,
                        },
                    }
                }
                TruncateStage::Finish => {
                    let Some(done) = ex.run(q, |cx| cx.resize_header(size)) else { return ex.take_ask() };
                    return self.over(done.map(|()| Qcow2Result::Done));
                }
                TruncateStage::Unlocked => return Qcow2Ask::Done(self.result.take().unwrap_or(Ok(Qcow2Result::Done))),
            }
        }
    }

    fn over(&mut self, result: Result<Qcow2Result, Fault>) -> Qcow2Ask {
        self.result = Some(result);
        self.at = TruncateStage::Unlocked;
        Qcow2Ask::Unlock
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Qcow2Result, Fault>) {
        if let Some(write) = &mut self.write {
            write.task_done(slot, result);
        }
    }
}

impl Cx<'_> {
    fn check_for_resize(&mut self, op: &TruncateOp) -> Res {
        self.check_bitmaps_for_resize(&op.bitmaps)
    }

    fn grow(&mut self, op: &TruncateOp) -> Res {
        self.grow_to(op.size)
    }

    /// Makes the L1 table large enough for so many bytes.
    pub fn grow_to(&mut self, size: u64) -> Res {
        let l1_size = self.q.sc.size_to_l1(size);
        self.grow_l1(l1_size, true).say("Failed to grow the L1 table")
    }

    fn zero_new_area(&mut self, op: &TruncateOp) -> Res {
        let from = self.q.sc.round_up(self.q.sc.size);
        if !op.zero || op.size <= from {
            return Ok(());
        }
        self.zeroize(from, op.size - from, false).say("Failed to zero out new clusters")
    }

    fn discard_cropped(&mut self, op: &TruncateOp) -> Res {
        let from = self.q.sc.round_up(op.size);
        let len = self.q.sc.size.saturating_sub(from);
        self.cluster_discard(from, len, DiscardType::Always, true).say("Failed to discard cropped clusters")
    }

    fn clear_cropped_l1(&mut self, op: &TruncateOp) -> Res {
        let l1_size = self.q.sc.size_to_l1(op.size);
        self.shrink_l1_on_disk(l1_size).say("Failed to reduce the number of L2 tables")
    }

    fn free_cropped_l2(&mut self, op: &TruncateOp) -> Res {
        let l1_size = self.q.sc.size_to_l1(op.size);
        self.shrink_l1_in_memory(l1_size)
    }

    fn drop_refblocks(&mut self, _: &TruncateOp) -> Res {
        self.shrink_reftable().say("Failed to discard unused refblocks")
    }

    fn cut_file(&mut self, _: &TruncateOp) -> Res {
        let length = self.file_length().say("Failed to inquire current file length")?;
        let last = self.last_cluster(length).say("Failed to find the last cluster")?;
        let end = (last + 1) << self.q.sc.cluster_bits;
        if end < length {
            // QEMU only warns if this fails.
            let _ = self.ask(|| Qcow2Ask::Truncate { size: end }).caught()?;
        }
        Ok(())
    }

    /// Enters the size; then the caches get the size that suits it.
    pub fn resize_header(&mut self, size: u64) -> Res {
        self.q.sc.size = size;
        self.write_sync(24, || be64(&[size])).say("Failed to update the image size")?;
        let options = self.q.sc.options.clone();
        self.update_options(&options)
    }
}
