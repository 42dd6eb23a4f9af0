//! The order of events and requests, as recorded on QEMU 10.0.2.

use super::{BitmapCheck, CreateOptions, OpenOptions, Qcow2Call, Qcow2Result, StoreBitmap};
use crate::block::content::{Data, WriteTag};
use crate::host::{HostFiles, Image, ImageStep};
use std::sync::Arc;

const CLUSTER: u64 = 65_536;
const MIB: u64 = 1 << 20;

/// Events by name; requests as R, W, Z, D, and F for a flush that reaches the file.
fn text(trace: &[ImageStep]) -> String {
    let words = trace.iter().map(|step| match step {
        ImageStep::Event(event) => event.name(),
        ImageStep::Read(..) => "R",
        ImageStep::Write(..) => "W",
        ImageStep::Zero(..) => "Z",
        ImageStep::Discard(..) => "D",
        ImageStep::Flush => "F",
    });
    words.collect::<Vec<_>>().join(" ")
}

/// An image under test.
struct Bench {
    files: HostFiles,
    image: Image,
}

impl Bench {
    fn new(options: &CreateOptions) -> Bench {
        let mut files = HostFiles::new();
        let mut options = options.clone();
        if let Some(base) = &options.backing_file {
            files.create(base, 1 << 30);
            files.write(base, 0, 4 * MIB, 0x11, WriteTag(1)).expect("base written");
            options.backing_format = Some("raw".into());
        }
        files.create_qcow2("a", Some(options.size), &options).expect("created");
        Bench::open(files)
    }

    fn plain() -> Bench {
        Bench::new(&CreateOptions::new(1 << 30))
    }

    fn over_base() -> Bench {
        Bench::new(&CreateOptions { backing_file: Some("base".into()), ..CreateOptions::new(1 << 30) })
    }

    fn open(mut files: HostFiles) -> Bench {
        let options = OpenOptions { discard_request: true, ..OpenOptions::default() };
        let mut image = Image::open_with(&mut files, "a", None, &options).expect("opened");
        image.trace = Some(Vec::new());
        Bench { files, image }
    }

    fn reopen(mut self) -> Bench {
        assert_eq!(self.image.close(&mut self.files), Vec::<String>::new());
        Bench::open(self.files)
    }

    /// Does something, and gives what was seen since the last call.
    fn see(&mut self, work: impl FnOnce(&mut HostFiles, &mut Image)) -> String {
        work(&mut self.files, &mut self.image);
        text(&std::mem::take(self.image.trace.as_mut().expect("recording")))
    }

    fn write(&mut self, offset: u64, len: u64) -> String {
        self.see(|files, image| image.write(files, offset, Data::pattern(7, len, WriteTag(2))).expect("written"))
    }

    fn read(&mut self, offset: u64, len: u64) -> String {
        self.see(|files, image| drop(image.read(files, offset, len).expect("read")))
    }

    fn flush(&mut self) -> String {
        self.see(|files, image| image.flush(files).expect("flushed"))
    }

    fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> String {
        self.see(|files, image| image.write_zeroes(files, offset, len, unmap).expect("zeroed"))
    }

    fn discard(&mut self, offset: u64, len: u64) -> String {
        self.see(|files, image| image.discard(files, offset, len).expect("discarded"))
    }

    fn drive(&mut self, op: Qcow2Call) -> String {
        self.see(|files, image| drop(image.drive(files, op).expect("done")))
    }
}

#[test]
fn opening_and_closing() {
    let mut b = Bench::plain();
    assert_eq!(b.drive(Qcow2Call::open(OpenOptions::default())), "R R reftable_load R R R");
    assert_eq!(b.flush(), "flush_to_os");
    assert_eq!(b.drive(Qcow2Call::close(Arc::new([]), "a")), "");

    let mut b = Bench::plain();
    b.write(0, CLUSTER);
    let close = b.flush() + " |" + &b.drive(Qcow2Call::close(Arc::new([]), "a"));
    assert_eq!(close, "flush_to_os refblock_update_part W F l2_update W flush_to_disk F |");
}

