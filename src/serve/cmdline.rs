//! QEMU's command line: what is to be made of it, before anything is opened (`system/vl.c:qemu_init`).

use super::chardev::{self, Chardev, ChardevKind};
use super::help;
use super::options::{self, OptionMeaning};
use super::sim_options::SimOptions;
use crate::qmp::drive::split_options;
use crate::qmp::names::is_device_model;
use crate::qmp::recorded;
use crate::version::Version;
use crate::world::system::board::Board;
use std::path::Path;
use std::sync::Arc;

/// What kind of monitor listens at a character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChardevMode {
    /// `control`: QMP.
    Control {
        /// On several lines.
        pretty: bool,
    },
    /// `readline`: the human monitor.
    Readline,
    /// qtest's protocol.
    Qtest,
    /// Nobody: what comes in is thrown away.
    Nobody,
}

/// Somebody who uses a character device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name of the device.
    pub chardev: String,
    /// Who.
    pub mode: ChardevMode,
    /// The option, for messages.
    pub option: String,
}

/// `-add-fd`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddFd {
    /// `fd=` of `-add-fd`: its number in this process.
    pub fd: i32,
    /// The set it goes to.
    pub set: i64,
    /// What clients see of it.
    pub opaque: Option<String>,
    /// The option, for messages.
    pub option: String,
}

/// All that a command line asks for.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What messages begin with.
    pub program: String,
    /// Character devices, in order.
    pub chardevs: Vec<Chardev>,
    /// Who uses them.
    pub users: Vec<User>,
    /// Descriptors for `/dev/fdset`.
    pub fds: Vec<AddFd>,
    /// The block options, as [`crate::world::World::boot`] takes them.
    pub block: Vec<Arc<str>>,
    /// `-S`: the guest does not run at first.
    pub stopped: bool,
    /// `-name`
    pub name: Option<String>,
    /// `-uuid`
    pub uuid: Option<String>,
    /// `-qtest-log`
    pub qtest_log: Option<String>,
    /// `-pidfile`
    pub pidfile: Option<String>,
    /// `-daemonize`
    pub daemonize: bool,
    /// This is the process that `-daemonize` leaves behind.
    pub daemon_child: bool,
    /// How the world is run.
    pub sim: SimOptions,
}

/// What to do.
#[derive(Debug)]
pub enum Invocation {
    /// To serve.
    Serve(Box<Config>),
    /// To print this and be done.
    Print(String),
}

/// What `-nodefaults`, `-nographic` and the like come to in the end.
#[derive(Debug, Default)]
struct Defaults {
    nodefaults: bool,
    nographic: bool,
    monitor_given: bool,
    serial_given: bool,
    accel_given: bool,
}

