//! Commands of the human monitor other than `qemu-io`: the guest's state, what block devices and jobs there are, steering jobs
//! (`block/monitor/block-hmp-cmds.c`, `monitor/hmp-cmds.c`).

use crate::base::Json;
use crate::qmp::command::{Command, parse_command};
use crate::qmp::error::QmpError;
use crate::qmp::hmp::args::HmpArgs;
use crate::qmp::hmp::{self, HmpLine, error_reply, report_reply};
use crate::qmp::recorded;
use crate::version::Version;
use crate::world::World;
use crate::world::block::backend::BackendFrame;
use crate::world::block::open::unsupported::not_simulated;
use crate::world::block::perms::perm;
use crate::world::blockdev::JOB_COMMANDS;
use crate::world::frame::{Flow, Frame};
use crate::world::job::commands::HmpJobCommand;
use crate::world::monitor::qemu_io::QemuIoFrame;
use crate::world::system::boot::device_options;
use crate::world::value::Val;
use std::fmt::Write as _;
use std::sync::Arc;

/// `BlockdevChangeReadOnlyMode`
const READ_ONLY_MODES: [&str; 3] = ["retain", "read-only", "read-write"];

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum HmpFrame {
    /// The end of a QMP command that the human monitor ran.
    HmpDone,
}

impl HmpFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            HmpFrame::HmpDone => w.hmp_done(),
        }
    }
}

impl World {
    /// Runs a command by its full name. Leaves `Val::Json`.
    fn hmp_command(&mut self, name: &'static str, args: &HmpArgs) -> Flow {
        let device = args.text("device").unwrap_or_default();
        if let Some(text) = self.hmp_info(name) {
            return self.ret(Val::Json(text.map(Json::from)));
        }
        let text = match name {
            "commit" => return self.hmp_commit(device),
            "info block" if args.on("verbose") => return self.ret(Val::Json(Err(not_simulated("info block -v")))),
            "info block" => self.info_block(args.on("nodes"), args.text("device")),
            "info block-jobs" => self.info_block_jobs(),
            "info blockstats" => self.info_blockstats(),
            "help" => help(self.quirks.version(), args.text("name").unwrap_or_default()),
            "info" => help(self.quirks.version(), "info"),
            "info name" => self.machine.name.as_deref().map(report_reply).unwrap_or_default(),
            "info version" => report_reply(&self.quirks.version().full()),
            "object_add" => match self.add_object(args.text("object").unwrap_or_default(), false) {
                Ok(()) => String::new(),
                Err(text) => error_reply(&text),
            },
            "drive_add" => return self.hmp_drive_add(args.on("node"), args.text("opts").unwrap_or_default()),
            "drive_del" => return self.hmp_drive_del(args.text("id").unwrap_or_default()),
            "nbd_server_start" => return self.hmp_nbd_server_start(args),
            _ => {
                return match self.command_of(name, args) {
                    Ok(command) => self.hmp_run(command),
                    Err(err) => self.ret(Val::Json(Ok(error_reply(&err.desc).into()))),
                };
            }
        };
        self.ret(Val::Json(Ok(text.into())))
    }

    /// The QMP command that does what a command of the human monitor says.
    fn command_of(&self, name: &str, args: &HmpArgs) -> Result<Command, QmpError> {
        let text = |key: &str| args.text(key).unwrap_or_default();
        let device: Arc<str> = text("device").into();
        Ok(match name {
            "quit" => Command::Quit,
            "stop" => Command::Stop,
            "cont" => Command::Cont,
            "system_reset" => Command::SystemReset,
            "block_job_cancel" => Command::BlockJobCancel { device, force: Some(args.on("force")) },
            "block_job_pause" => Command::BlockJobPause { device },
            "block_job_resume" => Command::BlockJobResume { device },
            "block_job_complete" => Command::BlockJobComplete { device },
            "block_job_set_speed" => Command::BlockJobSetSpeed { device, speed: args.int("speed").unwrap_or_default() },
            "block_resize" => {
                let size = args.int("size").unwrap_or_default();
                Command::BlockResize { device: Some(device), node_name: None, size }
            }
            "change" if args.text("read-only-mode").is_some_and(|mode| !READ_ONLY_MODES.contains(&mode)) => {
                return Err(QmpError::generic(format!("invalid parameter value: {}", text("read-only-mode"))));
            }
            "device_add" => Command::DeviceAdd { options: device_options(&device)?, texts: true },
            other => return parse_command(&qmp_name(other), &self.qmp_arguments(other, args), self.quirks.version()),
        })
    }

