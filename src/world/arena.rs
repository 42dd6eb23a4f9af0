//! Where the world keeps its things: numbered slots.
//!
//! Clones share the things until one of the two changes them, so that a copy of a world costs little more than its slots. The `Arc` is
//! `triomphe`'s, without weak references: a run changes things thousands of times, and to find out that nobody shares one is a load
//! there, where the standard library's takes a locked exchange.

use crate::base::Digest;
use crate::base::time::{Rebase, Shift};
use crate::invariant::{Broken, Invariant};
use std::hash::{Hash, Hasher};
use triomphe::Arc;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $letter:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub u32);

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    write!(f, concat!($letter, "{}"), self.0)
                }
            }

            impl From<u32> for $name {
                fn from(n: u32) -> Self {
                    $name(n)
                }
            }

            impl From<$name> for u32 {
                fn from(id: $name) -> u32 {
                    id.0
                }
            }
        )*
    };
}

ids! {
    /// A `BlockDriverState`.
    NodeId, "node";
    /// A `BdrvChild`: an edge of the block graph.
    ChildId, "child";
    /// A `BlockBackend`.
    BackendId, "blk";
    /// A `Job`.
    JobId, "job";
    /// A `JobTxn`.
    TxnId, "txn";
    /// A `Coroutine`.
    CoId, "co";
    /// A request that a device (the host's file system) is working on.
    ReqId, "req";
    /// A `BlockCopyCallState`.
    CallId, "call";
    /// A result that a coroutine leaves for whoever polls for it.
    CellId, "cell";
    /// A `Transaction` that is being prepared.
    TranId, "tran";
    /// A `BlockExport`.
    ExportId, "export";
    /// A connection of the NBD server, with its `NBDClient`.
    ConnId, "conn";
    /// A socket of a client of another server.
    LinkId, "link";
}

/// Numbered slots. A freed number of an arena that never reuses one stays free for ever, so a stale id is noticed.
///
/// Each slot remembers the hash of its thing until somebody has it to change, and the arena that of all slots.
#[derive(Clone, Debug)]
pub struct Arena<I, T> {
    slots: Vec<Slot<T>>,
    digest: Digest,
    reuse: bool,
    /// All slots before this one are taken, if slots are used again.
    taken: usize,
    id: std::marker::PhantomData<I>,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    thing: Option<Arc<T>>,
    digest: Digest,
}

impl<I, T: Hash> Hash for Arena<I, T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest.of(|hasher| self.slots.hash(hasher)));
    }
}

impl<I, T: PartialEq> PartialEq for Arena<I, T> {
    fn eq(&self, other: &Self) -> bool {
        self.slots == other.slots && self.reuse == other.reuse
    }
}

impl<I, T: Eq> Eq for Arena<I, T> {}

impl<T: PartialEq> PartialEq for Slot<T> {
    fn eq(&self, other: &Self) -> bool {
        self.thing == other.thing
    }
}

impl<T: Eq> Eq for Slot<T> {}

impl<T: Hash> Hash for Slot<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest.of(|hasher| self.thing.as_deref().hash(hasher)));
    }
}

impl<I: Copy + From<u32> + Into<u32> + std::fmt::Debug, T: Clone> Arena<I, T> {
    /// An arena whose ids are never given twice: for things that others may hold on to.
    #[must_use]
    pub fn unique() -> Self {
        Arena { slots: Vec::new(), digest: Digest::default(), reuse: false, taken: 0, id: std::marker::PhantomData }
    }

    /// An arena that gives the lowest free id: for short-lived things, so that equal situations have equal ids.
    #[must_use]
    pub fn reusing() -> Self {
        Arena { slots: Vec::new(), digest: Digest::default(), reuse: true, taken: 0, id: std::marker::PhantomData }
    }

    /// Puts a thing into a slot.
    pub fn insert(&mut self, value: T) -> I {
        self.digest.clear();
        let maybe_free = if self.reuse { self.slots.get(self.taken..).unwrap_or_default() } else { &[] };
        let free = maybe_free.iter().position(|slot| slot.thing.is_none());
        let slot = free.map_or(self.slots.len(), |i| self.taken + i);
        let made = Slot { thing: Some(Arc::new(value)), digest: Digest::default() };
        match self.slots.get_mut(slot) {
            Some(free) => *free = made,
            None => self.slots.push(made),
        }
        self.taken = slot + 1;
        I::from(u32::try_from(slot).expect("fewer than 2^32 slots"))
    }

    /// Takes a thing out.
    pub fn remove(&mut self, id: I) -> Option<T> {
        self.take_out(id).map(Arc::unwrap_or_clone)
    }

