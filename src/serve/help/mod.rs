//! What `help` as a value, `-help` and `-version` print.

use super::sim_options::SimOptions;
use crate::qmp::recorded;
use crate::version::Version;

/// As `-machine help` lists them.
const MACHINES: &str = include_str!("machines.txt");
/// As `-device help` lists them.
const DEVICES: &str = crate::qmp::names::DEVICES;
/// As `-object help` lists them.
const OBJECTS: &str = include_str!("objects.txt");

/// What `-drive format=help` lists: what is simulated and no more, so that a test which asks skips what it could not do here.
const FORMATS: &str = "blkdebug blkverify compress copy-before-write copy-on-read file null-aio null-co qcow2 quorum raw snapshot-access throttle";

/// What to print for an option with this value, if the value asks for help.
#[must_use]
pub fn text(program: &str, option: &str, value: &str, of: Version) -> Option<String> {
    let asks = value == "help" || value == "?";
    match option {
        "help" | "h" => Some(usage(program, of)),
        "version" => Some(version(of)),
        "machine" | "M" if asks => Some(recorded::help(of, "machine").unwrap_or_else(|| MACHINES.to_owned())),
        "accel" if asks => Some("Accelerators supported in QEMU binary:\ntcg\nkvm\nqtest\n".to_owned()),
        "device" if asks => Some(recorded::help(of, "device").unwrap_or_else(|| DEVICES.to_owned())),
        "object" if asks => Some(OBJECTS.to_owned()),
        "drive" if value.split(',').any(|part| part == "format=help" || part == "format=?") => Some(formats()),
        _ => None,
    }
}

fn formats() -> String {
    format!("Supported formats: {FORMATS}\nSupported formats (read-only): {FORMATS}\n")
}

fn version(of: Version) -> String {
    format!(
        "QEMU emulator version {} (blockjob-sim {})\nblockjob-sim simulates the block jobs of QEMU; no QEMU runs here\n",
        of.full(),
        env!("CARGO_PKG_VERSION")
    )
}

fn usage(program: &str, of: Version) -> String {
    format!("{}{}{}", version(of), USAGE.replace("PROGRAM", program), SimOptions::HELP)
}

const USAGE: &str = "\
usage: PROGRAM [options] [disk_image]

Options are QEMU's. These have an effect:
-blockdev OPTIONS       a block node, as driver=…,node-name=… or as JSON
-drive OPTIONS          a drive
-device DRIVER,drive=ID a guest disk; other devices are accepted
-object TYPE,id=ID      iothread, throttle-group; others are accepted
-add-fd fd=N,set=M      an inherited file descriptor, as /dev/fdset/M
-chardev BACKEND,id=ID  socket, stdio, file, null
-mon chardev=ID         a monitor: mode=control for QMP, mode=readline for people
-qmp DEV                a QMP monitor at unix:PATH,server=on,wait=off, stdio, …
-qmp-pretty DEV         the same, on several lines
-monitor DEV            a monitor for people
-serial DEV             a serial port without a guest that uses it
-qtest DEV              the test protocol; clock_step moves virtual time
-accel qtest            with it, time stands still otherwise
-S                      the guest does not run at first
-pidfile FILE           write the process id there
-name NAME, -uuid UUID  what queries show
-machine, -display, -nodefaults, -nographic
                        as in QEMU, as far as anything of it is simulated

Options of the simulator:
";
