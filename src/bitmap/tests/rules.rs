//! Names, flags, successors and merges of a node's bitmaps.

use crate::bitmap::{
    BitmapId, CheckFlags, DirtyBitmaps, HBitmap, check_granularity, check_name_given, default_granularity,
};

const G: u64 = 65536;
const SIZE: u64 = 64 * G;

fn node() -> DirtyBitmaps {
    DirtyBitmaps::default()
}

fn add(node: &mut DirtyBitmaps, name: &str) -> BitmapId {
    node.add(Some(name), SIZE, G).unwrap()
}

/// One line a bitmap, in query order: name, granules, flags.
fn show(node: &DirtyBitmaps) -> Vec<String> {
    let line = |info: crate::bitmap::BlockDirtyInfo| {
        let mut line = format!("{} {}", info.name.as_deref().unwrap_or("-"), info.count / info.granularity);
        let flags = [
            (info.recording, " recording"),
            (info.busy, " busy"),
            (info.persistent, " persistent"),
            (info.inconsistent, " inconsistent"),
        ];
        line.extend(flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text));
        line
    };
    node.query().map(line).collect()
}

#[test]
fn names_and_granularities() {
    let mut node = node();
    add(&mut node, "a b/c");
    let long = "x".repeat(1024);
    assert_eq!(check_name_given(""), Err("Bitmap name cannot be empty".into()));
    assert_eq!(node.add(Some("a b/c"), SIZE, G), Err("Bitmap already exists: a b/c".into()));
    assert_eq!(node.add(Some(&long), SIZE, G), Err(format!("Bitmap name too long: {long}")));
    assert!(node.add(Some(&long[1..]), SIZE, G).is_ok());
    assert_eq!(node.lookup("b"), Err("Dirty bitmap 'b' not found".into()));
    for (granularity, good) in [(0, false), (256, false), (512, true), (513, false), (1 << 31, true)] {
        assert_eq!(check_granularity(granularity).is_ok(), good, "{granularity}");
    }
    for (cluster, granularity) in [(0, G), (512, 4096), (4096, 4096), (G, G), (2 << 20, G)] {
        assert_eq!(default_granularity(cluster), granularity, "{cluster}");
    }
}

#[test]
fn newest_is_listed_first_and_only_enabled_ones_record() {
    let mut node = node();
    let old = add(&mut node, "old");
    add(&mut node, "new");
    node.get_mut(old).unwrap().set_enabled(false);
    node.set_dirty(G - 1, 2);
    assert_eq!(show(&node), ["new 2 recording", "old 0"]);
}

#[test]
fn states_are_refused_in_order() {
    let mut node = node();
    let id = add(&mut node, "b");
    let map = node.get_mut(id).unwrap();
    map.set_persistence(true);
    map.set_inconsistent();
    map.set_readonly(true);
    map.set_busy(true);
    let busy = "Bitmap 'b' is currently in use by another operation and cannot be used";
    let readonly = "Bitmap 'b' is readonly and cannot be modified";
    let inconsistent = "Bitmap 'b' is inconsistent and cannot be used";
    assert_eq!(map.check(CheckFlags::DEFAULT), Err(busy.into()));
    map.set_busy(false);
    assert_eq!(map.check(CheckFlags::DEFAULT), Err(readonly.into()));
    assert_eq!(map.check(CheckFlags::REMOVE), Err(readonly.into()));
    assert_eq!(map.check(CheckFlags::ALLOW_RO), Err(inconsistent.into()));
    assert_eq!(map.check(CheckFlags::BUSY), Ok(()));
    map.set_readonly(false);
    assert_eq!(map.check(CheckFlags::DEFAULT), Err(inconsistent.into()));
    assert_eq!(map.check(CheckFlags::REMOVE), Ok(()));
    assert_eq!(show(&node), ["b 0 persistent inconsistent"]);
}

