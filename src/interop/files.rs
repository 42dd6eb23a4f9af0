//! Real files of a scenario: made by the model's own image code, so that both sides begin with the same bytes.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell makes real files")]

use super::qemu::FIRMWARE;
use super::{Trouble, trouble};
use crate::host::HostFiles;
use crate::scenario::plan::{FileOp, Plan};
use crate::sim::file_op;
use crate::world::World;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Blocks of the host's file system, in the model.
const BLOCK: usize = 4096;

/// Makes the files that a plan has before its start.
///
/// # Errors
/// What the plan's own tools say, or the host.
pub fn make(plan: &Plan, dir: &Path) -> Result<(), Trouble> {
    let mut world = World::new(HostFiles::new());
    for file in &plan.files {
        file_op(&mut world, &file.op).map_err(Trouble)?;
    }
    export(&world.files, dir)
}

/// Writes all files of the model's host to `dir`.
///
/// # Errors
/// What the host says.
pub fn export(files: &HostFiles, dir: &Path) -> Result<(), Trouble> {
    for (name, _) in files.iter() {
        put(files, name, dir)?;
    }
    Ok(())
}

fn put(files: &HostFiles, name: &str, dir: &Path) -> Result<(), Trouble> {
    let bytes = files.export(name).unwrap_or_default();
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| trouble(name, &error))?;
    }
    let write = || -> std::io::Result<()> {
        let file = fs::File::create(&path)?;
        file.set_len(bytes.len() as u64)?;
        for (i, block) in bytes.chunks(BLOCK).enumerate() {
            let at = (i * BLOCK) as u64;
            // Holes are where the model has them: zeroes that were written are no hole.
            if files.status(name, at, block.len() as u64).0 {
                file.write_all_at(block, at)?;
            }
        }
        Ok(())
    };
    write().map_err(|error| trouble(name, &error))
}

/// Names of the regular files in `dir`, but for those of the recorder itself.
///
/// # Errors
/// What the host says.
pub fn names(dir: &Path) -> Result<Vec<String>, Trouble> {
    let entries = fs::read_dir(dir).map_err(|error| trouble("the working directory", &error))?;
    let mut names = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if file && !matches!(name.as_str(), "stdout" | "stderr" | "qmp.sock" | FIRMWARE) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Reads the files of `dir` into a host of the model.
///
/// # Errors
/// What the host says.
pub fn import(dir: &Path) -> Result<HostFiles, Trouble> {
    let mut files = HostFiles::new();
    for name in names(dir)? {
        let bytes = fs::read(dir.join(&name)).map_err(|error| trouble(&name, &error))?;
        files.import(&name, &bytes);
    }
    Ok(files)
}

/// Does something to the real files of `dir`, as a scenario's step does in the middle of a run.
///
/// # Errors
/// What the plan's own tools say, or the host.
pub fn change(op: &FileOp, dir: &Path) -> Result<(), Trouble> {
    if let FileOp::QemuImg(img) = op {
        let words = img.words.iter().map(|word| &**word);
        let ran = Command::new("qemu-img").args(words).current_dir(dir).stdin(Stdio::null()).output();
        let ran = ran.map_err(|error| trouble("qemu-img", &error))?;
        let status = ran.status.code().and_then(|code| u64::try_from(code).ok()).unwrap_or(u64::MAX);
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        return img.fits(status, &out, &err).map_err(Trouble);
    }
    let mut world = World::new(import(dir)?);
    let before = world.files.clone();
    file_op(&mut world, op).map_err(Trouble)?;
    for (name, file) in world.files.iter() {
        if before.get(name) != Some(file) {
            put(&world.files, name, dir)?;
        }
    }
    Ok(())
}
