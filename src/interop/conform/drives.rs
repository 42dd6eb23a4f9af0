//! The disks of random programs: their images, what is in them, and the nodes over them, with rules for blkdebug now and then.

use super::program::{Draw, K, M, ProgramKind};
use crate::scenario::plan::{Backing, FileOp, ImageFormat, Qcow2Options, WriteData};

impl Draw {
    fn create(&mut self, file: &str, format: ImageFormat, size: Option<u64>, backing: Option<(&str, ImageFormat)>) {
        let cluster_size = match format {
            ImageFormat::Qcow2 if self.one_in(4) => Some(self.pick(&[512, 4 * K, 16 * K, 128 * K, 2 * M])),
            _ => None,
        };
        let compat_v3 = (format == ImageFormat::Qcow2 && self.one_in(12)).then_some(false);
        self.files.push(FileOp::Create {
            file: file.into(),
            format,
            size,
            options: Qcow2Options { cluster_size, compat_v3, lazy_refcounts: None },
            backing: backing.map(|(file, format)| Backing { file: file.into(), format }),
        });
    }

    fn fill(&mut self, file: &str, format: ImageFormat, size: u64) {
        for _ in 0..self.below(4) {
            let offset = u64::from(self.below(u32::try_from(size / 65_536).unwrap_or(1))) * 65_536;
            let length = self.pick(&[512, 4 * K, 64 * K, 100 * K, 256 * K, M]).min(size - offset);
            if length > 0 {
                let data = match self.below(8) {
                    0 => WriteData::Zero,
                    n => WriteData::Pattern(0x10 + n as u8),
                };
                self.files.push(FileOp::Write { file: file.into(), format, offset, length: length / 512 * 512, data });
            }
        }
    }

    pub(super) fn drives(&mut self) {
        let drives = 1 + self.below(3);
        for n in 0..drives {
            let raw = self.one_in(6);
            let format = if raw { ImageFormat::Raw } else { ImageFormat::Qcow2 };
            let word = if raw { "raw" } else { "qcow2" };
            let size = self.pick(&[64 * K, 640 * K, M, 2 * M, 4 * M, 100 * K, 3 * M + 512]);
            self.sizes.push(size);
            let file = format!("d{n}.img");
            if !raw && self.one_in(3) {
                let mut below: Option<String> = None;
                for level in (1..self.below(4)).rev() {
                    let file = format!("base{n}.{level}.img");
                    self.create(
                        &file,
                        ImageFormat::Qcow2,
                        Some(size),
                        below.as_deref().map(|f| (f, ImageFormat::Qcow2)),
                    );
                    self.fill(&file, ImageFormat::Qcow2, size);
                    below = Some(file);
                }
                let base = format!("base{n}.img");
                let base_size = if self.one_in(3) { size / 1024 * 512 } else { size };
                let lower = below.as_deref().map(|file| (file, ImageFormat::Qcow2));
                self.create(&base, ImageFormat::Qcow2, Some(base_size.max(64 * K)), lower);
                self.fill(&base, ImageFormat::Qcow2, base_size.max(64 * K));
                self.create(&file, format, Some(size), Some((&base, ImageFormat::Qcow2)));
            } else {
                self.create(&file, format, Some(size), None);
            }
            self.fill(&file, format, size);
            let target = format!("t{n}.img");
            let target_raw = self.one_in(5);
            let target_format = if target_raw { ImageFormat::Raw } else { ImageFormat::Qcow2 };
            let target_size = if self.one_in(10) { size + 64 * K } else { size };
            self.create(&target, target_format, Some(target_size), None);
            let faults = self.faults(n);
            if n == 0 || self.one_in(2) {
                let option = match &faults {
                    Some(_) => format!("if=none,id=drive{n},file={file},format={word},node-name=n{n}"),
                    None if self.one_in(4) => {
                        format!("if=none,id=drive{n},file={file},format={word},node-name=n{n},discard=unmap")
                    }
                    None => format!("if=none,id=drive{n},file={file},format={word},node-name=n{n}"),
                };
                self.args.push("-drive".into());
                self.args.push(option.into());
            } else {
                let under = match faults {
                    Some(rules) => format!(
                        r#"{{"driver": "blkdebug", "image": {{"driver": "file", "filename": "{file}"}}, {rules}}}"#
                    ),
                    None => format!(r#"{{"driver": "file", "filename": "{file}"}}"#),
                };
                self.args.push("-blockdev".into());
                self.args.push(format!(r#"{{"driver": "{word}", "node-name": "n{n}", "file": {under}}}"#).into());
            }
            let word = if target_raw { "raw" } else { "qcow2" };
            let file = match self.faults(n) {
                Some(rules) => format!(
                    r#"{{"driver": "blkdebug", "image": {{"driver": "file", "filename": "{target}"}}, {rules}}}"#
                ),
                None => format!(r#"{{"driver": "file", "filename": "{target}"}}"#),
            };
            self.args.push("-blockdev".into());
            self.args.push(format!(r#"{{"driver": "{word}", "node-name": "t{n}", "file": {file}}}"#).into());
        }
    }

    /// Rules for blkdebug, now and then.
    fn faults(&mut self, _drive: u32) -> Option<String> {
        if self.kind != ProgramKind::Faulty || self.one_in(2) {
            return None;
        }
        let event = self.pick(&[
            "read_aio",
            "write_aio",
            "l2_load",
            "l2_update",
            "l1_update",
            "cluster_alloc",
            "refblock_update",
            "flush_to_disk",
            "pwritev",
            "cow_write",
            "cow_read",
            "none",
            "read_backing_aio",
            "pwritev_zero",
            "flush_to_os",
        ]);
        let errno = self.pick(&[5, 28, 5, 1, 12]);
        let once = self.one_in(2);
        let immediately = self.one_in(4);
        let mut rule = format!(r#""event": "{event}", "errno": {errno}, "once": {once}, "immediately": {immediately}"#);
        let mut more = String::new();
        if self.one_in(3) {
            let arm = self.pick(&["flush_to_disk", "read_aio", "write_aio", "cluster_alloc"]);
            rule.push_str(r#", "state": 2"#);
            more = format!(r#", "set-state": [{{"event": "{arm}", "state": 1, "new_state": 2}}]"#);
        }
        if self.one_in(4) {
            let kind = self.pick(&["read", "write", "write-zeroes", "discard", "flush", "block-status"]);
            rule.push_str(&format!(r#", "iotype": "{kind}""#));
        }
        if self.one_in(6) {
            let sector = self.pick(&[0, 128, 640, 1024]);
            rule.push_str(&format!(r#", "sector": {sector}"#));
        }
        Some(format!(r#""inject-error": [{{{rule}}}]{more}"#))
    }
}
