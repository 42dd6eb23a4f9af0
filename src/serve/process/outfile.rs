//! Files that the shell writes whole: tried before the work, written beside and renamed, so that what stands under a name is complete.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Finds out whether `path` can be written, and leaves it as it is: who works for an hour wants to know that before.
///
/// # Errors
/// What the system says.
pub fn probe(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(about) if about.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        // Devices and pipes are written to as they are; to open one may have effects already.
        Ok(about) if !about.is_file() => Ok(()),
        Ok(_) => fs::OpenOptions::new().append(true).open(path).and_then(|_| beside(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => beside(path),
        Err(error) => Err(error),
    }
}

/// [`probe`] for a directory of files: it is made, if it is not there.
///
/// # Errors
/// What the system says.
pub fn probe_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir).and_then(|()| beside(&dir.join("x")))
}

/// A file can be made where `path` is.
fn beside(path: &Path) -> io::Result<()> {
    let new = name_beside(path);
    fs::OpenOptions::new().write(true).create_new(true).open(&new)?;
    fs::remove_file(&new)
}

/// Writes the file: what stood there before stays until all is written.
///
/// # Errors
/// What the system says; then the old file is still there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a link points to is written, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = fs::metadata(path).ok();
    if old.as_ref().is_some_and(|about| !about.is_file()) {
        return fs::OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    let new = name_beside(path);
    let written = fs::OpenOptions::new().write(true).create_new(true).open(&new).and_then(|mut file| {
        if let Some(old) = &old {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)
    });
    let done = written.and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

/// A name in the same directory that nobody else uses.
fn name_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}
