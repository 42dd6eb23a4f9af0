//! Changing the size of the disk (block/qcow2.c:qcow2_co_truncate).

use super::bitmap::BitmapCheck;
use super::exec::{Caught, Cx, Exec, Fault, Res};
use super::op::{Ask, Got, Out};
use super::refgrow::be64;
use super::state::{DiscardType, Qcow2};
use super::write::WriteOp;
use crate::base::errno::Errno;
use crate::block::content::Data;
use std::sync::Arc;

/// `qcow2_co_truncate`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TruncateOp {
    size: u64,
    zero: bool,
    bitmaps: Arc<[BitmapCheck]>,
    at: At,
    write: Option<Box<WriteOp>>,
    result: Option<Result<Out, Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Start,
    Tables,
    Head,
    HeadWrite,
    Finish,
    Unlocked,
}

impl TruncateOp {
    pub fn new(size: u64, zero: bool, bitmaps: Arc<[BitmapCheck]>) -> TruncateOp {
        TruncateOp { size, zero, bitmaps, at: At::Start, write: None, result: None }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, got: Got) -> Ask {
        let mut got = Some(got);
        let size = self.size;
        loop {
            match self.at {
                At::Start if !size.is_multiple_of(512) => {
                    let text = "The new size must be a multiple of 512";
                    return Ask::Done(Err(Fault::new(Errno::EINVAL, text)));
                }
                At::Start => {
                    self.at = At::Tables;
                    return Ask::Lock;
                }
                At::Tables => {
                    let (zero, bitmaps) = (self.zero, &self.bitmaps);
                    let Some(done) = ex.run(q, |cx| cx.resize_tables(size, zero, bitmaps)) else { return ex.take_ask() };
                    match done {
                        Ok(()) => self.at = At::Head,
                        Err(fault) => return self.over(Err(fault)),
                    }
                }
                At::Head => {
                    let head = q.sc.round_up(q.sc.size).min(size).saturating_sub(q.sc.size);
                    self.at = At::Finish;
                    if self.zero && head > 0 {
                        self.write = Some(Box::new(WriteOp::new(q.sc.size, Data::zeroes(head))));
                        self.at = At::HeadWrite;
                        return Ask::Unlock;
                    }
                }
                At::HeadWrite => match self.write.as_mut().map(|op| op.step(ex, q, got.take().unwrap_or(Got::Done))) {
                    Some(Ask::Done(result)) => {
                        self.write = None;
                        self.result = result.err().map(|fault| Err(Fault::of(fault.errno, "Failed to zero out the new area")));
                        return Ask::Lock;
                    }
                    Some(ask) => return ask,
                    None => match self.result.take() {
                        Some(failed) => return self.over(failed),
                        None => self.at = At::Finish,
                    },
                },
                At::Finish => {
                    let Some(done) = ex.run(q, |cx| cx.resize_header(size)) else { return ex.take_ask() };
                    return self.over(done.map(|()| Out::Done));
                }
                At::Unlocked => return Ask::Done(self.result.take().unwrap_or(Ok(Out::Done))),
            }
        }
    }

    fn over(&mut self, result: Result<Out, Fault>) -> Ask {
        self.result = Some(result);
        self.at = At::Unlocked;
        Ask::Unlock
    }

    pub fn task_done(&mut self, slot: u32, result: Result<Out, Fault>) {
        if let Some(write) = &mut self.write {
            write.task_done(slot, result);
        }
    }
}

impl Cx<'_> {
    /// All but the size itself.
    pub fn resize_tables(&mut self, size: u64, zero: bool, bitmaps: &[BitmapCheck]) -> Res {
        self.check_bitmaps_for_resize(bitmaps)?;
        let old = self.q.sc.size;
        let l1_size = self.q.sc.size_to_l1(size);
        if size < old {
            return self.shrink(size, old, l1_size);
        }
        self.grow_l1(l1_size, true).say("Failed to grow the L1 table")?;
        let zero_from = self.q.sc.round_up(old);
        if zero && size > zero_from {
            // What is zeroed lies behind the end of the image as it still is, which is why the end may be unaligned.
            self.zeroize(zero_from, size - zero_from, false).say("Failed to zero out new clusters")?;
        }
        Ok(())
    }

    fn shrink(&mut self, size: u64, old: u64, l1_size: u64) -> Res {
        let from = self.q.sc.round_up(size);
        self.cluster_discard(from, old.saturating_sub(from), DiscardType::Always, true)
            .say("Failed to discard cropped clusters")?;
        self.shrink_l1(l1_size).say("Failed to reduce the number of L2 tables")?;
        self.shrink_reftable().say("Failed to discard unused refblocks")?;
        let length = self.file_length().say("Failed to inquire current file length")?;
        let last = self.last_cluster(length).say("Failed to find the last cluster")?;
        let end = (last + 1) << self.q.sc.cluster_bits;
        if end < length {
            // QEMU only warns if this fails.
            let _ = self.ask(|| Ask::Truncate { size: end }).caught()?;
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
