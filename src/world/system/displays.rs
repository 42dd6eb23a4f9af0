//! What a machine has to look at and to point with: VNC, SPICE, mice (`ui/vnc.c`, `ui/spice-core.c`, `ui/input.c`).
//!
//! Nobody listens at the addresses; they are told as they were given.

use super::qom::type_of;
use crate::base::Json;
use crate::qmp::drive::split_options;
use crate::world::World;

/// Where VNC clients are waited for: an address, and whether they come by a websocket.
struct VncServer {
    host: String,
    service: String,
    family: &'static str,
    websocket: bool,
}

/// The ports of display 0: that of VNC's own protocol, that of a websocket.
const PORTS: [u64; 2] = [5900, 5700];

/// `-vnc PLACE,…`: what is told of it.
struct Vnc {
    id: String,
    auth: &'static str,
    /// In the order in which they were opened.
    servers: Vec<VncServer>,
}

impl Vnc {
    fn parse(value: &str) -> Vnc {
        let place = value.split(',').next().unwrap_or_default();
        let options = split_options(value);
        let get = |key: &str| options.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let auth = if get("password") == Some("on") || get("password-secret").is_some() { "vnc" } else { "none" };
        let mut servers = Vec::new();
        if let Some(path) = place.strip_prefix("unix:") {
            let (host, service) = (String::new(), path.to_owned());
            servers.push(VncServer { host, service, family: "unix", websocket: false });
        } else if place != "none" {
            let (host, number) = place.rsplit_once(':').unwrap_or((place, "0"));
            let number = number.parse::<u64>().unwrap_or(0);
            servers.extend(listening(host, PORTS[0] + number, false));
            match get("websocket") {
                None | Some("off") => {}
                Some("on") => servers.extend(listening(host, PORTS[1] + number, true)),
                Some(place) => {
                    let (own, port) = place.rsplit_once(':').unwrap_or((host, place));
                    servers.extend(port.parse().into_iter().flat_map(|port| listening(own, port, true)));
                }
            }
        }
        Vnc { id: get("id").unwrap_or("default").to_owned(), auth, servers }
    }
}

/// Without a host it is all addresses, of both families.
fn listening(host: &str, port: u64, websocket: bool) -> Vec<VncServer> {
    let host = host.trim_matches(['[', ']']);
    let server = |host: &str| VncServer {
        host: host.to_owned(),
        service: port.to_string(),
        family: if host.contains(':') { "ipv6" } else { "ipv4" },
        websocket,
    };
    if host.is_empty() { vec![server("0.0.0.0"), server("::")] } else { vec![server(host)] }
}

impl World {
    /// `qmp_query_vnc`: of several addresses the first.
    pub(super) fn query_vnc(&self) -> Json {
        let vnc = self.machine.board.vnc.as_deref().map(Vnc::parse);
        let Some((vnc, server)) = vnc.as_ref().and_then(|vnc| Some((vnc, vnc.servers.first()?))) else {
            return Json::dict(vec![("enabled", false.into())]);
        };
        Json::dict(vec![
            ("enabled", true.into()),
            ("auth", vnc.auth.into()),
            ("clients", Json::list(Vec::new())),
            ("host", Json::str(&server.host)),
            ("service", Json::str(&server.service)),
            ("family", server.family.into()),
        ])
    }

    /// `qmp_query_vnc_servers`: the addresses from the last to the first.
    pub(in crate::world) fn query_vnc_servers(&self) -> Json {
        let Some(vnc) = self.machine.board.vnc.as_deref().map(Vnc::parse) else { return Json::list(Vec::new()) };
        let server = |server: &VncServer| {
            Json::dict(vec![
                ("host", Json::str(&server.host)),
                ("service", Json::str(&server.service)),
                ("family", server.family.into()),
                ("websocket", server.websocket.into()),
                ("auth", vnc.auth.into()),
            ])
        };
        Json::list(vec![Json::dict(vec![
            ("id", Json::str(&vnc.id)),
            ("clients", Json::list(Vec::new())),
            ("auth", vnc.auth.into()),
            ("server", Json::list(vnc.servers.iter().rev().map(server).collect())),
        ])])
    }

    /// `qmp_query_spice`: until a guest's agent or tablet speaks, the server moves the mouse.
    pub(super) fn query_spice(&self) -> Json {
        let mode = if self.machine.board.spice.is_some() { "server" } else { "client" };
        let mut members = vec![("migrated", false.into()), ("mouse-mode", mode.into())];
        members.push(("enabled", self.machine.board.spice.is_some().into()));
        if let Some(spice) = &self.machine.board.spice {
            let options = split_options(spice);
            let get = |key: &str| options.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
            members.extend([
                ("host", Json::str(get("addr").unwrap_or("*"))),
                ("auth", if get("disable-ticketing") == Some("on") { "none" } else { "spice" }.into()),
                ("compiled-version", "0.15.1".into()),
                ("channels", Json::list(Vec::new())),
            ]);
            let ports = [("port", get("port")), ("tls-port", get("tls-port"))];
            members.extend(ports.into_iter().filter_map(|(key, port)| Some((key, Json::Int(port?.parse().ok()?)))));
        }
        Json::dict(members)
    }

    /// `qmp_query_mice`: the newest first. A keyboard has a number, too.
    pub(super) fn query_mice(&self) -> Json {
        let mouse = |index: u64, name: &str, absolute: bool, current: bool| {
            Json::dict(vec![
                ("name", Json::str(name)),
                ("index", Json::uint(index)),
                ("current", current.into()),
                ("absolute", absolute.into()),
            ])
        };
        let mut all = Vec::new();
        // Those on board are numbers 0 to 2: two keyboards' and the mouse.
        let mut next = 0;
        if self.machine.is_pc() {
            all.push(mouse(2, "QEMU PS/2 Mouse", false, true));
            next = 3;
        }
        for device in &self.machine.devices {
            let kind = type_of(&device.driver);
            let Some((_, name)) = INPUT_DEVICES.into_iter().find(|(input, _)| *input == kind) else { continue };
            if let Some(name) = name {
                all.push(mouse(next, name, name.ends_with("Tablet"), all.is_empty()));
            }
            next += 1;
        }
        all.reverse();
        Json::list(all)
    }
}

/// Devices that a user acts with, and how those that point are called.
const INPUT_DEVICES: [(&str, Option<&str>); 6] = [
    ("usb-kbd", None),
    ("usb-mouse", Some("QEMU HID Mouse")),
    ("usb-tablet", Some("QEMU HID Tablet")),
    ("virtio-keyboard-pci", None),
    ("virtio-mouse-pci", Some("QEMU Virtio Mouse")),
    ("virtio-tablet-pci", Some("QEMU Virtio Tablet")),
];
