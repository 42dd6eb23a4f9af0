//! Backups: what is copied where, by which bitmap, under which rules.

use super::program::{Call, Job, Program};
use super::shape::waits;
use crate::base::Json;
use std::sync::Arc;

const POLICIES: [&str; 5] = ["report", "ignore", "stop", "enospc", "auto"];

impl Program<'_> {
    /// A backup command, or the action of the same name.
    pub(super) fn backup(&mut self) -> Call {
        let drive = self.backed_up_drive();
        let mut arguments = Vec::new();
        let job_id: Arc<str> = format!("j{}", self.jobs.len()).into();
        let of = self.shape.drives[drive].clone();
        let id = if of.is_device && self.arguments.one_in(6) { of.name.clone() } else { job_id.clone() };
        if id == job_id {
            arguments.push(("job-id", Json::Str(job_id)));
        }
        let device = if self.arguments.one_in(5) { of.node.clone() } else { of.name.clone() };
        arguments.push(("device", Json::Str(device)));
        let target = self.free_target(drive);
        let name = match target {
            Some(target) => {
                arguments.push(("target", Json::Str(self.shape.targets[target].node.clone())));
                "blockdev-backup"
            }
            None => {
                self.file_target(drive, &mut arguments);
                "drive-backup"
            }
        };
        let sync = self.what(drive, &mut arguments);
        let endless = self.rules(&mut arguments);
        let manual = self.ending(&mut arguments);
        self.tuning(&mut arguments);
        if let Some(target) = target {
            self.shape.targets[target].job = Some(self.jobs.len());
        }
        self.jobs.push(Job { id, lingers: endless || manual || sync == "none", over: false, about: None });
        if self.in_transaction {
            self.backed_up.push(drive);
        }
        (name, arguments)
    }

    /// The drive to copy; within a transaction one that it does not copy yet.
    fn backed_up_drive(&mut self) -> usize {
        let drives = self.shape.drives.len();
        let mut drive = match self.fresh.last() {
            Some((drive, _)) if self.arguments.one_in(self.knobs.chained_one_in) => *drive,
            _ => self.arguments.below(drives),
        };
        for _ in 0..drives {
            if !self.in_transaction || !self.backed_up.contains(&drive) {
                break;
            }
            drive = (drive + 1) % drives;
        }
        drive
    }

    /// A node that no job is believed to use; `None` for a backup that names a file.
    pub(super) fn free_target(&mut self, drive: usize) -> Option<usize> {
        let any = self.wrong.one_in(self.knobs.wrong_one_in * 2);
        let free = |(_, target): &(usize, &super::shape::Target)| {
            target.added && (target.job.is_none() && target.drive == drive || any)
        };
        let free: Vec<usize> = self.shape.targets.iter().enumerate().filter(free).map(|(number, _)| number).collect();
        if free.is_empty() || self.arguments.one_in(3) { None } else { Some(self.arguments.pick(&free)) }
    }

    fn file_target(&mut self, drive: usize, arguments: &mut Vec<(&'static str, Json)>) {
        let spare = self.shape.drives[drive].spare.clone();
        if self.arguments.one_in(2) {
            let (file, format) = self.arguments.pick(&spare);
            arguments.push(("target", Json::Str(file)));
            arguments.push(("format", format.into()));
            arguments.push(("mode", "existing".into()));
            return;
        }
        let format = self.arguments.weighted(&[(4, Some("qcow2")), (1, Some("raw")), (1, None)]);
        arguments.push(("target", format!("new{}.{}", self.names, format.unwrap_or("img")).into()));
        self.names += 1;
        arguments.extend(format.map(|format| ("format", format.into())));
        if self.arguments.one_in(4) {
            arguments.push(("mode", "absolute-paths".into()));
        }
    }

    /// `sync`, `bitmap` and `bitmap-mode`.
    fn what(&mut self, drive: usize, arguments: &mut Vec<(&'static str, Json)>) -> &'static str {
        let mut bitmaps = self.shape.drives[drive].bitmaps.clone();
        if !self.knobs.crashes {
            // Where the transaction fails, QEMU crashes for a backup by a bitmap of its own.
            bitmaps.retain(|bitmap| !self.fresh.iter().any(|(of, name)| *of == drive && name == bitmap));
        }
        let chained = self.fresh.iter().any(|(of, name)| *of == drive && bitmaps.contains(name))
            && self.arguments.one_in(self.knobs.chained_one_in);
        let by_bitmap = match bitmaps.is_empty() {
            true => 0,
            false => self.knobs.bitmap_backup_weight.max(if chained { 12 } else { 0 }),
        };
        let sync = self.arguments.weighted(&[
            (4, "full"),
            (by_bitmap, "incremental"),
            (by_bitmap, "bitmap"),
            (1, "top"),
            (1, "none"),
        ]);
        arguments.push(("sync", sync.into()));
        let bitmap = match self.fresh.iter().rev().find(|(of, name)| *of == drive && bitmaps.contains(name)) {
            Some((_, name)) if chained => Some(name.clone()),
            _ if bitmaps.is_empty() => None,
            _ => Some(self.arguments.pick(&bitmaps)),
        };
        let Some(bitmap) = bitmap else { return sync };
        let mode = match sync {
            "incremental" => self.arguments.pick(&[None, None, Some("on-success")]),
            "bitmap" => self.arguments.pick(&[Some("always"), Some("on-success"), Some("never")]),
            "full" | "top" if self.arguments.one_in(4) => self.arguments.pick(&[Some("always"), Some("on-success")]),
            _ => return sync,
        };
        if self.in_transaction {
            // What is done to it next meets a bitmap that is in use.
            self.last_bitmap = Some((drive, bitmap.clone()));
        }
        arguments.push(("bitmap", Json::Str(bitmap)));
        arguments.extend(mode.map(|mode| ("bitmap-mode", mode.into())));
        sync
    }

    /// Speed and what happens on errors; whether the job will not end by itself.
    pub(super) fn rules(&mut self, arguments: &mut Vec<(&'static str, Json)>) -> bool {
        let endless = self.arguments.one_in(self.knobs.endless_one_in);
        if endless {
            // After a first chunk it sleeps for as long as any program lasts.
            arguments.push(("speed", Json::Int(1)));
        } else if !waits(self.knobs.kind) && self.arguments.one_in(4) {
            arguments.push(("speed", Json::Int(self.arguments.pick(&[65_536, 1 << 20, 64 << 20, 1 << 34]))));
        }
        let mut stops = false;
        for key in ["on-source-error", "on-target-error"] {
            if self.arguments.one_in(4) {
                let policy = match self.arguments.pick(&POLICIES) {
                    // An error that stays is met again and again, without end and at once.
                    "ignore" if self.shape.faults_stay => "report",
                    policy => policy,
                };
                stops |= policy != "report" && self.knobs.faulty_drive_one_in > 0;
                arguments.push((key, policy.into()));
            }
        }
        endless || stops
    }

    /// `auto-finalize` and `auto-dismiss`; whether something is left to do by hand.
    pub(super) fn ending(&mut self, arguments: &mut Vec<(&'static str, Json)>) -> bool {
        let mut manual = false;
        for key in ["auto-finalize", "auto-dismiss"] {
            if self.arguments.one_in(self.knobs.manual_one_in) {
                manual = true;
                arguments.push((key, false.into()));
            }
        }
        manual
    }

    fn tuning(&mut self, arguments: &mut Vec<(&'static str, Json)>) {
        if !self.arguments.one_in(self.knobs.tuning_one_in) {
            return;
        }
        match self.arguments.below(4) {
            0 => arguments.push(("filter-node-name", format!("filter{}", self.jobs.len()).into())),
            1 => arguments.push(("discard-source", true.into())),
            _ => {
                let (workers, chunk) = (self.arguments.pick(&[1, 2, 64]), self.arguments.pick(&[0, 65_536, 131_072]));
                let perf = vec![
                    ("use-copy-range", self.arguments.one_in(2).into()),
                    ("max-workers", Json::Int(workers)),
                    ("max-chunk", Json::Int(chunk)),
                ];
                arguments.push(("x-perf", Json::dict(perf)));
            }
        }
    }
}
