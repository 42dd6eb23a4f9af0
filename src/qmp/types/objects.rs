//! Arguments of `object-add` and `block_set_io_throttle`.

use std::sync::Arc;

use crate::base::Json;
use crate::qmp::declare::members_by_hand;
use crate::qmp::visit::{QapiEnum, ValueAt, Visit, Visitor};

/// A QOM object type (`ObjectType`), as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectType(pub &'static str);

impl QapiEnum for ObjectType {
    const TABLE: &'static [(ObjectType, &'static str)] = &[
        (ObjectType("acpi-generic-initiator"), "acpi-generic-initiator"),
        (ObjectType("acpi-generic-port"), "acpi-generic-port"),
        (ObjectType("authz-list"), "authz-list"),
        (ObjectType("authz-listfile"), "authz-listfile"),
        (ObjectType("authz-pam"), "authz-pam"),
        (ObjectType("authz-simple"), "authz-simple"),
        (ObjectType("can-bus"), "can-bus"),
        (ObjectType("can-host-socketcan"), "can-host-socketcan"),
        (ObjectType("colo-compare"), "colo-compare"),
        (ObjectType("cryptodev-backend"), "cryptodev-backend"),
        (ObjectType("cryptodev-backend-builtin"), "cryptodev-backend-builtin"),
        (ObjectType("cryptodev-backend-lkcf"), "cryptodev-backend-lkcf"),
        (ObjectType("cryptodev-vhost-user"), "cryptodev-vhost-user"),
        (ObjectType("dbus-vmstate"), "dbus-vmstate"),
        (ObjectType("filter-buffer"), "filter-buffer"),
        (ObjectType("filter-dump"), "filter-dump"),
        (ObjectType("filter-mirror"), "filter-mirror"),
        (ObjectType("filter-redirector"), "filter-redirector"),
        (ObjectType("filter-replay"), "filter-replay"),
        (ObjectType("filter-rewriter"), "filter-rewriter"),
        (ObjectType("input-barrier"), "input-barrier"),
        (ObjectType("input-linux"), "input-linux"),
        (ObjectType("iommufd"), "iommufd"),
        (ObjectType("iothread"), "iothread"),
        (ObjectType("main-loop"), "main-loop"),
        (ObjectType("memory-backend-epc"), "memory-backend-epc"),
        (ObjectType("memory-backend-file"), "memory-backend-file"),
        (ObjectType("memory-backend-memfd"), "memory-backend-memfd"),
        (ObjectType("memory-backend-ram"), "memory-backend-ram"),
        (ObjectType("memory-backend-shm"), "memory-backend-shm"),
        (ObjectType("pef-guest"), "pef-guest"),
        (ObjectType("pr-manager-helper"), "pr-manager-helper"),
        (ObjectType("qtest"), "qtest"),
        (ObjectType("rng-builtin"), "rng-builtin"),
        (ObjectType("rng-egd"), "rng-egd"),
        (ObjectType("rng-random"), "rng-random"),
        (ObjectType("secret"), "secret"),
        (ObjectType("secret_keyring"), "secret_keyring"),
        (ObjectType("sev-guest"), "sev-guest"),
        (ObjectType("sev-snp-guest"), "sev-snp-guest"),
        (ObjectType("thread-context"), "thread-context"),
        (ObjectType("s390-pv-guest"), "s390-pv-guest"),
        (ObjectType("throttle-group"), "throttle-group"),
        (ObjectType("tls-creds-anon"), "tls-creds-anon"),
        (ObjectType("tls-creds-psk"), "tls-creds-psk"),
        (ObjectType("tls-creds-x509"), "tls-creds-x509"),
        (ObjectType("tls-cipher-suites"), "tls-cipher-suites"),
        (ObjectType("x-remote-object"), "x-remote-object"),
        (ObjectType("x-vfio-user-server"), "x-vfio-user-server"),
    ];
}

/// `object-add` (`ObjectOptions`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectOptions {
    /// Type of the object.
    pub qom_type: ObjectType,
    /// Name of the object.
    pub id: Arc<str>,
    /// All arguments; those of the type were not looked at.
    pub properties: Json,
    /// They come from a command line: numbers are texts.
    pub texts: bool,
}

impl ObjectOptions {
    /// Reads type and name.
    ///
    /// # Errors
    /// What QEMU says about these two.
    pub fn visit(at: ValueAt<'_>) -> Visit<ObjectOptions> {
        let mut v = at.object()?;
        let options = ObjectOptions {
            qom_type: v.enum_("qom-type")?,
            id: v.str("id")?,
            properties: at.any().clone(),
            texts: at.texts(),
        };
        v.leave();
        Ok(options)
    }
}

/// `block_set_io_throttle` (`BlockIOThrottle`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockIoThrottle {
    /// `blk_by_name`: the name of the backend, as `-drive id=` gives it.
    pub device: Option<Arc<str>>,
    /// The device, by qdev id.
    pub id: Option<Arc<str>>,
    /// The mandatory limits in the order of [`BlockIoThrottle::LIMITS`], per second.
    pub limits: [i64; 6],
    /// The optional numbers in the order of [`BlockIoThrottle::EXTRAS`].
    pub extras: [Option<i64>; 13],
    /// Name of the throttle group.
    pub group: Option<Arc<str>>,
}

members_by_hand!(BlockIoThrottle);

impl BlockIoThrottle {
    /// Names of the mandatory limits.
    pub const LIMITS: [&'static str; 6] = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
    /// Names of the optional numbers.
    pub const EXTRAS: [&'static str; 13] = [
        "bps_max",
        "bps_rd_max",
        "bps_wr_max",
        "iops_max",
        "iops_rd_max",
        "iops_wr_max",
        "bps_max_length",
        "bps_rd_max_length",
        "bps_wr_max_length",
        "iops_max_length",
        "iops_rd_max_length",
        "iops_wr_max_length",
        "iops_size",
    ];

    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about the arguments.
    pub fn visit(v: &mut Visitor<'_>) -> Visit<BlockIoThrottle> {
        let (device, id) = (v.opt_str("device")?, v.opt_str("id")?);
        let (mut limits, mut extras) = ([0; 6], [None; 13]);
        for (limit, name) in limits.iter_mut().zip(Self::LIMITS) {
            *limit = v.int(name)?;
        }
        for (extra, name) in extras.iter_mut().zip(Self::EXTRAS) {
            *extra = v.opt_int(name)?;
        }
        Ok(BlockIoThrottle { device, id, limits, extras, group: v.opt_str("group")? })
    }
}
