//! `qemu-img compare`: whether two images read the same.

use super::{HostError, HostFiles, Image};
use crate::base::errno::Errno;
use crate::block::content::{Difference, WriteTag};
use crate::block::qcow2::Fault;
use std::fmt;

/// Bytes that are looked at in one go, at first.
const STEP: u64 = 2 << 20;
/// Runs of bytes in one go up to which the next one is twice as long.
const FEW_RUNS: usize = 64;
/// How many pieces of two images are looked at before they are too large to be compared.
const MAX_PIECES: u64 = 4_000_000;

/// Where two images first differ, in bytes of the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mismatch {
    /// First byte that differs.
    pub offset: u64,
    /// Bytes from there on that differ.
    pub len: u64,
    /// Who wrote what the first image has there.
    pub left: WriteTag,
    /// Who wrote what the second image has there.
    pub right: WriteTag,
    /// What both have there.
    pub detail: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content mismatch at offset {}! ({})", self.offset, self.detail)
    }
}

impl HostFiles {
    /// Compares two images through their backing chains; where one is longer, it must be zero. The inner result is
    /// the verdict.
    ///
    /// # Errors
    /// If one cannot be opened or read, or both consist of too many pieces.
    pub fn compare(&mut self, left: &str, right: &str) -> Result<Result<(), Mismatch>, HostError> {
        let mut a = Image::open(self, left, None, false)?;
        let mut b = Image::open(self, right, None, false)?;
        let size = a.size_in(self).max(b.size_in(self));
        let (mut at, mut step, mut pieces) = (0, STEP, 0);
        while at < size {
            pieces += 1;
            if pieces > MAX_PIECES {
                let text = format!("Compared up to offset {at}, and given up after {MAX_PIECES} pieces");
                return Err(HostError::new(left, Fault::new(Errno::EFBIG, text)));
            }
            let hole = |image: &mut Image, files: &mut HostFiles| {
                let inside = at < image.size_in(files);
                let status = image.status_above(files, true, at, size - at).ok().filter(|_| inside);
                match status {
                    None if !inside => size - at,
                    Some(status) if status.flags & crate::block::qcow2::Qcow2Status::ZERO != 0 => status.len,
                    _ => 0,
                }
            };
            let holes = hole(&mut a, self).min(hole(&mut b, self));
            if holes > 0 {
                at += holes;
                continue;
            }
            let len = step.min(size - at);
            let x = a.read(self, at, len).map_err(|fault| HostError::new(left, fault))?;
            let y = b.read(self, at, len).map_err(|fault| HostError::new(right, fault))?;
            if let Some(difference) = x.first_difference(&y) {
                return Ok(Err(Mismatch::new(at, &difference)));
            }
            at += len;
            // What a long run costs does not depend on its length.
            let few = x.runs().count() + y.runs().count() <= FEW_RUNS;
            step = if few { step.saturating_mul(2) } else { STEP };
        }
        Ok(Ok(()))
    }
}

impl Mismatch {
    /// Who wrote what the two images have there, by the names that the tags stand for; nothing where nobody is known.
    #[must_use]
    pub fn writers(&self, names: &[std::sync::Arc<str>]) -> String {
        let name = |tag: WriteTag| tag.0.checked_sub(1).and_then(|i| names.get(i as usize));
        match (name(self.left), name(self.right)) {
            (None, None) => String::new(),
            (left, right) => {
                let text = |side: Option<&std::sync::Arc<str>>| side.map_or("nobody", |name| name).to_owned();
                format!("; written by: {}, and {}", text(left), text(right))
            }
        }
    }

    fn new(base: u64, difference: &Difference) -> Mismatch {
        let tag = |run: &Option<crate::block::content::Run>| run.as_ref().map_or(WriteTag(0), |run| run.tag());
        Mismatch {
            offset: base + difference.offset,
            len: difference.len,
            left: tag(&difference.left),
            right: tag(&difference.right),
            detail: difference.to_string(),
        }
    }
}
