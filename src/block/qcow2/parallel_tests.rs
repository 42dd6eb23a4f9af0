//! Many operations at once, in any order, with requests that fail.

use super::{
    CreateOptions, Fault, FileTraits, OpenOptions, Qcow2, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Child, Qcow2Result,
    Qcow2Status,
};
use crate::base::errno::Errno;
use crate::block::content::{Data, WriteTag};
use crate::host::{File, HostFiles};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Why a coroutine does not run.
#[derive(Debug)]
enum Parked {
    Ready(Qcow2Answer),
    /// A request that has not been carried out yet.
    Request(Qcow2Ask),
    /// It wants the lock, and had to wait for an allocation before.
    Lock,
    Alloc(u64),
    Task,
}

struct Co {
    op: Qcow2Call,
    parked: Parked,
    parent: Option<(usize, u32)>,
}

/// A node over a file, with a backing file that holds one byte value, and its coroutines.
struct World {
    q: Qcow2,
    file: File,
    backing: Option<u8>,
    cos: BTreeMap<usize, Co>,
    next: usize,
    lock: Option<usize>,
    queue: VecDeque<usize>,
    results: BTreeMap<usize, Result<Qcow2Result, Fault>>,
    /// Requests after which one fails.
    fail_in: Option<u32>,
    seed: u64,
}

impl World {
    fn new(options: &CreateOptions, backing: Option<u8>) -> World {
        let file = FileTraits { events: false, ..FileTraits::default() };
        let mut world = World {
            q: Qcow2::new(file),
            file: File::default(),
            backing,
            cos: BTreeMap::new(),
            next: 0,
            lock: None,
            queue: VecDeque::new(),
            results: BTreeMap::new(),
            fail_in: None,
            seed: 1,
        };
        world.run(Qcow2Call::create(options.clone())).expect("created");
        world.q = Qcow2::new(file);
        world.run(Qcow2Call::open(OpenOptions { discard_request: true, ..OpenOptions::default() })).expect("opened");
        world.q.has_backing = backing.is_some();
        world
    }

    fn random(&mut self, n: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % n
    }

    fn start(&mut self, op: Qcow2Call, parent: Option<(usize, u32)>) -> usize {
        let id = self.next;
        self.next += 1;
        self.cos.insert(id, Co { op, parked: Parked::Ready(Qcow2Answer::Done), parent });
        id
    }

    fn run(&mut self, op: Qcow2Call) -> Result<Qcow2Result, Fault> {
        let id = self.start(op, None);
        self.finish();
        self.results.remove(&id).expect("a result")
    }

    /// Lets one thing after the other happen, until nothing can.
    fn finish(&mut self) {
        loop {
            let ready: Vec<usize> = self
                .cos
                .iter()
                .filter(|(_, co)| matches!(co.parked, Parked::Ready(_) | Parked::Request(_)))
                .map(|(&id, _)| id)
                .collect();
            if ready.is_empty() {
                assert!(self.cos.is_empty(), "all hang");
                return;
            }
            let id = ready[self.random(ready.len())];
            self.advance(id);
        }
    }

    fn advance(&mut self, id: usize) {
        let co = self.cos.get_mut(&id).expect("there");
        let got = match std::mem::replace(&mut co.parked, Parked::Task) {
            Parked::Ready(got) => got,
            Parked::Request(ask) => self.perform(ask),
            other => panic!("{other:?} cannot go on"),
        };
        self.resume(id, got);
    }

