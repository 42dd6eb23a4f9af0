//! A bit array whose cost follows what is set in it, not how long it is.

use std::hash::{Hash, Hasher};
use triomphe::Arc;

use bitvec::array::BitArray;
use bitvec::order::Lsb0;

/// 64-bit words in a page.
pub(super) const PAGE_WORDS: usize = 16;
/// Bits in a page: a 64 MiB disk at the usual 64 KiB granularity fits in one.
pub(super) const PAGE_BITS: u64 = PAGE_WORDS as u64 * 64;

/// A fixed run of bits, the first one in the least significant place of the first word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page(BitArray<[u64; PAGE_WORDS], Lsb0>);

impl Page {
    const ZEROS: Page = Page(BitArray::ZERO);

    /// A page made of `words`.
    pub(super) fn from_words(words: [u64; PAGE_WORDS]) -> Page {
        Page(BitArray::new(words))
    }

    fn ones() -> Page {
        Page::from_words([u64::MAX; PAGE_WORDS])
    }

    /// The raw words, lowest bits first.
    pub(super) fn words(&self) -> [u64; PAGE_WORDS] {
        self.0.data
    }

    /// Makes the bits `lo..hi` all equal to `value`; returns how many of them were set.
    fn write(&mut self, lo: u64, hi: u64, value: bool) -> u64 {
        // By words, as in `first`.
        let (mut at, mut before) = (lo, 0);
        while at < hi {
            let bits = (64 - at % 64).min(hi - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            let word = &mut self.0.data[(at / 64) as usize];
            before += u64::from((*word & mask).count_ones());
            *word = if value { *word | mask } else { *word & !mask };
            at += bits;
        }
        before
    }

    /// Whether all bits are the same.
    fn is_uniform(&self) -> bool {
        let word = self.0.data[0];
        (word == 0 || word == u64::MAX) && self.0.data.iter().all(|other| *other == word)
    }

    fn count(&self) -> u64 {
        self.0.data.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first bit at or after `from` that is `value`.
    fn first(&self, value: bool, from: usize) -> Option<u64> {
        // By words: bitvec's search of a part of an array costs several times as much.
        let flip = if value { 0 } else { u64::MAX };
        let mut mask = u64::MAX << (from % 64);
        for (i, word) in self.0.data.iter().enumerate().skip(from / 64) {
            let found = (word ^ flip) & mask;
            if found != 0 {
                return Some(i as u64 * 64 + u64::from(found.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }
}

// bitvec compares and hashes bit by bit; whole words are hundreds of times faster.
impl PartialEq for Page {
    fn eq(&self, other: &Page) -> bool {
        self.0.data == other.0.data
    }
}

impl Eq for Page {}

impl Hash for Page {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.data.hash(state);
    }
}

/// What a span holds.
// Pages lie in the list itself: almost every bitmap has one or two spans, and an indirection would cost
// an allocation each time a copied bitmap is written.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fill {
    /// So many pages with every bit set.
    Ones(u64),
    /// One page with some bits set and some not.
    Mixed(Page),
}

/// A stretch of pages with something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Span {
    first: u64,
    fill: Fill,
}

impl Span {
    /// The page after the last.
    fn end(&self) -> u64 {
        match self.fill {
            Fill::Ones(pages) => self.first + pages,
            Fill::Mixed(_) => self.first + 1,
        }
    }

    fn count(&self) -> u64 {
        match &self.fill {
            Fill::Ones(pages) => pages * PAGE_BITS,
            Fill::Mixed(page) => page.count(),
        }
    }

    fn covers(&self, page: u64) -> bool {
        self.first <= page && page < self.end()
    }
}

/// The bits. Pages that were never set are absent, neighbouring full pages are one span, so that equal contents
/// always have the same form; a copy shares everything until one side is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pages {
    spans: Arc<Vec<Span>>,
    ones: u64,
}

impl Pages {
    /// Number of set bits.
    pub(super) fn count(&self) -> u64 {
        self.ones
    }

    /// Number of spans kept, the measure of what this bitmap costs.
    #[cfg(test)]
    pub(super) fn spans(&self) -> usize {
        self.spans.len()
    }

    /// What is not clear, in order: the first page, and what is there.
    pub(super) fn filled(&self) -> impl Iterator<Item = (u64, &Fill)> + '_ {
        self.spans.iter().map(|span| (span.first, &span.fill))
    }

    /// Index of the first span that ends after `page`.
    fn find(&self, page: u64) -> usize {
        self.spans.partition_point(|span| span.end() <= page)
    }

    /// A copy of page number `page`.
    pub(super) fn page(&self, page: u64) -> Page {
        match self.spans.get(self.find(page)) {
            Some(span) if span.covers(page) => match span.fill {
                Fill::Ones(_) => Page::ones(),
                Fill::Mixed(bits) => bits,
            },
            _ => Page::ZEROS,
        }
    }

    /// The first set bit at or after `from`.
    pub(super) fn next_one(&self, from: u64) -> Option<u64> {
        let mut at = from;
        for span in &self.spans[self.find(from / PAGE_BITS)..] {
            at = at.max(span.first * PAGE_BITS);
            match &span.fill {
                Fill::Ones(_) => return Some(at),
                Fill::Mixed(page) => {
                    if let Some(bit) = page.first(true, (at % PAGE_BITS) as usize) {
                        return Some(span.first * PAGE_BITS + bit);
                    }
                }
            }
        }
        None
    }

    /// The first clear bit at or after `from`; there always is one, as the array has no end.
    pub(super) fn next_zero(&self, from: u64) -> u64 {
        let mut at = from;
        for span in &self.spans[self.find(from / PAGE_BITS)..] {
            if span.first * PAGE_BITS > at {
                break;
            }
            if let Fill::Mixed(page) = &span.fill
                && let Some(bit) = page.first(false, (at % PAGE_BITS) as usize)
            {
                return span.first * PAGE_BITS + bit;
            }
            at = span.end() * PAGE_BITS;
        }
        at
    }

    /// Makes the bits `first..end` all equal to `value`.
    pub(super) fn write(&mut self, first: u64, end: u64, value: bool) {
        let unchanged = first >= end
            || if value { self.next_zero(first) >= end } else { self.next_one(first).is_none_or(|bit| bit >= end) };
        if unchanged {
            return;
        }
        let (mut from, mut to) = (first / PAGE_BITS, end.div_ceil(PAGE_BITS));
        if to - from == 1 {
            return self.edit(from, first % PAGE_BITS, end - from * PAGE_BITS, value);
        }
        if !first.is_multiple_of(PAGE_BITS) {
            self.edit(from, first % PAGE_BITS, PAGE_BITS, value);
            from += 1;
        }
        if !end.is_multiple_of(PAGE_BITS) {
            to -= 1;
            self.edit(to, 0, end % PAGE_BITS, value);
        }
        if from < to {
            self.replace(from, to, value.then_some(Fill::Ones(to - from)));
        }
    }

    /// Writes the bits `lo..hi` of one page.
    fn edit(&mut self, number: u64, lo: u64, hi: u64, value: bool) {
        let at = self.find(number);
        if !matches!(self.spans.get(at), Some(Span { first, fill: Fill::Mixed(_) }) if *first == number) {
            let mut page = self.page(number);
            page.write(lo, hi, value);
            return self.put(number, page);
        }
        let Fill::Mixed(page) = &mut Arc::make_mut(&mut self.spans)[at].fill else { return };
        let before = page.write(lo, hi, value);
        let uniform = page.is_uniform();
        self.ones = self.ones - before + if value { hi - lo } else { 0 };
        if uniform {
            self.replace(number, number + 1, value.then_some(Fill::Ones(1)));
        }
    }

    /// Replaces one page.
    pub(super) fn put(&mut self, number: u64, page: Page) {
        let fill = match page.count() {
            0 => None,
            PAGE_BITS => Some(Fill::Ones(1)),
            _ => Some(Fill::Mixed(page)),
        };
        let at = self.find(number);
        if let Some(new @ Fill::Mixed(_)) = fill
            && let Some(Span { first, fill: Fill::Mixed(old) }) = self.spans.get(at)
            && *first == number
        {
            self.ones = self.ones - old.count() + page.count();
            Arc::make_mut(&mut self.spans)[at].fill = new;
            return;
        }
        self.replace(number, number + 1, fill);
    }

    /// Replaces the pages `from..to` by `fill`, cutting and joining spans so that the form stays the only one.
    fn replace(&mut self, from: u64, to: u64, fill: Option<Fill>) {
        let mut lo = self.find(from);
        let mut hi = self.spans.partition_point(|span| span.first < to);
        if lo == hi && fill.is_none() {
            return;
        }
        let spans = Arc::make_mut(&mut self.spans);
        let old: u64 = spans[lo..hi].iter().map(Span::count).sum();
        // Only full spans are longer than a page, so only they can stick out.
        let mut left = spans[lo..hi].first().map_or(0, |span| from.saturating_sub(span.first));
        let mut right = spans[lo..hi].last().map_or(0, |span| span.end().saturating_sub(to));
        let mut kept = (left + right) * PAGE_BITS;
        let (mut from, mut to, mut fill) = (from, to, fill);
        if let Some(Fill::Ones(_)) = fill {
            kept = 0;
            let mut joined = 0;
            if left == 0
                && lo > 0
                && let Span { first, fill: Fill::Ones(pages) } = spans[lo - 1]
                && first + pages == from
            {
                (lo, left, joined) = (lo - 1, pages, joined + pages);
            }
            if right == 0
                && let Some(Span { first, fill: Fill::Ones(pages) }) = spans.get(hi).copied()
                && first == to
            {
                (hi, right, joined) = (hi + 1, pages, joined + pages);
            }
            (from, to) = (from - left, to + right);
            (left, right) = (0, 0);
            fill = Some(Fill::Ones(to - from));
            self.ones -= joined * PAGE_BITS;
        }
        let empty = Span { first: 0, fill: Fill::Ones(0) };
        let mut new = [empty; 3];
        let mut used = 0;
        let parts = [
            (left > 0).then_some(Span { first: from - left, fill: Fill::Ones(left) }),
            fill.map(|fill| Span { first: from, fill }),
            (right > 0).then_some(Span { first: to, fill: Fill::Ones(right) }),
        ];
        for part in parts.into_iter().flatten() {
            new[used] = part;
            used += 1;
        }
        let added = fill.map_or(0, |fill| Span { first: from, fill }.count());
        self.ones = self.ones - old + kept + added;
        spans.splice(lo..hi, new[..used].iter().copied());
    }

    /// Sets every bit that is set in `other`.
    pub(super) fn union(&mut self, other: &Pages) {
        if other.ones == 0 || Arc::ptr_eq(&self.spans, &other.spans) {
            return;
        }
        if self.ones == 0 {
            *self = other.clone();
            return;
        }
        // A few spans into many: no need to copy what does not change.
        if other.spans.len() <= 2 {
            for span in other.spans.iter() {
                match span.fill {
                    Fill::Ones(pages) => self.write(span.first * PAGE_BITS, (span.first + pages) * PAGE_BITS, true),
                    Fill::Mixed(page) => self.put(span.first, or(&self.page(span.first), &page)),
                }
            }
            return;
        }
        *self = joined(&self.spans, &other.spans);
    }
}

fn or(a: &Page, b: &Page) -> Page {
    let mut words = a.words();
    for (word, more) in words.iter_mut().zip(b.words()) {
        *word |= more;
    }
    Page::from_words(words)
}

/// The union of two lists of spans, in one walk over both.
fn joined(a: &[Span], b: &[Span]) -> Pages {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a, b);
    let mut at = 0;
    loop {
        while a.first().is_some_and(|span| span.end() <= at) {
            a = &a[1..];
        }
        while b.first().is_some_and(|span| span.end() <= at) {
            b = &b[1..];
        }
        let heads = [a.first(), b.first()];
        let Some(start) = heads.iter().flatten().map(|span| span.first).min() else { break };
        at = at.max(start);
        let mut here = heads.into_iter().flatten().filter(|span| span.covers(at));
        let fill = match (here.next(), here.next()) {
            (Some(x), Some(y)) => match (&x.fill, &y.fill) {
                (Fill::Mixed(x), Fill::Mixed(y)) => Fill::Mixed(or(x, y)),
                (Fill::Ones(_), Fill::Ones(_)) => Fill::Ones(x.end().max(y.end()) - at),
                (Fill::Ones(_), Fill::Mixed(_)) => Fill::Ones(x.end() - at),
                (Fill::Mixed(_), Fill::Ones(_)) => Fill::Ones(y.end() - at),
            },
            (Some(x), None) => match x.fill {
                Fill::Ones(_) => Fill::Ones(x.end() - at),
                mixed @ Fill::Mixed(_) => mixed,
            },
            (None, _) => break,
        };
        push(&mut out, Span { first: at, fill });
        at = out.last().map_or(at, Span::end);
    }
    let ones = out.iter().map(Span::count).sum();
    Pages { spans: Arc::new(out), ones }
}

/// Appends a span in the only form: full pages as runs, touching runs as one.
fn push(out: &mut Vec<Span>, mut span: Span) {
    if span.count() == PAGE_BITS {
        span.fill = Fill::Ones(1);
    }
    if let Fill::Ones(more) = span.fill
        && let Some(Span { first, fill: Fill::Ones(pages) }) = out.last_mut()
        && *first + *pages == span.first
    {
        *pages += more;
        return;
    }
    out.push(span);
}
