//! Repairing an image that is marked dirty when it is opened for writing (block/qcow2-refcount.c:qcow2_check_refcounts, with
//! `BDRV_FIX_ERRORS | BDRV_FIX_LEAKS`): its refcounts are counted anew from what refers to its clusters.
//!
//! Each table is a procedure of its own, which gives [`Note`]s; what they amount to is summed up between the procedures. So nothing is
//! read twice, however many tables there are.

use crate::base::errno::Errno;
use crate::block::content::{Data, Table, WriteTag};
use crate::block::qcow2::exec::{Caught, Cx, Exec, Fault, Res};
use crate::block::qcow2::op::Qcow2Ask;
use crate::block::qcow2::rebuild::Counts;
use crate::block::qcow2::state::{COPIED, ClusterType, DiscardType, OFFSET_MASK, Qcow2, REFT_MASK, ZERO};

/// `L1E_RESERVED_MASK`
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// `L2E_STD_RESERVED_MASK`
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// `offsetof(QCowHeader, nb_snapshots)`, and the length of it and of the offset behind it.
const SNAPSHOTS: (u64, u64) = (60, 12);

/// What a look at a table gave, in the order in which QEMU prints and counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) enum Note {
    /// A line on the console.
    Print(String),
    /// A line, and one more of `corruptions`.
    Corrupt(String),
    /// The last corruption was mended.
    Mended,
    /// A line, and one more of `leaks`.
    Leak(String),
    /// A line, and one more of `check_errors`.
    Error(String),
    /// Something refers to these bytes of the file (`qcow2_inc_refcounts_imrt`).
    Ref(u64, u64),
    /// An entry of the refcount table, and the block that it refers to.
    Refblock(u64, u64),
    /// The file has this length now.
    Length(u64),
    /// Mending single refcounts is not enough.
    Rebuild,
}

/// What is to be looked at next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RepairStage {
    Snapshots,
    Length,
    L1,
    /// L2 table of that L1 entry.
    L2(u32),
    Reftable,
    Bitmaps,
    /// Entry of the refcount table.
    Refblock(u64),
    /// From that cluster on. Only what is written there may be mended.
    Compare(u64, Fix),
    Rebuild,
    /// L1 entry.
    Copied(u32),
    Clean,
    Done,
}

/// What a comparison mends (`BdrvCheckMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fix {
    None,
    /// `BDRV_FIX_LEAKS`
    Leaks,
    /// `BDRV_FIX_ERRORS | BDRV_FIX_LEAKS`
    All,
}

/// A repair under way (`qcow2_co_check_locked`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::block::qcow2) struct Repair {
    at: RepairStage,
    counts: Counts,
    file_len: u64,
    /// The refcounts were made anew, and are counted once more.
    again: bool,
    rebuild: bool,
    corruptions: u64,
    leaks: u64,
    errors: u64,
    failed: Option<Errno>,
    lines: Vec<String>,
}

impl Repair {
    pub fn new() -> Repair {
        Repair {
            at: RepairStage::Snapshots,
            counts: Counts::default(),
            file_len: 0,
            again: false,
            rebuild: false,
            corruptions: 0,
            leaks: 0,
            errors: 0,
            failed: None,
            lines: Vec::new(),
        }
    }