    /// The arguments of the QMP command, where the two differ in more than in how they are written.
    fn qmp_arguments(&self, name: &str, args: &HmpArgs) -> Json {
        let device = args.text("device").unwrap_or_default();
        let given = |key: &'static str, from: &str| args.text(from).map(|text| (key, Json::str(text)));
        let mut members: Vec<(&'static str, Json)> = Vec::new();
        match name {
            "nbd_server_stop" => {}
            "nbd_server_add" => {
                members.extend([("device", Json::str(device)), ("writable", args.on("writable").into())]);
                members.extend(given("name", "name"));
            }
            "nbd_server_remove" => {
                members.extend(given("name", "name"));
                members.extend(args.on("force").then_some(("mode", "hard".into())));
            }
            "device_del" | "object_del" => members.extend(given("id", "id")),
            "eject" => members.extend([("device", Json::str(device)), ("force", args.on("force").into())]),
            "change" => {
                members.extend([("device", Json::str(device)), ("force", args.on("force").into())]);
                members.extend(given("filename", "target"));
                members.extend(given("format", "arg"));
                members.extend(given("read-only-mode", "read-only-mode"));
            }
            "snapshot_blkdev" => {
                let mode = if args.on("reuse") { "existing" } else { "absolute-paths" };
                members.extend([("device", Json::str(device)), ("mode", mode.into())]);
                members.extend(given("snapshot-file", "snapshot-file"));
                members.extend(given("format", "format"));
            }
            "block_set_io_throttle" => {
                // A drive by its name, or a guest device by its id.
                let key = if self.graph.blk_by_name(device).is_some() { "device" } else { "id" };
                members.push((key, Json::str(device)));
                let limits = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
                members.extend(limits.map(|key| (key, Json::Int(args.int(key).unwrap_or_default()))));
            }
            other => match starts_job(other) {
                Some(command) => members = (command.arguments)(args),
                None => unreachable!("{other} has no arguments of its own"),
            },
        }
        Json::dict(members)
    }

    /// Runs a QMP command for the human monitor.
    fn hmp_run(&mut self, command: Command) -> Flow {
        self.push(HmpFrame::HmpDone.into());
        self.run_command(0, command)
    }

    /// `hmp_nbd_server_start`
    fn hmp_nbd_server_start(&mut self, args: &HmpArgs) -> Flow {
        self.push(HmpFrame::HmpDone.into());
        self.nbd_server_start_hmp(args.text("uri").unwrap_or_default(), args.on("all"), args.on("writable"))
    }

    /// What the human monitor says of a QMP command that has ended.
    fn hmp_done(&mut self) -> Flow {
        let mut text = self.take_val().error().map(|err| error_reply(&err.desc)).unwrap_or_default();
        if let Some(hint) = self.lock_hint(text.trim_end(), "") {
            text.push_str(&report_reply(&hint));
        }
        self.ret(Val::Json(Ok(text.into())))
    }

    /// `hmp_info_block`: devices; then nodes, if they are asked for or a name is none of a device.
    fn info_block(&self, nodes: bool, wanted: Option<&str>) -> String {
        let (mut out, mut printed) = (String::new(), false);
        let mut print = |list: &Json, key: &str, show: &dyn Fn(&Json, &mut String)| {
            for (i, item) in list.as_list().unwrap_or_default().iter().enumerate() {
                let name = item.get(key).and_then(Json::as_str).unwrap_or_default();
                if wanted.is_some_and(|wanted| name != wanted) {
                    continue;
                }
                if i > 0 {
                    out.push_str("\r\n");
                }
                show(item, &mut out);
                printed = true;
            }
            printed
        };
        let device = |item: &Json, out: &mut String| print_block_info(Some(item), item.get("inserted"), out);
        let done =
            !nodes && (print(&self.query_block(false).unwrap_or(Json::Null), "device", &device) || wanted.is_none());
        if !done {
            let node = |item: &Json, out: &mut String| print_block_info(None, Some(item), out);
            print(&self.query_named_block_nodes(false).unwrap_or(Json::Null), "node-name", &node);
        }
        out
    }

    /// `hmp_info_block_jobs`
    fn info_block_jobs(&self) -> String {
        let jobs = self.query_block_jobs();
        let jobs = jobs.as_list().unwrap_or_default();
        if jobs.is_empty() {
            return report_reply("No active jobs");
        }
        let mut out = String::new();
        for job in jobs {
            let text = |key: &str| job.get(key).and_then(Json::as_str).unwrap_or_default();
            let number = |key: &str| job.get(key).and_then(Json::as_u64).unwrap_or_default();
            let (offset, len, speed) = (number("offset"), number("len"), number("speed"));
            let done =
                format!("device {}: Completed {offset} of {len} bytes, speed limit {speed} bytes/s", text("device"));
            let word =
                JOB_COMMANDS.iter().filter_map(|of_type| of_type.listed_as).find(|(name, _)| *name == text("type"));
            let line = match word {
                Some((_, word)) => format!("{word} {done}"),
                None => format!("Type {}, {done}", text("type")),
            };
            out.push_str(&report_reply(&line));
        }
        out
    }

    /// `hmp_info_blockstats`
    fn info_blockstats(&self) -> String {
        const SHOWN: [&str; 11] = [
            "rd_bytes",
            "wr_bytes",
            "rd_operations",
            "wr_operations",
            "flush_operations",
            "wr_total_time_ns",
            "rd_total_time_ns",
            "flush_total_time_ns",
            "rd_merged",
            "wr_merged",
            "idle_time_ns",
        ];
        let mut out = String::new();
        for device in self.query_blockstats(false).as_list().unwrap_or_default() {
            let _ = write!(out, "{}:", device.get("device").and_then(Json::as_str).unwrap_or_default());
            for key in SHOWN {
                let number = device.get("stats").and_then(|stats| stats.get(key)).and_then(Json::as_u64);
                let _ = write!(out, " {key}={}", number.unwrap_or_default());
            }
            out.push_str("\r\n");
        }
        out
    }

    /// `qmp_human_monitor_command`. Leaves `Val::Json`.
    pub(super) fn human_monitor_command(&mut self, line: &str) -> Flow {
        let give = |w: &mut World, text: &str| w.ret(Val::Json(Ok(Json::str(text))));
        match hmp::parse(line) {
            HmpLine::Blank => give(self, ""),
            HmpLine::Refused(refusal) => {
                self.console_raw(&refusal.stdout);
                give(self, &refusal.reply)
            }
            HmpLine::NotSimulated(name) => {
                self.ret(Val::Json(Err(crate::world::block::open::unsupported::not_simulated(&name))))
            }
            HmpLine::Other { name, args } => self.hmp_command(name, &args),
            HmpLine::QemuIo { qdev: true, device, command } => match self.blk_by_qdev_id(&device) {
                Ok(blk) => self.seq([QemuIoFrame::QemuIo { blk, command: command.into() }.into()]),
                Err(err) => give(self, &hmp::error_reply(&err.desc)),
            },
            HmpLine::QemuIo { device, command, .. } => {
                let command: Arc<str> = command.into();
                if let Some(blk) = self.graph.blk_by_name(&device) {
                    return self.seq([QemuIoFrame::QemuIo { blk, command }.into()]);
                }
                let Some(bs) = self.graph.find_node(&device) else {
                    let reply = hmp::error_reply(&hmp::no_such_node(&device));
                    return give(self, &reply);
                };
                let blk = self.blk_new("".into(), 0, perm::ALL);
                self.seq([
                    BackendFrame::BlkInsertBs(blk, bs).into(),
                    QemuIoFrame::QemuIoAttached { blk, command }.into(),
                    Frame::KeepOver(Box::new(BackendFrame::BlkUnref(blk).into())),
                ])
            }
        }
    }
}

/// The row of a command that starts a job.
fn starts_job(name: &str) -> Option<&'static HmpJobCommand> {
    JOB_COMMANDS.iter().flat_map(|of_type| of_type.hmp).find(|command| command.name == name)
}

