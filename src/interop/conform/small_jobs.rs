//! Mirrors, commits, streams and snapshots in the programs of the second generator. Names are drawn from few, whether there is such a node, file
//! or job or not.

use super::program::{Draw, ProgramKind};

impl Draw {
    /// A command about these jobs, or a snapshot.
    pub(super) fn job_of_a_chain(&mut self) {
        match self.below(12) {
            0..=2 => self.mirror(),
            3 | 4 => self.commit(),
            5 | 6 => self.stream(),
            7 | 8 => self.snapshot(),
            9 => self.change_or_complete(),
            10 => self.link(),
            _ => {
                let id = self.job_id();
                self.qmp(&format!(r#"{{"execute": "job-complete", "arguments": {{"id": "{id}"}}}}"#));
            }
        }
    }

    /// A drive by its device, by its node, or by an overlay that it may have.
    fn top(&mut self) -> String {
        let n = self.drive();
        match self.below(8) {
            0..=2 => format!("drive{n}"),
            3..=5 => format!("n{n}"),
            _ => self.pick(&["s0", "s1", "m0"]).to_owned(),
        }
    }

    /// A file that may be in a chain.
    fn layer(&mut self) -> String {
        let n = self.drive();
        match self.below(6) {
            0 | 1 => format!("base{n}.img"),
            2 => format!("base{n}.1.img"),
            3 => format!("base{n}.2.img"),
            4 => format!("d{n}.img"),
            _ => format!("snap{}.img", self.below(3)),
        }
    }

    /// `by_hand`: it may have to be finalised. A mirror or an active commit keeps its source drained until then, and a request of the guest waits.
    fn common(&mut self, by_hand: bool) -> String {
        let id = self.job_id();
        let mut more = format!(r#""job-id": "{id}""#);
        if self.one_in(4) {
            let speed = match self.kind {
                ProgramKind::Faulty => self.pick(&[-1i64, 0, 65536, 1 << 40]),
                _ => self.pick(&[65536, 262_144, 0]),
            };
            more.push_str(&format!(r#", "speed": {speed}"#));
        }
        if by_hand && self.one_in(5) {
            more.push_str(r#", "auto-finalize": false"#);
        }
        if self.one_in(10) {
            more.push_str(r#", "filter-node-name": "filter""#);
        }
        more
    }

    fn send(&mut self, name: &str, arguments: &str) {
        self.checked(&format!(r#"{{"execute": "{name}", "arguments": {{{arguments}}}}}"#));
    }

    fn mirror(&mut self) {
        let (device, mut more) = (self.top(), self.common(false));
        let sync = self.pick(&["full", "full", "top", "none"]);
        more.push_str(&format!(r#", "device": "{device}", "sync": "{sync}""#));
        if self.one_in(3) {
            let mode = self.pick(&["write-blocking", "background"]);
            more.push_str(&format!(r#", "copy-mode": "{mode}""#));
        }
        if self.one_in(5) {
            let granularity = match self.kind {
                ProgramKind::Faulty => self.pick(&[0, 3, 256, 512, 65536, 1 << 27]),
                _ => self.pick(&[512, 4096, 131_072]),
            };
            more.push_str(&format!(r#", "granularity": {granularity}"#));
        }
        if self.one_in(5) {
            let size = self.pick(&[1i64, 65536, 1 << 20, 0]);
            more.push_str(&format!(r#", "buf-size": {size}"#));
        }
        if self.one_in(5) {
            let error = self.pick(&["report", "stop", "enospc"]);
            let side = self.pick(&["source", "target"]);
            more.push_str(&format!(r#", "on-{side}-error": "{error}""#));
        }
        if self.one_in(10) {
            let node = self.pick(&["n0", "n1", "nope", "t0"]);
            more.push_str(&format!(r#", "replaces": "{node}""#));
        }
        if self.one_in(3) {
            more = more.replace(r#", "filter-node-name": "filter""#, "");
            self.added += 1;
            let number = self.added % 4;
            let mode = if self.one_in(5) { r#", "mode": "existing""# } else { "" };
            let node = if self.one_in(2) { r#", "node-name": "m0""# } else { "" };
            let format = if self.one_in(5) { "raw" } else { "qcow2" };
            more.push_str(&format!(r#", "target": "mirror{number}.img", "format": "{format}"{mode}{node}"#));
            return self.send("drive-mirror", &more);
        }
        let target = self.drive();
        more.push_str(&format!(r#", "target": "t{target}""#));
        self.send("blockdev-mirror", &more);
    }

    fn commit(&mut self) {
        let (device, mut more) = (self.top(), self.common(false));
        more.push_str(&format!(r#", "device": "{device}""#));
        for key in ["top", "base"] {
            match self.below(6) {
                0 | 1 => {
                    let file = self.layer();
                    more.push_str(&format!(r#", "{key}": "{file}""#));
                }
                2 => {
                    let node = self.top();
                    more.push_str(&format!(r#", "{key}-node": "{node}""#));
                }
                _ => {}
            }
        }
        if self.one_in(8) {
            let file = self.layer();
            more.push_str(&format!(r#", "backing-file": "{file}""#));
        }
        if self.one_in(6) {
            let error = self.pick(&["report", "stop", "enospc"]);
            more.push_str(&format!(r#", "on-error": "{error}""#));
        }
        self.send("block-commit", &more);
    }

    fn stream(&mut self) {
        let (device, mut more) = (self.top(), self.common(true));
        more.push_str(&format!(r#", "device": "{device}""#));
        match self.below(6) {
            0 | 1 => {
                let file = self.layer();
                more.push_str(&format!(r#", "base": "{file}""#));
            }
            2 => {
                let (key, node) = (self.pick(&["base-node", "bottom"]), self.top());
                more.push_str(&format!(r#", "{key}": "{node}""#));
            }
            _ => {}
        }
        if self.one_in(8) {
            let file = self.layer();
            more.push_str(&format!(r#", "backing-file": "{file}""#));
        }
        if self.one_in(6) {
            let error = self.pick(&["report", "stop", "enospc"]);
            more.push_str(&format!(r#", "on-error": "{error}""#));
        }
        self.send("block-stream", &more);
    }

    fn snapshot(&mut self) {
        let number = self.below(3);
        let n = self.drive();
        let node = self.pick(&["s0", "s1"]);
        let of = match self.below(4) {
            0 | 1 => format!(r#""device": "drive{n}""#),
            2 => format!(r#""node-name": "n{n}""#),
            _ => r#""node-name": "s0""#.to_owned(),
        };
        let named = if self.one_in(3) { String::new() } else { format!(r#", "snapshot-node-name": "{node}""#) };
        let mode = if self.one_in(8) { r#", "mode": "existing""# } else { "" };
        self.send(
            "blockdev-snapshot-sync",
            &format!(r#"{of}, "snapshot-file": "snap{number}.img", "format": "qcow2"{named}{mode}"#),
        );
    }

    fn change_or_complete(&mut self) {
        let id = self.job_id();
        if self.one_in(2) {
            let mode = self.pick(&["write-blocking", "write-blocking", "background"]);
            return self.send("block-job-change", &format!(r#""id": "{id}", "type": "mirror", "copy-mode": "{mode}""#));
        }
        self.send("block-job-complete", &format!(r#""device": "{id}""#));
    }

    /// The link below a node is asked for something else.
    fn link(&mut self) {
        let (device, node, file) = (self.top(), self.top(), self.layer());
        self.send(
            "change-backing-file",
            &format!(r#""device": "{device}", "image-node-name": "{node}", "backing-file": "{file}""#),
        );
    }
}
