//! A Markdown file as the rules see it: sections, blocks of text, tables, commands, comments.
//!
//! Text keeps the line breaks of its source, so a place in a block has a line without a map.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::quantity::{self, Quantity};
use super::reader::Reader;

/// A heading; the first section of a document has none.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub title: String,
    pub level: u32,
    pub line: u32,
    pub parent: Option<usize>,
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Heading,
    Paragraph,
    /// An entry of a list, with its box where it has one.
    Item {
        list: u32,
        parent: Option<u32>,
        ticked: Option<bool>,
    },
    /// A fenced or indented block: quoted output, of which only commands are read.
    Code,
}

/// Text of one heading, paragraph, entry or code block, without its markup.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub shape: Shape,
    pub section: usize,
    pub line: u32,
    pub text: String,
    /// Code spans of `text`.
    pub codes: Vec<Range<usize>>,
    /// Links of `text` and where they lead.
    pub links: Vec<(usize, String)>,
    /// Line breaks of `text`.
    pub breaks: Vec<u32>,
    /// Numbers of `text`; those inside of quotation marks are another's, and are left out.
    pub quantities: Vec<Quantity>,
}

/// Bytes to either side of a number beyond which nobody reads on: what stands there is no more its
/// sentence, and a paragraph of a megabyte takes no longer than its numbers.
const FAR: usize = 600;

impl Block {
    /// What stands behind a byte, as far as anybody reads.
    pub fn after(&self, at: u32) -> &str {
        let at = at as usize;
        &self.text[at..self.text.floor_char_boundary(at + FAR)]
    }

    /// What stands before a byte, as far as anybody reads.
    pub fn before(&self, at: u32) -> &str {
        let at = at as usize;
        &self.text[self.text.ceil_char_boundary(at.saturating_sub(FAR))..at]
    }

    /// Line of a byte of the text.
    pub fn line_at(&self, at: usize) -> u32 {
        self.line + self.breaks.partition_point(|break_at| (*break_at as usize) < at) as u32
    }

    /// The sentence around a byte: up to a stop or semicolon and a blank, or as far as anybody
    /// reads.
    pub fn sentence(&self, at: usize) -> &str {
        let bytes = self.text.as_bytes();
        let end = |index: &usize| {
            matches!(bytes[*index], b'.' | b';' | b'?' | b'!')
                && bytes.get(index + 1).is_none_or(u8::is_ascii_whitespace)
        };
        let at = at.min(bytes.len());
        let (least, most) = (at.saturating_sub(FAR), (at + FAR).min(bytes.len()));
        let from = (least..at).rev().find(end).map_or(least, |index| index + 1);
        let to = (at..most).find(end).unwrap_or(most);
        &self.text[self.text.ceil_char_boundary(from)..self.text.floor_char_boundary(to)]
    }

    /// The text up to its first colon, where that ends a lead of a few words.
    pub fn lead(&self) -> Option<&str> {
        let (lead, _) = self.text.split_once(':')?;
        (lead.len() <= 80 && !lead.contains('\n')).then_some(lead.trim())
    }
}

/// A table with plain cells.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub section: usize,
    pub header: Vec<String>,
    pub rows: Vec<(u32, Vec<String>)>,
}

/// An HTML comment.
#[derive(Debug, Clone)]
pub(crate) struct Comment {
    /// Its bytes in the source.
    pub span: Range<usize>,
    /// It stands beside text, and not alone in its lines.
    pub inline: bool,
}

/// A document that was read.
#[derive(Debug)]
pub(crate) struct Document {
    /// As it was given.
    pub name: String,
    /// Where its relative paths begin.
    pub folder: PathBuf,
    pub source: String,
    pub sections: Vec<Section>,
    pub blocks: Vec<Block>,
    pub tables: Vec<Table>,
    pub comments: Vec<Comment>,
}