/// The version that is asked for: by the option, wherever it stands, as `-version` may stand before it; or by the name of the program.
fn version(program: &str, args: &[String]) -> Result<Option<Version>, String> {
    let words = args.iter().map(|arg| arg.trim_start_matches('-').trim_start_matches("sim-"));
    let option =
        words.zip(args.iter().skip(1)).find(|(word, _)| *word == "qemu-version").map(|(_, value)| value.as_str());
    let inline = || args.iter().find_map(|arg| arg.trim_start_matches('-').strip_prefix("qemu-version="));
    match option.or_else(inline) {
        Some(text) => text.parse().map(Some).map_err(|why| format!("--qemu-version: {why}")),
        None => Version::of_program(program),
    }
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// What is wrong, in QEMU's words, without the program's name.
pub fn parse(program: &str, args: &[String]) -> Result<Invocation, String> {
    let mut parser = CommandLine {
        config: Config { program: program.to_owned(), ..Config::default() },
        defaults: Defaults::default(),
    };
    let version = version(program, args)?;
    parser.config.sim.quirks = parser.config.sim.quirks.of(version);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(name) = arg.strip_prefix('-').filter(|name| !name.is_empty()) else {
            parser.disk(arg)?;
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if name == super::daemon::CHILD {
            parser.config.daemon_child = true;
            continue;
        }
        let sim = name.strip_prefix("sim-").or(name.starts_with("qemu-version").then_some(name));
        if let Some(sim) = sim {
            let (key, inline) = sim.split_once('=').map_or((sim, None), |(key, value)| (key, Some(value)));
            let mut value = || {
                let next = inline.map(str::to_owned).or_else(|| rest.next().cloned());
                next.ok_or_else(|| "requires an argument".to_owned())
            };
            let taken = parser
                .config
                .sim
                .take(key, &mut value)
                .map_err(|why| format!("{}: {why}", arg.split('=').next().unwrap_or(arg)))?;
            if taken {
                continue;
            }
        }
        let Some(known) = options::find(name) else { return Err(format!("{arg}: invalid option")) };
        let value = match known.argument {
            true => rest.next().ok_or_else(|| format!("{arg}: requires an argument"))?,
            false => "",
        };
        let shown = if known.argument { format!("{arg} {value}") } else { arg.clone() };
        match known.meaning {
            OptionMeaning::Accepted => {}
            OptionMeaning::Lacking => return Err(format!("{shown}: not simulated: -{}", known.name)),
            OptionMeaning::Done => {
                if let Some(text) = help::text(program, known.name, value, parser.config.sim.quirks.version()) {
                    return Ok(Invocation::Print(text));
                }
                parser.option(known.name, value, &shown)?;
            }
        }
    }
    parser.finish()
}

struct CommandLine {
    config: Config,
    defaults: Defaults,
}

impl CommandLine {
    fn option(&mut self, name: &'static str, value: &str, shown: &str) -> Result<(), String> {
        let at = |why: String| format!("{shown}: {why}");
        match name {
            "S" => self.config.stopped = true,
            "nodefaults" => self.defaults.nodefaults = true,
            "nographic" => self.defaults.nographic = true,
            "name" => self.config.name = guest_name(value),
            "uuid" => self.config.uuid = Some(value.to_owned()),
            "pidfile" => self.config.pidfile = Some(value.to_owned()),
            "machine" | "M" => {
                machine(value, self.config.sim.quirks.version())?;
                self.config.block.push("-machine".into());
                self.config.block.push(value.into());
                if let Some((_, accel)) = split_options(value).into_iter().find(|(key, _)| key == "accel") {
                    self.accel(&accel, false).map_err(at)?;
                }
            }
            "accel" => self.accel(value, true).map_err(at)?,
            "display" => {
                Self::display(value).map_err(at)?;
                self.board(name, value, shown)?;
            }
            "cpu" | "m" | "smp" | "spice" | "vnc" => self.board(name, value, shown)?,
            "enable-kvm" => self.accel("kvm", true)?,
            "daemonize" => self.config.daemonize = true,
            "chardev" => {
                let chardev = chardev::parse(value).map_err(at)?;
                self.add_chardev(chardev)?;
            }
            "mon" => self.mon(value, shown).map_err(at)?,
            "qmp" | "qmp-pretty" => {
                self.compat("compat_monitor", value, ChardevMode::Control { pretty: name == "qmp-pretty" }, shown)?;
            }
            "monitor" => {
                self.defaults.monitor_given = true;
                if value != "none" {
                    self.compat("compat_monitor", value, ChardevMode::Readline, shown)?;
                }
            }
            "serial" | "parallel" => {
                self.defaults.serial_given |= name == "serial";
                if let Some(rest) = value.strip_prefix("mon:") {
                    self.defaults.monitor_given = true;
                    self.compat("compat_monitor", rest, ChardevMode::Readline, shown)?;
                } else if value != "none" {
                    self.compat(name, value, ChardevMode::Nobody, shown)?;
                }
            }
            "qtest" => self.compat("qtest", value, ChardevMode::Qtest, shown)?,
            "qtest-log" => self.config.qtest_log = Some(value.to_owned()),
            "add-fd" => {
                let fd = add_fd(value, shown).map_err(at)?;
                self.config.fds.push(fd);
            }
            "hda" | "hdb" | "hdc" | "hdd" => {
                let index = name.as_bytes()[2] - b'a';
                self.drive(&format!("file={},index={index},media=disk", value.replace(',', ",,")));
            }
            "cdrom" => self.drive(&format!("file={},index=2,media=cdrom", value.replace(',', ",,"))),
            "blockdev" | "drive" | "device" | "object" => {
                if name == "device" {
                    device(value).map_err(at)?;
                }
                self.config.block.push(format!("-{name}").into());
                self.config.block.push(value.into());
            }
            "no-user-config" => {}
            other => unreachable!("-{other} is in the table and not carried out"),
        }
        Ok(())
    }

    fn drive(&mut self, options: &str) {
        self.config.block.push("-drive".into());
        self.config.block.push(options.into());
    }

    /// A bare file name is the first disk.
    fn disk(&mut self, file: &str) -> Result<(), String> {
        if file.is_empty() || file == "-" {
            return Err(format!("{file}: invalid option"));
        }
        self.drive(&format!("file={},index=0,media=disk", file.replace(',', ",,")));
        Ok(())
    }

    /// The first of those named that the host has: it is what `query-kvm` tells of. `-accel` may be given again, then the first counts.
    fn accel(&mut self, value: &str, option: bool) -> Result<(), String> {
        let names = value.split(',').next().unwrap_or_default();
        let names: Vec<&str> = names.strip_prefix("accel=").unwrap_or(names).split(':').collect();
        if let Some(other) = names.iter().find(|name| !["tcg", "kvm", "xen", "qtest"].contains(name)) {
            return Err(format!("invalid accelerator {other}"));
        }
        let usable = |name: &&&str| **name != "xen" && (**name != "kvm" || kvm_usable());
        let taken = names.iter().find(usable).or(names.last()).copied().unwrap_or_default();
        if option && self.defaults.accel_given {
            return Ok(());
        }
        self.defaults.accel_given |= option;
        self.config.block.push("-accel".into());
        self.config.block.push(taken.into());
        Ok(())
    }

    /// An option that only shows in queries.
    fn board(&mut self, name: &str, value: &str, shown: &str) -> Result<(), String> {
        let option = format!("-{name}");
        Board::default().option(&option, value).map_err(|why| format!("{shown}: {why}"))?;
        self.config.block.push(option.into());
        self.config.block.push(value.into());
        Ok(())
    }

    fn display(value: &str) -> Result<(), String> {
        let kind = value.split(',').next().unwrap_or_default();
        let kind = kind.strip_prefix("type=").unwrap_or(kind);
        match kind {
            "none" | "default" | "gtk" | "sdl" | "egl-headless" | "curses" | "spice-app" | "dbus" | "cocoa" => {}
            other => return Err(format!("Parameter 'type' does not accept value '{other}'")),
        }
        Ok(())
    }

    fn add_chardev(&mut self, chardev: Chardev) -> Result<(), String> {
        if self.config.chardevs.iter().any(|other| other.id == chardev.id) {
            return Err(format!("{}: Duplicate ID '{}' for chardev", chardev.option, chardev.id));
        }
        self.config.chardevs.push(chardev);
        Ok(())
    }

    fn mon(&mut self, value: &str, shown: &str) -> Result<(), String> {
        let mut options = split_options(value);
        let bare = value.split([',', '=']).next().unwrap_or_default();
        if let Some(first) = options.first_mut()
            && !value[bare.len()..].starts_with('=')
        {
            *first = ("chardev".to_owned(), bare.to_owned());
        }
        let (mut device, mut mode, mut pretty) = (None, "readline".to_owned(), false);
        for (key, value) in options {
            match key.as_str() {
                "chardev" => device = Some(value),
                "mode" => mode = value,
                "pretty" => pretty = value == "on" || value == "yes",
                "id" => {}
                other => return Err(format!("Invalid parameter '{other}'")),
            }
        }
        let mode = match mode.as_str() {
            "readline" if pretty => return Err("'pretty' is not compatible with HMP monitors".to_owned()),
            "readline" => ChardevMode::Readline,
            "control" => ChardevMode::Control { pretty },
            other => return Err(format!("unknown monitor mode \"{other}\"")),
        };
        self.defaults.monitor_given = true;
        let chardev = device.ok_or("Parameter 'chardev' is missing")?;
        self.config.users.push(User { chardev, mode, option: shown.to_owned() });
        Ok(())
    }

    /// A user that brings its own device, in the short form.
    fn compat(&mut self, prefix: &str, value: &str, mode: ChardevMode, shown: &str) -> Result<(), String> {
        if matches!(mode, ChardevMode::Control { .. } | ChardevMode::Readline) {
            self.defaults.monitor_given = true;
        }
        let number = self.config.users.iter().filter(|user| user.chardev.starts_with(prefix)).count();
        let id = if mode == ChardevMode::Qtest { prefix.to_owned() } else { format!("{prefix}{number}") };
        let chardev = match chardev::parse_compat(&id, value, shown).map_err(|why| format!("{shown}: {why}"))? {
            Ok(chardev) => {
                self.add_chardev(chardev)?;
                id
            }
            Err(other) => other,
        };
        self.config.users.push(User { chardev, mode, option: shown.to_owned() });
        Ok(())
    }

    /// What a daemon can't have, and where its files are once it has gone to `/`.
    fn daemonized(&mut self) -> Result<(), String> {
        let Defaults { nodefaults, nographic, monitor_given, serial_given, .. } = self.defaults;
        if nographic && !nodefaults && !(monitor_given && serial_given) {
            return Err("-nographic cannot be used with -daemonize".to_owned());
        }
        if let Some(chardev) = self.config.chardevs.iter().find(|chardev| chardev.kind == ChardevKind::Stdio) {
            return Err(format!("{}: cannot use stdio with -daemonize", chardev.option));
        }
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if let Some(path) = &mut self.config.pidfile {
            *path = absolute(Path::new(path)).to_string_lossy().into_owned();
        }
        for path in [&mut self.config.sim.record, &mut self.config.sim.trace].into_iter().flatten() {
            *path = absolute(path);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Invocation, String> {
        // As in QEMU, `-nographic` without other words puts the monitor on standard input.
        if self.defaults.nographic
            && !self.defaults.monitor_given
            && !self.defaults.serial_given
            && !self.defaults.nodefaults
        {
            self.compat("compat_monitor", "stdio", ChardevMode::Readline, "-nographic")?;
        }
        if self.config.daemonize {
            self.daemonized()?;
        }
        for user in &self.config.users {
            if !self.config.chardevs.iter().any(|chardev| chardev.id == user.chardev) {
                return Err(match user.mode {
                    ChardevMode::Nobody => format!(
                        "{}: could not connect serial device to character backend '{}'",
                        user.option, user.chardev
                    ),
                    _ => format!("{}: chardev \"{}\" not found", user.option, user.chardev),
                });
            }
        }
        for (i, user) in self.config.users.iter().enumerate() {
            if self.config.users[..i].iter().any(|other| other.chardev == user.chardev) {
                return Err(format!("{}: Device '{}' is in use", user.option, user.chardev));
            }
        }
        Ok(Invocation::Serve(Box::new(self.config)))
    }
}

/// Whether `/dev/kvm` can be opened, as QEMU finds out. Nothing is done with it.
fn kvm_usable() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// `-name guest=NAME,…` or `-name NAME`.
fn guest_name(value: &str) -> Option<String> {
    let options = split_options(value);
    let bare = value.split([',', '=']).next().unwrap_or_default();
    if !value[bare.len()..].starts_with('=') {
        return Some(bare.to_owned());
    }
    options.into_iter().find(|(key, _)| key == "guest").map(|(_, name)| name)
}

/// The type of the machine must be one that QEMU knows; all are alike here.
fn machine(value: &str, version: Version) -> Result<(), String> {
    let first = value.split(',').next().unwrap_or_default();
    let kind = match first.split_once('=') {
        Some(("type", kind)) => Some(kind),
        Some(_) => None,
        None => Some(first),
    };
    match kind {
        Some(kind) if !recorded::has_machine(version, kind) => {
            Err(format!("unsupported machine type: \"{kind}\"\nUse -machine help to list supported machines"))
        }
        _ => Ok(()),
    }
}

/// The model of a device must be one that QEMU knows.
fn device(value: &str) -> Result<(), String> {
    // The JSON form is looked at when the device is made.
    if value.starts_with('{') {
        return Ok(());
    }
    let options = split_options(value);
    let bare = value.split([',', '=']).next().unwrap_or_default();
    let named = options.iter().find(|(key, _)| key == "driver").map(|(_, driver)| driver.as_str());
    let driver =
        if value[bare.len()..].starts_with('=') { named.ok_or("Parameter 'driver' is missing")? } else { bare };
    if is_device_model(driver) { Ok(()) } else { Err(format!("'{driver}' is not a valid device model name")) }
}

/// `-add-fd fd=N,set=M[,opaque=TEXT]`
fn add_fd(value: &str, shown: &str) -> Result<AddFd, String> {
    let (mut fd, mut set, mut opaque) = (None, None, None);
    for (key, value) in split_options(value) {
        let number = || value.parse::<i64>().map_err(|_| format!("Parameter '{key}' expects a number"));
        match key.as_str() {
            "fd" => fd = Some(number()?),
            "set" => set = Some(number()?),
            "opaque" => opaque = Some(value),
            other => return Err(format!("Invalid parameter '{other}'")),
        }
    }
    let fd = fd.ok_or("fd option is required and must be non-negative")?;
    if (0..=2).contains(&fd) {
        return Err("fd cannot be a standard I/O stream".to_owned());
    }
    let set = set.filter(|set| *set >= 0).ok_or("set option is required and must be non-negative")?;
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or("fd option is required and must be non-negative")?;
    Ok(AddFd { fd, set, opaque, option: shown.to_owned() })
}
