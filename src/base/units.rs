//! Byte ranges, alignment helpers under QEMU's names, and the reading and printing of sizes.

/// `BDRV_MAX_LENGTH`: the largest image, in bytes.
pub const BDRV_MAX_LENGTH: u64 = 0x7fff_ffff_c000_0000;

/// Bytes in a kibibyte.
pub const KIB: u64 = 1 << 10;
/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Bytes in a gibibyte.
pub const GIB: u64 = 1 << 30;
/// `BDRV_SECTOR_SIZE`: bytes in a sector.
pub const SECTOR: u64 = 512;

/// `QEMU_ALIGN_DOWN`: the largest multiple of `m` that is not above `n`.
#[inline]
#[must_use]
pub const fn align_down(n: u64, m: u64) -> u64 {
    // Nearly all alignments are powers of two, and a division costs as much as a call.
    if m.is_power_of_two() { n & !(m - 1) } else { n / m * m }
}

/// `QEMU_ALIGN_UP`: the smallest multiple of `m` that is not below `n`.
#[inline]
#[must_use]
pub const fn align_up(n: u64, m: u64) -> u64 {
    if m.is_power_of_two() { (n + (m - 1)) & !(m - 1) } else { n.div_ceil(m) * m }
}

/// `QEMU_IS_ALIGNED`: whether `n` is a multiple of `m`.
#[inline]
#[must_use]
pub const fn is_aligned(n: u64, m: u64) -> bool {
    if m.is_power_of_two() { n & (m - 1) == 0 } else { n.is_multiple_of(m) }
}

/// Prints a size the way a person writes it: `64K`, `1M`, or plain bytes when nothing larger divides it.
#[must_use]
pub fn size_text(n: u64) -> String {
    for (unit, letter) in [(1u64 << 40, 'T'), (GIB, 'G'), (MIB, 'M'), (KIB, 'K')] {
        if n >= unit && n.is_multiple_of(unit) {
            return format!("{}{letter}", n / unit);
        }
    }
    n.to_string()
}

/// Reads a size: decimal or `0x` digits with an optional suffix `b k K m M g G t T` (powers of 1024).
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is not a size: expected digits and an optional suffix K, M, G or T");
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).map_err(|_| wrong());
    }
    let (digits, shift) = match text.char_indices().last() {
        Some((i, c)) if c.is_ascii_alphabetic() => {
            let shift = match c.to_ascii_lowercase() {
                'b' => 0,
                'k' => 10,
                'm' => 20,
                'g' => 30,
                't' => 40,
                _ => return Err(wrong()),
            };
            (&text[..i], shift)
        }
        _ => (text, 0),
    };
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    n.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is larger than 2^64 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        assert_eq!(parse_size("32736k"), Ok(33_521_664));
        assert_eq!(parse_size("0x10000"), Ok(65_536));
        assert_eq!(parse_size("512"), Ok(512));
        assert!(parse_size("12q").is_err());
        assert!(parse_size("").is_err());
        assert!(parse_size("99999999999T").is_err());
        assert_eq!(size_text(64 * KIB), "64K");
        assert_eq!(size_text(513), "513");
    }
}
