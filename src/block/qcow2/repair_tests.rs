//! Images that were not closed, opened again. What is printed, and where the new refcounts lie, was recorded on QEMU 10.0.2.

use super::{CreateOptions, OpenOptions, Qcow2, Qcow2Answer, Qcow2Ask, Qcow2Call, Qcow2Result};
use crate::block::content::{Data, WriteTag};
use crate::host::{HostFiles, Image};
use proptest::prelude::*;

const CLUSTER: u64 = 65_536;

/// Opens the image for writing: what was printed.
fn open(files: &mut HostFiles) -> Result<Vec<String>, String> {
    let (mut q, mut op) = (
        Qcow2::new(super::FileTraits { events: false, ..Default::default() }),
        Qcow2Call::open(OpenOptions::default()),
    );
    let (mut got, mut printed) = (Qcow2Answer::Done, Vec::new());
    loop {
        got = match op.resume(&mut q, got) {
            Qcow2Ask::Done(Ok(Qcow2Result::Opened(_))) => return Ok(printed),
            Qcow2Ask::Done(Ok(_)) => unreachable!("it is opened"),
            Qcow2Ask::Done(Err(fault)) => return Err(fault.to_string()),
            Qcow2Ask::Print(lines) => {
                printed.extend(lines);
                Qcow2Answer::Done
            }
            Qcow2Ask::Read { offset, len, .. } => Qcow2Answer::Data(files.pread("a", offset, len)),
            Qcow2Ask::Write { offset, data } => {
                files.pwrite("a", offset, &data);
                Qcow2Answer::Done
            }
            Qcow2Ask::GetLength => Qcow2Answer::Number(files.size("a")),
            Qcow2Ask::Truncate { size } => {
                files.truncate("a", size);
                Qcow2Answer::Done
            }
            Qcow2Ask::Discard { offset, len } => {
                files.zero("a", offset, len);
                Qcow2Answer::Done
            }
            _ => Qcow2Answer::Done,
        };
    }
}

fn created(options: &CreateOptions) -> HostFiles {
    let mut files = HostFiles::new();
    files.create_qcow2("a", Some(options.size), options).expect("created");
    files
}

/// Writes, and flushes, and does not close.
fn killed(files: &mut HostFiles, work: impl FnOnce(&mut HostFiles, &mut Image)) {
    let mut image = Image::open_with(files, "a", None, &OpenOptions::default()).expect("opened");
    work(files, &mut image);
    image.flush(files).expect("flushed");
}

fn set(files: &mut HostFiles, at: u64, byte: u8) {
    files.pwrite("a", at, &Data::pattern(byte, 1, WriteTag(0)));
}

#[test]
fn refcounts_are_made_anew() {
    let mut files = created(&CreateOptions { lazy_refcounts: true, ..CreateOptions::new(64 << 20) });
    killed(&mut files, |files, image| {
        image.write(files, 0, Data::pattern(7, CLUSTER, WriteTag(2))).expect("written");
    });
    assert!(!files.check("a").expect("checked").is_clean(), "it was not closed");
    let printed = open(&mut files).expect("opened");
    let recorded = [
        "ERROR cluster 5 refcount=0 reference=1",
        "Rebuilding refcount structure",
        "Repairing cluster 1 refcount=1 reference=0",
        "Repairing cluster 2 refcount=1 reference=0",
    ];
    assert_eq!(printed, recorded);
    // The new block and table lie behind everything else.
    assert_eq!(files.size("a"), 8 * CLUSTER);
    assert_eq!(files.pread("a", 48, 8).be_at(0, 8), 7 * CLUSTER);
}

#[test]
fn leaks_alone_are_mended_where_they_are() {
    let mut files = created(&CreateOptions::new(64 << 20));
    let mut image = Image::open_with(&mut files, "a", None, &OpenOptions::default()).expect("opened");
    image.write(&mut files, 0, Data::pattern(7, 16 * CLUSTER, WriteTag(2))).expect("written");
    assert_eq!(image.close(&mut files), Vec::<String>::new());
    set(&mut files, 79, 1);
    for (cluster, refcount) in [(9, 2), (12, 3), (21, 1)] {
        set(&mut files, 2 * CLUSTER + 2 * cluster + 1, refcount);
    }
    files.truncate("a", 22 * CLUSTER);
    let printed = open(&mut files).expect("opened");
    let recorded = [
        "Leaked cluster 9 refcount=2 reference=1",
        "Leaked cluster 12 refcount=3 reference=1",
        "Leaked cluster 21 refcount=1 reference=0",
        "Repairing cluster 9 refcount=2 reference=1",
        "Repairing cluster 12 refcount=3 reference=1",
        "Repairing cluster 21 refcount=1 reference=0",
    ];
    assert_eq!(printed, recorded);
    assert_eq!(files.pread("a", 48, 8).be_at(0, 8), CLUSTER);
}

#[test]
fn entries_know_who_else_refers_to_them() {
    let mut files = created(&CreateOptions { lazy_refcounts: true, ..CreateOptions::new(64 << 20) });
    killed(&mut files, |files, image| {
        image.write(files, 0, Data::pattern(7, 16 * CLUSTER, WriteTag(2))).expect("written");
    });
    let l1 = files.pread("a", 40, 8).be_at(0, 8);
    let l2 = files.pread("a", l1, 8).be_at(0, 8) & 0x00ff_ffff_ffff_fe00;
    set(&mut files, l1, 0);
    set(&mut files, l2 + 16, 0);
    let printed = open(&mut files).expect("opened");
    let flags: Vec<&str> = printed.iter().map(String::as_str).filter(|line| line.contains("COPIED")).collect();
    let recorded = [
        "Repairing OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=40000 refcount=1",
        "Repairing OFLAG_COPIED data cluster: l2_entry=70000 refcount=1",
    ];
    assert_eq!(flags, recorded);
    assert!(files.check("a").expect("checked").is_clean());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was written, the image is sound afterwards, and reads as before.
    #[test]
    fn repaired_images_are_sound(
        cluster_bits in 9_u64..17,
        refcount_order in 0_u32..7,
        writes in prop::collection::vec((0_u64..8 << 20, 1_u64..1 << 20, 0_u8..4), 1..8),
    ) {
        let options = CreateOptions {
            lazy_refcounts: true,
            cluster_size: 1 << cluster_bits,
            refcount_bits: 1 << refcount_order,
            ..CreateOptions::new(9 << 20)
        };
        let mut files = created(&options);
        killed(&mut files, |files, image| {
            for &(offset, len, kind) in &writes {
                let (offset, len) = (offset & !511, len.next_multiple_of(512));
                match kind {
                    0 => image.write_zeroes(files, offset, len, true).expect("zeroed"),
                    _ => image.write(files, offset, Data::pattern(kind, len, WriteTag(2))).expect("written"),
                }
            }
        });
        let read = |files: &mut HostFiles| {
            let mut image = Image::open(files, "a", None, false).expect("opened");
            image.read(files, 0, 9 << 20).expect("read").to_bytes()
        };
        let before = read(&mut files);
        open(&mut files).expect("opened");
        let result = files.check("a").expect("checked");
        prop_assert!(result.is_clean(), "{:?}", result);
        prop_assert!(read(&mut files) == before, "the guest's data");
        // Once is enough.
        prop_assert_eq!(open(&mut files).expect("opened"), Vec::<String>::new());
    }
}
