//! Knobs: how much there is of what in a generated scenario.

use super::Options;
use super::draw::{Draw, Part};
use std::fmt;
use std::str::FromStr;

/// What kind of client a program stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientKind {
    /// Right arguments, no faults, and a pause after each command that starts something.
    WellBehaved,
    /// The same with wrong arguments and injected faults among it.
    Hostile,
    /// Commands at any moment, speeds, guest writes that are not waited for, faults.
    Racing,
}

impl ClientKind {
    /// All kinds.
    pub const ALL: [ClientKind; 3] = [ClientKind::WellBehaved, ClientKind::Hostile, ClientKind::Racing];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ClientKind::WellBehaved => "well-behaved",
            ClientKind::Hostile => "hostile",
            ClientKind::Racing => "racing",
        }
    }

    /// What it is, within a sentence.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            ClientKind::WellBehaved => "a client that waits and makes no mistakes",
            ClientKind::Hostile => "a client that waits and makes mistakes, on disks with faults",
            ClientKind::Racing => "a client that does not wait",
        }
    }
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ClientKind {
    type Err = String;

    fn from_str(text: &str) -> Result<ClientKind, String> {
        let known = ClientKind::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| format!("`{text}` is no kind of program: expected well-behaved, hostile or racing"))
    }
}

/// How much there is of what. Weights are relative to each other; `one_in` means once in so many cases, 0 never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it, and `table` shows them")]
pub struct Knobs {
    pub kind: ClientKind,
    pub crashes: bool,
    pub drives: usize,
    pub commands: usize,
    pub bitmaps_per_drive: usize,
    pub images_written_in: usize,
    pub backing_one_in: u32,
    pub faulty_drive_one_in: u32,
    pub weight_guest: u32,
    pub weight_bitmap: u32,
    pub weight_backup: u32,
    pub weight_transaction: u32,
    pub weight_verb: u32,
    pub weight_query: u32,
    pub weight_node: u32,
    pub weight_resize: u32,
    pub weight_wait: u32,
    pub actions: usize,
    pub abort_one_in: u32,
    pub manual_one_in: u32,
    pub endless_one_in: u32,
    pub bitmap_backup_weight: u32,
    pub tuning_one_in: u32,
    pub wrong_one_in: u32,
    pub chained_one_in: u32,
    pub failing_tail_one_in: u32,
    /// Of ten commands, how many are about mirrors, commits and streams; 0 in a program that has none.
    pub jobs_in_ten: u32,
    pub layers: usize,
    pub ends_at_once_one_in: u32,
    /// Of ten commands, how many are about what such programs seldom have.
    pub odd_in_ten: u32,
    /// Of ten commands, how many are about exports and their clients.
    pub exports_in_ten: u32,
    pub empty_disk_one_in: u32,
    pub old_data_one_in: u32,
    pub missing_backing_one_in: u32,
    pub late_faults_one_in: u32,
    /// After how many commands about a disk its guest writes at once; 0 in a program whose client waits.
    pub heels_one_in: u32,
}