    fn resume(&mut self, id: usize, mut got: Qcow2Answer) {
        loop {
            let ask = self.cos.get_mut(&id).expect("there").op.resume(&mut self.q, got);
            let parked = match ask {
                Qcow2Ask::Lock => match self.take_lock(id) {
                    true => {
                        got = Qcow2Answer::Done;
                        continue;
                    }
                    false => Parked::Lock,
                },
                Qcow2Ask::Unlock => {
                    self.give_lock(id);
                    got = Qcow2Answer::Done;
                    continue;
                }
                Qcow2Ask::Event(_) => {
                    got = Qcow2Answer::Done;
                    continue;
                }
                Qcow2Ask::WaitAlloc(alloc) => {
                    self.give_lock(id);
                    Parked::Alloc(alloc)
                }
                Qcow2Ask::WakeAllocs(alloc) => {
                    self.wake(alloc);
                    got = Qcow2Answer::Done;
                    continue;
                }
                Qcow2Ask::Start { slot, task } => {
                    let child = self.start(*task, Some((id, slot)));
                    self.advance(child);
                    got = Qcow2Answer::Done;
                    continue;
                }
                Qcow2Ask::WaitTask => Parked::Task,
                Qcow2Ask::Done(result) => {
                    let co = self.cos.remove(&id).expect("there");
                    if let Some((parent, slot)) = co.parent {
                        let parent = self.cos.get_mut(&parent).expect("the parent lives longer");
                        parent.op.task_done(slot, result);
                        if matches!(parent.parked, Parked::Task) {
                            parent.parked = Parked::Ready(Qcow2Answer::Done);
                        }
                    } else {
                        self.results.insert(id, result);
                    }
                    return;
                }
                request => Parked::Request(request),
            };
            self.cos.get_mut(&id).expect("there").parked = parked;
            return;
        }
    }

    fn take_lock(&mut self, id: usize) -> bool {
        if self.lock.is_none() && self.queue.is_empty() {
            self.lock = Some(id);
            return true;
        }
        self.queue.push_back(id);
        false
    }

    fn give_lock(&mut self, id: usize) {
        assert_eq!(self.lock, Some(id), "only the holder gives the lock back");
        self.lock = self.queue.pop_front();
        if let Some(next) = self.lock {
            self.cos.get_mut(&next).expect("there").parked = Parked::Ready(Qcow2Answer::Done);
        }
    }

    fn wake(&mut self, alloc: u64) {
        let waiting = |co: &Co| matches!(co.parked, Parked::Alloc(id) if id == alloc);
        let ids: Vec<usize> = self.cos.iter().filter(|(_, co)| waiting(co)).map(|(&id, _)| id).collect();
        for id in ids {
            let free = self.take_lock(id);
            self.cos.get_mut(&id).expect("there").parked =
                if free { Parked::Ready(Qcow2Answer::Done) } else { Parked::Lock };
        }
    }

    fn perform(&mut self, ask: Qcow2Ask) -> Qcow2Answer {
        // No failing flushes: if the one behind the write of an L1 entry fails, QEMU frees the new L2 table although
        // the entry on disk points to it.
        if !matches!(
            ask,
            Qcow2Ask::BlockStatusAbove { .. } | Qcow2Ask::GetLength | Qcow2Ask::GetAllocatedSize | Qcow2Ask::Flush
        ) && let Some(n) = &mut self.fail_in
        {
            if *n == 0 {
                self.fail_in = None;
                return Qcow2Answer::Failed(Errno::EIO);
            }
            *n -= 1;
        }
        match ask {
            Qcow2Ask::Read { child: Qcow2Child::File, offset, len } => {
                return Qcow2Answer::Data(self.file.content.read(offset, len));
            }
            Qcow2Ask::Read { child: Qcow2Child::Backing, len, .. } => {
                return Qcow2Answer::Data(Data::pattern(self.backing.unwrap_or(0), len, WriteTag(0)));
            }
            Qcow2Ask::BlockStatusAbove { len, .. } => {
                // Honest only where there is no backing file; else never zero, which is always allowed.
                let flags = if self.backing.is_some() { Qcow2Status::DATA } else { 0 };
                return Qcow2Answer::Status(Qcow2Status { flags, len, map: 0 });
            }
            Qcow2Ask::GetLength => return Qcow2Answer::Number(self.file.size),
            Qcow2Ask::GetAllocatedSize => return Qcow2Answer::Number(self.file.content.allocated_bytes()),
            Qcow2Ask::Write { offset, data } => {
                self.file.content.write(offset, &data);
                self.file.size = self.file.size.max(offset + data.len());
            }
            Qcow2Ask::WriteZeroes { offset, len, .. } => {
                self.file.content.write(offset, &Data::zeroes(len));
                self.file.size = self.file.size.max(offset + len);
            }
            Qcow2Ask::Discard { offset, len } => self.file.content.punch(offset, len),
            Qcow2Ask::Truncate { size } => {
                self.file.content.truncate(size);
                self.file.size = size;
            }
            _ => {}
        }
        Qcow2Answer::Done
    }