#[test]
fn formatting() {
    let mut files = HostFiles::new();
    files.create_qcow2("a", Some(1 << 30), &CreateOptions::new(0)).expect("created");
    let mut b = Bench::open(files);
    b.files.create("a", 0);
    let seen = b.drive(Qcow2Call::create(CreateOptions::new(1 << 30)));
    let first = "W W R reftable_load R R cluster_alloc R refblock_alloc refblock_load W \
                 l1_grow_alloc_table cluster_alloc refblock_alloc refblock_load refblock_update_part W F \
                 l1_grow_write_table W F l1_grow_activate_table W F cluster_free W F flush_to_os";
    assert_eq!(seen, format!("{first} R R reftable_load R R R flush_to_os"));
}

#[test]
fn reads() {
    let mut b = Bench::plain();
    assert_eq!(b.read(0, CLUSTER), "");
    b.write(0, CLUSTER);
    b.write(3 * CLUSTER, CLUSTER);
    b.zero(CLUSTER, CLUSTER, false);
    let mut b = b.reopen();
    assert_eq!(b.read(0, 512), "l2_load R read_aio R");
    assert_eq!(b.read(700, 5000), "read_aio R");
    assert_eq!(b.read(CLUSTER, CLUSTER), "");
    assert_eq!(b.read(2 * CLUSTER, CLUSTER), "");
    assert_eq!(b.read(0, 4 * CLUSTER), "read_aio R read_aio R");
    let mut b = Bench::over_base();
    assert_eq!(b.read(0, CLUSTER), "read_backing_aio");
}

#[test]
fn writes() {
    let mut b = Bench::plain();
    assert_eq!(
        b.write(0, CLUSTER),
        "cluster_alloc R refblock_alloc refblock_load refblock_update_part W F l2_alloc_write l2_update W F \
         l1_update W F cluster_alloc refblock_alloc refblock_load write_aio W"
    );
    assert_eq!(b.write(CLUSTER, CLUSTER), "cluster_alloc refblock_alloc refblock_load write_aio W");
    assert_eq!(b.write(2 * CLUSTER, 5 * CLUSTER), "cluster_alloc refblock_alloc refblock_load write_aio W");
    assert_eq!(b.write(100, 200), "write_aio W");
    assert_eq!(
        b.write(8 * CLUSTER + 512, 512),
        "cluster_alloc refblock_alloc refblock_load cluster_alloc_space Z write_aio W"
    );
    let mut b = b.reopen();
    assert_eq!(b.write(9 * CLUSTER, CLUSTER), "l2_load R cluster_alloc R refblock_alloc refblock_load write_aio W");
    b.zero(0, CLUSTER, false);
    assert_eq!(b.write(512, 512), "cluster_alloc_space Z write_aio W");
}

#[test]
fn copying_on_write() {
    let mut b = Bench::over_base();
    b.write(0, CLUSTER);
    let alloc = "cluster_alloc refblock_alloc refblock_load";
    let back = "cow_read read_backing_aio";
    assert_eq!(b.write(CLUSTER, 512), format!("{alloc} {back} write_aio cow_write W"));
    assert_eq!(b.write(2 * CLUSTER + 512, 512), format!("{alloc} {back} write_aio cow_write W"));
    assert_eq!(b.write(3 * CLUSTER + 512, 32_768), format!("{alloc} {back} {back} write_aio cow_write W"));
    // The first L2 write after copying waits for the data.
    assert_eq!(b.flush(), "flush_to_os refblock_update_part W F l2_update W flush_to_disk F");
    // Data that begins in a cluster that is there cannot be merged with what is copied behind it.
    assert_eq!(
        b.write(4 * CLUSTER - 512, 1024),
        format!("refblock_alloc refblock_load write_aio W {back} cow_write W")
    );
    assert_eq!(b.flush(), "flush_to_os refblock_update_part W F l2_update W flush_to_disk F");
}

