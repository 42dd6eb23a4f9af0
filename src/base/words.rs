//! Numbers in sentences.

/// Digits with a comma at each thousand.
#[must_use]
pub fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something, in words: `1 run`, `2 runs`, `1,471 states`. `what` is the singular; of several words, the last one changes.
#[must_use]
pub fn counted(number: u64, what: &str) -> String {
    let number_of = grouped(&number.to_string());
    let vowel_y = ["ay", "ey", "oy", "uy"].iter().any(|end| what.ends_with(end));
    match number {
        1 => format!("1 {what}"),
        _ if what.ends_with('y') && !vowel_y => format!("{number_of} {}ies", &what[..what.len() - 1]),
        _ if ["s", "x", "ch", "sh"].iter().any(|end| what.ends_with(end)) => format!("{number_of} {what}es"),
        _ => format!("{number_of} {what}s"),
    }
}

/// Some of so many: `3 of 101 runs`, `all 301 runs`, `1 run`.
#[must_use]
pub fn part_of(number: u64, of: u64, what: &str) -> String {
    match of {
        1 => counted(number, what),
        _ if number == of => format!("all {}", counted(of, what)),
        _ => format!("{} of {}", grouped(&number.to_string()), counted(of, what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_many() {
        let told =
            [(1, "run"), (0, "run"), (1_471, "state"), (1, "dispatch"), (2, "dispatch"), (3, "try"), (2, "delay")];
        let told: Vec<String> = told.into_iter().map(|(number, what)| counted(number, what)).collect();
        assert_eq!(told, ["1 run", "0 runs", "1,471 states", "1 dispatch", "2 dispatches", "3 tries", "2 delays"]);
        assert_eq!(
            [(1, 1), (3, 3), (1, 3)].map(|(number, of)| part_of(number, of, "run")),
            ["1 run", "all 3 runs", "1 of 3 runs"]
        );
    }
}
