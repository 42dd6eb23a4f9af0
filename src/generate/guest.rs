//! What a guest does, and what else happens to drives beside their jobs.

use super::draw::Draw;
use super::program::Program;
use super::shape::waits;
use crate::base::Json;
use crate::base::units::{KIB, MIB, size_text};
use crate::scenario::plan::{Fails, StepKind};

/// A range within `size` bytes: small, or whole clusters.
pub(super) fn range(size: u64, d: &mut Draw) -> (u64, u64) {
    range_of(&[512, 4 * KIB, 32 * KIB, 64 * KIB, 64 * KIB, 128 * KIB, MIB], size, d)
}

/// The same, of one to four of these units.
pub(super) fn range_of(units: &[u64], size: u64, d: &mut Draw) -> (u64, u64) {
    let unit = d.pick(units).min(size.max(512));
    let offset = unit * d.below(usize::try_from(size / unit).unwrap_or(1).max(1)) as u64;
    let length = unit * d.range(1, 4) as u64;
    (offset, length.min(size.saturating_sub(offset)) / 512 * 512)
}

impl Program<'_> {
    /// A guest request, through qemu-io.
    pub(super) fn guest(&mut self) {
        let number = self.arguments.below(self.shape.drives.len());
        if self.held.contains(&number) {
            return;
        }
        let (mut offset, mut length) = range(self.shape.drives[number].size, &mut self.arguments);
        if self.wrong.one_in(self.knobs.wrong_one_in) {
            (offset, length) = self.wrong.pick(&[(1 << 40, 512), (offset + 100, 1000), (offset, 64 << 20)]);
        }
        let racing = !waits(self.knobs.kind);
        let drive = &self.shape.drives[number];
        let (discards, asynchronous) = (if drive.unmap { 3 } else { 1 }, if racing { 4 } else { 0 });
        let kind = self.arguments.weighted(&[
            (8, "write"),
            (asynchronous, "aio_write"),
            (2, "write -z"),
            (1, "write -zu"),
            (discards, "discard"),
            (2, "flush"),
            (2, "read"),
        ]);
        let place = format!("{} {}", text(offset), text(length));
        let byte = self.arguments.range(1, 255);
        let line = match kind {
            "write" | "aio_write" => format!("{kind} -P {byte:#04x} {place}"),
            "write -zu" => format!("write -z -u {place}"),
            "flush" => "flush".to_owned(),
            other => format!("{other} {place}"),
        };
        let name = self.shape.drives[number].name.clone();
        self.qemu_io(&name, &line);
    }

    /// The drive that a command is about.
    pub(super) fn drive_named(&self, arguments: &[(&'static str, Json)]) -> Option<usize> {
        let (_, name) = arguments.iter().find(|(key, _)| *key == "device")?;
        let name = name.as_str()?;
        self.shape.drives.iter().position(|drive| &*drive.name == name || &*drive.node == name)
    }

    /// What a guest does right behind a command about its disk, where the client does not wait: requests that are under way while a
    /// job begins or ends, some on all of the disk and some on a part of a cluster.
    pub(super) fn on_its_heels(&mut self, drive: Option<usize>) {
        let Some(number) = drive.filter(|drive| !self.held.contains(drive)) else { return };
        if !self.heels.one_in(self.knobs.heels_one_in) {
            return;
        }
        let drive = &self.shape.drives[number];
        let (name, size, discards) = (drive.name.clone(), drive.size / 512 * 512, if drive.unmap { 3 } else { 0 });
        if size == 0 {
            return;
        }
        for _ in 0..self.heels.weighted(&[(4, 1), (3, 2), (1, 3), (2, 4)]) {
            let unit = self.heels.pick(&[512, 4 * KIB, 64 * KIB, 64 * KIB]).min(size);
            let (offset, length) = match self.heels.one_in(3) {
                true => (0, size),
                false => (unit * self.heels.below(usize::try_from(size / unit).unwrap_or(1)) as u64, unit),
            };
            let byte = self.heels.range(1, 255);
            let place = format!("{} {}", text(offset), text(length));
            let kinds = [(8, "aio_write"), (discards, "discard"), (1, "write -z"), (1, "write")];
            let line = match self.heels.weighted(&kinds) {
                kind @ ("aio_write" | "write") => format!("{kind} -P {byte:#04x} {place}"),
                kind => format!("{kind} {place}"),
            };
            self.qemu_io(&name, &line);
        }
    }

    /// A line for qemu-io.
    pub(super) fn qemu_io(&mut self, name: &str, line: &str) {
        self.steps.push(StepKind::Hmp {
            line: format!("qemu-io {name} \"{line}\"").into(),
            output: None,
            returns: None,
            fails: Fails::Any,
        });
    }

    /// A change of a drive's size.
    pub(super) fn resize(&mut self) {
        let number = self.arguments.below(self.shape.drives.len());
        if self.held.contains(&number) {
            return;
        }
        let drive = &self.shape.drives[number];
        let (node, size) = (drive.node.clone(), drive.size);
        let new = match self.arguments.below(5) {
            0 => size / 2 / 512 * 512,
            1 => size + 512,
            2 => size + 64 * KIB,
            _ => size + 192 * KIB,
        };
        self.shape.drives[number].size = new;
        self.command("block_resize", vec![("node-name", Json::Str(node)), ("size", Json::uint(new))]);
    }

    /// A node comes or goes.
    pub(super) fn node(&mut self) {
        let number = self.arguments.below(self.shape.targets.len());
        let target = &mut self.shape.targets[number];
        if target.added {
            let node = target.node.clone();
            target.added = target.job.is_some();
            self.command("blockdev-del", vec![("node-name", Json::Str(node))]);
            return;
        }
        target.added = true;
        let options = target.options.clone();
        self.command_of("blockdev-add", options);
    }

    /// A look at the state of things, or something that leaves it as it is.
    pub(super) fn query(&mut self) {
        let drive = self.shape.drives[self.arguments.below(self.shape.drives.len())].clone();
        match self.arguments.below(10) {
            0 | 1 => self.command("query-jobs", vec![]),
            2 | 3 => self.command("query-block-jobs", vec![]),
            4 => self.command("query-block", vec![]),
            // QEMU crashes if a stream is concluded and not dismissed.
            5 if self.knobs.crashes || !self.lingering_stream() => {
                self.command("query-named-block-nodes", vec![("flat", true.into())]);
            }
            6 => self.command("x-debug-query-block-graph", vec![]),
            7 if !drive.bitmaps.is_empty() => {
                let name = self.arguments.pick(&drive.bitmaps);
                let arguments = vec![("node", Json::Str(drive.node)), ("name", Json::Str(name))];
                self.command("x-debug-block-dirty-bitmap-sha256", arguments);
            }
            8 => {
                let threshold = self.arguments.pick(&[0, 1, 65_536, 262_144]);
                let arguments = vec![("node-name", Json::Str(drive.node)), ("write-threshold", Json::uint(threshold))];
                self.command("block-set-write-threshold", arguments);
            }
            9 => {
                let command = if self.arguments.one_in(2) { "stop" } else { "cont" };
                self.command(command, vec![]);
            }
            _ => self.command("query-status", vec![]),
        }
    }
}

/// A size as qemu-io reads it.
fn text(bytes: u64) -> String {
    let text = size_text(bytes);
    text.to_lowercase()
}
