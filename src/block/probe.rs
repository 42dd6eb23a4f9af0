//! What the first bytes of an image say of its format (`bdrv_probe_all`).

/// How much of an image is looked at where a raw node is written to (`BLOCK_PROBE_BUF_SIZE`).
pub const PROBE_SIZE: u64 = 512;

/// The text that an image of cloop begins with.
const CLOOP: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

/// The name of the format; `raw` where it is none that is known.
#[must_use]
pub fn probe(head: &[u8]) -> &'static str {
    let at = |offset: usize, len: usize| head.get(offset..offset + len).unwrap_or_default();
    let big = |offset: usize| at(offset, 4).iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
    let little = |offset: usize| at(offset, 4).iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
    match at(0, 4) {
        b"QFI\xfb" if big(4) == 1 => return "qcow",
        b"QFI\xfb" if big(4) >= 2 => return "qcow2",
        b"QED\0" => return "qed",
        b"KDMV" | b"COWD" => return "vmdk",
        _ => {}
    }
    let parallels = matches!(at(0, 16), b"WithoutFreeSpace" | b"WithouFreSpacExt") && little(16) == 2;
    let bochs = at(0, 22) == b"Bochs Virtual HD Image" && at(32, 7) == b"Redolog" && at(48, 7) == b"Growing";
    if little(0x40) == 0xbeda_107f {
        "vdi"
    } else if at(0, 8) == b"conectix" {
        "vpc"
    } else if at(0, 8) == b"vhdxfile" {
        "vhdx"
    } else if at(0, 8) == b"LUKS\xba\xbe\0\x01" {
        "luks"
    } else if parallels {
        "parallels"
    } else if bochs && matches!(little(64), 0x0001_0000 | 0x0002_0000) {
        "bochs"
    } else if head.starts_with(CLOOP) {
        "cloop"
    } else if describes_vmdk(head) {
        "vmdk"
    } else {
        "raw"
    }
}

/// A vmdk may be a text: after remarks and empty lines, it begins with its version.
fn describes_vmdk(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.find(|line| !line.starts_with(b"#") && line.iter().any(|byte| *byte != b' '));
    head.first() == Some(&b'#') && matches!(first, Some(b"version=1" | b"version=2" | b"version=3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let mut vdi = [0; 512];
        vdi[0x40..0x44].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
        assert_eq!(probe(&vdi), "vdi");
        assert_eq!(probe(b"QFI\xfb\0\0\0\x01"), "qcow");
        assert_eq!(probe(b"QFI\xfb\0\0\0\x03"), "qcow2");
        assert_eq!(probe(b"QFI\xfb\0\0\0\0"), "raw");
        assert_eq!(probe(b"# Disk DescriptorFile\n\nversion=1\nCID=1\n"), "vmdk");
        assert_eq!(probe(b"conectix"), "vpc");
        assert_eq!(probe(b""), "raw");
    }
}