#[test]
fn compression() {
    let mut b = Bench::plain();
    b.write(0, CLUSTER);
    let compressed = |b: &mut Bench, at, len| {
        b.see(|files, image| image.write_compressed(files, at, Data::pattern(5, len, WriteTag(3))).expect("written"))
    };
    let one = "cluster_alloc_bytes refblock_alloc refblock_load l2_update_compressed write_compressed W";
    assert_eq!(compressed(&mut b, CLUSTER, CLUSTER), one);
    assert_eq!(compressed(&mut b, 2 * CLUSTER, CLUSTER), one);
    b.flush();
    assert_eq!(b.read(2 * CLUSTER + 512, 512), "read_compressed R");
    assert_eq!(
        b.write(CLUSTER + 512, 512),
        "cluster_alloc refblock_alloc refblock_load cow_read read_compressed R write_aio cow_write W \
         cluster_free refblock_update_part W F refblock_alloc refblock_load"
    );
    assert!(b.image.write_compressed(&mut b.files, 0, Data::zeroes(CLUSTER)).is_err());
    let mut b = b.reopen();
    assert!(b.files.check("a").expect("checked").is_clean());
    let data = b.image.read(&mut b.files, CLUSTER, 2 * CLUSTER).expect("read").to_bytes();
    assert!(data.iter().enumerate().all(|(i, &byte)| byte == if (512..1024).contains(&i) { 7 } else { 5 }));
}

#[test]
fn zeroes_and_discards() {
    let mut b = Bench::plain();
    b.write(0, 8 * CLUSTER);
    assert_eq!(b.zero(0, CLUSTER, false), "");
    assert_eq!(b.zero(9 * CLUSTER, 512, false), "");
    assert_eq!(b.zero(2 * CLUSTER, 512, false), "write_aio W");
    let free = "refblock_alloc refblock_load D";
    assert_eq!(b.zero(3 * CLUSTER, CLUSTER, true), format!("cluster_free refblock_update_part W F {free}"));
    assert_eq!(b.discard(4 * CLUSTER, CLUSTER), format!("cluster_free {free}"));
    assert_eq!(b.discard(4 * CLUSTER, CLUSTER), "");
    assert_eq!(b.discard(5 * CLUSTER, 512), "");
    assert_eq!(b.flush(), "flush_to_os l2_update W F refblock_update_part W flush_to_disk F");
    assert_eq!(b.flush(), "flush_to_os");
    // Linking makes L2 tables depend on refcounts even where none changed: their cache is flushed, which flushes the file.
    b.write(0, 512);
    assert_eq!(b.flush(), "flush_to_os F l2_update W flush_to_disk F");
    b.write(0, 512);
    assert_eq!(b.flush(), "flush_to_os flush_to_disk F");
}

fn resize(size: u64) -> Qcow2Call {
    Qcow2Call::truncate(size, false, Arc::new([]))
}

#[test]
fn growing() {
    let mut b = Bench::plain();
    b.write(0, CLUSTER);
    b.flush();
    let mut b = Bench::open(b.files);
    assert_eq!(b.drive(resize((1 << 30) - 512)), "R W F W F");
    assert_eq!(b.drive(resize(1 << 30)), "W F");
    assert_eq!(
        b.drive(resize(2 << 30)),
        "l1_grow_alloc_table cluster_alloc R refblock_alloc refblock_load refblock_update_part W F \
         l1_grow_write_table W F l1_grow_activate_table W F cluster_free refblock_alloc refblock_load W F \
         refblock_update_part W F"
    );
    assert_eq!(b.image.size(), 2 << 30);
    let b = b.reopen();
    assert!(b.files.clone().check("a").expect("checked").is_clean());
}

#[test]
fn shrinking() {
    let mut b = Bench::plain();
    b.write(0, CLUSTER);
    b.write(600 * MIB, CLUSTER);
    b.flush();
    let free = "cluster_free refblock_alloc refblock_load";
    assert_eq!(
        b.drive(resize(512 * MIB)),
        format!(
            "{free} D l1_shrink_write_table Z F l1_shrink_free_l2_clusters {free} D W F W F refblock_update_part W F"
        )
    );
    let mut b = b.reopen();
    assert!(b.files.check("a").expect("checked").is_clean());
    assert_eq!(b.files.get("a").map(|file| file.size), Some(6 * CLUSTER));
    // Without an L2 table in the area that is cut off, one is made first.
    let mut b = Bench::plain();
    assert!(b.drive(resize(512 * MIB)).starts_with("cluster_alloc R refblock_alloc"));
    assert!(b.reopen().files.check("a").expect("checked").is_clean());
}