impl Knobs {
    pub(super) fn draw(options: &Options, seed: u64) -> Knobs {
        let mut d = Draw::new(seed, Part::Knobs);
        // Drawn in any case, so that a seed's other knobs do not depend on whether its kind was asked for.
        let drawn = d.pick(&ClientKind::ALL);
        let kind = options.kind.unwrap_or(drawn);
        // A program without one thing shows what it hid.
        let mut weight = |usual: u32| usual * d.pick(&[0, 1, 1, 1, 2, 4]);
        let (weight_guest, weight_bitmap, weight_backup) = (weight(4), weight(3), 1 + weight(3));
        let (weight_transaction, weight_verb, weight_query) = (1 + weight(3), weight(3), weight(1));
        let (weight_node, weight_resize, weight_wait) = (weight(1), weight(1), weight(2));
        let faults = d.pick(&[0, 1, 2, 3]);
        let wrong = d.pick(&[0, 3, 6, 12, 24]);
        let mut jobs = Draw::new(seed, Part::Jobs);
        let jobs_in_ten = if options.all_kinds { jobs.pick(&[0, 0, 3, 5, 7]) } else { 0 };
        let mut traps = Draw::new(seed, Part::Traps);
        let mut trap = |often: &[u32]| {
            let drawn = traps.pick(often);
            if options.all_kinds { drawn } else { 0 }
        };
        Knobs {
            kind,
            crashes: options.crashes,
            drives: d.weighted(&[(4, 1), (4, 2), (1, 3)]),
            commands: d.pick(&[3, 4, 4, 6, 8, 16]),
            bitmaps_per_drive: d.weighted(&[(1, 0), (4, 1), (3, 2), (1, 3)]),
            images_written_in: d.range(0, 4),
            backing_one_in: d.pick(&[0, 2, 3]),
            faulty_drive_one_in: if kind == ClientKind::WellBehaved { 0 } else { faults },
            weight_guest,
            weight_bitmap,
            weight_backup,
            weight_transaction,
            weight_verb,
            weight_query,
            weight_node,
            weight_resize,
            weight_wait,
            actions: d.pick(&[1, 2, 3, 3, 5]),
            abort_one_in: d.pick(&[0, 6, 12]),
            manual_one_in: d.pick(&[0, 2, 4]),
            endless_one_in: d.pick(&[0, 4, 8]),
            bitmap_backup_weight: d.pick(&[1, 4, 12]),
            tuning_one_in: d.pick(&[0, 4, 8]),
            wrong_one_in: if kind == ClientKind::Hostile {
                wrong.max(3)
            } else {
                wrong * 4 * u32::from(kind == ClientKind::Racing)
            },
            chained_one_in: d.pick(&[1, 2, 4]),
            failing_tail_one_in: d.pick(&[0, 2, 4]),
            jobs_in_ten,
            layers: jobs.range(1, 5),
            ends_at_once_one_in: if jobs_in_ten == 0 { 0 } else { jobs.pick(&[0, 4, 8]) },
            odd_in_ten: if options.all_kinds { Draw::new(seed, Part::OddKnobs).pick(&[0, 0, 0, 2, 4]) } else { 0 },
            exports_in_ten: if options.exports { Draw::new(seed, Part::ExportKnobs).pick(&[4, 6, 8]) } else { 0 },
            empty_disk_one_in: trap(&[0, 0, 0, 3]),
            old_data_one_in: trap(&[0, 1, 2]),
            missing_backing_one_in: trap(&[0, 0, 1]),
            late_faults_one_in: trap(&[0, 1, 2]),
            heels_one_in: if kind == ClientKind::Racing { Draw::new(seed, Part::Heels).pick(&[0, 1, 1, 2]) } else { 0 },
        }
    }

    /// The knobs as a table, a line each.
    #[must_use]
    pub fn table(&self) -> String {
        let once = |n: u32| if n == 0 { "never".to_owned() } else { format!("1 in {n}") };
        let rows = [
            ("kind", self.kind.to_string()),
            ("what QEMU crashes on", if self.crashes { "allowed" } else { "left out" }.to_owned()),
            ("drives", self.drives.to_string()),
            ("commands", self.commands.to_string()),
            ("bitmaps a drive", self.bitmaps_per_drive.to_string()),
            ("writes an image", self.images_written_in.to_string()),
            ("backing files", once(self.backing_one_in)),
            ("faulty drives", once(self.faulty_drive_one_in)),
            ("weight of guest I/O", self.weight_guest.to_string()),
            ("weight of bitmap commands", self.weight_bitmap.to_string()),
            ("weight of backups", self.weight_backup.to_string()),
            ("weight of transactions", self.weight_transaction.to_string()),
            ("weight of job verbs", self.weight_verb.to_string()),
            ("weight of queries", self.weight_query.to_string()),
            ("weight of nodes", self.weight_node.to_string()),
            ("weight of resizes", self.weight_resize.to_string()),
            ("weight of waits", self.weight_wait.to_string()),
            ("actions a transaction", format!("up to {}", self.actions)),
            ("abort actions", once(self.abort_one_in)),
            ("finalised or dismissed by hand", once(self.manual_one_in)),
            ("jobs without an end", once(self.endless_one_in)),
            ("weight of bitmaps in backups", self.bitmap_backup_weight.to_string()),
            ("tuned backups", once(self.tuning_one_in)),
            ("wrong arguments", once(self.wrong_one_in)),
            ("actions about what others added", once(self.chained_one_in)),
            ("transactions that fail at their end", once(self.failing_tail_one_in)),
            ("mirrors, commits and streams", format!("{} of 10 commands", self.jobs_in_ten)),
            ("layers of a chain", format!("up to {}", if self.jobs_in_ten == 0 { 3 } else { self.layers })),
            ("ended while jobs run", once(self.ends_at_once_one_in)),
            ("hotplug, resets, reopening, odd numbers", format!("{} of 10 commands", self.odd_in_ten)),
            ("exports and their clients", format!("{} of 10 commands", self.exports_in_ten)),
            ("empty disks", once(self.empty_disk_one_in)),
            ("targets that hold old data", once(self.old_data_one_in)),
            ("backing files that are missing", once(self.missing_backing_one_in)),
            ("faults of targets that strike late", once(self.late_faults_one_in)),
            ("guests that write right behind a command", once(self.heels_one_in)),
        ];
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
    }
}
