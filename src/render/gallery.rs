//! The gallery of `docs/gallery`: its page in Markdown, and what to see in each picture.

use std::fmt::Write;

/// A picture, or two side by side, with what to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GalleryEntry {
    /// Its heading.
    pub title: String,
    /// What to see, in a paragraph.
    pub text: String,
    /// The command that shows the run in a browser.
    pub command: String,
    /// Pictures: a caption and the name of the file.
    pub pictures: Vec<(String, String)>,
}

/// Pictures of one sort under one heading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GalleryPart {
    /// Its heading.
    pub title: String,
    /// What its pictures have in common.
    pub text: String,
    /// Its pictures.
    pub entries: Vec<GalleryEntry>,
}

/// What to see in the cases of QEMU's iotest 124, by the name of the scenario, with the mark or time to begin with.
pub const CASES: &[(&str, &str)] = &[
    (
        "incremental-simple",
        "Six lives of one job: after each incremental backup comes a full one, to hold it against. The first incremental backup finds nothing to copy, so it is the shortest. While a job has the bitmap (the bar below it) its count stands still; when the job ends well, the count falls to what was written meanwhile, which is nothing here.",
    ),
    (
        "small-granularity",
        "The same chain with a bitmap finer than the clusters of the target. The bitmap counts less for the same writes, the jobs copy \
         whole clusters all the same.",
    ),
    (
        "large-granularity",
        "The same chain with a bitmap coarser than the clusters of the target: each guest write lifts the count by a whole 128K, and \
         the job reads that much.",
    ),
    (
        "larger-cluster-target",
        "The same chain again, the targets' clusters twice as large as the bitmap's granularity. The requests at the source are larger \
         than what the bitmap had: the job rounds up to whole clusters of the target.",
    ),
    (
        "incremental-transaction",
        "At the left both bitmaps fall to nothing, as the transaction clears them. What is written then lifts both alike. An incremental backup takes one of them down and leaves the other at its height for the next one. Full backups stand between, to hold the results against.",
    ),
    (
        "transaction-failure",
        "Two incremental backups in one group (the dotted line). One of them meets the fault, turns red and takes the other with it: the arrows lead from the fault to the abort, and from that job to its neighbour. Both bitmaps are given back as high as they were. Then, without the fault, the group is started again and both complete. The two backups at the end are full ones, to hold the results against.",
    ),
    (
        "transaction-failure-race",
        "The race: drive0 has nothing to copy, so it waits (blue) for its group from the start, before its neighbour has read a \
         cluster. Then drive1 meets the fault and aborts, and the waiting job must be cancelled though it has long returned. It goes \
         from waiting to aborting without having run again, and its bitmap comes back.",
    ),
    (
        "incremental-failure",
        "A backup along the bitmap meets an injected error: BLOCK_JOB_ERROR, then BLOCK_JOB_COMPLETED with the error's text. The bitmap \
         is given back with all it had, so that the next backup, without the fault, copies the lot.",
    ),
    (
        "incremental-pause",
        "The backup has `on-source-error: stop`: at the fault it pauses (yellow) and keeps the bitmap, as the bar below it shows. The \
         client looks at the busy bitmap, then resumes, and the job completes.",
    ),
    (
        "growing-before-backup",
        "The drive grows by block_resize before anything is written. A write beyond its old end lifts the bitmap, and the backup \
         copies it.",
    ),
    (
        "sync-dirty-bitmap-missing",
        "A backup with `sync: incremental` and no bitmap. The command is refused; no job is created, so there is no lane for one.",
    ),
    ("sync-dirty-bitmap-not-found", "A backup along a bitmap that does not exist. Refused, as before."),
    (
        "sync-dirty-bitmap-bad-granularity",
        "A bitmap whose granularity is no power of two is refused, so no bitmap appears below.",
    ),
];

/// What to see of the jobs on chains, by the folder and name of the scenario.
pub const CHAINS: &[(&str, &str, &str)] = &[
    (
        "mirror",
        "full-complete",
        "The filter enters above the source before the job runs. All of the disk is dirty (violet) and is copied (teal) from top to bottom, data in \
         pieces, what is zero in one go. READY comes when nothing is dirty and the target was flushed. At job-complete the source is \
         drained, the target takes its place at the dashed line, and the filter leaves.",
    ),
    (
        "commit",
        "active-complete",
        "The same job with the base of the chain as its target: dirty is only what lies above the base. At the pivot the base takes \
         the place of the active layer.",
    ),
    (
        "commit",
        "active-soft-cancel",
        "A job that is READY and is cancelled without force ends well: the target is flushed once more, BLOCK_JOB_COMPLETED comes, and \
         the filter leaves. There is no dashed line: the device stays where it was.",
    ),
    (
        "commit",
        "intermediate",
        "The commit of a layer that nobody writes to has neither READY nor a pivot. It reads and writes a piece at a time, and at the end \
         the overlay's header names the base.",
    ),
    (
        "stream",
        "base-node",
        "A stream reads through its filter, which writes to the top what came from below. The base stays.",
    ),
];

/// `docs/gallery/README.md`, whole, in Markdown.
#[must_use]
pub fn page(parts: &[GalleryPart]) -> String {
    let mut out = String::from(
        "# Gallery\n\n\
         What runs look like. All of this is made by `blockjob-sim gallery docs/gallery`; a test makes it anew and compares.\n\n\
         How to read a picture: time goes from left to right, but not evenly. What happens takes room by what it is, so that a job that is \
         created, started and paused in no time can be seen; passing time takes room by its logarithm. On top is the client: bars from a \
         command to its reply, below them the events it read. Then a band for each job, coloured by its state; a dotted line below the \
         band where it is in a group. Grey areas are requests in flight at each node, red crosses are faults that blkdebug injected. Violet areas are \
         dirty bitmaps, with a bar below while a job uses them. Below a mirror, its disk from top to bottom: violet is dirty, teal is being copied. \
         Filters of jobs have a bar while they are in the chain, and a dashed line is a pivot. Arrows lead to a job's creation and to its abort, from what caused it.\n\n\
         The same run in a browser, to zoom and step through: `blockjob-sim timeline SCENARIO -o page.html`.\n",
    );
    for part in parts {
        _ = writeln!(out, "\n## {}\n\n{}", part.title, part.text);
        for entry in &part.entries {
            _ = writeln!(out, "\n### {}\n\n{}\n", entry.title, entry.text);
            match &entry.pictures[..] {
                [(caption, file)] => _ = writeln!(out, "![{caption}]({file})\n"),
                pictures => {
                    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
                    out.push_str(&row(pictures.iter().map(|(caption, _)| caption.clone()).collect()));
                    out.push_str(&row(pictures.iter().map(|_| "---".to_owned()).collect()));
                    out.push_str(&row(pictures
                        .iter()
                        .map(|(caption, file)| format!("![{caption}]({file})"))
                        .collect()));
                    out.push('\n');
                }
            }
            _ = writeln!(out, "`{}`", entry.command);
        }
    }
    out
}
