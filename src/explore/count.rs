//! Exact large numbers: how many schedules there are is easily beyond 128 bits.

use crate::base::grouped;
use std::fmt;

/// A natural number of any size.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Count(Digits);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Digits {
    Small(u128),
    /// Base 2^64, lowest first; more than two.
    Big(Vec<u64>),
}

impl Default for Count {
    fn default() -> Self {
        Count::from(0)
    }
}

impl From<u128> for Count {
    fn from(n: u128) -> Self {
        Count(Digits::Small(n))
    }
}

impl Count {
    /// Sums have as many digits as they need; nothing wraps.
    pub fn add(&mut self, other: &Count) {
        if let (Digits::Small(a), Digits::Small(b)) = (&self.0, &other.0)
            && let Some(sum) = a.checked_add(*b)
        {
            self.0 = Digits::Small(sum);
            return;
        }
        let mut sum = self.limbs();
        let other = other.limbs();
        if sum.len() < other.len() {
            sum.resize(other.len(), 0);
        }
        let mut carry = false;
        for (i, limb) in sum.iter_mut().enumerate() {
            let (part, over) = limb.overflowing_add(other.get(i).copied().unwrap_or(0));
            let (part, again) = part.overflowing_add(u64::from(carry));
            *limb = part;
            carry = over || again;
        }
        if carry {
            sum.push(1);
        }
        self.0 = Digits::Big(sum);
    }

    fn limbs(&self) -> Vec<u64> {
        match &self.0 {
            Digits::Small(n) => vec![*n as u64, (*n >> 64) as u64],
            Digits::Big(limbs) => limbs.clone(),
        }
    }

    /// Whether it is 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == Digits::Small(0)
    }

    /// As a person reads it, without separators.
    #[must_use]
    pub fn decimal(&self) -> String {
        const STEP: u128 = 10_000_000_000_000_000_000;
        let mut limbs = match &self.0 {
            Digits::Small(n) => return n.to_string(),
            Digits::Big(limbs) => limbs.clone(),
        };
        let mut groups = Vec::new();
        while limbs.iter().any(|limb| *limb != 0) {
            let mut rest: u128 = 0;
            for limb in limbs.iter_mut().rev() {
                let wide = (rest << 64) | u128::from(*limb);
                *limb = (wide / STEP) as u64;
                rest = wide % STEP;
            }
            groups.push(rest as u64);
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:019}"));
        }
        text
    }
}

/// With a comma at each thousand; beyond 24 digits with the magnitude behind it.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.decimal();
        f.write_str(&grouped(&digits))?;
        if digits.len() > 24 {
            write!(f, " (about 10^{})", digits.len() - 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two() {
        let mut n = Count::from(1);
        for power in 1..=200u32 {
            let twice = n.clone();
            n.add(&twice);
            if power < 128 {
                assert_eq!(n.decimal(), (1u128 << power).to_string());
            }
        }
        // 2^200
        assert_eq!(n.decimal(), "1606938044258990275541962092341162602522202993782792835301376");
        assert!(n.to_string().ends_with("835,301,376 (about 10^60)"));
    }

    #[test]
    fn small_numbers_read_well() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (16_042_428, "16,042,428")] {
            assert_eq!(Count::from(n).to_string(), text);
        }
        assert!(Count::default().is_zero());
    }
}