#[test]
fn emptying() {
    let mut b = Bench::plain();
    b.write(0, CLUSTER);
    b.flush();
    assert_eq!(
        b.drive(Qcow2Call::make_empty()),
        "W F l1_update Z empty_image_prepare Z l1_update reftable_update W F refblock_alloc W F \
         cluster_alloc R refblock_alloc refblock_load refblock_update_part W F W"
    );
    assert_eq!(b.files.get("a").map(|file| file.size), Some(4 * CLUSTER));
    b.write(0, CLUSTER);
    let mut b = b.reopen();
    assert!(b.files.check("a").expect("checked").is_clean());
    assert_eq!(b.files.get("a").map(|file| file.size), Some(6 * CLUSTER));
    assert_eq!(b.read(0, CLUSTER).matches("read_aio").count(), 1);
}

#[test]
fn full_refcount_structures() {
    let options = CreateOptions { cluster_size: 512, ..CreateOptions::new(64 * MIB) };
    let mut b = Bench::new(&options);
    let mut seen = Vec::new();
    for i in 0..40_000 {
        let text = b.write(i * 512, 512);
        if text.contains("refblock_alloc_write") && !seen.contains(&text) {
            seen.push(text);
        }
    }
    assert!(seen.iter().any(|text| text.contains("refblock_alloc_switch_table W F cluster_free")), "{seen:#?}");
    assert!(b.files.check("a").is_ok());
    let mut b = b.reopen();
    assert!(b.files.check("a").expect("checked").is_clean());
    assert_eq!(b.read(39_999 * 512, 512).matches("read_aio").count(), 1);
}

fn bits(dirty: bool) -> Data {
    let byte = if dirty { 3 } else { 0 };
    let mut bits = Data::pattern(byte, 8, WriteTag(0));
    bits.append(&Data::zeroes((1 << 30) / CLUSTER / 8 - 8));
    bits
}

fn stored(name: &str, dirty: bool) -> StoreBitmap {
    StoreBitmap { name: name.into(), granularity: CLUSTER, enabled: true, readonly: false, bits: bits(dirty) }
}

#[test]
fn persistent_bitmaps() {
    let mut b = Bench::plain();
    assert_eq!(
        b.drive(Qcow2Call::close(Arc::new([stored("b", true)]), "a")),
        "cluster_alloc R refblock_alloc refblock_load W \
         cluster_alloc refblock_alloc refblock_load W cluster_alloc refblock_alloc refblock_load W \
         refblock_update_part W F W F"
    );
    assert!(b.files.check("a").expect("checked").is_clean());
    let mut twin = Bench { files: b.files.clone(), image: b.image.clone() };
    let open = twin.drive(Qcow2Call::open(OpenOptions::default()));
    assert_eq!(open, "R R reftable_load R R R R R R R R W F W W F W F");
    let mut b = Bench::open(b.files);
    assert_eq!(b.image.bitmaps().len(), 1);
    assert_eq!(b.image.bitmaps()[0].bits.to_bytes(), bits(true).to_bytes());
    assert_eq!(b.files.info("a").expect("info").bitmaps, [("b".to_owned(), CLUSTER, true, true)]);
    let open = b.drive(Qcow2Call::open(OpenOptions { writable: false, ..OpenOptions::default() }));
    assert_eq!(open, "R R reftable_load R R R R R R", "bits in use are not read");
    b.image.trace = None;
    let mut b = Bench::open(b.files);
    let checks = |problem: Option<&str>| -> Arc<[BitmapCheck]> {
        Arc::new([BitmapCheck { name: "b".into(), problem: problem.map(Into::into) }])
    };
    let files = &mut b.files;
    let grow = |checks| Qcow2Call::truncate(2 << 30, false, checks);
    let refused = b.image.drive(files, grow(Arc::new([]))).expect_err("not loaded");
    let text = "Cannot resize qcow2 with persistent bitmaps that were not loaded into memory";
    assert_eq!(refused.to_string(), text);
    let refused = b.image.drive(files, grow(checks(Some("busy")))).expect_err("busy");
    assert_eq!(refused.to_string(), "busy");
    assert_eq!(b.image.drive(files, grow(checks(None))), Ok(Qcow2Result::Done));
    b.see(|_, _| {});
    let removed = b.drive(Qcow2Call::remove_bitmap("b"));
    let free = "cluster_free refblock_alloc refblock_load";
    assert_eq!(removed, format!("R W F {free} R R {free} D {free}"));
    assert_eq!(b.image.close(&mut b.files), Vec::<String>::new());
    assert!(b.files.check("a").expect("checked").is_clean());
}