    /// Goes on: what it needs, or at the end whether the image may be used.
    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2) -> Result<Qcow2Ask, Result<(), Fault>> {
        loop {
            if !self.lines.is_empty() {
                return Ok(Qcow2Ask::Print(std::mem::take(&mut self.lines)));
            }
            if self.at == RepairStage::Done {
                let failed = self.failed.or((self.errors > 0).then_some(Errno::EIO));
                return Err(failed.map_or(Ok(()), |errno| Err(Fault::of(errno, "Could not repair dirty image"))));
            }
            let Some(result) = ex.run(q, |cx| self.look(cx)) else { return Ok(ex.take_ask()) };
            match result {
                Ok(Seen { notes, next, failed, counts }) => {
                    if let Some(counts) = counts {
                        self.counts = counts;
                    }
                    self.sum_up(q, notes);
                    self.go_on(next);
                    self.failed = failed;
                }
                Err(fault) => {
                    let at = std::mem::replace(&mut self.at, RepairStage::Done);
                    self.failed = Some(fault.errno);
                    // Of the others QEMU has no message, or does not ask for it.
                    if at == RepairStage::Rebuild
                        && let Some(message) = fault.message
                    {
                        return Ok(Qcow2Ask::Report(message.into()));
                    }
                }
            }
        }
    }

    /// The next table. Nothing of the repair changes here, as it may be done again.
    fn look(&self, cx: &mut Cx<'_>) -> Res<Seen> {
        match self.at {
            RepairStage::Snapshots => cx.check_snapshots(),
            RepairStage::Length => {
                let length = cx.file_length()?;
                Ok(Seen::of(vec![Note::Length(length)], RepairStage::L1))
            }
            RepairStage::L1 => cx.check_l1(),
            RepairStage::L2(index) => cx.check_l2(index, !self.again),
            RepairStage::Reftable => {
                let (offset, len) = (cx.q.sc.reft_offset, cx.q.sc.reft_size * 8);
                Ok(Seen::of(vec![Note::Ref(offset, len)], RepairStage::Bitmaps))
            }
            RepairStage::Bitmaps => {
                let refs = cx.bitmap_references()?.into_iter().map(|(offset, len)| Note::Ref(offset, len)).collect();
                Ok(Seen::of(refs, RepairStage::Refblock(0)))
            }
            RepairStage::Refblock(index) => cx.check_refblock(index, self.counts.clusters, !self.again),
            RepairStage::Compare(cluster, fix) => cx.compare(&self.counts, cluster, fix),
            RepairStage::Rebuild => {
                let (counts, length) = cx.rebuild(&self.counts)?;
                Ok(Seen { counts: Some(counts), ..Seen::of(vec![Note::Length(length)], RepairStage::L1) })
            }
            RepairStage::Copied(index) => cx.check_copied(index),
            RepairStage::Clean => {
                if self.errors == 0 && self.corruptions == 0 {
                    cx.mark_image_clean()?;
                }
                Ok(Seen::of(Vec::new(), RepairStage::Done))
            }
            RepairStage::Done => Ok(Seen::of(Vec::new(), RepairStage::Done)),
        }
    }

    fn sum_up(&mut self, q: &Qcow2, notes: Vec<Note>) {
        for note in notes {
            match note {
                Note::Print(line) => self.lines.push(line),
                Note::Corrupt(line) => {
                    self.corruptions += 1;
                    self.lines.push(line);
                }
                Note::Mended => self.corruptions -= 1,
                Note::Leak(line) => {
                    self.leaks += 1;
                    self.lines.push(line);
                }
                Note::Error(line) => {
                    self.errors += 1;
                    self.lines.push(line);
                }
                Note::Ref(offset, len) => self.reference(q, offset, len),
                Note::Refblock(index, offset) => {
                    self.reference(q, offset, q.cluster_size());
                    let refcount = self.counts.get(offset >> q.sc.cluster_bits);
                    if refcount != 1 {
                        self.corruptions += 1;
                        self.rebuild = true;
                        self.lines.push(format!("ERROR refcount block {index} refcount={refcount}"));
                    }
                }
                Note::Length(length) => {
                    self.file_len = length;
                    self.counts.clusters = self.counts.clusters.max(q.sc.size_to_clusters(length));
                }
                Note::Rebuild => self.rebuild = true,
            }
        }
    }

    /// `qcow2_inc_refcounts_imrt`
    fn reference(&mut self, q: &Qcow2, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        if offset + len >= self.file_len + q.cluster_size() {
            self.corruptions += 1;
            self.lines.push(format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset {offset:#x} size \
                 {len:#x}"
            ));
            return;
        }
        let bits = q.sc.cluster_bits;
        for cluster in offset >> bits..=(offset + len - 1) >> bits {
            if !self.counts.add(cluster, q.sc.refcount_max()) {
                self.corruptions += 1;
                self.lines.push(format!("ERROR: overflow cluster offset={:#x}", cluster << bits));
                self.lines.push(
                    "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the \
                     image cannot be opened for writing"
                        .to_owned(),
                );
            }
        }
    }

    /// What `qcow2_check_refcounts` does between its parts.
    fn go_on(&mut self, next: RepairStage) {
        let was = std::mem::replace(&mut self.at, next);
        match (was, next) {
            // All is counted anew, and what was wrong before does not matter.
            (RepairStage::Rebuild, _) => {
                (self.again, self.rebuild) = (true, false);
                (self.corruptions, self.leaks) = (0, 0);
                self.counts.clear();
            }
            (RepairStage::Refblock(_), RepairStage::Compare(cluster, _)) if self.again => {
                self.at = RepairStage::Compare(cluster, Fix::Leaks);
            }
            (RepairStage::Compare(_, Fix::None), RepairStage::Copied(_)) if self.rebuild => {
                self.lines.push("Rebuilding refcount structure".to_owned());
                self.at = RepairStage::Rebuild;
            }
            (RepairStage::Compare(_, Fix::None), RepairStage::Copied(_)) if self.leaks + self.corruptions > 0 => {
                (self.corruptions, self.leaks) = (0, 0);
                self.at = RepairStage::Compare(0, Fix::All);
            }
            (RepairStage::Compare(_, Fix::Leaks), RepairStage::Copied(_)) if self.rebuild => {
                self.lines.push("ERROR rebuilt refcount structure is still broken".to_owned());
            }
            _ => {}
        }
    }
}

