//! What a campaign writes down while it goes on: JSON lines that are only ever added to, so that a process that is killed loses no more
//! than the blocks it was in the middle of.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell writes real files")]

use crate::cli::about::quirks::WatchArgs;
use crate::cli::files;
use crate::explore::saved::{self, Blocks, CampaignHead, CampaignPart, SavedCampaign};
use crate::explore::{Block, Campaign};
use crate::generate::Options;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file in the directory of a campaign.
const NAME: &str = "campaign.jsonl";

/// The first line of a campaign over a file, or over generated scenarios.
pub(in crate::cli) fn head(
    file: Option<&Path>,
    drawn: &Options,
    watch: &WatchArgs,
    campaign: &Campaign,
) -> CampaignHead {
    let generated = || format!("--generate{}", drawn.switches());
    let file = file.map_or_else(generated, |file| file.to_string_lossy().into_owned());
    CampaignHead::new(file, watch.written(), campaign)
}

/// A file that lines are added to.
pub(in crate::cli) struct CampaignFile {
    file: File,
    path: PathBuf,
}

impl CampaignFile {
    /// A new one; one that is there stays, and is refused.
    pub fn create(dir: &Path, head: &CampaignHead) -> Result<CampaignFile, String> {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {}", dir.display(), files::plain(&error)))?;
        let path = dir.join(NAME);
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = made.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => format!(
                "{}: a campaign stands here: --resume goes on with it, another directory begins another",
                path.display()
            ),
            _ => format!("{}: {}", path.display(), files::plain(&error)),
        })?;
        let mut made = CampaignFile::locked(file, path)?;
        made.line(head)?;
        Ok(made)
    }

    /// The one that is there, with what it holds; a new one if none is there, so that whoever gives the same command again and again gets
    /// on with it. A file without a whole first line is none: its process was killed when it had only just begun.
    pub fn resume(dir: &Path, head: &CampaignHead) -> Result<(CampaignFile, SavedCampaign), String> {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {}", dir.display(), files::plain(&error)))?;
        let path = dir.join(NAME);
        let trouble = |error: std::io::Error| format!("{}: {}", path.display(), files::plain(&error));
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(trouble)?;
        let mut made = CampaignFile::locked(file, path.clone())?;
        if files::campaign(&path)?.contains('\n') {
            let old = read(&path)?;
            if old.head != *head {
                return Err(format!("{}: it is of another campaign: {}", path.display(), head.differs(&old.head)));
            }
            // The last line may have been cut off.
            made.write("\n")?;
            return Ok((made, old));
        }
        made.file.set_len(0).map_err(trouble)?;
        made.line(head)?;
        Ok((made, SavedCampaign { head: head.clone(), blocks: Blocks::new(), part: None }))
    }

    /// Only one process may add lines. An engine that takes a machine for lost may start its part again while it still runs. Where the file
    /// system has no locks, that is left to the engine.
    fn locked(file: File, path: PathBuf) -> Result<CampaignFile, String> {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(format!("{}: another process works on this campaign", path.display())),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(CampaignFile { file, path }),
        }
    }

    /// Adds who it belongs to, or that it is done.
    pub fn part(&mut self, part: CampaignPart) -> Result<(), String> {
        self.line(&part)
    }

    /// Adds a block.
    pub fn add(&mut self, block: &Block) -> Result<(), String> {
        self.line(block)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), String> {
        let mut line = serde_json::to_string(value).map_err(|error| error.to_string())?;
        line.push('\n');
        self.write(&line)
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| format!("{}: {}", self.path.display(), files::plain(&error)))
    }
}

/// Makes the text all that stands in the file.
pub(in crate::cli) fn overwrite(file: &mut File, text: &str) {
    let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(format!("{text}\n").as_bytes()));
    // What is longer from before is cut off; if that cannot be, the first line is still right.
    let _ = written.and_then(|()| file.stream_position()).and_then(|end| file.set_len(end));
}

fn read(path: &Path) -> Result<SavedCampaign, String> {
    saved::read(&path.to_string_lossy(), &files::campaign(path)?)
}

/// All parts of one campaign, read and put together.
pub(in crate::cli) struct Parts {
    /// Which campaign it is.
    pub head: CampaignHead,
    /// The blocks of all parts.
    pub blocks: Blocks,
    /// Which parts there are, and whether each is done.
    pub known: BTreeMap<u64, bool>,
}

/// Reads all parts of one campaign. A part that was given up and made elsewhere once more may be there twice.
pub(in crate::cli) fn read_all(parts: &[PathBuf]) -> Result<Parts, String> {
    let mut all: Option<Parts> = None;
    for part in parts {
        let path = if part.is_dir() { part.join(NAME) } else { part.clone() };
        let SavedCampaign { head, blocks, part } = read(&path)?;
        let all = match &mut all {
            None => all.insert(Parts { head, blocks, known: BTreeMap::new() }),
            Some(all) if all.head == head => {
                all.blocks.extend(blocks);
                all
            }
            Some(_) => return Err(format!("{}: it is of another campaign than the first", path.display())),
        };
        if let Some(CampaignPart { part, done }) = part {
            *all.known.entry(part).or_default() |= done;
        }
    }
    all.ok_or_else(|| "there are no parts".to_owned())
}
