//! `-pidfile`: a file that says which process it is, locked as long as that runs (`qemu_write_pidfile`).

use crate::serve::chardev::plain;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

/// The file of a process. It goes when this is dropped.
#[derive(Debug)]
pub(in crate::serve) struct PidFile {
    /// Holds the lock.
    file: File,
    /// Where it is, links resolved; `None`: it is unknown, and the file stays.
    path: Option<PathBuf>,
}

impl PidFile {
    /// Writes the file, for its owner alone, and locks it; a link is followed.
    ///
    /// # Errors
    /// What QEMU says: another process has it locked, or the host refuses.
    pub(in crate::serve) fn write(path: &str) -> Result<PidFile, String> {
        written(path).map_err(|why| format!("cannot create PID file: {why}"))
    }
}

fn written(path: &str) -> Result<PidFile, String> {
    let mut file = loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| format!("Could not create '{path}': {}", plain(&error)))?;
        let opened = file.metadata().map_err(|error| format!("Cannot stat file: {}", plain(&error)))?;
        lock(&file).map_err(|error| format!("Cannot lock pid file: {}", plain(&error)))?;
        // Another process may have taken the file away at its end, or have made it anew: then this is not the file of that name.
        if fs::metadata(path).is_ok_and(|there| there.ino() == opened.ino()) {
            break file;
        }
    };
    let remove = |text: String| {
        let _ = fs::remove_file(path);
        text
    };
    file.set_len(0).map_err(|error| remove(format!("Failed to truncate pid file: {}", plain(&error))))?;
    let text = format!("{}\n", std::process::id());
    file.write_all(text.as_bytes()).map_err(|_| remove("Failed to write pid file".to_owned()))?;
    Ok(PidFile { path: fs::canonicalize(path).ok(), file })
}

/// A lock of the process, as QEMU's, so that either is refused where the other one runs.
fn lock(file: &File) -> std::io::Result<()> {
    rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(Into::into)
}

impl Drop for PidFile {
    /// Unlike QEMU, which removes what has that name by then, because a file that is another process's is no business of this one.
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        let ours = self.file.metadata().map(|about| (about.dev(), about.ino()));
        if let (Ok(ours), Ok(there)) = (ours, fs::symlink_metadata(path))
            && ours == (there.dev(), there.ino())
        {
            let _ = fs::remove_file(path);
        }
    }
}
