//! Byte-pair encoding of one piece of text: of all neighbours whose joined bytes are in the vocabulary the best pair is
//! merged first, the leftmost of equals; until none is left. O(n log n).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: usize = usize::MAX;

/// One unit to start from.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    pub start: usize,
    pub end: usize,
    /// Never merged (a symbol that the user defined).
    pub is_frozen: bool,
}

/// Merges `symbols` (neighbours that cover `text`). `priority_of` gives the priority of joined bytes, lower first, or
/// nothing when they are no token; joined pieces of more than `bytes_max` bytes are not asked for.
pub fn merge(
    text: &[u8],
    symbols: Vec<Symbol>,
    bytes_max: usize,
    priority_of: impl Fn(&[u8]) -> Option<u32>,
) -> Vec<Symbol> {
    let count = symbols.len();
    let mut symbols = symbols;
    let mut next: Vec<usize> = (1..=count).map(|at| if at < count { at } else { NONE }).collect();
    let mut previous: Vec<usize> = (0..count).map(|at| if at > 0 { at - 1 } else { NONE }).collect();
    let mut is_gone = vec![false; count];
    // (priority, left symbol, end of the pair): an entry is stale when the pair no longer ends there.
    let mut queue: BinaryHeap<Reverse<(u32, usize, usize)>> = BinaryHeap::new();

    let offer =
        |symbols: &[Symbol], queue: &mut BinaryHeap<Reverse<(u32, usize, usize)>>, left: usize, right: usize| {
            let (a, b) = (symbols[left], symbols[right]);
            if a.is_frozen || b.is_frozen || b.end - a.start > bytes_max {
                return;
            }
            if let Some(priority) = priority_of(&text[a.start..b.end]) {
                queue.push(Reverse((priority, left, b.end)));
            }
        };
    for left in 0..count.saturating_sub(1) {
        offer(&symbols, &mut queue, left, left + 1);
    }
    while let Some(Reverse((_, left, end))) = queue.pop() {
        if is_gone[left] {
            continue;
        }
        let right = next[left];
        if right == NONE || symbols[right].end != end {
            continue;
        }
        symbols[left].end = end;
        is_gone[right] = true;
        next[left] = next[right];
        if next[left] != NONE {
            previous[next[left]] = left;
            offer(&symbols, &mut queue, left, next[left]);
        }
        if previous[left] != NONE {
            offer(&symbols, &mut queue, previous[left], left);
        }
    }
    symbols.into_iter().zip(is_gone).filter(|(_, gone)| !gone).map(|(symbol, _)| symbol).collect()
}