/// The name in QMP of a command that has one.
fn qmp_name(name: &str) -> String {
    match name {
        "change" => "blockdev-change-medium".to_owned(),
        "snapshot_blkdev" => "blockdev-snapshot-sync".to_owned(),
        "nbd_server_add" | "nbd_server_remove" | "nbd_server_stop" | "object_del" => name.replace('_', "-"),
        job if starts_job(job).is_some() => job.replace('_', "-"),
        other => other.to_owned(),
    }
}

/// `print_block_info`
fn print_block_info(info: Option<&Json>, inserted: Option<&Json>, out: &mut String) {
    let text = |json: Option<&Json>, key: &str| {
        json.and_then(|json| json.get(key)).and_then(Json::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let is = |json: Option<&Json>, key: &str| json.and_then(|json| json.get(key)).and_then(Json::as_bool) == Some(true);
    let node = text(inserted, "node-name");
    match (text(info, "device"), node) {
        (Some(device), Some(node)) => drop(write!(out, "{device} ({node})")),
        (Some(name), None) | (None, Some(name)) => out.push_str(&name),
        (None, None) => out.push_str(&text(info, "qdev").unwrap_or_else(|| "<anonymous>".to_owned())),
    }
    match inserted {
        None => out.push_str(": [not inserted]\r\n"),
        Some(_) => {
            let (file, drv) = (text(inserted, "file").unwrap_or_default(), text(inserted, "drv").unwrap_or_default());
            let read_only = if is(inserted, "ro") { ", read-only" } else { "" };
            let active = inserted.and_then(|node| node.get("active")).and_then(Json::as_bool);
            let inactive = if active == Some(false) { ", inactive" } else { "" };
            let _ = write!(out, ": {file} ({drv}{read_only}{inactive})\r\n");
        }
    }
    if let Some(qdev) = text(info, "qdev") {
        let _ = write!(out, "    Attached to:      {qdev}\r\n");
    }
    if is(info, "removable") {
        let (locked, tray) = (is(info, "locked"), is(info, "tray_open"));
        let (locked, tray) = (if locked { "" } else { "not " }, if tray { "open" } else { "closed" });
        let _ = write!(out, "    Removable device: {locked}locked, tray {tray}\r\n");
    }
    let Some(node) = inserted else { return };
    let cache = node.get("cache");
    let _ = write!(
        out,
        "    Cache mode:       {}{}{}\r\n",
        if is(cache, "writeback") { "writeback" } else { "writethrough" },
        if is(cache, "direct") { ", direct" } else { "" },
        if is(cache, "no-flush") { ", ignore flushes" } else { "" },
    );
    if let Some(backing) = text(inserted, "backing_file") {
        let depth = node.get("backing_file_depth").and_then(Json::as_u64).unwrap_or_default();
        let _ = write!(out, "    Backing file:     {backing} (chain depth: {depth})\r\n");
    }
    if let Some(mode) = text(inserted, "detect_zeroes").filter(|mode| mode != "off") {
        let _ = write!(out, "    Detect zeroes:    {mode}\r\n");
    }
    print_throttling(node, out);
}

/// The limits of a drive, if there are any.
fn print_throttling(node: &Json, out: &mut String) {
    const LIMITS: [&str; 6] = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
    let number = |key: &str| node.get(key).and_then(Json::as_u64).unwrap_or_default();
    if LIMITS.iter().all(|key| number(key) == 0) {
        return;
    }
    out.push_str("    I/O throttling:  ");
    for half in LIMITS.chunks(3) {
        for suffix in ["", "_max"] {
            for key in half {
                let _ = write!(out, " {key}{suffix}={}", number(&format!("{key}{suffix}")));
            }
        }
    }
    let group = node.get("group").and_then(Json::as_str).unwrap_or_default();
    let _ = write!(out, " iops_size={} group={group}\r\n", number("iops_size"));
}

/// `hmp_help_cmd`: all commands, those of that name, or the items of `info`; a command may stand there with its aliases.
fn help(version: Version, name: &str) -> String {
    let of = |key: &str| match recorded::answer(version, key) {
        Some(Ok(Json::Str(text))) => text.to_string(),
        other => unreachable!("{key} is recorded as a text, not as {other:?}"),
    };
    let (first, item) = name.trim().split_once(' ').unwrap_or((name.trim(), ""));
    let lines = |text: String, is: &dyn Fn(&str) -> bool| -> String {
        text.split_inclusive('\n').filter(|line| is(line)).collect()
    };
    match (first, item) {
        ("", _) => of("hmp help"),
        ("info", "") => of("hmp info"),
        ("info", item) => lines(of("hmp info"), &|line| line.split(' ').nth(1) == Some(item)),
        (command, _) => {
            let is = |line: &str| line.split(' ').next().is_some_and(|names| names.split('|').any(|n| n == command));
            let found = lines(of("hmp help"), &is);
            if found.is_empty() { report_reply(&format!("unknown command: '{command}'")) } else { found }
        }
    }
}