    /// Takes a thing out that nobody wants any more.
    pub fn free(&mut self, id: I) {
        drop(self.take_out(id));
    }

    fn take_out(&mut self, id: I) -> Option<Arc<T>> {
        self.digest.clear();
        let slot: u32 = id.into();
        let slot = slot as usize;
        let freed = self.slots.get_mut(slot)?;
        freed.digest.clear();
        let thing = freed.thing.take();
        self.taken = self.taken.min(slot);
        if self.reuse {
            while matches!(self.slots.last(), Some(Slot { thing: None, .. })) {
                self.slots.pop();
            }
        }
        thing
    }

    /// The thing, if it still exists.
    #[inline]
    #[must_use]
    pub fn get(&self, id: I) -> Option<&T> {
        let slot: u32 = id.into();
        self.slots.get(slot as usize)?.thing.as_deref()
    }

    /// The thing, to be changed, if it still exists.
    #[inline]
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.digest.clear();
        let slot: u32 = id.into();
        let slot = self.slots.get_mut(slot as usize)?;
        slot.digest.clear();
        let thing = slot.thing.as_mut()?;
        // Hardly ever another world has it as well: to copy it stands out of the way of those who only look whether one does.
        if !thing.is_unique() {
            unshare(thing);
        }
        Arc::get_mut(thing)
    }

    /// All things with their ids, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| {
            slot.thing.as_deref().map(|value| (I::from(u32::try_from(i).expect("fewer than 2^32 slots")), value))
        })
    }

    /// The first id from `first` on that has a thing.
    #[must_use]
    pub fn next_from(&self, first: I) -> Option<I> {
        let first: u32 = first.into();
        let rest = self.slots.get(first as usize..)?;
        rest.iter().position(|slot| slot.thing.is_some()).map(|i| I::from(first + i as u32))
    }

    /// How many things there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| slot.thing.is_some()).count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A thing without instants stays shared with other worlds, and keeps its hash.
impl<I, T: Rebase + Clone> Rebase for Arena<I, T> {
    fn has_instants(&self) -> bool {
        self.slots.iter().filter_map(|slot| slot.thing.as_deref()).any(T::has_instants)
    }

    fn rebase(&mut self, shift: Shift) {
        for Slot { thing, digest } in &mut self.slots {
            if let Some(thing) = thing.as_mut().filter(|thing| thing.has_instants()) {
                self.digest.clear();
                digest.clear();
                Arc::make_mut(thing).rebase(shift);
            }
        }
    }
}

impl<I: Copy + From<u32> + Into<u32> + std::fmt::Debug, T: Clone> std::ops::Index<I> for Arena<I, T> {
    type Output = T;
    #[inline]
    fn index(&self, id: I) -> &T {
        self.get(id).unwrap_or_else(|| used_after_free(&id))
    }
}

impl<I: Copy + From<u32> + Into<u32> + std::fmt::Debug, T: Clone> std::ops::IndexMut<I> for Arena<I, T> {
    #[inline]
    fn index_mut(&mut self, id: I) -> &mut T {
        self.get_mut(id).unwrap_or_else(|| used_after_free(&id))
    }
}

/// Takes a copy of what another world has as well.
#[cold]
#[inline(never)]
fn unshare<T: Clone>(thing: &mut Arc<T>) {
    *thing = Arc::new(T::clone(thing));
}

/// Ends the step: QEMU would go on with what stands in that memory now.
#[cold]
pub(in crate::world) fn used_after_free(id: &dyn std::fmt::Debug) -> ! {
    let reason = "it was freed before, and is used again";
    panic!("{}", Broken::new(Invariant::UsedAfterFree, format!("{id:?}"), reason))
}

/// Who has its requests throttled (`ThrottleGroupMember`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// A `throttle` node.
    Node(NodeId),
    /// A drive with limits of its own.
    Backend(BackendId),
}

impl Member {
    /// A number of its own.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Member::Node(bs) => u64::from(bs.0) << 1,
            Member::Backend(blk) => u64::from(blk.0) << 1 | 1,
        }
    }
}

/// The lowest number that is not used.
pub(super) fn lowest_free(used: impl Iterator<Item = u32> + Clone) -> u32 {
    let mask = used.clone().filter(|id| *id < 128).fold(0u128, |mask, id| mask | 1 << id);
    if mask != u128::MAX {
        return mask.trailing_ones();
    }
    (128..).find(|id| used.clone().all(|other| other != *id)).expect("fewer than 2^32 are in use")
}