impl Document {
    /// Reads Markdown.
    pub fn parse(name: &str, source: String) -> Document {
        let folder = Path::new(name).parent().unwrap_or(Path::new("")).to_path_buf();
        let Reader { sections, mut blocks, tables, comments, .. } = Reader::read(&source);
        for block in &mut blocks {
            let breaks = block.text.match_indices('\n').map(|(at, _)| at as u32);
            block.breaks = breaks.collect();
            if block.shape != Shape::Code {
                block.quantities = quantity::scan(&block.text);
                let quoted = quotations(&block.text);
                let own =
                    |q: &Quantity| !quoted.iter().any(|span| span.contains(&(q.start as usize)));
                block.quantities.retain(own);
            }
        }
        Document { name: name.to_owned(), folder, source, sections, blocks, tables, comments }
    }

    /// A section with those that it lies in, innermost first.
    pub fn chain(&self, section: usize) -> impl Iterator<Item = &Section> {
        let mut next = Some(section);
        std::iter::from_fn(move || {
            let section = &self.sections[next?];
            next = section.parent;
            Some(section)
        })
    }

    /// Titles of the chain, joined.
    pub fn titles(&self, section: usize) -> String {
        self.chain(section).map(|section| section.title.as_str()).collect::<Vec<_>>().join(" / ")
    }

    /// Blocks that are no code.
    pub fn prose(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.shape != Shape::Code)
    }
}

/// Spans between straight or curly quotation marks in one line, of three words or more.
fn quotations(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let mut open = None;
        for (at, mark) in line.char_indices().filter(|(_, c)| matches!(c, '"' | '“' | '”')) {
            match open.take() {
                None => open = Some(at),
                Some(from) if line[from..at].split_whitespace().count() >= 3 => {
                    found.push(start + from..start + at + mark.len_utf8());
                }
                Some(_) => {}
            }
        }
        start += line.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expect: &[(u32, &str)]) {
        let document = Document::parse("a.md", source.to_owned());
        let found: Vec<_> = document.blocks.iter().map(|b| (b.line, b.text.as_str())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn blocks_have_their_lines() {
        check("# A\n\ntext\nmore `x`\n", &[(1, "A"), (3, "text\nmore x")]);
        check("- a\n  - b\n- [x] c\n", &[(1, "a"), (2, "b"), (3, "c")]);
        check("- a\n\n  second\n- c\n", &[(1, "a"), (3, "second"), (4, "c")]);
        check("```sh\nls\n```\n", &[(2, "ls\n")]);
    }

    #[test]
    fn tables_have_rows_with_lines() {
        let source = "## T\n\n| a | b (ms) |\n|---|---:|\n| 1 | `2` |\n| 3 | 4 |\n";
        let document = Document::parse("a.md", source.to_owned());
        let table = &document.tables[0];
        assert_eq!(table.header.join(","), "a,b (ms)");
        assert_eq!(table.rows[1], (6, vec!["3".to_owned(), "4".to_owned()]));
        assert_eq!(document.titles(table.section), "T / ");
    }

    #[test]
    fn ticks_and_comments_are_seen() {
        let source = "- [x] done\n- [ ] open\n\n7 GB <!-- a -->\n\n<!-- b\nc -->\n";
        let document = Document::parse("a.md", source.to_owned());
        let ticks: Vec<_> = document
            .blocks
            .iter()
            .filter_map(|block| match block.shape {
                Shape::Item { ticked, .. } => ticked,
                _ => None,
            })
            .collect();
        assert_eq!(ticks, [true, false]);
        let comments: Vec<_> = document
            .comments
            .iter()
            .map(|comment| (source[comment.span.clone()].trim(), comment.inline))
            .collect();
        assert_eq!(comments, [("<!-- a -->", true), ("<!-- b\nc -->", false)]);
    }

    #[test]
    fn a_quotation_is_anothers_number() {
        let document =
            Document::parse("a.md", "They print \"up to 9 TB/s of it\", we 4 GB.".into());
        let units: Vec<_> = document.blocks[0].quantities.iter().map(|q| q.unit).collect();
        assert_eq!(units, ["GB"]);
    }
}
