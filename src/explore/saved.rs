//! What a campaign writes down, and reads back: JSON lines, the first of which says which campaign it is.
//!
//! Such a file may come from anywhere. What its blocks say is added up, so each is looked at when it is read.

use super::campaign::{AT_LEAST, Block, Campaign, CampaignStage, FailedRun};
use super::strategy::Strategy;
use crate::base::counted;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Blocks by stage and number.
pub type Blocks = BTreeMap<(usize, u64), Block>;

/// A line that says whose file it is: written where a part of a campaign begins, and once more when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CampaignPart {
    /// Which part, counted from 0.
    pub part: u64,
    /// Whether all its blocks are in the file.
    pub done: bool,
}

/// What stands in the file of a campaign.
#[derive(Clone, Debug)]
pub struct SavedCampaign {
    /// Which campaign it is.
    pub head: CampaignHead,
    /// The blocks that are done.
    pub blocks: Blocks,
    /// Which part of the campaign, if it is divided.
    pub part: Option<CampaignPart>,
}

/// The first line: which campaign it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CampaignHead {
    /// Version of the form.
    campaign_file: u32,
    /// Tool and version.
    tool: String,
    /// The scenario, or `--generate` with its kind.
    pub file: String,
    /// Quirks and checks, as options.
    pub watch: String,
    /// Into how many parts it is divided, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<u64>,
    /// What is done.
    pub campaign: Campaign,
}

impl CampaignHead {
    /// Of a campaign over a file, or over what `--generate` makes.
    #[must_use]
    pub fn new(file: String, watch: String, campaign: &Campaign) -> CampaignHead {
        let tool = concat!("blockjob-sim ", env!("CARGO_PKG_VERSION")).to_owned();
        CampaignHead { campaign_file: 1, tool, file, watch, parts: None, campaign: campaign.clone() }
    }

    /// In what another head differs, for people.
    #[must_use]
    pub fn differs(&self, old: &CampaignHead) -> String {
        let mut all = Vec::new();
        let mut look = |what: &str, old: String, new: String| {
            if old != new {
                all.push(format!("{what} was {old} and is {new}"));
            }
        };
        look("the version", old.tool.clone(), self.tool.clone());
        look("the scenario", old.file.clone(), self.file.clone());
        look("what is watched", format!("`{}`", old.watch.trim()), format!("`{}`", self.watch.trim()));
        let parts = |head: &CampaignHead| head.parts.map_or_else(|| "none".to_owned(), |parts| parts.to_string());
        look("the number of parts", parts(old), parts(self));
        look("--runs", old.campaign.runs.to_string(), self.campaign.runs.to_string());
        look("--keep-going", old.campaign.keep_going.to_string(), self.campaign.keep_going.to_string());
        look("--faults", old.campaign.faults.to_string(), self.campaign.faults.to_string());
        let strategies = |head: &CampaignHead| {
            let stages: Vec<String> = head.campaign.stages.iter().map(CampaignStage::name).collect();
            stages.join("; ")
        };
        look("what is done", strategies(old), strategies(self));
        if all.is_empty() { "its options differ".to_owned() } else { all.join(", ") }
    }