#[test]
fn clear_gives_the_bits_for_a_restore() {
    let mut node = node();
    let id = add(&mut node, "b");
    node.set_dirty(0, 3 * G);
    let before = node.clone();
    let map = node.get_mut(id).unwrap();
    let backup = map.clear();
    assert!(map.bitmap().is_empty());
    map.restore(backup);
    assert_eq!(node, before);
}

#[test]
fn an_abdicated_bitmap_leaves_its_name_to_what_was_written_since() {
    let mut node = node();
    let id = add(&mut node, "b");
    node.get_mut(id).unwrap().set_persistence(true);
    add(&mut node, "later");
    node.set_dirty(0, 4 * G);
    let child = node.create_successor(id, SIZE).unwrap();
    node.set_dirty(10 * G, 1);
    assert_eq!(show(&node), ["- 1 recording", "later 5 recording", "b 4 recording busy persistent"]);
    assert_eq!(
        node.create_successor(id, SIZE),
        Err("Bitmap 'b' is currently in use by another operation and cannot be used".into())
    );
    assert_eq!(node.abdicate(id), Ok(child));
    assert_eq!(show(&node), ["b 1 recording persistent", "later 5 recording"]);
    assert_eq!(node.get(id), None);
    assert_eq!(node.find("b"), Some(child));
    assert!(node.abdicate(id).is_err());
    assert_eq!(node.abdicate(child), Err("Cannot relinquish control if there's no successor present".into()));
    assert_ne!(add(&mut node, "c"), id);
}

#[test]
fn a_successor_is_as_long_as_the_node_is_by_then() {
    let mut node = node();
    let id = add(&mut node, "b");
    let child = node.create_successor(id, 2 * SIZE).unwrap();
    node.set_dirty(2 * SIZE - 1, 1);
    assert_eq!(node.abdicate(id), Ok(child));
    assert_eq!(show(&node), ["b 1 recording"]);
}

#[test]
fn a_reclaimed_bitmap_holds_old_and_new() {
    let mut node = node();
    let id = add(&mut node, "b");
    node.set_dirty(0, 4 * G);
    let child = node.create_successor(id, SIZE).unwrap();
    node.set_dirty(3 * G, 2 * G);
    assert_eq!(node.reclaim(id), Ok(()));
    assert_eq!(show(&node), ["b 5 recording"]);
    assert_eq!(node.get(child), None);
    assert_eq!(node.reclaim(id), Err("Cannot reclaim a successor when none is present".into()));
}

#[test]
fn the_successor_of_a_disabled_bitmap_is_disabled() {
    let mut node = node();
    let id = add(&mut node, "b");
    node.set_dirty(0, G);
    node.get_mut(id).unwrap().set_enabled(false);
    node.create_successor(id, SIZE).unwrap();
    node.set_dirty(8 * G, G);
    assert_eq!(show(&node), ["- 0", "b 1 busy"]);
    let mut reclaimed = node.clone();
    reclaimed.reclaim(id).unwrap();
    assert_eq!(show(&reclaimed), ["b 1"]);
    node.abdicate(id).unwrap();
    assert_eq!(show(&node), ["b 0"]);
}

#[test]
fn an_enabled_successor_makes_its_parent_recording() {
    let mut node = node();
    let id = add(&mut node, "b");
    node.get_mut(id).unwrap().set_enabled(false);
    node.create_successor(id, SIZE).unwrap();
    node.enable_successor(id);
    assert_eq!(show(&node), ["- 0 recording", "b 0 recording busy"]);
    node.reclaim(id).unwrap();
    assert_eq!(show(&node), ["b 0 recording"]);
}

