//! The process that a tool is: a world with the files of the host, which nobody but the tool talks to.

use crate::base::Json;
use crate::choice::Calm;
use crate::host::{Format, Image};
use crate::sim::MAX_STEPS;
use crate::world::World;
use crate::world::aio::Stepped;
use crate::world::out::Output;
use std::collections::BTreeMap;

/// The process, and the one that it takes the files of for a while.
pub(super) struct Tool<'a> {
    host: &'a mut World,
    world: World,
    client: u32,
    /// Events that came: name and data.
    events: Vec<(String, Json)>,
}

impl<'a> Tool<'a> {
    /// Starts it. What the other process has open is locked as that one needs it.
    pub(super) fn start(host: &'a mut World) -> Tool<'a> {
        let mut locks = BTreeMap::new();
        for (_, node) in host.graph.nodes.iter() {
            if let Some(file) = node.file_driver() {
                let taken = host.graph.file_locks(&file.path);
                if taken != (0, 0) {
                    locks.insert(file.path.clone(), taken);
                }
            }
        }
        let mut world = World::new(std::mem::take(&mut host.files));
        world.writers = std::mem::take(&mut host.writers);
        (world.quirks, world.now, world.most_steps) = (host.quirks, host.now, MAX_STEPS);
        world.graph.foreign_locks = locks;
        let client = world.connect(true);
        Tool { host, world, client, events: Vec::new() }
    }

    /// Opens an image as a node.
    ///
    /// # Errors
    /// What is said of it.
    pub(super) fn open(
        &mut self,
        node: &'static str,
        file: &str,
        format: Format,
        backing: bool,
        read_only: bool,
    ) -> Result<(), String> {
        let below = Json::dict(vec![("driver", "file".into()), ("filename", Json::str(file))]);
        let mut options = vec![
            ("driver", format.name().into()),
            ("node-name", node.into()),
            ("read-only", read_only.into()),
            ("discard", "unmap".into()),
            ("file", below),
        ];
        if format == Format::Qcow2 && !backing {
            options.push(("backing", Json::Null));
        }
        self.ask("blockdev-add", options).map(drop)
    }

    /// Has a command carried out.
    ///
    /// # Errors
    /// The text of its error, with the hint that stands behind it.
    pub(super) fn ask(&mut self, command: &str, arguments: Vec<(&'static str, Json)>) -> Result<Json, String> {
        let said = Json::dict(vec![("execute", Json::str(command)), ("arguments", Json::dict(arguments.clone()))]);
        self.world.submit(self.client, said);
        let reply = self.until(|tool| tool.reply.take())?;
        let Some(error) = reply.get("error") else { return Ok(reply.get("return").cloned().unwrap_or(Json::Null)) };
        let text = error.get("desc").and_then(Json::as_str).unwrap_or_default().to_owned();
        let asked = crate::trace::canonical::to_string(&Json::dict(arguments));
        match self.world.lock_hint(&text, &asked) {
            Some(hint) => Err(format!("{text}\n{hint}")),
            None => Err(text),
        }
    }

    /// Runs the process until what is looked for is there.
    fn until<T>(&mut self, mut found: impl FnMut(&mut Taken) -> Option<T>) -> Result<T, String> {
        let mut taken = Taken { reply: None, events: Vec::new() };
        loop {
            while let Some(output) = self.world.out.pop_front() {
                match output {
                    Output::Reply { reply, .. } => taken.reply = Some(reply),
                    Output::Event { event, .. } => taken.events.push((event.name().to_string(), event.data())),
                    Output::Stdout(_) | Output::Stderr(_) | Output::Report(_) => {}
                }
            }
            if let Some(found) = found(&mut taken) {
                self.events.append(&mut taken.events);
                return Ok(found);
            }
            if self.world.steps > MAX_STEPS || self.world.step(&mut Calm) != Stepped::Ran {
                return Err("it does not come to its end".to_owned());
            }
        }
    }

    /// Waits for the first of these events; those that came before count as well.
    fn event(&mut self, names: [&str; 2]) -> Result<(String, Json), String> {
        let at = |events: &[(String, Json)]| events.iter().position(|(name, _)| names.contains(&name.as_str()));
        if let Some(at) = at(&self.events) {
            return Ok(self.events.remove(at));
        }
        self.until(|taken| at(&taken.events).map(|at| taken.events.remove(at)))
    }

    /// `commit_active_start`, and `run_block_job`.
    ///
    /// # Errors
    /// What is said of it.
    pub(super) fn commit(&mut self, base: &str) -> Result<(), String> {
        const DONE: &str = "BLOCK_JOB_COMPLETED";
        let arguments = vec![("job-id", "commit".into()), ("device", "img".into()), ("base", Json::str(base))];
        self.ask("block-commit", arguments)?;
        let mut event = self.event(["BLOCK_JOB_READY", DONE])?;
        if event.0 != DONE {
            self.ask("block-job-complete", vec![("device", "commit".into())])?;
            event = self.event([DONE, DONE])?;
        }
        match event.1.get("error").and_then(Json::as_str) {
            Some(error) => Err(format!("Block job failed: {error}")),
            None => Ok(()),
        }
    }

    /// The files that an image is based on, from the top.
    pub(super) fn backing_files(&mut self, file: &str, format: Format) -> Vec<String> {
        let mut files = Vec::new();
        let image = Image::open(&mut self.world.files, file, Some(format), false);
        let mut next = image.as_ref().ok().and_then(Image::backing);
        while let Some(image) = next {
            files.push(image.path().to_owned());
            next = image.backing();
        }
        files
    }

    /// The format of a file, by its first bytes.
    pub(super) fn probe(&self, file: &str) -> Format {
        self.world.files.probe(file).unwrap_or(Format::Raw)
    }

    /// The size of the disk of `img`.
    pub(super) fn size(&self) -> u64 {
        self.world.graph.find_node("img").map_or(0, |node| self.world.graph.nodes[node].size)
    }
}

/// What was taken in.
struct Taken {
    reply: Option<Json>,
    events: Vec<(String, Json)>,
}

/// The process ends, as one does that closes its images; the files are the other's again.
impl Drop for Tool<'_> {
    fn drop(&mut self) {
        self.world.submit(self.client, Json::dict(vec![("execute", "quit".into())]));
        while self.world.steps <= MAX_STEPS && self.world.step(&mut Calm) == Stepped::Ran {}
        self.host.files = std::mem::take(&mut self.world.files);
        self.host.writers = std::mem::take(&mut self.world.writers);
    }
}
