//! The bytes of an image that stand for permissions (`block/file-posix.c:raw_apply_lock_bytes`).

use crate::world::World;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::os::fd::BorrowedFd;

/// `RAW_LOCK_PERM_BASE`: a lock says that somebody uses the permission.
const USES: i64 = 100;
/// `RAW_LOCK_SHARED_BASE`: a lock says that somebody does not share the permission.
const SHARES_NOT: i64 = 200;
/// Permissions there are.
const PERMS: u8 = 4;

/// The locks held through one open file: what is used, and what is not shared.
#[derive(Debug, Default)]
pub struct Locks {
    held: (u8, u8),
}

impl Locks {
    /// What is locked.
    pub fn held(&self) -> (u8, u8) {
        self.held
    }

    /// Locks and unlocks until this is what is locked. A byte that another process took meanwhile stays unlocked.
    pub fn set(&mut self, fd: BorrowedFd<'_>, wanted: (u8, u8)) {
        if self.held == wanted {
            return;
        }
        for (base, old, new) in [(USES, self.held.0, wanted.0), (SHARES_NOT, self.held.1, wanted.1)] {
            for bit in (0..PERMS).filter(|bit| (old ^ new) & (1 << bit) != 0) {
                let kind = if new & (1 << bit) != 0 { libc::F_RDLCK } else { libc::F_UNLCK };
                let _ = fcntl(fd, FcntlArg::F_OFD_SETLK(&byte(base + i64::from(bit), kind)));
            }
        }
        self.held = wanted;
    }
}

fn byte(at: i64, kind: i32) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: at, l_len: 1, l_pid: 0 }
}

/// What other open files, of whatever process, have locked: what they use, and what they do not share.
pub fn foreign(fd: BorrowedFd<'_>) -> (u8, u8) {
    let locked = |base: i64| {
        (0..PERMS).fold(0, |bits, bit| {
            let mut lock = byte(base + i64::from(bit), libc::F_WRLCK);
            let found = fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok();
            if found && i32::from(lock.l_type) != libc::F_UNLCK { bits | 1 << bit } else { bits }
        })
    };
    (locked(USES), locked(SHARES_NOT))
}

/// Whether a node has the file open.
pub fn in_use(world: &World, path: &str) -> bool {
    world.graph.nodes.iter().any(|(_, node)| node.file_driver().is_some_and(|file| *file.path == *path))
}

/// What the nodes that have the file open use, and do not share.
pub fn wanted(world: &World, path: &str) -> (u8, u8) {
    world.graph.file_locks(path)
}