/// What [`Repair::look`] gives.
struct Seen {
    notes: Vec<Note>,
    next: RepairStage,
    /// The repair has failed.
    failed: Option<Errno>,
    /// The counts, where they were changed by more than the notes.
    counts: Option<Counts>,
}

impl Seen {
    fn of(notes: Vec<Note>, next: RepairStage) -> Seen {
        Seen { notes, next, failed: None, counts: None }
    }

    fn failed(line: String, errno: Errno) -> Seen {
        Seen { notes: vec![Note::Error(line)], next: RepairStage::Done, failed: Some(errno), counts: None }
    }
}

impl Cx<'_> {
    /// `qcow2_check_read_snapshot_table`. Images with snapshots are not opened at all.
    fn check_snapshots(&mut self) -> Res<Seen> {
        let (at, len) = SNAPSHOTS;
        Ok(match self.read(at, len).caught()? {
            Ok(_) => Seen::of(Vec::new(), RepairStage::Length),
            Err(Fault { errno, .. }) => {
                let text = "ERROR failed to read the snapshot table pointer from the image header";
                Seen::failed(format!("{text}: {errno}"), errno)
            }
        })
    }

    /// The header, and the L1 table itself (`check_refcounts_l1`).
    fn check_l1(&mut self) -> Res<Seen> {
        let mut notes = vec![Note::Ref(0, self.q.cluster_size())];
        let (offset, len) = (self.q.sc.l1_offset, self.q.sc.l1_size * 8);
        if len == 0 {
            return Ok(Seen::of(notes, RepairStage::Reftable));
        }
        notes.push(Note::Ref(offset, len));
        // It was read a moment ago, and is read again.
        match self.read(offset, len).caught()? {
            Ok(_) => Ok(Seen::of(notes, RepairStage::L2(0))),
            Err(fault) => Ok(Seen::failed("ERROR: I/O error in check_refcounts_l1".to_owned(), fault.errno)),
        }
    }

    /// An entry of the L1 table and what it refers to (`check_refcounts_l1`, `check_refcounts_l2`).
    fn check_l2(&mut self, from: u32, fix: bool) -> Res<Seen> {
        let table = self.q.l1.clone();
        let Some((index, entry)) = table.range(from..=u32::MAX).next() else {
            return Ok(Seen::of(Vec::new(), RepairStage::Reftable));
        };
        let mut notes = Vec::new();
        if entry & L1_RESERVED != 0 {
            notes.push(Note::Corrupt(format!("ERROR found L1 entry with reserved bits set: {entry:x}")));
        }
        let l2_offset = entry & OFFSET_MASK;
        let cluster = self.q.cluster_size();
        notes.push(Note::Ref(l2_offset, cluster));
        if self.q.sc.offset_into_cluster(l2_offset) != 0 {
            let text = format!("ERROR l2_offset={l2_offset}: Table is not cluster aligned; L1 entry corrupted");
            notes.push(Note::Corrupt(text));
        }
        let l2 = match self.read(l2_offset, cluster).caught()? {
            Ok(data) => data.to_table(8),
            Err(fault) => {
                return Ok(Seen::failed("ERROR: I/O error in check_refcounts_l2".to_owned(), fault.errno));
            }
        };
        for (at, entry) in l2.iter() {
            self.check_l2_entry(l2_offset + u64::from(at) * 8, entry, fix, &mut notes)?;
        }
        Ok(Seen::of(notes, RepairStage::L2(index + 1)))
    }

    fn check_l2_entry(&mut self, place: u64, entry: u64, fix: bool, notes: &mut Vec<Note>) -> Res {
        let kind = ClusterType::of(entry);
        if kind != ClusterType::Compressed && entry & L2_RESERVED != 0 {
            notes.push(Note::Corrupt(format!("ERROR found l2 entry with reserved bits set: {entry:x}")));
        }
        match kind {
            ClusterType::Compressed => {
                let (offset, len) = self.q.sc.compressed_place(entry & !COPIED);
                if entry & COPIED != 0 {
                    let mask = (1 << self.q.sc.csize_shift()) - 1;
                    let text = format!(
                        "ERROR: coffset={:#x}: copied flag must never be set for compressed clusters",
                        entry & mask
                    );
                    notes.push(Note::Corrupt(text));
                }
                notes.push(Note::Ref(offset, len));
            }
            ClusterType::Normal | ClusterType::ZeroAlloc => {
                let offset = entry & OFFSET_MASK;
                if self.q.sc.offset_into_cluster(offset) != 0 && self.check_unaligned(place, entry, fix, notes)? {
                    return Ok(());
                }
                notes.push(Note::Ref(offset, self.q.cluster_size()));
            }
            ClusterType::ZeroPlain | ClusterType::Unallocated => {}
        }
        Ok(())
    }

    /// An entry that points into a cluster: whether it could be mended, as it only promised zeroes (`fix_l2_entry_by_zero`).
    fn check_unaligned(&mut self, place: u64, entry: u64, fix: bool, notes: &mut Vec<Note>) -> Res<bool> {
        let offset = entry & OFFSET_MASK;
        if entry & ZERO == 0 {
            let text = format!("ERROR offset={offset}: Data cluster is not properly aligned; L2 entry corrupted.");
            notes.push(Note::Corrupt(text));
            return Ok(false);
        }
        let what = if fix { "Repairing" } else { "ERROR" };
        notes.push(Note::Corrupt(format!(
            "{what} offset={offset}: Preallocated cluster is not properly aligned; L2 entry corrupted."
        )));
        if !fix {
            return Ok(false);
        }
        self.overlap_check(Some(crate::block::qcow2::overlap::Overlap::ActiveL2), place, 8)?;
        match self.write_sync(place, || crate::block::qcow2::refgrow::be64(&[ZERO])).caught()? {
            Ok(()) => notes.push(Note::Mended),
            Err(fault) => {
                notes.push(Note::Error(format!("ERROR: Failed to overwrite L2 table entry: {}", fault.errno)));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An entry of the refcount table (`check_refblocks`).
    fn check_refblock(&mut self, from: u64, clusters: u64, fix: bool) -> Res<Seen> {
        let table = self.q.reftable.clone();
        let next = u32::try_from(from).ok().and_then(|from| table.range(from..=u32::MAX).next());
        let Some((index, entry)) = next.filter(|&(index, _)| u64::from(index) < self.q.sc.reft_size) else {
            return Ok(Seen::of(Vec::new(), RepairStage::Compare(0, Fix::None)));
        };
        let (offset, size) = (entry & REFT_MASK, self.q.cluster_size());
        let after = RepairStage::Refblock(u64::from(index) + 1);
        let broken = |text: String| Ok(Seen::of(vec![Note::Corrupt(text), Note::Rebuild], after));
        if entry & !REFT_MASK != 0 {
            return broken(format!("ERROR refcount table entry {index} has reserved bits set"));
        }
        if self.q.sc.offset_into_cluster(offset) != 0 {
            let text = format!("ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted");
            return broken(text);
        }
        if offset >> self.q.sc.cluster_bits < clusters {
            return Ok(Seen::of(vec![Note::Refblock(u64::from(index), offset)], after));
        }
        let what = if fix { "Repairing" } else { "ERROR" };
        let mut notes = vec![Note::Corrupt(format!("{what} refcount block {index} is outside image"))];
        if fix {
            match self.extend_file(offset, size).caught()? {
                Ok(length) => notes.extend([Note::Length(length), Note::Mended, Note::Ref(offset, size)]),
                Err(fault) => {
                    notes
                        .extend([Note::Rebuild, Note::Print(format!("ERROR could not resize image: {}", fault.errno))]);
                }
            }
        }
        Ok(Seen::of(notes, after))
    }

    fn extend_file(&mut self, offset: u64, size: u64) -> Res<u64> {
        if offset > i64::MAX as u64 - size {
            return Cx::fail(Errno::EINVAL);
        }
        self.ask(|| Qcow2Ask::Truncate { size: offset + size })?;
        let length = self.file_length()?;
        if length <= offset { Cx::fail(Errno::EINVAL) } else { Ok(length) }
    }

    /// `compare_refcounts`, up to the end of the refcount block or what is mended first.
    fn compare(&mut self, counts: &Counts, from: u64, fix: Fix) -> Res<Seen> {
        let bits = self.q.sc.refblock_bits();
        let end = (((from >> bits) + 1) << bits).min(counts.clusters);
        let mut notes = Vec::new();
        let mut cluster = from;
        let block = self.q.reftable.get(u32::try_from(from >> bits).unwrap_or(u32::MAX));
        while cluster < end {
            if block & REFT_MASK == 0 {
                // Without a block no cluster has a refcount.
                let Some(next) = counts.next(cluster, end) else { break };
                cluster = next;
            }
            let found = match self.get_refcount(cluster).caught()? {
                Ok(found) => found,
                Err(fault) => {
                    let text = format!("Can't get refcount for cluster {cluster}: {}", fault.errno);
                    notes.push(if fix == Fix::Leaks { Note::Print(text) } else { Note::Error(text) });
                    return Ok(Seen::of(notes, RepairStage::Compare(cluster + 1, fix)));
                }
            };
            let counted = counts.get(cluster);
            cluster += 1;
            if found != counted && self.mend_refcount(cluster - 1, found, counted, fix, &mut notes)? {
                return Ok(Seen::of(notes, RepairStage::Compare(cluster, fix)));
            }
        }
        let next = if end < counts.clusters { RepairStage::Compare(end, fix) } else { RepairStage::Copied(0) };
        Ok(Seen::of(notes, next))
    }

    /// A refcount that is wrong: says so, and whether it was changed.
    fn mend_refcount(&mut self, cluster: u64, found: u64, counted: u64, fix: Fix, notes: &mut Vec<Note>) -> Res<bool> {
        if found == 0 {
            notes.push(Note::Rebuild);
        }
        let mends = match fix {
            Fix::None => false,
            _ if found == 0 => false,
            Fix::Leaks => found > counted,
            Fix::All => true,
        };
        let what = if mends {
            "Repairing"
        } else if found < counted {
            "ERROR"
        } else {
            "Leaked"
        };
        let line = format!("{what} cluster {cluster} refcount={found} reference={counted}");
        if mends {
            let difference = counted.wrapping_sub(found) as i64;
            let offset = cluster << self.q.sc.cluster_bits;
            if self.update_refcount(offset, 1, difference, DiscardType::Always).caught()?.is_ok() {
                notes.push(Note::Print(line));
                return Ok(true);
            }
        }
        notes.push(match (found < counted, fix) {
            // The second comparison is only for the leaks that the rebuilding made.
            (true, Fix::Leaks) => Note::Print(line),
            (true, _) => Note::Corrupt(line),
            (false, _) => Note::Leak(line),
        });
        Ok(false)
    }

    /// An entry of the L1 table, and those of its L2 table: whether they know that nobody else refers to what they point to
    /// (`check_oflag_copied`).
    fn check_copied(&mut self, from: u32) -> Res<Seen> {
        let table = self.q.l1.clone();
        let Some((index, entry)) = table.range(from..=u32::MAX).find(|(_, entry)| entry & OFFSET_MASK != 0) else {
            return Ok(Seen::of(Vec::new(), RepairStage::Clean));
        };
        let after = RepairStage::Copied(index + 1);
        let (l2_offset, cluster, bits) = (entry & OFFSET_MASK, self.q.cluster_size(), self.q.sc.cluster_bits);
        let Ok(refcount) = self.get_refcount(l2_offset >> bits).caught()? else {
            return Ok(Seen::of(Vec::new(), after));
        };
        let mut notes = Vec::new();
        if (refcount == 1) != (entry & COPIED != 0) {
            let text =
                format!("Repairing OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={refcount}");
            notes.push(Note::Print(text));
            self.set_l1(index, flagged(entry, refcount));
            if let Err(fault) = self.write_l1_entry(index).caught()? {
                let failed = Some(fault.errno);
                return Ok(Seen { failed, ..Seen::of(notes, RepairStage::Done) });
            }
        }
        let l2 = match self.read(l2_offset, cluster).caught()? {
            Ok(data) => data.to_table(8),
            Err(fault) => {
                let text = format!("ERROR: Could not read L2 table: {}", fault.errno);
                notes.push(Note::Error(text));
                return Ok(Seen { failed: Some(fault.errno), ..Seen::of(notes, RepairStage::Done) });
            }
        };
        let mut mended = Table::clone(&l2);
        for (at, entry) in l2.iter() {
            if !matches!(ClusterType::of(entry), ClusterType::Normal | ClusterType::ZeroAlloc) {
                continue;
            }
            let Ok(refcount) = self.get_refcount((entry & OFFSET_MASK) >> bits).caught()? else { continue };
            if (refcount == 1) != (entry & COPIED != 0) {
                let text = format!("Repairing OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}");
                notes.push(Note::Print(text));
                mended.set(at, flagged(entry, refcount));
            }
        }
        if mended != *l2 {
            self.overlap_check(Some(crate::block::qcow2::overlap::Overlap::ActiveL2), l2_offset, cluster)?;
            let data = || Data::table(triomphe::Arc::new(mended), cluster, WriteTag(0));
            if let Err(fault) = self.write(l2_offset, data).caught()? {
                notes.push(Note::Error(format!("ERROR: Could not write L2 table: {}", fault.errno)));
                return Ok(Seen { failed: Some(fault.errno), ..Seen::of(notes, RepairStage::Done) });
            }
        }
        Ok(Seen::of(notes, after))
    }
}

fn flagged(entry: u64, refcount: u64) -> u64 {
    if refcount == 1 { entry | COPIED } else { entry & !COPIED }
}