    fn check(&self) -> crate::host::CheckResult {
        let mut files = HostFiles::new();
        files.put("a", Arc::new(self.file.clone()));
        files.check("a").expect("checked")
    }

    fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        match self.run(Qcow2Call::preadv(offset, len)) {
            Ok(Qcow2Result::Data(data)) => data.to_bytes(),
            other => panic!("{other:?}"),
        }
    }
}

const SECTORS: usize = 256;

/// Writes, by sector: all at once, none over another.
fn layout() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    prop::collection::vec((0..12usize, 1..40usize, 1..=255u8), 1..20).prop_map(|parts| {
        let mut at = 0;
        let mut out = Vec::new();
        for (gap, len, byte) in parts {
            let from = at + gap;
            let to = (from + len).min(SECTORS);
            if from < to {
                out.push((from, to - from, byte));
            }
            at = to;
        }
        out
    })
}

fn options(n: u8) -> CreateOptions {
    CreateOptions { cluster_size: [512, 4096, 16_384][usize::from(n)], ..CreateOptions::new(SECTORS as u64 * 512) }
}

fn write_all(world: &mut World, writes: &[(usize, usize, u8)]) -> Vec<usize> {
    let op = |&(at, len, byte): &(usize, usize, u8)| {
        Qcow2Call::pwritev(at as u64 * 512, Data::pattern(byte, len as u64 * 512, WriteTag(u32::from(byte))))
    };
    let ids = writes.iter().map(|write| world.start(op(write), None)).collect();
    world.finish();
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn parallel_writes_do_not_harm_each_other(
        n in 0..3u8, based: bool, seed: u64, first in layout(), second in layout()
    ) {
        let mut world = World::new(&options(n), based.then_some(9));
        world.seed = seed;
        let mut model = vec![if based { 9 } else { 0 }; SECTORS * 512];
        for writes in [&first, &second] {
            for id in write_all(&mut world, writes) {
                prop_assert_eq!(world.results.remove(&id), Some(Ok(Qcow2Result::Done)));
            }
            for &(at, len, byte) in writes {
                model[at * 512..(at + len) * 512].fill(byte);
            }
        }
        prop_assert!(world.read(0, SECTORS as u64 * 512) == model);
        prop_assert_eq!(world.run(Qcow2Call::close(Arc::new([]), "a")), Ok(Qcow2Result::Closed(Vec::new())));
        let result = world.check();
        prop_assert!(result.is_clean(), "{:?}", result);
    }

    /// Whatever request fails: what was written stays, nothing hangs, and at worst clusters leak.
    #[test]
    fn failures_do_not_corrupt(n in 0..3u8, based: bool, seed: u64, fail in 0..60u32, writes in layout(), more in layout()) {
        let mut world = World::new(&options(n), based.then_some(9));
        world.seed = seed;
        let mut model: Vec<Option<u8>> = vec![Some(if based { 9 } else { 0 }); SECTORS];
        world.fail_in = Some(fail);
        for writes in [&writes, &more] {
            let ids = write_all(&mut world, writes);
            for (id, &(at, len, byte)) in ids.iter().zip(writes) {
                let done = world.results.remove(id).expect("a result").is_ok();
                model[at..at + len].fill(done.then_some(byte));
            }
            let _ = world.run(Qcow2Call::flush_to_os());
        }
        world.fail_in = None;
        let _ = world.run(Qcow2Call::flush_to_os());
        let data = world.read(0, SECTORS as u64 * 512);
        for (sector, expected) in model.iter().enumerate() {
            if let Some(byte) = expected {
                prop_assert!(data[sector * 512..][..512].iter().all(|b| b == byte), "sector {} is not {}", sector, byte);
            }
        }
        let _ = world.run(Qcow2Call::close(Arc::new([]), "a"));
        let result = world.check();
        prop_assert_eq!(result.corruptions, 0, "{:?}", result);
    }
}

#[test]
fn a_state_is_cheap_when_nothing_is_there() {
    let mut world = World::new(&CreateOptions::new(1 << 44), None);
    let at = (1 << 44) - 65_536;
    world.run(Qcow2Call::pwritev(at, Data::pattern(1, 65_536, WriteTag(1)))).expect("written");
    world.run(Qcow2Call::flush_to_os()).expect("flushed");
    assert!(world.check().is_clean());
    assert!(world.file.content.extents().count() < 32);
}