#[test]
fn merging_rounds_outward_and_can_be_undone() {
    let mut node = node();
    let fine = node.add(Some("fine"), SIZE, 512).unwrap();
    let coarse = node.add(Some("coarse"), SIZE, 2 * G).unwrap();
    node.get_mut(fine).unwrap().bitmap_mut().set(2 * G - 1, 2);
    let before = node.clone();
    let backup = node.merge_local(coarse, fine, true).unwrap().unwrap();
    assert_eq!(show(&node), ["coarse 2 recording", "fine 2 recording"]);
    node.get_mut(coarse).unwrap().restore(backup);
    assert_eq!(node, before);
    assert_eq!(node.merge_local(fine, fine, false), Ok(None));
    assert_eq!(node, before);
    node.get_mut(coarse).unwrap().bitmap_mut().set(SIZE - 1, 1);
    node.merge_local(fine, coarse, false).unwrap();
    assert_eq!(show(&node), ["coarse 1 recording", "fine 258 recording"]);
}

#[test]
fn merges_that_are_refused() {
    let mut node = node();
    let dst = add(&mut node, "dst");
    let small = node.add(Some("small"), SIZE - 512, G).unwrap();
    let busy = add(&mut node, "busy");
    node.create_successor(busy, SIZE).unwrap();
    let readonly = add(&mut node, "ro");
    node.get_mut(readonly).unwrap().set_readonly(true);
    assert_eq!(
        node.merge_local(dst, small, true),
        Err("Bitmaps are of different sizes (destination size is 4194304, source size is 4193792) and can't be merged"
            .into())
    );
    assert_eq!(
        node.merge_local(dst, busy, true),
        Err("Bitmap 'busy' is currently in use by another operation and cannot be used".into())
    );
    assert_eq!(node.merge_local(readonly, dst, true), Err("Bitmap 'ro' is readonly and cannot be modified".into()));
    assert!(node.merge_local(dst, readonly, false).is_ok());
    assert!(node.has_readonly() && node.has_named());
}

/// `bitmap-mode=always` after a cancel: abdicate, then add what was not copied. The numbers were seen in QEMU.
#[test]
fn always_mode_after_a_cancel() {
    let mut node = node();
    let id = add(&mut node, "b");
    node.set_dirty(0, 4 * G);
    let mut copy = HBitmap::new(SIZE, G);
    copy.merge_from(node.get(id).unwrap().bitmap());
    node.create_successor(id, SIZE).unwrap();
    node.set_dirty(20 * G, 512);
    copy.reset(0, 2 * G);
    let mut kept = node.clone();
    kept.reclaim(id).unwrap();
    assert_eq!(kept.query().next().unwrap().count, 327_680);
    let child = node.abdicate(id).unwrap();
    node.merge_internal(child, &copy);
    assert_eq!(node.query().next().unwrap().count, 196_608);
}

#[test]
fn resizing_reaches_every_bitmap() {
    let mut node = node();
    add(&mut node, "a");
    node.add_anonymous(SIZE, 512);
    node.set_dirty(0, SIZE);
    node.truncate(G + 1);
    assert_eq!(show(&node), ["- 129 recording", "a 2 recording"]);
    node.release_named();
    assert_eq!(show(&node), ["- 129 recording"]);
    node.iter_mut().for_each(|map| map.set_enabled(false));
    node.set_dirty(0, SIZE);
    assert!(!node.has_named() && !node.is_empty());
}

/// Two bitmaps of one node have different sizes where the node got another one and nobody told them; QEMU aborts then.
#[test]
#[should_panic(
    expected = "hbitmap_merge: b->orig_size == result->orig_size, which is 200000 there (docs/findings/bitmap-of-another-size.md)"
)]
fn bitmaps_of_different_sizes_are_not_merged() {
    HBitmap::new(100_000, 4096).merge_from(&HBitmap::new(200_000, 4096));
}

#[test]
#[should_panic(expected = "hbitmap_set: last < hb->size, with 98304+8192 (docs/findings/bitmap-of-another-size.md)")]
fn nothing_is_set_behind_the_last_granule() {
    let mut bits = HBitmap::new(100_000, 4096);
    bits.set(98_304, 4096);
    bits.set(98_304, 8192);
}
