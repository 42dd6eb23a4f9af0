//! Failures of a campaign, written to files.
#![expect(clippy::disallowed_methods, reason = "the shell has files; runs have none")]

use crate::choice::{ChoiceLog, Chooser, Replay, ReplayMode};
use crate::cli::files;
use crate::explore::{FailedRun, Fingerprint};
use crate::failure::Failure;
use crate::generate;
use crate::scenario::Plan;
use crate::serve::outfile;
use crate::sim::outcome::{RunOptions, Runner};
use std::path::PathBuf;
use std::sync::Arc;

/// Writes failures to files.
pub(in crate::cli) struct Save {
    /// The scenario, or that scenarios are generated.
    pub name: String,
    /// Its plan; `None` where scenarios are generated.
    pub plan: Option<Plan>,
    /// Who runs.
    pub runner: Runner,
    /// With what.
    pub options: RunOptions,
    /// Where the files go.
    pub dir: PathBuf,
    /// What is generated.
    pub drawn: generate::Options,
}

impl Save {
    /// Makes the run once more and writes down all there is to it. The name follows from the failure.
    pub fn write(&self, found: &FailedRun) -> Result<PathBuf, String> {
        let mut plan = match (&self.plan, found.seed) {
            (Some(plan), _) => plan.clone(),
            (None, Some(seed)) => generate::with(&self.drawn, seed).plan,
            (None, None) => return Err("it has no seed".to_owned()),
        };
        plan.quirks = plan.quirks.union(self.options.quirks);
        let log: ChoiceLog = found.choices.parse().map_err(|error| format!("{error}"))?;
        let options = RunOptions { record_choices: true, ..self.options };
        let chooser = Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict));
        let run = (self.runner)(&plan, chooser, &options);
        let strategy = found.strategy.as_deref().unwrap_or("few deviations");
        let name = match &self.plan {
            Some(_) => self.name.clone(),
            None => format!("{}, seed {}", self.name, found.seed.unwrap_or_default()),
        };
        let failure = Failure::of(&name, &plan, strategy, found.seed, &run).ok_or("run again, it passes")?;
        let slug = |text: &str| -> String {
            let plain = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>();
            plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
        };
        let which = match found.seed {
            Some(seed) => format!("{}-{seed}", slug(strategy)),
            None => format!("{:08x}", Fingerprint::of(&found.choices) as u32),
        };
        let path = self.dir.join(format!("{}-{which}.yaml", slug(&found.kind)));
        let trouble = |error: std::io::Error| format!("{}: {}", path.display(), files::plain(&error));
        std::fs::create_dir_all(&self.dir).map_err(trouble)?;
        outfile::write(&path, failure.to_text().as_bytes()).map_err(trouble)?;
        Ok(path)
    }
}
