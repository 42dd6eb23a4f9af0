//! What a campaign writes down while it goes on: JSON lines that are only ever added to, so that a process that is killed loses no more
//! than the blocks it was in the middle of.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell writes real files")]

use super::quirks::WatchArgs;
use crate::explore::{Block, Campaign, Found};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Blocks by stage and number.
type Blocks = BTreeMap<(usize, u64), Block>;

/// The file in the directory of a campaign.
const NAME: &str = "campaign.jsonl";

/// The first line: which campaign it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Version of the form.
    campaign_file: u32,
    /// Tool and version.
    tool: String,
    /// The scenario.
    pub file: String,
    /// Quirks and checks, as options.
    pub watch: String,
    /// What is done.
    pub campaign: Campaign,
}

impl Head {
    /// Of a campaign over a file, or over generated scenarios.
    pub fn new(file: Option<&Path>, kind: Option<&str>, watch: &WatchArgs, campaign: &Campaign) -> Head {
        let generated = || kind.map_or("--generate".to_owned(), |kind| format!("--generate --kind {kind}"));
        Head {
            campaign_file: 1,
            tool: concat!("blockjob-sim ", env!("CARGO_PKG_VERSION")).to_owned(),
            file: file.map_or_else(generated, |file| file.to_string_lossy().into_owned()),
            watch: watch.written(),
            campaign: campaign.clone(),
        }
    }

    /// In what another head differs, for people.
    fn differs(&self, old: &Head) -> String {
        let mut all = Vec::new();
        let mut look = |what: &str, old: String, new: String| {
            if old != new {
                all.push(format!("{what} was {old} and is {new}"));
            }
        };
        look("the version", old.tool.clone(), self.tool.clone());
        look("the scenario", old.file.clone(), self.file.clone());
        look("what is watched", format!("`{}`", old.watch.trim()), format!("`{}`", self.watch.trim()));
        look("--runs", old.campaign.runs.to_string(), self.campaign.runs.to_string());
        look("--keep-going", old.campaign.keep_going.to_string(), self.campaign.keep_going.to_string());
        look("--faults", old.campaign.faults.to_string(), self.campaign.faults.to_string());
        let strategies = |head: &Head| {
            let stages: Vec<String> = head.campaign.stages.iter().map(crate::explore::Stage::name).collect();
            stages.join("; ")
        };
        look("what is done", strategies(old), strategies(self));
        if all.is_empty() { "its options differ".to_owned() } else { all.join(", ") }
    }

    /// The command that shows a failure again.
    pub fn again(&self, found: &Found) -> String {
        let run = |file: &str| format!("blockjob-sim run {file} --replay '{}'{}", found.choices, self.watch);
        match found.seed {
            Some(seed) if self.file.starts_with("--generate") => {
                let kind = self.file.trim_start_matches("--generate");
                format!("blockjob-sim generate --seed {seed}{kind} > {seed}.yaml; {}", run(&format!("{seed}.yaml")))
            }
            _ => run(&self.file),
        }
    }
}

/// A file that lines are added to.
pub(super) struct CampaignFile {
    file: File,
    path: PathBuf,
}

impl CampaignFile {
    /// A new one; one that is there stays, and is refused.
    pub fn create(dir: &Path, head: &Head) -> Result<CampaignFile, String> {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let path = dir.join(NAME);
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = made.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => format!(
                "{}: a campaign stands here: --resume goes on with it, another directory begins another",
                path.display()
            ),
            _ => format!("{}: {error}", path.display()),
        })?;
        let mut made = CampaignFile { file, path };
        made.line(head)?;
        Ok(made)
    }

    /// The one that is there, with what it holds.
    pub fn resume(dir: &Path, head: &Head) -> Result<(CampaignFile, Blocks), String> {
        let path = dir.join(NAME);
        let (old, blocks) = read(&path)?;
        if old != *head {
            return Err(format!("{}: it is of another campaign: {}", path.display(), head.differs(&old)));
        }
        let file =
            OpenOptions::new().append(true).open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut made = CampaignFile { file, path };
        // The last line may have been cut off.
        made.write("\n")?;
        Ok((made, blocks))
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
        self.file.write_all(text.as_bytes()).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

/// Makes the text all that stands in the file.
pub(super) fn overwrite(file: &mut File, text: &str) {
    let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(format!("{text}\n").as_bytes()));
    // What is longer from before is cut off; if that cannot be, the first line is still right.
    let _ = written.and_then(|()| file.stream_position()).and_then(|end| file.set_len(end));
}

fn read(path: &Path) -> Result<(Head, Blocks), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut lines = text.lines();
    let head = lines.next().and_then(|line| serde_json::from_str::<Head>(line).ok());
    let head = head.ok_or_else(|| format!("{}: this is no file of a campaign", path.display()))?;
    let mut blocks = BTreeMap::new();
    // A line that was cut off when the process was killed is no block; it is done again.
    for block in lines.filter_map(|line| serde_json::from_str::<Block>(line).ok()) {
        blocks.insert((block.stage, block.number), block);
    }
    Ok((head, blocks))
}

/// Reads all parts of one campaign.
pub(super) fn read_all(parts: &[PathBuf]) -> Result<(Head, Blocks), String> {
    let mut all: Option<(Head, Blocks)> = None;
    for part in parts {
        let path = if part.is_dir() { part.join(NAME) } else { part.clone() };
        let (head, blocks) = read(&path)?;
        match &mut all {
            None => all = Some((head, blocks)),
            Some((first, known)) if *first == head => known.extend(blocks),
            Some(_) => return Err(format!("{}: it is of another campaign than the first", path.display())),
        }
    }
    all.ok_or_else(|| "there are no parts".to_owned())
}