    /// The command that shows a failure again.
    #[must_use]
    pub fn again(&self, found: &FailedRun) -> String {
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

/// Reads the text of the file `name`.
///
/// # Errors
/// What is wrong with it, and in which line. A line that is no JSON of a block is none: it was cut off when the process was killed.
pub fn read(name: &str, text: &str) -> Result<SavedCampaign, String> {
    let mut lines = text.lines();
    let head = lines.next().and_then(|line| serde_json::from_str::<CampaignHead>(line).ok());
    let head = head.ok_or_else(|| format!("{name}: this is no file of a campaign"))?;
    head_is_sound(&head.campaign).map_err(|why| format!("{name}:1: {why}"))?;
    let (mut blocks, mut runs, mut part): (Blocks, u64, Option<CampaignPart>) = (BTreeMap::new(), 0, None);
    for (at, line) in (2_u64..).zip(lines) {
        let wrong = |why: &str| format!("{name}:{at}: {why}");
        if let Ok(said) = serde_json::from_str::<CampaignPart>(line) {
            part_is_sound(said, part, head.parts).map_err(|why| wrong(&why))?;
            part = Some(said);
            continue;
        }
        let Ok(block) = serde_json::from_str::<Block>(line) else { continue };
        block_is_sound(&block, &head.campaign).map_err(|why| wrong(&why))?;
        runs = runs.checked_add(block.runs).ok_or_else(|| wrong("so far there are more than 2^64 runs"))?;
        blocks.insert((block.stage, block.number), block);
    }
    Ok(SavedCampaign { head, blocks, part })
}

fn part_is_sound(said: CampaignPart, before: Option<CampaignPart>, of: Option<u64>) -> Result<(), String> {
    if of.is_none_or(|of| said.part >= of) {
        let of = of.map_or_else(|| "a campaign that is not divided".to_owned(), |of| format!("{of}"));
        return Err(format!("this is said to be part {} of {of}", said.part));
    }
    match before {
        Some(before) if before.part != said.part => {
            Err(format!("this is said to be part {}, and before it was part {}", said.part, before.part))
        }
        _ => Ok(()),
    }
}

fn head_is_sound(campaign: &Campaign) -> Result<(), String> {
    for stage in &campaign.stages {
        if let CampaignStage::Seeds(strategies, first, end) = stage {
            if strategies.is_empty() {
                return Err("a stage has no strategies".to_owned());
            }
            if let Some(wrong) = strategies.iter().find(|name| name.parse::<Strategy>().is_err()) {
                return Err(format!("`{wrong}` is no strategy"));
            }
            if first > end {
                return Err(format!("there are no seeds from {first} to {end}"));
            }
        }
    }
    Ok(())
}

fn block_is_sound(block: &Block, campaign: &Campaign) -> Result<(), String> {
    let stages = campaign.stages.len();
    if block.stage >= stages {
        return Err(format!("a block of stage {}; the campaign has {stages}", block.stage));
    }
    if block.number == u64::MAX {
        return Err("a block of a number that has no next".to_owned());
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((states, transitions, schedules)) = &block.exhausted
        && !is_number(schedules.strip_prefix(AT_LEAST).unwrap_or(schedules))
    {
        return Err(format!(
            "`{schedules}` is no number of schedules of {} and {}",
            counted(*states as u64, "state"),
            counted(*transitions as u64, "transition")
        ));
    }
    // A seed that gives another run when run again counts as a failure beside its own.
    if block.failed > block.runs.saturating_mul(2) || block.found.len() as u64 > block.failed {
        return Err(format!(
            "a block of {}, {} of which failed in {}",
            counted(block.runs, "run"),
            block.failed,
            counted(block.found.len() as u64, "way")
        ));
    }
    let of_kinds = block.kinds.values().try_fold(0u64, |sum, times| sum.checked_add(times.runs));
    if of_kinds.is_none_or(|sum| sum > block.failed) {
        return Err(format!("a block in which {} failed, with more of all kinds", counted(block.failed, "run")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(blocks: &[Block], campaign: &Campaign) -> String {
        let head = serde_json::to_string(&CampaignHead::new("x.yaml".into(), String::new(), campaign)).expect("JSON");
        let blocks = blocks.iter().map(|block| serde_json::to_string(block).expect("JSON"));
        [head].into_iter().chain(blocks).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_out_of_range_is_told_with_its_line() {
        let campaign = Campaign::ladder(10, 100);
        let block = |stage, number, runs, failed| Block { stage, number, runs, failed, ..Block::default() };
        let wrong = |blocks: &[Block]| read("c", &text(blocks, &campaign)).unwrap_err();
        assert_eq!(wrong(&[block(9, 0, 1, 0)]), "c:2: a block of stage 9; the campaign has 5");
        assert_eq!(wrong(&[block(4, 0, 3, 0), block(4, 1, u64::MAX, 0)]), "c:3: so far there are more than 2^64 runs");
        assert_eq!(wrong(&[block(4, 0, 3, 7)]), "c:2: a block of 3 runs, 7 of which failed in 0 ways");
        assert_eq!(wrong(&[block(4, u64::MAX, 3, 0)]), "c:2: a block of a number that has no next");
        let cut = format!("{}\n{{\"stage\":", text(&[block(4, 0, 3, 0)], &campaign));
        assert_eq!(read("c", &cut).expect("a cut line is none").blocks.len(), 1);
    }

    #[test]
    fn whose_part_it_is_is_said_once() {
        let campaign = Campaign::ladder(10, 100);
        let file = |of, lines: &[&str]| {
            let mut head = CampaignHead::new("x.yaml".into(), String::new(), &campaign);
            head.parts = of;
            let head = serde_json::to_string(&head).expect("JSON");
            read("c", &[&[head.as_str()], lines].concat().join("\n"))
        };
        let part = |part, done| Some(CampaignPart { part, done });
        let (begun, done) = (r#"{"part":2,"done":false}"#, r#"{"part":2,"done":true}"#);
        assert_eq!(file(Some(3), &[]).expect("no line says so").part, None);
        assert_eq!(file(Some(3), &[begun]).expect("begun").part, part(2, false));
        assert_eq!(file(Some(3), &[begun, done]).expect("done").part, part(2, true));
        assert_eq!(file(Some(2), &[begun]).unwrap_err(), "c:2: this is said to be part 2 of 2");
        let undivided = "c:2: this is said to be part 2 of a campaign that is not divided";
        assert_eq!(file(None, &[done]).unwrap_err(), undivided);
        let other = "c:3: this is said to be part 1, and before it was part 2";
        assert_eq!(file(Some(3), &[begun, r#"{"part":1,"done":true}"#]).unwrap_err(), other);
    }

    #[test]
    fn a_head_that_nobody_wrote_is_refused() {
        let mut campaign = Campaign::ladder(10, 100);
        let wrong = |campaign: &Campaign| read("c", &text(&[], campaign)).unwrap_err();
        campaign.stages = vec![CampaignStage::Seeds(vec!["walk".into()], 7, 3)];
        assert_eq!(wrong(&campaign), "c:1: there are no seeds from 7 to 3");
        campaign.stages = vec![CampaignStage::Seeds(vec!["none".into()], 0, 3)];
        assert_eq!(wrong(&campaign), "c:1: `none` is no strategy");
        campaign.stages = vec![CampaignStage::Seeds(Vec::new(), 0, 3)];
        assert_eq!(wrong(&campaign), "c:1: a stage has no strategies");
    }
}
