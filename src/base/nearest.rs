//! Words that were probably meant.

/// The entry of `known` that `word` was probably meant to be.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = 1 + word.chars().count() / 4;
    let near = known.iter().map(|k| (distance(word, k), *k)).min()?;
    (near.0 <= limit).then_some(near.1)
}

/// How many single-character edits turn `a` into `b`; two neighbours that change places are one.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.chars().take(64).collect::<Vec<char>>();
    let (a, b) = (letters(a), letters(b));
    // The rows for one letter of `a` less and for two less.
    let (mut before, mut row) = (Vec::new(), (0..=b.len()).collect::<Vec<usize>>());
    for (i, ca) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let swapped = i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb;
            let swap = if swapped { before[j - 1] + 1 } else { usize::MAX };
            let change = row[j] + usize::from(ca != cb);
            next.push(change.min(row[j + 1] + 1).min(next[j] + 1).min(swap));
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word() {
        let known = ["offset", "length", "pattern"];
        assert_eq!(nearest("lenght", &known), Some("length"));
        assert_eq!(nearest("ofset", &known), Some("offset"));
        assert_eq!(nearest("wati", &["at", "wait"]), Some("wait"));
        assert_eq!(nearest("xyz", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
