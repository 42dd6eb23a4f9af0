//! What block status tells: runs of bytes with flags (`nbd/server.c:NBDExtentArray`).

use super::NbdMode;

/// `NBD_MAX_BLOCK_STATUS_EXTENTS`: 1 MiB of them in a reply.
pub const MAX_EXTENTS: usize = (1 << 20) / 8;

/// A list of extents that grows up to a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extents {
    list: Vec<(u64, u32)>,
    most: usize,
    extended: bool,
    full: bool,
}

impl Extents {
    /// An empty list, for a reply of one extent or of many.
    #[must_use]
    pub fn new(one: bool, mode: NbdMode) -> Extents {
        Extents {
            list: Vec::new(),
            most: if one { 1 } else { MAX_EXTENTS },
            extended: mode == NbdMode::Extended,
            full: false,
        }
    }

    /// `nbd_extent_array_add`: false where there is no room, now and later.
    pub fn add(&mut self, length: u64, flags: u32) -> bool {
        if self.full {
            return false;
        }
        if length == 0 {
            return true;
        }
        if let Some(last) = self.list.last_mut()
            && last.1 == flags
            && (self.extended || last.0 + length <= u64::from(u32::MAX))
        {
            last.0 += length;
            return true;
        }
        if self.list.len() >= self.most {
            self.full = true;
            return false;
        }
        self.list.push((length, flags));
        true
    }

    /// Lengths in bytes with the flags of the context, one behind the other.
    #[must_use]
    pub fn list(&self) -> &[(u64, u32)] {
        &self.list
    }

    /// Whether the lengths have 64 bits.
    #[must_use]
    pub fn extended(&self) -> bool {
        self.extended
    }

    /// Whether another extent was refused.
    #[must_use]
    pub fn full(&self) -> bool {
        self.full
    }
}
