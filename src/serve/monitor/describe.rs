//! What `query-chardev` says of the character devices (`chardev/char-socket.c:qemu_chr_compute_filename`).

use crate::qmp::hash_order::hash_order;
use crate::serve::chardev::{Address, Chardev, ChardevKind};
use crate::serve::cmdline::Config;
use crate::serve::port::Port;
use crate::world::system::board::CharDevice;

/// The devices in the order in which QEMU lists them.
pub(in crate::serve) fn all(config: &Config, ports: &[Port]) -> Vec<CharDevice> {
    let labels: Vec<&str> = config.chardevs.iter().map(|chardev| chardev.id.as_str()).collect();
    let order = hash_order(&labels);
    order.into_iter().rev().map(|i| one(config, &config.chardevs[i], ports.get(i))).collect()
}

fn one(config: &Config, chardev: &Chardev, port: Option<&Port>) -> CharDevice {
    let used = config.users.iter().any(|user| user.chardev == chardev.id);
    // The other ones belong to devices: a serial port of the ISA bus listens at once, those of virtio when the guest opens them.
    let named = |value: &str| {
        value.contains("isa-serial")
            && (value.contains(&format!("chardev={}", chardev.id)) || value.contains(&format!("\"{}\"", chardev.id)))
    };
    let serial = || config.block.iter().any(|value| named(value));
    CharDevice {
        label: chardev.id.as_str().into(),
        filename: filename(chardev, port).into(),
        kind: kind(&chardev.kind),
        open: used || serial(),
    }
}

fn kind(kind: &ChardevKind) -> &'static str {
    match kind {
        ChardevKind::Null => "chardev-null",
        ChardevKind::Stdio => "chardev-stdio",
        ChardevKind::Socket { .. } => "chardev-socket",
        ChardevKind::File(_) => "chardev-file",
        ChardevKind::Pty => "chardev-pty",
        ChardevKind::Spice(_) => "chardev-spicevmc",
    }
}

fn filename(chardev: &Chardev, port: Option<&Port>) -> String {
    let connected = port.is_some_and(Port::connected);
    match &chardev.kind {
        ChardevKind::Null => "null".into(),
        ChardevKind::Stdio => "stdio".into(),
        ChardevKind::File(_) => "file".into(),
        ChardevKind::Spice(name) => format!("spicevmc:{name}"),
        ChardevKind::Pty => format!("pty:{}", port.and_then(Port::pty).unwrap_or_default()),
        ChardevKind::Socket { address: Address::Fd(_), server, .. } => {
            let path = port.and_then(Port::own_path).unwrap_or_default();
            format!(
                "{}unix:{path}{}",
                if connected { "" } else { "disconnected:" },
                if *server { ",server=on" } else { "" }
            )
        }
        ChardevKind::Socket { .. } => {
            let shown = chardev.shown();
            if connected { shown.trim_start_matches("disconnected:").to_owned() } else { shown }
        }
    }
}
