//! Entries with a box: what they did, what was measured, and which two speak of the same.

use std::collections::{BTreeSet, HashMap};

use crate::audit::document::{Block, Document, Shape};
use crate::audit::quantity::Quantity;
use crate::audit::unit::Kind;
use crate::audit::words;

/// An entry with a box.
pub(super) struct Task<'a> {
    pub block: &'a Block,
    pub ticked: bool,
    /// What was measured, and against what.
    pub result: Option<(Quantity, Quantity)>,
    parent: Option<u32>,
}

/// Every entry with a box.
pub(super) fn tasks(document: &Document) -> Vec<Task<'_>> {
    let with_box = document.blocks.iter().filter_map(|block| match block.shape {
        Shape::Item { ticked: Some(ticked), parent, .. } => Some((block, ticked, parent)),
        _ => None,
    });
    let task = |(block, ticked, parent)| Task { block, ticked, result: result(block), parent };
    with_box.map(task).collect()
}

/// Words of what a task did, without remarks in brackets.
pub(super) fn phrase(task: &Task) -> BTreeSet<String> {
    let text = match task.block.lead() {
        Some(lead) if !lead.contains(' ') => &task.block.text[lead.len() + 1..],
        _ => &task.block.text,
    };
    words::tokens(text.split(['(', '\n', ':']).next().unwrap_or_default())
}

/// A rate or a time, or a bare number with a suffix.
pub(super) fn measured(quantity: &Quantity) -> bool {
    match quantity.kind {
        Kind::Plain => quantity.scale != 1.0,
        Kind::Throughput | Kind::Time | Kind::Bandwidth | Kind::Compute => true,
        _ => false,
    }
}

/// `~410k vs ~395k`.
fn result(block: &Block) -> Option<(Quantity, Quantity)> {
    let mut measured = block.quantities.iter().filter(|q| measured(q));
    let mut first = measured.next()?;
    for second in measured {
        let between = &block.text[first.end as usize..second.start as usize];
        let usable = first.kind == second.kind && second.value > 0.0 && between.len() < 40;
        if usable && words::any(between, &["vs", "versus", "against", "from", "over", "than"]) {
            return Some((*first, *second));
        }
        first = second;
    }
    None
}

/// Words as numbers, so that a large document keeps each once.
#[derive(Default)]
struct Numbered {
    known: HashMap<String, u32>,
}

impl Numbered {
    /// The numbers of these words, in order.
    fn of(&mut self, words: BTreeSet<String>) -> Vec<u32> {
        let mut numbers: Vec<u32> = words
            .into_iter()
            .map(|word| {
                let next = self.known.len() as u32;
                *self.known.entry(word).or_insert(next)
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }
}

/// A word of more tasks than this tells none apart.
const COMMON: usize = 24;

/// Pairs of tasks of which one's phrase is the other's with more words, each naming what the other
/// stands under. In order, the earlier first.
pub(super) fn alike<'a, 'b>(
    document: &Document,
    tasks: &'b [Task<'a>],
) -> Vec<(&'b Task<'a>, &'b Task<'a>)> {
    let mut numbered = Numbered::default();
    let phrases: Vec<Vec<u32>> = tasks.iter().map(|task| numbered.of(phrase(task))).collect();
    let mut parents: HashMap<Option<u32>, Vec<u32>> = HashMap::new();
    for task in tasks {
        parents.entry(task.parent).or_insert_with(|| {
            let text = task.parent.map(|parent| document.blocks[parent as usize].text.as_str());
            numbered.of(words::tokens(&text.unwrap_or_default().replace('_', " ")))
        });
    }
    let mut by_word: Vec<Vec<u32>> = vec![Vec::new(); numbered.known.len()];
    for (index, words) in phrases.iter().enumerate() {
        words.iter().for_each(|word| by_word[*word as usize].push(index as u32));
    }
    let mut found = BTreeSet::new();
    for (index, small) in phrases.iter().enumerate().filter(|(_, phrase)| phrase.len() >= 3) {
        let lists = small.iter().map(|word| &by_word[*word as usize]);
        let Some(rarest) = lists.min_by_key(|list| list.len()) else { continue };
        for other in rarest.iter().map(|other| *other as usize).take(COMMON) {
            let (own, theirs) = (&parents[&tasks[index].parent], &parents[&tasks[other].parent]);
            let holds = |set: &Vec<u32>, word: &u32| set.binary_search(word).is_ok();
            let named = |parent: &Vec<u32>| small.iter().any(|word| holds(parent, word));
            let related = match (own.is_empty(), own == theirs) {
                (true, true) => *small == phrases[other],
                (false, true) => true,
                (_, false) => named(own) && named(theirs),
            };
            if related && other != index && small.iter().all(|word| holds(&phrases[other], word)) {
                found.insert((index.min(other), index.max(other)));
            }
        }
    }
    found.into_iter().map(|(first, second)| (&tasks[first], &tasks[second])).collect()
}
